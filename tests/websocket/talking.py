"""A WebSocket peer for tests of handlers: an embedded connection, its opening handshake, and a handler that notes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gevpy
from gevpy.testing import EmbeddedConnection
from gevpy.websocket import WebSocketProtocol
from tests.websocket.heads import opening
from tests.websocket.wire import Seen, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy import CloseReason, Connection

__all__ = ["DEFLATE", "Talker", "answer_of", "connect", "reason_of", "replies", "talking", "upgrade"]

DEFLATE = ("Sec-WebSocket-Extensions", "permessage-deflate")


class Talker(gevpy.Handler):
    """Echoes, and notes what it is told.

    Attributes:
        calls: the names of all calls, in order.
        reasons: those that ``on_close`` got.
        opened: the connections that ``on_connect`` got.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.calls: list[str] = []
        self.reasons: list[CloseReason] = []
        self.opened: list[Connection] = []

    def on_connect(self, conn: Connection) -> Any:
        self.calls.append("connect")
        self.opened.append(conn)

    def on_message(self, conn: Connection, ctx: Any, data: Any) -> Any:
        self.calls.append("message")
        return data

    def on_close(self, conn: Connection, reason: CloseReason) -> Any:
        self.calls.append("close")
        self.reasons.append(reason)


def talking(**hooks: Callable[..., Any]) -> Talker:
    """Give a `Talker` with some of its methods replaced by functions that take no ``self``."""
    kind = type("Talking", (Talker,), {name: staticmethod(hook) for name, hook in hooks.items()})
    handler: Talker = kind()
    return handler


def connect(
    handler: gevpy.Handler | None = None, protocol: WebSocketProtocol | None = None, **options: Any
) -> EmbeddedConnection:
    """Connect; the opening request has not come."""
    return EmbeddedConnection(handler or Talker(), protocol or WebSocketProtocol(), **options)


def upgrade(
    handler: gevpy.Handler | None = None,
    protocol: WebSocketProtocol | None = None,
    *fields: tuple[str, str],
    **options: Any,
) -> EmbeddedConnection:
    """Connect, and do the opening handshake with these fields more; what was sent in it is taken off."""
    conn = connect(handler, protocol, **options)
    conn.feed(opening(*fields))
    answer = conn.take_sent()
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    assert answer.endswith(b"\r\n\r\n")
    return conn


def answer_of(stream: bytes) -> tuple[int, bytes, bytes]:
    """Give status, head and body of the one answer there is."""
    head, _, body = stream.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 "), stream
    return int(head[9:12]), head, body


def replies(conn: EmbeddedConnection, data: bytes) -> list[Seen]:
    """Feed, and read what left."""
    conn.take_sent()
    return parse(conn.feed(data))


def reason_of(conn: EmbeddedConnection) -> CloseReason:
    """Give why it ended."""
    reason = conn.close_reason
    assert reason is not None, "it is connected"
    return reason
