"""MessagePack values: every header, cut any way, promises that are not believed, and what the connection remembers."""

from __future__ import annotations

import datetime as dt
import importlib
import pickle
import struct
import sys
import time
import tracemalloc
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gevpy.protocol.msgpack
from gevpy import ConfigError, FrameTooLarge, ProtocolError, RingBuffer
from gevpy.protocol.msgpack import MsgpackProtocol
from tests.protocol.hostile import OneConnection, check_garbage, drip_behind, outcome, ring_of
from tests.protocol.splitting import check_any_split, check_linear, feed, flood

text = st.text(st.characters(codec="utf-8"), max_size=33)
extensions = st.tuples(st.integers(0, 127), st.binary(max_size=20)).map(lambda parts: msgpack.ExtType(*parts))
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
leaves: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), numbers, text, st.binary(max_size=40), extensions)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=17) | st.dictionaries(text | st.binary(max_size=9), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=15)
@given(messages=st.lists(values, min_size=1, max_size=3), cut=st.integers(0, 9))
def test_any_split_gives_the_same_values(messages: list[Any], cut: int) -> None:
    """What is packed comes out again, with a begun value behind it."""
    protocol = MsgpackProtocol()
    stream = b"".join(protocol.packet(None, message) for message in messages)
    check_any_split(OneConnection(protocol), stream, messages, trailing=protocol.packet(None, ["x" * 90, 1])[:cut])


def test_the_docstrings_reads() -> None:
    """The diagram's messages; a nil is one, too."""
    reads = [bytes.fromhex("81a16101a268"), bytes.fromhex("69c0")]
    assert feed(OneConnection(MsgpackProtocol()), reads) == [{"a": 1}, "hi", None]
    assert MsgpackProtocol().packet(None, None) == b"\xc0"


@pytest.mark.parametrize(
    "value",
    [
        "x" * 31,
        "x" * 32,
        "x" * 256,
        "x" * 65_536,
        bytes(255),
        bytes(256),
        bytes(65_536),
        [None] * 15,
        [None] * 16,
        [None] * 65_536,
        {str(key): key for key in range(16)},
        {str(key): key for key in range(65_536)},
        msgpack.ExtType(5, bytes(16)),
        msgpack.ExtType(5, bytes(17)),
        msgpack.ExtType(5, bytes(65_536)),
        msgpack.Timestamp(1 << 40, 5),
        1.5,
        -(1 << 63),
    ],
    ids=lambda value: f"{type(value).__name__}-{len(value) if hasattr(value, '__len__') else value}",
)
def test_every_width_of_header(value: Any) -> None:
    """In halves of a few bytes and of many."""
    protocol = MsgpackProtocol(max_frame_bytes=1 << 21)
    frame = protocol.packet(None, value)
    for at in (1, 2, 5, len(frame) // 2, len(frame) - 1):
        assert feed(OneConnection(protocol), [frame[:at], frame[at:] + frame]) == [value, value]


def test_timestamps_and_extensions_are_the_librarys() -> None:
    """As its types; a datetime has to be made of them."""
    moment = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    stream = MsgpackProtocol().packet(None, msgpack.Timestamp.from_datetime(moment)) + b"\xd4\x07x"
    stamp, extension = feed(OneConnection(MsgpackProtocol()), [stream])
    assert stamp.to_datetime() == moment
    assert extension == msgpack.ExtType(7, b"x")


@pytest.mark.parametrize(
    "stream",
    [
        b"\xc1",
        b"\x91\xc1",
        b"\x92\x01\xc1",
        b"\xa1\xff",
        b"\x81\x01\x01",
        b"\x81\x90\x01",
        b"\x81\xc0\x01",
        b"\x91" * 2000 + b"\xc0",
        b"\xd7\xff" + b"\xff" * 8,
        b"\xd4\xff\x00",
    ],
    ids=lambda stream: stream[:8].hex(),
)
def test_what_is_no_messagepack_is_refused(stream: bytes) -> None:
    """The reserved byte, text that isn't UTF-8, keys that aren't text, nests of 2000, impossible timestamps."""
    check_garbage(MsgpackProtocol(), b"\x01" + stream)
    with pytest.raises(ProtocolError, match="no MessagePack") as caught:
        feed(OneConnection(MsgpackProtocol()), [stream])
    assert isinstance(caught.value.__cause__, ValueError)


@given(stream=st.lists(st.sampled_from(b"\x00\x81\x91\x93\xa1\xc0\xc1\xc4\xc7\xd4\xd9\xdcax"), max_size=40).map(bytes))
def test_garbage_of_headers_ends_in_a_protocol_error_or_in_values(stream: bytes) -> None:
    """And comes to the same however it is cut."""
    check_garbage(MsgpackProtocol(max_frame_bytes=20), stream)


@settings(max_examples=200)
@given(stream=st.binary(max_size=60))
def test_garbage_ends_in_a_protocol_error_or_in_values(stream: bytes) -> None:
    """And comes to the same however it is cut."""
    check_garbage(MsgpackProtocol(), stream)


@pytest.mark.parametrize("promise", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"])
def test_promises_are_not_believed(promise: bytes) -> None:
    """Of four billion elements or bytes not one is allocated, and the wait for them ends at the limit."""
    protocol = MsgpackProtocol(max_frame_bytes=4096)
    with pytest.raises(FrameTooLarge) as caught:
        feed(OneConnection(protocol), [promise, bytes(4091), b"\0"])
    assert (caught.value.limit, caught.value.actual) == (4096, 4097)
    assert feed(OneConnection(protocol), [promise, bytes(4091)]) == []


def test_nested_promises_cost_no_memory() -> None:
    """400 arrays in each other, of 65,535 elements each, would be 200 MB if each were made when it begins."""
    ring = ring_of(b"\xdc\xff\xff" * 400)
    conn = SimpleNamespace(protocol_state=None)
    protocol = MsgpackProtocol()
    tracemalloc.start()
    try:
        assert protocol.decode(conn, ring) is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1, 2, 20])
def test_a_value_of_exactly_the_limit_passes(size: int) -> None:
    """Several of them, cut any way; one byte more is refused."""
    protocol = MsgpackProtocol(max_frame_bytes=size)
    value = "x" * (size - 1)
    frame = protocol.packet(None, value)
    assert len(frame) == size
    check_any_split(OneConnection(protocol), frame * 3, [value] * 3)
    longer = protocol.packet(None, "y" * size)
    check_garbage(protocol, frame + longer)
    assert outcome(protocol, [frame + longer]) == ([value], FrameTooLarge)


def test_a_connection_remembers_nothing_between_values() -> None:
    """Only a begun value, or values that wait, keep a scanner."""
    protocol = MsgpackProtocol()
    conn = SimpleNamespace(protocol_state=None)
    ring = ring_of(b"\x01\x02\x92\x03")
    assert protocol.decode(conn, ring) == (None, 1)
    assert protocol.decode(conn, ring) == (None, 2)
    assert protocol.decode(conn, ring) is None
    assert conn.protocol_state is not None
    ring.write(b"\x04")
    assert protocol.decode(conn, ring) == (None, [3, 4])
    assert ring.is_empty
    assert conn.protocol_state is None


def test_a_begun_value_survives_the_move_to_another_ring() -> None:
    """As when the rest of a read goes to the connection's own buffer, from which another look-ahead was forgotten."""
    protocol = MsgpackProtocol()
    conn = SimpleNamespace(protocol_state=None)
    shared, own = ring_of(b"\x01\x93\x02\x03"), RingBuffer()
    assert protocol.decode(conn, shared) == (None, 1)
    assert protocol.decode(conn, shared) is None
    own.absorb(shared)
    own.write(b"\xa1")
    assert protocol.decode(conn, own) is None
    own.virtual_revert()
    own.write(b"x\x05")
    assert protocol.decode(conn, own) == (None, [2, 3, "x"])
    assert protocol.decode(conn, own) == (None, 5)


def test_a_new_protocol_begins_at_the_bytes_that_wait() -> None:
    """After a change of protocol and back there is a new scanner, and nothing is lost."""
    protocol = MsgpackProtocol()
    conn = SimpleNamespace(protocol_state=None)
    ring = ring_of(b"\x01\x02\x92")
    assert protocol.decode(conn, ring) == (None, 1)
    conn.protocol_state = None  # as by an assignment of conn.protocol
    ring.scanned = 0
    assert protocol.decode(conn, ring) == (None, 2)
    ring.write(b"\x03\x04")
    assert protocol.decode(conn, ring) == (None, [3, 4])


@pytest.mark.parametrize("data", [object(), {1, 2}, 1 << 64])
def test_what_messagepack_cannot_say_is_refused(data: object) -> None:
    """With the library's error, to whoever sends it."""
    with pytest.raises((TypeError, OverflowError)):
        MsgpackProtocol().packet(None, data)


def test_limits_are_checked() -> None:
    """At least a byte."""
    assert MsgpackProtocol().max_frame_bytes == 65536
    with pytest.raises(ConfigError, match="max_frame_bytes"):
        MsgpackProtocol(max_frame_bytes=0)


def test_it_goes_to_a_worker() -> None:
    """Pickled and back, it still works."""
    assert feed(OneConnection(pickle.loads(pickle.dumps(MsgpackProtocol()))), [b"\x91\x01"]) == [[1]]  # noqa: S301


def test_without_the_library_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra."""
    monkeypatch.setitem(sys.modules, "msgpack", None)
    monkeypatch.delitem(sys.modules, gevpy.protocol.msgpack.__name__)
    with pytest.raises(ImportError, match=r"pip install gevpy\[msgpack\]"):
        importlib.import_module("gevpy.protocol.msgpack")


@pytest.mark.parametrize(
    ("head", "byte"),
    [(b"\xdd\x00\xff\xff\xff", b"\0"), (b"\xc6\x00\xff\xff\xff", b"x")],
    ids=["array", "bytes"],
)
def test_a_value_byte_by_byte_takes_linear_time(head: bytes, byte: bytes) -> None:
    """An array of small elements, and one long element: each byte is looked at once."""
    check_linear(drip_behind(MsgpackProtocol(max_frame_bytes=1 << 24), head, byte), 20_000)


def test_values_take_linear_time() -> None:
    """A flood in one buffer, larger than a frame may be, so that the scanner is fed again and again."""
    check_linear(flood(OneConnection(MsgpackProtocol(max_frame_bytes=64)), b"\x91\xa1x"), 20_000)

    def seconds(count: int) -> float:
        """Give the time that large values take, each of which leaves a part of the next behind."""
        frame = b"\xc5" + struct.pack(">H", 3000) + bytes(3000)
        ring = ring_of(frame * count)
        protocol = OneConnection(MsgpackProtocol(max_frame_bytes=4096))
        begun = time.thread_time()
        for _ in range(count):
            assert protocol.decode(None, ring) is not None
        return time.thread_time() - begun

    check_linear(seconds, 2_000)
