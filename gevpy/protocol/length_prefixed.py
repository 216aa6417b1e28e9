r"""Frames that say their own length.

The field may be anywhere in the header, of any usual width and either byte order, and may count the header or not:
what Netty's ``LengthFieldBasedFrameDecoder`` and ``LengthFieldPrepender`` can do together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from gevpy.errors import ConfigError, FrameTooLarge, ProtocolError
from gevpy.protocol.base import MOST_BYTES, Protocol, require_bytes, require_size

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer
    from gevpy.write_batch import WriteBatch

__all__ = ["LengthPrefixedProtocol"]

SIZES = (1, 2, 3, 4, 8)


class LengthPrefixedProtocol(Protocol):
    r"""Cuts the stream by a length field in each frame's header.

    The default is gev's own example: 4 bytes, big-endian, the header not counted, stripped from messages and prepended
    to replies:

        before unpacket (6 bytes)        after (2 bytes)
        +------------+---------+         +---------+
        | 0x00000002 | "HI"    |   ->    | "HI"    |
        +------------+---------+         +---------+

    ``size=2, strip=0``: messages keep their header, and ``packet`` sends them as they are:

        +--------+----------------+      +--------+----------------+
        | 0x000C | "HELLO, WORLD" |  ->  | 0x000C | "HELLO, WORLD" |
        +--------+----------------+      +--------+----------------+

    ``size=2, adjustment=-2``: the length counts its own field:

        +--------+----------------+      +----------------+
        | 0x000E | "HELLO, WORLD" |  ->  | "HELLO, WORLD" |
        +--------+----------------+      +----------------+

    ``size=3, offset=2, strip=0``: a header before the length:

        +--------+----------+----------------+      +--------+----------+----------------+
        | 0xCAFE | 0x00000C | "HELLO, WORLD" |  ->  | 0xCAFE | 0x00000C | "HELLO, WORLD" |
        +--------+----------+----------------+      +--------+----------+----------------+

    ``size=3, adjustment=2, strip=0``: a header behind the length that it doesn't count:

        +----------+--------+----------------+      +----------+--------+----------------+
        | 0x00000C | 0xCAFE | "HELLO, WORLD" |  ->  | 0x00000C | 0xCAFE | "HELLO, WORLD" |
        +----------+--------+----------------+      +----------+--------+----------------+

    ``size=2, offset=1, adjustment=1, strip=3``: a byte before, a byte behind, length and what precedes it stripped:

        +------+--------+------+----------------+      +------+----------------+
        | 0xCA | 0x000C | 0xFE | "HELLO, WORLD" |  ->  | 0xFE | "HELLO, WORLD" |
        +------+--------+------+----------------+      +------+----------------+

    Sending is the inverse: ``packet`` puts the length field in at ``offset``, so with ``offset`` 2 a reply's first two
    bytes go before it; with ``strip=0`` messages carry their own header both ways. An empty frame is a message. The
    length is unsigned, always: a negative length is no length. ``data`` is ``bytes`` and may be kept; ``ctx`` is None.

    Args:
        size: width of the length field in bytes: 1, 2, 3, 4 or 8. Default 4.
        byteorder: ``"big"`` (default, network order) or ``"little"``.
        offset: bytes before the length field. Default 0.
        adjustment: what to add to the length's value to get the count of bytes behind the field; negative where it
            counts the header too. Default 0.
        strip: bytes to take off the front of each frame. Default: up to the end of the length field.
        max_frame_bytes: the bound on the bytes behind the length field, checked before any of them is waited for.
            Default 64 KiB.

    Raises:
        ConfigError: a value out of range.

    Source: Netty's ``LengthFieldBasedFrameDecoder`` (``lengthFieldLength``, ``lengthFieldOffset``,
    ``lengthAdjustment``, ``initialBytesToStrip``) and ``LengthFieldPrepender``; gev's ``example/protocol``.
    """

    def __init__(  # noqa: PLR0913 - the five numbers that describe such a header, all optional
        self,
        size: int = 4,
        *,
        byteorder: Literal["big", "little"] = "big",
        offset: int = 0,
        adjustment: int = 0,
        strip: int | None = None,
        max_frame_bytes: int = 65536,
    ) -> None:
        """Cut by a length field of ``size`` bytes."""
        if size not in SIZES:
            msg = f"size must be one of {SIZES}, not {size!r}"
            raise ConfigError(msg)
        if byteorder not in ("big", "little"):
            msg = f"byteorder must be 'big' or 'little', not {byteorder!r}"
            raise ConfigError(msg)
        require_size("offset", offset, 0)
        require_size("adjustment", abs(adjustment), 0)
        self.size = size
        self.byteorder = byteorder
        self.offset = offset
        self.adjustment = adjustment
        self.strip = offset + size if strip is None else require_size("strip", strip, 0)
        self.max_frame_bytes = require_size("max_frame_bytes", max_frame_bytes)
        self._header = offset + size
        self._slack = abs(adjustment)
        self._little = byteorder == "little"
        self._largest = min((1 << (8 * size)) - 1, MOST_BYTES)  # no message is longer

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:  # noqa: ARG002 - the contract
        """Take one frame, if it is all there."""
        data = self._frame(buffer)
        return None if data is None else (None, data)

    def next_message(self, conn: Any, buffer: RingBuffer) -> Any:
        """Take one frame, without a pair around it."""
        return self._frame(buffer) if type(self) is LengthPrefixedProtocol else self.decode(conn, buffer)

    def _frame(self, buffer: RingBuffer) -> bytes | None:
        have = buffer._length
        if have < self._header:
            return None
        value = buffer._uint(self.offset, self.size, self._little)
        if value > self.max_frame_bytes + self._slack:  # before any sum that could overflow
            raise self._too_large(value)
        body = value + self.adjustment
        if body > self.max_frame_bytes:
            raise self._too_large(body)
        total = self._header + body
        if body < 0 or total < self.strip:
            raise self._too_short(value)
        if have < total:
            buffer.reserve(total)
            return None
        return buffer.take(self.strip, total - self.strip)

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Put the length field in.

        Raises:
            FrameTooLarge: the length doesn't fit into ``size`` bytes.
            ProtocolError: ``data`` is shorter than what must go before the length field.
            TypeError: ``data`` isn't bytes-like.
        """
        body = require_bytes(data)
        if self.strip == 0:
            return body
        field = self._length_of(body).to_bytes(self.size, "little" if self._little else "big")
        return body[: self.offset] + field + body[self.offset :] if self.offset else field + body

    def packet_into(self, conn: Any, data: Any, batch: WriteBatch) -> None:
        """Add length and payload as they are, without joining them first."""
        if type(self) is not LengthPrefixedProtocol or self.offset or self.strip == 0:
            batch.append(self.packet(conn, data))
            return
        body = data if type(data) is bytes else require_bytes(data)
        value = len(body) - self.adjustment
        if not 0 <= value <= self._largest:
            value = self._length_of(body)  # which raises, and says why
        batch.append_prefixed(value, self.size, self._little, body)

    def max_buffered_bytes(self) -> int:
        """Give the bound on a whole frame, its header included."""
        return self._header + self.max_frame_bytes

    def _length_of(self, body: bytes) -> int:
        value = len(body) - self.offset - self.adjustment
        if value < 0 or len(body) < self.offset:
            raise ProtocolError("message shorter than its header", limit=self.offset, actual=len(body))
        if value > self._largest:
            raise FrameTooLarge("message too long for its length field", limit=self._largest, actual=value)
        return value

    def _too_large(self, actual: int) -> FrameTooLarge:
        return FrameTooLarge("declared frame length", limit=self.max_frame_bytes, actual=actual, offset=self.offset)

    def _too_short(self, value: int) -> ProtocolError:
        return ProtocolError("frame shorter than its own header", actual=value, offset=self.offset)
