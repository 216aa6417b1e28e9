"""MessagePack: values one behind the other, with no frame around them (extra ``[msgpack]``).

Where a value ends is only known by walking through it. A scanner of msgpack's own does that as the bytes come, each
byte once (without its C extension, from the value's beginning at every read); it builds nothing, so that a header which
promises four billion elements costs nobody memory. Only what is whole is decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from msgpack import OutOfData, Unpacker, packb, unpackb
except ImportError as missing:
    msg = "MsgpackProtocol needs msgpack: pip install gevpy[msgpack]"
    raise ImportError(msg) from missing

from gevpy.errors import ProtocolError
from gevpy.protocol.base import Protocol, require_size

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer

__all__ = ["MsgpackProtocol"]

FIRST_BYTES = 4096  # a scanner's memory to begin with


class MsgpackProtocol(Protocol):
    r"""Cuts the stream into MessagePack values and decodes them.

        bytes as they come                      messages
        +-------------------+-----------+       +----------+------+
        | 81 A1 61 01 A2 68 | 69 C0 ... |  ->   | {"a": 1} | "hi" |
        +-------------------+-----------+       +----------+------+

    ``data`` is the value as ``msgpack.unpackb`` gives it: arrays are lists, extension types ``msgpack.ExtType``,
    timestamps ``msgpack.Timestamp``; ``ctx`` is None. The keys of maps have to be text or bytes, which is msgpack's
    own guard against keys that collide. Bytes that are no value are a `ProtocolError`, with msgpack's exception as its
    cause. ``packet`` takes what ``msgpack.packb`` takes; a nil goes out by ``conn.send(None)``.

    Args:
        max_frame_bytes: the bound on one value's bytes. Default 64 KiB.

    Raises:
        ConfigError: the bound is below 1.

    Source: the MessagePack specification.

    Example:
        >>> from gevpy.protocol.msgpack import MsgpackProtocol
        >>> MsgpackProtocol().packet(None, {"a": 1})
        b'\x81\xa1a\x01'
    """

    def __init__(self, *, max_frame_bytes: int = 65536) -> None:
        """Cut values of up to ``max_frame_bytes`` bytes."""
        self.max_frame_bytes = require_size("max_frame_bytes", max_frame_bytes)

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:
        """Take one value, if it is all there."""
        scanner, begin = conn.protocol_state or (None, 0)
        if scanner is None or not buffer.scanned:  # the latter counts what the scanner was fed and we still hold
            scanner = Unpacker(read_size=min(FIRST_BYTES, self.max_frame_bytes), max_buffer_size=self.max_frame_bytes)
            begin = buffer.scanned = 0
            conn.protocol_state = scanner, begin
            self._feed(scanner, buffer)
        try:
            while True:
                try:
                    scanner.skip()
                    break
                except OutOfData:
                    if not self._feed(scanner, buffer):
                        return None
            end = scanner.tell()
            left = buffer.scanned - (end - begin)
            conn.protocol_state = (scanner, end) if left else None  # whoever is idle holds no scanner
            message = None, unpackb(buffer.read(end - begin))
        except ValueError as error:
            raise ProtocolError(f"no MessagePack: {str(error) or type(error).__name__}") from error
        buffer.scanned = left
        return message

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Encode ``data``. Raises what ``msgpack.packb`` does: TypeError, ValueError, OverflowError."""
        return packb(data)

    def _feed(self, scanner: Unpacker, buffer: RingBuffer) -> bool:
        """Give the scanner what it hasn't seen, up to a whole frame; False where there is no more."""
        more = min(len(buffer), self.max_frame_bytes) - buffer.scanned
        if more <= 0:
            return False
        if len(buffer) - buffer.virtual_length != buffer.scanned:  # a value was taken, and the look-ahead forgotten
            buffer.virtual_revert()
            buffer.virtual_read(buffer.scanned)
        scanner.feed(buffer.virtual_read(more))
        buffer.scanned += more
        return True
