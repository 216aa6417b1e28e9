"""No framing: every read is a message. gev's ``DefaultProtocol``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevpy.protocol.base import Protocol, require_bytes

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer
    from gevpy.write_batch import WriteBatch

__all__ = ["RawProtocol"]


class RawProtocol(Protocol):
    """Hands over whatever has come, and sends what it is given: the default.

    TCP is a stream: where one message of the peer ends and the next begins is not known here. For that, take one
    of the framing protocols.

    ``data`` is ``bytes`` and may be kept; ``ctx`` is None. Sends anything bytes-like.

    Source: gev's ``DefaultProtocol``.
    """

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:  # noqa: ARG002 - the contract
        """Take everything."""
        return None, buffer.read(buffer._length)

    def next_message(self, conn: Any, buffer: RingBuffer) -> Any:
        """Take everything, without a pair around it."""
        return buffer.read(buffer._length) if type(self) is RawProtocol else self.decode(conn, buffer)

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Give ``data`` as it is. Raises TypeError for what is not bytes-like."""
        return require_bytes(data)

    def packet_into(self, conn: Any, data: Any, batch: WriteBatch) -> None:
        """Add ``data`` as it is."""
        if type(self) is RawProtocol:
            batch.append(data if type(data) is bytes else require_bytes(data))
        else:
            batch.append(self.packet(conn, data))
