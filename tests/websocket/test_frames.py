"""Frames: the masker against the definition, at every length and place; beginnings at the borders of lengths."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from gevpy import RingBuffer
from gevpy.websocket import Opcode
from gevpy.websocket.frames import append_frame, frame, head, mask, peek_payload, take_payload, take_text
from gevpy.write_batch import WriteBatch
from tests.websocket import wire
from tests.websocket.wire import plain_mask, ring_at

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTHS = range(301)
ALIGNMENTS = range(16)
KEY = b"\x81\x7f\x01\xfe"  # every byte another, top bits among them
KEY_NUMBER = int.from_bytes(KEY, "little")
KEYS = (KEY, bytes(4), b"\x00\x00\x00\x01", b"\x01\x00\x00\x00", b"\xff\xff\xff\xff", b"\x80\x00\x00\x80")
NOISE = random.Random(6455).randbytes(320)
BORDERS = (0, 1, 124, 125, 126, 127, 128, 255, 256, 65534, 65535, 65536, 65537)


def gathered(batch: WriteBatch) -> bytes:
    """Give all of a batch in one."""
    out = batch.take()
    return out if isinstance(out, bytes) else b"".join(out)


# -- the masker ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS, ids=bytes.hex)
def test_the_masker_at_every_length(key: bytes) -> None:
    """0 to 300 bytes, byte by byte as the RFC has it; masking twice gives the bytes back."""
    for length in LENGTHS:
        data = NOISE[:length]
        masked = mask(data, key)
        assert masked == plain_mask(data, key), length
        assert mask(masked, key) == data, length


def places(length: int, alignment: int) -> Iterator[RingBuffer]:
    """Give rings with 2 bytes of header and ``length`` of payload, which lies at ``alignment``, and wraps or not."""
    content = b"\x82\x00" + NOISE[:length]
    yield ring_at(alignment + 14, 16 + alignment + length + 2, content)
    if length:
        for before in {1, length // 2, length - 1, length} - {0}:
            size = max(len(content) + 1, 34 + alignment)  # the payload's first `before` bytes are before the end
            yield ring_at(size - before - 2, size, content)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_payloads_at_every_length_and_alignment(alignment: int) -> None:
    """Out of a ring, from wherever it begins and whether it wraps, a payload is what the definition gives."""
    for length in LENGTHS:
        expected = plain_mask(NOISE[:length], KEY)
        for ring in places(length, alignment):
            assert peek_payload(ring, 2, length, KEY_NUMBER) == expected, (length, ring)
            assert len(ring) == 2 + length, "it stays"
            assert take_payload(ring, 2, length, KEY_NUMBER) == expected, (length, ring)
            assert len(ring) == 0


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 64, 300])
def test_wrapping_after_each_byte(length: int) -> None:
    """Wherever the ring's storage ends inside a payload, the key goes on where it stood."""
    content = b"\x82\x00" + NOISE[:length]
    size = len(content) + 3
    for begin in range(size):
        ring = ring_at(begin, size, content)
        assert ring.capacity == size
        assert peek_payload(ring, 2, length, KEY_NUMBER) == plain_mask(NOISE[:length], KEY), begin
        for offset in range(2, min(len(content), 20)):
            left = length + 2 - offset
            assert peek_payload(ring, offset, left, KEY_NUMBER) == plain_mask(NOISE[offset - 2 : length], KEY)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_texts_at_every_length_and_alignment(alignment: int) -> None:
    """Text is unmasked where it lies; what is behind it in the ring stays as it was."""
    for length in LENGTHS:
        words = ("Grüße, 世界! 😀" * 30).encode()[:length].decode(errors="ignore")
        payload = words.encode()
        content = b"\x81\x00" + plain_mask(payload, KEY)
        behind = NOISE[:19]
        for size, begin in (
            (16 + alignment + len(content) + 20, alignment + 14),
            (len(content) + 20, len(content) // 2 + alignment),
        ):
            ring = ring_at(begin % size, size, content + behind)
            assert take_text(ring, 2, len(payload), KEY_NUMBER) == words
            assert ring.peek_all() == behind


def test_without_a_key_nothing_is_masked() -> None:
    """As from a server; 0 stands for no key, and a key of four zeros is the same."""
    for length in LENGTHS:
        ring = ring_at(5, length + 8, b"\x82\x00" + NOISE[:length])
        assert take_payload(ring, 2, length, 0) == NOISE[:length]
    ring = ring_at(5, 16, b"\x81\x05Hello")
    assert take_text(ring, 2, 5, 0) == "Hello"


@pytest.mark.parametrize("begin", [0, 9, 30])
def test_text_that_is_none(begin: int) -> None:
    """It raises, whether or not the ring wraps."""
    ring = ring_at(begin, 32, b"\x81\x00" + plain_mask(b"ab\xffcd" * 3, KEY))
    with pytest.raises(UnicodeDecodeError) as caught:
        take_text(ring, 2, 15, KEY_NUMBER)
    assert caught.value.start == 2


def test_a_payload_is_a_copy() -> None:
    """What is taken is kept as it is when the ring is written to again."""
    ring = RingBuffer(16, None)
    ring.write(b"\x82\x00" + plain_mask(b"payload", KEY))
    payload = take_payload(ring, 2, 7, KEY_NUMBER)
    ring.write(b"\xff" * 16)
    assert payload == b"payload"


# -- writing ---------------------------------------------------------------------------------------


def plain_head(first: int, size: int) -> bytes:
    """Write a beginning as RFC 6455 section 5.2 has it."""
    if size <= 125:
        return bytes((first, size))
    if size <= 65535:
        return bytes((first, 126)) + struct.pack("!H", size)
    return bytes((first, 127)) + struct.pack("!Q", size)


@pytest.mark.parametrize("size", [*BORDERS, 1 << 20, (1 << 32) - 1, 1 << 32, (1 << 62) + 1])
def test_heads_at_the_borders(size: int) -> None:
    """A length is written in the shortest way."""
    assert head(0x82, size) == plain_head(0x82, size)


@pytest.mark.parametrize("size", BORDERS)
@pytest.mark.parametrize("first", [0x81, 0x82, 0x01, 0x00, 0x80, 0xC1, 0xFF])
def test_frames_at_the_borders(first: int, size: int) -> None:
    """`frame` and `append_frame` write the same; with a key the payload is masked and the bit set."""
    payload = (NOISE * (size // len(NOISE) + 1))[:size]
    expected = plain_head(first, size) + payload
    assert frame(first, payload) == expected
    batch = WriteBatch()
    append_frame(batch, first, payload)
    assert batch.length == len(expected)
    assert gathered(batch) == expected
    begin = plain_head(first, size)
    masked = bytes((begin[0], begin[1] | 0x80)) + begin[2:] + KEY + plain_mask(payload, KEY)
    assert frame(first, payload, KEY) == masked


def test_frames_behind_each_other() -> None:
    """A batch keeps their order, whatever their sizes."""
    batch = WriteBatch()
    payloads = [NOISE[:5], b"", bytes(20_000), NOISE[:126], bytes(70_000), b"x"]
    for payload in payloads:
        append_frame(batch, 0x82, payload)
    assert [seen.payload for seen in wire.parse(gathered(batch))] == payloads


@pytest.mark.parametrize(
    ("first", "payload", "key", "bytes_on_the_wire"),
    [
        (0x81, b"Hello", "", "81 05 48 65 6c 6c 6f"),
        (0x81, b"Hello", "37 fa 21 3d", "81 85 37 fa 21 3d 7f 9f 4d 51 58"),
        (0x01, b"Hel", "", "01 03 48 65 6c"),
        (0x80, b"lo", "", "80 02 6c 6f"),
        (0x89, b"Hello", "", "89 05 48 65 6c 6c 6f"),
        (0x8A, b"Hello", "37 fa 21 3d", "8a 85 37 fa 21 3d 7f 9f 4d 51 58"),
    ],
    ids=["text", "masked text", "first fragment", "last fragment", "ping", "masked pong"],
)
def test_the_rfcs_examples(first: int, payload: bytes, key: str, bytes_on_the_wire: str) -> None:
    """RFC 6455 section 5.7."""
    assert frame(first, payload, bytes.fromhex(key)) == bytes.fromhex(bytes_on_the_wire)


@pytest.mark.parametrize(("size", "begin"), [(256, "82 7e 01 00"), (65536, "82 7f 00 00 00 00 00 01 00 00")])
def test_the_rfcs_long_examples(size: int, begin: str) -> None:
    """RFC 6455 section 5.7: 256 bytes and 64 KiB in one unmasked frame."""
    assert frame(0x82, bytes(size)) == bytes.fromhex(begin) + bytes(size)


def test_opcodes() -> None:
    """RFC 6455 section 11.8."""
    assert {one.name: one.value for one in Opcode} == {
        "CONTINUATION": 0,
        "TEXT": 1,
        "BINARY": 2,
        "CLOSE": 8,
        "PING": 9,
        "PONG": 10,
    }
