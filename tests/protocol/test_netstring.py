"""Netstrings: strict lengths, the comma, the limit, and any way to cut them."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gevpy import ConfigError, FrameTooLarge, ProtocolError
from gevpy.protocol.netstring import NetstringProtocol
from tests.protocol.hostile import check_garbage, drip_behind, ring_of
from tests.protocol.splitting import check_any_split, check_linear, feed, flood


def test_the_docstrings_reads() -> None:
    """The diagram's messages, and a begun one."""
    assert feed(NetstringProtocol(), [b"5:hello,0:,4:wo", b"rd,", b"3:ab"]) == [b"hello", b"", b"word"]


@settings(max_examples=40)
@given(messages=st.lists(st.binary(max_size=30), min_size=1, max_size=5), cut=st.integers(1, 14))
def test_any_split_gives_the_same_messages(messages: list[bytes], cut: int) -> None:
    """What is packed comes out again, whatever is in it, with a begun one behind."""
    protocol = NetstringProtocol()
    stream = b"".join(protocol.packet(None, message) for message in messages)
    check_any_split(protocol, stream, messages, trailing=b"12:hello world!,"[:cut])


def test_the_frame_is_bernsteins() -> None:
    """His own example, byte by byte."""
    wire = bytes.fromhex("31323a68656c6c6f20776f726c64212c")
    assert NetstringProtocol().packet(None, memoryview(b"hello world!")) == wire


@pytest.mark.parametrize(
    ("stream", "offset"),
    [
        (b":", 0),
        (b"x", 0),
        (b"-1:", 0),
        (b"+1:a,", 0),
        (b" 1:a,", 0),
        (b"1 :a,", 1),
        (b"1_0:", 1),
        (b"12x", 2),
        (b"00:,", 1),
        (b"01:a,", 1),
        (b"0x", 1),
        (b"\xd9\xa1:a,", 0),
        (b"1:ab", 3),
        (b"1:a\0", 3),
        (b"0:x", 2),
        (b"3:abc:", 5),
    ],
)
def test_what_is_no_netstring_is_refused(stream: bytes, offset: int) -> None:
    """At the byte that is wrong, as soon as it comes, however the bytes are cut."""
    for pieces in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        with pytest.raises(ProtocolError) as caught:
            feed(NetstringProtocol(), pieces)
        assert not isinstance(caught.value, FrameTooLarge)
        assert caught.value.offset == offset


def test_a_message_of_exactly_the_limit_passes() -> None:
    """One byte more is refused by its length, and so are more digits than the limit has."""
    protocol = NetstringProtocol(max_frame_bytes=12)
    check_any_split(protocol, b"12:hello world!,", [b"hello world!"])
    for stream, actual in ((b"13", 13), (b"99999999999999999999", 999), (b"13:", 13)):
        with pytest.raises(FrameTooLarge) as caught:
            feed(protocol, [stream])
        assert (caught.value.limit, caught.value.actual) == (12, actual)


def test_room_is_reserved_for_the_frame() -> None:
    """After the first bytes the next lend has room for the rest."""
    ring = ring_of(b"60000:x")
    assert NetstringProtocol().decode(None, ring) is None
    assert len(ring.writable()) >= 59_999


@given(stream=st.lists(st.sampled_from(b"0123:,ax"), max_size=40).map(bytes) | st.binary(max_size=40))
def test_garbage_ends_in_a_protocol_error_or_in_messages(stream: bytes) -> None:
    """And comes to the same however it is cut."""
    check_garbage(NetstringProtocol(max_frame_bytes=20), stream)


@pytest.mark.parametrize("data", ["text", 5, None])
def test_what_is_not_bytes_like_is_refused(data: object) -> None:
    """Messages are bytes."""
    with pytest.raises(TypeError, match="sends bytes"):
        NetstringProtocol().packet(None, data)


@pytest.mark.parametrize("limit", [0, -1, 1 << 64, True, 1.5])
def test_limits_are_checked(limit: int) -> None:
    """At least a byte, at most what memory can hold."""
    with pytest.raises(ConfigError, match="max_frame_bytes"):
        NetstringProtocol(max_frame_bytes=limit)


def test_it_goes_to_a_worker() -> None:
    """Pickled and back, it still works."""
    protocol = pickle.loads(pickle.dumps(NetstringProtocol(max_frame_bytes=9)))  # noqa: S301 - our own
    assert feed(protocol, [b"9:123456789,"]) == [b"123456789"]


def test_frames_and_drips_take_linear_time() -> None:
    """A flood of empty ones, and one that comes byte by byte."""
    check_linear(flood(NetstringProtocol(), b"0:,"), 40_000)
    check_linear(drip_behind(NetstringProtocol(max_frame_bytes=1 << 20), b"1000000:", b"x"), 20_000)
