"""Heads off the stream within limits, requests read strictly, answers that can't be broken out of."""

from __future__ import annotations

import pickle
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gevpy import ConfigError, HandshakeError, RingBuffer
from gevpy.websocket.http import (
    HeadLimits,
    Refusal,
    Request,
    Response,
    parse_request,
    phrase,
    split_head,
    take_head,
)
from tests.protocol.splitting import check_linear, cuts
from tests.websocket.heads import feed_head, head_of, opening, upgrade_request

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

LINE = "GET / HTTP/1.1"


# -- taking a head -----------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    names=st.lists(st.sampled_from(["A", "Bc", "X-Long-Name"]), max_size=6),
    value=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40),
    behind=st.binary(max_size=20),
    dice=st.randoms(use_true_random=False),
)
def test_any_split_gives_the_head(names: list[str], value: str, behind: bytes, dice: random.Random) -> None:
    """However the bytes come, the head is cut at its empty line, and what follows stays."""
    head = head_of(LINE, [(name, value) for name in names])
    for pieces in cuts(head + behind, dice):
        taken, status, fed, ring = feed_head(pieces)
        assert (taken, status) == (head, None)
        assert ring.peek_all() == (head + behind)[len(head) : fed]


def test_what_follows_is_never_a_second_request() -> None:
    """E14: bytes behind the head stay in the ring for the frames' parser."""
    ring = RingBuffer()
    ring.write(opening() + b"\x81\x85abcd12345GET / HTTP/1.1\r\n\r\n")
    assert take_head(ring) == opening()
    assert ring.peek_all() == b"\x81\x85abcd12345GET / HTTP/1.1\r\n\r\n"
    assert ring.scanned == 0


def test_a_ring_that_wraps() -> None:
    """A head that lies over the storage's seam is the same head."""
    head = opening()
    for skipped in range(0, len(head), 7):
        ring = RingBuffer(len(head) + 8, None)
        ring.write(b"x" * (skipped + 1))
        ring.skip(skipped)
        ring.write(head[:5])
        ring.skip(1)
        ring.write(head[5:])
        assert take_head(ring) == head


def filled(size: int) -> str:
    """Give a field of ``size`` bytes without its line's end."""
    return "a: " + "b" * (size - 3)


def total_of(size: int) -> bytes:
    """Give a head of so many bytes, of lines within their limit."""
    lines = [LINE]
    left = size - len(LINE) - 4
    while left:
        step = min(left, 8002)
        step -= 8 if 0 < left - step < 6 else 0
        lines.append(filled(step - 2))
        left -= step
    head = "\r\n".join([*lines, "", ""]).encode()
    assert len(head) == size, "the arithmetic above holds"
    return head


def lines_of(*lines: str) -> bytes:
    """Give a head of lines."""
    return "\r\n".join([*lines, "", ""]).encode()


LONGEST_LINE = "GET /" + "a" * (8192 - 14) + " HTTP/1.1"
SIZES: dict[str, tuple[bytes, int | None]] = {
    "line 8192": (lines_of(LONGEST_LINE), None),
    "line 8193": (lines_of("GET /a" + LONGEST_LINE[5:]), 414),
    "line without an end": (b"GET /" + b"a" * 40_000, 414),
    "field 8192": (lines_of(LINE, filled(8192)), None),
    "field 8193": (lines_of(LINE, filled(8193)), 431),
    "field 8193 after others": (lines_of(LINE, "x: y", filled(8192), filled(8193)), 431),
    "field without an end": (lines_of(LINE)[:-2] + b"a: " + b"b" * 40_000, 431),
    "100 fields": (lines_of(LINE, *["a: b"] * 100), None),
    "101 fields": (lines_of(LINE, *["a: b"] * 101), 431),
    "2,000 fields": (lines_of(LINE, *["a: b"] * 2000), 431),
    "2,000 empty names": (lines_of(LINE, *[":"] * 2000), 431),
    "32 KiB in all": (total_of(32768), None),
    "32 KiB and a byte in all": (total_of(32769), 431),
    "33 KiB in all": (total_of(33 * 1024), 431),
    "64 KiB in all": (total_of(64 * 1024), 431),
    "20 MB of fields": (b"GET / HTTP/1.1\r\n" + (filled(1000) + "\r\n").encode() * 20_000, 431),
}


@pytest.mark.parametrize("chunk", [0, 1, 4096], ids=["whole", "byte by byte", "4 KiB"])
@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str, chunk: int) -> None:
    """E15: what is within the limits passes, what is beyond is refused at the limit, however it comes."""
    head, expected = SIZES[name]
    step = chunk or len(head)
    taken, status, fed, _ = feed_head(head[at : at + step] for at in range(0, len(head), step))
    assert status == expected
    assert taken == (head if expected is None else None)
    if chunk:
        assert fed <= 32768 + chunk, "nothing beyond the limit is waited for"


@pytest.mark.parametrize("name", ["line 8193", "field 8193"])
def test_a_long_line_is_refused_before_it_ends(name: str) -> None:
    """E15: the byte too many is enough; the line's end is not waited for."""
    head, expected = SIZES[name]
    end = head.index(b"\r\n") if name == "line 8193" else len(head) - 4
    _, status, fed, _ = feed_head(head[at : at + 1] for at in range(end))
    assert (status, fed) == (expected, end)


def test_limits_can_be_set() -> None:
    """Each limit of a `HeadLimits` holds for itself."""
    head = head_of(LINE, [("a", "b"), ("c", "d")])
    assert feed_head([head], HeadLimits(14, 2, len(head)))[0] == head
    assert feed_head([head], HeadLimits(13, 2, len(head)))[1] == 414
    assert feed_head([head], HeadLimits(14, 1, len(head)))[1] == 431
    assert feed_head([head], HeadLimits(14, 2, len(head) - 1))[1] == 431


def drip_line(size: int) -> float:
    """Give the CPU seconds of a field of so many bytes that comes byte by byte and doesn't end."""
    ring = RingBuffer(16, None)
    ring.write(b"GET / HTTP/1.1\r\na: ")
    begun = time.thread_time()
    for _ in range(size):
        ring.write(b"b")
        assert take_head(ring) is None
    return time.thread_time() - begun


def many_heads(count: int) -> float:
    """Give the CPU seconds of so many heads at the limit, each cut into 4 KiB."""
    head = total_of(32768)
    begun = time.thread_time()
    for _ in range(count):
        assert feed_head(head[at : at + 4096] for at in range(0, len(head), 4096))[0] == head
    return time.thread_time() - begun


def bytewise(fields: int) -> float:
    """Give the CPU seconds of a head of so many short fields that comes byte by byte."""
    head = head_of(LINE, [("ab", "c" * 27)] * fields)
    limits = HeadLimits(8192, fields, len(head))
    begun = time.thread_time()
    assert feed_head((head[at : at + 1] for at in range(len(head))), limits)[0] == head
    return time.thread_time() - begun


@pytest.mark.alone
def test_taking_is_linear() -> None:
    """E15: twice the bytes take twice the time, also byte by byte."""
    check_linear(bytewise, 96)
    check_linear(drip_line, 8000)
    check_linear(many_heads, 64)


@pytest.mark.parametrize(
    "start",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\n\r\n\x00\r\nQUIT\n",
        b"\r\nGET / HTTP/1.1\r\n",
        b"\n",
        b" GET / HTTP/1.1\r\n",
        b"\x00",
        b"GET\x00",
        b"GET /\x80",
        b"\x81\x85abcd12345",
        b"SSH-2.0\x01",
    ],
)
def test_what_is_no_http_is_refused_at_once(start: bytes) -> None:
    """TLS to a plain port, binary protocols and empty first lines aren't waited for."""
    assert feed_head([start])[1] == 400


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\n",
    ],
)
def test_a_bare_lf_ends_no_line(head: bytes) -> None:
    """E14: it is refused where it comes, in every cut."""
    for size in (1, 3, len(head)):
        assert feed_head(head[at : at + size] for at in range(0, len(head), size))[1] == 400


def test_no_head_is_none() -> None:
    """An empty ring and a head without its last byte are waited for."""
    ring = RingBuffer()
    assert take_head(ring) is None
    ring.write(opening()[:-1])
    assert take_head(ring) is None
    ring.write(b"\n")
    assert take_head(ring) == opening()


# -- reading a request -------------------------------------------------------------------------------------------


def test_a_request_reads_its_head() -> None:
    """Everything a handler may ask for, from one object of bytes."""
    request = parse_request(
        opening(("X-A", " 1 "), line="GET /%C3%A9t%C3%A9/a%20b?room=x&room=y&e=&n%20m=%2F+z HTTP/1.1")
    )
    assert request.method == "GET"
    assert request.target == "/%C3%A9t%C3%A9/a%20b?room=x&room=y&e=&n%20m=%2F+z"
    assert request.path == "/été/a b"
    assert request.query.get_all("room") == ["x", "y"]
    assert request.query["e"] == ""
    assert request.query["n m"] == "/ z"
    assert request.headers["x-a"] == "1"
    assert request.host == "example.com"
    assert request.wants_upgrade
    assert repr(request) == "<Request GET /%C3%A9t%C3%A9/a%20b>"
    assert Request.__slots__ == ("_head",)
    assert not hasattr(request, "__dict__")


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        ("/", "/", "example.com"),
        ("//evil.com/x", "//evil.com/x", "example.com"),
        ("/a:b@c/http://d", "/a:b@c/http://d", "example.com"),
        ("/%zz%", "/%zz%", "example.com"),
        ("/%ff", "/\ufffd", "example.com"),
        ("/?", "/", "example.com"),
        ("/?a?b", "/", "example.com"),
        ("http://example.org", "/", "example.org"),
        ("http://example.org:8080?x", "/", "example.org:8080"),
        ("HTTPS://example.org/a/b?c", "/a/b", "example.org"),
        ("http://[::1]:80/a", "/a", "[::1]:80"),
    ],
)
def test_targets(target: str, path: str, host: str) -> None:
    """E14: paths and whole URLs are understood; a URL's host is the one that counts (RFC 9112 section 3.2.2)."""
    request = parse_request(opening(line=f"GET {target} HTTP/1.1"))
    assert (request.target, request.path, request.host) == (target, path, host)


def test_a_target_without_a_query() -> None:
    """No query is an empty one."""
    assert dict(parse_request(opening()).query) == {}


@pytest.mark.parametrize(
    ("value", "is_asked"),
    [("websocket", True), ("WebSocket", True), ("h2c, websocket", True), ("h2c", False), (None, False), ("", False)],
)
def test_wants_upgrade(value: str | None, is_asked: bool) -> None:
    """Whether a WebSocket is asked for."""
    assert upgrade_request(upgrade=value).wants_upgrade is is_asked


HOST = "Host: a\r\n"
SMUGGLING: dict[str, tuple[bytes, int]] = {
    "GET with Content-Length": (f"{LINE}\r\n{HOST}Content-Length: 5\r\n\r\n".encode(), 400),
    "Content-Length 00": (f"{LINE}\r\n{HOST}Content-Length: 00\r\n\r\n".encode(), 400),
    "Content-Length +0": (f"{LINE}\r\n{HOST}Content-Length: +0\r\n\r\n".encode(), 400),
    "Content-Length in a list": (f"{LINE}\r\n{HOST}Content-Length: 0, 0\r\n\r\n".encode(), 400),
    "Content-Length twice": (f"{LINE}\r\n{HOST}Content-Length: 0\r\nContent-Length: 5\r\n\r\n".encode(), 400),
    "Content-Length empty": (f"{LINE}\r\n{HOST}Content-Length:\r\n\r\n".encode(), 400),
    "Transfer-Encoding": (f"{LINE}\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n".encode(), 400),
    "Transfer-Encoding identity": (f"{LINE}\r\n{HOST}Transfer-Encoding: identity\r\n\r\n".encode(), 400),
    "both": (f"{LINE}\r\n{HOST}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n".encode(), 400),
    "obs-fold": (f"{LINE}\r\n{HOST}X: a\r\n b\r\n\r\n".encode(), 400),
    "obs-fold by a tab": (f"{LINE}\r\n{HOST}X: a\r\n\tb\r\n\r\n".encode(), 400),
    "folded first field": (f"{LINE}\r\n X: a\r\n{HOST}\r\n".encode(), 400),
    "bare LF": (f"{LINE}\r\n{HOST}X: a\nY: b\r\n\r\n".encode(), 400),
    "bare LF everywhere": (f"{LINE}\n{HOST}\n\n".encode().replace(b"\r", b""), 400),
    "CR in a value": (f"{LINE}\r\n{HOST}X: a\rb\r\n\r\n".encode(), 400),
    "CR before CRLF": (f"{LINE}\r\n{HOST}X: a\r\r\n\r\n".encode(), 400),
    "NUL in a value": (f"{LINE}\r\n{HOST}X: a\0b\r\n\r\n".encode(), 400),
    "DEL in a value": (f"{LINE}\r\n{HOST}X: a\x7fb\r\n\r\n".encode(), 400),
    "escape in a value": (f"{LINE}\r\n{HOST}X: \x1b[31m\r\n\r\n".encode(), 400),
    "non-ASCII value": (f"{LINE}\r\n{HOST}X: é\r\n\r\n".encode(), 400),
    "non-ASCII name": (f"{LINE}\r\n{HOST}é: x\r\n\r\n".encode(), 400),
    "non-ASCII target": (f"GET /é HTTP/1.1\r\n{HOST}\r\n".encode(), 400),
    "space before the colon": (f"{LINE}\r\n{HOST}X : a\r\n\r\n".encode(), 400),
    "tab before the colon": (f"{LINE}\r\n{HOST}X\t: a\r\n\r\n".encode(), 400),
    "no name": (f"{LINE}\r\n{HOST}: a\r\n\r\n".encode(), 400),
    "no colon": (f"{LINE}\r\n{HOST}X\r\n\r\n".encode(), 400),
    "a space in a name": (f"{LINE}\r\n{HOST}X Y: a\r\n\r\n".encode(), 400),
    "two Host": (f"{LINE}\r\n{HOST}{HOST}\r\n".encode(), 400),
    "two Host that differ": (f"{LINE}\r\n{HOST}Host: b\r\n\r\n".encode(), 400),
    "two Host in one": (f"{LINE}\r\nHost: a, b\r\n\r\n".encode(), 400),
    "no Host": (f"{LINE}\r\nX: a\r\n\r\n".encode(), 400),
    "no field": (f"{LINE}\r\n\r\n".encode(), 400),
    "empty Host": (f"{LINE}\r\nHost:\r\n\r\n".encode(), 400),
    "Host with a user": (f"{LINE}\r\nHost: u@a\r\n\r\n".encode(), 400),
    "Host with a path": (f"{LINE}\r\nHost: a/b\r\n\r\n".encode(), 400),
    "Host with a long port": (f"{LINE}\r\nHost: a:123456\r\n\r\n".encode(), 400),
    "Host with an empty port": (f"{LINE}\r\nHost: a:\r\n\r\n".encode(), 400),
    "HTTP/1.0": (f"GET / HTTP/1.0\r\n{HOST}\r\n".encode(), 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/1.2": (f"GET / HTTP/1.2\r\n{HOST}\r\n".encode(), 400),
    "HTTP/2.0": (f"GET / HTTP/2.0\r\n{HOST}\r\n".encode(), 505),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\n", 505),
    "http in small letters": (f"GET / http/1.1\r\n{HOST}\r\n".encode(), 400),
    "HTTP/1.10": (f"GET / HTTP/1.10\r\n{HOST}\r\n".encode(), 400),
    "two spaces": (f"GET  / HTTP/1.1\r\n{HOST}\r\n".encode(), 400),
    "a tab for a space": (f"GET\t/ HTTP/1.1\r\n{HOST}\r\n".encode(), 400),
    "a space in the target": (f"GET /a b HTTP/1.1\r\n{HOST}\r\n".encode(), 400),
    "a space at the line's end": (f"GET / HTTP/1.1 \r\n{HOST}\r\n".encode(), 400),
    "a fragment": (f"GET /a#b HTTP/1.1\r\n{HOST}\r\n".encode(), 400),
    "a star": (f"GET * HTTP/1.1\r\n{HOST}\r\n".encode(), 400),
    "no slash": (f"GET chat HTTP/1.1\r\n{HOST}\r\n".encode(), 400),
    "another scheme": (f"GET ftp://a/ HTTP/1.1\r\n{HOST}\r\n".encode(), 400),
    "a URL with a user": (f"GET http://u:p@a/ HTTP/1.1\r\n{HOST}\r\n".encode(), 400),
    "a URL without a host": (f"GET http:///a HTTP/1.1\r\n{HOST}\r\n".encode(), 400),
    "a URL and no Host": (b"GET http://a/ HTTP/1.1\r\n\r\n", 400),
    "1,001 parameters": (f"GET /?{'&' * 1000} HTTP/1.1\r\n{HOST}\r\n".encode(), 400),
    "POST": (f"POST / HTTP/1.1\r\n{HOST}Content-Length: 0\r\n\r\n".encode(), 405),
    "CONNECT": (f"CONNECT a:80 HTTP/1.1\r\n{HOST}\r\n".encode(), 405),
    "get": (f"get / HTTP/1.1\r\n{HOST}\r\n".encode(), 405),
    "no method": (f" / HTTP/1.1\r\n{HOST}\r\n".encode(), 400),
    "an empty line first": (f"\r\n{LINE}\r\n{HOST}\r\n".encode(), 400),
    "two heads": (f"{LINE}\r\n{HOST}\r\n{LINE}\r\n{HOST}\r\n".encode(), 400),
    "a head and a byte": (f"{LINE}\r\n{HOST}\r\nx".encode(), 400),
    "no end": (f"{LINE}\r\n{HOST}".encode(), 400),
    "nothing": (b"", 400),
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_smuggling(name: str) -> None:
    """E14: what two readers could read in two ways is refused."""
    head, expected = SMUGGLING[name]
    with pytest.raises(Refusal) as caught:
        parse_request(head)
    assert caught.value.status == expected
    assert caught.value.response.encode().startswith(f"HTTP/1.1 {expected} ".encode())


@pytest.mark.parametrize(
    "head",
    [
        f"{LINE}\r\n{HOST}\r\n".encode(),
        f"HEAD / HTTP/1.1\r\n{HOST}\r\n".encode(),
        f"{LINE}\r\n{HOST}Content-Length: 0\r\n\r\n".encode(),
        f"{LINE}\r\n{HOST}X:\r\nY:a\r\nZ: \t a \t\r\n\r\n".encode(),
        f"{LINE}\r\nHost: my_service:8080\r\n\r\n".encode(),
        f"{LINE}\r\nHost: [2001:db8::1]:443\r\n\r\n".encode(),
        f"{LINE}\r\nhOsT: a.example.\r\n\r\n".encode(),
        f"GET /?{'&' * 999} HTTP/1.1\r\n{HOST}\r\n".encode(),
    ],
)
def test_good_requests_pass(head: bytes) -> None:
    """Odd, and right."""
    request = parse_request(head)
    assert request.host
    assert len(request.query) <= 1


def test_as_many_parameters_as_may_be() -> None:
    """A query at its bound can be read."""
    query = parse_request(opening(line=f"GET /?{'&'.join(f'a{n}=1' for n in range(1000))} HTTP/1.1")).query
    assert len(query) == 1000


NASTY = [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\x80", b"a", b"Host: b\r\n", b"Content-Length: 3\r\n", b","]
NASTY += [
    b"Transfer-Encoding: chunked\r\n",
    b"#",
    b"?",
    b"//",
    b"HTTP/1.0",
    b"\x7f",
    b"\x0b",
    b"=",
    b"\r\n x",
    b'"',
    b"",
]

mutations = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.sampled_from(NASTY)), max_size=4)


def mutate(head: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Put something nasty somewhere, in place of some bytes."""
    for at, cut, piece in changes:
        place = at % (len(head) + 1)
        head = head[:place] + piece + head[place + cut :]
    return head


def read_by_h11(head: bytes) -> tuple[str, str, list[tuple[str, str]]] | None:
    """Give what h11 makes of a head and nothing behind it, or None."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request) or connection.trailing_data[0]:
        return None
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
    return event.method.decode(), event.target.decode(), headers


@settings(max_examples=600)
@given(changes=mutations)
@example(changes=[(0, 0, b"\r\n")])
@example(changes=[(400, 0, b"\n")])
def test_what_passes_h11_reads_equally(changes: list[tuple[int, int, bytes]]) -> None:
    """E14: of what is accepted, h11 gives the same method, target and fields; and nothing but a Refusal is raised."""
    head = mutate(opening(("X-More", "a, b"), ("Cookie", "c=d")), changes)
    theirs = read_by_h11(head)
    try:
        request = parse_request(head)
    except Refusal as refusal:
        assert refusal.status in (400, 405, 505)  # noqa: PT017 - any other error fails by itself
        return
    fields = request.headers
    assert theirs is not None
    method, target, headers = theirs
    assert (request.method, request.target) == (method, target)
    assert [(name, value) for name in fields for value in fields.get_all(name)] == sorted(
        headers, key=lambda pair: list(fields).index(pair[0])
    )


@given(st.binary(max_size=80))
def test_garbage_is_refused(data: bytes) -> None:
    """Any bytes are a request or a Refusal, in the ring and out of it."""
    assume(not data.startswith(b"GET"))
    with pytest.raises(Refusal):
        parse_request(data)
    feed_head([data])
    feed_head(data[at : at + 1] for at in range(len(data)))


def slow_inputs() -> Iterator[tuple[str, bytes]]:
    """Give heads on which a careless pattern takes quadratic time or worse."""
    size = 32_000
    yield "spaces in a value", lines_of(LINE, "Host: a", "X: b" + " " * size + "x")
    yield "spaces and a bad byte", lines_of(LINE, "Host: a", "X: b" + " " * size + "\0")
    yield "only spaces and a bad byte", lines_of(LINE, "Host: a", "X:" + " \t" * (size // 2) + "\0")
    yield "a name without a colon", lines_of(LINE, "Host: a", "X" * size)
    yield "many lines and a bad end", lines_of(LINE, *["a: b"] * (size // 6), "\0")
    yield "spaces in the first line", b"GET" + b" " * size + b"\r\n\r\n"
    yield "commas", lines_of(LINE, "Host: a", "Upgrade: " + "," * size)
    yield "a long host", lines_of(LINE, "Host: " + "a." * (size // 2) + "/")
    yield "a long URL", lines_of("GET http://" + "a" * size + " HTTP/1.1", "Host: a")
    yield "percents", lines_of("GET /" + "%" * size + " HTTP/1.1", "Host: a")
    yield "escapes", lines_of("GET /" + "%C3" * (size // 3) + " HTTP/1.1", "Host: a")


SLOW = dict(slow_inputs())


@pytest.mark.parametrize("name", SLOW)
def test_no_pattern_is_slow(name: str) -> None:
    """E16: 32 KB that is made to be slow takes no time to speak of."""
    best = 1.0
    for _ in range(5):
        begun = time.thread_time()
        try:
            request = parse_request(SLOW[name])
            assert (request.path, request.query, request.wants_upgrade) is not None
        except Refusal:
            pass
        best = min(best, time.thread_time() - begun)
    assert best < 0.05, name


def test_a_response_splits_like_a_request() -> None:
    """The client's side takes heads by the same rules; words behind a status may be of any language."""
    first, fields = split_head(b"HTTP/1.1 404 P\xe9rdu\r\nX: a\r\nx: b\r\n\r\n")
    assert first == "HTTP/1.1 404 P\xe9rdu"
    assert fields.get_all("X") == ["a", "b"]


# -- answering ---------------------------------------------------------------------------------------------------


def read_response(data: bytes, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Give what h11 makes of an answer, which must be a whole one."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert client.their_state is h11.MUST_CLOSE or client.their_state is h11.CLOSED
    return response.status_code, {name.decode(): value.decode("latin-1") for name, value in response.headers}, body


def test_an_answer_is_whole() -> None:
    """Status, fields, length and body, and the connection's end."""
    response = Response(HTTPStatus.NOT_FOUND, "né", content_type="text/html", headers={"X-A": "1"})
    status, fields, body = read_response(response.encode())
    assert (status, body) == (404, "né".encode())
    assert fields == {"content-type": "text/html", "x-a": "1", "content-length": "3", "connection": "close"}
    assert repr(response) == "<Response 404, 3 bytes>"
    assert (response.status, response.body) == (404, "né".encode())
    assert response.headers == (("Content-Type", "text/html"), ("X-A", "1"))


def test_the_default_answer() -> None:
    """200, plain text, empty."""
    status, fields, body = read_response(Response().encode())
    assert (status, fields["content-type"], fields["content-length"], body) == (
        200,
        "text/plain; charset=utf-8",
        "0",
        b"",
    )


def test_an_answer_to_head_has_no_body() -> None:
    """It has the length that the body would have."""
    data = Response(200, b"12345").encode(is_head=True)
    assert data.endswith(b"\r\n\r\n")
    assert read_response(data, "HEAD")[1]["content-length"] == "5"


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_have_no_body_ever(status: int) -> None:
    """They have no length either, and giving them a body is an error."""
    got, fields, body = read_response(Response(status, headers={"ETag": '"a"'}).encode())
    assert (got, fields, body) == (status, {"etag": '"a"', "connection": "close"}, b"")
    with pytest.raises(ConfigError, match="no body"):
        Response(status, "x")


def test_a_status_without_words() -> None:
    """A status that nobody has named can be sent."""
    assert Response(299).encode().startswith(b"HTTP/1.1 299 \r\n")
    assert read_response(Response(299).encode())[0] == 299
    assert phrase(299) == ""


@pytest.mark.parametrize("status", [0, 100, 101, 199, 600, -1, "200", None, 2.5, True])
def test_statuses_that_can_not_be_sent(status: int) -> None:
    """Only 200 to 599 end a request."""
    with pytest.raises(ConfigError, match="status"):
        Response(status)


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nSet-Cookie: b"},
        {"X": "a\nb"},
        {"X": "a\rb"},
        {"X": "a\0"},
        {"X": "€"},
        {"X\r\nY": "a"},
        {"": "a"},
        {"X:": "a"},
        {"Content-Length": "3"},
        {"connection": "keep-alive"},
        {"Transfer-Encoding": "chunked"},
        {"content-type": "text/html"},
        [("X", "a"), ("Y", "\r\n")],
    ],
)
def test_fields_that_can_not_be_sent(headers: dict[str, str]) -> None:
    """E17: what would break out of its field raises where it is written, and is never sent."""
    with pytest.raises(ConfigError):
        Response(200, "x", headers=headers)


def test_a_content_type_that_can_not_be_sent() -> None:
    """E17: the type of the body is a field like others."""
    with pytest.raises(ConfigError):
        Response(200, "x", content_type="text/html\r\nX: y")


@pytest.mark.parametrize("body", [None, 5, ["x"], bytearray(b"x")])
def test_bodies_are_text_or_bytes(body: str) -> None:
    """Anything else is a mistake."""
    with pytest.raises(ConfigError, match="body"):
        Response(200, body)


@given(
    status=st.integers(200, 599),
    body=st.one_of(st.text(max_size=20), st.binary(max_size=20)),
    value=st.text(max_size=12),
)
def test_answers_are_whole_or_raise(status: int, body: str | bytes, value: str) -> None:
    """E17: whatever an application gives, what is sent is one answer with the fields that were given."""
    try:
        response = Response(status, body, headers={"X-Value": value})
    except ConfigError:
        return
    got, fields, read = read_response(response.encode())
    assert (got, fields["x-value"], read) == (status, value.strip(" \t"), response.body)


def test_a_refusal_is_error_and_answer() -> None:
    """It says status and text, and holds what is to be sent."""
    refusal = Refusal(426, "other version", headers={"Upgrade": "websocket"})
    assert isinstance(refusal, HandshakeError)
    assert str(refusal) == "426 Upgrade Required: other version"
    status, fields, body = read_response(refusal.response.encode())
    assert (status, body) == (426, b"other version")
    assert fields["upgrade"] == "websocket"
    assert fields["connection"] == "close, Upgrade"


def test_a_refusal_can_be_pickled() -> None:
    """It crosses processes whole."""
    again = pickle.loads(pickle.dumps(Refusal(405, "no", headers={"Allow": "GET"})))  # noqa: S301 - our own bytes
    assert (again.status, str(again)) == (405, "405 Method Not Allowed: no")
    assert b"Allow: GET" in again.response.encode()


def test_a_method_refused_says_what_is_allowed() -> None:
    """RFC 9110 section 15.5.6: 405 comes with Allow."""
    with pytest.raises(Refusal) as caught:
        parse_request(f"PUT / HTTP/1.1\r\n{HOST}\r\n".encode())
    assert b"\r\nAllow: GET, HEAD\r\n" in caught.value.response.encode()
