"""From a URL to a connected socket: what a client connects to, and how it gets there.

A name can have addresses of both families, and one family may lead nowhere. They are tried in turn, IPv6 and IPv4
alternating, each a quarter of a second after the one before or as soon as that has failed; the first that answers is
taken (RFC 8305). uvloop doesn't offer this, so it is done here, for both loops alike.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import re
import socket
from collections import deque
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, unquote

from gevpy.errors import ConfigError
from gevpy.listener import tune

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Target", "dial", "parse_url"]

WEB_PORTS = {"ws": 80, "wss": 443}
ALREADY_QUOTED = "!#$%&'()*+,/:;=?@[]~"
STAGGER_S = 0.25  # between two attempts: RFC 8305, section 5
UNIX_RETRY_S = 0.01  # how often a full Unix socket is asked again: nothing tells when it has room
MAX_PORT = 65535

Address = tuple[int, int, Any]
"""Family, protocol, and the address as the socket takes it."""


# -- what a URL says -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where a client connects to.

    Attributes:
        scheme: ``"tcp"``, ``"tls"``, ``"unix"``, ``"ws"`` or ``"wss"``.
        host: a name or an address, without brackets; ``""`` for Unix sockets.
        port: 1 to 65535; 0 for Unix sockets.
        path: of a Unix socket, else ``""``.
        resource: path and query of a WebSocket, else ``""``.
    """

    scheme: Literal["tcp", "tls", "unix", "ws", "wss"]
    host: str = ""
    port: int = 0
    path: str = ""
    resource: str = ""

    @property
    def is_encrypted(self) -> bool:
        """Whether the URL asks for TLS."""
        return self.scheme in ("tls", "wss")

    @property
    def is_websocket(self) -> bool:
        """Whether the URL asks for a WebSocket."""
        return self.scheme in WEB_PORTS

    @property
    def authority(self) -> str:
        """Host and port as a request names them: without the port that goes without saying."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == WEB_PORTS.get(self.scheme) else f"{host}:{self.port}"

    def __str__(self) -> str:
        """Write the URL."""
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.resource.partition('?')[0]}"


def parse_url(url: str) -> Target:
    """Read ``tcp://host:port``, ``tls://host:port``, ``unix:///path``, ``ws://host/path`` or ``wss://host/path``.

    Raises:
        ConfigError: it is none of these; the text names the part that is wrong, and shows no password.
    """
    if not isinstance(url, str):
        raise ConfigError(f"url must be text, such as tcp://host:port, not {type(url).__name__}")
    shown = re.sub("//.*@", "//***@", url, flags=re.DOTALL)
    if any(char <= " " or char == "\x7f" for char in url):
        raise ConfigError(f"url has a space or a control character: {shown!r}")
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        return Target("unix", path=_path(rest, shown))
    if scheme not in ("tcp", "tls", "ws", "wss"):
        raise ConfigError(f"url scheme must be tcp, tls, unix, ws or wss, as in tcp://host:port, not {shown!r}")
    if "@" in re.split("[/?#]", rest, maxsplit=1)[0]:
        raise ConfigError(f"url can't have a user or a password: {shown!r}")
    if scheme in WEB_PORTS:
        return _web_target("ws" if scheme == "ws" else "wss", rest, shown)
    rest = rest.removesuffix("/")
    if re.search("[/?#]", rest):
        raise ConfigError(f"url can't have a path, a query or a fragment: {shown!r}")
    host, port = _split(rest, shown)
    return Target("tls" if scheme == "tls" else "tcp", _host(host, shown), _port(port, shown))


def _web_target(scheme: Literal["ws", "wss"], rest: str, shown: str) -> Target:
    """Read what follows ``ws://``. Source: RFC 6455 section 3."""
    if "#" in rest:
        raise ConfigError(f"url can't have a fragment: {shown!r}")
    at = re.search("[/?]", rest)
    place, resource = (rest[: at.start()], rest[at.start() :]) if at else (rest, "/")
    host, port = _split(place, shown)
    number = _port(port, shown) if port else WEB_PORTS[scheme]
    if resource.startswith("?"):
        resource = "/" + resource
    return Target(scheme, _host(host, shown), number, resource=quote(resource, safe=ALREADY_QUOTED))


def _path(rest: str, shown: str) -> str:
    path = unquote(rest)
    if not path.startswith("/") or "\0" in path:
        raise ConfigError(f"url path must be absolute, as in unix:///run/app.sock, not {shown!r}")
    return path


def _split(rest: str, shown: str) -> tuple[str, str]:
    if not rest.startswith("["):
        host, _, port = rest.rpartition(":") if ":" in rest else (rest, "", "")
        if ":" in host:
            raise ConfigError(f"url host: an IPv6 address needs brackets, as in tcp://[::1]:80, not {shown!r}")
        return host, port
    host, bracket, tail = rest[1:].partition("]")
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ConfigError(f"url host: there is no IPv6 address within the brackets of {shown!r}") from None
    if not bracket or (tail and not tail.startswith(":")):
        raise ConfigError(f"url host: the bracket isn't followed by a port in {shown!r}")
    return host, tail[1:]


def _host(host: str, shown: str) -> str:
    if not host:
        raise ConfigError(f"url host is missing: {shown!r}")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ConfigError(f"url host can't be a name: {shown!r}") from None
    return host


def _port(port: str, shown: str) -> int:
    if not port:
        raise ConfigError(f"url port is missing, and there is no default: {shown!r}")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= len(str(MAX_PORT)) else 0
    if not 1 <= number <= MAX_PORT:
        raise ConfigError(f"url port must be a number, 1 to {MAX_PORT}: {shown!r}")
    return number


# -- the socket ------------------------------------------------------------------------------------


async def dial(target: Target, user_timeout_s: float | None) -> socket.socket:
    """Connect to ``target`` with a socket that doesn't block; the caller sees to a timeout.

    Args:
        target: where to.
        user_timeout_s: how long the kernel keeps unacknowledged data, or None for its own default.

    Raises:
        OSError: as the system has it (``ConnectionRefusedError``, ``socket.gaierror``, ...), with the URL in its text.
    """
    try:
        if target.scheme == "unix":
            return await _dial_unix(target.path)
        addresses = _alternating(await _resolve(target.host, target.port))
        if len(addresses) == 1:
            return await _dial_tcp(addresses[0], user_timeout_s)
        return await _Race(addresses, user_timeout_s).run()
    except OSError as error:
        raise _told(target, [error]) from error
    except ExceptionGroup as group:
        raise _told(target, [error for error in group.exceptions if isinstance(error, OSError)]) from group


def _told(target: Target, errors: list[OSError]) -> OSError:
    """Give an error of the same kind as the first, with the URL and all reasons in its text."""
    reasons = dict.fromkeys(_reason(error) for error in errors)
    text = f"cannot connect to {target}: {'; '.join(reasons)}"
    kind = socket.gaierror if isinstance(errors[0], socket.gaierror) else OSError
    return kind(text) if errors[0].errno is None else kind(errors[0].errno, text)


def _reason(error: OSError) -> str:
    known = error.errno is not None and not isinstance(error, socket.gaierror)
    return os.strerror(error.errno or 0) if known else str(error.strerror or error)


async def _dial_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(0)
    try:
        while True:
            try:
                sock.connect(path)  # at once, or not at all: there is no way to be told later
            except BlockingIOError:  # its backlog is full
                await asyncio.sleep(UNIX_RETRY_S)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


async def _resolve(host: str, port: int) -> list[Address]:
    """Give the addresses of ``host``; without a thread, where it is an address already."""
    loop = asyncio.get_running_loop()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((int(family), proto, address) for family, _, proto, _, address in found))


def _alternating(addresses: Iterable[Address]) -> list[Address]:
    """Order addresses so that the families take turns, beginning with that of the first."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    return [address for address in chain.from_iterable(zip_longest(*families.values())) if address is not None]


async def _dial_tcp(address: Address, user_timeout_s: float | None) -> socket.socket:
    family, proto, where = address
    sock = socket.socket(family, socket.SOCK_STREAM, proto)
    sock.settimeout(0)
    try:
        tune(sock, user_timeout_s)
        await asyncio.get_running_loop().sock_connect(sock, where)
        _refuse_itself(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_itself(sock: socket.socket, where: Any) -> None:
    """See that nobody listening, and being given the very port that was wanted, isn't taken for a server."""
    if sock.getsockname()[:2] == where[:2]:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "the socket connected to itself")


class _Race:
    """Attempts at several addresses, of which one wins."""

    def __init__(self, addresses: Iterable[Address], user_timeout_s: float | None) -> None:
        self._waiting = deque(addresses)
        self._user_timeout_s = user_timeout_s
        self._running: set[asyncio.Task[socket.socket]] = set()
        self._errors: list[Exception] = []

    async def run(self) -> socket.socket:
        """Give the winner. Raises ExceptionGroup of all failures."""
        won: asyncio.Task[socket.socket] | None = None
        try:
            while won is None and (self._waiting or self._running):
                won = await self._lap()
        finally:
            for loser in self._running - {won}:  # not waited for, so that no cancellation can come between
                loser.cancel()
                loser.add_done_callback(_let_go)
        if won is None:
            raise ExceptionGroup("no address answered", self._errors)
        return won.result()

    async def _lap(self) -> asyncio.Task[socket.socket] | None:
        """Start one more, and wait until an attempt has ended or the next one's time has come."""
        if self._waiting:
            attempt = _dial_tcp(self._waiting.popleft(), self._user_timeout_s)
            self._running.add(asyncio.get_running_loop().create_task(attempt))
        patience = STAGGER_S if self._waiting else None
        done, _ = await asyncio.wait(self._running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if error is None:
                return task
            self._running.discard(task)
            if not isinstance(error, OSError):
                raise error
            self._errors.append(error)
        return None


def _let_go(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
