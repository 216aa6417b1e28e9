"""Whoever comes through a load balancer: its PROXY header is read off the accepted socket, before all else.

A socket is read only as far as the header goes, byte for byte, so that whatever follows, a TLS handshake included, is
the event loop's to read.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Any

from gevpy.addresses import unmapped
from gevpy.errors import ConfigError, HandshakeError
from gevpy.proxy_header import ProxyHeader

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from gevpy.proxy_header import Address

__all__ = ["ProxyGate", "TrustedProxies"]

PEEK_BYTES = 4096


class TrustedProxies:
    """The networks whose PROXY headers are believed. Peers on Unix sockets are: who may connect there is local.

    Args:
        networks: such as ``"10.0.0.0/8"``, or single addresses.

    Raises:
        ConfigError: one is no network.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        """Read them."""
        if isinstance(networks, str | bytes) or not hasattr(networks, "__iter__"):
            raise ConfigError(f'trusted_proxies must be a list of networks, such as ["10.0.0.0/8"], not {networks!r}')
        try:
            self._networks = [ipaddress.ip_network(network) for network in networks]
        except ValueError as error:
            raise ConfigError(f"trusted_proxies: {error}") from error

    def trust(self, address: Any) -> bool:
        """Tell whether a peer, by the address that accept gave, is one of them; None is nobody."""
        if address is None:
            return False  # gone already, and so nobody knows who it was
        if not isinstance(address, tuple):
            return True
        host = ipaddress.ip_address(unmapped(address[0]).partition("%")[0])
        return any(host in network for network in self._networks)


class ProxyGate:
    """One accepted socket whose header is awaited.

    Args:
        loop: the running loop.
        sock: it stays the caller's.
        timeout_s: for the whole header.
        on_header: called with the client's address, or None where the header names none.
        on_failed: called with the error instead.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        timeout_s: float,
        on_header: Callable[[Address | None], object],
        on_failed: Callable[[Exception], object],
    ) -> None:
        """Begin to read."""
        self._loop = loop
        self._sock = sock
        self._on_header = on_header
        self._on_failed = on_failed
        self._header = ProxyHeader()
        self._timer = loop.call_later(timeout_s, self.give_up, f"no PROXY header within {timeout_s:g} s")
        loop.add_reader(sock.fileno(), self._readable)

    def give_up(self, why: str = "the server stops") -> None:
        """End without a header."""
        self._fail(HandshakeError(why))

    def _readable(self) -> None:
        try:
            data = self._sock.recv(PEEK_BYTES, socket.MSG_PEEK)
            if not data:
                self.give_up("the stream ended before a PROXY header")
                return
            self._sock.recv(self._header.feed(data))
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, HandshakeError) as error:
            self._fail(error)
            return
        if self._header.done:
            self._release()
            self._on_header(self._header.source)

    def _fail(self, error: Exception) -> None:
        self._release()
        self._on_failed(error)

    def _release(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
