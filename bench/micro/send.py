"""The send path: replies packed into the batch, and the batch taken for one write."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from bench.harness import Case
from gevpy.protocol import LengthPrefixedProtocol, LineProtocol, RawProtocol
from gevpy.write_batch import WriteBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy.protocol import Protocol

__all__ = ["CASES"]

REPLIES = 32


def pack(protocol: Protocol, payload: bytes, replies: int) -> Callable[[int], None]:
    """Pack `replies` into one batch and take it."""
    batch = WriteBatch()

    def run(count: int) -> None:
        pack_into = protocol.packet_into
        for _ in range(count):
            for _ in range(replies):
                pack_into(None, payload, batch)
            batch.take()

    return run


def _case(name: str, protocol: Protocol) -> Case:
    make = functools.partial(pack, protocol, b"m" * 64, REPLIES)
    return Case(f"send 64 B: {name}", make, scale=REPLIES)


CASES = (
    _case("raw", RawProtocol()),
    _case("length prefix", LengthPrefixedProtocol()),
    _case("line", LineProtocol()),
    Case(
        "send one 64 KiB: length prefix",
        functools.partial(pack, LengthPrefixedProtocol(), bytes(65536), 1),
    ),
)
