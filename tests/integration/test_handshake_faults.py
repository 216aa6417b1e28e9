"""Row C5 for upgrades in mid-stream: many peers that were told to begin TLS, and don't; and stops in its midst."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind, LineProtocol, Timeouts
from tests.certificates import Shelf, TlsClient, client_hello
from tests.integration.harness import PATIENCE_S, SOAK, open_descriptors
from tests.serving import Client, Recorder, reactor_of, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gevpy import Connection

STALLED = 200 if SOAK else 60
STORM = 2000 if SOAK else 200
HANDSHAKE_S = 0.6


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Give certificates."""
    return Shelf(tmp_path)


class Upgrading(Recorder):
    """Upgrades at every message but those that come under TLS, which it echoes."""

    def __init__(self, tls: gevpy.TLS) -> None:
        """Keep what to upgrade with."""
        super().__init__()
        self.tls = tls

    async def on_message(self, conn: Connection, ctx: Any, data: bytes) -> bytes | None:
        """Upgrade, or echo."""
        if conn.tls is not None:
            return data
        conn.send(b"go ahead")
        await conn.start_tls(self.tls)
        return None


async def settled(condition: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is state, which signals no event
            await asyncio.sleep(0.005)


async def told_to_go_ahead(server: gevpy.Server) -> Client:
    """Give a client that has asked for TLS."""
    client = await Client.connect(server.addresses[0])
    await client.send(b"starttls\n")
    assert await client.read(9) == b"go ahead\n"
    return client


@pytest.mark.parametrize("stall", ["nothing", "half", "no_finished"])
async def test_upgrades_that_stall_end_in_time(shelf: Shelf, stall: str) -> None:
    """C5: each is closed at handshake_s as handshake_failed; one that behaves is served meanwhile; nothing is left."""
    handler = Upgrading(shelf.tls)
    async with serving(handler, protocol=LineProtocol()) as server:
        reactor = reactor_of(server)
        async with await told_to_go_ahead(server) as plain:
            good = TlsClient(plain, shelf.client())
            await good.handshake()
            await handler.conn()
            reactor.handshake_s = HANDSHAKE_S  # from now on: the machine may have stalled before
            before = open_descriptors(os.getpid())
            hello = client_hello(shelf.client())
            with ExitStack() as stack:
                started = time.monotonic()
                for _ in range(STALLED):
                    client = await told_to_go_ahead(server)
                    stack.callback(client.close)
                    if stall != "nothing":
                        await client.send(hello[:60] if stall == "half" else hello)
                await good.send(b"good\n")
                assert await good.read(5) == b"good\n"
                await settled(lambda: len(reactor.connections) == 1)
                assert time.monotonic() - started >= HANDSHAKE_S - 0.05
                kinds = {(await handler.reason()).kind for _ in range(STALLED)}
                assert kinds == {CloseKind.HANDSHAKE_FAILED}
            await settled(lambda: open_descriptors(os.getpid()) <= before)
            assert reactor.stats.handler_errors == 0
        await settled(lambda: not reactor._unfinished and not reactor._tasks and not reactor.admission.count)
    assert handler.calls.count("connect") == handler.calls.count("close") == STALLED + 1


async def test_upgrades_that_break_off_leave_nothing(shelf: Shelf) -> None:
    """Resets, ends and garbage at every point of an upgrade: on_close for each, no task and no descriptor is left."""
    handler = Upgrading(shelf.tls)
    async with serving(handler, protocol=LineProtocol()) as server:
        reactor = reactor_of(server)
        async with await told_to_go_ahead(server):
            pass
        await handler.reason()
        before = open_descriptors(os.getpid())
        hello = client_hello(shelf.client())
        for number in range(STORM):
            client = await Client.connect(server.addresses[0])
            await client.send(b"starttls\n")
            if number % 3:
                assert await client.read(9) == b"go ahead\n"
                with suppress(ConnectionError):
                    await client.send((hello, hello[:50], b"garbage\n" * 20)[number % 3])
            if number % 2:
                client.reset()
            else:
                client.close()
        await settled(lambda: not reactor._unfinished and not reactor._tasks)
        assert reactor.admission.count == 0
        assert not reactor.connections
        await settled(lambda: open_descriptors(os.getpid()) <= before)
    assert handler.calls.count("connect") == handler.calls.count("close") == STORM + 1


async def test_a_stop_in_the_midst_of_upgrades_ends_at_its_deadline(shelf: Shelf) -> None:
    """Handlers that await start_tls are at work: the drain's time is theirs, then all are told, and on_close comes."""
    handler = Upgrading(shelf.tls)
    async with serving(handler, protocol=LineProtocol(), timeouts=Timeouts(handshake_s=60, drain_s=0.4)) as server:
        reactor = reactor_of(server)
        with ExitStack() as stack:
            for _ in range(STALLED):
                stack.callback((await told_to_go_ahead(server)).close)
            async with asyncio.timeout(PATIENCE_S):
                await server.stop()
            assert handler.calls.count("close") == STALLED
            assert not reactor._tasks


async def test_upgrades_end_wherever_they_are_closed(shelf: Shelf) -> None:
    """close() and abort() at every turn of an upgrade: whatever was going on, on_close comes once and all is freed."""
    handler = Upgrading(shelf.tls)
    async with serving(handler, protocol=LineProtocol(), timeouts=Timeouts(tls_shutdown_s=0.05, drain_s=1.0)) as server:
        reactor = reactor_of(server)
        for turn in range(40):
            async with await told_to_go_ahead(server) as plain:
                conn = await handler.conn()
                client = TlsClient(plain, shelf.client())
                shaking = asyncio.ensure_future(client.handshake())
                for _ in range(turn // 2):
                    await asyncio.sleep(0)
                (conn.close if turn % 2 else conn.abort)()
                expected = CloseKind.CLOSED_LOCALLY if turn % 2 else CloseKind.ABORTED
                assert (await handler.reason()).kind is expected
                shaking.cancel()
                await asyncio.gather(shaking, return_exceptions=True)
        await settled(lambda: not reactor._unfinished and not reactor._tasks)
        assert not reactor.connections
