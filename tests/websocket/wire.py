"""What the tests of WebSocket share to speak it by hand: frames of a peer, written and read without gevpy's own code.

`data`, `close` and the like write a client's frames, `parse` reads a server's; `ring_at` gives rings that begin, and
wrap, wherever a test wants them to.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from gevpy import RingBuffer
from tests.websocket.frame_streams import Frame, masked

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MASK", "Seen", "binary", "close", "parse", "ping", "plain_mask", "pong", "ring_at", "text", "wire"]

MASK = b"\x37\xfa\x21\x3d"  # RFC 6455 section 5.7
FIN = 0x80


def wire(opcode: int, payload: bytes = b"", *, first: int = FIN, mask: bytes = MASK) -> bytes:
    """Give a frame; ``mask=b""`` is a server's."""
    return Frame(opcode, payload, first=first, mask=mask).wire()


def text(message: str, mask: bytes = MASK) -> bytes:
    """Give a text message in one frame."""
    return wire(1, message.encode(), mask=mask)


def binary(message: bytes, mask: bytes = MASK) -> bytes:
    """Give a binary message in one frame."""
    return wire(2, message, mask=mask)


def close(code: int | None = 1000, words: str = "", mask: bytes = MASK) -> bytes:
    """Give a close frame; None is one without a code."""
    return wire(8, b"" if code is None else struct.pack("!H", code) + words.encode(), mask=mask)


def ping(payload: bytes = b"", mask: bytes = MASK) -> bytes:
    """Give a ping."""
    return wire(9, payload, mask=mask)


def pong(payload: bytes = b"", mask: bytes = MASK) -> bytes:
    """Give a pong."""
    return wire(10, payload, mask=mask)


class Seen(NamedTuple):
    """A frame as it was read.

    Attributes:
        first: its first byte.
        payload: unmasked.
        is_masked: whether it was.
    """

    first: int
    payload: bytes
    is_masked: bool = False


def parse(stream: bytes) -> list[Seen]:
    """Read frames, all of them whole."""
    frames = []
    at = 0
    while at < len(stream):
        first, second = stream[at], stream[at + 1]
        at += 2
        size = second & 0x7F
        width = {126: 2, 127: 8}.get(size, 0)
        if width:
            size = int.from_bytes(stream[at : at + width], "big")
        at += width
        key = stream[at : at + 4] if second & 0x80 else b""
        at += len(key)
        payload = stream[at : at + size]
        assert len(payload) == size, "the stream ends inside a frame"
        at += size
        frames.append(Seen(first, masked(payload, key) if key else payload, bool(key)))
    return frames


def ring_at(begin: int, capacity: int, content: bytes) -> RingBuffer:
    """Give a ring whose content begins at place ``begin`` of its storage, and wraps where that ends."""
    ring = RingBuffer(capacity, None)
    if begin:
        ring.write(b"\xee" * begin)
        ring.skip(begin - 1)  # one byte stays, since an empty ring may begin anew
    ring.write(content[:1])
    if begin:
        ring.skip(1)
    ring.write(content[1:])
    return ring


def plain_mask(data: Iterable[int], key: bytes) -> bytes:
    """Mask byte by byte, as RFC 6455 section 5.3 says it."""
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(data))
