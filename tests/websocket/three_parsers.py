"""Three who read WebSocket frames: our server, wsproto, and `websockets`. What they say can be compared.

Each is a function of the reads that a client's bytes came in; the opening handshake is over by then. `ours` is the real
connection with the real protocol, so what it says is what leaves for the peer and what the handler is given.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from websockets.extensions.permessage_deflate import PerMessageDeflate as WebsocketsDeflate
from websockets.frames import CTRL_OPCODES
from websockets.frames import Frame as WebsocketsFrame
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate
from wsproto.frame_protocol import FrameProtocol, ParseFailed

import gevpy
from gevpy.testing import EmbeddedConnection
from gevpy.websocket import Opcode, WebSocketProtocol
from tests.websocket.heads import opening

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsproto.frame_protocol import Frame

__all__ = ["Ours", "Seen", "seen_by_websockets", "seen_by_wsproto"]

TEXT, BINARY, CLOSE = 1, 2, 8
NO_CODE = 1005  # a close frame without one
LARGEST = 16 << 20
OFFER = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
AT_ONCE = 200  # connections of one worker, before a new one is begun


class Seen(NamedTuple):
    """What a server made of a stream.

    Attributes:
        messages: opcode and payload of those that were whole.
        code: what its close frame says; None where it sent none, and goes on.
    """

    messages: tuple[tuple[int, bytes], ...]
    code: int | None


# -- ours ------------------------------------------------------------------------------------------


class Silent(gevpy.Handler):
    """Takes messages and says nothing."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: Any) -> None:
        """Take it."""


class Ours:
    """Our server: a callable, since its connections share a worker.

    Args:
        deflated: compression was agreed on.
    """

    def __init__(self, *, deflated: bool) -> None:
        """Begin without a worker."""
        self._protocol = WebSocketProtocol(compression=deflated, max_message_bytes=LARGEST)
        self._opening = opening(("Sec-WebSocket-Extensions", OFFER)) if deflated else opening()
        self._first: EmbeddedConnection | None = None
        self._count = 0

    def __call__(self, pieces: Sequence[bytes]) -> Seen:
        """Read a stream."""
        conn = self._connect()
        answer = conn.feed(self._opening)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        assert (b"permessage-deflate" in answer) == (b"permessage-deflate" in self._opening), answer
        conn.take_sent()
        for piece in pieces:
            with suppress(ConnectionResetError):  # it has ended by then: what comes on arrives nowhere
                conn.feed(piece)
        sent = conn.take_sent()
        messages = tuple(
            (TEXT, data.encode()) if ctx is Opcode.TEXT else (BINARY, bytes(data)) for ctx, data in conn.received
        )
        reason = conn.close_reason
        assert reason is None or reason.error is None or not isinstance(reason.error, gevpy.CodecError), reason
        assert reason is None or reason.kind is not gevpy.CloseKind.HANDLER_ERROR, reason
        with suppress(ConnectionResetError):
            conn.feed_reset()
        return Seen(messages, close_code(sent))

    def _connect(self) -> EmbeddedConnection:
        if self._first is None or self._count == AT_ONCE:
            self._first = EmbeddedConnection(Silent(), self._protocol)
            self._count = 0
        self._count += 1
        return self._first.another()


def close_code(sent: bytes) -> int | None:
    """Give the code of the close frame in what a server sent, which must be the last of its frames, and all whole."""
    at = 0
    while at < len(sent):
        opcode, size = sent[at] & 0x0F, sent[at + 1]
        assert sent[at] & 0xF0 == 0x80, "all we have to send here are control frames"
        assert size <= 125, "not masked, and not too long"
        payload = sent[at + 2 : at + 2 + size]
        assert len(payload) == size, "the frame is whole"
        at += 2 + size
        if opcode == CLOSE:
            assert at == len(sent), "nothing may follow a close frame"
            payload[2:].decode()
            return int.from_bytes(payload[:2], "big") if payload else NO_CODE
    return None


# -- wsproto ---------------------------------------------------------------------------------------


def seen_by_wsproto(pieces: Sequence[bytes], *, deflated: bool) -> Seen:
    """Read a stream by wsproto."""
    extension = WsprotoDeflate()
    if deflated:
        extension.accept(OFFER)
    parser = FrameProtocol(client=False, extensions=[extension])
    messages: list[tuple[int, bytes]] = []
    parts: list[bytes] = []
    opcode = 0
    try:
        for piece in pieces:
            parser.receive_bytes(piece)
            for frame in parser.received_frames():
                if frame.opcode == CLOSE:
                    return Seen(tuple(messages), int(frame.payload[0]))
                if frame.opcode > CLOSE:
                    continue
                opcode = int(frame.opcode) or opcode
                parts.append(_bytes_of(frame))
                if frame.message_finished:
                    messages.append((opcode, b"".join(parts)))
                    parts.clear()
    except ParseFailed as error:
        return Seen(tuple(messages), int(error.code))
    return Seen(tuple(messages), None)


def _bytes_of(frame: Frame) -> bytes:
    payload = frame.payload
    assert not isinstance(payload, tuple), "only a close frame has one"
    return payload.encode() if isinstance(payload, str) else bytes(payload)


# -- websockets ------------------------------------------------------------------------------------


def seen_by_websockets(pieces: Sequence[bytes], *, deflated: bool) -> Seen:
    """Read a stream by `websockets`, and decode whole texts, which its protocol leaves to who uses it."""
    parser = ServerProtocol(state=OPEN, max_size=None)
    if deflated:
        parser.extensions = [WebsocketsDeflate(True, True, 15, 15)]
    messages: list[tuple[int, bytes]] = []
    opcode = 0
    parts: list[bytes] = []
    for piece in pieces:
        parser.receive_data(piece)
        for frame in parser.events_received():
            assert isinstance(frame, WebsocketsFrame), "the opening handshake is over"
            if frame.opcode in CTRL_OPCODES:
                continue
            opcode = int(frame.opcode) or opcode
            parts.append(bytes(frame.data))
            if frame.fin:
                payload = b"".join(parts)
                parts.clear()
                if opcode == TEXT and not _is_utf8(payload):
                    return Seen(tuple(messages), 1007)
                messages.append((opcode, payload))
        if parser.close_sent is not None:
            return Seen(tuple(messages), int(parser.close_sent.code))
    return Seen(tuple(messages), None)


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
