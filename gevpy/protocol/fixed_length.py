"""Frames that are all of one length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevpy.errors import ConfigError, ProtocolError
from gevpy.protocol.base import Protocol, require_bytes, require_size

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer

__all__ = ["FixedLengthProtocol"]


class FixedLengthProtocol(Protocol):
    """Cuts the stream into frames of ``length`` bytes.

        bytes as they come                 messages, length 3
        +-----+----+----+---+              +-----+-----+-----+
        | ABC | DE | FG | HI |      ->     | ABC | DEF | GHI |
        +-----+----+----+---+              +-----+-----+-----+

    ``data`` is ``bytes`` and may be kept; ``ctx`` is None.

    Args:
        length: bytes of every frame, 1 to ``max_frame_bytes``.
        max_frame_bytes: the bound that ``length`` must keep, default 64 KiB.

    Raises:
        ConfigError: ``length`` is out of range.

    Source: Netty's ``FixedLengthFrameDecoder``.
    """

    def __init__(self, length: int, *, max_frame_bytes: int = 65536) -> None:
        """Cut frames of ``length`` bytes."""
        require_size("length", length)
        require_size("max_frame_bytes", max_frame_bytes)
        if length > max_frame_bytes:
            msg = f"length must be 1 to max_frame_bytes ({max_frame_bytes}), not {length}"
            raise ConfigError(msg)
        self.length = length
        self.max_frame_bytes = max_frame_bytes

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:  # noqa: ARG002 - the contract
        """Take one frame, if it is all there."""
        if buffer._length < self.length:
            buffer.reserve(self.length)
            return None
        return None, buffer.read(self.length)

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Give ``data`` as it is.

        Raises:
            ProtocolError: it isn't ``length`` bytes long.
            TypeError: it isn't bytes-like.
        """
        frame = require_bytes(data)
        if len(frame) != self.length:
            msg = "a message must have the fixed length"
            raise ProtocolError(msg, limit=self.length, actual=len(frame))
        return frame
