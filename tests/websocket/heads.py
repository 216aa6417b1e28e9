"""Heads of HTTP requests for tests of the opening handshake: a good one, and what is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gevpy import RingBuffer
from gevpy.websocket.http import HEAD_LIMITS, Refusal, Request, take_head

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gevpy.websocket.http import HeadLimits

__all__ = ["ACCEPT", "GOOD", "KEY", "feed_head", "head_of", "opening", "upgrade_request"]

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3, with the answer to it
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

GOOD: dict[str, str] = {
    "Host": "example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def head_of(line: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """Give a head of ``line`` and ``fields``."""
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in fields), "", ""]).encode("latin-1")


def opening(*more: tuple[str, str], line: str = "GET /chat HTTP/1.1", **changed: str | None) -> bytes:
    """Give the head of a good opening handshake with some fields changed, left out (None), or added.

    Names of ``changed`` are written with underscores, as ``sec_websocket_key``.
    """
    values = {name.lower().replace("-", "_"): (name, value) for name, value in GOOD.items()}
    fields = [(name, changed.get(key, value)) for key, (name, value) in values.items()]
    return head_of(line, [*((name, value) for name, value in fields if value is not None), *more])


def upgrade_request(*more: tuple[str, str], line: str = "GET /chat HTTP/1.1", **changed: str | None) -> Request:
    """Give the request of `opening`, unchecked."""
    return Request(opening(*more, line=line, **changed))


def feed_head(
    pieces: Iterable[bytes], limits: HeadLimits = HEAD_LIMITS
) -> tuple[bytes | None, int | None, int, RingBuffer]:
    """Feed pieces until there is a head or a refusal.

    Returns:
        The head or None, the refusal's status or None, how many bytes were fed, and the ring.
    """
    ring = RingBuffer(64, None)
    fed = 0
    for piece in pieces:
        ring.write(piece)
        fed += len(piece)
        try:
            head = take_head(ring, limits)
        except Refusal as refusal:
            return None, refusal.status, fed, ring
        if head is not None:
            return head, None, fed, ring
    return None, None, fed, ring
