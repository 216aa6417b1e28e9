"""The check of protocols: what is right passes, and each fault is caught, with a text that says what to do."""

from __future__ import annotations

import re
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import ConfigError, FrameTooLarge, ProtocolError
from gevpy.testing import check_protocol
from gevpy.testing.codec_run import CodecSite, wrapping_ring
from tests.testing import faulty_protocols as faulty
from tests.testing.faulty_protocols import pascal, typed

if TYPE_CHECKING:
    from gevpy import Protocol, RingBuffer

WORDS = [b"one", b"another", b"\x00\xff" * 8]


def text_of(protocol: Protocol, messages: list[Any] | None = None, **options: Any) -> str:
    """Check what is wrong, and give what is said about it."""
    with pytest.raises(AssertionError) as caught:
        check_protocol(protocol, WORDS if messages is None else messages, **options)
    text = str(caught.value)
    assert text.startswith(f"check_protocol({type(protocol).__name__}): ")
    assert "hint:" in text
    return text


# -- what is right ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        (gevpy.LengthPrefixedProtocol(), {"messages": [b"", *WORDS]}),
        (gevpy.LengthPrefixedProtocol(1, max_frame_bytes=255), {"messages": [b"", *WORDS]}),
        (gevpy.LengthPrefixedProtocol(2, byteorder="little"), {"messages": [b"", *WORDS]}),
        (gevpy.LengthPrefixedProtocol(8, max_frame_bytes=1000), {"messages": [b"", *WORDS]}),
        (gevpy.LengthPrefixedProtocol(2, adjustment=-2), {"messages": [b"", *WORDS]}),
        (
            gevpy.LengthPrefixedProtocol(3, offset=2, strip=0),
            {"wire": [(b"\xca\xfe\0\0\5hello", (None, b"\xca\xfe\0\0\5hello"))]},
        ),
        (gevpy.LineProtocol(), {"messages": [b"", b"one", b"two"], "wire": [(b"three\r\n", (None, b"three"))]}),
        (gevpy.LineProtocol(max_frame_bytes=20), {"messages": [b"", b"one", b"two"]}),
        (gevpy.DelimiterProtocol(b"||"), {"messages": [b"", b"one", b"t|wo"]}),
        (gevpy.DelimiterProtocol(b"\xee\xee\xee", max_frame_bytes=64), {"messages": [b"", b"one", b"two"]}),
        (gevpy.FixedLengthProtocol(5), {"messages": [b"hello", b"again", b"\0\0\0\0\0"]}),
        (gevpy.RawProtocol(), {"messages": [b"hello", b"again"], "frames": False}),
        (faulty.Bytes(), {"messages": [b"", *WORDS]}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, gevpy.Protocol) else "",
)
def test_gevpys_own_protocols_pass(protocol: Protocol, options: dict[str, Any]) -> None:
    """All that come with gevpy, in several of their shapes, and the plain one that the faulty ones are made of."""
    check_protocol(protocol, **options)


async def test_it_works_where_a_loop_runs() -> None:
    """It runs no loop of its own, so an async test may call it."""
    check_protocol(gevpy.LengthPrefixedProtocol(), [b"", *WORDS])


def test_what_comes_back_may_differ_from_what_is_sent() -> None:
    """``received`` says what; ctx is then whatever comes with the whole frame, each time the same."""

    class Text(gevpy.LineProtocol):
        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            message = super().unpacket(conn, buffer)
            return None if message is None else ("text", message[1].upper())

        def packet(self, conn: Any, data: str) -> bytes:
            return super().packet(conn, data.encode())

    check_protocol(Text(), ["one", "two"], received=[b"ONE", b"TWO"])
    assert "expected: ('text', b'two')" in text_of(Text(), ["two"], received=[b"two"])


def test_the_connection_is_a_real_one() -> None:
    """A codec finds on it what it finds in production, may send, and may keep state wherever it likes."""

    class Greedy(faulty.Bytes):
        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            assert isinstance(conn, gevpy.Connection)
            assert conn.connected
            assert conn.peer_addr.startswith("127.0.0.1:")
            assert conn.protocol is self
            conn.set("calls", conn.get("calls", 0) + 1)
            conn.send(b"pong")
            return super().unpacket(conn, buffer)

    check_protocol(Greedy(), WORDS)


def test_a_protocol_may_hand_over_to_another() -> None:
    """What ``unpacket`` assigns to ``conn.protocol`` goes on with the bytes that are left."""

    class Opening(faulty.Bytes):
        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            if buffer.peek_uint8() == 0xAA:
                buffer.skip(1)
                conn.protocol = faulty.Bytes()
                return None
            return super().unpacket(conn, buffer)

    check_protocol(Opening(), [b"one"], wire=[(b"\xaa\x03two", (None, b"two"))])


def test_lent_views_are_messages() -> None:
    """A codec that gives a view or a bytearray is compared by its bytes."""

    class Lending(faulty.Bytes):
        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            message = super().unpacket(conn, buffer)
            return None if message is None else (None, memoryview(message[1]))

    check_protocol(Lending(), WORDS)


# -- gev's own faults ------------------------------------------------------------------------------


def test_gevs_protobuf_crash_is_caught() -> None:
    """T8: a type that is longer than its frame took the process down."""
    frames = [(typed(b"msg1", b"hello"), (b"msg1", b"hello")), (typed(b"msg2", b""), (b"msg2", b""))]
    text = text_of(faulty.GevProtobuf(), [], wire=frames)
    assert "a broken frame" in text
    assert "then BufferUnderflow: ring buffer too short" in text
    assert "where a length inside of the frame points beyond the frame, raise gevpy.ProtocolError" in text


def test_gevs_lost_empty_frame_is_caught() -> None:
    """T9: an empty frame was no message, and what came behind it waited for the next read."""
    text = text_of(faulty.GevLengthPrefix(), [b"", b"abc"])
    assert "the frame of b'' in one read" in text
    assert "expected: (None, b'')" in text
    assert "got:      no message" in text
    assert "A frame without payload is a message like any other" in text


def test_gevs_lost_empty_frame_is_caught_unasked() -> None:
    """T9, where nobody thought of an empty message: what is buffered behind it stalls."""
    text = text_of(faulty.EmptyIsNothing(), WORDS)
    assert "gave None, and took more when it was called again without a new byte" in text
    assert "an empty one is (None, b'')" in text


def test_gevs_stall_is_caught() -> None:
    """T9 again: with an empty message among the others it is caught before anything else is tried."""
    text = text_of(faulty.EmptyIsNothing(), [b"abc", b""])
    assert "the frame of b'' in one read" in text


def test_gevs_missing_limit_is_caught() -> None:
    """T10: the declared length was compared with nothing, so that a large frame passed if it came at once."""
    text = text_of(faulty.Unchecked(), [b"", *WORDS])
    assert "a frame above max_frame_bytes" in text
    assert "bound:     65,540 bytes (max_frame_bytes" in text
    assert re.search(r"one read: +1 message", text)
    assert re.search(r"two reads: FrameTooLarge", text)
    assert "before waiting for the payload" in text


def test_gevs_growing_memory_is_caught() -> None:
    """T10: what a codec collects by itself is bounded by nobody."""
    text = text_of(faulty.Accumulating(), WORDS)
    assert "a frame that never ends" in text
    assert "bytes held" in text
    assert "takes the bytes of a frame that isn't whole into its own memory" in text


def test_gevs_belief_in_a_length_is_caught() -> None:
    """T10: a header alone made it allocate what it declared; it is caught before that is much."""
    text = text_of(faulty.Believing(), WORDS)
    assert "a frame that never ends" in text
    assert "bytes allocated" in text or "bytes held" in text
    held = int(re.findall(r"got: +([\d,]+) bytes", text)[0].replace(",", ""))
    assert held < 64 * 1024 * 1024


def test_a_bound_that_is_none_is_caught() -> None:
    """T10: lifting ``max_frame_bytes`` is no way out."""
    protocol = faulty.Unchecked()
    protocol.max_frame_bytes = 1 << 32
    text = text_of(protocol)
    assert "4,294,967,300" in text
    assert "set max_frame_bytes to what a frame really needs" in text


# -- faults that every codec may have --------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "check", "hint"),
    [
        (faulty.ConsumingHeader(), "cut in two after 1 bytes", "Before a frame is whole, peek at its header"),
        (faulty.ReadingAhead(), "cut in two after 1 bytes", "compare with len(buffer) first and give None"),
        (faulty.ForEver(), "the frame of b'one' in one read", "it would give it again for ever"),
        (faulty.RememberingOnSelf(), "two connections at once", "conn.protocol_state, not on self"),
        (faulty.HandingOutParts(), "cut in two after 1 bytes", "give no part of a frame before"),
        (faulty.WaitingForMore(), "the frame of b'one' in one read", "does it wait for a byte too many?"),
        (faulty.NotAPair(), "the frame of b'one' in one read", "a message without context is (None, data)"),
        (faulty.EatingPackets(), "all frames in one read", "does it wait for a byte too many?"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, gevpy.Protocol) else "",
)
def test_a_fault_is_caught_and_named(protocol: Protocol, check: str, hint: str) -> None:
    """The first check that sees it says what was tried; the hint says what to do."""
    text = text_of(protocol)
    assert f": {check}" in text
    assert hint in text


def test_an_exception_of_any_other_kind_is_caught() -> None:
    """Only ProtocolError may be raised; the exception is the assertion's cause."""
    with pytest.raises(AssertionError) as caught:
        check_protocol(faulty.LineInts(), [1, 23, -4])
    assert isinstance(caught.value.__cause__, ValueError)
    assert "a peer may send anything: for bytes that can't be a frame unpacket must raise gevpy.ProtocolError" in str(
        caught.value
    )
    assert "reads:" in str(caught.value)


def test_quadratic_time_is_caught() -> None:
    """Many small frames in one read must not cost more the more they are."""
    text = text_of(faulty.Quadratic())
    assert ": many small frames" in text
    assert "about 8 times as long" in text
    assert "look at the whole buffer (peek_all)" in text


def test_messages_that_depend_on_the_cut_are_caught() -> None:
    """On noise, too, the same bytes must mean the same."""

    class Impatient(faulty.Bytes):
        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            if buffer.peek_uint8() > 200:  # no frame of ours is so long: take what is there
                return None, buffer.read(len(buffer))
            return super().unpacket(conn, buffer)

    text = text_of(Impatient())
    assert ": a broken frame, cut" in text
    assert "the same bytes in one read gave" in text


def test_a_frame_that_is_refused_is_caught() -> None:
    """A codec that refuses its own frames, or parts of them, says so with its own words."""

    class Strict(faulty.Bytes):
        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            if len(buffer) <= buffer.peek_uint8():
                raise ProtocolError("not whole")
            return super().unpacket(conn, buffer)

    text = text_of(Strict())
    assert "then ProtocolError: not whole" in text
    assert "unpacket refused them" in text


def test_a_bound_below_the_messages_is_told() -> None:
    """It is the bound or the message that must change, and the text says so."""

    class Small(faulty.Bytes):
        max_frame_bytes = 4

        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            if buffer.peek_uint8() > self.max_frame_bytes:
                raise FrameTooLarge("declared", limit=4, actual=buffer.peek_uint8())
            return super().unpacket(conn, buffer)

    assert "raise max_frame_bytes" in text_of(Small(), [b"longer than four"])


def test_a_message_that_comes_back_changed_is_told() -> None:
    """Round trip: what packet takes, unpacket gives."""

    class Stripping(faulty.Bytes):
        def packet(self, conn: Any, data: bytes) -> bytes:
            return super().packet(conn, data.strip())

    text = text_of(Stripping(), [b" one "])
    assert "expected: (None, b' one ')" in text
    assert "got:      (None, b'one')" in text


def test_a_frame_on_the_wire_must_give_just_that() -> None:
    """Context and data, and nothing behind them."""
    text = text_of(gevpy.LengthPrefixedProtocol(), [], wire=[(pascal(b"a"), ("ctx", b"a"))])
    assert "a frame as it is on the wire" in text
    assert "expected: ('ctx', b'a')" in text
    assert "expected: (None, b'a')" in text_of(
        gevpy.LengthPrefixedProtocol(), [], wire=[(pascal(b"a") * 2, (None, b"a"))]
    )


@pytest.mark.parametrize(
    ("answer", "got"), [("text", "TypeError"), (b"", "no bytes"), (ZeroDivisionError("by zero"), "ZeroDivisionError")]
)
def test_packet_must_give_bytes(answer: Any, got: str) -> None:
    """Neither something else, nor nothing, nor an exception."""

    class Wrong(faulty.Bytes):
        def packet(self, conn: Any, data: bytes) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

    text = text_of(Wrong())
    assert "packet(b'one')" in text
    assert got in text


def test_both_ways_of_packing_must_agree() -> None:
    """``packet_into`` is what a reply goes through."""

    class Two(faulty.Bytes):
        def packet_into(self, conn: Any, data: Any, batch: Any) -> None:
            batch.append(b"other")

    assert "packet_into(b'one')" in text_of(Two())


def test_a_stream_is_no_frame() -> None:
    """A protocol without frames fails where frames are expected, and must keep the bytes where they are not."""
    assert "cut in two after 1 bytes" in text_of(gevpy.RawProtocol(), [b"hello"])

    class Losing(gevpy.RawProtocol):
        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            return None, buffer.read(len(buffer))[:5]

    assert "all frames in one read" in text_of(Losing(), [b"hello", b"again"], frames=False)


# -- the kit itself --------------------------------------------------------------------------------


def test_long_bytes_are_shown_by_their_ends() -> None:
    """A failure can be read: neither the data nor the list of reads fills the screen."""
    text = text_of(faulty.ForEver(), [b"x" * 200])
    assert "(201 bytes)" in text
    assert len(text) < 2000
    assert "more ..." in text_of(faulty.EatingPackets(), [bytes([65 + at]) for at in range(20)])


def test_the_same_seed_tries_the_same() -> None:
    """So a failure can be looked at again."""
    first = text_of(faulty.LineInts(), [1, 23])
    assert text_of(faulty.LineInts(), [1, 23]) == first


def test_what_cannot_be_checked_is_refused() -> None:
    """A class instead of an object, nothing to check, lists that don't fit."""
    wrong: Any = gevpy.LineProtocol
    with pytest.raises(ConfigError, match="object"):
        check_protocol(wrong, [b"a"])
    with pytest.raises(ConfigError, match="needs messages"):
        check_protocol(gevpy.LineProtocol())
    with pytest.raises(ConfigError, match="2 entries for 1"):
        check_protocol(gevpy.LineProtocol(), [b"a"], received=[b"a", b"b"])


def test_memory_that_is_traced_already_stays_traced() -> None:
    """The check takes tracemalloc as it finds it."""
    tracemalloc.start()
    try:
        check_protocol(gevpy.LineProtocol(), [b"a"], rounds=0)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    check_protocol(gevpy.LineProtocol(), [b"a"], rounds=0)
    assert not tracemalloc.is_tracing()


@pytest.mark.parametrize("first", range(1, 10))
def test_the_buffer_wraps_where_it_is_told_to(first: int) -> None:
    """Of ten bytes so many are at the storage's end, the rest at its beginning."""
    ring = wrapping_ring(10, first)
    ring.write(b"0123456789")
    ring.skip(1)
    assert ring.capacity == 11
    assert ring.peek_all() == b"0123456789"
    ring.skip(first - 1)
    assert len(ring.writable()) == 11 - 1 - (10 - first + 1) + 1
    assert ring.read(10 - first + 1) == b"0123456789"[first - 1 :]


def test_a_run_ends_when_the_connection_does() -> None:
    """A codec that closes its connection sees no more bytes, as in production."""

    class Closing(faulty.Bytes):
        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            message = super().unpacket(conn, buffer)
            conn.close()
            return message

    site = CodecSite(Closing())
    for run in (site.run([b"\1a\1b", b"\1c"]), CodecSite(Closing()).run_connection([b"\1a\1b", b"\1c"])):
        assert run.messages[:1] == [(None, b"a")]
        assert run.reads == [b"\1a\1b"]


def test_a_header_that_is_not_counted_is_caught() -> None:
    """A frame at the limit must pass however it is cut."""

    class Uncounted(gevpy.LengthPrefixedProtocol):
        def max_buffered_bytes(self) -> int:
            return self.max_frame_bytes

    text = text_of(Uncounted())
    assert ": a frame as long as max_frame_bytes" in text
    assert "Override max_buffered_bytes()" in text


def test_a_belief_that_no_memory_could_hold_is_caught() -> None:
    """Eight bytes of length: the first of them is already too much."""

    class Huge(faulty.Bytes):
        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            if len(buffer) < 8 or len(buffer) < 8 + len(room := bytearray(buffer.peek_uint64())):
                return None
            buffer.skip(8)
            return None, buffer.read(len(room))

        def packet(self, conn: Any, data: bytes) -> bytes:
            return len(data).to_bytes(8, "big") + data

    text = text_of(Huge())
    assert "then MemoryError" in text
    assert "makes room for what a length field promises" in text


def test_a_wrong_exception_on_a_large_frame_is_caught() -> None:
    """Too large is the peer's fault, too, and has its own error."""

    class Raising(gevpy.LengthPrefixedProtocol):
        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            try:
                return super().unpacket(conn, buffer)
            except FrameTooLarge as error:
                raise OSError("too large") from error

    text = text_of(Raising())
    assert ": a frame above max_frame_bytes" in text
    assert "then OSError: too large" in text


def test_what_only_an_endless_frame_shows_is_caught() -> None:
    """After everything else has passed."""

    class Counting(gevpy.LineProtocol):
        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            message = super().unpacket(conn, buffer)
            if message is None and len(buffer) > 10_000 and buffer.peek_all().isdigit():
                raise ArithmeticError("so many")  # as int() does
            return message

    text = text_of(Counting(), [b"one"])
    assert ": a frame that never ends" in text
    assert "then ArithmeticError: so many" in text


@pytest.mark.parametrize("gives_up", ["raises", "stops"])
def test_a_codec_that_gives_up_on_many_frames_is_caught(gives_up: str) -> None:
    """A read may bring more frames than a codec thought of."""

    class Few(faulty.Bytes):
        max_frame_bytes = 1 << 20

        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            if len(buffer) > 100_000 and buffer.peek_uint8() == 3:
                if gives_up == "raises":
                    raise ArithmeticError("so many")
                return None
            return super().unpacket(conn, buffer)

    text = text_of(Few(), [b"one"])
    assert ": many small frames" in text
    assert "each of them is whole" in text


def test_large_messages_can_be_checked() -> None:
    """Long streams are cut at many places instead of all; there are too few frames to compare times."""
    check_protocol(gevpy.LengthPrefixedProtocol(), [bytes(5000)], rounds=10)


def test_messages_of_several_parts_grow_in_the_last() -> None:
    """A pair of kind and body, as in the tutorial, is tried at the bound, too."""

    class Kinds(faulty.Bytes):
        max_frame_bytes = 4096

        def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
            if len(buffer) < 3:
                return None
            size = buffer.peek_uint16(1)
            if size > self.max_frame_bytes:
                raise FrameTooLarge("body too long", actual=size)
            if len(buffer) < 3 + size:
                return None
            kind = buffer.peek_uint8()
            buffer.skip(3)
            return kind, buffer.read(size)

        def packet(self, conn: Any, data: Any) -> bytes:
            kind, body = data
            return bytes([kind]) + len(body).to_bytes(2, "big") + bytes(body)

        def max_buffered_bytes(self) -> int:
            return self.header + self.max_frame_bytes

        header = 0

    messages = [(1, b""), (2, b"two")]
    assert ": a frame as long as max_frame_bytes" in text_of(Kinds(), messages, received=[b"", b"two"])
    counted = Kinds()
    counted.header = 3
    check_protocol(counted, messages, received=[b"", b"two"])
