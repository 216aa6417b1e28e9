"""Frames that say their length in a varint: seven bits to a byte, the low ones first, as protobuf counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevpy.errors import FrameTooLarge, ProtocolError
from gevpy.protocol.base import Protocol, require_bytes, require_size

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer

__all__ = ["VarintProtocol"]

WIDEST = 5  # bytes of a varint; what they can say is beyond any frame, and a sixth is an attack or a mistake
MORE = 0x80  # set in every byte but the last


class VarintProtocol(Protocol):
    r"""Cuts the stream by a varint that counts the bytes behind it.

        +------+-------------------+       +------------+
        | 0x02 | "HI"              |  ->   | "HI"       |
        +------+-------------------+       +------------+
        | 0xAC 0x02 | 300 bytes    |  ->   | 300 bytes  |
        +-----------+--------------+       +------------+

    ``data`` is ``bytes`` and may be kept; ``ctx`` is None. An empty frame is a message. A varint that is longer than
    it had to be is read like any other, up to five bytes; a longer one is a `ProtocolError`. ``packet`` writes the
    shortest.

    Args:
        max_frame_bytes: the bound on the bytes behind the varint, checked before any of them is waited for. Default
            64 KiB.

    Raises:
        ConfigError: the bound is below 1.

    Source: protobuf's ``writeDelimitedTo``; Netty's ``ProtobufVarint32FrameDecoder``.

    Example:
        >>> from gevpy.protocol.varint import VarintProtocol
        >>> VarintProtocol().packet(None, b"HI")
        b'\x02HI'
    """

    def __init__(self, *, max_frame_bytes: int = 65536) -> None:
        """Cut frames of up to ``max_frame_bytes`` bytes."""
        self.max_frame_bytes = require_size("max_frame_bytes", max_frame_bytes)

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:  # noqa: ARG002 - the contract
        """Take one frame, if it is all there."""
        size = buffer.peek_uint8()
        width = 1
        if size >= MORE:
            width, size = self._long(buffer)
            if not width:
                return None
        if size > self.max_frame_bytes:
            raise FrameTooLarge("declared frame length", limit=self.max_frame_bytes, actual=size, offset=0)
        if len(buffer) < width + size:
            buffer.reserve(width + size)
            return None
        return None, buffer.take(width, size)

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Put the varint before ``data``. Raises TypeError for what is not bytes-like."""
        return self.prefixed(require_bytes(data))

    def max_buffered_bytes(self) -> int:
        """Give the bound on a whole frame, its varint included."""
        return WIDEST + self.max_frame_bytes

    @staticmethod
    def prefixed(body: bytes) -> bytes:
        """Give ``body`` behind the varint of its length."""
        left = len(body)
        if left < MORE:
            return bytes((left,)) + body
        head = []
        while left >= MORE:
            head.append(left & 0x7F | MORE)
            left >>= 7
        return bytes((*head, left)) + body

    def _long(self, buffer: RingBuffer) -> tuple[int, int]:
        """Give width and value of a varint of several bytes; width 0 while it isn't all there."""
        size = 0
        for at, byte in enumerate(buffer.peek(min(WIDEST, len(buffer)))):
            size |= (byte & 0x7F) << 7 * at
            if byte < MORE:
                return at + 1, size
        if len(buffer) >= WIDEST:
            raise ProtocolError("varint without an end", limit=WIDEST, offset=WIDEST - 1)
        return 0, 0
