"""Messages in pieces: put together, held to their limits, their text checked as it comes."""

from __future__ import annotations

import time
import tracemalloc
import zlib

import pytest

from gevpy import FrameTooLarge, ProtocolError
from gevpy.websocket import Opcode
from gevpy.websocket.assembly import BYTES_PER_FRAGMENT, LEAST_FRAGMENTS, MAX_EMPTY, Assembly, TextCheck
from gevpy.websocket.codes import InvalidText, PolicyViolation
from gevpy.websocket.deflate import Codec, DeflateParameters

CODEC = Codec(DeflateParameters(12, 15), level=6, mem_level=5)


def assemble(
    opcode: Opcode, *pieces: bytes, limit: int = 1000, codec: Codec | None = None
) -> tuple[Opcode, str | bytes]:
    """Put all pieces together."""
    assembly = Assembly(opcode, limit, codec)
    for index, piece in enumerate(pieces):
        assembly.add(piece, is_last=index == len(pieces) - 1)
    return assembly.whole()


def deflated(data: bytes) -> bytes:
    """Deflate a message whole."""
    return CODEC.deflate(data)


# -- whole ones ------------------------------------------------------------------------------------


def test_pieces_become_one_message() -> None:
    """Of both kinds, with empty pieces among them."""
    assert assemble(Opcode.BINARY, b"ab", b"", b"\xff") == (Opcode.BINARY, b"ab\xff")
    assert assemble(Opcode.TEXT, b"", b"h\xc3", b"\xa4", b"") == (Opcode.TEXT, "hä")
    assert assemble(Opcode.TEXT, b"", b"") == (Opcode.TEXT, "")
    assert assemble(Opcode.BINARY, b"") == (Opcode.BINARY, b"")


def test_a_compressed_message_in_pieces() -> None:
    """The stream may be cut anywhere; the count of what was inflated is given piece by piece."""
    data = b"compress me, compress me, compress me" * 5
    whole = deflated(data)
    for at in range(len(whole) + 1):
        assembly = Assembly(Opcode.BINARY, 1000, CODEC)
        assert assembly.is_compressed
        count = assembly.add(whole[:at], is_last=False)
        count += assembly.add(whole[at:], is_last=True)
        assert count == len(data)
        assert assembly.whole() == (Opcode.BINARY, data)


def test_plain_pieces_inflate_nothing() -> None:
    """The budget for inflating is not theirs."""
    assembly = Assembly(Opcode.BINARY, 1000, None)
    assert not assembly.is_compressed
    assert assembly.add(b"abc", is_last=True) == 0


# -- size ------------------------------------------------------------------------------------------


def test_the_limit_counts_all_pieces() -> None:
    """Exactly the limit is fine, a byte more is not; `room` tells what may still come."""
    assembly = Assembly(Opcode.BINARY, 10, None)
    assert assembly.room() == 10
    assembly.add(b"1234567", is_last=False)
    assert assembly.room() == 3
    assembly.add(b"890", is_last=False)
    assert assembly.room() == 0
    with pytest.raises(FrameTooLarge) as caught:
        assembly.add(b"x", is_last=True)
    assert (caught.value.limit, caught.value.actual) == (10, 11)


@pytest.mark.parametrize("size", [1, 999, 1000])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_a_compressed_message_up_to_its_limit(size: int, parts: int) -> None:
    """The limit is that of the inflated message, however many frames it comes in."""
    data = bytes(index * 7 % 251 for index in range(size))
    whole = deflated(data)
    step = len(whole) // parts + 1
    pieces = [whole[at : at + step] for at in range(0, len(whole), step)]
    assert assemble(Opcode.BINARY, *pieces, codec=CODEC) == (Opcode.BINARY, data)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_a_compressed_message_over_its_limit(parts: int) -> None:
    """One byte too many is too many, in one frame and in several."""
    whole = deflated(bytes(index * 7 % 251 for index in range(1001)))
    step = len(whole) // parts + 1
    with pytest.raises(FrameTooLarge):
        assemble(Opcode.BINARY, *(whole[at : at + step] for at in range(0, len(whole), step)), codec=CODEC)


@pytest.mark.parametrize("first_bytes", [1, 499, 500, 501, 502, 999, 1000, 1001])
def test_a_bomb_behind_an_innocent_fragment(first_bytes: int) -> None:
    """E9: what the first fragment held doesn't lift the bound of the second; memory stays within it, too."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = stream.compress(bytes(first_bytes)) + stream.flush(zlib.Z_SYNC_FLUSH)
    bomb = stream.compress(bytes(20_000_000)) + stream.flush(zlib.Z_SYNC_FLUSH)
    assembly = Assembly(Opcode.BINARY, 1001, CODEC)
    assembly.add(first, is_last=False)
    tracemalloc.start()
    try:
        with pytest.raises(FrameTooLarge):
            assembly.add(bomb, is_last=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000


def test_the_room_of_compressed_frames() -> None:
    """What can't be compressed may be a little longer than the limit."""
    assembly = Assembly(Opcode.BINARY, 1 << 20, CODEC)
    assert (1 << 20) < assembly.room() < (1 << 20) + (1 << 13)


# -- fragments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "most"), [(100, LEAST_FRAGMENTS), (65536, LEAST_FRAGMENTS), (1 << 20, (1 << 20) // BYTES_PER_FRAGMENT)]
)
def test_the_number_of_fragments_is_limited(limit: int, most: int) -> None:
    """E8: by the size that the message may have, and not below 1024."""
    assembly = Assembly(Opcode.BINARY, limit, None)
    for index in range(most):
        assembly.add(b"x" if index < limit else b"", is_last=False)
    with pytest.raises(PolicyViolation) as caught:
        assembly.add(b"", is_last=False)
    assert (caught.value.limit, caught.value.actual) == (most, most + 1)


def test_empty_fragments_are_few() -> None:
    """E8: 1024 of a message, whatever its limit; others between them change nothing."""
    assembly = Assembly(Opcode.TEXT, 1 << 30, None)
    for _ in range(MAX_EMPTY):
        assembly.add(b"", is_last=False)
        assembly.add(b"x", is_last=False)
    with pytest.raises(PolicyViolation) as caught:
        assembly.add(b"", is_last=True)
    assert caught.value.limit == MAX_EMPTY


def test_many_fragments_take_linear_time() -> None:
    """E8: 16,384 fragments cost each what one costs: not the whole message again for each."""

    def seconds(count: int) -> float:
        assembly = Assembly(Opcode.TEXT, 1 << 20, None)
        begun = time.thread_time()
        for _ in range(count):
            assembly.add(b"x" * 64, is_last=False)
        return time.thread_time() - begun

    assert any(seconds(16_000) < 2.3**3 * seconds(2000) for _ in range(10))


# -- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [None, CODEC], ids=["plain", "compressed"])
def test_text_is_checked_as_it_comes(codec: Codec | None) -> None:
    """E10: the piece with the first bad byte is refused, not the last one."""
    assembly = Assembly(Opcode.TEXT, 1000, codec)
    bad = b"\xc0\xaf"
    if codec is not None:
        stream = zlib.compressobj(6, zlib.DEFLATED, -12)
        bad = stream.compress(bad) + stream.flush(zlib.Z_SYNC_FLUSH)
    else:
        assembly.add(b"fine", is_last=False)
    with pytest.raises(InvalidText):
        assembly.add(bad, is_last=False)


def test_text_that_ends_inside_a_character() -> None:
    """Only the end shows that."""
    assembly = Assembly(Opcode.TEXT, 1000, None)
    assembly.add("a€".encode()[:-1], is_last=False)
    with pytest.raises(InvalidText):
        assembly.add(b"", is_last=True)


def test_what_was_seen_is_not_checked_twice() -> None:
    """Of a frame that came in part the check has seen the beginning already."""
    assembly = Assembly(Opcode.TEXT, 1000, None)
    assert assembly.check is not None
    assembly.check.add(b"a\xe2\x82")
    assembly.check.seen = 3
    assembly.add(b"a\xe2\x82\xac", is_last=False)
    assembly.add(b"!", is_last=True)
    assert assembly.whole() == (Opcode.TEXT, "a€!")


def test_the_check_alone() -> None:
    """It keeps the part of a character that it has, and tells where the fault is."""
    check = TextCheck()
    check.add(b"abc\xf0\x9f")
    check.add(b"\x98\x80")
    check.add(b"", is_last=True)
    with pytest.raises(InvalidText) as caught:
        TextCheck().add(b"ab\xffc")
    assert caught.value.offset == 2
    assert isinstance(caught.value, ProtocolError)


def test_a_compressed_message_that_is_none() -> None:
    """Garbage ends the connection as any protocol error does."""
    with pytest.raises(ProtocolError):
        assemble(Opcode.BINARY, b"\xff\xff\xff\xff", codec=CODEC)
