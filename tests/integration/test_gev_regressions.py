"""Section H: what gev and gnet got wrong once, each as a test (their issue numbers in the docstrings)."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy.listener import Listener
from gevpy.single import SingleLoop
from tests.integration.harness import Crowd, FaultServer, best_of, cpu_of, reset, wait_until
from tests.serving import reactor_of

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 15
MAX_CPU = 0.05
MUCH = 8 * 1024 * 1024


class Recording(gevpy.Handler):
    """Keeps connections and messages; does with them what a test sets."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.opened: asyncio.Queue[gevpy.Connection] = asyncio.Queue()
        self.closed: asyncio.Queue[gevpy.Connection] = asyncio.Queue()
        self.messages: dict[int, list[bytes]] = {}
        self.act: Callable[[gevpy.Connection, bytes], Any] = lambda conn, data: data
        self.gauges: list[int] = []

    def on_connect(self, conn: gevpy.Connection) -> None:
        self.messages[conn.id] = []
        self.opened.put_nowait(conn)

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> Any:
        self.messages[conn.id].append(data)
        return self.act(conn, data)

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        self.gauges.append(conn.worker.connections)
        conn.close()
        conn.abort()
        self.closed.put_nowait(conn)


def connect(server: gevpy.Server) -> socket.socket:
    """Connect a blocking client: the kernel answers it without the loop."""
    address = server.addresses[0]
    assert not isinstance(address, str)
    return socket.create_connection(address, timeout=DEADLINE_S)


async def test_closing_twice_counts_once() -> None:
    """Closing by close, abort and a reset at once counts once; the gauge is never negative (gev #25)."""
    handler = Recording()

    def end(conn: gevpy.Connection, data: bytes) -> None:
        conn.close()
        conn.close()
        conn.abort()
        conn.close()

    handler.act = end
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0) as server:
        clients = [connect(server) for _ in range(100)]
        for sock in clients:
            sock.send(b"x")
        for sock in clients[::2]:
            reset(sock)
        for _ in clients:
            await handler.closed.get()
        assert min(handler.gauges) >= 0
        assert server.connections == 0
        assert reactor_of(server).admission.count == 0
        assert sum(reactor_of(server).stats.closed.values()) == 100
        assert handler.closed.empty()
        for sock in clients[1::2]:
            sock.close()


async def test_a_reused_descriptor_gets_nothing_of_its_predecessor() -> None:
    """Bytes for a connection that was aborted never reach the next one with its descriptor (gev #81, gnet #195)."""
    handler = Recording()
    handler.act = lambda conn, data: conn.abort() if data.startswith(b"old") else data
    descriptors = set()
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0) as server:
        for _ in range(100):
            with connect(server) as old, connect(server) as new:
                await handler.opened.get()
                second = await handler.opened.get()
                descriptors.add(second._transport.get_extra_info("socket").fileno() if second.connected else -1)
                old.sendall(b"old" * 1000)
                await handler.closed.get()  # the descriptor is free from now on
                with connect(server) as third:
                    third.sendall(b"new")
                    conn = await handler.opened.get()
                    with_same = conn
                    new.close()
                    third.shutdown(socket.SHUT_WR)
                    assert {await handler.closed.get(), await handler.closed.get()} == {second, with_same}
                    assert b"".join(handler.messages[with_same.id]) == b"new"
                    assert handler.messages[second.id] == []
        assert len(descriptors) < 100, "descriptors were in fact reused"


async def test_pooled_buffers_are_not_shared() -> None:
    """A ring goes back to the pool after its last use: a close spoils nobody's part frames (gev #74, gnet #649)."""
    handler = Recording()

    def close_odd(conn: gevpy.Connection, data: bytes) -> bytes:
        if data[:1] == b"c":
            conn.close()
        return data

    handler.act = close_odd
    async with (
        asyncio.timeout(DEADLINE_S),
        gevpy.serve(handler, port=0, protocol=gevpy.LengthPrefixedProtocol()) as server,
    ):
        whole = {}
        streams = []
        for number in range(60):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][1])
            letter = b"c" if number % 3 == 0 else b"k"
            body = letter + bytes([number]) * (1000 + 100 * number)
            whole[number] = (len(body).to_bytes(4, "big") + body, reader, writer)
            streams.append(number)
        for part in range(7):  # part frames of all, interleaved
            for number in streams:
                frame, _, writer = whole[number]
                step = -(-len(frame) // 7)
                writer.write(frame[part * step : (part + 1) * step])
            for number in streams:
                await whole[number][2].drain()
        for number in streams:
            frame, reader, writer = whole[number]
            assert await reader.readexactly(len(frame)) == frame
            writer.close()
            await writer.wait_closed()


async def test_timers_end_with_their_connection() -> None:
    """A closed connection has no deadline left on the wheel, of whatever kind (gev #111)."""
    handler = Recording()
    timeouts = gevpy.Timeouts(frame_s=5, write_stall_s=5, close_s=5)
    protocol = gevpy.LengthPrefixedProtocol()
    async with (
        asyncio.timeout(DEADLINE_S),
        gevpy.serve(handler, port=0, protocol=protocol, timeouts=timeouts, idle_timeout_s=5) as server,
    ):
        clients = [connect(server) for _ in range(20)]
        conns = [await handler.opened.get() for _ in clients]
        for sock, conn in zip(clients, conns, strict=True):
            sock.sendall(b"\0\0")  # half a frame
            conn.send(bytes(MUCH))  # never read
        wheel = reactor_of(server).wheel
        assert len(wheel) == 20
        for number, conn in enumerate(conns):
            (conn.close if number % 2 else conn.abort)()
            reset(clients[number])
        for _ in conns:
            await handler.closed.get()
        assert len(wheel) == 0


async def test_a_full_socket_is_no_error() -> None:
    """EAGAIN is waited out in both directions: 8 MB each way, and the connection lives (gev #61)."""
    handler = Recording()
    limits = gevpy.Limits(max_write_buffer_bytes=2 * MUCH)
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0, limits=limits) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][1])
        data = os.urandom(MUCH)
        writer.write(data)  # more than both kernels hold, and nothing is read meanwhile
        conn = await handler.opened.get()
        assert await reader.readexactly(MUCH) == data
        assert conn.connected
        writer.close()
        await writer.wait_closed()


class FailingListener(socket.socket):
    """A listening socket on which accepting fails so many times before it works."""

    failures: tuple[int, ...] = ()

    def _accept(self) -> tuple[int, Any]:
        """Fail, or accept."""
        if self.failures:
            number, *rest = self.failures
            self.failures = tuple(rest)
            raise OSError(number, os.strerror(number))
        accepted: tuple[int, Any] = super()._accept()  # type: ignore[misc]
        return accepted


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.ENETDOWN, errno.EPERM])
async def test_accept_survives_a_peers_failure(number: int) -> None:
    """A failure of one pending connection doesn't end accepting (gnet #453)."""
    handler = Recording()
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0) as server:
        with FailingListener() as failing:
            failing.bind(("127.0.0.1", 0))
            failing.listen()
            failing.setblocking(False)
            failing.failures = (number,) * 3
            listener = Listener(reactor_of(server), failing)
            listener.start()
            with socket.create_connection(failing.getsockname(), timeout=DEADLINE_S):
                conn = await handler.opened.get()
                assert conn.connected
                assert not failing.failures
            await handler.closed.get()
            listener.stop()


def test_input_is_read_while_output_waits(fault_server: Callable[..., FaultServer]) -> None:
    """Output that waits neither stops input below the high watermark nor makes the loop spin (gev #101, #144)."""
    options = {
        "limits": {"max_write_buffer_bytes": 8 * MUCH},
        "watermarks": {"high_bytes": 4 * MUCH, "low_bytes": MUCH},
    }
    with fault_server("reply", serve=options) as server, Crowd(server.port) as crowd:
        sock = crowd.join(receive_buffer=4096)
        sock.sendall(str(2 * MUCH).encode())
        wait_until(lambda: server.report()["sent_messages"] == 1, "the reply waits")
        sock.sendall(b"hello")
        wait_until(lambda: server.report()["received_messages"] == 2, "input is handled")

        def share() -> float:
            first, used, started = server.report()["tick"], cpu_of(server.pid), time.monotonic()
            wait_until(lambda: server.report()["tick"] >= first + 6, "0.3 s pass", every_s=0.1)
            return (cpu_of(server.pid) - used) / (time.monotonic() - started)

        assert best_of(4, share, MAX_CPU) <= MAX_CPU


class Refusing(gevpy.Protocol):
    """Refuses everything, and counts how often it was asked."""

    def __init__(self) -> None:
        """Begin unasked."""
        self.asked = 0

    def unpacket(self, conn: Any, buffer: gevpy.RingBuffer) -> tuple[Any, Any] | None:
        self.asked += 1
        raise gevpy.ProtocolError("no such frame")


async def test_bad_bytes_are_parsed_once() -> None:
    """What can't be parsed ends the connection; the same bytes are never parsed again (gev's failed upgrade)."""
    handler = Recording()
    protocol = Refusing()
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0, protocol=protocol) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][1])
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        conn = await handler.opened.get()
        writer.write(b"more" * 1000)
        assert await reader.read() == b""
        await handler.closed.get()
        assert protocol.asked == 1
        assert conn.close_reason is not None
        assert conn.close_reason.kind is gevpy.CloseKind.PROTOCOL_ERROR
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("length", [2**63, 2**63 - 1, 2**64 - 1])
def test_absurd_lengths_are_refused_unbuffered(length: int) -> None:
    """A header may say 2^63: it is refused, and nothing is reserved for it (gev buffers whatever it says)."""
    buffer = gevpy.RingBuffer(64)
    buffer.write(struct.pack(">Q", length))
    with pytest.raises(gevpy.FrameTooLarge):
        gevpy.LengthPrefixedProtocol(8).decode(None, buffer)
    assert buffer.capacity == 64


async def test_bytes_before_the_end_are_handled() -> None:
    """What a peer wrote before it closed is handled, also where both came in one go (gnet #531)."""
    handler = Recording()
    handler.act = lambda conn, data: None
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0) as server:
        for _ in range(50):
            with connect(server) as sock:
                sock.sendall(b"last words")
            conn = await handler.closed.get()
            assert b"".join(handler.messages[conn.id]) == b"last words"


async def test_descriptors_are_not_inherited() -> None:
    """Sockets that listen, and sockets that were accepted, don't leak into child processes (gnet #743)."""
    handler = Recording()
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0) as server:
        with connect(server):
            conn = await handler.opened.get()
            accepted = conn._transport.get_extra_info("socket").fileno()
            site = server._site
            assert isinstance(site, SingleLoop)
            assert site._listening is not None
            listening = [sock.fileno() for sock in site._listening.sockets]
            assert not any(os.get_inheritable(fd) for fd in [accepted, *listening])
