"""Codecs with the faults that codecs have: gev's own first, as literally as the contract lets them be written."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from gevpy import FrameTooLarge, Protocol, ProtocolError

if TYPE_CHECKING:
    from gevpy import RingBuffer

__all__ = [
    "Accumulating",
    "Believing",
    "Bytes",
    "ConsumingHeader",
    "EatingPackets",
    "EmptyIsNothing",
    "ForEver",
    "GevLengthPrefix",
    "GevProtobuf",
    "HandingOutParts",
    "LineInts",
    "NotAPair",
    "Quadratic",
    "ReadingAhead",
    "RememberingOnSelf",
    "Unchecked",
    "WaitingForMore",
    "pascal",
    "typed",
]

HEADER = 4


def pascal(body: bytes) -> bytes:
    """Give a frame: four bytes of length, big-endian, and the body."""
    return struct.pack(">I", len(body)) + body


def typed(kind: bytes, body: bytes) -> bytes:
    """Give gev's protobuf frame: u32 length of the rest, u16 length of the type, the type, the body."""
    return struct.pack(">IH", 2 + len(kind) + len(body), len(kind)) + kind + body


class GevProtobuf(Protocol):
    """T8: the type's length is believed, so a frame whose type is longer than itself kills the process."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        if len(buffer) < HEADER + 2:
            return None
        length = buffer.peek_uint32()
        if length > self.max_frame_bytes:
            raise FrameTooLarge("declared", limit=self.max_frame_bytes, actual=length)
        if len(buffer) < HEADER + length:
            return None
        kind_length = buffer.peek_uint16(HEADER)
        buffer.skip(HEADER + 2)
        kind = buffer.read(kind_length)
        return kind, buffer.read(length - 2 - kind_length)

    def packet(self, conn: Any, data: bytes) -> bytes:
        return data

    def max_buffered_bytes(self) -> int:
        return HEADER + self.max_frame_bytes


class GevLengthPrefix(Protocol):
    """T9 and T10: gev's example. An empty frame is nothing, and nothing compares the length with a limit."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        if len(buffer) > HEADER:
            length = buffer.peek_uint32()
            if len(buffer) >= HEADER + length:
                buffer.skip(HEADER)
                data = buffer.read(length)
                return (None, data) if data else None
        return None

    def packet(self, conn: Any, data: bytes) -> bytes:
        return pascal(data)

    def max_buffered_bytes(self) -> int:
        return HEADER + self.max_frame_bytes


class Unchecked(GevLengthPrefix):
    """T10 alone: empty frames are messages, and the length is still compared with nothing."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        if len(buffer) < HEADER or len(buffer) < HEADER + buffer.peek_uint32():
            return None
        length = buffer.peek_uint32()
        buffer.skip(HEADER)
        return None, buffer.read(length)


class EmptyIsNothing(GevLengthPrefix):
    """T9 alone: the frame of an empty message is taken off, and "nothing" is given for it."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        if len(buffer) < HEADER:
            return None
        length = buffer.peek_uint32()
        if length > self.max_frame_bytes:
            raise FrameTooLarge("declared", limit=self.max_frame_bytes, actual=length)
        if len(buffer) < HEADER + length:
            return None
        buffer.skip(HEADER)
        data = buffer.read(length)
        return (None, data) if data else None


class Accumulating(GevLengthPrefix):
    """T10 behind gevpy's back: the payload is collected on the connection, where no buffer's bound sees it."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        if conn.protocol_state is None:
            if len(buffer) < HEADER:
                return None
            conn.protocol_state = [buffer.peek_uint32(), b""]
            buffer.skip(HEADER)
        length, have = conn.protocol_state
        have += buffer.read(min(len(buffer), length - len(have)))
        conn.protocol_state[1] = have
        if len(have) < length:
            return None
        conn.protocol_state = None
        return None, have


class Believing(GevLengthPrefix):
    """T10 in one packet: room is made for whatever length the peer declares."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        if conn.protocol_state is None:
            if len(buffer) < HEADER:
                return None
            conn.protocol_state = bytearray(buffer.peek_uint32())
        room = conn.protocol_state
        if len(buffer) < HEADER + len(room):
            return None
        buffer.skip(HEADER)
        room[:] = buffer.read(len(room))
        conn.protocol_state = None
        return None, bytes(room)


class Bytes(Protocol):
    """What the small faults below share: one byte of length, then the body; right as it is."""

    max_frame_bytes = 255

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        length = buffer.peek_uint8()
        if len(buffer) <= length:
            return None
        buffer.skip(1)
        return None, buffer.read(length)

    def packet(self, conn: Any, data: bytes) -> bytes:
        return bytes([len(data)]) + data

    def max_buffered_bytes(self) -> int:
        return 1 + self.max_frame_bytes


class ConsumingHeader(Bytes):
    """Takes the header off before the frame is whole."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        length = buffer.read(1)[0]
        return (None, buffer.read(length)) if len(buffer) >= length else None


class ReadingAhead(Bytes):
    """Reads without looking whether it is there."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        length = buffer.peek_uint8()
        body = buffer.peek(1 + length)[1:]
        buffer.skip(1 + length)
        return None, body


class ForEver(Bytes):
    """Gives the message and leaves it there."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        length = buffer.peek_uint8()
        return None if len(buffer) <= length else (None, buffer.peek(1 + length)[1:])


class RememberingOnSelf(Bytes):
    """Keeps what it knows of one connection where all can see it."""

    length: int | None = None

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        if self.length is None:
            self.length = buffer.read(1)[0]
        if len(buffer) < self.length:
            return None
        length, self.length = self.length, None
        return None, buffer.read(length)


class HandingOutParts(Bytes):
    """Gives what has come of the frame as if it were all."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        length = buffer.read(1)[0]
        return None, buffer.read(min(length, len(buffer)))


class WaitingForMore(Bytes):
    """Wants a byte behind the frame, too."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        return super().unpacket(conn, buffer) if len(buffer) > 1 + buffer.peek_uint8() or len(buffer) == 1 else None


class NotAPair(Bytes):
    """Gives the data alone."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        message = super().unpacket(conn, buffer)
        return None if message is None else message[1]


class EatingPackets(Bytes):
    """Takes everything off when it has found one frame."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        message = super().unpacket(conn, buffer)
        if message is not None:
            buffer.clear()
        return message


class Quadratic(Bytes):
    """Copies the whole buffer for each frame."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        everything = buffer.peek_all()
        length = everything[0]
        if len(everything) <= length:
            return None
        buffer.skip(1 + length)
        return None, everything[1 : 1 + length]


class LineInts(Protocol):
    """Numbers, one a line, and whatever ``int`` raises for what is none."""

    max_frame_bytes = 64

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        end = buffer.find(b"\n")
        if end < 0:
            return None
        line = buffer.read(end)
        buffer.skip(1)
        if end > self.max_frame_bytes:
            raise ProtocolError("line too long")
        return None, int(line)

    def packet(self, conn: Any, data: int) -> bytes:
        return b"%d\n" % data
