"""The front door: starting, serving, stopping, and what is left behind."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import logging
import os
import socket
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind, Limits, Timeouts, Watermarks
from tests.serving import (
    DRAIN_S,
    MORE_THAN_THE_KERNEL_TAKES,
    Client,
    Recorder,
    connected,
    frame,
    recording,
    serving,
    short_path,
    soon,
    stalled,
    tcp_address,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy import Connection, Server, Worker

FILL = bytes(MORE_THAN_THE_KERNEL_TAKES)


def _echo(conn: Connection, ctx: Any, data: bytes) -> bytes:
    return data


def _descriptors() -> set[tuple[str, str]]:
    """Give what this process has open, by number and target; without the one file that libuv keeps per loop."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)  # noqa: PTH115 - sockets are no paths
        except FileNotFoundError:
            continue
        if target != os.devnull:
            found.add((entry.name, target))
    return found


def _is_free(address: Any) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections in TIME_WAIT don't count
        try:
            sock.bind(address)
            sock.listen()
        except OSError:
            return False
    return True


# -- the two ways to serve -----------------------------------------------------------------------------


async def test_a_context_gives_a_running_server_and_stops_it() -> None:
    """Inside it serves; outside the port is free, connections have ended, addresses are empty."""
    handler = recording(on_message=_echo)
    async with gevpy.serve(handler, port=0) as server:
        address = tcp_address(server)
        async with await Client.connect(address) as client:
            await client.send(b"x")
            assert await client.read(1) == b"x"
            assert server.connections == 1
            await server.stop()
            assert await client.read_to_end() == b""
    assert (await handler.reason()).kind is CloseKind.DRAINED
    assert server.connections == 0
    assert server.addresses == []
    assert _is_free(address)


async def test_an_exception_inside_the_context_stops_the_server_and_passes() -> None:
    """The with-block's own exception is not swallowed."""
    address: Any = None

    async def main() -> None:
        nonlocal address
        async with gevpy.serve(Recorder(), port=0) as server:
            address = server.addresses[0]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await main()
    assert _is_free(address)


async def test_awaiting_serve_serves_until_it_is_cancelled() -> None:
    """It shows no Server; a handler sees its worker. Cancelling stops the server with its drain."""
    started: asyncio.Queue[Worker] = asyncio.Queue()

    def on_start(worker: Worker) -> None:
        started.put_nowait(worker)

    with short_path() as path:
        handler = recording(on_start=on_start, on_message=_echo)
        task = asyncio.ensure_future(_awaited(handler, path=path))
        assert (await soon(started.get())).id == 0
        async with await Client.connect(str(path)) as client:
            await client.send(b"x")
            assert await client.read(1) == b"x"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await soon(task)
            assert await client.read_to_end() == b""
        assert not path.exists()
    assert (await handler.reason()).kind is CloseKind.DRAINED


async def _awaited(handler: gevpy.Handler, **options: Any) -> None:
    await gevpy.serve(handler, **options)


async def test_serve_forever_returns_when_the_server_stops() -> None:
    """However the stop came; and at once when it has stopped already."""
    async with gevpy.serve(Recorder(), port=0) as server:
        waiting = asyncio.create_task(server.serve_forever())
        await turns(3)
        assert not waiting.done()
        await server.stop()
        await soon(waiting)
        await soon(server.serve_forever())


async def test_stop_is_idempotent_and_all_callers_wait_for_the_end() -> None:
    """Stopped twice, at the same time or later: on_stop comes once."""
    stops: list[int] = []
    handler = recording(on_stop=lambda worker: stops.append(worker.id))
    async with gevpy.serve(handler, port=0) as server:
        await soon(asyncio.gather(server.stop(), server.stop(), server.stop(0)))
        assert server.addresses == []
        await soon(server.stop())
    assert stops == [0]


def test_run_serves_in_a_program_of_its_own() -> None:
    """gevpy.run with serve inside: the whole of a small program."""
    answers: list[bytes] = []

    async def main() -> None:
        async with connected(recording(on_message=_echo)) as (_, client):
            await client.send(b"hello")
            answers.append(await client.read(5))

    gevpy.run(main())
    assert answers == [b"hello"]


def test_a_server_runs_in_another_thread() -> None:
    """Outside the main thread serve_forever installs no signal handlers and works."""
    done: list[bytes] = []

    async def main() -> None:
        async with connected(recording(on_message=_echo)) as (server, client):
            serving_task = asyncio.create_task(server.serve_forever())
            await client.send(b"hello")
            done.append(await client.read(5))
            await server.stop()
            await soon(serving_task)

    thread = threading.Thread(target=lambda: gevpy.run(main()))
    thread.start()
    thread.join(10)
    assert done == [b"hello"]


async def test_several_servers_share_one_loop() -> None:
    """Each has its own connections, counters, options and end."""
    first, second = recording(on_message=_echo), recording(on_message=lambda conn, ctx, data: data.upper())
    async with serving(first) as one, serving(second, protocol=gevpy.LineProtocol()) as two:
        assert one.addresses != two.addresses
        async with (
            await Client.connect(one.addresses[0]) as raw,
            await Client.connect(two.addresses[0]) as lines,
        ):
            await raw.send(b"raw")
            assert await raw.read(3) == b"raw"
            await lines.send(b"line\r\n")
            assert await lines.read(5) == b"LINE\n"
            assert (one.connections, two.connections) == (1, 1)
            one_conn, two_conn = await first.conn(), await second.conn()
            assert one_conn.worker is not two_conn.worker
            one.broadcast(b"to one")
            await one.stop()
            assert await raw.read_to_end() == b"to one"
            await lines.send(b"still here\n")
            assert await lines.read(11) == b"STILL HERE\n"


# -- starting ------------------------------------------------------------------------------------------


async def test_nothing_is_accepted_before_on_start_has_ended() -> None:
    """A client that connects meanwhile waits in the backlog."""
    gate = asyncio.Event()
    entered = asyncio.Event()

    async def on_start(worker: Worker) -> None:
        entered.set()
        await gate.wait()
        handler.calls.append("started")

    handler = recording(on_start=on_start)
    with short_path() as path:
        starting = asyncio.ensure_future(_awaited(handler, path=path))
        await soon(entered.wait())
        async with await Client.connect(str(path)):
            await turns(20)
            assert handler.calls == []
            gate.set()
            await handler.conn()
            assert handler.calls == ["started", "connect"]
            starting.cancel()
            await asyncio.wait([starting])


@pytest.mark.parametrize("hook_is_async", [False, True])
async def test_on_start_raising_leaves_nothing(*, hook_is_async: bool) -> None:
    """Its exception surfaces; socket file, port, timers, tasks and descriptors are gone; no on_stop."""
    beats: weakref.WeakSet[Any] = weakref.WeakSet()

    def beat() -> Callable[[], None]:
        made = functools.partial(pytest.fail, "it is not to beat")
        beats.add(made)
        return made

    def on_start(worker: Worker) -> None:
        worker.run_every(1000.0, beat())
        raise ZeroDivisionError

    async def on_start_async(worker: Worker) -> None:
        await asyncio.sleep(0)
        on_start(worker)

    handler = recording(
        on_start=on_start_async if hook_is_async else on_start,
        on_stop=lambda worker: handler.calls.append("stop"),
    )
    await turns(3)
    descriptors, tasks = _descriptors(), asyncio.all_tasks()
    with short_path() as path:
        for options in ({"path": path}, {"port": 0, "metrics": "127.0.0.1:0"}):
            with pytest.raises(ZeroDivisionError):
                async with gevpy.serve(handler, **options):
                    pytest.fail("it must not start")
        assert not path.exists()
    await turns(3)
    gc.collect()
    assert _descriptors() == descriptors
    assert asyncio.all_tasks() == tasks
    assert not beats  # no timer holds one any more
    assert handler.calls == []


async def test_a_failed_bind_leaves_nothing() -> None:
    """Neither descriptors nor tasks nor the addresses that could be bound before it."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        descriptors, tasks = _descriptors(), asyncio.all_tasks()
        for _ in range(3):
            with pytest.raises(gevpy.BindError):
                async with gevpy.serve(Recorder(), host=["127.0.0.2", "127.0.0.1"], port=port):
                    pytest.fail("it must not start")
        gc.collect()
        assert _descriptors() == descriptors
        assert asyncio.all_tasks() == tasks
        assert _is_free(("127.0.0.2", port))


async def test_a_server_leaves_nothing_behind() -> None:
    """After the stop: no descriptor, no task, no callback of it."""
    async with connected(recording(on_message=_echo)) as (_, client):  # imports and caches of the first time
        await client.send(b"x")
    await turns(5)
    gc.collect()
    descriptors, tasks = _descriptors(), asyncio.all_tasks()

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        conn.worker.run_every(0.01, lambda: None)
        await asyncio.sleep(0)
        return data

    for _ in range(3):
        async with connected(recording(on_message=on_message)) as (_, client):
            await client.send(b"x")
            assert await client.read(1) == b"x"
    await turns(5)
    gc.collect()
    assert _descriptors() == descriptors
    assert asyncio.all_tasks() == tasks


async def test_one_line_says_what_serves_where(caplog: pytest.LogCaptureFixture, loop_kind: str) -> None:
    """Address, loop, build and limits, in one record of level INFO; nothing else is said at a start."""
    caplog.set_level(logging.INFO, "gevpy")
    async with serving(Recorder(), limits=Limits(max_connections=77), idle_timeout_s=12):
        (record,) = [record for record in caplog.records if record.name.startswith("gevpy")]
    line = record.getMessage()
    assert record.levelno == logging.INFO
    core = "compiled" if gevpy.build_info().compiled else "pure"
    for word in ("127.0.0.1:", loop_kind, core, "max_connections=77", "idle=12", "RawProtocol"):
        assert word in line
    assert "\n" not in line


def test_logging_is_never_configured() -> None:
    """The library adds no handler and sets no level."""
    logger = logging.getLogger("gevpy")
    assert logger.handlers == []
    assert logger.level == logging.NOTSET
    assert logger.propagate


# -- the drain -----------------------------------------------------------------------------------------


async def test_stop_flushes_what_waits_and_does_not_wait_for_the_peer() -> None:
    """Output of every connection leaves; the peer's own FIN is not needed."""
    handler = Recorder()
    async with stalled(handler) as (server, client, conn):
        conn.send(FILL)
        stopping = asyncio.create_task(server.stop())
        assert len(await client.read_to_end()) == len(FILL)
        await soon(stopping)
        assert (await handler.reason()) == gevpy.CloseReason(CloseKind.DRAINED)


async def test_stop_accepts_no_more() -> None:
    """From the call on a new connection is refused, though the drain still goes on."""
    handler = Recorder()
    async with stalled(handler) as (server, client, conn):
        conn.send(FILL)
        path = server.addresses[0]
        stopping = asyncio.create_task(server.stop())
        await turns(3)
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            await Client.connect(path)
        await client.read_to_end()
        await soon(stopping)


async def test_stop_aborts_at_the_deadline() -> None:
    """A peer that doesn't read is waited for drain_timeout_s and no longer; the reason says so."""
    handler = Recorder()
    async with stalled(handler) as (server, _client, conn):
        conn.send(FILL)
        begun = asyncio.get_running_loop().time()
        await soon(server.stop(0.2))
        assert 0.19 <= asyncio.get_running_loop().time() - begun < DRAIN_S  # of the options
        reason = await handler.reason()
        assert reason.kind is CloseKind.DRAINED
        assert reason.error is not None


async def test_stop_takes_the_deadline_of_the_options() -> None:
    """Without an argument it is ``timeouts.drain_s``."""
    handler = Recorder()
    async with stalled(handler, timeouts=Timeouts(drain_s=0.1)) as (server, _client, conn):
        conn.send(FILL)
        await soon(server.stop())
        assert (await handler.reason()).kind is CloseKind.DRAINED


async def test_stop_waits_for_handlers_that_run() -> None:
    """A running asynchronous handler ends, and its reply leaves, before its connection closes."""
    gate = asyncio.Event()
    entered = asyncio.Event()

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        entered.set()
        await gate.wait()
        return b"done"

    handler = recording(on_message=on_message)
    async with connected(handler) as (server, client):
        await client.send(b"x")
        await soon(entered.wait())
        stopping = asyncio.create_task(server.stop())
        await turns(20)
        assert not stopping.done()
        gate.set()
        assert await client.read_to_end() == b"done"
        await soon(stopping)
        assert (await handler.reason()) == gevpy.CloseReason(CloseKind.DRAINED)


async def test_stop_cancels_handlers_that_never_end() -> None:
    """At the deadline they are cancelled, and on_close and on_stop still come, in this order."""
    entered = asyncio.Event()

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> None:
        entered.set()
        await asyncio.Event().wait()

    handler = recording(on_message=on_message, on_stop=lambda worker: handler.calls.append("stop"))
    async with connected(handler) as (server, client):
        await client.send(b"x")
        await soon(entered.wait())
        await soon(server.stop(0.1))
        assert handler.calls == ["connect", "close", "stop"]
        await client.until_gone()


@pytest.mark.parametrize("hook_is_async", [False, True])
async def test_on_drain_is_the_last_chance_to_send(*, hook_is_async: bool) -> None:
    """What it sends leaves before the stream ends, even after awaits."""

    def on_drain(conn: Connection) -> None:
        assert conn.connected
        conn.send(b"good bye")

    async def on_drain_async(conn: Connection) -> None:
        conn.send(b"wait... ")
        await asyncio.sleep(0.01)
        on_drain(conn)

    handler = recording(on_drain=on_drain_async if hook_is_async else on_drain)
    async with connected(handler) as (server, client):
        conn = await handler.conn()
        conn.send(b"earlier ")
        stopping = asyncio.create_task(server.stop())
        expected = b"earlier wait... good bye" if hook_is_async else b"earlier good bye"
        assert await client.read_to_end() == expected
        await soon(stopping)
        assert (await handler.reason()).kind is CloseKind.DRAINED


async def test_nothing_is_read_during_the_drain() -> None:
    """A peer that goes on talking does not keep its connection alive."""
    handler = recording(on_message=_echo)
    async with connected(handler) as (server, client):
        await handler.conn()
        client.sock.send(b"ping")
        await soon(server.stop())
        await client.until_gone()


@pytest.mark.parametrize("wait", range(8))
async def test_a_connection_that_comes_while_the_server_stops_is_not_forgotten(wait: int) -> None:
    """Accepted in the turn of the stop or not: on_connect is paired, nothing follows on_stop, and it is closed."""
    handler = recording(on_message=_echo, on_stop=lambda worker: handler.calls.append("stop"))
    async with gevpy.serve(handler, port=0) as server:
        with socket.create_connection(tcp_address(server)) as sock:  # no turn of the loop in between
            sock.setblocking(False)
            await turns(wait)
            await soon(server.stop())
            assert handler.calls in (["stop"], ["connect", "close", "stop"])
            client = Client(sock)
            await client.until_gone()
            await turns(5)
            assert handler.calls in (["stop"], ["connect", "close", "stop"])


async def test_stop_ends_the_timers() -> None:
    """A run_every of the server or its worker doesn't beat on after the stop."""
    beats: list[str] = []
    beat = asyncio.Event()

    def on_beat(name: str) -> None:
        beats.append(name)
        if len(set(beats)) == 2:
            beat.set()

    async with serving(recording(on_start=lambda worker: worker.run_every(0.01, on_beat, "worker"))) as server:
        server.run_every(0.01, on_beat, "server")
        await soon(beat.wait())
        await server.stop()
        count = len(beats)
        after = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, after.set)
        await soon(after.wait())
        assert len(beats) == count


@pytest.mark.parametrize("hook_is_async", [False, True])
async def test_on_stop_comes_after_the_last_on_close(*, hook_is_async: bool) -> None:
    """Also after an on_close that takes its time; what on_stop raises is logged and the stop goes on."""

    async def on_close(conn: Connection, reason: Any) -> None:
        await asyncio.sleep(0.01)
        handler.calls.append("close")

    def on_stop(worker: Worker) -> None:
        handler.calls.append(f"stop with {worker.connections}")
        raise ZeroDivisionError

    async def on_stop_async(worker: Worker) -> None:
        await asyncio.sleep(0)
        on_stop(worker)

    handler = recording(on_close=on_close, on_stop=on_stop_async if hook_is_async else on_stop)
    async with connected(handler) as (server, client):
        await handler.conn()
        await soon(server.stop())
        await client.read_to_end()
    assert handler.calls == ["connect", "close", "stop with 0"]


async def test_a_handler_may_stop_its_server() -> None:
    """A stop begun by a handler flushes that handler's own reply."""
    servers: list[Server] = []
    stopping: list[asyncio.Task[None]] = []

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        stopping.append(asyncio.create_task(servers[0].stop()))
        return b"stopping"

    async with connected(recording(on_message=on_message)) as (server, client):
        servers.append(server)
        await client.send(b"stop")
        assert await client.read_to_end() == b"stopping"
        await soon(stopping[0])


# -- timers and broadcast ------------------------------------------------------------------------------


async def test_timers_of_the_server() -> None:
    """run_after once, run_every again and again, both with arguments, both may be async; stop is True once."""
    told: asyncio.Queue[str] = asyncio.Queue()

    async def tell(word: str) -> None:
        await told.put(word)

    async with serving(Recorder()) as server:
        begun = asyncio.get_running_loop().time()
        once = server.run_after(0.05, tell, "once")
        assert await soon(told.get()) == "once"
        assert asyncio.get_running_loop().time() - begun >= 0.049
        assert once.stop() is False
        again = server.run_every(0.01, told.put_nowait, "again")
        assert await soon(told.get()) == await soon(told.get()) == "again"
        assert again.stop() is True
        assert again.stop() is False
        with pytest.raises(gevpy.ConfigError):
            server.run_every(0, tell, "never")


async def test_broadcast_reaches_every_connection_once() -> None:
    """Packed by the protocol like any send."""
    handler = Recorder()
    async with (
        serving(handler, protocol=gevpy.LengthPrefixedProtocol()) as server,
        await Client.connect(server.addresses[0]) as one,
        await Client.connect(server.addresses[0]) as two,
    ):
        await handler.conn()
        (await handler.conn()).shutdown_write()
        server.broadcast(b"news")
        server.publish("nobody", b"x")
        received = [await client.read(8) for client in (one, two)]
        assert sorted(received) == [b"", frame(b"news")]


# -- options -------------------------------------------------------------------------------------------


async def test_options_are_shown_and_frozen() -> None:
    """``server.options`` is what serve was told, defaults filled in; nobody can change it."""
    limits = Limits(max_connections=5)
    async with serving(Recorder(), limits=limits) as server:
        options = server.options
        assert (options.host, options.port, options.limits, options.workers) == ("127.0.0.1", 0, limits, 1)
        assert isinstance(options.protocol, gevpy.RawProtocol)
        assert options.idle_timeout_s == 120
        assert options.timeouts.frame_s == options.timeouts.write_stall_s == 30
        assert (options.watermarks.high_bytes, options.watermarks.low_bytes) == (65536, 16384)
        assert (options.limits.max_write_buffer_bytes, options.limits.slow_consumer) == (1024 * 1024, "close")
        for group in (options, options.limits, options.timeouts, options.watermarks):
            field = dataclasses.fields(group)[0].name
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(group, field, 1)
    assert Timeouts().close_s == Timeouts().handshake_s == 10


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: gevpy.serve(Recorder(), port=-1), "port"),
        (lambda: gevpy.serve(Recorder(), port=65536), "port"),
        (lambda: gevpy.serve(Recorder(), port="80"), "port"),  # type: ignore[arg-type]
        (lambda: gevpy.serve(Recorder(), 1833), "host"),  # type: ignore[arg-type]
        (lambda: gevpy.serve(Recorder(), backlog=0), "backlog"),
        (lambda: gevpy.serve(Recorder(), workers=0), "workers"),
        (lambda: gevpy.serve(Recorder(), idle_timeout_s=0), "idle_timeout_s"),
        (lambda: gevpy.serve(Recorder(), idle_timeout_s=float("nan")), "idle_timeout_s"),
        (lambda: gevpy.serve(Recorder(), idle_refresh="never"), "idle_refresh"),  # type: ignore[arg-type]
        (lambda: gevpy.serve(Recorder(), path="/tmp/x", sockets=[]), "path"),  # noqa: S108
        (lambda: gevpy.serve(Recorder(), limits={}), "limits"),  # type: ignore[arg-type]
        (lambda: gevpy.serve(Recorder(), timeouts=3), "timeouts"),  # type: ignore[arg-type]
        (lambda: gevpy.serve(Recorder(), watermarks=None), "watermarks"),  # type: ignore[arg-type]
        (lambda: gevpy.serve(Recorder(), protocol=gevpy.LineProtocol), "protocol"),  # type: ignore[arg-type]
        (lambda: gevpy.serve(Recorder), "Recorder"),  # type: ignore[arg-type]
        (lambda: gevpy.serve(gevpy.Handler()), "on_message"),
        (lambda: gevpy.serve(object()), "on_message"),  # type: ignore[arg-type]
        (lambda: Limits(max_connections=0), "max_connections"),
        (lambda: Limits(max_connections_per_ip=-1), "max_connections_per_ip"),
        (lambda: Limits(max_write_buffer_bytes=0), "max_write_buffer_bytes"),
        (lambda: Limits(max_write_buffer_bytes=1.5), "max_write_buffer_bytes"),  # type: ignore[arg-type]
        (lambda: Limits(slow_consumer="wait"), "slow_consumer"),  # type: ignore[arg-type]
        (lambda: Timeouts(close_s=0), "close_s"),
        (lambda: Timeouts(frame_s=-1), "frame_s"),
        (lambda: Timeouts(drain_s=float("inf")), "drain_s"),
        (lambda: Timeouts(write_stall_s=True), "write_stall_s"),
        (lambda: Timeouts(handshake_s="1"), "handshake_s"),  # type: ignore[arg-type]
        (lambda: Watermarks(high_bytes=-1), "high_bytes"),
        (lambda: Watermarks(high_bytes=1, low_bytes=2), "low_bytes"),
    ],
)
def test_an_option_that_cannot_work_is_refused_at_once(make: Callable[[], object], name: str) -> None:
    """A ConfigError, which is a ValueError too, whose text names the option; nothing has been started."""
    with pytest.raises(gevpy.ConfigError, match=name) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, gevpy.GevError)


@pytest.mark.parametrize("drain_s", [-1, float("nan")])
async def test_a_drain_that_cannot_be_is_refused(drain_s: float) -> None:
    """And the server serves on."""
    async with serving(recording(on_message=_echo)) as server:
        with pytest.raises(gevpy.ConfigError, match="drain_timeout_s"):
            await server.stop(drain_s)
        async with await Client.connect(server.addresses[0]) as client:
            await client.send(b"x")
            assert await client.read(1) == b"x"


async def test_max_connections_refuses_the_next_and_takes_it_after_one_left() -> None:
    """The limit counts open connections; inside on_close the place is free already."""
    handler = Recorder()
    async with serving(handler, limits=Limits(max_connections=1)) as server:
        async with await Client.connect(server.addresses[0]):
            await handler.conn()
            with pytest.raises(ConnectionResetError):  # by connect or by recv, as it comes
                async with await Client.connect(server.addresses[0]) as refused:
                    await refused.recv()
        await handler.reason()
        async with await Client.connect(server.addresses[0]):
            await handler.conn()
    assert handler.calls.count("connect") == 2


async def test_a_blocked_loop_only_delays() -> None:
    """A handler that blocks the loop for a while costs time, nothing else."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        time.sleep(0.3)  # longer than several turns of the wheel
        return data

    async with connected(recording(on_message=on_message), idle_timeout_s=0.2) as (_, client):
        for _ in range(2):
            await client.send(b"x")
            assert await client.read(1) == b"x"


async def test_repr_shows_the_address() -> None:
    """The one line for a log."""
    async with serving(Recorder()) as server:
        assert repr(server) == "<Server on {}:{}>".format(*server.addresses[0])
    assert repr(server) == "<Server on nothing>"


# -- what users get wrong --------------------------------------------------------------------------


async def test_what_serve_returned_is_used_once() -> None:
    """A second use would be a second server, that nobody stops."""
    once = gevpy.serve(Recorder(), port=0)
    async with once:
        with pytest.raises(RuntimeError, match="once"):
            await once.__aenter__()
        with pytest.raises(RuntimeError, match="once"):
            await once


async def test_an_on_stop_that_hangs_is_cancelled_at_the_deadline() -> None:
    """It has as long as the drain had."""
    cancelled = asyncio.Event()

    async def on_stop(worker: Worker) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serving(recording(on_stop=on_stop)) as server:
        await soon(server.stop(0.05))
        assert cancelled.is_set()


async def test_an_asynchronous_handler_may_await_the_stop() -> None:
    """Waiting for the end of its own drain would take for ever: there, stop() returns when it has begun."""

    async def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        await server.stop()
        return b"stopping"

    async with connected(recording(on_message=on_message)) as (server, client):
        await client.send(b"stop")
        assert await client.read_to_end() == b"stopping"


@pytest.mark.parametrize("options", [{"path": ""}, {"path": "a\0b"}, {"sockets": 5}, {"sockets": ()}])
async def test_a_place_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    """As a ConfigError, not as whatever the system makes of it."""
    with pytest.raises(gevpy.ConfigError):
        await gevpy.serve(Recorder(), **options)


async def test_a_closed_socket_is_refused() -> None:
    """It is no socket to listen on."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.close()
    with pytest.raises(gevpy.ConfigError):
        await gevpy.serve(Recorder(), sockets=[sock])


async def test_a_deadline_longer_than_the_kernel_counts_is_taken() -> None:
    """TCP_USER_TIMEOUT holds 24 days; a longer write_stall_s is gevpy's own affair."""
    async with serving(Recorder(), timeouts=Timeouts(write_stall_s=10_000_000)) as server:
        assert server.addresses


async def test_a_later_stop_may_ask_for_less_patience() -> None:
    """stop(0) during a long drain ends it."""
    handler = Recorder()
    async with stalled(handler) as (server, _, conn):
        conn.send(FILL)
        patient = asyncio.create_task(server.stop(60))
        await turns(2)
        await soon(server.stop(0))
        await soon(patient)
        assert (await handler.reason()).kind is CloseKind.DRAINED


async def test_serve_can_be_a_task() -> None:
    """What serve() returned is a coroutine as well: two servers in one TaskGroup need no wrapper."""
    started = asyncio.Queue[None]()
    handlers = [recording(on_start=lambda worker: started.put_nowait(None)) for _ in range(2)]
    tasks = [asyncio.create_task(gevpy.serve(handler, port=0)) for handler in handlers]
    for _ in tasks:
        await soon(started.get())
    for task in tasks:
        task.cancel()
        await soon(asyncio.wait((task,)))
        assert task.cancelled()
