"""SLIP: packets that end with one byte, which is escaped within them. What many serial devices and OSC speak.

Written here: packing and unpacking are two replacements each, in C.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gevpy.errors import ProtocolError
from gevpy.protocol.base import require_bytes
from gevpy.protocol.delimiter import DelimiterProtocol
from gevpy.protocol.padding import skip_padding

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer

__all__ = ["SlipProtocol"]

END = b"\xc0"
ESC = b"\xdb"
ESC_END = b"\xdb\xdc"
ESC_ESC = b"\xdb\xdd"
BAD_ESCAPE = re.compile(rb"\xdb(?![\xdc\xdd])")


class SlipProtocol(DelimiterProtocol):
    r"""Cuts the stream into SLIP packets.

        bytes as they come                            messages
        +---------------------------------------+     +----------------------+
        | C0 41 42 C0 C0 DB DC DB DD C0 43 ...  | ->  | "AB"   | "\xC0\xDB"  |
        +---------------------------------------+     +----------------------+

    ``data`` is ``bytes`` and may be kept; ``ctx`` is None. Nothing between two ENDs is no message: many senders begin
    with an END to flush noise. An escape of another byte than the two that need it is a `ProtocolError`.

    Args:
        max_frame_bytes: the bound on a packet as it is on the wire, without its END: up to twice what the message has.
            Default 64 KiB.

    Raises:
        ConfigError: the bound is below 1.

    Source: RFC 1055, but strict where that leaves a bad escape alone.

    Example:
        >>> from gevpy.protocol.slip import SlipProtocol
        >>> SlipProtocol().packet(None, b"A\xc0")
        b'A\xdb\xdc\xc0'
    """

    def __init__(self, *, max_frame_bytes: int = 65536) -> None:
        """Cut packets of up to ``max_frame_bytes`` bytes."""
        super().__init__(END, max_frame_bytes=max_frame_bytes)

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:
        """Take one packet, if it has ended; drop empty ones before it."""
        skip_padding(buffer, END)
        message = super().unpacket(conn, buffer)
        if message is None or ESC not in message[1]:
            return message
        packet = message[1]
        if bad := BAD_ESCAPE.search(packet):
            raise ProtocolError("bad escape in a SLIP packet", offset=bad.start())
        return None, packet.replace(ESC_END, END).replace(ESC_ESC, ESC)

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Escape ``data`` and put END behind it.

        Raises:
            ProtocolError: ``data`` is empty: nothing on the wire would say so.
            TypeError: ``data`` isn't bytes-like.
        """
        body = require_bytes(data)
        if not body:
            raise ProtocolError("SLIP has no empty message")
        return body.replace(ESC, ESC_ESC).replace(END, ESC_END) + END
