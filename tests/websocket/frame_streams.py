"""Streams of WebSocket frames as a client might send them: right, wrong in one of the ways there are, and cut anywhere.

`make_stream` writes down conversations of a few messages, fragmented or not, pings and pongs in between, perhaps a
close at the end, and then spoils most of them with a fault of `FAULTS`, or two. Every seed is one stream, for ever.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

__all__ = ["FAULTS", "Frame", "Stream", "cut", "make_stream"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1 = 0x80, 0x40
MASKED = 0x80
TWO_BYTES, EIGHT_BYTES = 126, 127  # what stands for a longer length
TOP_BIT = 1 << 63
MOST_FRAGMENTS = 4

SIZES = (0, 1, 2, 5, 20, 124, 125, 126, 127, 128, 300)
RARE_SIZES = (4096, 65535, 65536, 70000)
CHARACTERS = (
    "a",
    "\x00",
    "\x7f",
    "\x80",
    "é",
    "߿",
    "ࠀ",
    "€",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\U00010000",
    "😀",
    "\U0010ffff",
)
NO_UTF8 = (
    b"\x80",  # a continuation of nothing
    b"\xc0\xaf",  # overlong
    b"\xe0\x9f\xbf",
    b"\xed\xa0\x80",  # a surrogate
    b"\xed\xbf\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"\xf4\x90\x80\x80",  # beyond Unicode
    b"\xf8\x88\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xe2\x82",  # cut short
    b"\xf0\x9f\x98",
)
GOOD_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
BAD_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)


@dataclass(frozen=True)
class Frame:
    """A frame before it is written down; what it declares may be false.

    Attributes:
        opcode: 0 to 15.
        payload: before it is masked.
        first: bits that are set in the first byte besides the opcode.
        mask: four bytes, or none.
        width: how many bytes say the length, at the least: 0, 2 or 8.
        length: what they say; None for what it is.
    """

    opcode: int
    payload: bytes = b""
    first: int = FIN
    mask: bytes = bytes(4)
    width: int = 0
    length: int | None = None

    def wire(self) -> bytes:
        """Give its bytes."""
        length = len(self.payload) if self.length is None else self.length
        width = max(self.width, 0 if length < TWO_BYTES else 2 if length < 1 << 16 else 8)
        short = length if width == 0 else TWO_BYTES if width == 2 else EIGHT_BYTES
        head = bytes((self.first | self.opcode, short | (MASKED if self.mask else 0)))
        head += length.to_bytes(width, "big") if width else b""
        return head + self.mask + (masked(self.payload, self.mask) if self.mask else self.payload)


def masked(payload: bytes, mask: bytes) -> bytes:
    """Mask or unmask."""
    size = len(payload)
    pattern = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")).to_bytes(size, "big")


@dataclass
class Stream:
    """What a client sends.

    Attributes:
        frames: as they are written down.
        faults: the names of what was done to them, of `FAULTS`.
        is_cut: it ends somewhere, in the middle of a frame most often.
        is_deflated: compression was agreed on.
        data: what goes over the wire.
    """

    frames: list[Frame]
    faults: set[str] = field(default_factory=set)
    is_cut: bool = False
    is_deflated: bool = False
    data: bytes = b""


def make_stream(random: Random, *, deflated: bool = False) -> Stream:
    """Make one up; ``deflated`` has most of its messages compressed, each by itself."""
    stream = Stream(list(_conversation(random, deflated=deflated)), is_deflated=deflated)
    for _ in range(random.choice((0, 1, 1, 1, 2))):
        name = random.choice(list(FAULTS))
        if FAULTS[name](random, stream.frames):
            stream.faults.add(name)
    stream.data = b"".join(frame.wire() for frame in stream.frames)
    if stream.data and random.random() < 0.1:
        at = random.randrange(len(stream.data))
        stream.data = stream.data[:at] + bytes((stream.data[at] ^ 1 << random.randrange(8),)) + stream.data[at + 1 :]
        stream.faults.add("a flipped bit")
    if stream.data and random.random() < 0.3:
        stream.data = stream.data[: random.randrange(len(stream.data))]
        stream.is_cut = True
    return stream


def cut(random: Random, data: bytes) -> list[bytes]:
    """Cut into reads: into a few large ones, or into many small ones."""
    pieces = []
    at = 0
    large = max(1, len(data) // 3)
    sizes = random.choice(((1,), (1, 2, 3), (1, 7, 50, large), (large,)))
    if len(data) > 5000:
        sizes = (large, 1, 1000)
    while at < len(data):
        size = random.choice(sizes)
        pieces.append(data[at : at + size])
        at += size
    return pieces


# -- what is right ---------------------------------------------------------------------------------


def _conversation(random: Random, *, deflated: bool) -> Iterator[Frame]:
    for _ in range(random.randrange(1, 4)):
        yield from _control(random)
        yield from _message(random, deflated=deflated and random.random() < 0.8)
    if random.random() < 0.5:
        yield _frame(random, CLOSE, _close(random))
        yield from _control(random)  # what comes behind a close is not looked at


def _message(random: Random, *, deflated: bool) -> Iterator[Frame]:
    opcode = random.choice((TEXT, BINARY))
    size = random.choice(RARE_SIZES if random.random() < 0.03 else SIZES)
    payload = _text(random, size) if opcode == TEXT else random.randbytes(size)
    bits = 0
    if deflated:
        compressor = zlib.compressobj(random.choice((0, 1, 6, 9)), zlib.DEFLATED, -random.choice((9, 12, 15)))
        payload = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")
        bits = RSV1
    borders = sorted(random.randrange(len(payload) + 1) for _ in range(random.choice((0, 0, 1, 2, MOST_FRAGMENTS - 1))))
    borders = [0, *borders, len(payload)]
    last = len(borders) - 2
    for number in range(last + 1):
        first = (FIN if number == last else 0) | (bits if number == 0 else 0)
        piece = payload[borders[number] : borders[number + 1]]
        yield replace(_frame(random, CONTINUATION if number else opcode, piece), first=first)
        if number < last:
            yield from _control(random)


def _control(random: Random) -> Iterator[Frame]:
    if random.random() < 0.2:
        yield _frame(random, random.choice((PING, PONG)), random.randbytes(random.choice((0, 1, 4, 125))))


def _frame(random: Random, opcode: int, payload: bytes) -> Frame:
    return Frame(opcode, payload, mask=random.choice((random.randbytes(4), random.randbytes(4), bytes(4))))


def _text(random: Random, size: int) -> bytes:
    text = bytearray()
    while len(text) < size:
        text += random.choice(CHARACTERS).encode() * random.choice((1, 1, 1 + size // 8))
    return bytes(text)


def _close(random: Random) -> bytes:
    if random.random() < 0.2:
        return b""
    return struct.pack("!H", random.choice(GOOD_CODES)) + random.choice((b"", b"gone", "fort für immer".encode()))


# -- what is wrong ---------------------------------------------------------------------------------


def _change(random: Random, frames: list[Frame], which: Callable[[Frame], bool], **changes: object) -> bool:
    """Change one of the frames that ``which`` names; tell whether there was one."""
    places = [at for at, frame in enumerate(frames) if which(frame)]
    if not places:
        return False
    at = random.choice(places)
    frames[at] = replace(frames[at], **changes)  # type: ignore[arg-type] # names and values belong together
    return True


def _is_any(_frame: Frame) -> bool:
    return True


def _is_control(frame: Frame) -> bool:
    return frame.opcode >= CLOSE


def _is_data(frame: Frame) -> bool:
    return frame.opcode < CLOSE


def _insert(random: Random, frames: list[Frame], frame: Frame) -> bool:
    frames.insert(random.randrange(len(frames) + 1), frame)
    return True


def _drop_end(random: Random, frames: list[Frame]) -> bool:
    """Leave out the final frame of a message: the next one comes inside it."""
    places = [at for at, frame in enumerate(frames) if frame.opcode == CONTINUATION and frame.first & FIN]
    if places:
        del frames[random.choice(places)]
    return bool(places)


def _spoil_text(random: Random, frames: list[Frame]) -> bool:
    places = [at for at, frame in enumerate(frames) if frame.opcode in (TEXT, CONTINUATION) and not frame.first & RSV1]
    if not places:
        return False
    at = random.choice(places)
    payload = frames[at].payload
    where = random.randrange(len(payload) + 1)
    frames[at] = replace(frames[at], payload=payload[:where] + random.choice(NO_UTF8) + payload[where:])
    return True


def _spoil_deflated(random: Random, frames: list[Frame]) -> bool:
    places = [at for at, frame in enumerate(frames) if frame.first & RSV1 and frame.payload]
    if not places:
        return False
    at = random.choice(places)
    payload = bytearray(frames[at].payload)
    payload[random.randrange(len(payload))] ^= 1 << random.randrange(8)
    frames[at] = replace(frames[at], payload=bytes(payload))
    return True


def _close_with(payload: Callable[[Random], bytes]) -> Callable[[Random, list[Frame]], bool]:
    return lambda random, frames: _insert(random, frames, _frame(random, CLOSE, payload(random)))


def _change_one(which: Callable[[Frame], bool], **changes: object) -> Callable[[Random, list[Frame]], bool]:
    return lambda random, frames: _change(random, frames, which, **changes)


#: Each spoils some frames in its way, and tells whether it could.
FAULTS: dict[str, Callable[[Random, list[Frame]], bool]] = {
    "unmasked": _change_one(_is_any, mask=b""),
    "reserved bit 1": lambda random, frames: _change(random, frames, _is_any, first=random.choice((0xC0, 0x40))),
    "reserved bit 2 or 3": lambda random, frames: _change(
        random, frames, _is_any, first=random.choice((0xA0, 0x90, 0x20, 0x10, 0xF0))
    ),
    "reserved opcode": lambda random, frames: _change(
        random, frames, _is_any, opcode=random.choice((3, 4, 5, 6, 7, 11, 12, 13, 14, 15))
    ),
    "length of 2 bytes for a short one": _change_one(lambda frame: len(frame.payload) < TWO_BYTES, width=2),
    "length of 8 bytes for a short one": _change_one(lambda frame: len(frame.payload) < 1 << 16, width=8),
    "length with its top bit": lambda random, frames: _change(
        random, frames, _is_any, width=8, length=TOP_BIT | random.choice((0, 5, TOP_BIT - 1))
    ),
    "long control frame": lambda random, frames: _insert(
        random, frames, _frame(random, random.choice((CLOSE, PING, PONG)), random.randbytes(random.choice((126, 300))))
    ),
    "fragmented control frame": _change_one(_is_control, first=0),
    "continuation of nothing": lambda random, frames: _insert(random, frames, _frame(random, CONTINUATION, b"more")),
    "message without its end": _drop_end,
    "message that goes on": _change_one(lambda frame: frame.opcode in (TEXT, BINARY), first=0),
    "no UTF-8": _spoil_text,
    "no deflate data": _spoil_deflated,
    "bad close code": _close_with(lambda random: struct.pack("!H", random.choice(BAD_CODES))),
    "close of one byte": _close_with(lambda random: random.randbytes(1)),
    "close with a reason that is no UTF-8": _close_with(lambda random: b"\x03\xe8ok" + random.choice(NO_UTF8)),
    "frame out of place": lambda random, frames: _insert(random, frames, random.choice(frames)),
}
