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
from gevpy.websocket import Opcode, WebSocketProtocol
from gevpy.websocket.frames import FIN, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["CASES", "HANDSHAKE", "Echo", "MockTransport", "feed"]

PAYLOAD = b"m" * 64
FRAMED = b"\0\0\0\x40" + PAYLOAD
LINE = PAYLOAD + b"\n"
LARGE_BYTES = 65536
LARGE = LARGE_BYTES.to_bytes(4, "big") + bytes(LARGE_BYTES)
PIECE_BYTES = 16384
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MASK = b"\x37\xfa\x21\x3d"
MASK_BYTES = len(MASK)


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


def feed(conn: Connection, data: bytes) -> None:
    """Give a connection one read."""
    conn.get_buffer(len(data))[: len(data)] = data
    conn.buffer_updated(len(data))


def cycle(
    protocol: gevpy.Protocol, reads: Sequence[bytes], *, opening: bytes = b"", dropped: int = 0
) -> Callable[[int], None]:
    """Give a connection `reads`, again and again, and before them `opening`; all but `dropped` bytes must come back."""
    loop = asyncio.new_event_loop()
    options = gevpy.ServeOptions(protocol=protocol)
    reactor = Reactor(loop, Echo(), options, Admission(1, None))
    conn = Connection(reactor, "", "")
    transport = MockTransport()
    conn.connection_made(transport)
    if opening:
        feed(conn, opening)
    echoed = sum(map(len, reads)) - dropped

    def run(count: int) -> None:
        before = transport.written
        for _ in range(count):
            for data in reads:
                size = len(data)
                conn.get_buffer(size)[:size] = data  # as in `feed`, without the call
                conn.buffer_updated(size)
        assert transport.written - before == count * echoed, "an echo is missing"

    return run


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _case(name: str, protocol: gevpy.Protocol, reads: Sequence[bytes], messages: int = 1) -> Case:
    return Case(f"cycle: {name}", functools.partial(cycle, protocol, reads), scale=messages)


def _websocket(name: str, opcode: Opcode, payload: bytes, *, messages: int = 1, piece_bytes: int | None = None) -> Case:
    """A client masks, a server doesn't: the key is what doesn't come back."""
    stream = frame(FIN | opcode, payload, MASK) * messages
    reads = _pieces(stream, piece_bytes or len(stream))
    make = functools.partial(cycle, WebSocketProtocol(), reads, opening=HANDSHAKE, dropped=messages * MASK_BYTES)
    return Case(f"cycle: WebSocket {name}", make, scale=messages)


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
    _websocket("64 B, 1 in a read", Opcode.BINARY, PAYLOAD),
    _websocket("64 B, 32 in a read", Opcode.BINARY, PAYLOAD, messages=32),
    _websocket("text 64 B, 1 in a read", Opcode.TEXT, PAYLOAD),
    _websocket("text 64 B, 32 in a read", Opcode.TEXT, PAYLOAD, messages=32),
    _websocket("64 KiB, whole", Opcode.BINARY, bytes(LARGE_BYTES)),
    _websocket("64 KiB, in 16 KiB pieces", Opcode.BINARY, bytes(LARGE_BYTES), piece_bytes=PIECE_BYTES),
)
