"""Why a connection closed: a closed list of kinds, and the record that ``on_close`` gets.

Nothing closes without a reason. The kind is also the ``reason`` label of ``gevpy_connections_closed_total``, so the
list is closed: a new way to close is a new member here, never free text.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["CloseKind", "CloseReason", "close_reason"]


class CloseKind(enum.StrEnum):
    """How a connection came to its end; the value is the metrics label."""

    PEER_CLOSED = "peer_closed"
    """The peer ended its side; what it had sent was handled and answered first."""
    PEER_RESET = "peer_reset"
    """The peer, or the network, tore the connection down."""
    IDLE = "idle"
    """Nothing moved for ``idle_timeout_s``."""
    CLOSED_LOCALLY = "closed_locally"
    """The application called ``conn.close()``."""
    ABORTED = "aborted"
    """The application called ``conn.abort()``."""
    PROTOCOL_ERROR = "protocol_error"
    """The peer sent what can't be a frame, or the codec failed on it."""
    FRAME_TOO_LARGE = "frame_too_large"
    """A frame longer than ``max_frame_bytes``."""
    FRAME_TIMEOUT = "frame_timeout"
    """A frame begun and not ended within ``timeouts.frame_s``."""
    PING_TIMEOUT = "ping_timeout"
    """The peer did not answer a ping in time."""
    HANDLER_ERROR = "handler_error"
    """A method of the handler raised."""
    SLOW_CONSUMER = "slow_consumer"
    """The peer reads too slowly: output went past ``limits.max_write_buffer_bytes``."""
    WRITE_STALL = "write_stall"
    """Output waited for ``timeouts.write_stall_s`` and the peer acknowledged not one byte of it."""
    DRAINED = "drained"
    """The server, or its worker, is going away."""
    HANDSHAKE_FAILED = "handshake_failed"
    """An opening handshake failed or took too long."""
    INTERNAL_ERROR = "internal_error"
    """gevpy or the event loop failed; please report it."""


@dataclass(frozen=True, slots=True)
class CloseReason:
    """Why one connection closed.

    Attributes:
        kind: one of the closed list `CloseKind`.
        error: the exception behind it, or None. A close that lost output on the way (the flush did not end
            within ``timeouts.close_s``) has one here as well.
        code: the WebSocket close code, or None on other protocols.
        text: the WebSocket close text, ``""`` elsewhere.

    Example:
        >>> reason = CloseReason(CloseKind.IDLE)
        >>> str(reason)
        'idle'
    """

    kind: CloseKind
    error: BaseException | None = None
    code: int | None = None
    text: str = ""

    def __str__(self) -> str:
        """Give kind, code, text and error in one line."""
        parts = [self.kind.value]
        if self.code is not None:
            parts.append(f"code {self.code}")
        if self.text:
            parts.append(repr(self.text))
        if self.error is not None:
            parts.append(str(self.error) or type(self.error).__name__)
        return ", ".join(parts)


_PLAIN = {kind: CloseReason(kind) for kind in CloseKind}


def close_reason(kind: CloseKind, error: BaseException | None = None) -> CloseReason:
    """Give the reason of a kind, and the same object each time where no error belongs to it."""
    return _PLAIN[kind] if error is None else CloseReason(kind, error)
