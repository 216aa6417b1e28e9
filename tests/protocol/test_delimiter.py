r"""Frames that end with a delimiter: cut inside it, overlapping, at the limit, and in linear time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gevpy import ConfigError, DelimiterProtocol, FrameTooLarge, LineProtocol, RingBuffer
from gevpy.write_batch import WriteBatch
from tests.protocol.splitting import check_any_split, check_linear, drip, feed, flood

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy import Protocol


def lines(stream: bytes) -> list[bytes]:
    r"""Cut at ``\n`` by a model of one line, without what has no end."""
    whole = stream.split(b"\n")[:-1]
    return [line.removesuffix(b"\r") for line in whole]


# -- lines ---------------------------------------------------------------------------------------------------------


def test_the_docstrings_lines() -> None:
    """The reads of the diagram give its messages."""
    assert feed(LineProtocol(), [b"hello\r\n\n", b"wor", b"ld\n"]) == [b"hello", b"", b"world"]


@pytest.mark.parametrize(
    ("stream", "messages"),
    [
        (b"\n", [b""]),
        (b"\r\n", [b""]),
        (b"\n\n\r\n", [b"", b"", b""]),
        (b"\r\r\n", [b"\r"]),
        (b"a\rb\n", [b"a\rb"]),
        (b"a\n\rb\n", [b"a", b"\rb"]),
        (b"\0\xff\n", [b"\0\xff"]),
        (b"no end\r", []),
    ],
)
def test_odd_line_ends(stream: bytes, messages: list[bytes]) -> None:
    """Only one carriage return belongs to a line's end, and only right before it."""
    check_any_split(LineProtocol(), stream, messages)


@settings(max_examples=40)
@given(stream=st.lists(st.sampled_from(b"ab\r\n\n"), max_size=60).map(bytes), seed=st.integers(0, 999))
def test_any_split_gives_the_same_lines(stream: bytes, seed: int) -> None:
    """Whatever ends where, lines are those of the whole."""
    check_any_split(LineProtocol(), stream, lines(stream), seed=seed)


@given(messages=st.lists(st.binary(max_size=30).map(lambda m: m.replace(b"\n", b"").rstrip(b"\r")), min_size=1))
def test_packed_lines_come_out_again(messages: list[bytes]) -> None:
    """decode(encode(m)) == m, for what has no line end in it."""
    protocol = LineProtocol()
    batch = WriteBatch()
    for message in messages:
        protocol.packet_into(None, message, batch)
    stream = b"".join(protocol.packet(None, message) for message in messages)
    out = batch.take()
    assert (out if isinstance(out, bytes) else b"".join(out)) == stream
    assert feed(protocol, [stream]) == messages


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_line_of_exactly_the_limit_passes(ending: bytes) -> None:
    """The ending isn't counted, whole or byte by byte; one byte more is FrameTooLarge."""
    check_any_split(LineProtocol(max_frame_bytes=7), b"1234567" + ending, [b"1234567"])
    for pieces in ([b"12345678" + ending], [bytes([byte]) for byte in b"12345678" + ending]):
        with pytest.raises(FrameTooLarge) as caught:
            feed(LineProtocol(max_frame_bytes=7), pieces)
        assert caught.value.limit is not None
        assert caught.value.actual is not None
        assert caught.value.actual > caught.value.limit >= 7


def test_a_line_without_an_end_is_cut_off() -> None:
    """Garbage is buffered up to the default of 8 KiB and no further."""
    ring = RingBuffer(16, None)
    ring.write(b"x" * 8193)
    assert LineProtocol().decode(None, ring) is None
    ring.write(b"x")
    with pytest.raises(FrameTooLarge) as caught:
        LineProtocol().decode(None, ring)
    assert (caught.value.limit, caught.value.actual) == (8193, 8194)
    assert LineProtocol().max_frame_bytes == 8192


# -- delimiters ----------------------------------------------------------------------------------------------------


def test_the_docstrings_delimiters() -> None:
    """The diagram's reads, stripped and not."""
    reads = [b"ABC\0DE", b"F\0"]
    assert feed(DelimiterProtocol(b"\0"), reads) == [b"ABC", b"DEF"]
    assert feed(DelimiterProtocol(b"\0", strip=False), reads) == [b"ABC\0", b"DEF\0"]


@pytest.mark.parametrize(
    ("delimiters", "stream", "messages"),
    [
        ([b"\r\n", b"\n"], b"a\r\nb\n\r\n\n", [b"a", b"b", b"", b""]),
        ([b"\n", b"\r\n"], b"a\r\nb\n\r\n\n", [b"a", b"b", b"", b""]),
        ([b"aab", b"ab"], b"xaabyab_aaab", [b"x", b"y", b"_a"]),
        ([b"ab", b"aab"], b"xaabyab_aaab", [b"x", b"y", b"_a"]),
        ([b"aa"], b"aaabaaaa", [b"", b"ab", b""]),
        ([b"aba"], b"ababaxaba", [b"", b"bax"]),
        ([b"---"], b"a--b----c---", [b"a--b", b"-c"]),
        ([b"<>", b"</>"], b"a<b></>c<>", [b"a<b>", b"c"]),
        ([b";", b"END"], b"1;2EN;3END4ENDEND", [b"1", b"2EN", b"3", b"4", b""]),
        ([b"\r\n\r\n"], b"GET\r\n\r\r\n\r\n", [b"GET\r\n\r"]),
    ],
)
def test_delimiters_that_overlap(delimiters: list[bytes], stream: bytes, messages: list[bytes]) -> None:
    """Whichever is named first, however they are cut; what was stripped is exactly a delimiter."""
    check_any_split(DelimiterProtocol(delimiters), stream, messages)
    kept = feed(DelimiterProtocol(delimiters, strip=False), [stream])
    assert b"".join(kept) == stream
    for frame, message in zip(kept, messages, strict=True):
        assert frame.removeprefix(message) in delimiters


@pytest.mark.parametrize(
    ("delimiters", "stream"),
    [
        ([b"\r", b"\r\n"], b"a\r\nb\rc\r\n"),
        ([b"\r\n", b"\r"], b"a\r\nb\rc\r\n"),
        ([b"abcd", b"bc"], b"xabcdybcd"),
        ([b"ab", b"abc", b"b"], b"1abc2abc3b"),
    ],
)
def test_delimiters_inside_each_other(delimiters: list[bytes], stream: bytes) -> None:
    """Where one may be the beginning of another, such a set is refused, or it doesn't matter how the bytes come."""
    try:
        protocol = DelimiterProtocol(delimiters, strip=False)
    except ConfigError:
        return
    check_any_split(protocol, stream, feed(protocol, [stream]))


delimiter_sets = st.lists(st.lists(st.sampled_from(b"ab"), min_size=1, max_size=3).map(bytes), min_size=1, max_size=3)


@settings(max_examples=60)
@given(
    delimiters=delimiter_sets,
    stream=st.lists(st.sampled_from(b"aabbc"), max_size=40).map(bytes),
    strip=st.booleans(),
    seed=st.integers(0, 999),
)
def test_any_split_gives_the_same_frames(delimiters: list[bytes], stream: bytes, strip: bool, seed: int) -> None:
    """For any set of delimiters that is accepted at all."""
    try:
        protocol = DelimiterProtocol(delimiters, strip=strip)
    except ConfigError:
        return
    check_any_split(protocol, stream, feed(protocol, [stream]), seed=seed)


def model(delimiters: list[bytes], stream: bytes) -> list[bytes]:
    """Cut byte by byte, the slow way: the delimiter that ends first, of those that end together the longest."""
    messages, begin = [], 0
    for end in range(1, len(stream) + 1):
        ending = [one for one in delimiters if stream[begin:end].endswith(one)]
        if ending:
            messages.append(stream[begin : end - max(map(len, ending))])
            begin = end
    return messages


@settings(max_examples=60)
@given(
    delimiters=st.sampled_from([[b"aab", b"ab"], [b"ab"], [b"never", b"ab", b"b"], [b"a" * 70 + b"b"], [b"aa", b"ba"]]),
    runs=st.lists(
        st.tuples(
            st.integers(0, 140) | st.sampled_from([61, 62, 63, 64, 65, 190, 191, 192, 193, 450]), st.integers(0, 5)
        ),
        max_size=6,
    ),
    seed=st.integers(0, 999),
)
def test_long_frames_are_found_as_by_a_slow_search(
    delimiters: list[bytes], runs: list[tuple[int, int]], seed: int
) -> None:
    """Wherever a delimiter lies in a frame that is far longer than it."""
    stream = b"".join(b"x" * xs + b"a" * max(1, a * seed % 90) + b"b" for xs, a in runs)
    check_any_split(DelimiterProtocol(delimiters), stream, model(delimiters, stream), seed=seed)


@given(
    messages=st.lists(st.binary(max_size=20).map(lambda m: m.replace(b"\r", b"")), min_size=1),
    strip=st.booleans(),
)
def test_packed_frames_come_out_again(messages: list[bytes], strip: bool) -> None:
    """decode(encode(m)) == m, the delimiter within the message or not."""
    protocol = DelimiterProtocol([b"\r\n", b"\r\0"], strip=strip)
    carried = messages if strip else [message + b"\r\0" for message in messages]
    assert feed(protocol, [b"".join(protocol.packet(None, message) for message in carried)]) == carried


def test_packet_appends_the_first_delimiter_only_if_it_strips() -> None:
    """With strip=False a message carries its own."""
    assert DelimiterProtocol([b"\r\n", b"\n"]).packet(None, bytearray(b"x")) == b"x\r\n"
    assert DelimiterProtocol([b"\r\n", b"\n"], strip=False).packet(None, b"x\n") == b"x\n"


@pytest.mark.parametrize("delimiter", [b"\0", b"\r\n", b"0123456789"])
def test_a_frame_of_exactly_the_limit_passes(delimiter: bytes) -> None:
    """The delimiter isn't counted, however it is cut; one byte more is FrameTooLarge."""
    protocol = DelimiterProtocol(delimiter, max_frame_bytes=5)
    check_any_split(protocol, b"abcde" + delimiter, [b"abcde"])
    stream = b"abcdef" + delimiter
    for pieces in ([stream], [stream[:6], stream[6:]], [bytes([byte]) for byte in stream]):
        with pytest.raises(FrameTooLarge) as caught:
            feed(protocol, pieces)
        assert caught.value.limit is not None
        assert caught.value.actual is not None
        assert caught.value.actual > caught.value.limit >= 5


def test_a_delimiter_that_never_comes_is_cut_off() -> None:
    """What is buffered stays within the limit and a delimiter that has only begun."""
    protocol = DelimiterProtocol(b"END", max_frame_bytes=100)
    ring = RingBuffer(16, None)
    ring.write(b"EN" * 51)
    assert protocol.decode(None, ring) is None
    ring.write(b"E")
    with pytest.raises(FrameTooLarge) as caught:
        protocol.decode(None, ring)
    assert (caught.value.limit, caught.value.actual) == (102, 103)


@pytest.mark.parametrize("delimiters", [[], (), b"", [b""], [b"x", b""], ["x"], "x", [None], bytearray(b"x"), [1]])
def test_impossible_delimiters_are_refused(delimiters: Any) -> None:
    """There is at least one, all are bytes, none is empty."""
    with pytest.raises(ConfigError, match="delimiters"):
        DelimiterProtocol(delimiters)


@pytest.mark.parametrize(
    "make", [LineProtocol, lambda **kw: DelimiterProtocol(b"\r\n", **kw)], ids=["line", "delimiter"]
)
def test_limits_are_checked(make: Callable[..., Protocol]) -> None:
    """A limit is at least 1; one beyond all memory is refused or works, but never turns round."""
    for limit in (0, -1, -(1 << 63)):
        with pytest.raises(ConfigError, match="max_frame_bytes"):
            make(max_frame_bytes=limit)
    for limit in ((1 << 63) - 1, 1 << 63, 1 << 64):
        try:
            protocol = make(max_frame_bytes=limit)
        except ConfigError:
            continue
        assert feed(protocol, [b"part", b"\r", b"\npart"]) == [b"part"]


@pytest.mark.parametrize("data", ["text", 5, None])
def test_what_is_not_bytes_like_is_refused(data: object) -> None:
    """Messages are bytes."""
    for protocol in (LineProtocol(), DelimiterProtocol(b"\0"), DelimiterProtocol(b"\0", strip=False)):
        with pytest.raises(TypeError):
            protocol.packet(None, data)


# -- linear time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "kept"),
    [
        (LineProtocol(), 0),
        (DelimiterProtocol(b"\n"), 0),
        (DelimiterProtocol([b"\r\n", b"\n", b"12345678"]), 7),
    ],
)
def test_what_was_searched_is_remembered(protocol: Protocol, kept: int) -> None:
    """All but what may be the beginning of a delimiter; taking a frame forgets it."""
    ring = RingBuffer(16, None)
    for size in range(1, 500):
        ring.write(b"x")
        assert protocol.decode(None, ring) is None
        assert ring.scanned == max(0, size - kept)
    ring.write(b"\nx")
    assert protocol.decode(None, ring) == (None, b"x" * 499)
    assert ring.scanned == 0


def test_a_frame_that_comes_byte_by_byte_is_searched_once() -> None:
    """Not once more for every byte; its bytes are such as make a search slow."""
    protocol = DelimiterProtocol([b"\r\n", b"\0\n\n"], max_frame_bytes=1 << 20)
    check_linear(drip(protocol, b"\n"), 20_000)


@pytest.mark.parametrize(
    "protocol",
    [LineProtocol(), DelimiterProtocol(b"\n"), DelimiterProtocol([b"\r\n", b"never", b"\n"])],
    ids=["line", "delimiter", "absent delimiters"],
)
def test_a_flood_of_tiny_frames_takes_linear_time(protocol: Protocol, compiled: bool) -> None:
    """10^6 empty frames in one buffer take under 2 s compiled; time grows as their number does."""
    check_linear(flood(protocol, b"\n"), 400_000 if compiled else 40_000, most_us=2 if compiled else None)
