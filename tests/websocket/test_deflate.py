"""Compression: agreed on strictly, inflated within bounds, and equal to what zlib and wsproto make of it."""

from __future__ import annotations

import os
import random
import time
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, Opcode, RsvBits

from gevpy import ConfigError, FrameTooLarge, HandshakeError, ProtocolError
from gevpy.websocket.deflate import Codec, Deflate, DeflateParameters, Inflater, require_offers

NAME = "permessage-deflate"
LIMIT = 1 << 20
TAIL = b"\x00\x00\xff\xff"


def agreed(offer: str = NAME, **options: int) -> Codec:
    """Give the codec of a server that was offered this."""
    deflate = Deflate(**options)
    assert deflate.accept(offer) is not None
    codec = deflate.codec(is_client=False)
    assert codec is not None
    return codec


CODEC = Codec(DeflateParameters(12, 15), level=6, mem_level=5)


def inflated(*frames: bytes, limit: int = LIMIT, bits: int = 15) -> bytes:
    """Give the message of frames."""
    inflater = Inflater(bits)
    parts = [inflater.inflate(frame, limit, is_last=False) for frame in frames[:-1]]
    return b"".join([*parts, inflater.inflate(frames[-1], limit, is_last=True)])


# -- the examples of RFC 7692, section 7.2.3 ---------------------------------------------------------------------

HELLO = bytes.fromhex("f248cdc9c90700")
NOISE = random.Random(7).randbytes(9000)  # the same in each run: test ids are made of it
EXAMPLES: dict[str, tuple[list[bytes], bytes]] = {
    "7.2.3.1 one frame": ([HELLO], b"Hello"),
    "7.2.3.1 two fragments": ([HELLO[:3], HELLO[3:]], b"Hello"),
    "7.2.3.3 no compression": ([bytes.fromhex("000500faff48656c6c6f00")], b"Hello"),
    "7.2.3.4 BFINAL": ([bytes.fromhex("f348cdc9c9070000")], b"Hello"),
    "7.2.3.5 two blocks": ([bytes.fromhex("f248050000 00ffffcac9c90700")], b"Hello"),
    "7.2.3.6 an empty message": ([b"\x00"], b""),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    """RFC 7692 section 7.2.3, whole and in every cut, with empty frames between."""
    frames, message = EXAMPLES[name]
    assert inflated(*frames) == message
    whole = b"".join(frames)
    for at in range(len(whole) + 1):
        assert inflated(whole[:at], whole[at:]) == message
        assert inflated(whole[:at], b"", whole[at:], b"") == message
    assert inflated(*(whole[at : at + 1] for at in range(len(whole)))) == message
    assert inflated(whole, bits=9) == message


def test_what_we_send_is_the_example() -> None:
    """RFC 7692 sections 7.2.3.1 and 7.2.3.6: "Hello" and nothing."""
    assert CODEC.deflate(b"Hello") == HELLO
    assert CODEC.deflate(b"") == b"\x00"


def test_no_context_is_taken_over() -> None:
    """RFC 7692 section 7.2.3.2: the second of two equal messages is deflated as the first was."""
    assert [CODEC.deflate(b"Hello"), CODEC.deflate(b"Hello")] == [HELLO, HELLO]


def test_nothing_at_all_is_an_empty_message() -> None:
    """No byte of deflated data isn't of the RFC, but others take it for an empty message, too."""
    assert inflated(b"") == b""
    assert inflated(b"", b"", b"") == b""


# -- round trips -------------------------------------------------------------------------------------------------

messages = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=20), st.integers(1, 4000)),
    st.builds(lambda seed, size: random.Random(seed).randbytes(size), st.integers(), st.integers(0, 70_000)),
)


@settings(max_examples=60)
@given(message=messages, window_bits=st.integers(9, 15), mem_level=st.integers(1, 9), level=st.integers(0, 9))
def test_what_is_deflated_inflates(message: bytes, window_bits: int, mem_level: int, level: int) -> None:
    """Ours and zlib's own inflater give the message back, with the window that was agreed on."""
    codec = Codec(DeflateParameters(window_bits, window_bits), level=level, mem_level=mem_level)
    payload = codec.deflate(message)
    assert zlib.decompressobj(-window_bits).decompress(payload + TAIL) == message
    assert codec.inflater().inflate(payload, len(message), is_last=True) == message


@settings(max_examples=60)
@given(message=messages, dice=st.randoms(use_true_random=False), bits=st.integers(9, 15), level=st.integers(0, 9))
def test_any_cut_into_frames_inflates(message: bytes, dice: random.Random, bits: int, level: int) -> None:
    """What zlib deflates, with flushes anywhere and cut anywhere, is the message; no byte comes late."""
    stream = zlib.compressobj(level, zlib.DEFLATED, -bits)
    cut = dice.randrange(len(message) + 1)
    flush = dice.choice([zlib.Z_NO_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH])
    payload = stream.compress(message[:cut]) + (stream.flush(flush) if flush else b"")
    payload += stream.compress(message[cut:]) + stream.flush(zlib.Z_SYNC_FLUSH)
    payload = payload.removesuffix(TAIL)
    places = sorted(dice.choices(range(len(payload) + 1), k=dice.randrange(6)))
    frames = [payload[a:b] for a, b in zip([0, *places], [*places, len(payload)], strict=True)]
    assert inflated(*frames, limit=len(message), bits=bits) == message
    oracle = zlib.decompressobj(-bits)
    inflater = Inflater(bits)
    for frame in frames:
        assert inflater.inflate(frame, len(message), is_last=False) == oracle.decompress(frame)


def wsproto_pair(bits: int) -> tuple[PerMessageDeflate, FrameProtocol]:
    """Give wsproto's extension as a server has it that agreed on no context."""
    extension = PerMessageDeflate()
    offer = f"{NAME}; server_no_context_takeover; client_no_context_takeover"
    extension.accept(f"{offer}; server_max_window_bits={bits}; client_max_window_bits={bits}")
    return extension, FrameProtocol(client=False, extensions=[extension])


def read_by_wsproto(payload: bytes, bits: int) -> bytes | None:
    """Give the message that wsproto makes of a payload, or None for an error; it has no bound."""
    extension, frames = wsproto_pair(bits)
    extension.frame_inbound_header(frames, Opcode.BINARY, RsvBits(True, False, False), len(payload))
    parts = [extension.frame_inbound_payload_data(frames, payload), extension.frame_inbound_complete(frames, True)]
    return b"".join(parts) if all(isinstance(part, bytes) for part in parts) else None  # type: ignore[arg-type]


@settings(max_examples=60)
@given(message=messages, bits=st.integers(9, 15))
def test_wsproto_understands_us_and_we_it(message: bytes, bits: int) -> None:
    """Its extension is the oracle, in both directions."""
    codec = Codec(DeflateParameters(bits, bits), level=6, mem_level=5)
    assert read_by_wsproto(codec.deflate(message), bits) == message
    extension, frames = wsproto_pair(bits)
    _, payload = extension.frame_outbound(frames, Opcode.BINARY, RsvBits(False, False, False), message, True)
    assert codec.inflater().inflate(bytes(payload), len(message), is_last=True) == message


@settings(max_examples=400)
@given(
    payload=st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda at, byte: HELLO[: at % 8] + bytes([byte]) + HELLO[at % 8 + 1 :], st.integers(0), st.integers(0, 255)
        ),
        st.builds(lambda data, size: CODEC.deflate(data)[:size], st.binary(max_size=200), st.integers(0, 200)),
    ),
    at=st.integers(0, 40),
)
def test_any_bytes_inflate_as_elsewhere_or_not_at_all(payload: bytes, at: int) -> None:
    """E7: what we give is what wsproto gives; where we differ we refuse; however it is cut the verdict is the same."""
    results: list[bytes | None] = []
    for frames in ([payload], [payload[:at], payload[at:]], [b"", *(payload[i : i + 1] for i in range(len(payload)))]):
        try:
            results.append(inflated(*frames))
        except ProtocolError:
            results.append(None)
    assert results[0] == results[1] == results[2]
    if results[0] is not None:
        assert results[0] == read_by_wsproto(payload, 15)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"\x06\x00",
        bytes.fromhex("000500faff48656c"),
        bytes.fromhex("00ffff0000aaaa"),
        bytes.fromhex("f348cdc9c907000000"),
        bytes.fromhex("f348cdc9c90700") + HELLO,
        bytes.fromhex("f348cdc9c90700f348cdc9c9070000"),
        b"\x03\x00" * 500_000,
        HELLO[:-3],
        CODEC.deflate(NOISE)[:-1],
        CODEC.deflate(b"ab" * 9000)[:-1],
        zlib.compress(b"Hello"),
        b"Hello, this is not compressed",
    ],
    ids=lambda payload: f"{payload[:8].hex()}, {len(payload)}",
)
def test_bad_data(payload: bytes) -> None:
    """E7: no data, a message that ends inside a block, or one that goes on behind a final block: a ProtocolError."""
    with pytest.raises(ProtocolError) as caught:
        inflated(payload)
    assert not isinstance(caught.value, FrameTooLarge)
    with pytest.raises(ProtocolError):
        inflated(payload[:3], payload[3:])


def test_a_window_that_was_not_agreed_on() -> None:
    """E7: a client that agreed on a small window and looks back to earlier frames beyond it is refused."""
    noise = os.urandom(2000)
    payload = Codec(DeflateParameters(15, 15), level=9, mem_level=9).deflate(noise + noise)
    assert inflated(payload, bits=15) == noise + noise
    with pytest.raises(ProtocolError):
        inflated(*(payload[at : at + 100] for at in range(0, len(payload), 100)), bits=9)


# -- bounds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 4096, 65_535, 65_536, 65_537, 1_000_000])
def test_the_limit_is_exact(size: int) -> None:
    """E6: a message of the limit passes, a byte more doesn't, in one frame and in many."""
    for message in (b"a" * size, random.Random(size).randbytes(size)):
        payload = CODEC.deflate(message)
        frames = [payload[at : at + 999] for at in range(0, len(payload), 999)]
        assert inflated(payload, limit=size) == message
        assert inflated(*frames, limit=size) == message
        for pieces in ([payload], frames):
            with pytest.raises(FrameTooLarge) as caught:
                inflated(*pieces, limit=size - 1)
            assert (caught.value.limit, caught.value.actual) == (size - 1, size)


def test_nothing_may_come_of_it() -> None:
    """A limit of 0 lets an empty message pass."""
    assert inflated(b"\x00", limit=0) == b""
    with pytest.raises(FrameTooLarge):
        inflated(HELLO, limit=0)


def bomb(size: int) -> bytes:
    """Give a payload that inflates to ``size`` zeroes, about a thousandth of that itself."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    chunk = bytes(1 << 20)
    pieces = [stream.compress(chunk) for _ in range(size >> 20)]
    return b"".join(pieces) + stream.flush(zlib.Z_SYNC_FLUSH)[: -len(TAIL)]


BOMB = bomb(256 << 20)


@pytest.mark.alone
@pytest.mark.parametrize("cut", [len(BOMB), 4096, 100])
def test_a_bomb_costs_its_limit(cut: int) -> None:
    """E6: 256 MiB in 260 KB end at the limit, with memory for little more than that, and in no time."""
    assert len(BOMB) < 300_000
    inflater = CODEC.inflater()
    tracemalloc.start()
    try:
        with pytest.raises(FrameTooLarge) as caught:
            [len(inflater.inflate(BOMB[at : at + cut], LIMIT, is_last=False)) for at in range(0, len(BOMB), cut)]
        assert tracemalloc.get_traced_memory()[1] < LIMIT + (256 << 10)
    finally:
        tracemalloc.stop()
    assert (caught.value.limit, caught.value.actual) == (LIMIT, LIMIT + 1)


@pytest.mark.alone
def test_a_bomb_takes_no_time() -> None:
    """E6: the loop is held up for less than 20 ms."""
    best = 1.0
    for _ in range(10):
        begun = time.thread_time()
        with pytest.raises(FrameTooLarge):
            inflated(BOMB)
        best = min(best, time.thread_time() - begun)
    assert best < 0.02


def test_a_legal_bomb_inflates() -> None:
    """E6: 1000:1 within the limit is a message like others; that there are many of them is for the budget to see."""
    assert inflated(bomb(LIMIT), limit=LIMIT) == bytes(LIMIT)


class CountingStream:
    """Counts what zlib is given, since it copies what it doesn't use of that."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.given = 0

    def decompress(self, data: bytes, most: int) -> bytes:
        self.given += len(data)
        return bytes(self.stream.decompress(data, most))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


SIZE = 4 << 20
LARGE: dict[str, bytes] = {
    "zeroes": CODEC.deflate(bytes(SIZE)),
    "noise": CODEC.deflate(random.Random(1).randbytes(SIZE)),
    "stored": Codec(DeflateParameters(15, 15), level=0, mem_level=9).deflate(bytes(SIZE)),
    "empty blocks": b"\x00\x00\x00\xff\xff" * (SIZE // 5) + b"\x00",
}


@pytest.mark.parametrize("kind", LARGE)
def test_inflating_is_linear(kind: str) -> None:
    """No input is given to zlib again and again: as much as comes in and goes out, and not the square of it."""
    inflater = Inflater(15)
    stream = CountingStream(inflater._stream)
    inflater._stream = stream  # type: ignore[assignment]
    message = inflater.inflate(LARGE[kind], SIZE, is_last=True)
    assert stream.given <= len(LARGE[kind]) + len(message) + 200_000


def test_an_idle_connection_keeps_a_pointer() -> None:
    """Equal parameters are one object, however many handshakes agreed on them."""
    assert agreed() is agreed()
    assert agreed(f"{NAME}; client_max_window_bits") is not agreed()
    assert agreed(level=1) is not agreed()
    assert agreed().parameters is agreed().parameters
    assert not hasattr(agreed(), "__dict__")
    assert "12" in repr(agreed())


# -- negotiation at the server -----------------------------------------------------------------------------------

BOTH = "server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("parameters", "answer", "send_bits", "receive_bits"),
    [
        ("", BOTH, 12, 15),
        ("; client_max_window_bits", f"{BOTH}; client_max_window_bits=12", 12, 12),
        ("; client_max_window_bits=15", f"{BOTH}; client_max_window_bits=12", 12, 12),
        ("; client_max_window_bits=12", f"{BOTH}; client_max_window_bits=12", 12, 12),
        ("; client_max_window_bits=9", f"{BOTH}; client_max_window_bits=9", 12, 9),
        ("; client_max_window_bits=8", f"{BOTH}; client_max_window_bits=8", 12, 8),
        ("; server_max_window_bits=15", f"{BOTH}; server_max_window_bits=12", 12, 15),
        ("; server_max_window_bits=9", f"{BOTH}; server_max_window_bits=9", 9, 15),
        ("; server_no_context_takeover", BOTH, 12, 15),
        ("; client_no_context_takeover", BOTH, 12, 15),
        ("; client_no_context_takeover; server_no_context_takeover", BOTH, 12, 15),
        (
            ";server_max_window_bits=10;client_max_window_bits=11",
            f"{BOTH}; server_max_window_bits=10; client_max_window_bits=11",
            10,
            11,
        ),
        (" ;\tclient_max_window_bits ", f"{BOTH}; client_max_window_bits=12", 12, 12),
    ],
)
def test_offers_that_are_accepted(parameters: str, answer: str, send_bits: int, receive_bits: int) -> None:
    """RFC 7692 section 7.1: the answer, and the windows that follow from it."""
    deflate = Deflate()
    assert not deflate.enabled()
    assert deflate.codec(is_client=False) is None
    assert deflate.accept(NAME + parameters) == answer
    assert deflate.enabled()
    codec = deflate.codec(is_client=False)
    assert codec is not None
    assert codec.parameters == (send_bits, receive_bits)
    assert codec.inflater().inflate(codec.deflate(b"Hello"), 5, is_last=True) == b"Hello"


@pytest.mark.parametrize(
    "parameters",
    [
        "server_max_window_bits=7",
        "server_max_window_bits=8",
        "server_max_window_bits=16",
        "server_max_window_bits",
        "server_max_window_bits=",
        "server_max_window_bits=012",
        "server_max_window_bits=+12",
        "server_max_window_bits= 12",
        "server_max_window_bits =12",
        "server_max_window_bits=1_2",
        "server_max_window_bits=12.0",
        "server_max_window_bits=٩",
        "server_max_window_bits=99999999999999999999",
        "server_max_window_bits=-9",
        'server_max_window_bits="12"',
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=0",
        "client_max_window_bits=x",
        "client_max_window_bits=",
        "client_max_window_bits=12=12",
        "client_max_window_bits=09",
        "server_no_context_takeover=1",
        "server_no_context_takeover=",
        "client_no_context_takeover=true",
        "server_no_context_takeover; server_no_context_takeover",
        "client_no_context_takeover; client_no_context_takeover",
        "server_max_window_bits=10; server_max_window_bits=10",
        "server_max_window_bits=10; server_max_window_bits=11",
        "client_max_window_bits; client_max_window_bits",
        "client_max_window_bits; client_max_window_bits=10",
        "unknown",
        "unknown=1",
        "client_max_window_bits; unknown",
        "Client_max_window_bits",
        "client_max_window_bitsx",
        "server_no_context_takeoverx",
        "",
        ";",
        "client_max_window_bits;",
        "=",
        "=12",
    ],
)
def test_offers_that_are_declined(parameters: str) -> None:
    """E7: what is unknown, double or out of range is declined, with no traceback, and agrees on nothing."""
    deflate = Deflate()
    assert deflate.accept(f"{NAME}; {parameters}") is None
    assert not deflate.enabled()
    assert deflate.codec(is_client=False) is None


@given(st.text(max_size=30))
def test_any_offer_is_answered(text: str) -> None:
    """E7: whatever is offered, an answer or None."""
    assert Deflate().accept(f"{NAME};{text}") in (None, BOTH, f"{BOTH}; client_max_window_bits=12")


def test_the_first_good_offer_counts() -> None:
    """The client's first choice; what comes behind it is declined."""
    deflate = Deflate()
    assert deflate.accept(f"{NAME}; server_max_window_bits=16") is None
    assert deflate.accept(f"{NAME}; server_max_window_bits=10") == f"{BOTH}; server_max_window_bits=10"
    assert deflate.accept(NAME) is None
    codec = deflate.codec(is_client=False)
    assert codec is not None
    assert codec.parameters.send_bits == 10


@pytest.mark.parametrize(
    "options",
    [{"window_bits": 8}, {"window_bits": 16}, {"mem_level": 0}, {"mem_level": 10}, {"level": -1}, {"level": 10}],
)
def test_options_out_of_range(options: dict[str, int]) -> None:
    """They are told where they are given."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        Deflate(**options)


def test_a_larger_window_can_be_had() -> None:
    """What is asked for at construction bounds both directions."""
    assert agreed(f"{NAME}; client_max_window_bits", window_bits=15).parameters == (15, 15)
    assert agreed(f"{NAME}; client_max_window_bits", window_bits=9).parameters == (9, 9)


# -- negotiation at the client -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "send_bits", "receive_bits"),
    [
        (BOTH, 12, 15),
        ("server_no_context_takeover", 12, 15),
        (f"{BOTH}; client_max_window_bits=15", 12, 15),
        (f"{BOTH}; client_max_window_bits=10", 10, 15),
        (f"{BOTH}; server_max_window_bits=10; client_max_window_bits=9", 9, 10),
        (f"{BOTH}; server_max_window_bits=8", 12, 8),
    ],
)
def test_answers_that_are_taken(answer: str, send_bits: int, receive_bits: int) -> None:
    """The windows of the client's end."""
    deflate = Deflate()
    deflate.finalize(f"{NAME}; {answer}")
    codec = deflate.codec(is_client=True)
    assert codec is not None
    assert codec.parameters == (send_bits, receive_bits)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "; client_no_context_takeover",
        f"; {BOTH}; unknown",
        f"; {BOTH}; server_no_context_takeover",
        f"; {BOTH}; client_max_window_bits",
        f"; {BOTH}; client_max_window_bits=",
        f"; {BOTH}; client_max_window_bits=8",
        f"; {BOTH}; client_max_window_bits=16",
        f"; {BOTH}; client_max_window_bits=x",
        f"; {BOTH}; server_max_window_bits",
        f"; {BOTH}; server_max_window_bits=7",
        f"; {BOTH}; server_max_window_bits=10; server_max_window_bits=10",
        "; server_no_context_takeover=1",
        f"; {BOTH};",
    ],
)
def test_answers_that_are_wrong(answer: str) -> None:
    """E7: a server that agrees to what was not offered ends the handshake, with no traceback."""
    deflate = Deflate()
    with pytest.raises(HandshakeError):
        deflate.finalize(NAME + answer)
    assert not deflate.enabled()


def test_a_server_answers_once() -> None:
    """Two answers to one offer are one too many."""
    deflate = Deflate()
    deflate.finalize(f"{NAME}; {BOTH}")
    with pytest.raises(HandshakeError):
        deflate.finalize(f"{NAME}; {BOTH}")


@pytest.mark.parametrize("window_bits", [9, 12, 15])
def test_our_ends_agree(window_bits: int) -> None:
    """Our client and our server come to windows that mirror each other."""
    client, server = Deflate(), Deflate(window_bits=window_bits)
    answer = server.accept(f"{NAME}; {client.offer()}")
    client.finalize(f"{NAME}; {answer}")
    ours, theirs = client.codec(is_client=True), server.codec(is_client=False)
    assert ours is not None
    assert theirs is not None
    assert ours.parameters.send_bits <= theirs.parameters.receive_bits
    assert theirs.parameters.send_bits <= ours.parameters.receive_bits
    for one, other in ((ours, theirs), (theirs, ours)):
        message = os.urandom(5000) * 4
        assert other.inflater().inflate(one.deflate(message), len(message), is_last=True) == message


# -- the field's grammar -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "offers"),
    [
        ([], []),
        ([""], []),
        ([" , ,"], []),
        (["a"], ["a"]),
        (["a, b ;c", "d;e=f"], ["a", "b; c", "d; e=f"]),
        (['a; b="10"; c = d'.replace(" = ", "=")], ["a; b=10; c=d"]),
        (["\ta\t;\tb\t"], ["a; b"]),
    ],
)
def test_offers_are_split(values: list[str], offers: list[str]) -> None:
    """RFC 6455 section 9.1: a quoted value is the token between the quotes."""
    assert require_offers(values) == offers


@pytest.mark.parametrize(
    "value",
    [
        "a;",
        ";a",
        "a;;b",
        "a; b=",
        "a; =b",
        "a b",
        "a; b c",
        "a; b = c",
        'a; b="c',
        'a; b=c"',
        'a; b="',
        'a; b=""',
        'a; b="c d"',
        'a; b="c;d"',
        'a; b="c, permessage-deflate, d"',
        'a; b="c\\"d"',
        "a; b='c d'",
        "a; b=c=d",
        "a/b",
        "a; b\x00",
        "a," * 101,
        "a" + "; b" * 101,
        "ä",
    ],
)
def test_malformed_extensions(value: str) -> None:
    """E7, E14: nothing hides in quotes, and what breaks the grammar is told."""
    with pytest.raises(ValueError, match="malformed"):
        require_offers([value])


@given(st.text(max_size=40))
def test_any_extensions_are_split_or_told(text: str) -> None:
    """What comes out has no quotes, and splits into itself."""
    try:
        offers = require_offers([text])
    except ValueError:
        return
    assert not any('"' in offer or "," in offer for offer in offers)
    assert require_offers([", ".join(offers)]) == offers


@pytest.mark.parametrize(
    "text",
    [
        "b" + " " * 32_000 + "x",
        "a;" + " " * 32_000 + "b c",
        "a;" * 16_000,
        "," * 32_000,
        'a; b="' + "c" * 32_000,
        "a; b=" + '"' * 32_000,
        "a; " + "b=" * 16_000,
        "a" * 32_000,
    ],
    ids=lambda text: f"{text[:6]}...",
)
def test_no_extension_is_slow(text: str) -> None:
    """E16: 32 KB that is made to be slow takes no time."""
    best = 1.0
    for _ in range(5):
        begun = time.thread_time()
        try:
            for offer in require_offers([text]):
                Deflate().accept(offer)
        except ValueError:
            pass
        Deflate().accept(text)
        best = min(best, time.thread_time() - begun)
    assert best < 0.05
