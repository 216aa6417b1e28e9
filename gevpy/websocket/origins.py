"""Which pages of the web may open a connection here: the Origin that a browser tells, and what is allowed.

A browser lets any page open a WebSocket to any host and sends the host's cookies along; the one defence is that it
tells truly where the page is from (RFC 6455 section 10.2). So unless told otherwise only pages of the same host may.
What is no browser can tell any Origin, or none: this is no login.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from gevpy.errors import ConfigError
from gevpy.websocket.http import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gevpy.websocket.http import Request

__all__ = ["OriginPolicy"]

NAME = r"[0-9a-z_-]++(?:\.[0-9a-z_-]++)*+"
PLACE = rf"(?P<host>{NAME}|\[[0-9a-f:.]++\])(?::(?P<port>[1-9][0-9]{{0,4}}))?"
ORIGIN = re.compile(rf"(?P<scheme>[a-z][0-9a-z+.-]*+)://(?P<wild>\*\.)?{PLACE}")
HOST = re.compile(PLACE)
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
WEB = ("http", "https")
MOST_BYTES = 512  # a name has 253 at most


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None


class OriginPolicy:
    """Decides by a request's Origin.

    Scheme and host compare without case, and a default port is equal to the explicit one. Two Origin fields, or one
    that is malformed, are refused.

    Args:
        origins: None, the default, allows pages of the host that the request is for (host and port; behind a proxy
            that ends TLS nobody knows the scheme). A list names what is allowed instead: ``"https://example.com"``,
            ``"https://*.example.com"`` (one whole label or more in place of the ``*``, so not ``example.com`` itself),
            ``"null"`` for sandboxed pages and files, ``"*"`` for everything.
        require_origin: refuse requests without an Origin, too. Default False: what is no browser sends none.

    Raises:
        ConfigError: an origin that is none, or a list that is a ``str``.

    Source: RFC 6454 for the Origin, RFC 6455 section 10.2 for its use.

    Example:
        >>> policy = OriginPolicy(["https://example.com", "https://*.example.com:8443"])
        >>> policy.check(request)  # raises Refusal with status 403 where it isn't allowed
    """

    __slots__ = ("_allowed", "_is_open", "_is_same_origin", "_patterns", "_require_origin")

    def __init__(self, origins: Iterable[str] | None = None, *, require_origin: bool = False) -> None:
        """Allow ``origins``."""
        if isinstance(origins, str):
            raise ConfigError(f"origins must be a list of origins, such as [{origins!r}], or None")
        self._is_same_origin = origins is None
        self._require_origin = require_origin
        self._is_open = False
        self._allowed: set[_Origin | None] = set()
        self._patterns: set[_Origin] = set()
        for origin in origins or ():
            self._add(origin)

    def _add(self, text: str) -> None:
        if text == "*":
            self._is_open = True
            return
        if text == "null":
            self._allowed.add(None)
            return
        found = ORIGIN.fullmatch(text.lower()) if isinstance(text, str) else None
        if found is None:
            raise ConfigError(
                f'{text!r} is no origin: it must be like "https://example.com", "https://*.example.com:8443", '
                '"null" or "*"'
            )
        (self._patterns if found["wild"] else self._allowed).add(_origin(found))

    def check(self, request: Request) -> None:
        """Let ``request`` pass, or raise.

        Raises:
            Refusal: 403, the page is not of an origin that is allowed.
        """
        told = request.headers.get_all("origin")
        if not told:
            if self._require_origin:
                raise Refusal(403, "an Origin is required")
            return
        if len(told) > 1 or not (self._is_open or self._allows(told[0], request)):
            raise Refusal(403, "pages of this origin may not connect here")

    def _allows(self, text: str, request: Request) -> bool:
        if text == "null":
            return None in self._allowed
        found = ORIGIN.fullmatch(text.lower()) if len(text) <= MOST_BYTES else None
        if found is None or found["wild"]:
            return False
        origin = _origin(found)
        if self._is_same_origin:
            return origin.scheme in WEB and _is_at(origin, request.host.lower())
        if origin in self._allowed:
            return True
        return any(origin._replace(host=parent) in self._patterns for parent in _parents(origin.host))


def _origin(found: re.Match[str]) -> _Origin:
    port = found["port"]
    return _Origin(found["scheme"], found["host"], int(port) if port else PORTS.get(found["scheme"]))


def _is_at(origin: _Origin, host: str) -> bool:
    found = HOST.fullmatch(host)
    if found is None:
        return False
    port = int(found["port"]) if found["port"] else PORTS[origin.scheme]
    return (origin.host, origin.port) == (found["host"], port)


def _parents(host: str) -> Iterator[str]:
    """Give the domains that ``host`` is in, the nearest first."""
    while "." in host:
        _, _, host = host.partition(".")
        yield host
