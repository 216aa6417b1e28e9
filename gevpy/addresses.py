"""Socket addresses as people write them, and as limits count them."""

from __future__ import annotations

import ipaddress
from typing import Any

__all__ = ["client_network", "format_address"]

MAPPED_PREFIX = "::ffff:"


def format_address(address: Any) -> str:
    """Write a socket address as ``"ip:port"`` or ``"[ip]:port"``; a Unix path as it is; unknown as ``""``.

    An IPv4 peer of a dual-stack socket is written as IPv4.

    Example:
        >>> format_address(("::1", 80, 0, 0))
        '[::1]:80'
    """
    if not address:
        return ""
    if isinstance(address, bytes):
        return address.decode(errors="backslashreplace")
    if isinstance(address, str):
        return address
    host = unmapped(address[0])
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


def unmapped(host: str) -> str:
    """Write an IPv4-mapped IPv6 address as IPv4, and any other as it is."""
    rest = host.removeprefix(MAPPED_PREFIX)
    return rest if rest != host and "." in rest and ":" not in rest else host


def client_network(address: Any) -> str:
    """Give what a per-IP limit counts by: the IPv4 address, or the IPv6 /64.

    Whoever has one IPv6 address has its whole /64. Unknown addresses, and Unix sockets, share the one bucket ``""``.
    """
    if not address or not isinstance(address, tuple):
        return ""
    host = unmapped(address[0])
    if ":" not in host:
        return host
    packed = ipaddress.IPv6Address(host.partition("%")[0]).packed
    return packed[:8].hex()
