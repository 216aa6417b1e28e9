"""Frames of WebSocket, on both sides, compressed or not: only `ProtocolError` may leave, and no cut makes a difference.

The first byte of an input says which side we are, whether compression was agreed on, and the limit; the second how the
rest is cut into reads.
"""

from __future__ import annotations

from gevpy import ProtocolError, RingBuffer
from gevpy.websocket.deflate import Deflate
from gevpy.websocket.frames import Opcode
from gevpy.websocket.session import Event, Session, State

CLIENT, COMPRESSED = 1, 2
LIMITS = (1 << 20, 1000, 126, 1)
OFFER = "permessage-deflate"

Outcome = tuple[list[tuple[Opcode, str | bytes]], type[ProtocolError] | None, int]


def one_input(data: bytes) -> None:
    """Receive it in one read, and in many."""
    if len(data) < 3:
        return
    setting, size, stream = data[0], 1 + data[1] % 16, data[2:]
    whole = outcome(setting, [stream])
    assert outcome(setting, [stream[at : at + size] for at in range(0, len(stream), size)]) == whole


def outcome(setting: int, pieces: list[bytes]) -> Outcome:
    """Give what was received up to a close frame, the kind of error that ended it, and the state in the end."""
    limit = LIMITS[setting >> 2 & 3]
    session = begun(setting, limit)
    ring = RingBuffer(16, None)
    received = []
    try:
        for piece in pieces:
            ring.write(piece)
            while session.state == State.OPEN and (message := session.receive(ring)) is not None:
                check(session, message, limit)
                received.append(message)
    except ProtocolError as error:
        assert str(error)
        return received, type(error), session.state
    return received, None, session.state


def begun(setting: int, limit: int) -> Session:
    """Give a session whose opening handshake is over."""
    session = Session(bool(setting & CLIENT), limit)
    if setting & COMPRESSED:
        deflate = Deflate()
        deflate.accept(OFFER)
        session.codec = deflate.codec(is_client=bool(setting & CLIENT))
    session.step(Event.ACCEPTED)
    return session


def check(session: Session, message: tuple[Opcode, str | bytes], limit: int) -> None:
    """Hold what a message is to what it may be."""
    opcode, data = message
    if session.is_control:
        assert opcode in (Opcode.CLOSE, Opcode.PING, Opcode.PONG)
        assert isinstance(data, bytes)
        assert len(data) <= 125
        assert (opcode is Opcode.CLOSE) == (session.state == State.CLOSE_RECEIVED)
    else:
        assert isinstance(data, str if opcode is Opcode.TEXT else bytes)
        assert len(data.encode() if isinstance(data, str) else data) <= limit
