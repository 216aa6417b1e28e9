"""The contract of unpacket, held by `Protocol.decode` whatever a codec does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import gevpy
from gevpy import FrameTooLarge, Protocol, ProtocolError, RingBuffer
from gevpy.protocol.base import require_bytes
from gevpy.write_batch import WriteBatch


def ring_of(content: bytes) -> RingBuffer:
    """Give a ring that holds ``content``."""
    ring = RingBuffer(16, None)
    ring.write(content)
    return ring


class Scripted(Protocol):
    """Consumes so many bytes and answers what it is told."""

    def __init__(self, consume: int, answer: Any) -> None:
        self.consume = consume
        self.answer = answer

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        buffer.skip(self.consume)
        return self.answer


def test_a_pair_that_consumed_is_a_message() -> None:
    """Whatever the pair holds; (None, b"") is a message like any other."""
    for answer in ((None, b""), (1, 2), (None, None), ("ctx", {"any": "thing"})):
        assert Scripted(1, answer).decode(None, ring_of(b"xy")) == answer


@pytest.mark.parametrize(
    ("protocol", "wire", "data"),
    [
        (gevpy.RawProtocol(), b"hello", b"hello"),
        (gevpy.LengthPrefixedProtocol(), b"\0\0\0\5hello", b"hello"),
        (gevpy.LengthPrefixedProtocol(), b"\0\0\0\0", b""),
        (gevpy.LineProtocol(), b"hello\n", b"hello"),
        (gevpy.FixedLengthProtocol(5), b"hello", b"hello"),
        (gevpy.DelimiterProtocol(b"||"), b"hello||", b"hello"),
    ],
)
def test_the_next_message_is_what_decode_gives(protocol: Protocol, wire: bytes, data: bytes) -> None:
    """With or without the pair around it; None for none."""
    assert protocol.decode(None, ring_of(wire)) == (None, data)
    message = protocol.next_message(None, ring_of(wire))
    assert message in (data, (None, data))
    if wire != data:
        assert protocol.next_message(None, ring_of(wire[:-1])) is None


@pytest.mark.parametrize("base", [gevpy.RawProtocol, gevpy.LengthPrefixedProtocol])
def test_the_next_message_of_a_subclass_is_its_own(base: type[Protocol]) -> None:
    """A subclass's unpacket is called, and held to the contract."""

    class Own(base):  # type: ignore[misc, valid-type]
        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            return ("own", buffer.read(1)) if len(buffer) > 1 else ("own", b"taken without being taken")

    ring = ring_of(b"xy")
    assert Own().next_message(None, ring) == ("own", b"x")
    with pytest.raises(gevpy.errors.CodecError):
        Own().next_message(None, ring)


def test_none_leaves_what_is_there() -> None:
    """None waits for more, and all stays."""
    ring = ring_of(b"part")
    assert Scripted(0, None).decode(None, ring) is None
    assert ring.peek_all() == b"part"


def test_none_after_consuming_is_allowed() -> None:
    """A codec may take a preamble and then wait; what it consumed is gone."""
    ring = ring_of(b"preamble and part")
    assert Scripted(9, None).decode(None, ring) is None
    assert ring.peek_all() == b"and part"
    assert Scripted(8, None).decode(None, ring) is None
    assert ring.is_empty


@pytest.mark.parametrize("answer", [(None, b"data"), (None, b""), (1, 2)])
def test_a_message_without_consumption_is_an_error(answer: tuple[Any, Any]) -> None:
    """It would come again for ever."""
    with pytest.raises(ProtocolError, match="consumed nothing") as caught:
        Scripted(0, answer).decode(None, ring_of(b"x"))
    assert "Scripted" in str(caught.value)


def test_a_codec_that_makes_bytes_is_an_error() -> None:
    """More bytes after a message than before is no progress either."""

    class Spring(Protocol):
        """Writes into the buffer it was to read."""

        def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any]:
            buffer.write(b"more")
            return None, buffer.read(1)

    with pytest.raises(ProtocolError, match="consumed nothing"):
        Spring().decode(None, ring_of(b"x"))


@pytest.mark.parametrize("answer", [b"data", [None, b"data"], (1,), (1, 2, 3), (), 0, False, True, "ab", {1: 2, 3: 4}])
def test_what_is_no_pair_is_a_type_error(answer: Any) -> None:
    """Falsy values included: only None means "not yet"."""
    with pytest.raises(TypeError, match=r"None or \(ctx, data\)"):
        Scripted(1, answer).decode(None, ring_of(b"xy"))


def test_a_named_pair_is_a_message() -> None:
    """Any tuple of two is one."""

    class Frame(NamedTuple):
        """A pair with names."""

        kind: int
        data: bytes

    assert Scripted(1, Frame(7, b"data")).decode(None, ring_of(b"xy")) == (7, b"data")


def test_errors_of_the_codec_pass_unchanged() -> None:
    """decode adds nothing to what unpacket raises."""

    class Broken(Protocol):
        """Fails."""

        def unpacket(self, conn: Any, buffer: RingBuffer) -> None:
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        Broken().decode(None, ring_of(b"x"))


def test_the_connection_is_passed_on() -> None:
    """unpacket gets what decode got."""

    class Curious(Protocol):
        """Gives the connection back."""

        def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any]:
            return conn, buffer.read(1)

    conn = object()
    assert Curious().decode(conn, ring_of(b"x")) == (conn, b"x")


# -- the limit -----------------------------------------------------------------------------------------------------


class Waiting(Protocol):
    """Never satisfied; has no constructor and calls none."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> None:
        return None


class Modest(Waiting):
    """The same with a limit set on the class."""

    max_frame_bytes = 10


class Careless(Waiting):
    """Has a constructor that doesn't call super's."""

    def __init__(self) -> None:
        self.mine = 1


def modest_object() -> Protocol:
    """Give one with the limit set on the object, against the class."""
    protocol = Careless()
    protocol.max_frame_bytes = 10
    return protocol


@pytest.mark.parametrize(
    ("protocol", "limit"),
    [
        (Waiting(), 65536),
        (Careless(), 65536),
        (Modest(), 10),
        (modest_object(), 10),
    ],
    ids=["default", "no super().__init__()", "on the class", "on the object"],
)
def test_what_stays_after_none_is_bounded(protocol: Protocol, limit: int) -> None:
    """The limit exactly may stay; one byte more is FrameTooLarge with both numbers."""
    assert protocol.max_frame_bytes == limit
    ring = ring_of(bytes(limit))
    assert protocol.decode(None, ring) is None
    ring.write(b"\0")
    with pytest.raises(FrameTooLarge) as caught:
        protocol.decode(None, ring)
    assert (caught.value.limit, caught.value.actual) == (limit, limit + 1)


def test_the_limit_is_on_what_stays() -> None:
    """A codec that consumes enough before it gives None is within it."""
    protocol = Scripted(5, None)
    protocol.max_frame_bytes = 3
    assert protocol.decode(None, ring_of(b"12345678")) is None
    with pytest.raises(FrameTooLarge):
        protocol.decode(None, ring_of(b"123456789"))


def test_the_limit_on_one_object_is_not_the_others() -> None:
    """Setting it on an object leaves its class and its siblings alone."""
    one, other = Careless(), Careless()
    one.max_frame_bytes = 1
    assert other.max_frame_bytes == Careless.max_frame_bytes == Protocol.max_frame_bytes == 65536


def test_a_codec_may_bound_what_it_buffers_itself() -> None:
    """An override of max_buffered_bytes is what counts."""

    class Headed(Waiting):
        """Has a header that isn't part of the frame."""

        max_frame_bytes = 4

        def max_buffered_bytes(self) -> int:
            return self.max_frame_bytes + 2

    assert Headed().decode(None, ring_of(b"123456")) is None
    with pytest.raises(FrameTooLarge) as caught:
        Headed().decode(None, ring_of(b"1234567"))
    assert caught.value.limit == 6


def test_whole_frames_may_be_longer_than_what_may_stay() -> None:
    """The bound is on waiting: a message that is there is there."""
    protocol = Scripted(100, (None, b"x"))
    protocol.max_frame_bytes = 10
    assert protocol.decode(None, ring_of(bytes(100))) == (None, b"x")


# -- an application's codec ------------------------------------------------------------------------------------------


class Pascal(Protocol):
    """The docstring's example: one byte of length and so many bytes of text."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:
        if len(buffer) < 1 or len(buffer) < 1 + buffer.peek_uint8():
            return None
        length = buffer.peek_uint8()
        buffer.skip(1)
        return None, buffer.read(length)

    def packet(self, conn: Any, data: Any) -> bytes:
        return bytes([len(data)]) + bytes(data)


def test_a_python_codec_is_called_through_every_door() -> None:
    """decode calls its unpacket, packet_into its packet."""
    protocol = Pascal()
    batch = WriteBatch()
    for text in (b"one", b"", b"three"):
        protocol.packet_into(None, text, batch)
    assert batch.length == len(b"\x03one\x00\x05three")
    packed = batch.take()
    assert packed == b"\x03one\x00\x05three"
    ring = ring_of(b"\x03one\x00\x05three\x09part")
    assert [protocol.decode(None, ring) for _ in range(4)] == [(None, b"one"), (None, b""), (None, b"three"), None]


def test_packet_may_give_anything_bytes_like() -> None:
    """bytearray and memoryview are copied at once; anything else is a TypeError and leaves the batch as it was."""

    class Giving(Protocol):
        """Sends what it is given, unchecked."""

        def packet(self, conn: Any, data: Any) -> Any:
            return data

    batch = WriteBatch()
    mutable = bytearray(b"ab")
    Giving().packet_into(None, mutable, batch)
    mutable[:] = b"XX"
    Giving().packet_into(None, memoryview(b"cd"), batch)
    for wrong in ("text", None, 3):
        with pytest.raises(TypeError):
            Giving().packet_into(None, wrong, batch)
    assert batch.length == 4
    assert batch.take() == b"abcd"


def test_a_protocol_without_methods_names_itself() -> None:
    """Forgetting one says which class lacks which method."""

    class Empty(Protocol):
        """Has nothing."""

    with pytest.raises(NotImplementedError, match=r"Empty has no unpacket\(\)"):
        Empty().decode(None, ring_of(b"x"))
    with pytest.raises(NotImplementedError, match=r"Empty has no packet\(\)"):
        Empty().packet_into(None, b"x", WriteBatch())


def test_require_bytes_names_what_it_got() -> None:
    """The error names the type, the value passes as bytes."""
    assert require_bytes(bytearray(b"x")) == b"x"
    same = b"same"
    assert require_bytes(same) is same
    with pytest.raises(TypeError, match="not dict"):
        require_bytes({})


MISSING = """
from gevpy import *
from gevpy.write_batch import WriteBatch

protocols = (
    RawProtocol(), LineProtocol(), DelimiterProtocol(b"x"), FixedLengthProtocol(1), LengthPrefixedProtocol()
)
for protocol in protocols:
    for call in ("decode(None, None)", "unpacket(None, None)", "packet_into(None, b'x', None)"):
        print(protocol, call, flush=True)  # the last line tells where it crashed
        try:
            eval("protocol." + call)
        except (TypeError, AttributeError):
            pass
        else:
            raise AssertionError(call)
print("survived")
"""


def test_a_missing_buffer_raises() -> None:
    """None instead of a buffer is an exception, never a crash of the interpreter, in the compiled build as well."""
    done = subprocess.run(
        [sys.executable, "-c", MISSING],
        cwd=Path(gevpy.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "survived"), done.stderr
