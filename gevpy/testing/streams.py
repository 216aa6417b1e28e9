"""The streams that break parsers: cut in every way, damaged at every byte, and noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

__all__ = ["broken_frames", "bytewise", "endless_heads", "noise", "places", "random_cut"]

EVERY_PLACE = 1024  # streams up to this are cut at every place, longer ones at so many
HEADER_BYTES = 12  # in which most protocols have their lengths
MOST_FRAMES = 4  # whose bytes are changed
MOST_BYTES = 200  # of one noise
VALUES = (0x00, 0x01, 0x10, 0x7F, 0x80, 0xFF)
GROWING = (0x01, 0x10, 0x39, 0x7F, 0xFF)  # 0x39 is the digit nine


def places(size: int, dice: random.Random) -> list[int]:
    """Give the places at which a stream of ``size`` bytes is cut in two: every one, or many of a long stream's."""
    inner = range(1, size)
    if len(inner) <= EVERY_PLACE:
        return list(inner)
    quarter = EVERY_PLACE // 4
    return sorted({*inner[:quarter], *inner[-quarter:], *dice.sample(inner, 2 * quarter)})


def bytewise(stream: bytes) -> list[bytes]:
    """Cut into single bytes."""
    return [stream[at : at + 1] for at in range(len(stream))]


def random_cut(stream: bytes, dice: random.Random) -> list[bytes]:
    """Cut at a few random places."""
    cuts = sorted(dice.choices(range(len(stream) + 1), k=dice.randrange(1, 8)))
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    return [piece for piece in pieces if piece]


def _shortest(frames: Sequence[bytes]) -> list[bytes]:
    return sorted(set(frames), key=lambda frame: (len(frame), frame))[:MOST_FRAMES]


def _with_byte(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes([value]) + frame[at + 1 :]


def broken_frames(frames: Sequence[bytes]) -> Iterator[bytes]:
    """Give each of the shortest frames with one byte changed, added or missing, and good frames behind it."""
    rest = b"".join(frames)[:MOST_BYTES]
    for frame in _shortest(frames):
        for at in {*range(min(len(frame), HEADER_BYTES)), len(frame) - 1}:
            for value in {*VALUES, (frame[at] + 1) & 0xFF, (frame[at] - 1) & 0xFF} - {frame[at]}:
                yield _with_byte(frame, at, value) + rest
            yield frame[:at] + frame[at + 1 :] + rest
            yield frame[:at] + b"\x00" + frame[at:] + rest


def noise(frames: Sequence[bytes], dice: random.Random, rounds: int) -> Iterator[bytes]:
    """Give random streams: of any bytes, of the bytes that frames are made of, and of pieces of frames; then zeros."""
    alphabet = bytes(sorted(set(b"".join(frames)))) + bytes(VALUES)
    for turn in range(rounds):
        size = dice.randrange(1, MOST_BYTES)
        if turn % 3 == 0:
            yield dice.randbytes(size)
        elif turn % 3 == 1:
            yield bytes(dice.choices(alphabet, k=size))
        else:
            yield b"".join(_piece(dice.choice(frames), dice) for _ in range(6)) or b"\0"
    for value in (0x00, 0xFF):
        yield bytes([value]) * 64


def _piece(frame: bytes, dice: random.Random) -> bytes:
    begin = dice.randrange(len(frame) + 1) if dice.random() < 1 / 2 else 0
    end = len(frame) if dice.random() < 1 / 2 else dice.randrange(begin, len(frame) + 1)
    return frame[begin:end][:MOST_BYTES]


def endless_heads(frames: Sequence[bytes]) -> Iterator[bytes]:
    """Give beginnings that may promise a frame without end: frames with a byte made larger, then parts of frames.

    Small promises come first: a codec that believes them shall be found before it takes the machine's memory.
    """
    for value in GROWING:
        for frame in _shortest(frames):
            for at in range(min(len(frame), HEADER_BYTES)):
                yield _with_byte(frame, at, value)
    for frame in _shortest(frames):
        yield frame[:-1]
        yield frame[:1]
    yield b""
