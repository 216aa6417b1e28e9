"""Frames that say their length: every header Netty knows, every size and order, lies about lengths, linear time."""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gevpy import ConfigError, FrameTooLarge, LengthPrefixedProtocol, ProtocolError, RingBuffer
from gevpy.write_batch import WriteBatch
from tests.protocol.splitting import check_any_split, check_linear, decode_all, feed, flood

ByteOrder = Literal["big", "little"]
SIZES = (1, 2, 3, 4, 8)
ORDERS: tuple[ByteOrder, ...] = ("big", "little")
TEXT = b"HELLO, WORLD"
MIB = 1024 * 1024


def ring_of(content: bytes) -> RingBuffer:
    """Give a ring that holds ``content``."""
    ring = RingBuffer(16, None)
    ring.write(content)
    return ring


def packed(protocol: LengthPrefixedProtocol, data: Any) -> bytes:
    """Give the frame of ``data``, having checked that both doors give the same."""
    batch = WriteBatch()
    batch.append(b"before")
    protocol.packet_into(None, data, batch)
    batch.append(b"behind")
    out = batch.take()
    whole = out if isinstance(out, bytes) else b"".join(out)
    frame = protocol.packet(None, data)
    assert whole == b"before" + frame + b"behind"
    return frame


# -- the diagrams --------------------------------------------------------------------------------------------------

DIAGRAMS: list[tuple[dict[str, Any], bytes, bytes]] = [
    # what the docstring draws
    ({}, b"\0\0\0\x02HI", b"HI"),
    ({"size": 2, "strip": 0}, b"\x00\x0c" + TEXT, b"\x00\x0c" + TEXT),
    ({"size": 2, "adjustment": -2}, b"\x00\x0e" + TEXT, TEXT),
    ({"size": 3, "offset": 2, "strip": 0}, b"\xca\xfe\0\0\x0c" + TEXT, b"\xca\xfe\0\0\x0c" + TEXT),
    ({"size": 3, "adjustment": 2, "strip": 0}, b"\0\0\x0c\xca\xfe" + TEXT, b"\0\0\x0c\xca\xfe" + TEXT),
    ({"size": 2, "offset": 1, "adjustment": 1, "strip": 3}, b"\xca\x00\x0c\xfe" + TEXT, b"\xfe" + TEXT),
    # what Netty's documentation draws besides
    ({"size": 2}, b"\x00\x0c" + TEXT, TEXT),
    ({"size": 2, "adjustment": -2, "strip": 0}, b"\x00\x0e" + TEXT, b"\x00\x0e" + TEXT),
    ({"size": 2, "offset": 1, "adjustment": -3, "strip": 3}, b"\xca\x00\x10\xfe" + TEXT, b"\xfe" + TEXT),
    # strips that stop within the header, or go beyond it
    ({"size": 4, "strip": 2}, b"\0\0\0\x0c" + TEXT, b"\0\x0c" + TEXT),
    ({"size": 2, "strip": 4}, b"\x00\x0c" + TEXT, TEXT[2:]),
    ({"size": 2, "strip": 14}, b"\x00\x0c" + TEXT, b""),
    ({"size": 2, "offset": 2}, b"\xca\xfe\x00\x0c" + TEXT, TEXT),
    ({"size": 1, "offset": 3, "strip": 1, "adjustment": -4}, b"abc\x10" + TEXT, b"bc\x10" + TEXT),
    ({"size": 2, "byteorder": "little"}, b"\x0c\x00" + TEXT, TEXT),
]


@pytest.mark.parametrize(("options", "wire", "message"), DIAGRAMS, ids=lambda value: repr(value)[:60])
def test_every_diagram(options: dict[str, Any], wire: bytes, message: bytes) -> None:
    """The bytes before give the message after, several in a row, cut any way, with a begun frame behind."""
    check_any_split(LengthPrefixedProtocol(**options), wire * 3, [message] * 3, trailing=wire[:-1])


@pytest.mark.parametrize(
    ("options", "wire", "sent"),
    [
        ({}, b"\0\0\0\x02HI", b"HI"),
        ({"size": 2, "strip": 0}, b"\x00\x0c" + TEXT, b"\x00\x0c" + TEXT),
        ({"size": 2, "adjustment": -2}, b"\x00\x0e" + TEXT, TEXT),
        ({"size": 3, "offset": 2, "strip": 0}, b"\xca\xfe\0\0\x0c" + TEXT, b"\xca\xfe\0\0\x0c" + TEXT),
        ({"size": 3, "adjustment": 2}, b"\0\0\x0c\xca\xfe" + TEXT, b"\xca\xfe" + TEXT),
        ({"size": 2, "offset": 1, "adjustment": 1, "strip": 3}, b"\xca\x00\x0c\xfe" + TEXT, b"\xca\xfe" + TEXT),
        ({"size": 2, "offset": 2}, b"\xca\xfe\x00\x0c" + TEXT, b"\xca\xfe" + TEXT),
        ({"size": 2, "offset": 1, "adjustment": -3, "strip": 3}, b"\xca\x00\x10\xfe" + TEXT, b"\xca\xfe" + TEXT),
        ({"size": 8, "byteorder": "little"}, b"\x02\0\0\0\0\0\0\0HI", b"HI"),
        ({"size": 3}, b"\0\0\0", b""),
    ],
)
def test_packet_is_the_inverse(options: dict[str, Any], wire: bytes, sent: bytes) -> None:
    """The field goes in at the offset and says what unpacket of the same options reads."""
    protocol = LengthPrefixedProtocol(**options)
    for data in (sent, bytearray(sent), memoryview(sent)):
        assert packed(protocol, data) == wire
    assert len(feed(protocol, [wire])) == 1


# -- round trips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("byteorder", ORDERS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("adjustment", [0, -1, 3])
def test_round_trips_of_every_size_and_order(size: int, byteorder: ByteOrder, adjustment: int) -> None:
    """decode(encode(m)) == m up to the largest the field can say, and the field is where and what it should be."""
    protocol = LengthPrefixedProtocol(size, byteorder=byteorder, adjustment=adjustment, max_frame_bytes=1 << 20)
    largest = min((1 << 8 * size) - 1 + adjustment, 70_000)
    for length in sorted({max(0, adjustment), 3, 127, 128, 250, largest}):
        message = bytes(i & 0xFF for i in range(length))
        frame = packed(protocol, message)
        assert frame == (length - adjustment).to_bytes(size, byteorder) + message
        assert feed(protocol, [frame]) == [message]


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("adjustment", [0, -1, 3])
def test_a_message_too_long_for_its_field_is_refused(size: int, adjustment: int) -> None:
    """The largest fits; one byte more is FrameTooLarge, never a length cut short, and nothing is queued."""
    protocol = LengthPrefixedProtocol(size, adjustment=adjustment)
    largest = (1 << 8 * size) - 1
    packed(protocol, bytes(largest + adjustment))
    batch = WriteBatch()
    for send in (lambda data: protocol.packet(None, data), lambda data: protocol.packet_into(None, data, batch)):
        with pytest.raises(FrameTooLarge) as caught:
            send(bytes(largest + adjustment + 1))
        assert (caught.value.limit, caught.value.actual) == (largest, largest + 1)
    assert batch.length == 0


@pytest.mark.parametrize(
    ("options", "data"),
    [
        ({"size": 2, "offset": 3}, b"ab"),
        ({"size": 2, "adjustment": 3}, b"ab"),
        ({"size": 2, "offset": 1, "adjustment": 1}, b"a"),
        ({"size": 2, "offset": 2, "adjustment": -9}, b"a"),
    ],
)
def test_a_message_shorter_than_its_header_is_refused(options: dict[str, Any], data: bytes) -> None:
    """What must go before the field isn't there, or the length would be negative; nothing is queued."""
    batch = WriteBatch()
    protocol = LengthPrefixedProtocol(**options)
    with pytest.raises(ProtocolError):
        protocol.packet(None, data)
    with pytest.raises(ProtocolError):
        protocol.packet_into(None, data, batch)
    assert batch.length == 0


@settings(max_examples=60)
@given(data=st.data())
def test_any_split_gives_the_same_messages(data: st.DataObject) -> None:
    """Whatever the header looks like, in accord with a model that slices the whole stream."""
    size = data.draw(st.sampled_from(SIZES))
    byteorder = data.draw(st.sampled_from(ORDERS))
    offset = data.draw(st.integers(0, 4))
    header = offset + size
    adjustment = data.draw(st.integers(-header, 5))
    strip = data.draw(st.integers(0, header))
    frames, messages = [], []
    for body in data.draw(st.lists(st.binary(min_size=max(0, adjustment), max_size=30), min_size=1, max_size=5)):
        field = (len(body) - adjustment).to_bytes(size, byteorder)
        frame = data.draw(st.binary(min_size=offset, max_size=offset)) + field + body
        frames.append(frame)
        messages.append(frame[strip:])
    protocol = LengthPrefixedProtocol(size, byteorder=byteorder, offset=offset, adjustment=adjustment, strip=strip)
    trailing = frames[0][: data.draw(st.integers(0, len(frames[0]) - 1))]
    check_any_split(protocol, b"".join(frames), messages, trailing=trailing, seed=len(frames[0]))


@given(sizes=st.lists(st.sampled_from([0, 1, 2, 20, 300, 16_383, 16_384, 16_385, 65_536]), min_size=1, max_size=8))
def test_a_batch_of_frames_is_their_sum(sizes: list[int]) -> None:
    """Small and large pieces, in the order they were packed."""
    messages = [bytes([65 + at]) * size for at, size in enumerate(sizes)]
    protocol = LengthPrefixedProtocol()
    batch = WriteBatch()
    for message in messages:
        protocol.packet_into(None, message, batch)
    stream = b"".join(protocol.packet(None, message) for message in messages)
    assert batch.length == len(stream)
    out = batch.take()
    assert (out if isinstance(out, bytes) else b"".join(out)) == stream
    assert feed(protocol, [stream]) == messages


def test_empty_frames_are_messages() -> None:
    """A length of zero is a frame, one message each."""
    check_any_split(LengthPrefixedProtocol(2), bytes(10), [b""] * 5, trailing=b"\0")


# -- limits and lies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("byteorder", ORDERS)
@pytest.mark.parametrize("size", [2, 3, 4, 8])
@pytest.mark.parametrize("limit", [1, 5, 1000])
def test_the_limit_is_exact_and_comes_before_the_payload(size: int, byteorder: ByteOrder, limit: int) -> None:
    """At the limit a frame passes, also byte by byte; one more is refused when only the header is there."""
    protocol = LengthPrefixedProtocol(size, byteorder=byteorder, max_frame_bytes=limit)
    body = bytes(limit)
    frame = limit.to_bytes(size, byteorder) + body
    assert feed(protocol, [frame]) == [body]
    assert feed(protocol, [bytes([byte]) for byte in frame]) == [body]
    header = (limit + 1).to_bytes(size, byteorder)
    ring = ring_of(header[:-1])
    assert protocol.decode(None, ring) is None
    ring.write(header[-1:])
    with pytest.raises(FrameTooLarge) as caught:
        protocol.decode(None, ring)
    assert (caught.value.limit, caught.value.actual, caught.value.offset) == (limit, limit + 1, 0)


@pytest.mark.parametrize("adjustment", [-3, 3])
def test_the_limit_is_on_what_follows_the_field(adjustment: int) -> None:
    """The adjustment is taken into account, exactly."""
    protocol = LengthPrefixedProtocol(2, adjustment=adjustment, max_frame_bytes=100)
    assert feed(protocol, [(100 - adjustment).to_bytes(2, "big") + bytes(100)]) == [bytes(100)]
    with pytest.raises(FrameTooLarge) as caught:
        protocol.decode(None, ring_of((101 - adjustment).to_bytes(2, "big")))
    assert caught.value.limit == 100


LIES = [(1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


@pytest.mark.parametrize("adjustment", [0, -8, 8])
@pytest.mark.parametrize("byteorder", ORDERS)
@pytest.mark.parametrize("declared", LIES, ids=hex)
def test_extreme_lengths_are_refused_at_once(declared: int, byteorder: ByteOrder, adjustment: int) -> None:
    """Unsigned, in every width that can say them, without turning round and without any allocation."""
    for size in (4, 8):
        if declared >= 1 << 8 * size:
            continue
        protocol = LengthPrefixedProtocol(size, byteorder=byteorder, adjustment=adjustment)
        ring = ring_of(b"\0" + declared.to_bytes(size, byteorder) + b"payload")
        ring.skip(1)
        tracemalloc.start()
        try:
            with pytest.raises(FrameTooLarge) as caught:
                protocol.decode(None, ring)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MIB // 8
        assert caught.value.limit == 65536
        assert caught.value.actual in (declared, declared + adjustment)
        assert "payload" not in str(caught.value)
        assert len(ring) == size + 7


@pytest.mark.parametrize(
    ("options", "wire"),
    [
        ({"size": 2, "adjustment": -2}, b"\x00\x00"),
        ({"size": 2, "adjustment": -2}, b"\x00\x01"),
        ({"size": 2, "adjustment": -2, "strip": 0}, b"\x00\x00"),
        ({"size": 2, "adjustment": -2, "strip": 0}, b"\x00\x01"),
        ({"size": 8, "adjustment": -8}, bytes(8)),
        ({"size": 2, "offset": 1, "adjustment": -3}, b"\xca\x00\x02"),
        ({"size": 2, "strip": 10}, b"\x00\x07"),
        ({"size": 1, "adjustment": -(1 << 40)}, b"\xff"),
    ],
)
def test_lengths_below_the_header_are_refused(options: dict[str, Any], wire: bytes) -> None:
    """A negative remainder, or a frame shorter than what is to be stripped, is a ProtocolError with its place."""
    with pytest.raises(ProtocolError) as caught:
        LengthPrefixedProtocol(**options).decode(None, ring_of(wire + b"more"))
    assert not isinstance(caught.value, FrameTooLarge)
    assert caught.value.offset == options.get("offset", 0)
    assert caught.value.actual is not None


def test_a_declared_length_makes_no_memory() -> None:
    """The largest frame allowed is waited for with little memory; its room comes as bytes come."""
    protocol = LengthPrefixedProtocol(max_frame_bytes=256 * MIB)
    ring = RingBuffer(4096, None)
    ring.write((256 * MIB).to_bytes(4, "big"))
    tracemalloc.start()
    try:
        assert protocol.decode(None, ring) is None
        ring.writable()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MIB // 4


def test_a_part_frame_within_the_limit_is_waited_for() -> None:
    """The header isn't counted against the limit while waiting."""
    protocol = LengthPrefixedProtocol(8, offset=5, max_frame_bytes=10)
    header = b"12345" + (10).to_bytes(8, "big")
    assert protocol.decode(None, ring_of(header + bytes(9))) is None
    assert protocol.decode(None, ring_of(header + bytes(10))) == (None, bytes(10))


def test_the_limit_can_be_set_on_the_object() -> None:
    """max_frame_bytes is an attribute; a change holds from the next frame."""
    protocol = LengthPrefixedProtocol(2)
    protocol.max_frame_bytes = 3
    assert feed(protocol, [b"\x00\x03abc"]) == [b"abc"]
    with pytest.raises(FrameTooLarge):
        feed(protocol, [b"\x00\x04"])


@pytest.mark.parametrize("limit", [sys.maxsize, 1 << 63, 1 << 64])
def test_a_limit_beyond_all_memory_never_turns_round(limit: int) -> None:
    """It is refused, or it is a large limit."""
    try:
        protocol = LengthPrefixedProtocol(8, max_frame_bytes=limit)
    except ConfigError:
        return
    assert feed(protocol, [(3).to_bytes(8, "big") + b"a", b"bc"]) == [b"abc"]


@pytest.mark.parametrize(
    "options",
    [
        *({"size": size} for size in (0, 5, 6, 7, 9, -1, 16, "4", None, 1 << 64)),
        *({"byteorder": order} for order in ("", "network", "BIG", None, b"big")),
        *({"offset": offset} for offset in (-1, -(1 << 63))),
        *({"strip": strip} for strip in (-1, -(1 << 63))),
        *({"max_frame_bytes": limit} for limit in (0, -1, -(1 << 63))),
    ],
    ids=repr,
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    """Each is a ConfigError when the protocol is made."""
    with pytest.raises(ConfigError):
        LengthPrefixedProtocol(**options)


@pytest.mark.parametrize("option", ["offset", "strip", "adjustment", "max_frame_bytes"])
@pytest.mark.parametrize("number", [1 << 63, 1 << 64, (1 << 63) - 1, -(1 << 63), -(1 << 64)])
def test_numbers_beyond_64_bits_are_refused(option: str, number: int) -> None:
    """As a ConfigError like any other value out of range, in both builds."""
    if number < 0 and option != "adjustment":
        return
    options: dict[str, Any] = {option: number}
    with pytest.raises(ConfigError):
        LengthPrefixedProtocol(**options)


# -- sending -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["text", 5, None, [1]])
def test_what_is_not_bytes_like_is_refused(data: object) -> None:
    """By both doors, and no header stays in the batch."""
    some: list[dict[str, Any]] = [{}, {"offset": 1}, {"strip": 0}]
    for options in some:
        batch = WriteBatch()
        protocol = LengthPrefixedProtocol(2, **options)
        with pytest.raises(TypeError):
            protocol.packet(None, data)
        with pytest.raises(TypeError):
            protocol.packet_into(None, data, batch)
        assert batch.length == 0


def test_a_subclass_that_overrides_packet_alone_is_honoured() -> None:
    """packet_into takes the subclass's frame, not the short way round it."""

    class Sealed(LengthPrefixedProtocol):
        """Adds a trailer."""

        def packet(self, conn: Any, data: Any) -> bytes:
            return super().packet(conn, bytes(data) + b"!")

    batch = WriteBatch()
    Sealed().packet_into(None, b"hi", batch)
    assert batch.take() == b"\0\0\0\x03hi!"


def test_a_subclass_that_overrides_nothing_sends_the_same() -> None:
    """With or without the short way."""

    class Plain(LengthPrefixedProtocol):
        """Nothing of its own."""

    assert packed(Plain(), b"hi") == packed(LengthPrefixedProtocol(), b"hi") == b"\0\0\0\x02hi"


def test_a_subclass_may_decode_further() -> None:
    """unpacket of the subclass gets the frame by super and is called by decode."""

    class Upper(LengthPrefixedProtocol):
        """Gives capitals."""

        def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:
            message = super().unpacket(conn, buffer)
            return None if message is None else (message[0], message[1].upper())

    check_any_split(Upper(1), b"\x02ab\x00\x03cde", [b"AB", b"", b"CDE"], trailing=b"\x09x")


# -- linear time ---------------------------------------------------------------------------------------------------


def test_a_flood_of_tiny_frames_takes_linear_time(compiled: bool) -> None:
    """10^6 empty frames in one buffer take under 2 s compiled; time grows as their number does."""
    protocol = LengthPrefixedProtocol()
    check_linear(flood(protocol, bytes(4)), 1_000_000 if compiled else 60_000, most_us=2 if compiled else None)


def test_a_frame_that_comes_byte_by_byte_moves_little() -> None:
    """With the room reserved, a frame of 60,000 single bytes grows its ring a handful of times."""
    protocol = LengthPrefixedProtocol()
    frame = (60_000).to_bytes(4, "big") + bytes(60_000)
    ring = RingBuffer(16, None)
    capacities = set()
    for byte in itertools.islice(frame, len(frame) - 1):
        ring.writable()[0] = byte
        ring.commit(1)
        assert protocol.decode(None, ring) is None
        capacities.add(ring.capacity)
    ring.writable()[0] = 0
    ring.commit(1)
    assert decode_all(protocol, ring) == [bytes(60_000)]
    assert len(capacities) <= 3
