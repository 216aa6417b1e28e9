"""The client's side of WebSocket: the same protocol with the sides swapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevpy.closing import CloseKind
from gevpy.errors import HandshakeError
from gevpy.websocket.deflate import Deflate
from gevpy.websocket.handshake import ClientHandshake
from gevpy.websocket.http import Refusal, Request, take_head
from gevpy.websocket.protocol import WebSocketProtocol
from gevpy.websocket.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gevpy.closing import CloseReason
    from gevpy.ring_buffer import RingBuffer
    from gevpy.websocket.fields import FieldSource

__all__ = ["WebSocketClientProtocol"]


class WebSocketClientProtocol(WebSocketProtocol):
    """Speaks WebSocket as a client; `gevpy.connect` makes it for ``ws://`` and ``wss://``.

    Args:
        host: whom to ask for: ``host``, or ``host:port`` where the port isn't the scheme's own.
        target: path and query.
        headers: more fields of the opening request, such as ``Authorization``.
        subprotocols: those that are spoken here, the best first.
        compression: whether to offer permessage-deflate.
        options: those that `WebSocketProtocol` has for both sides.

    Raises:
        ConfigError: something of that can't be sent.
    """

    is_client = True

    def __init__(
        self,
        host: str,
        target: str,
        *,
        headers: FieldSource = (),
        subprotocols: Sequence[str] = (),
        compression: bool = False,
        **options: Any,
    ) -> None:
        """Speak to one server, any number of times."""
        super().__init__(compression=compression, **options)
        self._host = host
        self._target = target
        self._headers = headers
        self._subprotocols = subprotocols
        self._compression = compression
        self._handshake()  # what can't be sent fails here

    def _handshake(self) -> ClientHandshake:
        return ClientHandshake(
            self._host,
            self._target,
            headers=self._headers,
            subprotocols=self._subprotocols,
            deflate=Deflate() if self._compression else None,
        )

    def begin(self, conn: Any) -> bool:
        """Send the opening request."""
        session = conn.protocol_state = Session(True, self.max_message_bytes)  # noqa: FBT003 - the client's side
        session.opening = self._handshake()
        session.request = Request(session.opening.request)
        conn.send_frame(session.opening.request)
        return False

    def _go_on_opening(self, conn: Any, session: Session | None, buffer: RingBuffer) -> Session:
        assert session is not None, "a client begins before anything comes"
        try:
            head = take_head(buffer)
        except Refusal as error:
            raise HandshakeError(f"the server's answer is malformed: {error.args[1]}") from error
        if head is not None:
            accepted = session.opening.receive(head)
            session.opening = None
            self._open(conn, session, accepted)
        return session

    def _last_words(self, session: Session, reason: CloseReason) -> bytes:  # noqa: ARG002 - servers have more to say
        """Say nothing: who has asked and doesn't like the answer goes."""
        return b""

    def expects_farewell(self, conn: Any, kind: CloseKind) -> bool:
        """Wait for the server's close frame, and for the end of the stream behind it: servers end it first."""
        return kind is CloseKind.PEER_CLOSED or super().expects_farewell(conn, kind)
