"""A WebSocket client on a bare socket that says what it is told, be it wrong: frames by hand, and a reader of answers.

Nothing of gevpy is used here: what this file thinks of the wire is its own.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from tests.integration.harness import PATIENCE_S
from tests.websocket.heads import opening

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "RSV1",
    "TEXT",
    "Closed",
    "Peer",
    "Piece",
    "joined",
    "masked",
    "ws_frame",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1 = 0x80, 0x40
KEY = b"\x5a\x0f\xa3\x81"
PLAIN = opening()


def masked(payload: bytes, key: bytes = KEY) -> bytes:
    """Mask or unmask."""
    pattern = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")).to_bytes(len(payload), "big")


def ws_frame(  # noqa: PLR0913 - a frame has that many ways to be wrong
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    bits: int = 0,
    key: bytes = KEY,
    size: int | None = None,
    width: int | None = None,
) -> bytes:
    """Write one frame.

    Args:
        opcode: 0 to 15.
        payload: before masking.
        fin: whether it is its message's last.
        bits: the reserved ones, such as `RSV1`.
        key: what masks it; ``b""`` for no mask.
        size: the length it claims; None for what is true.
        width: of the extended length, 0, 2 or 8 bytes; None for the shortest.
    """
    size = len(payload) if size is None else size
    if width is None:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    marker = {0: size, 2: 126, 8: 127}[width]
    begin = bytes(((FIN if fin else 0) | bits | opcode, marker | (0x80 if key else 0)))
    extended = size.to_bytes(width, "big") if width else b""
    return begin + extended + key + (masked(payload, key) if key else payload)


class Piece(NamedTuple):
    """A frame of the server's."""

    opcode: int
    payload: bytes
    first: int


class Closed(NamedTuple):
    """How the server ended a connection: the code of its close frame, 1005 for none in it, 1006 for no frame."""

    code: int
    text: str = ""


class Peer:
    """A client. It sends what it is told, and reads frames.

    Args:
        sock: connected.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take the socket over."""
        self.sock = sock
        self._got = bytearray()  # what came and wasn't read yet

    def open(self, head: bytes = PLAIN, then: bytes = b"") -> str:
        """Shake hands, with ``then`` right behind; give the head of the answer, whatever it is."""
        self.send(head + then)
        return self.answer()

    def opened(self, head: bytes = PLAIN, then: bytes = b"") -> Peer:
        """Shake hands; it must be accepted."""
        answer = self.open(head, then)
        assert answer.startswith("HTTP/1.1 101 "), answer
        return self

    def send(self, data: bytes) -> None:
        """Send bytes; whether they arrive is for the answers to tell: the server may have closed."""
        with suppress(ConnectionError):
            self.sock.sendall(data)

    def say(self, opcode: int, payload: bytes = b"", **how: int) -> None:
        """Send a frame; see `ws_frame`."""
        self.send(ws_frame(opcode, payload, **how))  # type: ignore[arg-type]  # fin is a bool, which is an int

    def answer(self) -> str:
        """Read the head of an HTTP answer, and no further; "" for none."""
        while (end := self._got.find(b"\r\n\r\n")) < 0:
            if not self._receive():
                return ""
        return self._take(end + 4).decode("latin-1")

    def frame(self) -> Piece | None:
        """Read the next frame; None at the end of the stream, or when the connection was reset."""
        if not self._await(2):
            assert not self._got, "the stream ended inside a frame"
            return None
        first, size = self._got[:2]
        assert not size & 0x80, "a server masks nothing"
        header = 2 if size < 126 else 4 if size == 126 else 10
        if self._await(header) and header > 2:
            size = int.from_bytes(self._got[2:header], "big")
        assert self._await(header + size), "the stream ended inside a frame"
        return Piece(first & 0x0F, self._take(header + size)[header:], first)

    def _receive(self) -> bool:
        try:
            piece = self.sock.recv(1 << 16)
        except ConnectionError:
            return False
        self._got += piece
        return bool(piece)

    def _await(self, size: int) -> bool:
        while len(self._got) < size and self._receive():
            pass
        return len(self._got) >= size

    def _take(self, size: int) -> bytes:
        taken = bytes(self._got[:size])
        del self._got[:size]
        return taken

    def echo(self, payload: bytes = b"x", opcode: int = BINARY) -> bytes:
        """Send a message, and read up to the next one; pings are answered."""
        self.say(opcode, payload)
        return self.message()

    def message(self) -> bytes:
        """Read up to the next message; pings are answered."""
        while piece := self.frame():
            if piece.opcode == PING:
                self.say(PONG, piece.payload)
            elif piece.opcode != PONG:
                assert piece.opcode in (TEXT, BINARY), piece
                return piece.payload
        raise AssertionError("the stream ended before the message")

    def end(self, *, answers: bool = False) -> Closed:
        """Read to the end, and answer the last word only if told so; give it, behind which nothing may come."""
        closed = Closed(1006)
        while piece := self.frame():
            assert closed.code == 1006, f"{piece} behind the close frame"
            if piece.opcode == CLOSE:
                code = int.from_bytes(piece.payload[:2], "big") if piece.payload else 1005
                closed = Closed(code, piece.payload[2:].decode())
                if answers:
                    self.say(CLOSE, piece.payload[:2])
        return closed

    def rest(self) -> bytes:
        """Read whatever comes, to the end."""
        while self._receive():
            pass
        return self._take(len(self._got))


@contextmanager
def joined(port: int, *, receive_buffer: int | None = None) -> Iterator[Peer]:
    """Connect a client, to be entered; it has not shaken hands."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(PATIENCE_S)
        sock.connect(("127.0.0.1", port))
        yield Peer(sock)
