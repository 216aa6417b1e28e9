"""WebSocket: RFC 6455 with permessage-deflate (RFC 7692), for the same handlers as every other protocol.

Example:
    >>> import gevpy
    >>> from gevpy.websocket import WebSocketProtocol
    >>> protocol = WebSocketProtocol(subprotocols=["chat.v1"], max_message_bytes=64 * 1024)
"""

from __future__ import annotations

from gevpy.websocket.frames import Opcode
from gevpy.websocket.http import Request, Response
from gevpy.websocket.protocol import WebSocketProtocol

__all__ = ["Opcode", "Request", "Response", "WebSocketProtocol"]
