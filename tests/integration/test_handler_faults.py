"""Rows C10 to C12 and C14: handlers that raise, send too late, race the wheel, or meddle in every callback."""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
import socket
import threading
import time
from collections import defaultdict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import gevpy
from tests.conftest import loop_factories
from tests.integration.harness import (
    PATIENCE_S,
    SOAK,
    Crowd,
    FaultServer,
    fate,
    percentile,
    raise_descriptor_limit,
    wait_until,
)
from tests.serving import reactor_of

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator

SCHEDULES = 1_000 if SOAK else 100
DEADLINE_S = 15
HOOKS = ("on_connect", "on_message", "on_close", "unpacket", "packet", "on_written", "timer")
RACERS = 2_000 if SOAK else 1_000
ROUNDS = 5
IDLE_S = 0.5
TICK_S = 0.1


class Boom(Exception):
    """What a faulty hook raises."""


class Faulty(gevpy.Handler):
    """Raises where the client tells it to, and writes down the order of the calls."""

    def __init__(self) -> None:
        """Begin with nothing recorded."""
        self.calls: dict[int, list[str]] = defaultdict(list)
        self.next_connect_fails = False
        self.close_fails: set[int] = set()

    def on_connect(self, conn: gevpy.Connection) -> None:
        self.calls[conn.id].append("connect")
        if self.next_connect_fails:
            self.next_connect_fails = False
            raise Boom

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> bytes:
        self.calls[conn.id].append("message")
        if data == b"on_message":
            raise Boom
        if data == b"on_close":
            self.close_fails.add(conn.id)
        if data == b"on_written":
            conn.send(b"", on_written=self.raise_boom)
        if data == b"timer":
            conn.worker.run_after(0, self.raise_boom, None, None)
        return data

    def raise_boom(self, *_: object) -> None:
        """Fail."""
        raise Boom

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        self.calls[conn.id].append("close")
        if conn.id in self.close_fails:
            raise Boom


class FaultyProtocol(gevpy.LineProtocol):
    """Fails on the lines ``unpacket`` and ``packet``."""

    def unpacket(self, conn: Any, buffer: gevpy.RingBuffer) -> tuple[Any, Any] | None:
        message = super().unpacket(conn, buffer)
        if message == (None, b"unpacket"):
            raise Boom
        return message

    def packet(self, conn: Any, data: Any) -> bytes:
        if data == b"packet":
            raise Boom
        return super().packet(conn, data)


class Schedule(RuleBasedStateMachine):
    """C10: clients come, speak, make a hook raise, and go, in any order; only the connection at fault ends."""

    factory: Callable[[], asyncio.AbstractEventLoop]

    @initialize()
    def start(self) -> None:
        """Start a server, and a client that must not notice any of it."""
        self.loop = type(self).factory()
        self.handler = Faulty()
        self.serving = gevpy.serve(self.handler, port=0, protocol=FaultyProtocol())
        self.clients: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.server = self.run(self.serving.__aenter__())
        self.witness = self.run(self.connect())

    def run(self, work: Any) -> Any:
        """Run a coroutine to its end, which must come."""
        return self.loop.run_until_complete(asyncio.wait_for(work, DEADLINE_S))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect a client."""
        return await asyncio.open_connection("127.0.0.1", self.server.addresses[0][1])

    async def ask(self, client: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes) -> bytes:
        """Send a line and receive one, or the end of the stream."""
        reader, writer = client
        writer.write(line + b"\n")
        return await reader.readline()

    async def leave(self, client: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        """Close a client."""
        client[1].close()
        await client[1].wait_closed()

    @rule()
    def join(self) -> None:
        """A client comes."""
        self.clients.append(self.run(self.connect()))

    @rule()
    def join_in_vain(self) -> None:
        """A client comes, and on_connect raises."""
        self.handler.next_connect_fails = True
        reader, writer = self.run(self.connect())
        assert self.run(reader.read()) == b""
        self.run(self.leave((reader, writer)))

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), hook=st.sampled_from(("none", *HOOKS[1:])))
    def speak(self, data: st.DataObject, hook: str) -> None:
        """A client speaks; if a hook raises, it ends, but for a timer's or on_close's."""
        client = data.draw(st.sampled_from(self.clients))
        lives = hook in ("none", "timer", "on_close")
        answer = self.run(self.ask(client, hook.encode()))
        if hook == "on_written":
            assert answer == b"\n", "what was sent before it still leaves"
            assert self.run(client[0].read()) == b"on_written\n"
        else:
            assert answer == (hook.encode() + b"\n" if lives else b"")
        if not lives:
            self.clients.remove(client)
            self.run(self.leave(client))

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        """A client goes."""
        client = data.draw(st.sampled_from(self.clients))
        self.clients.remove(client)
        self.run(self.leave(client))

    @invariant()
    def others_go_on(self) -> None:
        """The witness is served, whatever happened."""
        if hasattr(self, "witness"):
            assert self.run(self.ask(self.witness, b"hello")) == b"hello\n"

    def teardown(self) -> None:
        """Stop, and check the order of every connection's calls."""
        for client in [*self.clients, self.witness]:
            self.run(self.leave(client))
        self.run(self.serving.__aexit__(None, None, None))
        self.loop.close()
        for calls in self.handler.calls.values():
            assert calls[0] == "connect"
            assert calls[-1] == "close"
            assert set(calls[1:-1]) <= {"message"}


@pytest.mark.parametrize("name", sorted(loop_factories()))
def test_exceptions_end_only_their_connection(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """C10: exceptions in every hook: connect, messages, close, in order, once each; others never notice."""
    machine = type("Schedule", (Schedule,), {"factory": staticmethod(loop_factories()[name])})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=SCHEDULES,
            stateful_step_count=10,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_errors_are_logged_and_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    """C10: ten failing messages are ten closes and ten errors, and one line of the log, with its traceback."""
    handler = Faulty()
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0, protocol=FaultyProtocol()) as server:
        for _ in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][1])
            writer.write(b"on_message\n")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        reactor = reactor_of(server)
        assert reactor.stats.handler_errors == 10
        assert reactor.stats.closed == {gevpy.CloseKind.HANDLER_ERROR: 10}
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.name for record in errors] == ["gevpy.connection"]
    assert errors[0].exc_info


# -- C11 -------------------------------------------------------------------------------------------


class Catching(gevpy.Handler):
    """Gives its connections away."""

    def __init__(self) -> None:
        """Wait for the first connection."""
        loop = asyncio.get_running_loop()
        self.conn: asyncio.Future[gevpy.Connection] = loop.create_future()
        self.reason: asyncio.Future[gevpy.CloseReason] = loop.create_future()

    def on_connect(self, conn: gevpy.Connection) -> None:
        self.conn.set_result(conn)

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> bytes:
        return data

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        self.reason.set_result(reason)


@pytest.fixture
def debugging(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Watch asyncio's debug mode for complaints other than about slow callbacks."""
    yield

    def complains(record: logging.LogRecord) -> bool:
        return record.name == "asyncio" and record.levelname != "DEBUG" and "Executing" not in record.getMessage()

    assert not [record.getMessage() for record in caplog.records if complains(record)]


@pytest.mark.usefixtures("debugging")
async def test_a_send_after_the_close_is_an_error() -> None:
    """C11: whoever sends on a connection known to be closed is told so, with the reason."""
    asyncio.get_running_loop().set_debug(True)
    handler = Catching()
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][1])
        conn = await handler.conn
        conn.close()
        with pytest.raises(gevpy.ConnectionClosed) as caught:
            conn.send(b"too late")
        assert caught.value.reason is not None
        assert caught.value.reason.kind is gevpy.CloseKind.CLOSED_LOCALLY
        await handler.reason
        with pytest.raises(gevpy.ConnectionClosed):
            conn.send(b"far too late")
        conn.close()
        conn.abort()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.usefixtures("debugging")
async def test_threads_may_send() -> None:
    """C11: sends of a thread arrive, whole and in that thread's order, each with its ``on_written`` on the loop."""
    asyncio.get_running_loop().set_debug(True)
    handler = Catching()
    told: list[tuple[bytes, BaseException | None, int]] = []
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][1])
        conn = await handler.conn

        def note(data: bytes, error: BaseException | None) -> None:
            told.append((data, error, threading.get_ident()))

        def send_many(first: int) -> None:
            for number in range(first, first + 500):
                conn.send(b"%06d" % number, on_written=note)

        await asyncio.gather(*(asyncio.to_thread(send_many, first) for first in (0, 100_000)))
        got = await reader.readexactly(6 * 1000)
        numbers = [int(got[at : at + 6]) for at in range(0, len(got), 6)]
        assert [number for number in numbers if number < 100_000] == list(range(500))
        assert [number for number in numbers if number >= 100_000] == list(range(100_000, 100_500))
        writer.close()
        await writer.wait_closed()
        await handler.reason
    assert len(told) == 1000
    assert {error for _, error, _ in told} == {None}
    assert {ident for _, _, ident in told} == {threading.get_ident()}


@pytest.mark.usefixtures("debugging")
async def test_another_loop_may_send() -> None:
    """C11: a coroutine of another loop in another thread sends like any thread; after the close it learns of it."""
    asyncio.get_running_loop().set_debug(True)
    handler = Catching()
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][1])
        conn = await handler.conn

        async def elsewhere() -> None:
            conn.send(b"from afar")
            conn.close()

        await asyncio.to_thread(gevpy.run, elsewhere(), debug=True)
        assert await reader.read() == b"from afar"
        await handler.reason

        async def too_late() -> None:
            conn.send(b"too late")

        with pytest.raises(gevpy.ConnectionClosed):
            await asyncio.to_thread(gevpy.run, too_late(), debug=True)
        writer.close()
        await writer.wait_closed()


@pytest.mark.usefixtures("debugging")
async def test_a_send_that_crosses_the_close_is_told() -> None:
    """C11: a thread's send that was accepted and found the connection closed is told to ``on_written`` and counted."""
    asyncio.get_running_loop().set_debug(True)
    handler = Catching()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][1])
        conn = await handler.conn
        told: asyncio.Future[BaseException | None] = loop.create_future()
        thread = threading.Thread(
            target=partial(conn.send, b"crossing", on_written=lambda data, error: told.set_result(error))
        )
        thread.start()
        thread.join()  # the loop stands: the send waits for it
        conn.abort()
        assert isinstance(await told, gevpy.ConnectionClosed)
        reactor = reactor_of(server)
        assert sum(reactor.stats.dropped.values()) == 1
        writer.close()
        with suppress(ConnectionResetError):  # an abort may reset
            await writer.wait_closed()


# -- C12 -------------------------------------------------------------------------------------------


class Racer:
    """A client that sends one byte at about the moment at which it is to be evicted."""

    def __init__(self, sock: socket.socket, send_at: float) -> None:
        """Send at ``send_at``."""
        self.sock = sock
        self.send_at = send_at
        self.echoed = False

    def send(self) -> None:
        """Send now, if we are still connected."""
        try:
            self.sock.send(b"x")
        except ConnectionError:
            return  # evicted before

    def receive(self) -> bool:
        """Take what comes; tell whether that was the end."""
        try:
            got = self.sock.recv(16)
        except ConnectionError:
            return True
        self.echoed = self.echoed or bool(got)
        return not got


def race(racers: list[Racer]) -> None:
    """Have all send at their moments, and wait until all were evicted."""
    selector = selectors.DefaultSelector()
    for racer in racers:
        selector.register(racer.sock, selectors.EVENT_READ, racer)
    waiting = sorted(racers, key=lambda racer: racer.send_at, reverse=True)
    left = len(racers)
    end = time.monotonic() + PATIENCE_S
    while left:
        now = time.monotonic()
        assert now < end, f"{left} were never evicted"
        while waiting and waiting[-1].send_at <= now:
            waiting.pop().send()
        for key, _ in selector.select(max(0.0, waiting[-1].send_at - now) if waiting else 1.0):
            if key.data.receive():
                selector.unregister(key.fileobj)
                left -= 1
    selector.close()


def test_a_byte_races_the_wheel(fault_server: Callable[..., FaultServer]) -> None:
    """C12: bytes sent around the eviction are handled and keep the connection, or neither; nobody goes early."""
    raise_descriptor_limit(RACERS + 200)
    chance = random.Random(12)
    config: dict[str, Any] = {"handler_args": {"by_message": True}, "serve": {"idle_timeout_s": IDLE_S}}
    with fault_server("time", **config) as server:
        for _ in range(ROUNDS):
            if 0 < race_once(server, chance) < RACERS:
                break
        else:
            pytest.fail("the moments were never around the eviction")


def race_once(server: FaultServer, chance: random.Random) -> int:
    """Have all race and check what became of them; give how many bytes were handled.

    It is all of them, or none, where the machine stalled at that moment: then another round is to show it.
    """
    server.ask("lag")
    before: int = server.report()["received_messages"]
    seen = len(server.ask("lived"))
    with Crowd(server.port) as crowd:
        racers = []
        for _ in range(RACERS):
            sock = crowd.join()
            sock.setblocking(False)
            racers.append(Racer(sock, time.monotonic() + IDLE_S + chance.uniform(-TICK_S, 6 * TICK_S)))
        race(racers)
    slack = server.slack_s()
    lived = server.ask("lived")[seen:]
    assert len(lived) == RACERS
    assert {reason for _, reason in lived} == {"idle"}
    took = [seconds for seconds, _ in lived]
    assert min(took) >= IDLE_S - 0.002, "never early; the tick is taken a moment before the handler's clock"
    assert percentile(took, 0.8) <= IDLE_S + TICK_S + slack
    # A byte that came too late is taken off the wire before the socket closes, in a turn or two: no reset.
    assert max(took) <= IDLE_S + 2 * TICK_S + slack
    handled: int = server.report()["received_messages"] - before
    assert handled == sum(racer.echoed for racer in racers), "handled and answered, or neither"
    return handled


# -- C14 -------------------------------------------------------------------------------------------

PLACES = ("on_connect", "on_message", "unpacket", "packet", "on_written", "on_writable", "timer", "on_close")
ACTIONS = (
    "pause_reading",
    "resume_reading",
    "pause_reading+resume_reading",
    "close",
    "abort",
    "shutdown_write",
    "close+abort",
)
PAUSED_IDLE_S = 2.0  # who stopped reading never sees the peer's FIN: idleness ends that; our own stalls are shorter


def provoke(server: FaultServer, place: str, acted: Callable[[], bool]) -> None:
    """Come, speak, have the output congested and relieved, and go: every callback but ``on_drain`` is reached."""
    end = time.monotonic() + PATIENCE_S
    with Crowd(server.port) as crowd:
        client = crowd.join(timeout_s=0.05)
        with suppress(ConnectionError):  # aborted
            client.sendall(b"big")
            while not acted() and place != "on_close":  # that one comes when we have gone
                assert time.monotonic() < end, "the callback is never reached"
                with suppress(TimeoutError):  # reading is paused
                    if not client.recv(1 << 20):
                        break
    wait_until(acted, "the callback is reached")


def test_meddling_in_every_callback_is_safe(fault_server: Callable[..., FaultServer]) -> None:
    """C14: pause, resume, close or abort inside each callback: no crash, and the next client is served."""
    with fault_server("meddle", protocol="meddle", serve={"idle_timeout_s": PAUSED_IDLE_S}) as server:
        for action, place in itertools.product(ACTIONS, PLACES):
            before = server.ask("acted")
            server.ask("arm", place=place, action=action)
            provoke(server, place, lambda seen=before: server.ask("acted") > seen)  # type: ignore[misc]
            server.ask("arm", place="", action="")
            with Crowd(server.port) as crowd:
                assert fate(crowd.join()) == "live", f"after {action} inside {place}"
        server.wait_for(0)


def test_meddling_in_on_drain_is_safe(fault_server: Callable[..., FaultServer]) -> None:
    """C14: the same inside ``on_drain``: the drain ends, whatever was done in it."""
    with fault_server("meddle", protocol="meddle", serve={"idle_timeout_s": PAUSED_IDLE_S}) as server:
        for number, action in enumerate(ACTIONS, 1):
            with Crowd(server.port) as crowd:
                server.ask("arm", place="on_drain", action=action)
                assert fate(crowd.join()) == "live"
                server.ask("drain")
                wait_until(lambda seen=number: server.ask("acted") == seen, action)  # type: ignore[misc]
                server.wait_for(0)


class StrictTransport:
    """Counts what is asked of it."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.calls: list[str] = []
        self.socket, self.peer = socket.socketpair()
        self.socket.setblocking(False)

    def close_sockets(self) -> None:
        """Close what stands behind it."""
        self.socket.close()
        self.peer.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Take any call; there is never anything unsent."""

        def call(*args: object) -> Any:
            self.calls.append(name)
            if name == "get_extra_info":
                return self.socket
            return 0 if name == "get_write_buffer_size" else None

        return call


async def test_get_buffer_never_touches_the_transport() -> None:
    """C14: whatever state a connection is in, get_buffer lends room and does nothing else (uvloop would crash)."""
    handler = Catching()
    async with gevpy.serve(handler, port=0, protocol=gevpy.LengthPrefixedProtocol()) as server:
        reactor = reactor_of(server)
        assert reactor.admission.enter("") is None
        reactor.expect()  # as the listener does
        conn = gevpy.Connection(reactor, "", "")
        transport = StrictTransport()
        conn.connection_made(transport)  # type: ignore[arg-type]
        stream = b"\0\0\0\5hello" * 3 + b"\0\1\0\0" + bytes(65536) + b"\0\0"
        for act in (conn.pause_reading, conn.resume_reading, conn.shutdown_write, conn.close, conn.abort):
            for number in range(40):
                before = list(transport.calls)
                room = conn.get_buffer(-1)
                assert len(room) > 0
                assert transport.calls == before
                if act not in (conn.close, conn.abort):
                    room[:1] = stream[number : number + 1]
                    conn.buffer_updated(1)
            act()
            assert len(conn.get_buffer(-1)) > 0
        conn.connection_lost(None)
        transport.close_sockets()
        assert (await handler.reason).kind is gevpy.CloseKind.CLOSED_LOCALLY
