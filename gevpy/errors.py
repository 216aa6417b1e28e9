"""Every error gevpy raises, in one tree.

    GevError
    ├── ConfigError            (also a ValueError)    an option, argument or handler that can't work
    ├── BindError              (also an OSError)      an address that can't be listened on
    ├── BufferUnderflow        (also a ValueError)    fewer bytes in a RingBuffer than were asked for
    ├── BufferOverflow         (also a ValueError)    a RingBuffer would grow past its bound
    ├── ConnectionClosed       (also a ConnectionError)  the connection is closed, or going to be
    ├── WriteBufferFull                               the output queue is at its limit
    ├── ProtocolError                                 the peer broke the protocol
    │   ├── FrameTooLarge                             a frame longer than the protocol's limit
    │   ├── CodecError                                a codec broke the decode contract: a bug on our side
    │   ├── FrameTimeout                              a frame begun and not ended in time
    │   └── TruncatedFrame                            the peer went away inside a frame
    ├── HandshakeError                                an opening handshake that failed
    └── WorkerError                                   a worker that can't start or go on

Errors carry their facts as fields, so that code can act on them; ``str()`` is made from the fields and is meant
for a person. The cause, where there is one, is chained as ``__cause__``.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gevpy.closing import CloseReason

__all__ = [
    "BindError",
    "BufferOverflow",
    "BufferUnderflow",
    "CodecError",
    "ConfigError",
    "ConnectionClosed",
    "FrameTimeout",
    "FrameTooLarge",
    "GevError",
    "HandshakeError",
    "ProtocolError",
    "TruncatedFrame",
    "WorkerError",
    "WriteBufferFull",
]


class GevError(Exception):
    """The root of all errors that gevpy raises: ``except gevpy.GevError`` catches every one of them."""


class ConfigError(GevError, ValueError):
    """An option, an argument or a handler that can't work.

    Raised before anything is started or changed; the text names the option and says what would do.
    """


class BindError(GevError, OSError):
    """An address that can't be listened on.

    Attributes:
        address: what was asked for, as ``"host:port"`` or the path of a Unix socket.
        errno: the system's error number, as for every ``OSError``.
    """

    def __init__(self, address: str, cause: OSError) -> None:
        """Say that ``address`` can't be bound because of ``cause``."""
        super().__init__(cause.errno, f"cannot listen on {address}: {cause.strerror or cause}")
        self.address = address
        self._cause = cause

    def __str__(self) -> str:
        """Give the one line a person needs: address and cause."""
        return str(self.strerror)

    def __reduce__(self) -> tuple[type[BindError], tuple[str, OSError]]:
        """Let it cross processes."""
        return type(self), (self.address, self._cause)


class _LimitError(GevError):
    """An error about a number that went past a limit."""

    def __init__(self, message: str, *, limit: float | None = None, actual: float | None = None) -> None:
        """Keep what was allowed and what was met beside the message."""
        super().__init__(message)
        self.limit = limit
        self.actual = actual

    def __str__(self) -> str:
        """Give the message with the fields that are known."""
        text = super().__str__()
        known = [
            f"{name} {value}" for name, value in (("limit", self.limit), ("actual", self.actual)) if value is not None
        ]
        return f"{text} ({', '.join(known)})" if known else text


class BufferUnderflow(_LimitError, ValueError):
    """Fewer bytes are in the buffer than were asked for.

    Attributes:
        limit: how many bytes there are.
        actual: how many were asked for.
    """


class BufferOverflow(_LimitError, ValueError):
    """The buffer would have to grow past its bound.

    Attributes:
        limit: the bound, in bytes.
        actual: the size that would have been needed, in bytes.
    """


class WriteBufferFull(_LimitError):
    """The output queue is at its limit, and the slow-consumer policy refuses or drops the message.

    Attributes:
        limit: ``limits.max_write_buffer_bytes``.
        actual: the bytes already queued.
    """


class ConnectionClosed(GevError, ConnectionError):
    """The connection is closed, or is being closed and takes no more output.

    Attributes:
        reason: the `CloseReason`, or None where only the sending side was shut down.
    """

    def __init__(self, reason: CloseReason | None = None, message: str | None = None) -> None:
        """Keep the reason and say it."""
        self.reason = reason
        self._message = message
        text = message or "connection closed"
        super().__init__(text if reason is None else f"{text}: {reason}")
        if reason is not None and reason.error is not None:
            self.__cause__ = reason.error

    def __reduce__(self) -> tuple[type[ConnectionClosed], tuple[CloseReason | None, str | None]]:
        """Let it cross processes."""
        return type(self), (self.reason, self._message)


class ProtocolError(_LimitError):
    """The peer broke the protocol; the connection ends.

    A `Protocol` raises it from ``unpacket`` for bytes that can't be a frame.

    Attributes:
        limit: what was allowed, where a number was at fault.
        actual: what was met.
        offset: where in the buffered bytes the fault lies, counted from the frame's first byte; None when unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        limit: float | None = None,
        actual: float | None = None,
        offset: int | None = None,
    ) -> None:
        """Keep the facts beside the message."""
        super().__init__(message, limit=limit, actual=actual)
        self.offset = offset

    def __str__(self) -> str:
        """Give the message, the numbers and the place."""
        text = super().__str__()
        return text if self.offset is None else f"{text} at byte {self.offset}"


class CodecError(ProtocolError):
    """A codec broke the decode contract: it gave a message and consumed nothing. A bug of its own, not the peer's."""


class FrameTooLarge(ProtocolError):
    """A frame is longer than the protocol allows; raised before its payload is waited for.

    Attributes:
        limit: ``max_frame_bytes`` of the protocol.
        actual: the length declared, or the bytes that were buffered without the frame's end.
    """


class FrameTimeout(ProtocolError):
    """A frame was begun and not ended within ``timeouts.frame_s``, counted from its first byte."""


class TruncatedFrame(ProtocolError):
    """The peer ended the stream inside a frame; the bytes of the part frame are lost.

    It is the ``error`` of a `CloseReason` of kind ``PEER_CLOSED``.

    Attributes:
        actual: how many bytes of the frame had come.
    """


class HandshakeError(GevError):
    """An opening handshake (TLS, PROXY header, WebSocket) failed or took too long.

    Attributes:
        status: of the HTTP answer, where a WebSocket server refused; else None.
        headers: the fields of that answer; else empty.
    """

    status: int | None = None
    headers: Mapping[str, str] = MappingProxyType({})


class WorkerError(GevError):
    """A worker could not start, or can't go on."""
