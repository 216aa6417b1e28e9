"""Asynchronous handlers: order, the bounded queue, closing while they run, failures."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind
from tests.serving import (
    Client,
    connected,
    frame,
    recording,
    serving,
    short_path,
    soon,
    stats_of,
    turns,
    until,
)

if TYPE_CHECKING:
    from gevpy import Connection, RingBuffer

QUEUED_MESSAGES = 16
QUEUED_BYTES = 1024 * 1024


class Gates:
    """A handler that waits, for each message, until the test lets it go on."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[bytes] = asyncio.Queue()
        self.running: list[bytes] = []
        self.gate = asyncio.Semaphore(0)

    async def on_message(self, conn: Connection, ctx: Any, data: bytes) -> bytes:
        self.running.append(data)
        self.started.put_nowait(data)
        await self.gate.acquire()
        self.running.remove(data)
        return b"re:" + data


async def test_order_is_kept_and_each_reply_is_written_when_its_handler_ends() -> None:
    """One handler of a connection at a time, in the order of the messages."""
    gates = Gates()
    async with connected(recording(on_message=gates.on_message), protocol=gevpy.LineProtocol()) as (_, client):
        await client.send(b"a\nb\nc\n")
        for name in (b"a", b"b", b"c"):
            assert await soon(gates.started.get()) == name
            await turns(10)
            assert gates.running == [name]
            gates.gate.release()
            assert await client.read(5) == b"re:%s\n" % name


async def test_handlers_of_different_connections_run_side_by_side() -> None:
    """A connection waits for its own handler only."""
    gates = Gates()
    async with (
        serving(recording(on_message=gates.on_message)) as server,
        await Client.connect(server.addresses[0]) as one,
        await Client.connect(server.addresses[0]) as two,
    ):
        await one.send(b"one")
        await two.send(b"two")
        assert {await soon(gates.started.get()), await soon(gates.started.get())} == {b"one", b"two"}
        assert len(gates.running) == 2
        gates.gate.release()
        gates.gate.release()
        assert await one.read(6) == b"re:one"
        assert await two.read(6) == b"re:two"


async def test_sends_of_an_asynchronous_handler_precede_its_reply() -> None:
    """Program order holds across awaits."""

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        conn.send(b"1")
        await asyncio.sleep(0)
        conn.send(b"2")
        return b"3"

    async with connected(recording(on_message=on_message)) as (_, client):
        await client.send(b"x")
        assert await client.read(3) == b"123"


async def test_a_plain_on_message_may_return_an_awaitable() -> None:
    """Its reply comes when it is done, before those of later messages, plain ones included."""
    gate = asyncio.Event()

    async def later(data: bytes) -> bytes:
        await gate.wait()
        return b"late:" + data

    def on_message(conn: Connection, ctx: Any, data: bytes) -> Any:
        handler.messages.put_nowait(data)
        return later(data) if data == b"a" else b"now:" + data

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=gevpy.LineProtocol()) as (_, client):
        await client.send(b"a\nb\n")
        assert await handler.message() == b"a"
        await turns(10)
        assert handler.messages.empty()
        gate.set()
        assert await client.read(13) == b"late:a\nnow:b\n"
        await client.send(b"c\n")
        assert await client.read(6) == b"now:c\n"


# -- the queue -----------------------------------------------------------------------------------------


class Counting(gevpy.LengthPrefixedProtocol):
    """Counts the frames it gave."""

    count = 0

    def unpacket(self, conn: Connection, buffer: RingBuffer) -> tuple[Any, Any] | None:
        message = super().unpacket(conn, buffer)
        self.count += message is not None
        return message


async def test_sixteen_messages_fill_the_queue_and_reading_pauses() -> None:
    """One runs, 16 wait, the rest stays with the kernel; all are handled in the end."""
    gates = Gates()
    protocol = Counting()
    async with connected(recording(on_message=gates.on_message), protocol=protocol) as (_, client):
        await client.send(frame(b"message") * 100)
        await soon(gates.started.get())
        await until(lambda: protocol.count >= QUEUED_MESSAGES)
        await turns(50)
        assert protocol.count <= QUEUED_MESSAGES + 1
        sent = await client.flood(64 * 1024 * 1024)
        assert sent < 64 * 1024 * 1024
        assert protocol.count <= QUEUED_MESSAGES + 1
        gates.gate.release()
        await until(lambda: protocol.count > QUEUED_MESSAGES)


async def test_a_megabyte_fills_the_queue_and_reading_pauses() -> None:
    """The queue is bounded in bytes, too."""
    gates = Gates()
    size = 300_000
    protocol = Counting(max_frame_bytes=size)
    async with connected(recording(on_message=gates.on_message), protocol=protocol) as (_, client):
        sending = asyncio.create_task(client.send(frame(bytes(size)) * 12))
        await soon(gates.started.get())
        await until(lambda: protocol.count >= QUEUED_BYTES // size + 1)
        await turns(300)
        assert protocol.count <= QUEUED_BYTES // size + 3
        for _ in range(12):
            gates.gate.release()
            assert len(await client.read(size + 7)) == size + 7
        await soon(sending)


async def test_many_messages_pass_through_the_queue_in_order() -> None:
    """Pausing and resuming loses, doubles and reorders nothing."""
    received: list[bytes] = []

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        received.append(data)
        if len(received) % 7 == 0:
            await asyncio.sleep(0)
        return data

    stream = b"".join(b"%d\n" % number for number in range(5000))
    async with connected(recording(on_message=on_message), protocol=gevpy.LineProtocol()) as (_, client):
        sending = asyncio.create_task(client.send(stream))
        assert await client.read(len(stream)) == stream
        await soon(sending)


async def test_the_connection_is_idle_again_afterwards() -> None:
    """When its messages are handled a connection keeps neither queue nor task."""

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        return data

    before = len(asyncio.all_tasks())
    async with connected(recording(on_message=on_message)) as (_, client):
        await client.send(b"x")
        assert await client.read(1) == b"x"
        await turns(5)
        assert len(asyncio.all_tasks()) == before


# -- the end -------------------------------------------------------------------------------------------


async def test_close_inside_an_asynchronous_handler_lets_its_reply_leave() -> None:
    """close(), some awaits, a reply: the reply leaves, then the stream ends; what waited is not handled."""

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        handler.messages.put_nowait(data)
        conn.close()
        await asyncio.sleep(0)
        return b"good bye"

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=gevpy.LineProtocol()) as (_, client):
        await client.send(b"a\nb\n")
        assert await client.read_to_end() == b"good bye\n"
        reason = await handler.reason()
        assert reason == gevpy.CloseReason(CloseKind.CLOSED_LOCALLY)
        assert handler.messages.qsize() == 1


async def test_abort_inside_an_asynchronous_handler_is_its_last_message() -> None:
    """Messages that wait are not handled on a connection that was aborted."""

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        handler.messages.put_nowait(data)
        conn.abort()
        return b"nobody gets this"

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=gevpy.LineProtocol()) as (_, client):
        await client.send(b"a\nb\nc\n")
        assert (await handler.reason()).kind is CloseKind.ABORTED
        await client.until_gone()
        assert handler.messages.qsize() == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
async def test_an_exception_ends_the_connection_and_what_waits_is_not_handled(error: type[BaseException]) -> None:
    """As with a plain handler: what came before is sent, what comes behind is not handled."""

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        handler.messages.put_nowait(data)
        if data == b"b":
            raise error
        return data

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=gevpy.LineProtocol()) as (_, client):
        conn = await handler.conn()
        await client.send(b"a\nb\nc\nd\n")
        reason = await handler.reason()
        assert reason.kind is CloseKind.HANDLER_ERROR
        assert isinstance(reason.error, error)
        assert await client.read_to_end() == b"a\n"
        assert [handler.messages.get_nowait() for _ in range(handler.messages.qsize())] == [b"a", b"b"]
        assert stats_of(conn).handler_errors == 1


async def test_a_reply_that_cannot_be_packed_ends_the_connection() -> None:
    """Nobody is there to be told but the log and the reason."""

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> Any:
        return 42

    handler = recording(on_message=on_message)
    async with connected(handler) as (_, client):
        await client.send(b"x")
        reason = await handler.reason()
        assert reason.kind is CloseKind.HANDLER_ERROR
        assert isinstance(reason.error, TypeError)


async def test_the_peers_eof_waits_for_the_handlers() -> None:
    """Messages that came before EOF are handled and answered, however long it takes."""
    gates = Gates()
    handler = recording(on_message=gates.on_message)
    async with connected(handler, protocol=gevpy.LineProtocol()) as (_, client):
        await client.send(b"a\nb\n")
        client.shut()
        await soon(gates.started.get())
        await turns(20)
        assert handler.closed.empty()
        gates.gate.release()
        gates.gate.release()
        assert await client.read_to_end() == b"re:a\nre:b\n"
        assert (await handler.reason()) == gevpy.CloseReason(CloseKind.PEER_CLOSED)


async def test_more_than_the_queue_before_eof_is_all_answered() -> None:
    """EOF behind a paused queue loses nothing."""

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        await asyncio.sleep(0)
        return data

    stream = b"".join(b"%d\n" % number for number in range(500))
    handler = recording(on_message=on_message)
    async with connected(handler, protocol=gevpy.LineProtocol()) as (_, client):
        await client.send(stream)
        client.shut()
        assert await client.read_to_end() == stream
        assert (await handler.reason()) == gevpy.CloseReason(CloseKind.PEER_CLOSED)


async def test_a_handler_of_a_lost_connection_is_cancelled_before_on_close() -> None:
    """The peer is gone: its handler learns of it by CancelledError, and only then comes on_close."""
    entered = asyncio.Event()

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            handler.calls.append("cancelled")
            raise

    handler = recording(on_message=on_message)
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        await client.send(b"x")
        await soon(entered.wait())
        client.reset()
        assert (await handler.reason()).kind is CloseKind.PEER_RESET
        assert handler.calls == ["connect", "cancelled", "close"]
        assert stats_of(conn).handler_errors == 0


async def test_a_view_lent_by_a_protocol_lives_until_the_handler_ends() -> None:
    """Later input doesn't change what a custom protocol lent to an asynchronous handler."""
    gate = asyncio.Event()
    seen: list[bytes] = []

    class Lending(gevpy.Protocol):
        """Gives views of what it took."""

        def unpacket(self, conn: Connection, buffer: RingBuffer) -> tuple[Any, Any] | None:
            return None, memoryview(buffer.read(4))

        def packet(self, conn: Connection, data: Any) -> bytes:
            return bytes(data)

    async def on_message(conn: Connection, ctx: Any, data: memoryview) -> None:
        await gate.wait()
        seen.append(bytes(data))
        handler.messages.put_nowait(data)

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=Lending()) as (_, client):
        await client.send(b"aaaa")
        await turns(20)
        await client.send(b"bbbb")
        await turns(20)
        gate.set()
        await handler.message()
        await handler.message()
        assert seen == [b"aaaa", b"bbbb"]


async def test_asynchronous_hooks_all_run() -> None:
    """on_start, on_connect, on_message, on_writable, on_drain, on_close and on_stop may all be ``async def``."""
    calls: list[str] = []

    def named(name: str) -> Any:
        async def hook(*_: Any) -> None:
            await asyncio.sleep(0)
            calls.append(name)

        return hook

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        calls.append("on_message")
        conn.send(bytes(600_000))

    names = ("on_start", "on_connect", "on_writable", "on_drain", "on_close", "on_stop")
    handler = recording(on_message=on_message, **{name: named(name) for name in names})
    with short_path() as path:
        async with (
            gevpy.serve(handler, path=path) as server,
            await Client.connect(str(path)) as client,
        ):
            await client.send(b"x")
            await client.read(600_000)
            await until(lambda: "on_writable" in calls)
            await soon(server.stop())
    assert calls == ["on_start", "on_connect", "on_message", "on_writable", "on_drain", "on_close", "on_stop"]


@pytest.mark.parametrize("ordering", ["serial", "concurrent"])
async def test_a_reset_is_noticed_while_the_queue_is_full(ordering: Any) -> None:
    """Nobody reads then, and no loop tells: the handlers are cancelled all the same, and the place is free again."""

    class Waiting(gevpy.Handler):
        def __init__(self) -> None:
            self.running = 0
            self.full = asyncio.Event()
            self.closed: asyncio.Future[gevpy.CloseReason] = asyncio.get_running_loop().create_future()

        async def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> None:
            self.running += 1
            self.full.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.running -= 1

        def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
            self.closed.set_result(reason)

    handler = Waiting()
    options: dict[str, Any] = {"protocol": gevpy.LineProtocol(), "idle_timeout_s": None, "ordering": ordering}
    async with gevpy.serve(handler, port=0, **options) as server:
        with socket.create_connection(server.addresses[0]) as sock:  # type: ignore[arg-type]
            sock.sendall(b"x\n" * 100)
            await soon(handler.full.wait())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reason = await soon(handler.closed)
        assert reason.kind is gevpy.CloseKind.PEER_RESET
        assert handler.running == 0
        assert server.connections == 0
