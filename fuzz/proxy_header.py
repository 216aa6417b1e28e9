"""The PROXY header: only `HandshakeError` may leave, what follows it stays untouched, and no cut makes a difference."""

from __future__ import annotations

import ipaddress

from gevpy import HandshakeError
from gevpy.proxy_header import ProxyHeader

Outcome = tuple[int, bool, tuple[str, int] | None]


def one_input(data: bytes) -> None:
    """Read it at once, and byte by byte."""
    whole = outcome([data])
    assert outcome([data[at : at + 1] for at in range(len(data))]) == whole
    if whole is None or whole[2] is None:
        return
    host, port = whole[2]
    assert str(ipaddress.ip_address(host)) == host
    assert 0 <= port <= 65535


def outcome(pieces: list[bytes]) -> Outcome | None:
    """Give how many bytes are the header's, whether it is whole, and the address; None where it is refused."""
    header = ProxyHeader()
    taken = 0
    try:
        for piece in pieces:
            taken += header.feed(piece)
    except HandshakeError as error:
        assert str(error)
        return None
    return taken, header.done, header.source
