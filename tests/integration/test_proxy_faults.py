"""Row F1: balancers, and those who play one: headers that stall, break off, lie, or come where none is expected."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

from gevpy import LineProtocol, Timeouts
from tests.integration.harness import PATIENCE_S, SOAK, open_descriptors, wait_until
from tests.integration.tree_harness import ask
from tests.serving import Client, Recorder, reactor_of, recording, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy import Connection
    from tests.integration.tree_harness import Tree

LOOPBACK = ["127.0.0.0/8"]
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"
ADDRESSES = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack("!HH", 40000, 443)
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack("!H", 12) + ADDRESSES
CLIENT = b"192.0.2.7:40000"
STALLED = 200 if SOAK else 100
STORM = 5000 if SOAK else 400
HEADER_S = 0.6


def who(conn: Connection, ctx: Any, data: bytes) -> bytes:
    """Answer with whom the server takes the client for."""
    return conn.peer_addr.encode()


async def settled(condition: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is state, which signals no event
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("stall", [b"", V1[:20], V1[:-1], V2[:13], V2[:-1], b"PROXY UNKNOWN " + b"x" * 80])
async def test_headers_that_stall_end_in_time(stall: bytes) -> None:
    """F1: never sent, or never ended: all gone at proxy_header_s, counted each; a good client is served meanwhile."""
    handler = recording(on_message=who)
    timeouts = Timeouts(proxy_header_s=HEADER_S, drain_s=1.0)
    async with serving(handler, protocol=LineProtocol(), trusted_proxies=LOOPBACK, timeouts=timeouts) as server:
        reactor = reactor_of(server)
        before = open_descriptors(os.getpid())
        with ExitStack() as stack:
            started = time.monotonic()
            clients = []
            for _ in range(STALLED):
                client = await Client.connect(server.addresses[0])
                stack.callback(client.close)
                clients.append(client)
                if stall:
                    await client.send(stall)
            async with await Client.connect(server.addresses[0]) as good:
                await good.send(V1 + b"hello\n")
                assert await good.read(len(CLIENT)) == CLIENT
                await settled(lambda: not reactor.pending)
                assert time.monotonic() - started >= HEADER_S - 0.05
            assert dict(reactor.stats.rejected) == {"handshake_failed": STALLED}
            for client in clients:
                await client.until_gone()
        await settled(lambda: not reactor.admission.count and not reactor._unfinished)
        await settled(lambda: open_descriptors(os.getpid()) <= before + 1)  # uvloop keeps one from its first client
    assert handler.calls.count("connect") == handler.calls.count("close") == 1


async def test_a_header_that_trickles_is_not_given_more_time() -> None:
    """C3 for headers: the time runs from accept on, a byte now and then does not refresh it."""
    handler = Recorder()
    timeouts = Timeouts(proxy_header_s=HEADER_S, drain_s=1.0)
    async with (
        serving(handler, trusted_proxies=LOOPBACK, timeouts=timeouts) as server,
        await Client.connect(server.addresses[0]) as client,
    ):
        reactor = reactor_of(server)
        started = time.monotonic()
        await settled(lambda: reactor.pending)
        trickle = iter(b"PROXY UNKNOWN " + b"x" * 90)

        def gone() -> bool:
            with suppress(OSError):
                client.sock.send(bytes([next(trickle)]))
            return not reactor.pending

        async with asyncio.timeout(PATIENCE_S):
            while not gone():  # noqa: ASYNC110 - it has a byte sent each time
                await asyncio.sleep(0.02)
        assert HEADER_S - 0.05 <= time.monotonic() - started < HEADER_S + 2.0
    assert handler.calls == []


async def test_a_storm_of_broken_headers_leaves_nothing() -> None:
    """B3 for headers: resets, ends and lies at every point: one count each, no descriptor and no task is left."""
    handler = Recorder()
    timeouts = Timeouts(proxy_header_s=HEADER_S, drain_s=1.0)
    async with serving(handler, protocol=LineProtocol(), trusted_proxies=LOOPBACK, timeouts=timeouts) as server:
        reactor = reactor_of(server)
        async with await Client.connect(server.addresses[0]) as first:
            await first.send(V1)
            await handler.conn()
        await handler.reason()
        before = open_descriptors(os.getpid())
        for number in range(STORM):
            client = await Client.connect(server.addresses[0])
            wire = (V1[: number % 40], V2[: number % 27], b"GET / HTTP/1.1\r\n\r\n", V1[:30] + b"\n")[number % 4]
            with suppress(ConnectionError):
                await client.send(wire)
            if number % 8 < 4:
                client.reset()
            else:
                client.close()
        await settled(lambda: sum(reactor.stats.rejected.values()) == STORM)
        await settled(lambda: not reactor.pending and not reactor.admission.count)
        await settled(lambda: open_descriptors(os.getpid()) <= before)
        assert set(reactor.stats.rejected) == {"handshake_failed"}
    assert handler.calls == ["connect", "close"]


# -- with workers --------------------------------------------------------------------------------------


def through(tree: Tree, header: bytes) -> socket.socket:
    """Connect, as a balancer does."""
    sock = tree.connect()
    sock.sendall(header)
    return sock


@pytest.mark.parametrize("placement", ["reuseport", "least_connections"])
def test_workers_know_the_real_client(tree: Callable[..., Tree], placement: str) -> None:
    """However a connection gets to its worker, the header is read there; the page counts what was refused."""
    with tree(placement=placement, trusted_proxies=LOOPBACK) as server:
        for header in (V1, V2) * 4:
            with through(server, header) as sock:
                assert "slot" in json.loads(ask(sock, "who"))
        with server.connect() as sock:
            sock.sendall(b"who\n" * 40)
            with suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        wait_until(lambda: server.metric("gevpy_connections_rejected_total") == 1, "it is counted", 10.0, 0.05)
        assert 'gevpy_connections_rejected_total{reason="handshake_failed"} 1.0' in server.get("/metrics")[1]


def test_a_spoofer_that_resets_at_once_is_not_believed(tree: Callable[..., Tree]) -> None:
    """A peer that is gone before its worker has asked who it was is nobody: its header and its words are not taken."""
    with tree(placement="least_connections", trusted_proxies=["192.0.2.0/24"]) as server:
        for _ in range(STORM // 4):
            with socket.socket() as sock, suppress(OSError):  # the server may be the first to reset it
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.connect(("127.0.0.1", server.port))
                sock.sendall(V1 + b"who\n")
        wait_until(
            lambda: server.metric("gevpy_connections_rejected_total") == STORM // 4, "all are refused", 10.0, 0.05
        )
        total = server.stats()["total"]
        assert total["received_messages"] == 0
