"""Netstrings: the length in decimal digits, a colon, the bytes, a comma.

Written here: the library there is has not been released for years, and it is a screenful.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevpy.errors import FrameTooLarge, ProtocolError
from gevpy.protocol.base import Protocol, require_bytes, require_size

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer

__all__ = ["NetstringProtocol"]

COMMA = 0x2C
ZERO = 0x30


class NetstringProtocol(Protocol):
    """Cuts the stream into netstrings.

        bytes as they come                      messages
        +-----------------+-------------+       +-------+---+------+
        | 5:hello,0:,4:wo | rd, | 3:ab  |  ->   | hello |   | word |
        +-----------------+-------------+       +-------+---+------+

    ``data`` is ``bytes`` and may be kept; ``ctx`` is None. ``0:,`` is a message, an empty one. Strict: no sign, no
    space, no zero before other digits, and nothing but the comma behind the bytes; anything else is a `ProtocolError`
    that says at which byte of the frame.

    Args:
        max_frame_bytes: the bound on the bytes between colon and comma; more digits than it has are not waited for.
            Default 64 KiB.

    Raises:
        ConfigError: the bound is below 1.

    Source: D. J. Bernstein's "Netstrings" of 1997.

    Example:
        >>> from gevpy.protocol.netstring import NetstringProtocol
        >>> NetstringProtocol().packet(None, b"hello")
        b'5:hello,'
    """

    def __init__(self, *, max_frame_bytes: int = 65536) -> None:
        """Cut netstrings of up to ``max_frame_bytes`` bytes."""
        self.max_frame_bytes = require_size("max_frame_bytes", max_frame_bytes)
        self._most_digits = len(str(max_frame_bytes))

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:  # noqa: ARG002 - the contract
        """Take one netstring, if it is all there."""
        have = len(buffer)
        head = buffer.peek(min(have, self._most_digits + 1))
        digits, colon, _ = head.partition(b":")
        if not digits.isdigit() or (digits[0] == ZERO and len(digits) > 1):
            raise self._bad_length(digits)
        size = int(digits)
        if size > self.max_frame_bytes:
            raise FrameTooLarge("declared frame length", limit=self.max_frame_bytes, actual=size, offset=0)
        if not colon:
            return None
        end = len(digits) + 1 + size
        if have <= end:
            buffer.reserve(end + 1)
            return None
        if buffer.peek_uint8(end) != COMMA:
            raise ProtocolError("no comma behind a netstring", offset=end)
        data = buffer.take(len(digits) + 1, size)
        buffer.skip(1)
        return None, data

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Put length and colon before ``data``, and the comma behind. Raises TypeError for what is not bytes-like."""
        body = require_bytes(data)
        return b"%d:%b," % (len(body), body)

    def max_buffered_bytes(self) -> int:
        """Give the bound on a whole frame: digits, colon, bytes and comma."""
        return self._most_digits + 1 + self.max_frame_bytes + 1

    def _bad_length(self, digits: bytes) -> ProtocolError:
        good = len(digits) - len(digits.lstrip(b"0123456789"))
        return ProtocolError("no length of a netstring", offset=1 if digits[:1] == b"0" else good)
