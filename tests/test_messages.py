"""From bytes to ``on_message``: order, limits, swapped protocols, pauses, and what raises on the way."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind, Timeouts
from tests.serving import (
    DRAIN_S,
    Client,
    Recorder,
    connected,
    frame,
    recording,
    serving,
    soon,
    stats_of,
    turns,
    until,
)

if TYPE_CHECKING:
    from gevpy import CloseReason, Connection, RingBuffer


class Letters(gevpy.Protocol):
    """One byte is one message; ``ctx`` counts them in the protocol's own memory of the connection."""

    def unpacket(self, conn: Connection, buffer: RingBuffer) -> tuple[Any, Any] | None:
        conn.protocol_state = (conn.protocol_state or 0) + 1
        return conn.protocol_state, buffer.read(1)

    def packet(self, conn: Connection, data: Any) -> bytes:
        return b"<" + bytes(data) + b">"


class Never(gevpy.Protocol):
    """Never has a whole frame."""

    def unpacket(self, conn: Connection, buffer: RingBuffer) -> tuple[Any, Any] | None:
        return None

    def packet(self, conn: Connection, data: Any) -> bytes:
        return bytes(data)


def _echo(conn: Connection, ctx: Any, data: bytes) -> bytes:
    return data


# -- frames --------------------------------------------------------------------------------------------


async def test_all_frames_of_one_read_are_handled_back_to_back() -> None:
    """No other turn of the loop comes between the messages of one read."""
    turn = 0
    seen: list[int] = []

    def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        seen.append(turn)
        if len(seen) == 1:
            asyncio.get_running_loop().call_soon(tick)
        if data == b"e":
            handler.messages.put_nowait(data)

    def tick() -> None:
        nonlocal turn
        turn += 1

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=Letters()) as (_, client):
        await client.send(b"abcde")
        await handler.message()
        assert seen == [0] * 5


async def test_empty_frames_are_messages() -> None:
    """``(None, b"")`` is a message like any other, and its empty reply a frame."""
    handler = recording(on_message=_echo)
    async with connected(handler, protocol=gevpy.LengthPrefixedProtocol()) as (_, client):
        await client.send(frame(b"") + frame(b"x") + frame(b""))
        assert await client.read(13) == frame(b"") + frame(b"x") + frame(b"")


async def test_ctx_is_what_the_protocol_said() -> None:
    """``ctx`` reaches on_message as unpacket gave it, per-connection state lives in protocol_state."""

    def on_message(conn: Connection, ctx: int, data: bytes) -> bytes:
        return b"%d%s" % (ctx, data)

    async with serving(recording(on_message=on_message), protocol=Letters()) as server:
        for _ in range(2):  # the second connection counts from one again
            async with await Client.connect(server.addresses[0]) as client:
                await client.send(b"ab")
                assert await client.read(8) == b"<1a><2b>"


@pytest.mark.parametrize(
    "protocol",
    [
        gevpy.RawProtocol(),
        gevpy.FixedLengthProtocol(8),
        gevpy.LineProtocol(),
        gevpy.DelimiterProtocol(b"\n"),
        gevpy.LengthPrefixedProtocol(),
    ],
    ids=lambda protocol: type(protocol).__name__,
)
async def test_data_of_ready_made_protocols_may_be_kept(protocol: gevpy.Protocol) -> None:
    """``data`` is bytes, and later input doesn't change it."""
    handler = Recorder()
    async with connected(handler, protocol=protocol) as (_, client):
        first, second = b"aaaaaaa\n", b"bbbbbbb\n"
        if isinstance(protocol, gevpy.LengthPrefixedProtocol):
            first, second = frame(first), frame(second)
        await client.send(first)
        kept = await handler.message()
        await client.send(second)
        await handler.message()
        assert type(kept) is bytes
        assert kept.startswith(b"aaaaaaa")


def _holds(conn: Connection, size: int) -> bool:
    return conn.read_buffer_length == size


async def test_a_message_split_over_many_reads_is_one() -> None:
    """A frame that comes byte by byte is one message, and nothing is buffered afterwards."""
    handler = Recorder()
    async with connected(handler, protocol=gevpy.LengthPrefixedProtocol()) as (_, client):
        conn = await handler.conn()
        for index, byte in enumerate(frame(b"slowly")):
            assert conn.read_buffer_length == index
            await client.send(bytes([byte]))
            await until(partial(_holds, conn, (index + 1) % 10))
        assert await handler.message() == b"slowly"


async def test_a_megabyte_is_one_message() -> None:
    """A frame of the largest size allowed comes whole, one byte more is refused."""
    handler = recording(on_message=_echo)
    size = 1024 * 1024
    async with serving(handler, protocol=gevpy.LengthPrefixedProtocol(max_frame_bytes=size)) as server:
        async with await Client.connect(server.addresses[0]) as client:
            message = bytes(range(256)) * (size // 256)
            await client.send(frame(message))
            assert await client.read(size + 4) == frame(message)
        await handler.reason()
        async with await Client.connect(server.addresses[0]) as client:
            await client.send(frame(bytes(size + 1))[:4])
            assert (await handler.reason()).kind is CloseKind.FRAME_TOO_LARGE


async def test_max_frame_bytes_bounds_what_stays_buffered() -> None:
    """65536 bytes without a frame may wait, one more is FrameTooLarge."""
    handler = Recorder()
    async with connected(handler, protocol=Never()) as (_, client):
        conn = await handler.conn()
        await client.send(bytes(65536))
        await until(lambda: conn.read_buffer_length == 65536)
        await turns(5)
        assert conn.connected
        await client.send(b"x")
        reason = await handler.reason()
        assert reason.kind is CloseKind.FRAME_TOO_LARGE
        assert isinstance(reason.error, gevpy.FrameTooLarge)
        assert (reason.error.limit, reason.error.actual) == (65536, 65537)


async def test_a_frame_must_be_whole_in_time() -> None:
    """``frame_s`` counts from the frame's first byte, however steadily bytes come."""
    handler = Recorder()
    timeouts = Timeouts(frame_s=0.2, drain_s=DRAIN_S)
    async with connected(handler, protocol=gevpy.LengthPrefixedProtocol(), timeouts=timeouts) as (_, client):
        loop = asyncio.get_running_loop()
        conn = await handler.conn()
        await client.send(frame(bytes(60_000))[:5])
        begun = loop.time()
        timer = conn.worker.run_every(0.02, lambda: client.sock.send(b"x"))
        reason = await handler.reason()
        timer.stop()
        assert loop.time() - begun >= 0.2
        assert reason.kind is CloseKind.FRAME_TIMEOUT
        assert isinstance(reason.error, gevpy.FrameTimeout)


async def test_whole_frames_do_not_share_a_deadline() -> None:
    """A stream that always ends in half a frame is no frame that never ends."""
    handler = Recorder()
    timeouts = Timeouts(frame_s=0.2, drain_s=DRAIN_S)
    async with connected(handler, protocol=gevpy.LengthPrefixedProtocol(), timeouts=timeouts) as (_, client):
        conn = await handler.conn()
        stream = frame(b"0123456789")
        await client.send(stream[:7])
        timer = conn.worker.run_every(0.05, lambda: client.sock.send(stream[7:] + stream[:7]))
        for _ in range(14):
            await handler.message()
        timer.stop()
        assert conn.connected


# -- swapping the protocol -----------------------------------------------------------------------------


class Upgrading(gevpy.LineProtocol):
    """Lines, up to one that says so: then length-prefixed frames. Swaps inside unpacket."""

    def unpacket(self, conn: Connection, buffer: RingBuffer) -> tuple[Any, Any] | None:
        message = super().unpacket(conn, buffer)
        if message is not None and message[1] == b"upgrade":
            conn.protocol = gevpy.LengthPrefixedProtocol(max_frame_bytes=1024 * 1024)
            return None
        return message


async def test_a_protocol_is_swapped_inside_on_message() -> None:
    """The new one is used for the bytes still buffered, and protocol_state begins anew."""
    states: list[Any] = []

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        if data == b"!":
            conn.protocol = gevpy.LengthPrefixedProtocol()
            states.append(conn.protocol_state)
        return data

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=Letters()) as (_, client):
        await client.send(b"a!" + frame(b"binary"))
        expected = b"<a>" + frame(b"!") + frame(b"binary")
        assert await client.read(len(expected)) == expected
        assert states == [None]


async def test_a_protocol_is_swapped_inside_unpacket() -> None:
    """Also when unpacket then says None: the new one gets what is left of this read."""
    handler = Recorder()
    async with connected(handler, protocol=Upgrading()) as (_, client):
        await client.send(b"hello\r\nupgrade\r\n" + frame(b"one") + frame(b"two")[:5])
        assert await handler.message() == b"hello"
        assert await handler.message() == b"one"
        await client.send(frame(b"two")[5:])
        assert await handler.message() == b"two"


async def test_what_is_left_after_a_swap_is_measured_by_the_new_protocol() -> None:
    """A big frame behind the upgrade is not too large because it would have been for the old protocol."""
    handler = Recorder()
    async with connected(handler, protocol=Upgrading()) as (_, client):
        conn = await handler.conn()
        conn.pause_reading()
        await client.send(b"upgrade\n" + frame(bytes(100_000)))
        conn.resume_reading()
        assert await handler.message() == bytes(100_000)


async def test_a_swap_outside_a_read_takes_effect_on_the_bytes_still_buffered() -> None:
    """An assignment while half a frame waits: the next unpacket is the new protocol's, from the first byte left."""
    handler = Recorder()
    async with connected(handler, protocol=Never()) as (_, client):
        conn = await handler.conn()
        conn.protocol_state = "old"
        await client.send(b"wait")
        await until(lambda: conn.read_buffer_length == 4)
        conn.protocol = gevpy.RawProtocol()
        assert conn.protocol_state is None
        await client.send(b"ed")
        assert await handler.message() == b"waited"


async def test_only_a_protocol_can_be_assigned() -> None:
    """Anything else is refused and changes nothing."""
    handler = Recorder()
    async with connected(handler):
        conn = await handler.conn()
        before = conn.protocol
        with pytest.raises(gevpy.ConfigError, match="protocol"):
            conn.protocol = "lines"  # type: ignore[assignment]
        assert conn.protocol is before


# -- pausing -------------------------------------------------------------------------------------------


async def test_pause_reading_inside_on_message_holds_the_frames_behind() -> None:
    """No further on_message comes until resume_reading, then all that had come is handled."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        handler.messages.put_nowait(data)
        if data == b"b":
            conn.pause_reading()

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=Letters()) as (_, client):
        conn = await handler.conn()
        await client.send(b"abcd")
        await handler.message()
        assert await handler.message() == b"b"
        await client.send(b"e")
        await turns(20)
        assert handler.messages.empty()
        assert conn.read_buffer_length >= 2
        conn.resume_reading()
        conn.resume_reading()
        assert [await handler.message() for _ in range(3)] == [b"c", b"d", b"e"]


async def test_pause_and_resume_inside_one_call_change_nothing() -> None:
    """Reading goes on as if nothing had been."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        conn.pause_reading()
        conn.resume_reading()
        handler.messages.put_nowait(data)

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=gevpy.LengthPrefixedProtocol()) as (_, client):
        stream = frame(b"one") + frame(b"two") + frame(b"three")
        await client.send(stream[:9])
        assert await handler.message() == b"one"
        await client.send(stream[9:])
        assert await handler.message() == b"two"
        assert await handler.message() == b"three"


async def test_pausing_outside_on_message_leaves_input_to_the_kernel() -> None:
    """A paused connection takes nothing: its peer is held back by the window."""
    handler = Recorder()
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        conn.pause_reading()
        assert await client.flood(64 * 1024 * 1024) < 64 * 1024 * 1024
        assert conn.read_buffer_length == 0
        assert handler.messages.empty()
        conn.resume_reading()
        assert await handler.message()


async def test_reading_stays_paused_for_every_cause_that_is_left() -> None:
    """resume_reading doesn't undo the pause that a close has made."""
    handler = Recorder()
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        conn.pause_reading()
        await client.send(b"x")
        await turns(5)
        conn.close()
        conn.resume_reading()
        await handler.reason()
        assert handler.messages.empty()


async def test_one_connections_flood_does_not_starve_another() -> None:
    """A read of very many frames yields to other connections on the way."""
    order: list[bytes] = []

    def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        if data != b".":
            order.append(data)
            handler.messages.put_nowait(data)

    handler = recording(on_message=on_message)
    async with (
        serving(handler, protocol=Letters()) as server,
        await Client.connect(server.addresses[0]) as flooder,
        await Client.connect(server.addresses[0]) as other,
    ):
        await handler.conn()
        await handler.conn()
        flooder.sock.send(b"." * 60_000 + b"F")  # no turn of the loop in between
        other.sock.send(b"O")
        await handler.message()
        await handler.message()
        assert order == [b"O", b"F"]


async def test_read_buffer_length_is_live() -> None:
    """Inside on_message it counts exactly the bytes behind this message."""
    seen: list[int] = []

    def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        seen.append(conn.read_buffer_length)
        handler.messages.put_nowait(data)

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=gevpy.LengthPrefixedProtocol()) as (_, client):
        conn = await handler.conn()
        await client.send(frame(b"a" * 100) + frame(b"b" * 10) + b"\0\0\0")
        await handler.message()
        await handler.message()
        assert seen == [17, 3]
        await until(lambda: conn.read_buffer_length == 3)


# -- exceptions ----------------------------------------------------------------------------------------


class Faulty(gevpy.Protocol):
    """Fails where the message says so."""

    def unpacket(self, conn: Connection, buffer: RingBuffer) -> tuple[Any, Any] | None:
        data = buffer.peek_all()
        if data == b"stuck":
            return None, data
        buffer.clear()
        if data == b"peer":
            msg = "bad frame"
            raise gevpy.ProtocolError(msg, offset=1)
        if data == b"codec":
            raise ZeroDivisionError
        if data == b"shape":
            return "no pair"  # type: ignore[return-value]
        return None, data

    def packet(self, conn: Connection, data: Any) -> bytes:
        if data == b"unpackable":
            msg = "cannot pack this"
            raise LookupError(msg)
        return bytes(data)


def _raise_on_demand(conn: Connection, ctx: Any, data: bytes) -> bytes:
    if data == b"handler":
        raise ZeroDivisionError
    if data == b"cancelled":
        raise asyncio.CancelledError
    return data


@pytest.mark.parametrize(
    ("data", "kind", "error"),
    [
        (b"peer", CloseKind.PROTOCOL_ERROR, gevpy.ProtocolError),
        (b"codec", CloseKind.PROTOCOL_ERROR, ZeroDivisionError),
        (b"stuck", CloseKind.PROTOCOL_ERROR, gevpy.CodecError),
        (b"shape", CloseKind.PROTOCOL_ERROR, TypeError),
        (b"handler", CloseKind.HANDLER_ERROR, ZeroDivisionError),
        (b"cancelled", CloseKind.HANDLER_ERROR, asyncio.CancelledError),
        (b"unpackable", CloseKind.HANDLER_ERROR, LookupError),
    ],
)
async def test_an_exception_ends_that_one_connection(
    data: bytes, kind: CloseKind, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """A reason, a log record and a counter; the other connection goes on, and on_close comes once."""
    caplog.set_level(logging.WARNING, "gevpy")
    handler = recording(on_message=_raise_on_demand)
    async with (
        serving(handler, protocol=Faulty()) as server,
        await Client.connect(server.addresses[0]) as bad,
        await Client.connect(server.addresses[0]) as good,
    ):
        conn = await handler.conn()
        await bad.send(data)
        reason = await handler.reason()
        assert reason.kind is kind
        assert isinstance(reason.error, error)
        assert conn.close_reason == reason
        assert await bad.read_to_end() == b""
        await good.send(b"fine")
        assert await good.read(4) == b"fine"
        assert stats_of(conn).closed == {kind: 1}
    assert handler.calls.count("close") == 2
    (record,) = [record for record in caplog.records if record.name == "gevpy.connection"]
    ours = not isinstance(reason.error, gevpy.ProtocolError) or isinstance(reason.error, gevpy.CodecError)
    assert bool(record.exc_info) == ours
    assert stats_of(conn).handler_errors == int(ours)


async def test_replies_made_before_an_exception_leave_and_none_after() -> None:
    """The exception ends the handling there; what was produced before it is sent."""
    handler = recording(on_message=_raise_on_demand)
    async with connected(handler, protocol=gevpy.LengthPrefixedProtocol()) as (_, client):
        await client.send(frame(b"one") + frame(b"handler") + frame(b"two"))
        assert await client.read_to_end() == frame(b"one")


async def test_what_one_connection_produced_never_reaches_another() -> None:
    """Not even if its handler failed with an exception that is no Exception."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        if data == b"cancelled":
            conn.send(b"secret")
            raise asyncio.CancelledError
        return data

    handler = recording(on_message=on_message)
    async with (
        serving(handler) as server,
        await Client.connect(server.addresses[0]) as bad,
        await Client.connect(server.addresses[0]) as good,
    ):
        await handler.conn()
        await handler.conn()
        bad.sock.send(b"cancelled")  # both in one turn of the loop
        good.sock.send(b"fine")
        await handler.reason()
        good.shut()
        assert await good.read_to_end() == b"fine"


@pytest.mark.parametrize("hook", ["on_connect", "on_close", "on_drain", "on_writable"])
@pytest.mark.parametrize("hook_is_async", [False, True])
async def test_an_exception_in_any_other_hook_ends_that_one_connection(
    hook: str, *, hook_is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a hook raises is logged with its traceback, and nothing else is touched."""
    raised = asyncio.Event()

    def fail(conn: Connection, *_: Any) -> None:
        raised.set()
        raise ZeroDivisionError

    async def fail_async(conn: Connection, *_: Any) -> None:
        fail(conn)

    def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        handler.opened.put_nowait(conn)

    handler = recording(on_message=on_message, **{hook: fail_async if hook_is_async else fail})
    async with serving(handler) as server:
        async with await Client.connect(server.addresses[0]) as client:
            if hook == "on_writable":
                (await handler.conn()).send(bytes(8_000_000))
                await client.read(8_000_000)
            if hook == "on_close":
                client.close()
            if hook == "on_drain":
                await handler.conn()
                await soon(server.stop())
            await soon(raised.wait())
            if hook != "on_close":
                assert (await handler.reason()).kind is CloseKind.HANDLER_ERROR
        await until(lambda: server.connections == 0)
        if hook not in ("on_drain", "on_connect"):
            async with await Client.connect(server.addresses[0]) as client:
                await client.send(b"still serving")
                conn = await handler.conn()
                assert stats_of(conn).handler_errors == 1
    messages = [record.getMessage() for record in caplog.records if record.name == "gevpy.connection"]
    assert any(f"error in {hook}" in message for message in messages)


async def test_a_handler_that_learns_of_the_end_from_send_is_no_error() -> None:
    """ConnectionClosed that leaves a handler says nothing new: no error is counted."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        conn.close()
        conn.send(b"too late")

    handler = recording(on_message=on_message)
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        await client.send(b"x")
        assert (await handler.reason()).kind is CloseKind.CLOSED_LOCALLY
        assert stats_of(conn).handler_errors == 0


async def test_a_bad_peer_cannot_forge_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Text that comes from a peer is escaped before it is logged."""

    class Quoting(gevpy.RawProtocol):
        """Quotes the peer in its error."""

        def unpacket(self, conn: Connection, buffer: RingBuffer) -> tuple[Any, Any] | None:
            raise gevpy.ProtocolError(buffer.read(len(buffer)).decode())

    handler = Recorder()
    async with connected(handler, protocol=Quoting()) as (_, client):
        await client.send(b"x\nERROR forged")
        await handler.reason()
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert any("forged" in record.getMessage() for record in caplog.records)


async def test_handler_and_protocol_need_no_init_of_ours() -> None:
    """Classes that never call ``super().__init__()`` serve."""

    class Plain:
        """Not even a subclass of Handler."""

        def __init__(self) -> None:
            self.last: CloseReason | None = None

        def on_message(self, conn: Connection, ctx: Any, data: bytes) -> bytes:
            return data

    class Own(gevpy.Protocol):
        """A protocol with an __init__ of its own."""

        def __init__(self) -> None:
            self.count = 0

        def unpacket(self, conn: Connection, buffer: RingBuffer) -> tuple[Any, Any] | None:
            self.count += 1
            return None, buffer.read(len(buffer))

        def packet(self, conn: Connection, data: Any) -> bytes:
            return bytes(data)

    async with connected(Plain(), protocol=Own()) as (_, client):  # type: ignore[arg-type]
        await client.send(b"x")
        assert await client.read(1) == b"x"
