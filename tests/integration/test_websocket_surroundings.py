"""WebSocket where servers live: with workers that come and go, under TLS, and behind a balancer."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from gevpy.websocket import WebSocketProtocol
from tests.certificates import NAME, Shelf
from tests.integration.harness import PATIENCE_S, wait_until
from tests.integration.websocket_peer import BINARY, CLOSE, TEXT, Peer, joined, ws_frame
from tests.serving import recording, serving, tcp_address

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gevpy import Connection
    from tests.integration.tree_harness import Tree

LARGE = bytes(range(256)) * 2048
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"
AGAIN, AWAY = 1012, 1001


def slot_of(peer: Peer) -> int:
    """Ask which worker serves a client."""
    return int(json.loads(peer.echo(b"who"))["slot"])


def on_each(tree: Tree, stack: ExitStack) -> list[Peer]:
    """Connect clients until both workers have some."""
    peers: list[Peer] = []
    slots: set[int] = set()
    while slots != {0, 1}:
        assert len(peers) < 60, "one worker takes no connections"
        peers.append(stack.enter_context(joined(tree.port)).opened())
        slots.add(slot_of(peers[-1]))
    return peers


def test_clients_are_told_to_come_again_or_not(tree: Callable[..., Tree]) -> None:
    """At a reload each client is closed with 1012 and finds the new worker at once; at a stop with 1001."""
    with tree(protocol="websocket", timeouts={"drain_s": 6.0}) as server, ExitStack() as stack:
        old = {server.pid_of(0), server.pid_of(1)}
        peers = on_each(server, stack)
        server.signal(signal.SIGHUP)
        for peer in peers:
            peer.sock.settimeout(30)
            assert peer.end(answers=True).code == AGAIN
        wait_until(lambda: not {server.pid_of(0), server.pid_of(1)} & (old | {0}), "both are new", 30.0, 0.05)
        peers = on_each(server, stack)
        server.signal(signal.SIGTERM)
        for peer in peers:
            assert peer.end(answers=True).code == AWAY
        assert server.process.wait(20) == 0


def echo(conn: Connection, ctx: Any, data: Any) -> Any:
    """Answer with what came."""
    return data


def who(conn: Connection, ctx: Any, data: Any) -> str:
    """Answer with whom the server takes the client for."""
    return conn.peer_addr


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Give certificates."""
    return Shelf(tmp_path)


async def test_messages_under_tls(shelf: Shelf) -> None:
    """A small and a large message, cut anywhere by records, come back over wss; the close is answered before TLS's."""

    def talk(port: int) -> tuple[bytes, bytes, int]:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain,
            shelf.client().wrap_socket(plain, server_hostname=NAME) as sock,
        ):
            peer = Peer(sock).opened(then=ws_frame(TEXT, b"hello"))
            small = peer.message()
            stream = ws_frame(BINARY, LARGE)
            for at in range(0, len(stream), 10_007):
                peer.send(stream[at : at + 10_007])
            large = peer.message()
            peer.say(CLOSE, b"\x03\xe8")
            return small, large, peer.end().code

    handler = recording(on_message=echo)
    async with serving(handler, ssl=shelf.tls, protocol=WebSocketProtocol()) as server:
        assert await asyncio.to_thread(talk, tcp_address(server)[1]) == (b"hello", LARGE, 1000)
        reason = await handler.reason()
        assert (reason.kind, reason.code) == ("peer_closed", 1000)


@pytest.mark.parametrize("cut", [0, 20, len(V1)])
async def test_behind_a_balancer(cut: int) -> None:
    """A PROXY header comes before the handshake, in one piece with it or not: the handler knows who the client is."""

    def talk(port: int) -> bytes:
        with joined(port) as peer:
            peer.send(V1[:cut])
            from_balancer = V1[cut:]
            peer.send(from_balancer)
            return peer.opened(then=ws_frame(TEXT, b"who")).message()

    async with serving(
        recording(on_message=who), protocol=WebSocketProtocol(), trusted_proxies=["127.0.0.0/8"]
    ) as server:
        assert await asyncio.to_thread(talk, tcp_address(server)[1]) == b"192.0.2.7:40000"


async def test_a_handshake_without_the_header_of_a_balancer() -> None:
    """F1: whoever is trusted to send a PROXY header and doesn't is not let in, whatever it says instead."""

    def talk(port: int) -> str:
        with joined(port) as peer:
            return peer.open()

    handler = recording(on_message=who)
    async with serving(handler, protocol=WebSocketProtocol(), trusted_proxies=["127.0.0.0/8"]) as server:
        assert await asyncio.to_thread(talk, tcp_address(server)[1]) == ""
    assert handler.calls == []
