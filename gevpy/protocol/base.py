"""The contract between bytes and messages, and the one place where it is held.

A `Protocol` turns the bytes that came into messages (``unpacket``) and messages into bytes (``packet``). It is the
same pair of methods as gev's ``UnPacket`` and ``Packet``. One object serves every connection of a worker; what a codec
must remember of one connection goes into ``conn.protocol_state``.

`Protocol.decode` is the only caller of ``unpacket``, and it enforces the contract: ``None`` means "not a whole frame
yet" and what then stays buffered is bounded; a message must have consumed bytes, so that no codec can loop for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from gevpy import _cython_shim as cython

from gevpy.errors import CodecError, ConfigError, FrameTooLarge, GevError
from gevpy.write_batch import as_bytes

if TYPE_CHECKING:
    from gevpy.buffers import BytesLike
    from gevpy.closing import CloseKind, CloseReason
    from gevpy.handler import Handler
    from gevpy.ring_buffer import RingBuffer
    from gevpy.write_batch import WriteBatch

__all__ = ["Protocol"]

MOST_BYTES = 1 << 48  # sums of such sizes stay within what a C integer holds


class Protocol:
    """Turns bytes into messages and messages into bytes; subclass it for a protocol of your own.

    A subclass needs no ``super().__init__()``. All methods run on the loop.

    Attributes:
        max_frame_bytes: the bound on one frame, and on what may stay buffered after ``unpacket`` gave None. Default
            65536: the size of one read in gev and gnet. Set it on your class or on the object; the ready-made protocols
            take it as an argument.

    Example:
        A frame is one byte of length and so many bytes of text:

        >>> import gevpy
        >>> class Pascal(gevpy.Protocol):
        ...     def unpacket(self, conn, buffer):
        ...         if len(buffer) < 1 or len(buffer) < 1 + buffer.peek_uint8():
        ...             return None
        ...         length = buffer.peek_uint8()
        ...         buffer.skip(1)
        ...         return None, buffer.read(length)
        ...     def packet(self, conn, data):
        ...         return bytes([len(data)]) + data
    """

    max_frame_bytes = 65536

    bytes_ctx: Any  # the ctx of data that `next_message` gives alone
    text_ctx: Any

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:
        """Take the next message out of ``buffer``.

        Called again and again until it gives None or the buffer is empty; never with an empty buffer.

        Args:
            conn: the connection; ``conn.protocol_state`` is this codec's to use.
            buffer: what has come and was not yet taken. It is lent for the call: don't keep it.

        Returns:
            None when no whole frame is there yet (what was looked at stays, what was consumed is gone); else
            ``(ctx, data)``, given to ``on_message`` as they are. ``(None, b"")`` is a message like any other.

        Raises:
            ProtocolError: the bytes can't be a frame; the connection ends.
        """
        msg = f"{type(self).__name__} has no unpacket()"
        raise NotImplementedError(msg)

    def packet(self, conn: Any, data: Any) -> BytesLike:
        """Turn one message into the bytes of its frame.

        Args:
            conn: the connection it goes to.
            data: what a handler returned or gave to ``send``.

        Returns:
            The frame, bytes-like; what isn't ``bytes`` is copied at once.

        Raises:
            Exception: whatever fits; a ``send`` raises it to its caller and the connection lives, a reply ends the
                connection.
        """
        msg = f"{type(self).__name__} has no packet()"
        raise NotImplementedError(msg)

    def packet_into(self, conn: Any, data: Any, batch: WriteBatch) -> None:
        """Add the frame of ``data`` to ``batch``: what `packet` gives, unless a protocol knows a shorter way."""
        batch.append(self.packet(conn, data))

    def goodbye(self, conn: Any, why: str) -> None:
        """Say to the peer that the server goes away; does nothing unless a protocol has words for it.

        Called once for each connection when its server or worker drains, after ``on_drain``; what is sent here still
        leaves.

        Args:
            conn: the connection.
            why: ``"stop"``, ``"supervisor gone"`` or ``"signal"`` (one that ends this worker): connections are closed
                now. ``"reload"``, ``"recycle"`` or ``"remove"``: they may live on until they close by themselves, or
                ``timeouts.drain_s`` has passed.
        """

    def packet_shared(self, conn: Any, data: Any, made: dict[Any, bytes]) -> bytes:  # noqa: ARG002 - see below
        """Give the frame of a message that goes to many; ``made`` is for those that can serve more than one of them."""
        return as_bytes(self.packet(conn, data))

    # -- a beginning and an end of its own ---------------------------------------------------------

    ends_both_sides = False
    """Whether the end of one side of the stream is the end of the connection, as in TLS."""

    def handler_for(self, handler: Handler) -> Handler:
        """Give what handles the messages in place of ``handler``: itself, unless the protocol knows several."""
        return handler

    def begin(self, conn: Any) -> bool:  # noqa: ARG002 - most have no use for it
        """Begin with a new connection; tell whether it can carry messages at once.

        If not, ``on_connect`` comes when the protocol calls ``conn.opening_done()``. Until then what comes is given to
        ``unpacket``, and ``conn.connected`` is False.
        """
        return True

    def close_words(self, conn: Any, code: int | None, text: str) -> None:  # noqa: ARG002 - for those that have them
        """Note what ``conn.close(code, text)`` wants to be said.

        Raises:
            ConfigError: nothing can be said by this protocol.
        """
        if code is not None or text:
            msg = f"{type(self).__name__} has no close codes: close() takes no arguments"
            raise ConfigError(msg)

    def expects_farewell(self, conn: Any, kind: CloseKind) -> bool:  # noqa: ARG002 - the same
        """Tell whether, closing for such a reason, the peer's farewell is to be waited for."""
        return False

    def farewell(self, conn: Any, reason: CloseReason) -> CloseReason:  # noqa: ARG002 - the same
        """Say the last thing before the connection closes; give the reason, with what was said."""
        return reason

    def hear_farewell(self, conn: Any, buffer: RingBuffer) -> bool:  # noqa: ARG002 - the same
        """Look for the peer's farewell in what comes while closing; tell whether it has come."""
        return True

    def ended(self, conn: Any, reason: CloseReason) -> CloseReason:  # noqa: ARG002 - the same
        """Let go of a connection that is gone; give the reason, as ``on_close`` is to get it."""
        return reason

    def due(self, conn: Any, now: int) -> None:
        """Act at the time that ``conn.wake_protocol`` was called for; ``now`` is the tick."""

    async def ping(self, conn: Any) -> float:  # noqa: ARG002 - the same
        """Ask the peer for a sign of life; give the seconds it took.

        Raises:
            GevError: this protocol has no pings.
        """
        msg = f"{type(self).__name__} has no pings"
        raise GevError(msg)

    def max_buffered_bytes(self) -> int:
        """Give the bound on what may stay buffered after None; a protocol with a header adds it here."""
        return self.max_frame_bytes

    def next_message(self, conn: Any, buffer: RingBuffer) -> Any:
        """Give what `decode` gives; or the data alone, where it is bytes or text and has that type's own ctx.

        Making and dropping a pair is a tenth of a small message's cost. What a ready-made protocol gives here needs no
        check, as it is known to take at least a byte for each message.
        """
        return self.decode(conn, buffer)

    def decode(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:
        """Call ``unpacket`` once and hold it to its contract.

        Raises:
            FrameTooLarge: None was given, and more than the bound stays buffered.
            ProtocolError: the bytes can't be a frame.
            CodecError: the codec gave a message without consuming a byte.
            TypeError: the codec gave something else than None or a pair.
        """
        before = buffer._length  # as len(buffer), without the way through Python's length protocol
        message = self.unpacket(conn, buffer)
        if message is None:
            limit = self.max_buffered_bytes()
            if buffer._length > limit and getattr(conn, "protocol", self) is self:  # else the new one has its own bound
                raise FrameTooLarge("no whole frame within the limit", limit=limit, actual=buffer._length)
            return None
        if not isinstance(message, tuple) or len(message) != 2:  # noqa: PLR2004 - a pair
            msg = f"{type(self).__name__}.unpacket() must give None or (ctx, data), not {type(message).__name__}"
            raise TypeError(msg)
        if buffer._length >= before:
            msg = f"{type(self).__name__}.unpacket() gave a message and consumed nothing"
            raise CodecError(msg)
        return message if type(message) is tuple else tuple(message)  # a named tuple


if not cython.compiled:  # there, the .pxd says so
    Protocol.bytes_ctx = Protocol.text_ctx = None


def require_size(name: str, value: object, least: int = 1) -> int:
    """Give ``value`` back if it is a number, mostly of bytes, that a protocol can count with.

    Raises:
        ConfigError: it isn't a whole number of at least ``least`` and at most 2**48.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST_BYTES:
        msg = f"{name} must be a whole number, {least} to 2**48, not {value!r}"
        raise ConfigError(msg)
    return value


def require_bytes(data: Any) -> bytes:
    """Give ``data`` as bytes, or say what a byte protocol wants.

    Raises:
        TypeError: it is not bytes-like.
    """
    try:
        return as_bytes(data)
    except TypeError:
        msg = f"this protocol sends bytes, bytearray or memoryview, not {type(data).__name__}"
        raise TypeError(msg) from None
