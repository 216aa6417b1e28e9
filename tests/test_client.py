"""The client: what it sends and receives, how it waits, ends, shares, and what it says of what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import client_loop as sharing
from gevpy.connecting import connect
from gevpy.inbox import MAX_MESSAGES
from tests.certificates import NAME, Shelf
from tests.conftest import loop_factories
from tests.peers import black_hole, listening, refusing_port
from tests.serving import Recorder, reactor_of, recording, serving, short_path, soon, tcp_address, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gevpy.client import Client

LINES = gevpy.LineProtocol()


class Echo(gevpy.Handler):
    """Returns what it gets."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: Any) -> Any:
        return data


def url_of(server: gevpy.Server, scheme: str = "tcp") -> str:
    """Give where a server listens."""
    host, port = tcp_address(server)
    return f"{scheme}://{host}:{port}"


@pytest.fixture
async def echo() -> AsyncIterator[str]:
    """Serve an echo of lines, and give its URL."""
    async with serving(Echo(), protocol=LINES) as server:
        yield url_of(server)


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """See that no test leaves a task, or a reactor, behind."""
    yield
    loop = asyncio.get_running_loop()
    await until(lambda: not [key for key in list(sharing._shared) if key[0] == id(loop)])


# -- messages --------------------------------------------------------------------------------------


async def test_await_gives_a_client(echo: str) -> None:
    """``await connect()`` connects; ``send`` and ``recv`` speak; ``close`` ends."""
    client = await connect(echo, protocol=gevpy.LineProtocol())
    client.send(b"hello")
    assert await soon(client.recv()) == b"hello"
    assert not client.closed
    await soon(client.close())
    assert client.closed
    assert client.close_reason == gevpy.CloseReason(gevpy.CloseKind.CLOSED_LOCALLY)


async def test_async_with_closes(echo: str) -> None:
    """Leaving ``async with`` closes, also by an exception, which goes on."""
    with pytest.raises(KeyError):
        async with connect(echo, protocol=LINES) as client:
            raise KeyError
    assert client.closed


async def test_addresses_and_repr_tell_who(echo: str) -> None:
    """A client knows both addresses, its URL, and how it is."""
    async with connect(echo, protocol=LINES) as client:
        assert client.peer_addr == echo.removeprefix("tcp://")
        assert client.local_addr.startswith("127.0.0.1:")
        assert repr(client) == f"<Client of {echo}: connected>"
        assert isinstance(client.connection, gevpy.Connection)
        assert client.connection.worker.connections == 1
    assert repr(client) == f"<Client of {echo}: closed_locally>"
    assert repr(connect(echo)) == f"<Connecting to {echo}>"


async def test_ipv6_and_unix() -> None:
    """All addresses work: IPv6 in brackets, Unix sockets by path."""
    async with (
        gevpy.serve(Echo(), host="::1", port=0, protocol=LINES) as server,
        connect(f"tcp://[::1]:{tcp_address(server)[1]}", protocol=LINES) as client,
    ):
        client.send(b"six")
        assert await soon(client.recv()) == b"six"
    with short_path() as path:
        async with (
            gevpy.serve(Echo(), path=path, protocol=LINES),
            connect(f"unix://{path}", protocol=LINES) as client,
        ):
            client.send(b"unix")
            assert await soon(client.recv()) == b"unix"
            assert client.peer_addr == str(path)


async def test_messages_of_the_server_come_unasked() -> None:
    """What the server pushes before anything was asked is there."""
    async with (
        serving(recording(on_connect=lambda conn: conn.send(b"welcome")), protocol=LINES) as server,
        connect(url_of(server), protocol=LINES) as client,
    ):
        assert await soon(client.recv()) == b"welcome"


async def test_recv_message_gives_the_context() -> None:
    """``recv_message`` gives ``(ctx, data)`` as the protocol made them."""

    class Numbered(gevpy.LineProtocol):
        def unpacket(self, conn: Any, buffer: gevpy.RingBuffer) -> tuple[Any, Any] | None:
            message = super().unpacket(conn, buffer)
            return None if message is None else ("ctx", message[1])

        def next_message(self, conn: Any, buffer: gevpy.RingBuffer) -> Any:
            return self.decode(conn, buffer)

    async with serving(Echo(), protocol=LINES) as server, connect(url_of(server), protocol=Numbered()) as client:
        client.send(b"one")
        assert await soon(client.recv_message()) == ("ctx", b"one")


async def test_many_more_than_the_queue_holds_keep_their_order(echo: str) -> None:
    """Ten thousand pipelined requests get their replies in order."""
    async with connect(echo, protocol=LINES) as client:
        for number in range(10_000):
            client.send(b"%d" % number)
            await client.drain()
        for number in range(10_000):
            assert await soon(client.recv()) == b"%d" % number


async def test_a_large_exchange_does_not_lock_up() -> None:
    """A server that reads only as fast as its replies are taken, and a client with much to send, both go on."""
    size, count = 64 * 1024, 200
    frames = gevpy.LengthPrefixedProtocol(max_frame_bytes=size)
    async with serving(Echo(), protocol=frames) as server, connect(url_of(server), protocol=frames) as client:

        async def send() -> None:
            for _ in range(count):
                client.send(bytes(size))
                await client.drain()

        sender = asyncio.ensure_future(send())
        for _ in range(count):
            assert len(await soon(client.recv())) == size
        await soon(sender)


async def test_the_protocol_can_be_swapped(echo: str) -> None:
    """An assigned protocol is used from then on, on what is still buffered, too."""
    async with connect(echo, protocol=LINES) as client:
        client.send(b"abc")
        assert await soon(client.recv()) == b"abc"
        client.protocol = gevpy.FixedLengthProtocol(2)
        client.send(b"d\n")
        assert await soon(client.recv()) == b"d\n"
        assert isinstance(client.protocol, gevpy.FixedLengthProtocol)
        with pytest.raises(gevpy.ConfigError):
            client.protocol = "lines"  # type: ignore[assignment]


async def test_one_protocol_object_serves_many_clients(echo: str) -> None:
    """Like on a server, one protocol object is enough for all connections."""
    async with connect(echo, protocol=LINES) as one, connect(echo, protocol=LINES) as other:
        one.send(b"1")
        other.send(b"2")
        assert [await soon(one.recv()), await soon(other.recv())] == [b"1", b"2"]


async def test_on_written_is_told(echo: str) -> None:
    """``on_written`` is told once the message has left."""
    told: list[tuple[Any, Any]] = []
    async with connect(echo, protocol=LINES) as client:
        client.send(b"x", on_written=lambda data, error: told.append((data, error)))
        await soon(client.recv())
        assert told == [(b"x", None)]


async def test_another_thread_may_send(echo: str) -> None:
    """``send`` works from any thread."""
    async with connect(echo, protocol=LINES) as client:
        thread = threading.Thread(target=client.send, args=(b"from afar",))
        thread.start()
        assert await soon(client.recv()) == b"from afar"
        thread.join()


# -- waiting ---------------------------------------------------------------------------------------


async def test_recv_times_out_and_the_connection_lives(echo: str) -> None:
    """A server that doesn't answer is a TimeoutError that says what was waited for; then all goes on."""
    async with connect(echo, protocol=LINES) as client:
        with pytest.raises(TimeoutError, match=f"no message from {echo} within 0.01 s"):
            await client.recv(timeout_s=0.01)
        client.send(b"late")
        assert await soon(client.recv()) == b"late"


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), "1", True])
async def test_recv_wants_seconds(echo: str, timeout_s: Any) -> None:
    """A timeout that is no number of seconds above 0 is a ConfigError."""
    async with connect(echo, protocol=LINES) as client:
        with pytest.raises(gevpy.ConfigError, match="timeout_s"):
            await client.recv(timeout_s)


async def test_only_one_task_waits(echo: str) -> None:
    """A second task that waits for messages is told so, and the first still gets its message."""
    async with connect(echo, protocol=LINES) as client:
        first = asyncio.ensure_future(client.recv())
        await turns(2)
        with pytest.raises(gevpy.GevError, match="another task"):
            await client.recv()
        client.send(b"x")
        assert await soon(first) == b"x"


async def test_cancelling_recv_loses_no_message(echo: str) -> None:
    """However the cancellation meets the message, the message is there for the next ``recv``."""
    async with connect(echo, protocol=LINES) as client:
        for number in range(50):
            waiting = asyncio.ensure_future(client.recv())
            await turns(2)
            client.send(b"%d" % number)
            if number % 2:
                await until(lambda: client._messages)  # the waiter is woken, and has not run yet
            waiting.cancel()
            try:
                got = await waiting
            except asyncio.CancelledError:
                got = await soon(client.recv())
            assert got == b"%d" % number


async def test_reading_pauses_while_messages_wait() -> None:
    """A server that sends without end fills the queue, not the memory; what is fetched is made room for."""
    recorder = Recorder()
    async with (
        serving(recorder, protocol=LINES, limits=gevpy.Limits(slow_consumer="block")) as server,
        connect(url_of(server), protocol=LINES) as client,
    ):
        conn = await recorder.conn()
        for number in range(1000):
            conn.send(b"%d" % number)
        await until(lambda: len(client._messages) == MAX_MESSAGES)
        await turns(20)
        assert len(client._messages) == MAX_MESSAGES
        for number in range(1000):
            assert await soon(client.recv()) == b"%d" % number
            assert len(client._messages) <= MAX_MESSAGES


async def test_large_messages_fill_the_queue_by_their_bytes() -> None:
    """At 1 MiB reading pauses, though few messages wait."""
    recorder = Recorder()
    frames = gevpy.LengthPrefixedProtocol(max_frame_bytes=1 << 20)
    async with (
        serving(recorder, protocol=frames, limits=gevpy.Limits(max_write_buffer_bytes=1 << 26)) as server,
        connect(url_of(server), protocol=frames) as client,
    ):
        conn = await recorder.conn()
        for _ in range(20):
            conn.send(bytes(600_000))
        await until(lambda: client._bytes >= 1 << 20)
        await turns(20)
        assert len(client._messages) == 2
        for _ in range(20):
            assert len(await soon(client.recv())) == 600_000


async def test_sending_too_much_without_waiting_is_refused() -> None:
    """By default nothing is lost: beyond the limit ``send`` raises, and ``drain`` waits for room."""
    async with listening() as peers, connect(peers.url) as client:
        peer = await peers.take()
        sent = 0
        with contextlib.suppress(gevpy.WriteBufferFull):
            while sent < 1 << 30:
                client.send(bytes(1 << 20))
                sent += 1 << 20
        assert sent < 1 << 30
        drained = asyncio.ensure_future(client.drain())
        await turns(3)
        assert not drained.done()
        assert len(await peer.read(sent)) == sent
        await soon(drained)
        client.abort()


# -- the end ---------------------------------------------------------------------------------------


async def test_iteration_ends_when_the_server_closes() -> None:
    """``async for`` gives what had come, all of it, and ends where the server closed in order."""

    def push(conn: gevpy.Connection) -> None:
        for number in range(500):
            conn.send(b"%d" % number)
        conn.close()

    async with (
        serving(recording(on_connect=push), protocol=LINES) as server,
        connect(url_of(server), protocol=LINES) as client,
    ):
        assert [data async for data in client] == [b"%d" % number for number in range(500)]
        assert client.close_reason == gevpy.CloseReason(gevpy.CloseKind.PEER_CLOSED)
        with pytest.raises(gevpy.ConnectionClosed) as caught:
            await client.recv()
        assert caught.value.reason is client.close_reason
        with pytest.raises(gevpy.ConnectionClosed):
            client.send(b"too late")
        with pytest.raises(gevpy.ConnectionClosed):
            await client.drain()


async def test_closing_keeps_what_had_come(echo: str) -> None:
    """After ``close`` the messages that had come are still there; then it is ConnectionClosed."""
    async with connect(echo, protocol=LINES) as client:
        client.send(b"1")
        client.send(b"2")
        await until(lambda: len(client._messages) == 2)
        await soon(client.close())
        assert [data async for data in client] == [b"1", b"2"]
        await soon(client.close())


async def test_closing_sends_what_waits() -> None:
    """``close`` returns when all that was sent has left, and the peer sees it end by FIN."""
    async with listening() as peers, connect(peers.url) as client:
        peer = await peers.take()
        client.send(bytes(500_000))
        closing = asyncio.ensure_future(client.close())
        assert len(await peer.read_to_end()) == 500_000
        await soon(closing)


async def test_closing_wakes_who_waits(echo: str) -> None:
    """Who waits in ``recv``, or iterates, learns of the end."""
    async with connect(echo, protocol=LINES) as client:
        waiting = asyncio.ensure_future(client.recv())
        await turns(2)
        await soon(client.close())
        with pytest.raises(gevpy.ConnectionClosed, match="closed_locally"):
            await soon(waiting)


async def test_an_aborted_client_is_not_a_normal_end(echo: str) -> None:
    """``abort`` resets at once, and ``async for`` raises: what was under way is lost."""
    async with connect(echo, protocol=LINES) as client:
        client.abort()
        with pytest.raises(gevpy.ConnectionClosed, match="aborted"):
            async for _ in client:
                pass


async def test_an_idle_client_is_closed() -> None:
    """With ``idle_timeout_s`` silence ends the connection, which is no normal end; by default it doesn't."""
    async with listening() as peers, connect(peers.url, idle_timeout_s=0.1) as client:
        with pytest.raises(gevpy.ConnectionClosed) as caught:
            await soon(anext(client))
        assert caught.value.reason is not None
        assert caught.value.reason.kind is gevpy.CloseKind.IDLE
    async with listening() as peers, connect(peers.url) as client:
        assert client.connection.worker._reactor.idle_ticks == 0


# -- connecting ------------------------------------------------------------------------------------


async def test_refusal() -> None:
    """Nobody there is a ConnectionRefusedError with the URL."""
    with refusing_port() as port:
        url = f"tcp://127.0.0.1:{port}"
        with pytest.raises(ConnectionRefusedError, match=f"cannot connect to {url}: "):
            await connect(url)
        with pytest.raises(ConnectionRefusedError):
            async with connect(url):
                pytest.fail("it is entered only when connected")


async def test_black_hole_times_out() -> None:
    """Who neither answers nor refuses is a TimeoutError with the URL after ``connect_timeout_s``."""
    with black_hole() as port, pytest.raises(TimeoutError, match=rf"tcp://127.0.0.1:{port}: .* within 0.05 s"):
        await connect(f"tcp://127.0.0.1:{port}", connect_timeout_s=0.05)


async def test_tls_with_a_silent_server_times_out() -> None:
    """A server that never shakes hands is given up after ``connect_timeout_s``, too."""
    async with listening() as peers:
        with pytest.raises(TimeoutError, match=r"tls://.* within 0.05 s"):
            await connect(peers.url.replace("tcp", "tls"), connect_timeout_s=0.05)
        with pytest.raises(gevpy.HandshakeError):
            await connect(peers.url.replace("tcp", "tls"), timeouts=gevpy.Timeouts(handshake_s=0.05))


@pytest.mark.parametrize("steps", range(24))
@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_connecting_can_be_cancelled_anywhere(steps: int, scheme: str, tmp_path: Path) -> None:
    """Cancelled after any number of turns, connecting leaves nothing: no task, no reactor, no connection."""
    shelf = Shelf(tmp_path)
    tls = shelf.tls if scheme == "tls" else None
    trust = shelf.client() if scheme == "tls" else None
    async with serving(Echo(), ssl=tls) as server:

        async def open_and_close() -> None:
            name = NAME if scheme == "tls" else None
            async with connect(url_of(server, scheme), ssl=trust, server_hostname=name):
                pass

        task = asyncio.ensure_future(open_and_close())
        await turns(steps)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await soon(task)
        await until(lambda: server.connections == 0 and not reactor_of(server).pending)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"protocol": "lines"}, "protocol"),
        ({"protocol": gevpy.LineProtocol}, "protocol"),
        ({"connect_timeout_s": 0}, "connect_timeout_s"),
        ({"connect_timeout_s": "1"}, "connect_timeout_s"),
        ({"idle_timeout_s": -1}, "idle_timeout_s"),
        ({"attempts": 0}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"attempts": 1.5}, "attempts"),
        ({"limits": None}, "limits"),
        ({"timeouts": 3}, "timeouts"),
        ({"watermarks": 3}, "watermarks"),
        ({"ssl": gevpy.TLS()}, "ssl"),
        ({"server_hostname": "x"}, "server_hostname"),
    ],
)
def test_options_that_cannot_work_are_told_at_once(options: dict[str, Any], name: str) -> None:
    """A slip is a ConfigError when ``connect`` is called, without a loop."""
    with pytest.raises(gevpy.ConfigError, match=name):
        connect("tcp://127.0.0.1:1", **options)


def test_tls_options_that_cannot_work_are_told_at_once() -> None:
    """So it is with TLS."""
    with pytest.raises(gevpy.ConfigError, match="ssl must be"):
        connect("tls://127.0.0.1:1", ssl=True)  # type: ignore[arg-type]
    with pytest.raises(gevpy.ConfigError, match="server_hostname is needed"):
        connect("unix:///x", ssl=gevpy.TLS())
    with pytest.raises(gevpy.ConfigError, match="no/such"):
        connect("tls://127.0.0.1:1", ssl=gevpy.TLS(ca="no/such"))


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Give certificates."""
    return Shelf(tmp_path)


async def test_tls_is_verified_and_speaks(shelf: Shelf) -> None:
    """``tls://`` with the right authority and name speaks TLS, and shows the session."""
    async with (
        serving(Echo(), protocol=LINES, ssl=shelf.tls) as server,
        connect(url_of(server, "tls"), protocol=LINES, ssl=gevpy.TLS(ca=shelf.ca), server_hostname=NAME) as client,
    ):
        client.send(b"secret")
        assert await soon(client.recv()) == b"secret"
        assert client.connection.tls is not None
        assert client.connection.tls.version() in ("TLSv1.2", "TLSv1.3")
        assert client.connection.peer_certificate is not None


async def test_tls_shows_our_certificate(shelf: Shelf) -> None:
    """With ``TLS(cert=...)`` a server that wants to know its clients knows us."""
    recorder = Recorder()
    mine = shelf.named("client.test")
    trusting = gevpy.TLS(cert=mine.cert, ca=shelf.ca)
    async with (
        serving(recorder, protocol=LINES, ssl=shelf.mutual) as server,
        connect(url_of(server, "tls"), protocol=LINES, ssl=trusting, server_hostname=NAME),
    ):
        assert (await recorder.conn()).peer_certificate


async def test_tls_with_the_wrong_name_or_authority_fails(shelf: Shelf) -> None:
    """Who isn't who we asked for, or vouched for by nobody we trust, is a HandshakeError that says why."""
    async with serving(Echo(), ssl=shelf.tls) as server:
        url = url_of(server, "tls")
        with pytest.raises(gevpy.HandshakeError, match="certificate") as caught:
            await connect(url, ssl=gevpy.TLS(ca=shelf.ca))  # an address, which the certificate doesn't have
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        with pytest.raises(gevpy.HandshakeError, match=f"{url}.*verify failed"):
            await connect(url, server_hostname=NAME)  # the system's authorities


async def test_a_server_without_tls_fails_the_handshake(echo: str) -> None:
    """Plain bytes are no handshake."""
    with pytest.raises((gevpy.HandshakeError, TimeoutError)):
        await connect(echo.replace("tcp", "tls"), connect_timeout_s=0.2)


async def test_tls_gives_all_that_came_before_the_end(shelf: Shelf) -> None:
    """Far more messages than the queue holds, and close_notify right behind them: not one is lost."""
    count = 5000

    def push(conn: gevpy.Connection, ctx: Any, data: Any) -> None:
        conn.send(b"".join(b"%d\n" % number for number in range(count)))
        conn.close()

    async with (
        serving(recording(on_message=push), ssl=shelf.tls) as server,
        connect(url_of(server, "tls"), protocol=LINES, ssl=shelf.client(), server_hostname=NAME) as client,
    ):
        client.send(b"go")
        await until(lambda: client.closed or len(client._messages) == MAX_MESSAGES)
        await turns(5)
        assert [data async for data in client] == [b"%d" % number for number in range(count)]


async def test_tls_waits_while_messages_are_not_fetched(shelf: Shelf) -> None:
    """Far more than fits is sent both ways over TLS: the queue stays bounded, and everything comes, in order."""
    size, count = 60_000, 200
    frames = gevpy.LengthPrefixedProtocol()
    async with (
        serving(Echo(), protocol=frames, ssl=shelf.tls) as server,
        connect(url_of(server, "tls"), protocol=frames, ssl=shelf.client(), server_hostname=NAME) as client,
    ):

        async def send() -> None:
            for number in range(count):
                client.send(number.to_bytes(2, "big") * (size // 2))
                await client.drain()

        sender = asyncio.ensure_future(send())
        await until(lambda: len(client._messages) == MAX_MESSAGES)
        for number in range(count):
            assert len(client._messages) <= MAX_MESSAGES
            assert (await soon(client.recv()))[:2] == number.to_bytes(2, "big")
        await soon(sender)


async def test_start_tls(shelf: Shelf) -> None:
    """STARTTLS: both sides agree in the clear, and go on encrypted."""

    class Upgrading(Recorder):
        async def on_message(self, conn: gevpy.Connection, ctx: Any, data: Any) -> Any:
            if data == b"STARTTLS":
                conn.send(b"go ahead")
                await conn.start_tls(shelf.tls)
                return None
            return data

    async with (
        serving(Upgrading(), protocol=LINES) as server,
        connect(url_of(server), protocol=LINES) as client,
    ):
        client.send(b"STARTTLS")
        assert await soon(client.recv()) == b"go ahead"
        await soon(client.start_tls(gevpy.TLS(ca=shelf.ca), server_hostname=NAME))
        client.send(b"secret")
        assert await soon(client.recv()) == b"secret"
        assert client.connection.tls is not None
        with pytest.raises(gevpy.GevError, match="already"):
            await client.start_tls(server_hostname=NAME)


async def test_start_tls_refuses_what_came_too_early(shelf: Shelf) -> None:
    """RFC 3207: what came in the clear beyond the answer must not pass for what comes after the handshake."""
    async with listening() as peers, connect(peers.url, protocol=LINES) as client:
        peer = await peers.take()
        await peer.send(b"go ahead\ninjected\n")
        assert await soon(client.recv()) == b"go ahead"
        with pytest.raises(gevpy.ProtocolError, match="in the clear"):
            await soon(client.start_tls(shelf.client(), server_hostname=NAME))
        assert client.closed


async def test_start_tls_needs_a_name() -> None:
    """A Unix socket has no name to be checked; without one nothing is sent."""
    with short_path() as path:
        async with gevpy.serve(Echo(), path=path), connect(f"unix://{path}") as client:
            with pytest.raises(gevpy.ConfigError, match="server_hostname"):
                await client.start_tls()
            assert not client.closed


# -- sharing ---------------------------------------------------------------------------------------


async def test_clients_with_equal_options_share(echo: str) -> None:
    """Equal options share one reactor, whatever the protocol; other options have another."""
    async with (
        connect(echo, protocol=LINES) as one,
        connect(echo, timeouts=gevpy.Timeouts()) as other,
        connect(echo, idle_timeout_s=60) as different,
    ):
        reactors = [client.connection.worker._reactor for client in (one, other, different)]
        assert reactors[0] is reactors[1]
        assert reactors[0] is not reactors[2]


async def test_the_last_client_ends_what_was_shared(echo: str) -> None:
    """When the last client is gone the tick stops, nothing is counted as there, and a new client begins anew."""
    async with connect(echo, protocol=LINES) as client:
        reactor = client.connection.worker._reactor
        assert reactor.admission.count == 1
    assert reactor.admission.count == 0
    assert reactor._unfinished == 0
    tick = reactor.tick
    async with connect(echo, protocol=LINES) as client:
        assert client.connection.worker._reactor is not reactor
        await until(lambda: client.connection.worker._reactor.tick >= 3)
    assert reactor.tick == tick


@pytest.mark.parametrize("name", loop_factories())
def test_a_loop_that_was_closed_too_early_leaks_nothing(name: str) -> None:
    """Clients left open when their loop closes go away with it, and so does what they shared."""

    async def leave_open() -> weakref.ref[Client]:
        async with listening() as peers:
            client = await connect(peers.url)
            assert client._shared is not None
            return weakref.ref(client)

    gc.collect()
    before = len(sharing._shared)
    loop = loop_factories()[name]()
    left = loop.run_until_complete(leave_open())
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the loops say that transports were left open, rightly
        del loop
        gc.collect()
    assert left() is None
    assert len(sharing._shared) == before
