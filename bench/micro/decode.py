"""The decode loop: whole frames out of a ring, by every protocol, without connection or handler."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from bench.harness import Case
from gevpy.protocol import (
    FixedLengthProtocol,
    LengthPrefixedProtocol,
    LineProtocol,
    RawProtocol,
)
from gevpy.ring_buffer import RingBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy.protocol import Protocol

__all__ = ["CASES"]

FRAMES = 32
PAYLOAD = b"m" * 64


def decode(protocol: Protocol, stream: bytes) -> Callable[[int], None]:
    """Fill a ring with `stream` and empty it by `protocol`."""
    ring = RingBuffer()

    def run(count: int) -> None:
        unpack = protocol.decode
        for _ in range(count):
            ring.write(stream)
            while len(ring):
                unpack(None, ring)

    return run


def _case(name: str, protocol: Protocol, frame: bytes) -> Case:
    make = functools.partial(decode, protocol, frame * FRAMES)
    return Case(f"decode 64 B: {name}", make, scale=FRAMES)


CASES = (
    Case("decode 2 KiB: raw", functools.partial(decode, RawProtocol(), PAYLOAD * FRAMES)),
    _case("fixed length", FixedLengthProtocol(64), PAYLOAD),
    _case("length prefix", LengthPrefixedProtocol(), b"\0\0\0\x40" + PAYLOAD),
    _case("line", LineProtocol(), PAYLOAD + b"\n"),
)
