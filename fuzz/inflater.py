"""Compressed messages: what zlib makes of them, never more than the limit, and no cut makes a difference.

The first byte of an input says the limit, the second where the message is cut into frames.
"""

from __future__ import annotations

import zlib

from gevpy import FrameTooLarge, ProtocolError
from gevpy.websocket.deflate import Inflater

LIMITS = (0, 1, 100, 5000, 1 << 20)
TAIL = b"\x00\x00\xff\xff"


def one_input(data: bytes) -> None:
    """Inflate it as one frame, and as several."""
    if len(data) < 2:
        return
    limit = LIMITS[data[0] % len(LIMITS)]
    size = 1 + data[1]
    body = data[2:]
    whole = inflated([body], limit)
    assert inflated([body[at : at + size] for at in range(0, len(body), size)] or [b""], limit) == whole
    if isinstance(whole, bytes):
        assert len(whole) <= limit
        assert zlib.decompressobj(-15).decompress(body + TAIL, limit + 1) == whole


def inflated(frames: list[bytes], limit: int) -> bytes | None:
    """Give the message; None for one that is too large, or none at all, since which of it is seen first may differ."""
    inflater = Inflater(15)
    pieces = []
    try:
        for number, frame in enumerate(frames, 1):
            piece = inflater.inflate(frame, limit, is_last=number == len(frames))
            pieces.append(piece)
            assert sum(map(len, pieces)) <= limit
    except FrameTooLarge as error:
        assert error.limit == limit
        return None
    except ProtocolError:
        return None
    return b"".join(pieces)
