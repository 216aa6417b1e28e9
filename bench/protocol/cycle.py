"""A read's whole way through a connection: buffer, frames, handler, replies, one write; no socket, no loop turn.

What is left of a message's cost when this is subtracted belongs to the loop and the kernel.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import gevpy
from bench.harness import Case
from gevpy.admission import Admission
from gevpy.connection import Connection
from gevpy.reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["CASES"]

PAYLOAD = b"m" * 64
FRAMED = b"\0\0\0\x40" + PAYLOAD
LINE = PAYLOAD + b"\n"
LARGE_BYTES = 65536
LARGE = LARGE_BYTES.to_bytes(4, "big") + bytes(LARGE_BYTES)
PIECE_BYTES = 16384


class Echo(gevpy.Handler):
    """Echo."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> bytes:
        """Return the message: the reply."""
        return data


class MockTransport(asyncio.Transport):
    """Takes everything at once and forgets it, but for its size."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Take one piece."""
        self.written += len(data)

    def writelines(self, list_of_data: Any) -> None:
        """Take several."""
        for data in list_of_data:
            self.written += len(data)

    def pause_reading(self) -> None:
        """Ignore: what is read is `cycle`'s business, and it waits for nothing."""

    def resume_reading(self) -> None:
        """Ignore."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Ignore: nothing ever waits."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0


def cycle(protocol: gevpy.Protocol, reads: Sequence[bytes]) -> Callable[[int], None]:
    """Give a connection `reads`, again and again; every byte must come back."""
    loop = asyncio.new_event_loop()
    options = gevpy.ServeOptions(protocol=protocol)
    reactor = Reactor(loop, Echo(), options, Admission(1, None))
    conn = Connection(reactor, "", "")
    transport = MockTransport()
    conn.connection_made(transport)

    def run(count: int) -> None:
        before = transport.written
        for _ in range(count):
            for data in reads:
                size = len(data)
                conn.get_buffer(size)[:size] = data
                conn.buffer_updated(size)
        assert transport.written - before == count * sum(map(len, reads)), "an echo is missing"

    return run


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _case(name: str, protocol: gevpy.Protocol, reads: Sequence[bytes], messages: int = 1) -> Case:
    return Case(f"cycle: {name}", functools.partial(cycle, protocol, reads), scale=messages)


CASES = (
    _case("raw 64 B", gevpy.RawProtocol(), [PAYLOAD]),
    _case("length prefix 64 B, 1 in a read", gevpy.LengthPrefixedProtocol(), [FRAMED]),
    _case("length prefix 64 B, 32 in a read", gevpy.LengthPrefixedProtocol(), [FRAMED * 32], 32),
    _case("line 64 B, 1 in a read", gevpy.LineProtocol(), [LINE]),
    _case("line 64 B, 32 in a read", gevpy.LineProtocol(), [LINE * 32], 32),
    _case("length prefix 64 KiB, whole", gevpy.LengthPrefixedProtocol(), [LARGE]),
    _case(
        "length prefix 64 KiB, in 16 KiB pieces",
        gevpy.LengthPrefixedProtocol(),
        _pieces(LARGE, PIECE_BYTES),
    ),
)
