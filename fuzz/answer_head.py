"""The head of a server's answer, at the client: only `HandshakeError` may leave, and nothing is agreed on by accident.

``ACCEPT`` in an input becomes the token that is the right one for this handshake, which no input could know.
"""

from __future__ import annotations

import base64
import hashlib
import re

from gevpy import HandshakeError
from gevpy.websocket.deflate import Deflate
from gevpy.websocket.handshake import ClientHandshake

SUBPROTOCOLS = ["chat.v2", "chat"]
KEY = re.compile(rb"Sec-WebSocket-Key: (\S+)", re.IGNORECASE)
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def one_input(data: bytes) -> None:
    """Take it for the server's answer, compression and subprotocols offered or not."""
    agree(data, ClientHandshake("example.com", "/chat"), offered=False)
    agree(data, ClientHandshake("example.com", "/", subprotocols=SUBPROTOCOLS, deflate=Deflate()), offered=True)


def agree(data: bytes, handshake: ClientHandshake, *, offered: bool) -> None:
    """Receive an answer."""
    key = KEY.search(handshake.request)
    assert key is not None
    token = base64.b64encode(hashlib.sha1(key[1] + GUID).digest())  # noqa: S324 - what RFC 6455 asks for
    head = data.replace(b"ACCEPT", token)
    try:
        accepted = handshake.receive(head)
    except HandshakeError as error:
        assert str(error)
        return
    assert token in head
    assert offered or (accepted.subprotocol is None and accepted.codec is None)
    assert accepted.subprotocol in (None, *SUBPROTOCOLS)
