"""Sending: program order, one write, callbacks, limits, watermarks, and what is done about slow readers."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind, Limits, Timeouts, Watermarks
from gevpy.testing import EmbeddedConnection
from tests.serving import (
    DRAIN_S,
    MORE_THAN_THE_KERNEL_TAKES,
    Client,
    Recorder,
    connected,
    drops,
    frame,
    recording,
    serving,
    soon,
    stalled,
    stats_of,
    turns,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy import Connection

FILL = bytes(MORE_THAN_THE_KERNEL_TAKES)
linux = pytest.mark.skipif(sys.platform != "linux", reason="writes are counted through Linux's TCP_INFO")


class Written:
    """Collects what ``on_written`` is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, BaseException | None]] = []

    def __call__(self, data: Any, error: BaseException | None) -> None:
        self.told.append((data, error))


# -- order and writes ----------------------------------------------------------------------------------


async def test_a_send_precedes_the_reply_that_is_then_returned() -> None:
    """Program order: sends of on_message first, then its reply, frame after frame."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        conn.send(b"1" + data)
        conn.send(b"2" + data, on_written=lambda *_: None)
        conn.send(b"3" + data)
        return b"4" + data

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=gevpy.LineProtocol()) as (_, client):
        await client.send(b"a\nb\n")
        assert await client.read(24) == b"1a\n2a\n3a\n4a\n1b\n2b\n3b\n4b\n"


async def test_what_was_sent_before_a_read_precedes_its_replies() -> None:
    """Sends of on_connect, and sends that still wait when a read comes, go first."""

    def on_connect(conn: Connection) -> None:
        conn.send(b"hello")

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        return b"reply"

    handler = recording(on_connect=on_connect, on_message=on_message)
    async with connected(handler) as (_, client):
        await client.send(b"x")
        assert await client.read(10) == b"helloreply"


async def test_order_is_kept_around_a_stalled_peer() -> None:
    """What waits, what is sent while it waits, and replies: the peer sees program order."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        conn.send(b"[sent]")
        handler.messages.put_nowait(data)
        return b"[reply]"

    handler = recording(on_message=on_message)
    marks = Watermarks(high_bytes=1024 * 1024)  # reading goes on
    async with stalled(handler, watermarks=marks) as (_, client, conn):
        conn.send(FILL)
        conn.send(b"[queued]")
        await turns(3)
        await client.send(b"x")
        await handler.message()
        conn.send(b"[last]")
        conn.close()
        assert (await client.read_to_end())[len(FILL) :] == b"[queued][sent][reply][last]"


@linux
async def test_all_replies_of_one_read_leave_in_one_write() -> None:
    """Twenty frames in, replies and sends of all of them out: one write."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        conn.send(b"sent")
        return data

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=gevpy.LengthPrefixedProtocol()) as (_, client):
        await client.send(frame(b"message") * 20)
        expected = (frame(b"sent") + frame(b"message")) * 20
        assert await client.read(len(expected)) == expected
        assert client.writes_received() == 1


@linux
async def test_sends_outside_a_read_leave_in_one_write_per_turn() -> None:
    """What one turn of the loop sends is gathered; the next turn's is another write."""
    handler = Recorder()
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        for _ in range(20):
            conn.send(b"x")
        assert conn.write_buffer_length == 20
        await client.read(20)
        assert client.writes_received() == 1
        conn.send(b"y")
        await client.read(1)
        assert client.writes_received() == 2


@linux
async def test_a_broadcast_from_a_handler_is_gathered_too() -> None:
    """Two broadcasts inside one on_message: one write to each of the others."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        conn.worker.broadcast(b"one")
        conn.worker.broadcast(b"two")

    handler = recording(on_message=on_message)
    async with (
        serving(handler) as server,
        await Client.connect(server.addresses[0]) as talker,
        await Client.connect(server.addresses[0]) as listener,
    ):
        await handler.conn()
        await handler.conn()
        await talker.send(b"x")
        assert await listener.read(6) == b"onetwo"
        assert await talker.read(6) == b"onetwo"
        assert listener.writes_received() == talker.writes_received() == 1


async def test_data_is_taken_at_once() -> None:
    """A buffer that is changed after send was sent as it was."""
    handler = Recorder()
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        buffer = bytearray(b"before")
        conn.send(buffer)
        conn.send(memoryview(buffer))
        buffer[:] = b"after!"
        assert await client.read(12) == b"beforebefore"


# -- what raises ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "protocol",
    [gevpy.RawProtocol(), gevpy.LineProtocol(), gevpy.LengthPrefixedProtocol(), gevpy.FixedLengthProtocol(3)],
    ids=lambda protocol: type(protocol).__name__,
)
async def test_packet_raising_inside_send_reaches_the_caller(protocol: gevpy.Protocol) -> None:
    """The connection lives, the stream isn't harmed, and nothing was counted as sent."""
    caught: list[str] = []

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        conn.send(b"abc")
        for on_written in (None, lambda *_: None):
            try:
                conn.send(12, on_written=on_written)
            except TypeError as error:
                caught.append(str(error))
        return b"def"

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=protocol) as (_, client):
        conn = await handler.conn()
        with pytest.raises(TypeError):
            conn.send("text")
        assert conn.write_buffer_length == 0
        request = protocol.packet(conn, b"req")
        await client.send(bytes(request))
        expected = bytes(protocol.packet(conn, b"abc")) + bytes(protocol.packet(conn, b"def"))
        assert await client.read(len(expected)) == expected
        assert len(caught) == 2
        assert conn.connected
        assert stats_of(conn).sent_messages == 2


# -- on_written ----------------------------------------------------------------------------------------


async def test_on_written_comes_once_with_none_when_all_has_left() -> None:
    """Never inside send; with the data as it was given; in the order of the sends."""
    handler = Recorder()
    async with connected(handler, protocol=gevpy.LineProtocol()) as (_, client):
        conn = await handler.conn()
        written = Written()
        for data in (b"a", b"b", b"c"):
            conn.send(data, on_written=written)
        assert written.told == []
        await client.read(6)
        await until(lambda: len(written.told) == 3)
        await turns(5)
        assert written.told == [(b"a", None), (b"b", None), (b"c", None)]


async def test_on_written_waits_for_the_transport() -> None:
    """As long as unsent bytes include the message it is not called."""
    handler = Recorder()
    async with stalled(handler) as (_, client, conn):
        written = Written()
        conn.send(FILL, on_written=written)
        conn.send(b"small", on_written=written)
        await turns(50)
        assert written.told == []
        await client.read(len(FILL) + 5)
        await until(lambda: len(written.told) == 2)
        assert [error for _, error in written.told] == [None, None]


@pytest.mark.parametrize("ending", ["abort", "reset", "close"])
async def test_on_written_comes_with_connection_closed_for_what_was_lost(ending: str) -> None:
    """Exactly once for each accepted send, however the connection ends."""
    handler = Recorder()
    timeouts = Timeouts(close_s=0.1, drain_s=DRAIN_S)
    async with stalled(handler, timeouts=timeouts) as (_, client, conn):
        written = Written()
        for data in (FILL, b"one", b"two"):
            conn.send(data, on_written=written)
        await turns(3)
        if ending == "abort":
            conn.abort()
        elif ending == "close":
            conn.close()
        else:
            client.reset()
        await handler.reason()
        await until(lambda: len(written.told) == 3)
        await turns(5)
        assert [data for data, _ in written.told] == [FILL, b"one", b"two"]
        assert all(isinstance(error, gevpy.ConnectionClosed) for _, error in written.told)


async def test_on_written_of_a_drained_close_is_none() -> None:
    """A message that close() flushed has been sent."""
    handler = Recorder()
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        written = Written()
        conn.send(b"bye", on_written=written)
        conn.close()
        assert await client.read_to_end() == b"bye"
        await handler.reason()
        await until(lambda: written.told)
        assert written.told == [(b"bye", None)]


async def test_on_written_that_raises_ends_that_connection() -> None:
    """It is the application's code like any hook."""
    handler = Recorder()

    def fail(data: Any, error: BaseException | None) -> None:
        raise ZeroDivisionError

    async with connected(handler) as (_, client):
        conn = await handler.conn()
        conn.send(b"x", on_written=fail)
        assert (await handler.reason()).kind is CloseKind.HANDLER_ERROR
        assert await client.read_to_end() == b"x"


async def test_on_written_may_send_on() -> None:
    """A chain of sends, each begun by the one before."""
    handler = Recorder()

    def more(data: bytes, error: BaseException | None) -> None:
        if data != b"0":
            conn.send(b"%d" % (int(data) - 1), on_written=more)

    async with connected(handler) as (_, client):
        conn = await handler.conn()
        conn.send(b"5", on_written=more)
        assert await client.read(6) == b"543210"


# -- limits --------------------------------------------------------------------------------------------


async def test_one_large_message_on_an_empty_queue_is_always_taken() -> None:
    """However small the limit: nothing waits yet, so it is accepted, and arrives."""
    handler = Recorder()
    async with stalled(handler, limits=Limits(max_write_buffer_bytes=1)) as (_, client, conn):
        conn.send(FILL)
        assert conn.connected
        assert len(await client.read(len(FILL))) == len(FILL)
        await until(lambda: conn.write_buffer_length == 0)
        conn.send(FILL)
        assert len(await client.read(len(FILL))) == len(FILL)


async def test_the_limit_counts_only_what_a_write_leaves() -> None:
    """Sends of one turn far beyond the limit are taken if the socket takes them on the way."""
    handler = Recorder()
    async with connected(handler, limits=Limits(max_write_buffer_bytes=1000)) as (_, client):
        conn = await handler.conn()
        for _ in range(100):
            conn.send(bytes(100))
        assert conn.connected
        assert len(await client.read(10_000)) == 10_000


@pytest.mark.parametrize("inside", ["turn", "read"])
async def test_policy_close_acts_inside_send(inside: str) -> None:
    """The send raises, connected is False at once, output is discarded, on_close comes in the next turn."""
    seen: list[Any] = []

    def overflow(conn: Connection, *_: Any) -> None:
        conn.send(FILL)
        with pytest.raises(gevpy.ConnectionClosed) as caught:
            conn.send(b"too much")
        seen.extend([conn.connected, conn.write_buffer_length, list(handler.calls), caught.value.reason])
        with pytest.raises(gevpy.ConnectionClosed):
            conn.send(b"more")

    handler = recording(on_message=overflow)
    async with stalled(handler, limits=Limits(max_write_buffer_bytes=1000)) as (_, client, conn):
        if inside == "turn":
            overflow(conn)
        else:
            await client.send(b"x")
        reason = await handler.reason()
        assert reason.kind is CloseKind.SLOW_CONSUMER
        assert isinstance(reason.error, gevpy.WriteBufferFull)
        assert reason.error.limit == 1000
        assert reason.error.actual is not None
        assert reason.error.actual > 1000
        assert seen == [False, 0, ["connect"], reason]
        assert len(await client.read_to_end()) < len(FILL)


async def test_policy_drop_newest_drops_the_message_and_counts_it() -> None:
    """send returns None, what waited stays, the sender is told, the connection lives."""
    handler = Recorder()
    limits = Limits(max_write_buffer_bytes=1000, slow_consumer="drop_newest")
    async with stalled(handler, limits=limits) as (_, client, conn):
        written = Written()
        conn.send(FILL)
        conn.send(b"dropped", on_written=written)
        conn.send(b"dropped too")
        assert conn.connected
        await until(lambda: written.told)
        assert isinstance(written.told[0][1], gevpy.GevError)
        assert drops(conn) == {"drop_newest": 2}
        assert len(await client.read(len(FILL))) == len(FILL)
        await until(lambda: conn.write_buffer_length == 0)
        conn.send(b"again")
        assert await client.read(5) == b"again"
        assert len(written.told) == 1


async def test_policy_drop_oldest_drops_whole_messages_from_the_front() -> None:
    """What the transport has is not torn; of what waits the oldest goes, each sender is told once."""
    handler = Recorder()
    limits = Limits(max_write_buffer_bytes=1_000_000, slow_consumer="drop_oldest")
    async with stalled(handler, limits=limits) as (_, client, conn):
        written = Written()
        conn.send(FILL)
        await turns(2)
        for index in range(20):
            conn.send(b"%02d" % index * 50_000, on_written=written)
        lost = drops(conn)["drop_oldest"]
        assert 5 <= lost <= 18
        received = await client.read(len(FILL) + (20 - lost) * 100_000)
        kept = [received[at : at + 100_000] for at in range(len(FILL), len(received), 100_000)]
        assert kept == [b"%02d" % index * 50_000 for index in range(lost, 20)]
        await until(lambda: len(written.told) == 20)
        await turns(5)
        errors = {data[:2]: error for data, error in written.told}
        assert len(written.told) == len(errors) == 20
        assert all((errors[b"%02d" % index] is not None) == (index < lost) for index in range(20))


async def test_a_dropped_message_does_not_make_an_earlier_one_written() -> None:
    """What the transport still holds is not reported as sent because something behind it was dropped."""
    handler = Recorder()
    limits = Limits(max_write_buffer_bytes=200_000, slow_consumer="drop_oldest")
    async with stalled(handler, limits=limits, watermarks=Watermarks(high_bytes=1_500_000)) as (_, client, conn):
        written = Written()
        conn.send(bytes(300_000), on_written=written)
        await turns(2)
        assert 0 < conn.write_buffer_length < 200_000
        for _ in range(20):
            conn.send(bytes(100_000))
        await conn.drain()  # looks at what has left
        await turns(3)
        assert conn.write_buffer_length > 100_000
        assert written.told == []
        await client.read(300_000)
        await until(lambda: written.told)


def test_what_one_read_gathered_is_dropped_one_message_at_a_time_or_not_at_all() -> None:
    """Sends without ``on_written`` were gathered before those with it: each that is lost is counted as one."""

    def answer(conn: gevpy.Connection, ctx: object, data: object) -> None:
        for _ in range(4):
            conn.send(bytes(200_000))
        for _ in range(20):
            conn.send(bytes(100_000), on_written=lambda data, error: told.append(error))

    told: list[BaseException | None] = []
    limits = Limits(max_write_buffer_bytes=1_000_000, slow_consumer="drop_oldest")
    conn = EmbeddedConnection(recording(on_message=answer), limits=limits)
    conn.stall()
    conn.feed(b"x")
    lost = drops(conn.connection)["drop_oldest"]
    assert lost == sum(isinstance(error, gevpy.WriteBufferFull) for error in told)
    assert len(conn.resume()) == 4 * 200_000 + (20 - lost) * 100_000


async def test_policy_block_refuses_a_send_beyond_the_limit() -> None:
    """A synchronous send raises WriteBufferFull and changes nothing; gevpy never blocks a loop."""
    handler = Recorder()
    limits = Limits(max_write_buffer_bytes=1000, slow_consumer="block")
    async with stalled(handler, limits=limits) as (_, client, conn):
        conn.send(FILL)
        with pytest.raises(gevpy.WriteBufferFull) as caught:
            conn.send(b"refused")
        assert caught.value.limit == 1000
        assert conn.connected
        received = asyncio.create_task(client.read(len(FILL) + 4))
        await soon(conn.drain())
        conn.send(b"next")
        assert (await received)[len(FILL) :] == b"next"
        assert drops(conn) == {}


async def test_policy_block_holds_an_asynchronous_handler_in_drain() -> None:
    """``await conn.drain()`` waits for the peer; the bytes that wait stay bounded meanwhile."""
    highest = 0

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        nonlocal highest
        for _ in range(100):
            conn.send(bytes(50_000))
            highest = max(highest, conn.write_buffer_length)
            await conn.drain()
        return b"done"

    handler = recording(on_message=on_message)
    async with stalled(handler, limits=Limits(slow_consumer="block")) as (_, client, _conn):
        await client.send(b"go")
        assert (await client.read(5_000_004)).endswith(b"done")
        assert highest <= 64 * 1024 + 50_000


async def test_a_stalled_write_is_given_up() -> None:
    """No byte left for write_stall_s: the connection is aborted."""
    handler = Recorder()
    timeouts = Timeouts(write_stall_s=0.2, drain_s=DRAIN_S)
    async with stalled(handler, timeouts=timeouts) as (_, _client, conn):
        begun = asyncio.get_running_loop().time()
        conn.send(FILL)
        reason = await handler.reason()
        assert reason.kind is CloseKind.WRITE_STALL
        assert asyncio.get_running_loop().time() - begun >= 0.2


async def test_dropping_is_no_progress_of_a_stalled_write() -> None:
    """Not one byte leaves: that messages behind it are dropped does not put the stall deadline off."""
    handler = Recorder()
    timeouts = Timeouts(write_stall_s=0.2, drain_s=DRAIN_S)
    limits = Limits(slow_consumer="drop_oldest")
    async with stalled(handler, timeouts=timeouts, limits=limits) as (_, _client, conn):
        conn.send(FILL)
        timer = conn.worker.run_every(0.02, lambda: conn.send(bytes(300_000)) if conn.connected else None)
        assert (await handler.reason()).kind is CloseKind.WRITE_STALL
        timer.stop()
        assert drops(conn)["drop_oldest"]


async def test_a_slow_but_moving_write_is_not_given_up() -> None:
    """Some bytes leave again and again: that is no stall."""
    handler = Recorder()
    timeouts = Timeouts(write_stall_s=0.2, drain_s=DRAIN_S)
    async with stalled(handler, timeouts=timeouts) as (_, client, conn):
        conn.send(bytes(3_000_000))
        received = 0
        more = asyncio.Event()
        timer = conn.worker.run_every(0.05, more.set)
        for _ in range(12):
            await soon(more.wait())
            more.clear()
            received += len(await client.read(150_000))
        timer.stop()
        assert conn.connected
        assert received == 1_800_000


# -- watermarks ----------------------------------------------------------------------------------------


async def test_above_the_high_watermark_reading_stops_until_the_low_one() -> None:
    """on_writable comes once, when what waits has fallen to the low mark; then input is read again."""
    lengths: list[int] = []

    def on_writable(conn: Connection) -> None:
        lengths.append(conn.write_buffer_length)

    handler = recording(on_writable=on_writable)
    async with stalled(handler) as (_, client, conn):
        conn.send(FILL)
        await turns(3)
        await client.send(b"question")
        await turns(50)
        assert handler.messages.empty()
        assert lengths == []
        await client.read(len(FILL))
        assert await handler.message() == b"question"
        await turns(5)
        assert len(lengths) == 1
        assert lengths[0] <= 16 * 1024


async def test_below_the_high_watermark_nothing_happens() -> None:
    """Output that waits, but less than high_bytes: reading goes on, drain returns, no on_writable."""

    def on_writable(conn: Connection) -> None:
        handler.calls.append("writable")

    handler = recording(on_writable=on_writable)
    async with stalled(handler, watermarks=Watermarks(high_bytes=1_000_000)) as (_, client, conn):
        conn.send(FILL)
        await soon(conn.drain())
        assert conn.write_buffer_length > 0
        await client.send(b"question")
        assert await handler.message() == b"question"
        await client.read(len(FILL))
        await until(lambda: conn.write_buffer_length == 0)
        await turns(5)
        assert "writable" not in handler.calls


@pytest.mark.parametrize("hook_is_async", [False, True])
async def test_on_writable_may_send(*, hook_is_async: bool) -> None:
    """The classic pump: a part, and the next one whenever the connection is writable."""
    left = 3

    def on_writable(conn: Connection) -> None:
        nonlocal left
        if left:
            left -= 1
            conn.send(FILL)
        else:
            conn.close()

    async def on_writable_async(conn: Connection) -> None:
        on_writable(conn)

    handler = recording(on_writable=on_writable_async if hook_is_async else on_writable)
    async with stalled(handler) as (_, client, conn):
        conn.send(FILL)
        assert len(await client.read_to_end()) == 4 * len(FILL)


async def test_drain_waits_and_then_returns() -> None:
    """At once on a connection that is not congested, else until the low watermark."""
    handler = Recorder()
    async with stalled(handler) as (_, client, conn):
        await soon(conn.drain())
        conn.send(FILL)
        waiting = [asyncio.create_task(conn.drain()) for _ in range(2)]
        await turns(50)
        assert not any(task.done() for task in waiting)
        await client.read(len(FILL))
        await soon(asyncio.gather(*waiting))
        assert conn.write_buffer_length <= 16 * 1024


@pytest.mark.parametrize("end", [gevpy.Connection.abort, None])
async def test_drain_raises_when_the_connection_ends(end: Callable[[Connection], None] | None) -> None:
    """Waiting, or closed already: ConnectionClosed."""
    handler = Recorder()
    async with stalled(handler) as (_, client, conn):
        conn.send(FILL)
        waiting = asyncio.create_task(conn.drain())
        await turns(5)
        if end is None:
            client.reset()
        else:
            end(conn)
        with pytest.raises(gevpy.ConnectionClosed):
            await soon(waiting)
        with pytest.raises(gevpy.ConnectionClosed):
            await conn.drain()


async def test_a_cancelled_drain_harms_nobody() -> None:
    """Another waiter is woken all the same."""
    handler = Recorder()
    async with stalled(handler) as (_, client, conn):
        conn.send(FILL)
        first, second = (asyncio.create_task(conn.drain()) for _ in range(2))
        await turns(5)
        first.cancel()
        await client.read(len(FILL))
        await soon(second)
        assert first.cancelled()


async def test_write_buffer_length_is_live() -> None:
    """Gathered, queued and with the transport: all counts, and it falls as the peer reads."""
    seen: list[int] = []

    def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        conn.send(bytes(100))
        seen.append(conn.write_buffer_length)

    handler = recording(on_message=on_message)
    async with stalled(handler) as (_, client, conn):
        await client.send(b"x")
        await client.read(100)
        assert seen == [100]
        conn.send(FILL)
        assert conn.write_buffer_length == len(FILL)
        conn.send(b"more")
        assert conn.write_buffer_length == len(FILL) + 4
        await turns(3)
        held = conn.write_buffer_length
        assert 0 < held < len(FILL)
        await client.read(400_000)  # most of what the kernel took: only then is a Unix socket writable again
        await until(lambda: conn.write_buffer_length < held)
        await client.read(len(FILL) + 4 - 400_000)
        await until(lambda: conn.write_buffer_length == 0)


async def test_on_writable_comes_when_what_was_gathered_passed_the_high_mark() -> None:
    """A handler that sends up to the mark and waits is told, though the kernel took everything at the turn's end."""
    writable = asyncio.Event()
    handler = recording(on_writable=lambda conn: writable.set())
    async with connected(handler) as (server, client):
        conn = await handler.conn()
        size = server.options.watermarks.high_bytes + 1
        conn.send(bytes(size))
        assert conn.write_buffer_length == size
        assert conn.congested
        assert await client.read(size) == bytes(size)
        await soon(writable.wait())
        assert not conn.congested


async def test_dropping_the_oldest_costs_the_same_however_much_waits() -> None:
    """Thousands of small messages with on_written wait: each drop is told at once, and takes no walk through them."""
    told: list[BaseException | None] = []
    limits = Limits(max_write_buffer_bytes=200_000, slow_consumer="drop_oldest")
    async with stalled(Recorder(), limits=limits) as (_, _, conn):
        for _ in range(80_000):
            conn.send(b"0123456789", on_written=lambda data, error: told.append(error))
        await turns(2)
        assert sum(isinstance(error, gevpy.WriteBufferFull) for error in told) > 10_000


async def test_on_writable_comes_after_a_big_reply_that_left_at_once() -> None:
    """What one read produced passed the high mark, and all left at once: reading never stopped, but we are told."""
    writable = asyncio.Event()
    size = 100_000
    handler = recording(on_message=lambda conn, ctx, data: bytes(size), on_writable=lambda conn: writable.set())
    async with connected(handler) as (_, client):
        await client.send(b"x")
        assert await client.read(size) == bytes(size)
        await soon(writable.wait())
