"""Fields and queries as mappings, and what an application may send."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevpy import ConfigError
from gevpy.websocket.fields import Fields, Query, is_token, require_fields, tokens

PAIRS = [("Host", "a"), ("X-One", "1"), ("x-one", "2"), ("Cookie", "secret"), ("X-ONE", "")]


def test_names_of_fields_have_no_case() -> None:
    """The first value is the mapping's; all of them are given in their order."""
    fields = Fields(PAIRS)
    assert fields["HOST"] == fields["host"] == "a"
    assert fields["X-one"] == "1"
    assert fields.get_all("x-One") == ["1", "2", ""]
    assert fields.get_all("missing") == []
    assert fields.get("missing") is None
    assert "X-oNe" in fields
    assert "missing" not in fields
    with pytest.raises(KeyError):
        fields["missing"]


def test_fields_iterate_by_name() -> None:
    """Each name once, in lower case, as it first came."""
    fields = Fields(PAIRS)
    assert list(fields) == ["host", "x-one", "cookie"]
    assert len(fields) == 3
    assert dict(fields) == {"host": "a", "x-one": "1", "cookie": "secret"}
    assert fields == dict(fields)
    assert dict(Fields([])) == {}


def test_names_of_parameters_have_case() -> None:
    """A query's names differ by case."""
    query = Query([("a", "1"), ("A", "2"), ("a", "3")])
    assert (query["a"], query["A"], query.get_all("a")) == ("1", "2", ["1", "3"])
    assert list(query) == ["a", "A"]
    assert repr(query) == "Query([('a', '1'), ('a', '3'), ('A', '2')])"


def test_what_is_given_is_a_copy() -> None:
    """Changing a list that was given changes nothing inside."""
    fields = Fields(PAIRS)
    fields.get_all("x-one").clear()
    assert fields.get_all("x-one") == ["1", "2", ""]


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "Set-Cookie", "proxy-authorization"])
def test_secrets_are_not_shown(name: str) -> None:
    """The text of fields, which may come to be in a log, has no credentials (F10)."""
    text = repr(Fields([(name, "hunter2"), ("X", "seen\x1b")]))
    assert "hunter2" not in text
    assert "seen\\x1b" in text
    assert name.lower() in text


def test_fields_can_be_pickled() -> None:
    """They cross processes with what they hold."""
    again = pickle.loads(pickle.dumps(Fields(PAIRS)))  # noqa: S301 - our own bytes
    assert again.get_all("x-one") == ["1", "2", ""]


@given(st.lists(st.tuples(st.sampled_from(["a", "A", "b", "C"]), st.text(max_size=3)), max_size=8))
def test_fields_are_like_a_model(pairs: list[tuple[str, str]]) -> None:
    """Whatever the pairs, values by name are those of a scan."""
    fields = Fields(pairs)
    for name in ("a", "B", "c", "d"):
        assert fields.get_all(name) == [value for one, value in pairs if one.lower() == name.lower()]
    assert len(fields) == len({name.lower() for name, _ in pairs})


@pytest.mark.parametrize(
    ("values", "elements"),
    [
        ([], []),
        ([""], []),
        ([",, ,"], []),
        (["a"], ["a"]),
        (["a,b", " c ,\td\t"], ["a", "b", "c", "d"]),
        (["a b, c"], ["a b", "c"]),
    ],
)
def test_elements_of_lists(values: list[str], elements: list[str]) -> None:
    """Space around elements and empty ones are nothing."""
    assert tokens(values) == elements


@pytest.mark.parametrize(("text", "is_one"), [("a", True), ("!#$%&'*+-.^_`|~0Z", True), ("", False), ("a b", False)])
def test_tokens(text: str, is_one: bool) -> None:
    """A token is of HTTP's characters, and not empty."""
    assert is_token(text) is is_one
    for bad in '\x00\t\n\r "(),/:;<=>?@[\\]{}\x7f\x80é€':
        assert not is_token(f"a{bad}")


@pytest.mark.parametrize("fields", [{"X-A": " 1\t", "b": ""}, [("X-A", "1"), ("b", "")]])
def test_good_fields_pass(fields: dict[str, str] | list[tuple[str, str]]) -> None:
    """A mapping and pairs are the same, and space around values is no part of them."""
    assert require_fields(fields) == (("X-A", "1"), ("b", ""))


def test_values_may_be_latin() -> None:
    """Latin-1 can be sent, and a tab inside."""
    assert require_fields({"X": "\xe9t\xe9\tl\xe0"}) == (("X", "\xe9t\xe9\tl\xe0"),)


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "\r\nSet-Cookie", "a\n", "ä", "a\x00", None, b"a"])
def test_bad_names_raise(name: str) -> None:
    """E17: a name that would end its line is never sent."""
    with pytest.raises(ConfigError, match="name"):
        require_fields([(name, "x")])


@pytest.mark.parametrize(
    "value",
    ["a\r\nSet-Cookie: b", "a\n", "\na", "a\r", "a\rb", "\x00", "a\x00b", "\x1b[31m", "\x7f", "€", "\u2028", b"a", 1],
)
def test_bad_values_raise(value: str) -> None:
    """E17: a value that would end its line is never sent, and not shown, since it may be a secret."""
    with pytest.raises(ConfigError, match="X-Secret") as caught:
        require_fields({"X-Secret": value})
    assert "Set-Cookie" not in str(caught.value)


@pytest.mark.parametrize("fields", [5, [5], "Accept", [("one",)], [("a", "b", "c")]])
def test_no_fields_at_all(fields: Any) -> None:
    """What is neither a mapping nor pairs is told apart from a bad name or value."""
    with pytest.raises(ConfigError, match="pairs"):
        require_fields(fields)


def test_reserved_names_raise() -> None:
    """What gevpy sets itself can't be given, however it is written."""
    with pytest.raises(ConfigError, match="set by gevpy"):
        require_fields({"UpGrade": "x"}, reserved=["upgrade"])
