"""Frames that end with a delimiter, lines among them.

What has been searched without a hit is remembered in the buffer (`RingBuffer.scanned`), so that a frame that comes
byte by byte is scanned once, not once per byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevpy.errors import ConfigError, FrameTooLarge
from gevpy.protocol.base import Protocol, require_bytes, require_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gevpy.ring_buffer import RingBuffer
    from gevpy.write_batch import WriteBatch

__all__ = ["DelimiterProtocol", "LineProtocol"]

CARRIAGE_RETURN = 13
FIRST_WINDOW = 64


class DelimiterProtocol(Protocol):
    r"""Cuts the stream at delimiters; of several, the one that ends first ends the frame.

        bytes as they come            messages, delimiter "\0"       ... and with strip=False
        +-----------------+           +-----+-----+                  +-------+-------+
        | ABC \0 DE | F \0 |    ->    | ABC | DEF |                  | ABC\0 | DEF\0 |
        +-----------------+           +-----+-----+                  +-------+-------+

    ``data`` is ``bytes`` and may be kept; ``ctx`` is None. Where two delimiters begin at the same byte, the longer
    wins.

    Args:
        delimiters: one delimiter, or several; none empty. ``packet`` appends the first.
        strip: True takes the delimiter off the message, and ``packet`` puts it on; with False messages carry their
            delimiter both ways, and ``packet`` sends what it is given.
        max_frame_bytes: the bound on a frame without its delimiter, default 64 KiB.

    Raises:
        ConfigError: no delimiter, or an empty one, or a bound below 1.

    Source: Netty's ``DelimiterBasedFrameDecoder``.
    """

    def __init__(
        self,
        delimiters: bytes | Sequence[bytes],
        *,
        strip: bool = True,
        max_frame_bytes: int = 65536,
    ) -> None:
        """Cut at any of ``delimiters``."""
        several = (delimiters,) if isinstance(delimiters, bytes) else tuple(delimiters)
        if not several or not all(isinstance(one, bytes) and one for one in several):
            msg = f"delimiters must be non-empty bytes, at least one, not {delimiters!r}"
            raise ConfigError(msg)
        self.delimiters = several
        self.strip = strip
        self.max_frame_bytes = require_size("max_frame_bytes", max_frame_bytes)
        self._longest = max(map(len, several))

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:  # noqa: ARG002 - the contract
        """Take one frame, if its delimiter has come."""
        start = buffer.scanned
        window = max(FIRST_WINDOW, 2 * self._longest)
        position = -1
        length = 0
        while position < 0:
            stop = min(start + window, buffer._length)
            at_end = stop == buffer._length
            for delimiter in self.delimiters:
                size = len(delimiter)  # a hit is of interest only where it ends no later than the best so far
                found = buffer.find(delimiter, start, stop)
                if found >= 0 and (position < 0 or found + size < stop or size > length):
                    position = found
                    length = size
                    stop = found + size
            if position < 0 and at_end:
                buffer.scanned = max(0, buffer._length - self._longest + 1)
                return None
            start = max(start, stop - self._longest + 1)
            window *= 2  # so that a delimiter that is rare is not searched through everything for every frame
        if position > self.max_frame_bytes:
            raise FrameTooLarge("frame too long", limit=self.max_frame_bytes, actual=position)
        if not self.strip:
            return None, buffer.read(position + length)
        data = buffer.read(position)
        buffer.skip(length)
        return None, data

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Append the first delimiter, unless messages carry their own. Raises TypeError for what is not bytes-like."""
        frame = require_bytes(data)
        return frame + self.delimiters[0] if self.strip else frame

    def max_buffered_bytes(self) -> int:
        """Give the frame's bound and room for a delimiter that has only begun."""
        return self.max_frame_bytes + self._longest - 1


class LineProtocol(Protocol):
    r"""Cuts the stream into lines.

        bytes as they come                messages
        +------------------------+        +-------+----+-------+
        | hello\r\n\n | wor | ld\n |  ->  | hello |    | world |
        +------------------------+        +-------+----+-------+

    A line ends with ``\n`` or ``\r\n``, which is stripped; an empty line is a message. ``packet`` appends ``\n``.
    ``data`` is ``bytes`` and may be kept; ``ctx`` is None.

    Args:
        max_frame_bytes: the bound on a line without its ending, default 8192, as for a header line in HTTP servers.

    Raises:
        ConfigError: the bound is below 1.

    Source: Netty's ``LineBasedFrameDecoder``.
    """

    def __init__(self, *, max_frame_bytes: int = 8192) -> None:
        """Cut lines of up to ``max_frame_bytes`` bytes."""
        self.max_frame_bytes = require_size("max_frame_bytes", max_frame_bytes)

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:  # noqa: ARG002 - the contract
        """Take one line, if it has ended."""
        position = buffer.find(b"\n", buffer.scanned)
        if position < 0:
            buffer.scanned = buffer._length
            return None
        ending = 1
        if position and buffer._byte(position - 1) == CARRIAGE_RETURN:
            position -= 1
            ending = 2
        if position > self.max_frame_bytes:
            raise FrameTooLarge("line too long", limit=self.max_frame_bytes, actual=position)
        data = buffer.read(position)
        buffer.skip(ending)
        return None, data

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Append the line's end. Raises TypeError for what is not bytes-like."""
        return require_bytes(data) + b"\n"

    def packet_into(self, conn: Any, data: Any, batch: WriteBatch) -> None:
        """Add text and line end as they are, without joining them first."""
        if type(self) is not LineProtocol:
            batch.append(self.packet(conn, data))
            return
        batch.append(require_bytes(data))
        batch.append(b"\n")

    def max_buffered_bytes(self) -> int:
        r"""Give the line's bound and room for a ``\r`` that may belong to its end."""
        return self.max_frame_bytes + 1
