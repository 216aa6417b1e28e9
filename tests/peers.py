"""Servers for tests of clients: sockets that do only what they are told, or nothing at all."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from tests.serving import Client, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["Peers", "black_hole", "listening", "refusing_port"]

LISTENING = 128
TCP_INFO_BYTES = 104
QUEUED_AT = 24  # tcpi_unacked and tcpi_sacked: with a listening socket, how many wait to be accepted, and how many may


class Peers:
    """A listening socket whose connections a test takes by hand, as a `Client` each: it is a bare socket with verbs.

    Args:
        sock: listening, non-blocking.
        stack: closes what is taken.
    """

    def __init__(self, sock: socket.socket, stack: ExitStack) -> None:
        """Take the socket over."""
        self._sock = sock
        self._stack = stack

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._sock.getsockname()[1])

    @property
    def url(self) -> str:
        """Where it listens, for `gevpy.connect`."""
        return f"tcp://127.0.0.1:{self.port}"

    async def take(self) -> Client:
        """Wait for the next connection."""
        sock, _ = await soon(asyncio.get_running_loop().sock_accept(self._sock))
        return self._stack.enter_context(_closing(Client(sock)))


@contextmanager
def _closing(client: Client) -> Iterator[Client]:
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def listening(port: int = 0) -> AsyncIterator[Peers]:
    """Listen on this machine, and close all at the end."""
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(LISTENING)
        sock.setblocking(False)
        yield Peers(sock, stack)


@contextmanager
def refusing_port() -> Iterator[int]:
    """Give a port on which nobody listens, and that nobody else is given meanwhile; `listening` may come to it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield int(sock.getsockname()[1])


@contextmanager
def black_hole() -> Iterator[int]:
    """Give a port that neither takes connections nor refuses them: its backlog is full."""
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        while not _is_full(sock):
            stack.enter_context(socket.create_connection(sock.getsockname()))
        yield int(sock.getsockname()[1])


def _is_full(sock: socket.socket) -> bool:
    """Tell whether the kernel takes no more connections for a listening socket: it drops who asks then."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    queued, most = struct.unpack_from("II", info, QUEUED_AT)
    return bool(queued > most)
