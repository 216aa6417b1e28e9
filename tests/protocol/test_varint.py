"""Frames behind a varint: every width, against protobuf's own, at the limit, and varints that never end."""

from __future__ import annotations

import io
import pickle

import pytest
from google.protobuf.internal import decoder, encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from gevpy import ConfigError, FrameTooLarge, ProtocolError
from gevpy.protocol.varint import VarintProtocol
from tests.protocol.hostile import check_garbage, drip_behind, ring_of
from tests.protocol.splitting import check_any_split, check_linear, feed, flood


@settings(max_examples=40)
@given(frames=st.lists(st.binary(max_size=300), min_size=1, max_size=5), cut=st.integers(1, 300))
def test_any_split_gives_the_same_frames(frames: list[bytes], cut: int) -> None:
    """What is packed comes out again, with a begun frame behind it."""
    protocol = VarintProtocol()
    stream = b"".join(protocol.packet(None, frame) for frame in frames)
    check_any_split(protocol, stream, frames, trailing=protocol.packet(None, b"x" * 300)[:cut])


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 300, 16_383, 16_384, 2_097_151, 2_097_152])
def test_the_varint_is_protobufs(size: int) -> None:
    """Both read what the other writes, at every width's edge."""
    protocol = VarintProtocol(max_frame_bytes=1 << 22)
    frame = protocol.packet(None, bytearray(size))
    out = io.BytesIO()
    encoder._EncodeVarint(out.write, size)  # type: ignore[attr-defined]
    assert frame == out.getvalue() + bytes(size)
    assert decoder._DecodeVarint(frame, 0) == (size, len(frame) - size)  # type: ignore[attr-defined]
    assert feed(protocol, [frame]) == [bytes(size)]


@pytest.mark.parametrize("head", [b"\x82\x00", b"\x82\x80\x00", b"\x82\x80\x80\x80\x00"])
def test_a_longer_varint_than_needed_is_read(head: bytes) -> None:
    """As protobuf does, up to five bytes."""
    check_any_split(VarintProtocol(), head + b"HI", [b"HI"], trailing=head)


@pytest.mark.parametrize("stream", [b"\x80" * 5, b"\xff" * 5, b"\xff" * 10, b"\x80\x80\x80\x80\x80\x01"])
def test_a_varint_without_an_end_is_refused(stream: bytes) -> None:
    """At its fifth byte, whatever follows."""
    for pieces in ([stream], [stream[at : at + 1] for at in range(5)]):
        with pytest.raises(ProtocolError, match="varint") as caught:
            feed(VarintProtocol(), pieces)
        assert (caught.value.limit, caught.value.offset) == (5, 4)
    assert feed(VarintProtocol(), [stream[:4]]) == []


def test_a_frame_of_exactly_the_limit_passes() -> None:
    """One byte more is refused by its length alone, and so are 34 bits of it."""
    protocol = VarintProtocol(max_frame_bytes=200)
    assert feed(protocol, [b"\xc8\x01" + bytes(200)]) == [bytes(200)]
    for head, actual in ((b"\xc9\x01", 201), (b"\xff\xff\xff\xff\x7f", (1 << 35) - 1)):
        with pytest.raises(FrameTooLarge) as caught:
            feed(protocol, [head])
        assert (caught.value.limit, caught.value.actual, caught.value.offset) == (200, actual, 0)
    assert feed(protocol, [bytes([byte]) for byte in b"\xc8\x80\x80\x80\x00"]) == []


def test_room_is_reserved_for_the_frame() -> None:
    """After the first bytes the next lend has room for the rest."""
    ring = ring_of(VarintProtocol().packet(None, bytes(60_000))[:5])
    assert VarintProtocol().decode(None, ring) is None
    assert len(ring.writable()) >= 59_998


@given(stream=st.binary(max_size=60))
def test_garbage_ends_in_a_protocol_error_or_in_frames(stream: bytes) -> None:
    """And comes to the same however it is cut."""
    check_garbage(VarintProtocol(max_frame_bytes=20), stream)


@pytest.mark.parametrize("data", ["text", 5, None])
def test_what_is_not_bytes_like_is_refused(data: object) -> None:
    """Messages are bytes."""
    with pytest.raises(TypeError, match="sends bytes"):
        VarintProtocol().packet(None, data)


@pytest.mark.parametrize("limit", [0, -1, 1 << 64, True, 1.5])
def test_limits_are_checked(limit: int) -> None:
    """At least a byte, at most what memory can hold."""
    with pytest.raises(ConfigError, match="max_frame_bytes"):
        VarintProtocol(max_frame_bytes=limit)


def test_it_goes_to_a_worker() -> None:
    """Pickled and back, with its bound."""
    assert pickle.loads(pickle.dumps(VarintProtocol(max_frame_bytes=9))).max_frame_bytes == 9  # noqa: S301 - our own


def test_frames_and_drips_take_linear_time() -> None:
    """A flood of empty frames, and a frame that comes byte by byte."""
    check_linear(flood(VarintProtocol(), b"\0"), 40_000)
    check_linear(drip_behind(VarintProtocol(max_frame_bytes=1 << 20), b"\x80\x80\x40", b"x"), 20_000)
