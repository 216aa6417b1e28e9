"""Rows C2, C5, C6, F4 and their like under TLS: peers that stall at any point, and certificates that change."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind, Limits, Timeouts
from tests.certificates import NAME, Shelf, TlsClient, client_hello
from tests.integration.harness import PATIENCE_S, ROOT, SOAK, open_descriptors, wait_until
from tests.integration.tree_procs import is_running
from tests.serving import Client, Recorder, reactor_of, recording, serving, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from gevpy import Connection

MIB = 1 << 20
STALLED = 200 if SOAK else 60
STORM = 2000 if SOAK else 200
HANDSHAKE_S = 0.6


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Give certificates."""
    return Shelf(tmp_path)


def echo(conn: Connection, ctx: Any, data: bytes) -> bytes:
    """Answer with what came."""
    return data


async def settled(condition: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is state, which signals no event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def watched(handler: Recorder, shelf: Shelf, **options: Any) -> AsyncIterator[gevpy.Server]:
    """Serve TLS; afterwards no connection, task, deadline or descriptor may be left."""
    async with serving(handler, ssl=shelf.tls, **options) as server:
        reactor = reactor_of(server)
        async with await TlsClient.connect(server.addresses[0], shelf.client()):
            await handler.conn()  # uvloop opens a descriptor with the first one that it keeps
        await handler.reason()
        await settled(lambda: not reactor._unfinished)
        before = open_descriptors(os.getpid())
        yield server
        await settled(lambda: not reactor._unfinished and not reactor.pending and not reactor.admission.count)
        await settled(lambda: open_descriptors(os.getpid()) <= before)
    assert handler.calls.count("close") == handler.calls.count("connect")


async def crowd(server: gevpy.Server, count: int, stack: ExitStack) -> list[Client]:
    """Connect so many."""
    clients = []
    for _ in range(count):
        client = await Client.connect(server.addresses[0])
        stack.callback(client.close)
        clients.append(client)
    return clients


# -- stalls in the handshake ---------------------------------------------------------------------------


@pytest.mark.parametrize("stall", ["nothing", "half", "no_finished"])
async def test_stalled_handshakes_end_in_time(shelf: Shelf, stall: str) -> None:
    """C5: no ClientHello, half of one, no Finished: all gone at handshake_s, counted each, a good client is served."""
    handler = recording(on_message=echo)
    timeouts = Timeouts(handshake_s=HANDSHAKE_S, drain_s=1.0)
    async with watched(handler, shelf, timeouts=timeouts) as server:
        reactor = reactor_of(server)
        hello = client_hello(shelf.client())
        with ExitStack() as stack:
            started = time.monotonic()
            clients = await crowd(server, STALLED, stack)
            for client in clients:
                if stall == "half":
                    await client.send(hello[: len(hello) // 2])
                elif stall == "no_finished":
                    await client.send(hello)
            await settled(lambda: len(reactor.pending) + sum(reactor.stats.rejected.values()) == STALLED)
            reactor.handshake_s = PATIENCE_S  # for the good one, should the machine stall
            async with await TlsClient.connect(server.addresses[0], shelf.client()) as good:
                await good.send(b"good")
                assert await good.read(4) == b"good"
            await settled(lambda: not reactor.pending)
            took = time.monotonic() - started
            assert took >= HANDSHAKE_S - 0.05
            assert dict(reactor.stats.rejected) == {"handshake_failed": STALLED}
            for client in clients:
                await client.until_gone()
    assert handler.calls.count("connect") == 2


async def test_handshakes_that_break_off_leave_nothing(shelf: Shelf) -> None:
    """B3 under TLS: resets before, in and after the ClientHello, and garbage: no descriptor, no count is left."""
    handler = Recorder()
    async with watched(handler, shelf) as server:
        reactor = reactor_of(server)
        hello = client_hello(shelf.client())
        for number in range(STORM):
            client = await Client.connect(server.addresses[0])
            with suppress(ConnectionError):
                await client.send((b"", hello[:40], hello, b"GET / HTTP/1.1\r\n\r\n")[number % 4])
            if number % 8 < 4:
                client.reset()
            else:
                client.close()
        await settled(lambda: not reactor._unfinished)
        assert dict(reactor.stats.rejected) == {"handshake_failed": STORM}


async def test_many_who_stall_do_not_hold_up_a_stop(shelf: Shelf) -> None:
    """A drain gives pending handshakes up at once, whatever handshake_s says."""
    handler = Recorder()
    async with serving(handler, ssl=shelf.tls, timeouts=Timeouts(handshake_s=60, drain_s=60)) as server:
        reactor = reactor_of(server)
        with ExitStack() as stack:
            clients = await crowd(server, STALLED, stack)
            await settled(lambda: len(reactor.pending) == STALLED)
            async with asyncio.timeout(PATIENCE_S):
                await server.stop()
            for client in clients:
                await client.until_gone()
    assert handler.calls == []


# -- stalls afterwards ---------------------------------------------------------------------------------


async def test_peers_that_answer_no_close_notify_are_left(shelf: Shelf) -> None:
    """C5: tls_shutdown_s after close() all are gone."""
    handler = Recorder()
    timeouts = Timeouts(tls_shutdown_s=HANDSHAKE_S, drain_s=1.0)
    async with watched(handler, shelf, timeouts=timeouts) as server:
        reactor = reactor_of(server)
        with ExitStack() as stack:
            conns = []
            for _ in range(STALLED // 3):
                client = await TlsClient.connect(server.addresses[0], shelf.client())
                stack.callback(client.plain.close)
                conns.append(await handler.conn())
            for conn in conns:
                conn.close()
            await settled(lambda: not reactor._unfinished)
            kinds = {(await handler.reason()).kind for _ in conns}
            assert kinds == {CloseKind.CLOSED_LOCALLY}


async def test_a_zero_window_is_a_write_stall(shelf: Shelf) -> None:
    """C2: a client that never reads again, while the server has data: aborted in time, its descriptor freed."""
    handler = Recorder()
    stall_s = 0.6
    options = {
        "timeouts": Timeouts(write_stall_s=stall_s, drain_s=1.0),
        "limits": Limits(max_write_buffer_bytes=64 * MIB),
    }
    async with watched(handler, shelf, **options) as server:
        reactor = reactor_of(server)
        async with await TlsClient.connect(server.addresses[0], shelf.client()):
            conn = await handler.conn()
            started = time.monotonic()
            for _ in range(32):
                conn.send(bytes(MIB))
            await settled(lambda: not reactor._unfinished)
            assert time.monotonic() - started >= stall_s
            assert (await handler.reason()).kind is CloseKind.WRITE_STALL


async def test_an_idle_peer_with_full_buffers_is_evicted(shelf: Shelf) -> None:
    """CVE-2024-22201: a congested connection does not outlive its idle time."""
    handler = Recorder()
    options = {
        "timeouts": Timeouts(write_stall_s=None, close_s=None, tls_shutdown_s=None, drain_s=1.0),
        "limits": Limits(max_write_buffer_bytes=64 * MIB),
        "idle_timeout_s": 0.5,
    }
    async with (
        watched(handler, shelf, **options) as server,
        await TlsClient.connect(server.addresses[0], shelf.client()),
    ):
        conn = await handler.conn()
        for _ in range(32):
            conn.send(bytes(MIB))
        await settled(lambda: not reactor_of(server)._unfinished)
        assert (await handler.reason()).kind is CloseKind.IDLE


async def test_a_drain_aborts_who_does_not_read(shelf: Shelf) -> None:
    """A3 under TLS: the drain's deadline ends a peer that takes no output; on_close comes before the stop's end."""
    handler = Recorder()
    options = {"timeouts": Timeouts(drain_s=0.5), "limits": Limits(max_write_buffer_bytes=64 * MIB)}
    async with (
        serving(handler, ssl=shelf.tls, **options) as server,
        await TlsClient.connect(server.addresses[0], shelf.client()),
    ):
        conn = await handler.conn()
        for _ in range(32):
            conn.send(bytes(MIB))
        await turns(10)
        async with asyncio.timeout(PATIENCE_S):
            await server.stop()
        assert handler.calls == ["connect", "close"]
        assert (await handler.reason()).kind is CloseKind.DRAINED


async def test_a_drain_delivers_to_who_reads(shelf: Shelf) -> None:
    """A3 under TLS: what waits for a client that reads leaves whole before the stop's end."""
    handler = Recorder()
    options = {"timeouts": Timeouts(drain_s=30), "limits": Limits(max_write_buffer_bytes=64 * MIB)}
    async with (
        serving(handler, ssl=shelf.tls, **options) as server,
        await TlsClient.connect(server.addresses[0], shelf.client()) as client,
    ):
        conn = await handler.conn()
        for _ in range(16):
            conn.send(bytes(MIB))
        stopping = asyncio.ensure_future(server.stop())
        assert len(await client.read_to_end()) == 16 * MIB
        await client.plain.send(client.farewell())
        async with asyncio.timeout(PATIENCE_S):
            await stopping
        assert (await handler.reason()).kind is CloseKind.DRAINED


# -- other ends at any moment --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "abort", "raise"])
@pytest.mark.parametrize("hook", ["on_connect", "on_message", "on_close", "on_writable"])
async def test_endings_in_every_callback(shelf: Shelf, hook: str, how: str) -> None:
    """C14 and C10 under TLS: close(), abort() and an exception in each callback: on_close once, nothing is left."""

    def end(conn: Connection, *_: Any) -> None:
        handler.calls.append(hook.removeprefix("on_"))
        if hook == "on_connect":
            handler.opened.put_nowait(conn)
        if hook == "on_close":
            handler.closed.put_nowait((conn, _[0]))
        if not handler.armed:
            return
        if how == "raise":
            raise RuntimeError("told to")
        getattr(conn, how)()

    handler: Any = recording(**{hook: end})
    handler.armed = False
    async with watched(handler, shelf, limits=Limits(max_write_buffer_bytes=64 * MIB)) as server:
        handler.armed = True
        async with await TlsClient.connect(server.addresses[0], shelf.client()) as client:
            conn = await handler.conn()
            with suppress(ConnectionError, ssl.SSLError):
                await client.send(b"hello")
                if hook == "on_writable" and conn.connected:
                    conn.send(bytes(8 * MIB))
                    assert len(await client.read(8 * MIB)) <= 8 * MIB
            if hook in ("on_connect", "on_message", "on_writable"):
                await settled(lambda: not conn.connected)


# -- certificates of workers ---------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
import gevpy
from secured import Tell

async def main():
    tls = gevpy.TLS(cert=sys.argv[1], key=sys.argv[2])
    async with gevpy.serve(Tell(), port=0, workers=2, ssl=tls, timeouts=gevpy.Timeouts(drain_s=2)) as server:
        asyncio.get_running_loop().call_soon(lambda: print(server.addresses[0][1], flush=True))
        await server.serve_forever()

if __name__ == "__main__":
    import logging
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    with asyncio.Runner(loop_factory=gevpy.new_event_loop) as runner:
        runner.run(main())
"""

HANDLER = """
import os
import gevpy

class Tell(gevpy.Handler):
    def on_message(self, conn, ctx, data):
        return b"%d" % os.getpid()
"""


@contextmanager
def workers(shelf: Shelf, loop: str) -> Iterator[tuple[int, subprocess.Popen[bytes], Path]]:
    """Serve TLS by two workers, in a process of its own; give port, process and log."""
    (shelf.folder / "secured.py").write_text(HANDLER, encoding="utf-8")
    program = shelf.folder / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    log = shelf.folder / "log"
    path = os.pathsep.join(filter(None, (str(ROOT), str(shelf.folder), os.environ.get("PYTHONPATH"))))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(program), str(shelf.cert), str(shelf.key)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=out,
            env={**os.environ, "GEVPY_LOOP": loop, "PYTHONPATH": path},
        )
        with process:
            try:
                assert process.stdout is not None
                ready, _, _ = select.select([process.stdout], (), (), 30.0)
                line = process.stdout.readline() if ready else b""
                assert line, log.read_text(encoding="utf-8")
                yield int(line), process, log
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0, log.read_text(encoding="utf-8")
            finally:
                if process.poll() is None:
                    process.kill()


def shown(port: int, context: ssl.SSLContext) -> tuple[int, str]:
    """Shake hands, and give the worker's pid and the name in the certificate that it showed."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock,
        context.wrap_socket(sock, server_hostname=NAME) as tls,
    ):
        tls.sendall(b"x")
        pid = int(tls.recv(100))
        certificate: Any = tls.getpeercert()
        return pid, str(certificate["subjectAltName"][0][1])


def meet_both(port: int, context: ssl.SSLContext) -> dict[int, set[str]]:
    """Shake hands until two workers have answered: the kernel's hash says who does, so any count may miss one."""
    met: dict[int, set[str]] = {}

    def meet() -> bool:
        pid, name = shown(port, context)
        met.setdefault(pid, set()).add(name)
        return len(met) > 1

    wait_until(meet, "both workers have answered", 20.0, 0)
    return met


def test_workers_take_new_certificates(shelf: Shelf, loop: str) -> None:
    """F4: SIGHUP with two workers: both show the new one; a bad file changes nothing, and no handshake fails."""
    context = shelf.client()
    context.check_hostname = False

    def logged(line: str) -> bool:
        shown(port, context)  # raises if the handshake fails
        return line in log.read_text(encoding="utf-8")

    with workers(shelf, loop) as (port, process, log):
        old = meet_both(port, context)
        assert list(old.values()) == [{NAME}] * 2
        shelf.put("new.test")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: logged("reloaded: all workers are new"), "both are replaced", 30.0, 0.02)
        wait_until(lambda: not any(map(is_running, old)), "the old ones have left", 20.0, 0.02)
        new = meet_both(port, context)
        assert list(new.values()) == [{"new.test"}] * 2
        shelf.cert.write_bytes(b"no PEM")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: logged("the old one stays"), "it is logged", 30.0, 0.02)
        assert meet_both(port, context) == new
        assert log.read_text(encoding="utf-8").count("cannot use the TLS files") >= 1
