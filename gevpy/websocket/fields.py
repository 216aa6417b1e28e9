"""Named values that may come more than once: the fields of an HTTP head, the parameters of a query.

Both read like a dict of first values; `get_all` gives the rest. Fields that go out are checked here, too: what an
application gives must never become a second field or a second answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from gevpy.errors import ConfigError

__all__ = ["FieldSource", "Fields", "Query", "require_fields", "tokens"]

FieldSource = Mapping[str, str] | Iterable[tuple[str, str]]

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")  # RFC 9110 section 5.6.2
VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*+")
SECRETS = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})


class _Pairs(Mapping[str, str]):
    """An immutable mapping of names to one value or more, in the order in which the names came first."""

    __slots__ = ("_values",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        values: dict[str, list[str]] = {}
        for name, value in pairs:
            values.setdefault(self._key(name), []).append(value)
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[self._key(name)][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        shown = [(name, self._shown(name, value)) for name, values in self._values.items() for value in values]
        return f"{type(self).__name__}({shown})"

    def get_all(self, name: str) -> list[str]:
        """Give every value of ``name`` in the order in which they came; none is an empty list."""
        return list(self._values.get(self._key(name), ()))

    @staticmethod
    def _key(name: str) -> str:
        return name

    @staticmethod
    def _shown(name: str, value: str) -> str:  # noqa: ARG004 - what a query shows doesn't depend on names
        return value


class Fields(_Pairs):
    """The fields of an HTTP head; names compare without case.

    A mapping of names to their first values: ``fields["host"]`` raises KeyError where there is none, iteration gives
    names in lower case, once each, in the order in which they came. Immutable, so it may be kept and shared by
    threads. ``repr`` leaves out the values that are secrets: cookies and credentials.

    Args:
        pairs: names and values, as they came.

    Source: RFC 9110 section 5.

    Example:
        >>> fields = Fields([("Host", "example.com"), ("Cookie", "a=1"), ("cookie", "b=2")])
        >>> fields["HOST"], fields.get_all("cookie")
        ('example.com', ['a=1', 'b=2'])
        >>> fields
        Fields([('host', 'example.com'), ('cookie', '...'), ('cookie', '...')])
    """

    __slots__ = ()

    @staticmethod
    def _key(name: str) -> str:
        return name.lower()

    @staticmethod
    def _shown(name: str, value: str) -> str:
        return "..." if name in SECRETS else value


class Query(_Pairs):
    """The parameters of a request's query; names compare with case.

    A mapping of names to their first values, as `Fields` is; a parameter without a value has an empty one.
    Immutable, so it may be kept and shared by threads.

    Args:
        pairs: names and values, percent-decoded.

    Source: the application/x-www-form-urlencoded form of the URL standard.

    Example:
        >>> query = Query([("room", "a"), ("room", "b")])
        >>> query["room"], query.get_all("room"), query.get("Room")
        ('a', ['a', 'b'], None)
    """

    __slots__ = ()


def tokens(values: Iterable[str]) -> list[str]:
    """Give the elements of comma-separated lists, one after the other, without the space around them.

    Empty elements are left out, as RFC 9110 section 5.6.1 has it.

    Example:
        >>> tokens(["keep-alive, Upgrade", "x"])
        ['keep-alive', 'Upgrade', 'x']
    """
    return [element for value in values for piece in value.split(",") if (element := piece.strip(" \t"))]


def is_token(text: str) -> bool:
    """Tell whether ``text`` is a token of HTTP: what names, methods and subprotocols are made of."""
    return TOKEN.fullmatch(text) is not None


def require_fields(fields: FieldSource, *, reserved: Iterable[str] = ()) -> tuple[tuple[str, str], ...]:
    """Check fields that an application wants to send, and give them as pairs.

    Args:
        fields: a mapping, or pairs where a name comes more than once.
        reserved: names in lower case that are not the application's to give.

    Raises:
        ConfigError: neither a mapping nor pairs; a name that is no token or is reserved; a value with a control
            character (CR and LF above all) or one beyond Latin-1.
    """
    try:
        pairs = [(name, value) for name, value in (fields.items() if isinstance(fields, Mapping) else fields)]
    except (TypeError, ValueError):
        raise ConfigError("header fields must be a mapping, or pairs of names and values") from None
    taken = frozenset(reserved)
    return tuple(_require_field(name, value, taken) for name, value in pairs)


def _require_field(name: str, value: str, reserved: frozenset[str]) -> tuple[str, str]:
    if not isinstance(name, str) or not is_token(name):
        raise ConfigError(f"{name!r} is no name of a header field")
    if name.lower() in reserved:
        raise ConfigError(f"the header field {name} is set by gevpy")
    if not isinstance(value, str) or VALUE.fullmatch(value) is None:  # the value may be a secret: it isn't shown
        raise ConfigError(f"the value of the header field {name} must be a str of Latin-1 without control characters")
    return name, value.strip(" \t")
