"""Frames of one length, cut any way, at the limit and beyond."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gevpy import ConfigError, FixedLengthProtocol, FrameTooLarge, ProtocolError, RingBuffer
from gevpy.write_batch import WriteBatch
from tests.protocol.splitting import check_any_split, decode_all, feed


@settings(max_examples=40)
@given(data=st.data(), length=st.integers(1, 40), count=st.integers(1, 6), seed=st.integers(0, 999))
def test_any_split_gives_the_same_frames(data: st.DataObject, length: int, count: int, seed: int) -> None:
    """Frames are cut by count alone, whatever is in them."""
    frames = [data.draw(st.binary(min_size=length, max_size=length)) for _ in range(count)]
    trailing = data.draw(st.binary(max_size=length - 1))
    check_any_split(FixedLengthProtocol(length), b"".join(frames), frames, trailing=trailing, seed=seed)


def test_the_docstrings_example() -> None:
    """The reads ABC, DE, FG, HI are three frames of three."""
    assert feed(FixedLengthProtocol(3), [b"ABC", b"DE", b"FG", b"HI"]) == [b"ABC", b"DEF", b"GHI"]


@given(frame=st.binary(min_size=7, max_size=7))
def test_what_is_packed_comes_out_again(frame: bytes) -> None:
    """decode(encode(m)) == m."""
    protocol = FixedLengthProtocol(7)
    batch = WriteBatch()
    protocol.packet_into(None, frame, batch)
    assert batch.take() == protocol.packet(None, frame)
    assert feed(protocol, [protocol.packet(None, frame)]) == [frame]


@pytest.mark.parametrize("length", [0, -1, -(1 << 63), 65537, 1 << 31, 1 << 63, 1 << 64])
def test_lengths_that_cannot_be_are_refused(length: int) -> None:
    """A frame has at least one byte and no more than the limit."""
    with pytest.raises(ConfigError, match="length"):
        FixedLengthProtocol(length)


def test_the_limit_itself_is_allowed() -> None:
    """A length of exactly max_frame_bytes works; one more is refused at once."""
    assert feed(FixedLengthProtocol(65536), [bytes(65535), b"\0"]) == [bytes(65536)]
    assert feed(FixedLengthProtocol(5, max_frame_bytes=5), [b"abcde"]) == [b"abcde"]
    with pytest.raises(ConfigError):
        FixedLengthProtocol(6, max_frame_bytes=5)


@pytest.mark.parametrize("size", [0, 1, 4, 6, 100])
def test_messages_of_another_length_are_not_sent(size: int) -> None:
    """They would shift all that follows; the error has both numbers."""
    batch = WriteBatch()
    with pytest.raises(ProtocolError) as caught:
        FixedLengthProtocol(5).packet_into(None, bytes(size), batch)
    assert (caught.value.limit, caught.value.actual) == (5, size)
    assert not isinstance(caught.value, FrameTooLarge)
    assert batch.length == 0


@pytest.mark.parametrize("data", ["abcde", 5, None])
def test_what_is_not_bytes_like_is_refused(data: object) -> None:
    """Five letters are no five bytes."""
    with pytest.raises(TypeError):
        FixedLengthProtocol(5).packet(None, data)


def test_room_is_reserved_for_the_frame() -> None:
    """After the first bytes of a frame the next lend has room for the rest of it."""
    ring = RingBuffer(16, None)
    ring.write(b"ab")
    assert decode_all(FixedLengthProtocol(60_000), ring) == []
    assert len(ring.writable()) >= 59_998
