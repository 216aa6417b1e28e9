"""The masker of WebSocket: payloads out of a ring, unmasked as a server does, and masked as a client does."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from bench.harness import Case
from gevpy.ring_buffer import RingBuffer
from gevpy.websocket.frames import mask, take_payload

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CASES"]

KEY = b"\x37\xfa\x21\x3d"
KEY_NUMBER = int.from_bytes(KEY, "little")
HEADER_BYTES = 6
RING_BYTES = 1 << 17


def take(size: int) -> Callable[[int], None]:
    """Bytes; now and then a frame lies across the ring's end."""
    ring = RingBuffer(RING_BYTES)
    data = bytes(HEADER_BYTES + size)

    def run(count: int) -> None:
        write = ring.write
        for _ in range(count):
            write(data)
            take_payload(ring, HEADER_BYTES, size, KEY_NUMBER)

    return run


def mask_alone(size: int) -> Callable[[int], None]:
    """A client's payload."""
    data = bytes(size)

    def run(count: int) -> None:
        for _ in range(count):
            mask(data, KEY)

    return run


CASES = (
    Case("masker: take 64 B out of a ring", functools.partial(take, 64)),
    Case("masker: take 64 KiB out of a ring", functools.partial(take, 65536)),
    Case("masker: mask 64 B", functools.partial(mask_alone, 64)),
    Case("masker: mask 64 KiB", functools.partial(mask_alone, 65536)),
)
