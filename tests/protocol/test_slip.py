"""SLIP packets: escapes whole and broken, noise between them, the limit, and any way to cut them."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gevpy import ConfigError, FrameTooLarge, ProtocolError
from gevpy.protocol.slip import SlipProtocol
from tests.protocol.hostile import check_garbage, drip_behind
from tests.protocol.splitting import check_any_split, check_linear, feed, flood

special = st.lists(st.sampled_from(b"\xc0\xdb\xdc\xddAB"), min_size=1, max_size=20).map(bytes)


@settings(max_examples=40)
@given(messages=st.lists(special, min_size=1, max_size=5), noise=st.integers(0, 3))
def test_any_split_gives_the_same_messages(messages: list[bytes], noise: int) -> None:
    """What is packed comes out again, whatever needs escaping; ENDs before it are no messages."""
    protocol = SlipProtocol()
    stream = b"".join(b"\xc0" * noise + protocol.packet(None, message) for message in messages)
    check_any_split(protocol, stream, messages, trailing=b"\xc0" * noise + b"AB\xdb")


@given(message=st.binary(min_size=1, max_size=60) | special)
def test_the_escapes_are_those_of_a_slow_encoder(message: bytes) -> None:
    """Byte by byte, as the RFC's own code has it."""
    escaped = {0xC0: b"\xdb\xdc", 0xDB: b"\xdb\xdd"}
    wire = b"".join(escaped.get(byte, bytes([byte])) for byte in message) + b"\xc0"
    assert SlipProtocol().packet(None, message) == wire


def test_the_frame_is_the_rfcs() -> None:
    """END is 192, ESC 219, escaped as 219 220 and 219 221."""
    assert SlipProtocol().packet(None, bytes([1, 192, 2, 219, 3])) == bytes([1, 219, 220, 2, 219, 221, 3, 192])
    reads = [bytes.fromhex("c04142c0c0dbdc"), bytes.fromhex("dbddc043")]
    assert feed(SlipProtocol(), reads) == [b"AB", b"\xc0\xdb"]


@pytest.mark.parametrize("bad", [b"\xdb", b"\xdbA", b"\xdb\xdb", b"\xdb\xdb\xdc", b"\xdb\xde"])
def test_a_bad_escape_is_refused(bad: bytes) -> None:
    """The error says where it is; what came before it is handed over."""
    with pytest.raises(ProtocolError, match="escape") as caught:
        feed(SlipProtocol(), [b"AB" + bad + b"\xc0"])
    assert caught.value.offset == 2
    check_garbage(SlipProtocol(), b"good\xc0AB" + bad + b"\xc0")


@given(stream=special | st.binary(max_size=40))
def test_garbage_ends_in_a_protocol_error_or_in_messages(stream: bytes) -> None:
    """And comes to the same however it is cut."""
    check_garbage(SlipProtocol(max_frame_bytes=10), stream)


def test_a_packet_of_exactly_the_limit_passes() -> None:
    """Counted as it is on the wire, END not counted; one byte more is refused, ended or not."""
    protocol = SlipProtocol(max_frame_bytes=4)
    check_any_split(protocol, b"AB\xdb\xdc\xc0", [b"AB\xc0"])
    for stream in (b"ABCDE\xc0", b"ABCDE"):
        with pytest.raises(FrameTooLarge):
            feed(protocol, [stream])
    assert SlipProtocol().max_frame_bytes == 65536


def test_an_empty_message_is_not_sent() -> None:
    """It would be lost on the way."""
    with pytest.raises(ProtocolError, match="no empty message"):
        SlipProtocol().packet(None, b"")


@pytest.mark.parametrize("data", ["text", 5, None])
def test_what_is_not_bytes_like_is_refused(data: object) -> None:
    """Messages are bytes."""
    with pytest.raises(TypeError, match="sends bytes"):
        SlipProtocol().packet(None, data)


def test_limits_are_checked() -> None:
    """At least a byte."""
    with pytest.raises(ConfigError, match="max_frame_bytes"):
        SlipProtocol(max_frame_bytes=0)


def test_it_goes_to_a_worker() -> None:
    """Pickled and back, it still works."""
    assert feed(pickle.loads(pickle.dumps(SlipProtocol())), [b"\xc0A\xdb\xdd\xc0"]) == [b"A\xdb"]  # noqa: S301 - ours


def test_frames_and_drips_take_linear_time() -> None:
    """A flood of small packets, of nothing, and one packet that comes byte by byte."""
    check_linear(flood(SlipProtocol(), b"\xc0A\xc0"), 40_000)
    check_linear(drip_behind(SlipProtocol(max_frame_bytes=1 << 20), b"A", b"\xdb"), 20_000)
