"""COBS: packets without a zero byte in them, each ended by one. What many microcontrollers speak.

The stuffing is the ``cobs`` package's (extra ``[cobs]``): it is kept, strict, and written in C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from cobs.cobs import DecodeError, decode, encode  # type: ignore[import-untyped]
except ImportError as missing:
    msg = "CobsProtocol needs the cobs package: pip install gevpy[cobs]"
    raise ImportError(msg) from missing

from gevpy.errors import ProtocolError
from gevpy.protocol.base import require_bytes
from gevpy.protocol.delimiter import DelimiterProtocol
from gevpy.protocol.padding import skip_padding

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer

__all__ = ["CobsProtocol"]


class CobsProtocol(DelimiterProtocol):
    r"""Cuts the stream into COBS packets.

        bytes as they come                        messages
        +----------------------------------+     +---------------+----+
        | 00 03 41 42 02 43 00 01 00 02 .. | ->  | "AB" 00 "C"   | "" |
        +----------------------------------+     +---------------+----+

    ``data`` is ``bytes`` and may be kept; ``ctx`` is None. An empty message is ``01 00`` on the wire; nothing between
    two zeros is no message: many senders begin with a zero to flush noise. Bytes that no stuffing gives are a
    `ProtocolError`.

    Args:
        max_frame_bytes: the bound on a packet as it is on the wire, without its zero: one byte more than the message
            for each 254 of it that have begun. Default 64 KiB.

    Raises:
        ConfigError: the bound is below 1.

    Source: Cheshire and Baker, "Consistent Overhead Byte Stuffing", 1999.

    Example:
        >>> from gevpy.protocol.cobs import CobsProtocol
        >>> CobsProtocol().packet(None, b"AB\0C")
        b'\x03AB\x02C\x00'
    """

    def __init__(self, *, max_frame_bytes: int = 65536) -> None:
        """Cut packets of up to ``max_frame_bytes`` bytes."""
        super().__init__(b"\0", max_frame_bytes=max_frame_bytes)

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:
        """Take one packet, if it has ended; drop empty ones before it."""
        skip_padding(buffer, b"\0")
        message = super().unpacket(conn, buffer)
        if message is None:
            return None
        try:
            return None, decode(message[1])
        except DecodeError as error:
            raise ProtocolError("bad COBS packet", actual=len(message[1])) from error

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Stuff ``data`` and put a zero behind it. Raises TypeError for what is not bytes-like."""
        stuffed: bytes = encode(require_bytes(data))
        return stuffed + b"\0"
