"""What every framing must bear: garbage, and being one object for many connections.

`OneConnection` gives a protocol what `splitting` doesn't: a connection with a memory. `check_garbage` holds that bytes
from a stranger end in messages or a `ProtocolError` and nothing else, and that reads cut in another way end the same.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gevpy import Protocol, ProtocolError, RingBuffer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["OneConnection", "check_garbage", "drip_behind", "outcome", "ring_of"]


def ring_of(content: bytes) -> RingBuffer:
    """Give a ring that holds ``content``."""
    ring = RingBuffer(16, None)
    ring.write(content)
    return ring


class OneConnection(Protocol):
    """Passes everything on to ``inner``, with a connection that is new for each new buffer.

    A message with a ctx is given as the pair that it is, for the tests that know of data alone.
    """

    def __init__(self, inner: Protocol) -> None:
        self.inner = inner
        self.conn: Any = None
        self._buffer: RingBuffer | None = None

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:
        if buffer is not self._buffer:
            self._buffer = buffer
            self.conn = SimpleNamespace(protocol=self.inner, protocol_state=None)
        message = self.inner.decode(self.conn, buffer)
        return message if message is None or message[0] is None else (None, message)

    def max_buffered_bytes(self) -> int:
        return self.inner.max_buffered_bytes()


def outcome(protocol: Protocol, pieces: Iterable[bytes]) -> tuple[list[Any], type[ProtocolError] | None]:
    """Give the messages of ``pieces``, each one read, and the kind of error that ended them, or None."""
    tested = OneConnection(protocol)
    ring = RingBuffer(16, None)
    messages: list[Any] = []
    try:
        for piece in pieces:
            ring.write(piece)
            while len(ring):
                message = tested.decode(None, ring)
                if message is None:
                    break
                messages.append(message[1])
    except ProtocolError as error:
        return messages, type(error)
    return messages, None


def check_garbage(protocol: Protocol, stream: bytes) -> None:
    """Check that ``stream`` raises nothing but `ProtocolError`, and gives the same messages however it is cut.

    And that it ends in an error or doesn't; which one, where there are two faults, may depend on what is seen first.
    """
    messages, error = outcome(protocol, [stream])
    half = len(stream) // 2
    for pieces in ([stream[:half], stream[half:]], [stream[at : at + 1] for at in range(len(stream))]):
        again, other = outcome(protocol, pieces)
        assert repr(again) == repr(messages)  # as text: NaN isn't equal to itself
        assert (other is None) == (error is None), f"{other} in pieces, {error} as a whole"


def drip_behind(protocol: Protocol, head: bytes, byte: bytes) -> Callable[[int], float]:
    """Give a measurement for `check_linear`: one frame that begins with ``head`` and comes on byte by byte, unended."""

    def seconds(count: int) -> float:
        tested = OneConnection(protocol)
        ring = ring_of(head)
        begun = time.thread_time()
        for _ in range(count):
            ring.write(byte)
            tested.decode(None, ring)
        took = time.thread_time() - begun
        assert len(ring) == len(head) + count, "the frame has not ended"
        return took

    return seconds
