"""The session: every frame that can't be, every step of its state, and messages that no cutting changes."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevpy import FrameTooLarge, ProtocolError, RingBuffer
from gevpy.ticks import TURNS_PER_S
from gevpy.websocket import Opcode
from gevpy.websocket.codes import InvalidText, PolicyViolation, is_close_code
from gevpy.websocket.deflate import Codec, DeflateParameters
from gevpy.websocket.session import (
    TRANSITIONS,
    Event,
    Session,
    State,
)
from tests.websocket.frame_streams import BAD_CODES, GOOD_CODES, NO_UTF8, Frame
from tests.websocket.wire import MASK, binary, close, ping, plain_mask, pong, ring_at, text, wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LIMIT = 1000
WORK_PER_TURN = 1024
PER_S = 100  # control frames
PER_TICK = 5
CODEC = Codec(DeflateParameters(12, 15), level=6, mem_level=5)
NOISE = random.Random(1833).randbytes(70_000)
MORE = 0  # first byte's bits of a fragment that isn't the last

Got = tuple[Opcode, "str | bytes"]


def opened(*, is_client: bool = False, limit: int = LIMIT, codec: Codec | None = None) -> Session:
    """Give a session that is open."""
    session = Session(is_client, limit)
    session.codec = codec
    session.step(Event.ACCEPTED)
    return session


def take_all(session: Session, ring: RingBuffer) -> list[Got]:
    """Take what is whole, as the protocol does."""
    taken: list[Got] = []
    while session.state == State.OPEN:
        session.work = 0
        message = session.receive(ring)
        if message is not None:
            taken.append(message)
        elif session.work < WORK_PER_TURN:
            break
    return taken


def receive(session: Session, *pieces: bytes, ring: RingBuffer | None = None) -> list[Got]:
    """Let pieces come, one read each."""
    ring = RingBuffer(64, None) if ring is None else ring
    taken = take_all(session, ring)
    for piece in pieces:
        ring.write(piece)
        taken += take_all(session, ring)
    return taken


def bytes_until_refused(session: Session, stream: bytes) -> tuple[Exception, int]:
    """Feed byte by byte; give what was raised, and how many bytes had come."""
    ring = RingBuffer(64, None)
    for index in range(len(stream)):
        ring.write(stream[index : index + 1])
        try:
            take_all(session, ring)
        except ProtocolError as error:
            return error, index + 1
    raise AssertionError("nothing was refused")


# -- the state table -------------------------------------------------------------------------------

STEPS = [
    (State.OPENING, Event.ACCEPTED, State.OPEN),
    (State.OPENING, Event.REFUSED, State.CLOSED),
    (State.OPEN, Event.CLOSE_SENT, State.CLOSE_SENT),
    (State.OPEN, Event.CLOSE_RECEIVED, State.CLOSE_RECEIVED),
    (State.CLOSE_SENT, Event.CLOSE_RECEIVED, State.CLOSED),
    (State.CLOSE_RECEIVED, Event.CLOSE_SENT, State.CLOSED),
]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_step_of_the_table_and_no_other(state: State, event: Event) -> None:
    """What the table doesn't have raises, and changes nothing."""
    session = Session(False, LIMIT)
    session.state = int(state)
    leads_to = {(before, cause): after for before, cause, after in STEPS}.get((state, event))
    if leads_to is None:
        with pytest.raises(KeyError):
            session.step(event)
        assert session.state == state
    else:
        session.step(event)
        assert session.state == leads_to


def test_the_table_is_the_one_that_is_written_here() -> None:
    """Six steps; each session ends."""
    assert {(before, event): after for before, event, after in STEPS} == TRANSITIONS


# -- frames that can't be --------------------------------------------------------------------------


def raw(first: int, second: int, rest: bytes = b"") -> bytes:
    """Give a frame's bytes as they are."""
    return bytes((first, second)) + rest


CONTINUES = wire(1, b"begun", first=MORE)

BAD_FRAMES = [
    # what, the stream, what is raised, after how many bytes of the last frame at the latest
    *((f"unmasked {Opcode(opcode).name}", b"", wire(opcode, mask=b""), 2) for opcode in (1, 2, 8, 9, 10)),
    ("unmasked continuation", CONTINUES, wire(0, b"on", mask=b""), 2),
    ("unmasked empty text", b"", raw(0x81, 0x00), 2),
    *(
        (f"reserved bits {bits:#x} on {opcode}", b"" if opcode else CONTINUES, wire(opcode, first=0x80 | bits), 2)
        for bits in (0x40, 0x20, 0x10, 0x30, 0x50, 0x60, 0x70)
        for opcode in (0, 1, 2, 8, 9, 10)
    ),
    *((f"opcode {opcode}", b"", wire(opcode, b"x"), 2) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    *((f"fragment with opcode {opcode}", b"", wire(opcode, first=MORE), 2) for opcode in (3, 7, 11, 15)),
    *((f"{Opcode(opcode).name} of 126 bytes", b"", wire(opcode, bytes(126)), 2) for opcode in (8, 9, 10)),
    *((f"{Opcode(opcode).name} of 65536 bytes", b"", wire(opcode, bytes(65536)), 2) for opcode in (8, 9, 10)),
    *((f"{Opcode(opcode).name} in fragments", b"", wire(opcode, first=MORE), 2) for opcode in (8, 9, 10)),
    ("a fragmented ping inside a message", CONTINUES, wire(9, first=MORE), 2),
    ("continuation of nothing", b"", wire(0, b"on"), 2),
    ("continuation of nothing, more to come", b"", wire(0, b"on", first=MORE), 2),
    ("continuation behind a whole message", text("whole"), wire(0, b"on"), 2),
    ("continuation behind a message that ended", CONTINUES + wire(0, b"."), wire(0, b"on"), 2),
    ("text inside a message", CONTINUES, wire(1, b"new"), 2),
    ("binary inside a message", CONTINUES, wire(2, b"new"), 2),
    ("a fragment of text inside a message", CONTINUES, wire(1, b"new", first=MORE), 2),
    ("text inside a binary message", wire(2, b"a", first=MORE) + wire(0, b"b", first=MORE), wire(1, b"c"), 2),
    *((f"{size} written in 2 bytes", b"", raw(0x82, 0xFE, struct.pack("!H", size)), 4) for size in (0, 1, 125)),
    *(
        (f"{size} written in 8 bytes", b"", raw(0x82, 0xFF, struct.pack("!Q", size)), 10)
        for size in (0, 125, 126, 65535)
    ),
    *((f"length {size:#x}", b"", raw(0x82, 0xFF, struct.pack("!Q", size)), 10) for size in (1 << 63, (1 << 64) - 1)),
    ("a length of text with its top bit", b"", raw(0x81, 0xFF, struct.pack("!Q", (1 << 63) | 5)), 10),
    ("close of one byte", b"", wire(8, b"\x03"), 7),
    *((f"close {code}", b"", close(code), 8) for code in BAD_CODES),
]


@pytest.mark.parametrize(
    ("before", "bad", "at_latest"), [row[1:] for row in BAD_FRAMES], ids=[row[0] for row in BAD_FRAMES]
)
def test_bad_frames(before: bytes, bad: bytes, at_latest: int) -> None:
    """E1 to E5, E11: each is refused as soon as its bytes are there, with 1002, in one read and byte by byte."""
    session = opened()
    receive(session, before)
    with pytest.raises(ProtocolError) as caught:
        receive(session, bad)
    assert type(caught.value) is ProtocolError
    session = opened()
    receive(session, before)
    error, count = bytes_until_refused(session, bad)
    assert type(error) is ProtocolError
    assert str(error) == str(caught.value)
    assert count <= at_latest


@pytest.mark.parametrize("opcode", [0, 1, 2, 8, 9, 10])
def test_masked_frames_from_a_server(opcode: int) -> None:
    """E1: the other way round."""
    session = opened(is_client=True)
    if not opcode:
        receive(session, wire(1, b"begun", first=MORE, mask=b""))
    error, count = bytes_until_refused(session, wire(opcode))
    assert type(error) is ProtocolError
    assert "masked frame from a server" in str(error)
    assert count == 2


def test_compressed_frames() -> None:
    """RSV1 is fine where compression was agreed on, on the first frame of a message, and nowhere else."""
    hello = CODEC.deflate(b"hello")
    session = opened(codec=CODEC)
    assert receive(session, wire(1, hello, first=0xC0)) == [(Opcode.TEXT, "hello")]
    assert receive(session, wire(2, hello, first=0xC0)) == [(Opcode.BINARY, b"hello")]
    assert receive(session, text("plain")) == [(Opcode.TEXT, "plain")], "a message need not be compressed"
    for bad in (wire(9, first=0xC0), wire(8, first=0xC0), wire(10, first=0xC0), wire(2, hello, first=0xE0)):
        with pytest.raises(ProtocolError, match="reserved bits"):
            receive(opened(codec=CODEC), bad)
    with pytest.raises(ProtocolError, match="reserved bits"):
        receive(opened(codec=CODEC), wire(1, hello[:2], first=0x40), wire(0, hello[2:], first=0xC0))


# -- lengths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1, 1 << 48, 1 << 32, LIMIT + 65536])
@pytest.mark.parametrize("opcode", [1, 2, 0])
def test_what_is_declared_too_long_is_never_held(size: int, opcode: int) -> None:
    """E6: refused by its header alone; nothing is allocated for it."""
    session = opened()
    if not opcode:
        receive(session, CONTINUES)
    ring = RingBuffer(64, None)
    ring.write(raw(0x80 | opcode, 0xFF, struct.pack("!Q", size)))
    tracemalloc.start()
    try:
        with pytest.raises(FrameTooLarge) as caught:
            session.receive(ring)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.limit == LIMIT
    assert (caught.value.actual or 0) >= size, "no number overflows"
    assert peak < 10_000
    assert ring.capacity == 64


@pytest.mark.parametrize("limit", [1, 124, 125, 126, 127, 1000, 65535, 65536, 65537])
def test_the_limit_in_one_frame(limit: int) -> None:
    """E7: exactly the limit is a message, a byte more is not."""
    for is_client, mask in ((False, MASK), (True, b"")):
        session = opened(is_client=is_client, limit=limit)
        assert receive(session, binary(NOISE[:limit], mask)) == [(Opcode.BINARY, NOISE[:limit])]
        assert receive(session, text("x" * limit, mask)) == [(Opcode.TEXT, "x" * limit)]
        for bad in (binary(bytes(limit + 1), mask), text("x" * (limit + 1), mask)):
            with pytest.raises(FrameTooLarge) as caught:
                receive(opened(is_client=is_client, limit=limit), bad)
            assert (caught.value.limit, caught.value.actual) == (limit, limit + 1)


@pytest.mark.parametrize("parts", [2, 3, 10])
def test_the_limit_summed_over_fragments(parts: int) -> None:
    """E7: the same, in pieces; the piece that is too much is refused by its header."""
    size = LIMIT // parts
    session = opened()
    pieces = [NOISE[at : min(at + size, LIMIT)] for at in range(0, LIMIT, size)]
    stream = b"".join(wire(0 if index else 2, piece, first=MORE) for index, piece in enumerate(pieces))
    assert receive(session, stream, wire(0)) == [(Opcode.BINARY, NOISE[:LIMIT])]
    session = opened()
    assert receive(session, stream) == []
    error, count = bytes_until_refused(session, wire(0, b"x"))
    assert isinstance(error, FrameTooLarge)
    assert (error.limit, error.actual) == (LIMIT, LIMIT + 1)
    assert count == 2


def test_control_frames_count_for_no_message() -> None:
    """A ping longer than the limit of messages is a ping; so is one inside a message that has no room left."""
    session = opened(limit=4)
    assert receive(session, ping(bytes(125))) == [(Opcode.PING, bytes(125))]
    assert receive(session, wire(2, b"full", first=MORE), ping(b"hello"), wire(0)) == [
        (Opcode.PING, b"hello"),
        (Opcode.BINARY, b"full"),
    ]


def test_a_compressed_frame_may_be_a_little_longer() -> None:
    """E7: what can't be compressed may be declared longer than the limit; what is inflated may not."""
    data = NOISE[:LIMIT]
    stream = zlib.compressobj(0, zlib.DEFLATED, -12)
    stored = (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(stored) > LIMIT
    assert receive(opened(codec=CODEC), wire(2, stored, first=0xC0)) == [(Opcode.BINARY, data)]
    with pytest.raises(FrameTooLarge):
        receive(opened(codec=CODEC), wire(2, CODEC.deflate(bytes(LIMIT + 1)), first=0xC0))
    with pytest.raises(FrameTooLarge):
        receive(opened(codec=CODEC), wire(2, bytes(LIMIT + 100), first=0xC0))


def test_a_large_frame_asks_for_its_room() -> None:
    """What has come is believed only in proportion: a frame that is fine doesn't make the ring double many times."""
    session = opened(limit=1 << 20)
    ring = RingBuffer(64, None)
    frame = binary(bytes(1 << 20))
    ring.write(frame[:14])
    assert session.receive(ring) is None
    assert len(ring.writable()) >= 60_000
    assert ring.capacity <= 1 << 17


# -- fragments -------------------------------------------------------------------------------------


def test_fragments_with_controls_between() -> None:
    """They come first, and change nothing."""
    stream = (
        wire(1, b"Gr\xc3", first=MORE) + ping(b"1") + wire(0, b"\xbc\xc3\x9f", first=MORE) + pong(b"2") + wire(0, b"e")
    )
    session = opened()
    ring = RingBuffer(64, None)
    ring.write(stream)
    seen = []
    while (message := session.receive(ring)) is not None:
        seen.append((*message, session.is_control))
    assert seen == [(Opcode.PING, b"1", True), (Opcode.PONG, b"2", True), (Opcode.TEXT, "Grüße", False)]
    assert session.receive(ring) is None
    assert not session.is_control


def test_too_many_fragments() -> None:
    """E8: 1024 of a small message."""
    session = opened(limit=2000)
    assert receive(session, wire(2, b"x", first=MORE) + wire(0, b"x", first=MORE) * 1023) == []
    with pytest.raises(PolicyViolation) as caught:
        receive(session, wire(0, b"x"))
    assert caught.value.limit == 1024


def test_fragments_in_proportion_to_the_limit() -> None:
    """E8: a large message may have more of them: one for every 64 bytes."""
    session = opened(limit=1 << 20)
    fragment = wire(0, b"x", first=MORE)
    assert receive(session, wire(2, b"x", first=MORE) + fragment * 16_383) == []
    with pytest.raises(PolicyViolation):
        receive(session, fragment)


def test_too_many_empty_fragments() -> None:
    """E8: 1024 of any message."""
    session = opened(limit=1 << 30)
    assert receive(session, wire(1, first=MORE) + wire(0, first=MORE) * 1023) == []
    assert receive(session, wire(0, b"still one", first=MORE)) == []
    with pytest.raises(PolicyViolation):
        receive(session, wire(0, first=MORE))


def test_the_count_begins_anew_with_each_message() -> None:
    """E8: many messages of many fragments are fine."""
    session = opened()
    message = wire(2, b"", first=MORE) + wire(0, b"", first=MORE) * 1000 + wire(0, b"x")
    for _ in range(3):
        assert receive(session, message) == [(Opcode.BINARY, b"x")]


def test_a_turn_has_its_share_of_fragments() -> None:
    """E8: after so many it gives None though more is there, and goes on when it is asked again."""
    session = opened(limit=1 << 20)
    ring = RingBuffer(64, None)
    ring.write(wire(2, b"x", first=MORE) + wire(0, b"x", first=MORE) * 2998 + wire(0, b"x"))
    waiting = []
    while (message := session.receive(ring)) is None:
        assert session.work >= WORK_PER_TURN
        waiting.append(len(ring))
        session.work = 0
    assert message == (Opcode.BINARY, b"x" * 3000)
    assert waiting == [7 * (3000 - WORK_PER_TURN), 7 * (3000 - 2 * WORK_PER_TURN)]


def test_inflating_is_work() -> None:
    """E9: so are KiB that come out, whatever little went in."""
    session = opened(limit=1 << 20, codec=CODEC)
    receive(session, binary(b"plain"))
    assert session.work == 0
    ring = RingBuffer(64, None)
    ring.write(wire(2, CODEC.deflate(bytes(100 << 10)), first=0xC0))
    assert session.receive(ring) == (Opcode.BINARY, bytes(100 << 10))
    assert session.work == 101


# -- close -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", GOOD_CODES)
def test_good_close_codes(code: int) -> None:
    """E11: what came is noted."""
    session = opened()
    (message,) = receive(session, close(code, "schön"))
    assert message == (Opcode.CLOSE, struct.pack("!H", code) + "schön".encode())
    assert session.is_control
    assert (session.close_code, session.close_text) == (code, "schön")
    assert session.state == State.CLOSE_RECEIVED


def test_a_close_without_a_code() -> None:
    """1005 stands for none."""
    session = opened()
    receive(session, close(None))
    assert (session.close_code, session.close_text) == (1005, "")


def test_a_close_of_the_largest_size() -> None:
    """123 bytes of text."""
    session = opened()
    receive(session, close(1000, "x" * 123))
    assert session.close_text == "x" * 123


def test_every_other_code_is_refused() -> None:
    """E11: of all that two bytes can say."""
    for code in range(0, 65536, 7):
        session = opened()
        if is_close_code(code):
            receive(session, close(code))
            assert session.close_code == code
        else:
            with pytest.raises(ProtocolError):
                receive(session, close(code))
            assert session.close_code is None
            assert session.state == State.OPEN


@pytest.mark.parametrize("bad", NO_UTF8, ids=bytes.hex)
def test_a_close_whose_text_is_none(bad: bytes) -> None:
    """E10: 1007."""
    for words in (bad, b"so far fine " + bad):
        session = opened()
        with pytest.raises(InvalidText):
            receive(session, wire(8, struct.pack("!H", 1000) + words))
        assert session.close_code is None


def test_what_is_behind_a_close_is_not_looked_at() -> None:
    """The peer has ended: whatever follows means nothing."""
    session = opened()
    assert receive(session, close() + b"\xff" * 50) == [(Opcode.CLOSE, b"\x03\xe8")]


def test_after_our_own_close_only_the_peers_matters() -> None:
    """Messages that were on their way are taken off and forgotten; control frames are still told."""
    session = opened(limit=100)
    session.step(Event.CLOSE_SENT)
    ring = RingBuffer(64, None)
    late = [
        text("late"),
        binary(b"late"),
        wire(1, b"\xff\xff"),  # nobody reads it: nobody minds
        wire(0, b"of a message that had begun"),
        wire(2, b"begun", first=MORE),
        wire(2, b"and again"),
    ]
    ring.write(b"".join(late) + ping(b"x") + text("more") + close(1001, "me too"))
    assert session.receive(ring) == (Opcode.PING, b"x")
    assert session.receive(ring) == (Opcode.CLOSE, b"\x03\xe9me too")
    assert (session.state, session.close_code) == (State.CLOSED, 1001)
    assert len(ring) == 0


@pytest.mark.parametrize("bad", [wire(3), wire(1, mask=b""), wire(9, bytes(126)), binary(bytes(101)), close(999)])
def test_after_our_own_close_bad_frames_are_still_bad(bad: bytes) -> None:
    """What can't be read can't be passed over."""
    session = opened(limit=100)
    session.step(Event.CLOSE_SENT)
    ring = RingBuffer(64, None)
    ring.write(bad)
    with pytest.raises(ProtocolError):
        session.receive(ring)


def test_a_message_that_had_begun_before_our_close() -> None:
    """Its rest is passed over, be it longer than there is room."""
    session = opened(limit=100)
    ring = RingBuffer(64, None)
    ring.write(wire(1, b"x" * 60, first=MORE))
    assert session.receive(ring) is None
    session.step(Event.CLOSE_SENT)
    ring.write(wire(0, b"x" * 30, first=MORE) + wire(0, b"x" * 60) + close())
    assert session.receive(ring) == (Opcode.CLOSE, b"\x03\xe8")


# -- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", NO_UTF8, ids=bytes.hex)
@pytest.mark.parametrize("prefix", ["", "a", "Käse", "€" * 40, "x" * 200], ids=len)
def test_invalid_text(prefix: str, bad: bytes) -> None:
    """E10: overlong forms, surrogates, what is beyond Unicode, lone and missing bytes: 1007, however it is framed."""
    payload = prefix.encode() + bad
    for mask in (MASK, bytes(4)):
        for suffix in (b"", b"z"):
            with pytest.raises(InvalidText):
                receive(opened(), wire(1, payload + suffix, mask=mask))
    for at in {0, 1, len(payload) // 2, len(payload) - 1, len(payload)}:
        with pytest.raises(InvalidText):
            receive(opened(), wire(1, payload[:at], first=MORE), wire(0, payload[at:]))
    with pytest.raises(InvalidText):
        receive(opened(codec=CODEC), wire(1, CODEC.deflate(payload), first=0xC0))


def first_bad_byte(payload: bytes) -> int:
    """Give how many bytes must be there until no end could make it text; one more than there are, if all could."""
    for count in range(1, len(payload) + 1):
        try:
            payload[:count].decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                return count
    return len(payload) + 1


@pytest.mark.parametrize(
    "bad", [*NO_UTF8[:-2], b"ok" + b"\xed\xa0\x80more", "😀".encode() + b"\xf4\x90\x80\x80"], ids=bytes.hex
)
@pytest.mark.parametrize("size", [0, 3, 130])
def test_invalid_text_is_refused_at_its_first_bad_byte(bad: bytes, size: int) -> None:
    """E10: inside a frame that hasn't come in whole, of one frame or of fragments."""
    payload = b"y" * size + bad + b"the rest of a long message" * 20
    known = first_bad_byte(payload)
    for before, opcode, first in ((b"", 1, 0x80), (b"", 1, MORE), (CONTINUES, 0, 0x80), (CONTINUES, 0, MORE)):
        session = opened()
        receive(session, before)
        frame = wire(opcode, payload, first=first)
        header = len(frame) - len(payload)
        error, count = bytes_until_refused(session, frame)
        assert isinstance(error, InvalidText)
        assert count - header == known


def test_a_character_cut_by_everything_there_is() -> None:
    """Its bytes lie in other frames, with pings between, in reads of one byte, in a ring that wraps."""
    payload = "Grüße, 世界! 😀".encode()
    stream = b"".join(
        wire(0 if index else 1, payload[index : index + 1], first=MORE) + ping(b"%d" % index)
        for index in range(len(payload))
    )
    stream += wire(0)
    for begin in range(16):
        session = opened()
        ring = ring_at(begin, 64, stream[:1])
        taken = receive(session, *(stream[at : at + 1] for at in range(1, len(stream))), ring=ring)
        assert taken[-1] == (Opcode.TEXT, payload.decode())
        assert len(taken) == len(payload) + 1


def test_text_that_came_in_part_and_goes_on_in_fragments() -> None:
    """What the check has seen of a frame's beginning isn't seen twice, nor forgotten."""
    frame = wire(1, b"a\xe2\x82", first=MORE)
    for at in range(1, len(frame)):
        assert receive(opened(), frame[:at], frame[at:], wire(0, b"\xacb")) == [(Opcode.TEXT, "a€b")]
        session = opened()
        with pytest.raises(InvalidText):
            receive(session, frame[:at], frame[at:], wire(0, b"a"))


def test_texts_behind_each_other_share_no_state() -> None:
    """A frame that came in part leaves nothing behind for the next message."""
    session = opened()
    first = text("ä" * 50)
    assert receive(session, first[:30], first[30:] + text("b")[:7], text("b")[7:]) == [
        (Opcode.TEXT, "ä" * 50),
        (Opcode.TEXT, "b"),
    ]
    assert receive(session, wire(1, b"\xc3", first=MORE), wire(0, b"\xa4")) == [(Opcode.TEXT, "ä")]


# -- whole messages --------------------------------------------------------------------------------

SIZES = (0, 1, 2, 3, 7, 8, 9, 124, 125, 126, 127, 128, 129, 4095, 4096, 65534, 65535, 65536, 65537)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_client", [False, True], ids=["server", "client"])
def test_messages_of_all_sizes(size: int, is_client: bool) -> None:
    """Text and binary, several behind each other, in one read and in two."""
    mask = b"" if is_client else MASK
    words = ("Grüße, 世界! 😀" * (size // 20 + 1)).encode()[:size].decode(errors="ignore")
    stream = binary(NOISE[:size], mask) + text(words, mask) + binary(b"end", mask)
    expected = [(Opcode.BINARY, NOISE[:size]), (Opcode.TEXT, words), (Opcode.BINARY, b"end")]
    session = opened(is_client=is_client, limit=1 << 17)
    assert receive(session, stream) == expected
    for at in (1, 2, 5, 13, len(stream) // 2, len(stream) - 4, len(stream) - 1):
        assert receive(session, stream[:at], stream[at:]) == expected


@pytest.mark.parametrize("size", [0, 1, 125, 126])
def test_short_messages_at_every_place_of_a_ring(size: int) -> None:
    """The way of the short ones, and that of those that wrap."""
    payload = NOISE[:size]
    stream = binary(payload) + text("x" * size) + ping(b"p")
    capacity = len(stream) + 3
    for begin in range(capacity):
        session = opened()
        assert receive(session, ring=ring_at(begin, capacity, stream)) == [
            (Opcode.BINARY, payload),
            (Opcode.TEXT, "x" * size),
            (Opcode.PING, b"p"),
        ]


RFC6455 = [
    (True, "81 05 48 65 6c 6c 6f", (Opcode.TEXT, "Hello")),
    (False, "81 85 37 fa 21 3d 7f 9f 4d 51 58", (Opcode.TEXT, "Hello")),
    (True, "01 03 48 65 6c 80 02 6c 6f", (Opcode.TEXT, "Hello")),
    (True, "89 05 48 65 6c 6c 6f", (Opcode.PING, b"Hello")),
    (False, "8a 85 37 fa 21 3d 7f 9f 4d 51 58", (Opcode.PONG, b"Hello")),
    (True, "82 7e 01 00" + " 00" * 256, (Opcode.BINARY, bytes(256))),
    (True, "82 7f 00 00 00 00 00 01 00 00" + " 00" * 65536, (Opcode.BINARY, bytes(65536))),
]


@pytest.mark.parametrize(("is_client", "stream", "message"), RFC6455, ids=range(len(RFC6455)))
def test_the_examples_of_rfc_6455(is_client: bool, stream: str, message: Got) -> None:
    """Section 5.7; unmasked frames are a server's, and come to a client."""
    assert receive(opened(is_client=is_client, limit=65536), bytes.fromhex(stream)) == [message]


RFC7692 = {
    "7.2.3.1, one block": "c1 07 f2 48 cd c9 c9 07 00",
    "7.2.3.1, in fragments": "41 03 f2 48 cd 80 04 c9 c9 07 00",
    "7.2.3.3, no compression": "c1 0b 00 05 00 fa ff 48 65 6c 6c 6f 00",
    "7.2.3.4, BFINAL": "c1 08 f3 48 cd c9 c9 07 00 00",
    "7.2.3.5, two blocks": "c1 0d f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
}


@pytest.mark.parametrize("stream", RFC7692.values(), ids=RFC7692.keys())
def test_the_examples_of_rfc_7692(stream: str) -> None:
    """Section 7.2.3, whole and byte by byte."""
    wanted = [(Opcode.TEXT, "Hello")]
    data = bytes.fromhex(stream)
    assert receive(opened(is_client=True, codec=CODEC), data) == wanted
    assert receive(opened(is_client=True, codec=CODEC), *(data[at : at + 1] for at in range(len(data)))) == wanted


def test_a_message_that_leans_on_the_one_before() -> None:
    """RFC 7692 section 7.2.3.2: that needs a context taken over, which is never agreed on here."""
    session = opened(is_client=True, codec=CODEC)
    receive(session, bytes.fromhex("c1 07 f2 48 cd c9 c9 07 00"))
    with pytest.raises(ProtocolError):
        receive(session, bytes.fromhex("c1 05 f2 00 11 00 00"))


def test_what_was_inflated_is_counted() -> None:
    """For the budget; plain messages add nothing."""
    session = opened(codec=CODEC)
    receive(session, binary(bytes(500)))
    assert session.inflated == 0
    receive(session, wire(2, CODEC.deflate(bytes(700)), first=0xC0), wire(2, CODEC.deflate(bytes(300)), first=0xC0))
    assert session.inflated == 1000


# -- any cutting -----------------------------------------------------------------------------------


def pieces_of(payload: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut at the places that there are."""
    places = sorted({cut % (len(payload) + 1) for cut in cuts})
    return [payload[begin:end] for begin, end in zip([0, *places], [*places, len(payload)], strict=True)]


@st.composite
def conversations(draw: Any) -> tuple[bytes, list[Got], bool]:
    """Give a valid stream, what it means, and whether a client reads it."""
    is_client = draw(st.booleans())
    frames: list[bytes] = []
    expected: list[Got] = []

    def add(opcode: int, payload: bytes, first: int) -> None:
        mask = b"" if is_client else draw(st.sampled_from((MASK, bytes(4), b"\xff\x00\x80\x01")))
        frames.append(Frame(opcode, payload, first=first, mask=mask).wire())

    def control() -> None:
        if draw(st.booleans()):
            opcode, payload = draw(st.sampled_from((9, 10))), draw(st.binary(max_size=125))
            add(opcode, payload, 0x80)
            expected.append((Opcode(opcode), payload))

    for _ in range(draw(st.integers(1, 4))):
        is_text = draw(st.booleans())
        message = draw(st.text(max_size=90)) if is_text else draw(st.binary(max_size=300))
        payload = message.encode() if is_text else message
        bits = 0x40 if draw(st.booleans()) else 0
        pieces = pieces_of(CODEC.deflate(payload) if bits else payload, draw(st.lists(st.integers(0, 400), max_size=3)))
        for index, piece in enumerate(pieces):
            first = (0x80 if index == len(pieces) - 1 else 0) | (0 if index else bits)
            add((1 if is_text else 2) if index == 0 else 0, piece, first)
            if first < 0x80:
                control()
        expected.append((Opcode.TEXT if is_text else Opcode.BINARY, message))
        control()
    if draw(st.booleans()):
        payload = struct.pack("!H", 1001) + b"bye"
        add(8, payload, 0x80)
        expected.append((Opcode.CLOSE, payload))
    return b"".join(frames), expected, is_client


def cut_up(stream: bytes, sizes: Sequence[int]) -> Iterable[bytes]:
    """Cut into pieces of these sizes, over and over."""
    at = index = 0
    while at < len(stream):
        size = sizes[index % len(sizes)]
        yield stream[at : at + size]
        at += size
        index += 1


@given(conversations(), st.lists(st.integers(1, 200), min_size=1, max_size=5), st.integers(0, 63))
def test_any_split_gives_the_same_messages(
    conversation: tuple[bytes, list[Got], bool], sizes: list[int], begin: int
) -> None:
    """Whole, byte by byte, and cut anywhere, in rings that wrap anywhere: every message comes, in order."""
    stream, expected, is_client = conversation
    for cutting in (sizes, [1], [len(stream)]):
        session = opened(is_client=is_client, codec=CODEC)
        pieces = list(cut_up(stream, cutting))
        ring = ring_at(begin, 64, pieces[0])
        assert receive(session, *pieces[1:], ring=ring) == expected
        assert len(ring) == 0


@given(st.binary(max_size=60), st.booleans(), st.booleans(), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_noise_means_the_same_however_it_is_cut(
    stream: bytes, is_client: bool, compressed: bool, sizes: list[int]
) -> None:
    """Nothing but a protocol error is ever raised, and the messages before it are the same."""

    def run(pieces: Iterable[bytes]) -> tuple[list[Got], type[Exception] | None]:
        session = opened(is_client=is_client, limit=40, codec=CODEC if compressed else None)
        ring = RingBuffer(16, None)
        taken: list[Got] = []
        for piece in pieces:
            ring.write(piece)
            try:
                while session.state == State.OPEN and (message := session.receive(ring)) is not None:
                    taken.append(message)
            except ProtocolError as error:
                return taken, type(error)
        return taken, None

    assert run([stream]) == run(cut_up(stream, sizes)) == run(cut_up(stream, [1]))


@pytest.mark.parametrize("frame", [text("x" * 60_000), binary(bytes(60_000))], ids=["text", "binary"])
def test_dripping_bytes_take_linear_time(frame: bytes) -> None:
    """E20: a frame that comes byte by byte is looked at once: 8 times the bytes take no more than 8 times as long."""

    def seconds(size: int) -> float:
        session = opened(limit=1 << 20)
        ring = RingBuffer(1 << 17, None)
        begun = time.thread_time()
        for at in range(size):
            ring.write(frame[at : at + 1])
            session.receive(ring)
        return time.thread_time() - begun

    assert any(seconds(32_000) < 2.3**3 * seconds(4000) for _ in range(10))


# -- rates -----------------------------------------------------------------------------------------


def test_a_burst_of_control_frames() -> None:
    """E12: 200 at once, and not one more."""
    session = opened()
    for _ in range(2 * PER_S):
        session.count_control(1000, PER_S)
    with pytest.raises(PolicyViolation) as caught:
        session.count_control(1000, PER_S)
    assert caught.value.limit == PER_S


def test_a_steady_rate_of_control_frames() -> None:
    """E12: 100 a second go on for ever; 120 a second end soon."""
    session = opened()
    for tick in range(1000, 3000):
        count(session, tick, PER_TICK)
    for tick in range(3000, 3190):
        count(session, tick, PER_TICK + 1)
    with pytest.raises(PolicyViolation):
        count(session, 3190, 20)


def count(session: Session, tick: int, frames: int) -> None:
    """Count so many control frames of one tick."""
    for _ in range(frames):
        session.count_control(tick, PER_S)


def test_a_burst_is_earned_again() -> None:
    """E12: after 2 s of silence there is as much as at first, and never more."""
    session = opened()
    for now in (100, 140, 100_000):
        for _ in range(2 * PER_S):
            session.count_control(now, PER_S)
    with pytest.raises(PolicyViolation):
        session.count_control(100_000, PER_S)


def test_one_tick_earns_five() -> None:
    """E12: no fraction is given away."""
    session = opened()
    for _ in range(2 * PER_S):
        session.count_control(50, PER_S)
    for _ in range(PER_TICK):
        session.count_control(51, PER_S)
    with pytest.raises(PolicyViolation):
        session.count_control(51, PER_S)


def test_a_rate_below_one_in_a_tick() -> None:
    """E12: parts of a frame are earned, too; with 1 a second, 2 may come at once, and a third 1 s later."""
    session = opened()
    session.count_control(0, 1)
    session.count_control(0, 1)
    session.count_control(TURNS_PER_S, 1)
    with pytest.raises(PolicyViolation) as caught:
        session.count_control(2 * TURNS_PER_S - 1, 1)
    assert caught.value.limit == 1


# -- what it is made of ----------------------------------------------------------------------------


def test_a_new_session() -> None:
    """It begins with the handshake, and with nothing known."""
    session = Session(True, 10)
    assert session.state == State.OPENING
    assert session.is_client
    assert (session.request, session.subprotocol, session.codec, session.handler) == (None, None, None, None)
    assert (session.close_code, session.close_text, session.words, session.pings, session.owed) == (
        None,
        "",
        None,
        None,
        None,
    )
    assert (session.ping_tick, session.pong_tick) == (-1, -1)


def test_masked_by_hand() -> None:
    """The oracle of these tests agrees with the definition."""
    assert binary(b"abcdefgh")[6:] == plain_mask(b"abcdefgh", MASK)
