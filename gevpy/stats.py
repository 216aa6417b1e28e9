"""What one loop counts: plain integers that the hot path adds to and the metrics page reads.

All counters begin at 0 with their server and only grow. Nothing here knows of Prometheus.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gevpy.closing import CloseKind

__all__ = ["DropReason", "RejectReason", "Stats"]


class RejectReason(enum.StrEnum):
    """Why a connection was refused at the door; the value is the metrics label."""

    MAX_CONNECTIONS = "max_connections"
    MAX_CONNECTIONS_PER_IP = "max_connections_per_ip"
    OUT_OF_DESCRIPTORS = "out_of_descriptors"
    HANDSHAKE_FAILED = "handshake_failed"


class DropReason(enum.StrEnum):
    """Why a message that was to be sent was dropped; the value is the metrics label."""

    DROP_NEWEST = "drop_newest"
    DROP_OLDEST = "drop_oldest"
    CONNECTION_CLOSED = "connection_closed"
    WRITE_SHUT_DOWN = "write_shut_down"
    PACKET_FAILED = "packet_failed"


class Stats:
    """The counters of one loop.

    Attributes:
        opened: connections that were admitted.
        received_bytes: bytes read from peers.
        sent_bytes: bytes handed to transports.
        received_messages: frames that were given to a handler.
        sent_messages: messages packed for sending: replies and sends.
        handler_calls: batches of handler work that were timed (one per read, one per asynchronous message).
        handler_seconds: the wall time those took.
        lag_seconds: how late the loop's last tick came.
        closed: connections closed, by kind.
        rejected: connections refused, by reason.
        dropped: messages dropped, by reason.
        handler_errors: exceptions that left a handler, a protocol or a callback.
    """

    __slots__ = (
        "closed",
        "dropped",
        "handler_calls",
        "handler_errors",
        "handler_seconds",
        "lag_seconds",
        "opened",
        "received_bytes",
        "received_messages",
        "rejected",
        "sent_bytes",
        "sent_messages",
    )

    def __init__(self) -> None:
        """Begin at zero."""
        self.opened = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.received_messages = 0
        self.sent_messages = 0
        self.handler_calls = 0
        self.handler_seconds = 0.0
        self.lag_seconds = 0.0
        self.handler_errors = 0
        self.closed: dict[CloseKind, int] = {}
        self.rejected: dict[RejectReason, int] = {}
        self.dropped: dict[DropReason, int] = {}

    def count_closed(self, kind: CloseKind) -> None:
        """Count a connection that closed."""
        self.closed[kind] = self.closed.get(kind, 0) + 1

    def count_rejected(self, reason: RejectReason) -> None:
        """Count a connection that was refused."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def count_dropped(self, reason: DropReason, messages: int = 1) -> None:
        """Count messages that were dropped."""
        self.dropped[reason] = self.dropped.get(reason, 0) + messages
