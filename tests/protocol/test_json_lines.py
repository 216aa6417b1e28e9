"""JSON lines by either library: the same values and the same refusals, lines cut any way, empty ones dropped."""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gevpy.protocol
from gevpy import ConfigError, FrameTooLarge, ProtocolError
from gevpy.protocol import json_lines
from gevpy.protocol.json_lines import JsonLinesProtocol
from tests.protocol.hostile import check_garbage
from tests.protocol.splitting import check_any_split, check_linear, drip, feed, flood

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARIES: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "orjson": (orjson.loads, orjson.dumps),
    "json": (json_lines._stdlib_loads, json_lines._stdlib_dumps),
}

text = st.text(st.characters(codec="utf-8"), max_size=8)
leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    leaves | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Use one of the libraries, by name."""
    name: str = request.param
    _use(monkeypatch, name)
    return name


def _use(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    loads, dumps = LIBRARIES[name]
    monkeypatch.setattr(json_lines, "loads", loads)
    monkeypatch.setattr(json_lines, "dumps", dumps)


@pytest.mark.parametrize("name", LIBRARIES)
@settings(max_examples=25)
@given(messages=st.lists(values, min_size=1, max_size=4), ending=st.sampled_from([b"\n", b"\r\n", b"\n\n\r\n"]))
def test_any_split_gives_the_same_values(name: str, messages: list[Any], ending: bytes) -> None:
    """What is packed comes out again, whatever ends the lines."""
    with pytest.MonkeyPatch.context() as patch:
        _use(patch, name)
        protocol = JsonLinesProtocol()
        stream = b"".join(protocol.packet(None, message).rstrip(b"\n") + ending for message in messages)
        check_any_split(protocol, stream, messages, trailing=b'{"a":[1,')


@given(message=values)
def test_each_library_reads_what_the_other_writes(message: Any) -> None:
    """One line each, and of the same value."""
    lines = [dumps(message) for _, dumps in LIBRARIES.values()]
    for line in lines:
        assert b"\n" not in line
        assert [loads(line) for loads, _ in LIBRARIES.values()] == [message, message]


def test_the_docstrings_reads(library: str) -> None:
    """The diagram's messages."""
    assert feed(JsonLinesProtocol(), [b'{"a": 1}\n[2, nul', b"l]\r\n\r\n"]) == [{"a": 1}, [2, None]]
    assert JsonLinesProtocol().packet(None, {"a": [1, None, "\u2028é"]}) == '{"a":[1,null,"\u2028é"]}\n'.encode()


@pytest.mark.parametrize(
    "line",
    [
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b"-2.5e308",
        b"1" * 5000,
        b"{'a': 1}",
        b"{a: 1}",
        b'{"a": 1} x',
        b"[1,]",
        b"01",
        b"1.",
        b" ",
        b'"open',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'{"\\udc00": 1}',
        b'"\t"',
        b"\xef\xbb\xbf1",
        b"1\0",
        b"\x001\0",
        b"[" * 60_000,
        b"[" * 30_000 + b"]" * 30_000,
    ],
    ids=lambda line: repr(line[:12]),
)
def test_what_is_no_json_is_refused(library: str, line: bytes) -> None:
    """By both libraries; the error has the line's size and its cause, and what came before was handed over."""
    check_garbage(JsonLinesProtocol(), b"[1]\n" + line + b"\n")
    with pytest.raises(ProtocolError, match="no JSON") as caught:
        feed(JsonLinesProtocol(), [line + b"\n"])
    assert caught.value.actual == len(line)
    assert isinstance(caught.value.__cause__, ValueError | RecursionError)


def test_the_last_of_a_key_counts(library: str) -> None:
    """As both libraries have it."""
    assert feed(JsonLinesProtocol(), [b'{"a": 1, "a": 2}\n']) == [{"a": 2}]


def test_a_whole_surrogate_pair_is_a_character(library: str) -> None:
    """Spelt out in escapes."""
    assert feed(JsonLinesProtocol(), [b'"\\ud83d\\ude00"\n']) == ["\U0001f600"]


def test_empty_lines_are_dropped(library: str) -> None:
    """They only keep a connection alive."""
    check_any_split(JsonLinesProtocol(), b"\n\r\n1\n\n\n2\r\n\r\n", [1, 2])


@pytest.mark.parametrize("data", [b"bytes", {1, 2}, object()])
def test_what_json_cannot_say_is_refused(library: str, data: object) -> None:
    """With a TypeError, to whoever sends it."""
    with pytest.raises(TypeError):
        JsonLinesProtocol().packet(None, data)


def test_a_line_of_exactly_the_limit_passes(library: str) -> None:
    """The ending isn't counted; one byte more is refused, ended or not."""
    protocol = JsonLinesProtocol(max_frame_bytes=5)
    check_any_split(protocol, b"12345\r\n", [12345])
    for stream in (b"123456\n", b"1234567"):
        with pytest.raises(FrameTooLarge):
            feed(protocol, [stream])
    assert JsonLinesProtocol().max_frame_bytes == 65536
    with pytest.raises(ConfigError, match="max_frame_bytes"):
        JsonLinesProtocol(max_frame_bytes=0)


@pytest.mark.parametrize("name", LIBRARIES)
@given(
    stream=st.lists(st.sampled_from(b'{}[]",:1e-.ntfu\\d8 \r\n\xff'), max_size=30).map(bytes) | st.binary(max_size=30)
)
def test_garbage_ends_in_a_protocol_error_or_in_values(name: str, stream: bytes) -> None:
    """And comes to the same however it is cut."""
    with pytest.MonkeyPatch.context() as patch:
        _use(patch, name)
        check_garbage(JsonLinesProtocol(max_frame_bytes=20), stream)


def test_it_goes_to_a_worker() -> None:
    """Pickled and back, it still works."""
    assert feed(pickle.loads(pickle.dumps(JsonLinesProtocol())), [b"[1]\n"]) == [[1]]  # noqa: S301 - our own


def test_orjson_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the standard library where it isn't."""
    assert json_lines.loads is orjson.loads
    monkeypatch.setitem(sys.modules, "orjson", None)
    monkeypatch.delitem(sys.modules, json_lines.__name__)
    monkeypatch.setattr(gevpy.protocol, "json_lines", json_lines)  # the import below replaces it, for this test only
    without = importlib.import_module(json_lines.__name__)
    assert (without.loads, without.dumps) == (without._stdlib_loads, without._stdlib_dumps)


def test_lines_and_drips_take_linear_time(library: str) -> None:
    """A flood of small lines, of empty ones, and one line that comes byte by byte."""
    check_linear(flood(JsonLinesProtocol(), b"1\n"), 40_000)
    check_linear(flood(JsonLinesProtocol(), b"\r\n"), 40_000)
    check_linear(drip(JsonLinesProtocol(max_frame_bytes=1 << 20), b"["), 20_000)
