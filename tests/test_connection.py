"""The life of a connection: greeting, state, values, the ways to end, addresses."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind, Timeouts
from tests.serving import (
    MORE_THAN_THE_KERNEL_TAKES,
    Client,
    Recorder,
    connected,
    drops,
    frame,
    recording,
    serving,
    short_path,
    soon,
    stalled,
    tcp_address,
    turns,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy import CloseReason, Connection


def _echo(conn: Connection, ctx: Any, data: bytes) -> bytes:
    return data


# -- the beginning ---------------------------------------------------------------------------------


async def test_on_connect_comes_before_any_message() -> None:
    """What the peer sent at once is handled only after on_connect has returned."""
    handler = Recorder()
    async with serving(handler) as server, await Client.connect(server.addresses[0]) as client:
        await client.send(b"early")
        assert await handler.message() == b"early"
        assert handler.calls == ["connect", "message"]


async def test_nothing_is_handled_while_on_connect_runs() -> None:
    """Messages wait until the coroutine of on_connect has ended."""
    gate = asyncio.Event()

    async def on_connect(conn: Connection) -> None:
        await gate.wait()
        handler.calls.append("greeted")

    handler = recording(on_connect=on_connect)
    async with connected(handler) as (_, client):
        await client.send(b"early")
        await turns(20)
        assert handler.calls == []
        gate.set()
        assert await handler.message() == b"early"
        assert handler.calls == ["greeted", "message"]


@pytest.mark.parametrize("how", ["async", "pause_reading"])
async def test_a_flood_during_on_connect_is_left_to_the_kernel(how: str) -> None:
    """Reading has not started: what a peer sends meanwhile fills its own window, not our memory."""
    gate = asyncio.Event()

    def on_connect(conn: Connection) -> Any:
        handler.opened.put_nowait(conn)
        if how == "async":
            return gate.wait()
        conn.pause_reading()
        return None

    handler = recording(on_connect=on_connect)
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        sent = await client.flood(64 * 1024 * 1024)
        assert conn.read_buffer_length <= 512 * 1024
        assert sent < 64 * 1024 * 1024
        gate.set()
        conn.resume_reading()
        assert await handler.message()


async def test_a_connection_can_send_inside_on_connect() -> None:
    """When on_connect comes, the connection carries messages already."""
    seen: list[bool] = []

    def on_connect(conn: Connection) -> None:
        seen.append(conn.connected)
        conn.send(b"welcome")

    async with connected(recording(on_connect=on_connect)) as (_, client):
        assert await client.read(7) == b"welcome"
        assert seen == [True]


async def test_pause_reading_inside_on_connect_holds() -> None:
    """Reading paused by on_connect does not start when on_connect returns."""
    handler = recording()

    def on_connect(conn: Connection) -> None:
        conn.pause_reading()
        handler.opened.put_nowait(conn)

    handler = recording(on_connect=on_connect)
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        await client.send(b"early")
        await turns(20)
        assert handler.messages.empty()
        conn.resume_reading()
        assert await handler.message() == b"early"


async def test_ids_are_never_given_twice() -> None:
    """A later connection has a number that no earlier one had."""
    handler = Recorder()
    async with serving(handler) as server:
        seen = set()
        for _ in range(5):
            async with await Client.connect(server.addresses[0]):
                seen.add((await handler.conn()).id)
            await handler.reason()
        assert len(seen) == 5


# -- the end -------------------------------------------------------------------------------------------


async def test_on_close_comes_once_and_finds_the_counters_moved() -> None:
    """Inside on_close connected is False, and the connection is counted no more."""
    seen: list[tuple[Any, ...]] = []
    servers: list[gevpy.Server] = []

    def on_close(conn: Connection, reason: CloseReason) -> None:
        seen.append((conn.connected, servers[0].connections, conn.worker.connections, reason == conn.close_reason))
        handler.closed.put_nowait((conn, reason))

    handler = recording(on_close=on_close)
    async with connected(handler) as (server, client):
        servers.append(server)
        await handler.conn()
        assert server.connections == 1
        client.close()
        assert (await handler.reason()).kind is CloseKind.PEER_CLOSED
        await turns(5)
    assert seen == [(False, 0, 0, True)]


async def test_everything_is_harmless_inside_on_close() -> None:
    """A handler may call whatever it likes on a connection that has ended; only sending and subscribing raise."""
    done: asyncio.Queue[str] = asyncio.Queue()

    async def wait(conn: Connection) -> None:
        await conn.drain()

    async def on_close(conn: Connection, reason: CloseReason) -> None:
        conn.close()
        conn.abort()
        conn.shutdown_write()
        conn.pause_reading()
        conn.resume_reading()
        conn.unsubscribe("news")
        conn.delete("key")
        assert conn.local_addr.startswith("127.0.0.1:")
        assert conn.read_buffer_length == conn.write_buffer_length == 0
        for refused in (conn.send, conn.subscribe):
            with pytest.raises(gevpy.ConnectionClosed):
                refused("x")
        with pytest.raises(gevpy.ConnectionClosed):
            await wait(conn)
        done.put_nowait(str(reason))

    async with connected(recording(on_close=on_close)) as (_, client):
        client.close()
        assert await soon(done.get()) == "peer_closed"


@pytest.mark.parametrize("hook_is_async", [False, True])
async def test_on_close_comes_also_when_on_connect_raised(*, hook_is_async: bool) -> None:
    """Exactly one on_close per on_connect that was called."""

    def on_connect(conn: Connection) -> None:
        msg = "no"
        raise RuntimeError(msg)

    async def on_connect_async(conn: Connection) -> None:
        on_connect(conn)

    handler = recording(on_connect=on_connect_async if hook_is_async else on_connect)
    async with connected(handler) as (_, client):
        reason = await handler.reason()
        assert reason.kind is CloseKind.HANDLER_ERROR
        assert isinstance(reason.error, RuntimeError)
        assert await client.read_to_end() == b""
    assert handler.calls == ["close"]


async def test_on_close_comes_after_an_asynchronous_on_connect_was_cut_short() -> None:
    """A connection that ends while on_connect still runs: that one is cancelled, then on_close comes."""
    entered = asyncio.Event()

    async def on_connect(conn: Connection) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            handler.calls.append("connect ended")

    handler = recording(on_connect=on_connect)
    async with connected(handler) as (_, client):
        await soon(entered.wait())
        (conn,) = _connections_of(handler, client)
        conn.abort()
        assert (await handler.reason()).kind is CloseKind.ABORTED
    assert handler.calls == ["connect ended", "close"]


def _connections_of(handler: Recorder, client: Client) -> list[Connection]:
    """Find the connection although on_connect kept none: by the loop's own objects."""
    import gc

    return [
        found for found in gc.get_objects() if isinstance(found, gevpy.Connection) and found.peer_addr == client.address
    ]


@pytest.mark.parametrize("hook", ["on_connect", "on_message", "on_drain"])
async def test_on_close_comes_when_a_hook_aborts_and_returns_a_coroutine(hook: str) -> None:
    """A hook's task that never took its first step doesn't keep on_close away."""

    async def later() -> None:
        await asyncio.sleep(0)

    def abort(conn: Connection, *_: Any) -> Any:
        conn.abort()
        return later()

    handler = recording(**{hook: abort})
    async with connected(handler) as (server, client):
        if hook != "on_connect":
            await handler.conn()
        if hook == "on_message":
            await client.send(b"x")
        if hook == "on_drain":
            await soon(server.stop())
        assert (await handler.reason()).kind is CloseKind.ABORTED


async def test_resets_of_many_peers_each_give_one_on_close() -> None:
    """Peers that connect and reset at once: as many on_close as on_connect, and nobody is left."""
    handler = Recorder()
    async with serving(handler) as server:
        for _ in range(30):
            (await Client.connect(server.addresses[0])).reset()
        await until(lambda: handler.calls.count("connect") + handler.calls.count("close") >= 2)
        async with await Client.connect(server.addresses[0]) as last:
            await last.send(b"x")
            await handler.message()
        await until(lambda: server.connections == 0)
    assert handler.calls.count("connect") == handler.calls.count("close")


async def test_a_reset_is_told_from_a_close() -> None:
    """The reason says that the peer tore the connection down, and why."""
    handler = Recorder()
    async with connected(handler) as (_, client):
        await handler.conn()
        client.reset()
        reason = await handler.reason()
        assert reason.kind is CloseKind.PEER_RESET
        assert isinstance(reason.error, ConnectionResetError)


# -- close() -------------------------------------------------------------------------------------------


async def test_close_is_idempotent_and_closes_without_the_peers_fin() -> None:
    """After close() the peer sees the end of the stream, and on_close does not wait for the peer's own."""
    handler = Recorder()
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        conn.close()
        conn.close()
        assert not conn.connected
        assert (await handler.reason()).kind is CloseKind.CLOSED_LOCALLY
        conn.close()
        assert await client.read_to_end() == b""
    assert handler.calls == ["connect", "close"]


async def test_close_flushes_all_that_waits() -> None:
    """Output that waits when close() is called still reaches the peer."""
    handler = Recorder()
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        conn.send(bytes(4_000_000))
        conn.close()
        assert len(await client.read_to_end()) == 4_000_000
        reason = await handler.reason()
        assert reason.kind is CloseKind.CLOSED_LOCALLY
        assert reason.error is None


async def test_close_inside_on_message_lets_the_replies_of_this_read_leave() -> None:
    """Replies before and after close() in the same call leave; frames behind it are not handled."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        handler.messages.put_nowait(data)
        if data == b"bye":
            conn.send(b"sent")
            conn.close()
        return b"re:" + data

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=gevpy.LengthPrefixedProtocol()) as (_, client):
        await client.send(frame(b"one") + frame(b"bye") + frame(b"never"))
        expected = frame(b"re:one") + frame(b"sent") + frame(b"re:bye")
        assert await client.read_to_end() == expected
        assert (await handler.reason()).kind is CloseKind.CLOSED_LOCALLY
        assert handler.messages.qsize() == 2


async def test_no_message_comes_after_close() -> None:
    """close() stops reading: what arrives later is not handled."""
    handler = Recorder()
    async with stalled(handler) as (_, client, conn):
        conn.send(bytes(MORE_THAN_THE_KERNEL_TAKES))
        await turns(2)
        conn.close()
        await client.send(b"too late")
        assert len(await client.read_to_end()) == MORE_THAN_THE_KERNEL_TAKES
        await handler.reason()
        assert handler.messages.empty()


async def test_close_with_unread_input_sends_fin_not_reset() -> None:
    """Input that we never read must not turn the FIN into a reset, which could destroy what we sent."""
    handler = recording()

    def on_connect(conn: Connection) -> None:
        conn.pause_reading()
        handler.opened.put_nowait(conn)

    handler = recording(on_connect=on_connect)
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        await client.send(bytes(60_000))
        conn.send(b"last words")
        conn.close()
        await handler.reason()
        assert await client.read_to_end() == b"last words"


@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_close_with_all_the_input_that_the_kernel_holds_loses_no_output(family: str) -> None:
    """However much the peer has sent that we never read, and though it goes on sending and doesn't end its own side.

    A TCP peer that still sends to a closed socket is reset by the kernel, but only after it has got everything.
    """
    handler = Recorder()
    server_of = connected if family == "tcp" else stalled
    async with server_of(handler) as serving_it:
        client = serving_it[1]
        conn = serving_it[2] if len(serving_it) > 2 else await handler.conn()
        conn.pause_reading()
        assert await client.flood(64 * 1024 * 1024) > 100_000
        conn.send(b"last words")
        conn.close()
        assert await client.read(10) == b"last words"
        assert (await handler.reason()) == gevpy.CloseReason(CloseKind.CLOSED_LOCALLY)


async def test_close_in_on_connect_with_input_waiting_sends_fin() -> None:
    """A connection that on_connect turns away gets its answer and a FIN, though it has sent already."""

    def on_connect(conn: Connection) -> None:
        conn.send(b"full")
        conn.close()

    handler = recording(on_connect=on_connect)
    async with serving(handler) as server:
        with socket.create_connection(tcp_address(server)) as sock:  # blocks the loop: all is there before the accept
            sock.sendall(bytes(50_000))
            sock.setblocking(False)
            assert await Client(sock).read_to_end() == b"full"
        assert (await handler.reason()).kind is CloseKind.CLOSED_LOCALLY


async def test_close_gives_up_after_close_s() -> None:
    """A peer that doesn't read is waited for close_s, then aborted; the reason says that output was lost."""
    handler = Recorder()
    async with stalled(handler, timeouts=Timeouts(close_s=0.1, drain_s=2)) as (_, client, conn):
        conn.send(bytes(MORE_THAN_THE_KERNEL_TAKES))
        conn.close()
        assert not conn.connected
        reason = await handler.reason()
        assert reason.kind is CloseKind.CLOSED_LOCALLY
        assert reason.error is not None
        assert len(await client.read_to_end()) < MORE_THAN_THE_KERNEL_TAKES


# -- abort() -------------------------------------------------------------------------------------------


async def test_abort_discards_and_ends_at_once() -> None:
    """abort() waits for nothing: connected is False at once, and what waited is gone."""
    handler = Recorder()
    async with stalled(handler) as (_, client, conn):
        conn.send(bytes(MORE_THAN_THE_KERNEL_TAKES))
        await turns(2)
        conn.abort()
        assert not conn.connected
        assert handler.calls == ["connect"]
        assert (await handler.reason()).kind is CloseKind.ABORTED
        conn.abort()
        assert len(await client.read_to_end()) < MORE_THAN_THE_KERNEL_TAKES
    assert handler.calls == ["connect", "close"]


async def test_abort_ends_a_close_that_waits() -> None:
    """abort() after close() doesn't wait for the flush; the first reason stays."""
    handler = Recorder()
    async with stalled(handler) as (_, _client, conn):
        conn.send(bytes(MORE_THAN_THE_KERNEL_TAKES))
        conn.close()
        await turns(3)
        assert handler.closed.empty()
        conn.abort()
        assert (await handler.reason()).kind is CloseKind.CLOSED_LOCALLY


async def test_abort_inside_on_message_ends_the_handling() -> None:
    """Frames behind an abort() are not handled and its own reply is dropped."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        handler.messages.put_nowait(data)
        conn.abort()
        return b"reply"

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=gevpy.LengthPrefixedProtocol()) as (_, client):
        await client.send(frame(b"one") + frame(b"two"))
        assert (await handler.reason()).kind is CloseKind.ABORTED
        assert handler.messages.qsize() == 1
        await client.until_gone()


# -- shutdown_write() and EOF --------------------------------------------------------------------------


async def test_shutdown_write_flushes_then_half_closes_and_input_still_arrives() -> None:
    """The peer gets all that was queued and the end of the stream; what it then sends is handled."""
    handler = Recorder()
    async with stalled(handler) as (_, client, conn):
        conn.send(bytes(MORE_THAN_THE_KERNEL_TAKES))
        conn.shutdown_write()
        conn.shutdown_write()
        assert conn.connected
        assert len(await client.read_to_end()) == MORE_THAN_THE_KERNEL_TAKES
        await client.send(b"still here")
        assert await handler.message() == b"still here"
        assert conn.connected
        client.close()
        assert (await handler.reason()).kind is CloseKind.PEER_CLOSED


async def test_nothing_can_be_sent_after_shutdown_write() -> None:
    """A send raises and says why; a reply that a handler returns is dropped and counted."""
    handler = recording(on_message=_echo)
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        conn.shutdown_write()
        with pytest.raises(gevpy.ConnectionClosed, match="shut down"):
            conn.send(b"x")
        await client.send(b"question")
        await until(lambda: drops(conn))
        assert drops(conn) == {"write_shut_down": 1}
        assert await client.read_to_end() == b""
        assert conn.connected


async def test_shutdown_write_inside_on_message_lets_earlier_replies_leave() -> None:
    """What earlier frames of the same read produced still leaves."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes | None:
        if data == b"end":
            conn.shutdown_write()
            return None
        return data

    handler = recording(on_message=on_message)
    async with connected(handler, protocol=gevpy.LengthPrefixedProtocol()) as (_, client):
        await client.send(frame(b"one") + frame(b"two") + frame(b"end"))
        assert await client.read_to_end() == frame(b"one") + frame(b"two")


async def test_the_end_of_the_peers_stream_closes_after_the_replies() -> None:
    """At EOF what came earlier is handled, its replies are flushed, then the connection closes."""
    handler = recording(on_message=_echo)
    async with connected(handler) as (_, client):
        await client.send(bytes(100_000))
        client.shut()
        assert len(await client.read_to_end()) == 100_000
        reason = await handler.reason()
        assert reason == gevpy.CloseReason(CloseKind.PEER_CLOSED)


async def test_a_peer_that_writes_and_closes_at_once_loses_nothing() -> None:
    """Every byte is delivered before on_close."""
    received: dict[int, int] = {}

    def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        received[conn.id] = received.get(conn.id, 0) + len(data)

    handler = recording(on_message=on_message)
    async with serving(handler) as server:
        for _ in range(20):
            async with await Client.connect(server.addresses[0]) as client:
                await client.send(bytes(65536))
        for _ in range(20):
            assert (await handler.reason()).kind is CloseKind.PEER_CLOSED
    assert sorted(received.values()) == [65536] * 20


async def test_half_close_keeps_our_side_open() -> None:
    """With half_close=True the peer's EOF is no end: the server goes on sending, and closes when it likes."""
    handler = Recorder()
    async with connected(handler, half_close=True) as (_, client):
        conn = await handler.conn()
        await client.send(b"question")
        client.shut()
        assert await handler.message() == b"question"
        await turns(20)
        assert conn.connected
        conn.send(b"answer")
        assert await client.read(6) == b"answer"
        conn.close()
        assert await client.read_to_end() == b""
        assert (await handler.reason()).kind is CloseKind.CLOSED_LOCALLY


@pytest.mark.parametrize("peer_first", [False, True])
async def test_a_connection_shut_down_on_both_sides_ends(*, peer_first: bool) -> None:
    """With half_close=True, too: when neither side can send any more, nothing is left to wait for."""
    handler = Recorder()
    async with connected(handler, half_close=True) as (_, client):
        conn = await handler.conn()
        if not peer_first:
            conn.shutdown_write()
            assert await client.read_to_end() == b""
        await client.send(b"x")
        client.shut()
        assert await handler.message() == b"x"
        if peer_first:
            await turns(20)
            conn.shutdown_write()
            assert await client.read_to_end() == b""
        async with asyncio.timeout(2):
            await handler.reason()


async def test_a_frame_cut_off_by_eof_is_told_in_the_reason() -> None:
    """The kind stays "peer closed"; the error says that the stream ended inside a frame, and how much had come."""
    handler = recording(on_message=_echo)
    async with connected(handler, protocol=gevpy.LengthPrefixedProtocol()) as (_, client):
        await client.send(frame(b"whole") + frame(b"half a frame")[:7])
        client.shut()
        assert await client.read_to_end() == frame(b"whole")
        reason = await handler.reason()
        assert reason.kind is CloseKind.PEER_CLOSED
        assert isinstance(reason.error, gevpy.TruncatedFrame)
        assert reason.error.actual == 7


# -- addresses -----------------------------------------------------------------------------------------


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


async def test_addresses_of_ipv4() -> None:
    """``"ip:port"``, for both ends."""
    handler = Recorder()
    async with connected(handler) as (server, client):
        conn = await handler.conn()
        assert conn.peer_addr == client.address
        assert conn.local_addr == "{}:{}".format(*server.addresses[0])


@needs_ipv6
async def test_addresses_of_ipv6() -> None:
    """``"[ip]:port"``, for both ends."""
    handler = Recorder()
    async with connected(handler, host="::1") as (server, client):
        conn = await handler.conn()
        assert conn.peer_addr == client.address
        assert conn.peer_addr.startswith("[::1]:")
        assert conn.local_addr == f"[::1]:{server.addresses[0][1]}"


@needs_ipv6
async def test_addresses_of_ipv4_over_a_dual_stack_socket() -> None:
    """An IPv4 peer of a socket that serves both families is written as IPv4."""
    handler = Recorder()
    async with serving(handler, host="::") as server:
        port = int(server.addresses[0][1])
        async with await Client.connect(("127.0.0.1", port)) as client:
            conn = await handler.conn()
            assert conn.peer_addr == client.address
            assert conn.local_addr == f"127.0.0.1:{port}"


async def test_addresses_of_a_unix_socket() -> None:
    """The peer of a Unix socket has no address; our own is the path."""
    handler = Recorder()
    async with stalled(handler) as (server, _, conn):
        assert conn.peer_addr == ""
        assert conn.local_addr == server.addresses[0]


# -- what an application keeps -------------------------------------------------------------------------


async def test_context_and_values_belong_to_one_connection() -> None:
    """``context`` is a plain attribute, None at first; ``set``, ``get`` and ``delete`` keep values by key."""
    handler = Recorder()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(gevpy.serve(handler, port=0))
        for _ in range(2):
            await stack.enter_async_context(await Client.connect(server.addresses[0]))
        one, two = await handler.conn(), await handler.conn()
        assert one.context is None
        one.context = marker = object()
        assert one.context is marker
        assert two.context is None
        assert one.get("key") is None
        assert one.get("key", 7) == 7
        one.set("key", None)
        assert one.get("key", 7) is None
        assert two.get("key", 7) == 7
        one.delete("key")
        one.delete("key")
        assert one.get("key", 7) == 7


async def test_repr_tells_who_and_how() -> None:
    """The one line for a log: number, peer and state."""
    handler = Recorder()
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        assert repr(conn) == f"<Connection {conn.id} from {client.address}: connected>"
        conn.close()
        assert "closed_locally" in repr(conn)


async def test_connections_have_no_nagle_and_keepalive() -> None:
    """TCP_NODELAY and SO_KEEPALIVE are on for every accepted TCP connection."""
    handler = Recorder()
    async with connected(handler):
        conn = await handler.conn()
        sock = conn._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


# -- state ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [gevpy.Connection.close, gevpy.Connection.abort])
async def test_a_connection_known_to_be_ending_refuses(end: Callable[[Connection], None]) -> None:
    """From close() or abort() on: connected is False, the reason is there, and sending and subscribing raise."""
    handler = Recorder()
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        assert conn.close_reason is None
        end(conn)
        assert not conn.connected
        assert conn.close_reason is not None
        for refused in (conn.send, conn.subscribe):
            with pytest.raises(gevpy.ConnectionClosed) as caught:
                refused("x")
            assert caught.value.reason == conn.close_reason
        await client.until_gone()


async def test_the_path_of_a_unix_server_is_its_address() -> None:
    """A client connects to what ``addresses`` shows."""
    with short_path() as path:
        async with gevpy.serve(recording(on_message=_echo), path=path) as server:
            assert server.addresses == [str(path)]
            async with await Client.connect(server.addresses[0]) as client:
                await client.send(b"x")
                assert await client.read(1) == b"x"


# -- anything, anywhere --------------------------------------------------------------------------------


def _pause_and_resume(conn: Connection) -> None:
    conn.pause_reading()
    conn.resume_reading()


def _swap(conn: Connection) -> None:
    conn.protocol = gevpy.RawProtocol()


def _close_then_abort(conn: Connection) -> None:
    conn.close()
    conn.abort()


def _shut_then_close(conn: Connection) -> None:
    conn.shutdown_write()
    conn.close()


class Meddling(gevpy.LineProtocol):
    """Does something to the connection in one of its own methods."""

    def __init__(self, where: str, act: Callable[[Connection], None]) -> None:
        super().__init__()
        self.where = where
        self.act = act

    def unpacket(self, conn: Connection, buffer: gevpy.RingBuffer) -> tuple[Any, Any] | None:
        if self.where == "unpacket":
            self.act(conn)
        return super().unpacket(conn, buffer)

    def packet(self, conn: Connection, data: Any) -> bytes:
        if self.where == "packet":
            self.act(conn)
        return bytes(super().packet(conn, data))


@pytest.mark.parametrize(
    "act",
    [
        gevpy.Connection.close,
        gevpy.Connection.abort,
        gevpy.Connection.pause_reading,
        gevpy.Connection.resume_reading,
        gevpy.Connection.shutdown_write,
        _pause_and_resume,
        _swap,
        _close_then_abort,
        _shut_then_close,
    ],
    ids=lambda act: act.__name__.strip("_"),
)
@pytest.mark.parametrize(
    "where",
    ["on_connect", "on_message", "on_writable", "on_drain", "on_close", "on_written", "unpacket", "packet"],
)
async def test_anything_may_be_called_anywhere(
    where: str, act: Callable[[Connection], None], caplog: pytest.LogCaptureFixture
) -> None:
    """No crash, no error, one on_close, a stop without delay, and the other connection notices nothing."""
    good = Client(socket.socket())
    good.sock.bind(("127.0.0.1", 0))
    good.sock.setblocking(False)
    handler = _meddler(where, act, good.address)
    protocol = Meddling(where, lambda conn: act(conn) if conn.peer_addr != good.address else None)
    async with good, serving(handler, protocol=protocol) as server:
        await soon(asyncio.get_running_loop().sock_connect(good.sock, tcp_address(server)))
        async with await Client.connect(server.addresses[0]) as bad:
            await bad.send(b"one\ntwo\nthree\nfour")
            with suppress(ConnectionError):
                await bad.send(b"five\n")
                if where != "on_connect":
                    await bad.read(1_000_000)
            await good.send(b"fine\n")
            assert await good.read(5) == b"fine\n"
            reading = asyncio.create_task(bad.until_gone())
            await soon(server.stop())
            await soon(reading)
    assert sorted(handler.calls) == ["close", "close"]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def _meddler(where: str, act: Callable[[Connection], None], spared: str) -> Recorder:
    """Give a handler that calls ``act`` in one of its methods, for all peers but one, and sends much to them."""

    def meddle(conn: Connection, *_: Any) -> None:
        if conn.peer_addr != spared:
            act(conn)

    def on_connect(conn: Connection) -> None:
        if where == "on_connect":
            meddle(conn)
        elif conn.peer_addr != spared:
            on_written = meddle if where == "on_written" else None
            with suppress(gevpy.ConnectionClosed):  # packet has closed it
                conn.send(bytes(3_000_000), on_written=partial(_call, on_written, conn))

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        if where == "on_message":
            meddle(conn)
        return data

    def on_close(conn: Connection, reason: CloseReason) -> None:
        handler.calls.append("close")
        if where == "on_close":
            meddle(conn)

    others = {where: meddle} if where in ("on_writable", "on_drain") else {}
    handler = recording(on_connect=on_connect, on_message=on_message, on_close=on_close, **others)
    return handler


def _call(function: Callable[[Connection], None] | None, conn: Connection, *_: Any) -> None:
    if function is not None:
        function(conn)


async def test_eof_behind_a_pause_is_seen_after_it() -> None:
    """What the peer sent before its EOF is handled when reading goes on, then the connection closes."""
    handler = recording(on_message=_echo)
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        conn.pause_reading()
        await client.send(b"question")
        client.shut()
        await turns(20)
        assert conn.connected
        conn.resume_reading()
        assert await client.read_to_end() == b"question"
        assert (await handler.reason()) == gevpy.CloseReason(CloseKind.PEER_CLOSED)


async def test_a_large_reply_to_a_peer_that_has_ended_its_side_arrives() -> None:
    """EOF while output waits: all of it is flushed first."""
    handler = recording(on_message=lambda conn, ctx, data: bytes(MORE_THAN_THE_KERNEL_TAKES))
    async with stalled(handler) as (_, client, _conn):
        await client.send(b"x")
        client.shut()
        await turns(20)
        assert len(await client.read_to_end()) == MORE_THAN_THE_KERNEL_TAKES
        assert (await handler.reason()) == gevpy.CloseReason(CloseKind.PEER_CLOSED)
