"""COBS packets: stuffing at its edges, noise between them, what no stuffing gives, and any way to cut them."""

from __future__ import annotations

import importlib
import pickle
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gevpy.protocol.cobs
from gevpy import ConfigError, FrameTooLarge, ProtocolError
from gevpy.protocol.cobs import CobsProtocol
from tests.protocol.hostile import check_garbage, drip_behind
from tests.protocol.splitting import check_any_split, check_linear, feed, flood

zeros = st.lists(st.sampled_from(b"\0\0\1AB"), max_size=20).map(bytes)


@settings(max_examples=40)
@given(messages=st.lists(zeros, min_size=1, max_size=5), noise=st.integers(0, 3))
def test_any_split_gives_the_same_messages(messages: list[bytes], noise: int) -> None:
    """What is packed comes out again, empty messages too; zeros before it are no messages."""
    protocol = CobsProtocol()
    stream = b"".join(bytes(noise) + protocol.packet(None, message) for message in messages)
    check_any_split(protocol, stream, messages, trailing=bytes(noise) + b"\x05AB")


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (b"", b"\x01\0"),
        (b"\0", b"\x01\x01\0"),
        (b"AB\0C", b"\x03AB\x02C\0"),
        (b"\0\0", b"\x01\x01\x01\0"),
        (b"A" * 253, b"\xfe" + b"A" * 253 + b"\0"),
        (b"A" * 254, b"\xff" + b"A" * 254 + b"\0"),
        (b"A" * 255, b"\xff" + b"A" * 254 + b"\x02A\0"),
        (b"A" * 254 + b"\0", b"\xff" + b"A" * 254 + b"\x01\x01\0"),
    ],
)
def test_the_stuffing_is_the_papers(message: bytes, wire: bytes) -> None:
    """Both ways, at the edges of a block of 254."""
    assert CobsProtocol().packet(None, bytearray(message)) == wire
    assert feed(CobsProtocol(), [b"\0\0", wire]) == [message]


@pytest.mark.parametrize("bad", [b"\x02", b"\x05AB", b"\xff" + b"A" * 253, b"\x02A\x03B"])
def test_what_no_stuffing_gives_is_refused(bad: bytes) -> None:
    """A block that reaches beyond its packet; the error has the packet's size, and the library's as its cause."""
    with pytest.raises(ProtocolError, match="COBS") as caught:
        feed(CobsProtocol(), [bad + b"\0"])
    assert caught.value.actual == len(bad)
    assert caught.value.__cause__ is not None


@given(stream=zeros | st.binary(max_size=40))
def test_garbage_ends_in_a_protocol_error_or_in_messages(stream: bytes) -> None:
    """And comes to the same however it is cut."""
    check_garbage(CobsProtocol(max_frame_bytes=10), stream)


def test_a_packet_of_exactly_the_limit_passes() -> None:
    """Counted as it is on the wire, the zero not counted; one byte more is refused, ended or not."""
    protocol = CobsProtocol(max_frame_bytes=4)
    check_any_split(protocol, b"\x04ABC\0", [b"ABC"])
    for stream in (b"\x05ABCD\0", b"\x05ABCD"):
        with pytest.raises(FrameTooLarge):
            feed(protocol, [stream])
    assert CobsProtocol().max_frame_bytes == 65536


@pytest.mark.parametrize("data", ["text", 5, None])
def test_what_is_not_bytes_like_is_refused(data: object) -> None:
    """Messages are bytes."""
    with pytest.raises(TypeError, match="sends bytes"):
        CobsProtocol().packet(None, data)


def test_limits_are_checked() -> None:
    """At least a byte."""
    with pytest.raises(ConfigError, match="max_frame_bytes"):
        CobsProtocol(max_frame_bytes=0)


def test_it_goes_to_a_worker() -> None:
    """Pickled and back, it still works."""
    assert feed(pickle.loads(pickle.dumps(CobsProtocol())), [b"\x02A\0"]) == [b"A"]  # noqa: S301 - our own


def test_without_the_library_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra."""
    monkeypatch.setitem(sys.modules, "cobs.cobs", None)
    monkeypatch.delitem(sys.modules, gevpy.protocol.cobs.__name__)
    with pytest.raises(ImportError, match=r"pip install gevpy\[cobs\]"):
        importlib.import_module("gevpy.protocol.cobs")


def test_frames_and_drips_take_linear_time() -> None:
    """A flood of small packets, and one packet that comes byte by byte."""
    check_linear(flood(CobsProtocol(), b"\0\x02A\0"), 40_000)
    check_linear(drip_behind(CobsProtocol(max_frame_bytes=1 << 20), b"\x05", b"A"), 20_000)
