"""The metrics port: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for whoever watches the process.

A listener of its own on the server's loop. A connection carries one request: the head is parsed by h11, answered at
once and in one write, and then the connection ends. There are no tasks, so nothing a scraper does can leave one
behind; all that a connection holds is its transport and one timer.

What a bad client can take is bounded: 1 KiB of request head, 5 seconds from connecting to having the answer, 8
connections at once, and some more that are only told to go away. Whatever goes wrong here is answered with an
error or cuts this connection; the server never notices.

Bound to loopback, it answers only to requests that name loopback in ``Host``. That keeps out web pages which
point their own name at 127.0.0.1 to read what only this machine should see (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import h11
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from gevpy.addresses import format_address
from gevpy.errors import BindError, ConfigError
from gevpy.log_limit import LimitedLog
from gevpy.metrics.collector import ServerCollector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric

    from gevpy.reactor import Reactor

__all__ = ["MetricsEndpoint"]

HEAD_BYTES = 1024
DEADLINE_S = 5.0
GOODBYE_S = 1.0  # for a client to read that it was too late
MAX_CONNECTIONS = 8
MAX_OPEN = 64  # with those that are being told that there are too many
MAX_DISCARDED_BYTES = 64 * 1024
BACKLOG = 16
MAX_PORT = 65535

TEXT = "text/plain; charset=utf-8"
METHODS = (b"GET", b"HEAD")
PATHS_HINT = "not found; there are /metrics, /healthz and /readyz\n"

ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]\0- \x7f]+)\]|(?P<host>[^\[\]:\0- \x7f]+)):(?P<port>[0-9]{1,5})")
ODD_VERSION = re.compile(r"version=(?![0-9]+(?:\.[0-9]+)*\s*(?:[;,]|$))", re.ASCII)  # choose_encoder can't take these
HOST_HEADER = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::[0-9]*)?", re.ASCII)

logger = logging.getLogger("gevpy.metrics")


class MetricsEndpoint:
    """The metrics port of one server; made by `start`.

    For the loop it was started on.

    Attributes:
        address: where it really listens, ``"127.0.0.1:9091"`` or ``"[::1]:9091"``.
        ready: what ``/readyz`` says. False until the server sets it, and again while it drains.

    Resource handling: `stop` closes the listener and every connection, and waits until they are gone.
    """

    def __init__(self, sock: socket.socket, reactors: Sequence[Reactor]) -> None:
        """Set up on a bound socket; nothing is served before `start` has listened."""
        name = sock.getsockname()
        self.address = format_address(name)
        self.ready = False
        self.log = LimitedLog(logger)
        self._collector = ServerCollector(reactors)
        self._only_loopback = _is_loopback(name[0])
        self._server: asyncio.Server | None = None
        self._served: set[_Exchange] = set()
        self._refused: set[_Exchange] = set()
        self._stopped = False

    @classmethod
    async def start(cls, address: str, reactors: Sequence[Reactor]) -> MetricsEndpoint:
        """Listen on ``address`` and begin to answer.

        Args:
            address: ``"host:port"`` or ``"[ipv6]:port"``; port 0 lets the system choose. A name is bound on the
                first of its addresses that can be had, IPv4 first.
            reactors: the server's loops.

        Raises:
            ConfigError: ``address`` is not of this form.
            BindError: it can't be listened on.
        """
        sock = _bind(address)
        endpoint = cls(sock, reactors)
        loop = asyncio.get_running_loop()
        try:
            # To asyncio, backlog is also the accepts per wake, with a line of log for each when out of descriptors.
            endpoint._server = await loop.create_server(lambda: _Exchange(endpoint), sock=sock, backlog=1)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
        return endpoint

    async def stop(self) -> None:
        """Close the listener and every connection, whatever state it is in. Idempotent."""
        self._stopped = True
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        left = [exchange.cut() for exchange in (*self._served, *self._refused)]
        if left:
            await asyncio.wait(left)
        await server.wait_closed()

    def collect(self) -> Iterator[Metric]:
        """Give the server's metrics, then the application's own from the global registry."""
        yield from self._collector.collect()
        yield from REGISTRY.collect()

    # -- connections ---------------------------------------------------------------------------------------------

    def enter(self, exchange: _Exchange) -> bool:
        """Take in a connection.

        Returns:
            Whether it may ask; otherwise it is one too many, and may only be told so.

        Raises:
            ConnectionRefusedError: there is no room even for that, or the endpoint has stopped.
        """
        if self._stopped or len(self._served) + len(self._refused) >= MAX_OPEN:
            raise ConnectionRefusedError
        if len(self._served) >= MAX_CONNECTIONS:
            self._refused.add(exchange)
            return False
        self._served.add(exchange)
        return True

    def leave(self, exchange: _Exchange) -> None:
        """Let a connection go."""
        self._served.discard(exchange)
        self._refused.discard(exchange)

    # -- answers -------------------------------------------------------------------------------------------------

    def answer(self, request: h11.Request) -> tuple[HTTPStatus, str, bytes]:
        """Answer a request: status, content type and body. Never raises."""
        headers = dict(request.headers)
        if self._only_loopback and not _names_loopback(headers.get(b"host")):
            return _text(HTTPStatus.FORBIDDEN, "the Host header must name this machine's loopback\n")
        if request.method not in METHODS:
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n")
        match request.target.partition(b"?")[0]:
            case b"/metrics":
                return self._metrics(headers.get(b"accept", b"").decode("ascii", "replace"))
            case b"/healthz":
                return _text(HTTPStatus.OK, "ok")
            case b"/readyz":
                ready, not_ready = (HTTPStatus.OK, "ready"), (HTTPStatus.SERVICE_UNAVAILABLE, "not ready")
                return _text(*(ready if self.ready else not_ready))
            case _:
                return _text(HTTPStatus.NOT_FOUND, PATHS_HINT)

    def _metrics(self, accept: str) -> tuple[HTTPStatus, str, bytes]:
        encode, content_type = choose_encoder("" if ODD_VERSION.search(accept) else accept)
        try:
            return HTTPStatus.OK, content_type, encode(self)
        except Exception as error:  # noqa: BLE001 - collectors in the global registry are the application's
            self.log.log("collect", logging.ERROR, "a metrics collector failed", error)
            return _text(HTTPStatus.INTERNAL_SERVER_ERROR, "a metrics collector failed; see the log\n")


class _Exchange(asyncio.Protocol):
    """One connection of the metrics port: one request, one answer.

    After the answer our side is shut down, and what the client still sends is read and thrown away until it
    closes, too. Closing at once would reset the connection, and could take the answer with it.
    """

    _transport: asyncio.Transport  # from connection_made on

    def __init__(self, endpoint: MetricsEndpoint) -> None:
        """Begin before the connection is made."""
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER)
        self._received = 0
        self._answered = False
        self._without_body = False
        self._timer: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()

    # -- what the loop calls -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or send it away."""
        self._transport = cast("asyncio.Transport", transport)
        try:
            welcome = self._endpoint.enter(self)
        except ConnectionRefusedError:
            self.cut()
            return
        self._timer = self._loop.call_later(DEADLINE_S if welcome else GOODBYE_S, self._too_late)
        if not welcome:
            self._reply(*_text(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n"))

    def data_received(self, data: bytes) -> None:
        """Read the head; the first whole one is answered, whatever follows is thrown away."""
        room = max(0, HEAD_BYTES - self._received)
        self._received += len(data)
        if self._answered:
            if self._received > MAX_DISCARDED_BYTES:
                self.cut()
            return
        try:
            self._read_head(data[:room])
        except Exception as error:  # noqa: BLE001 - a fault of ours ends this connection, not more
            self._endpoint.log.log("answer", logging.ERROR, "a request on the metrics port failed", error)
            self.cut()

    def eof_received(self) -> None:
        """Close: the client has all it wanted, or has given up."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Let go of everything."""
        if self._timer is not None:
            self._timer.cancel()
        self._endpoint.leave(self)
        self._gone.set_result(None)

    # -- what happens --------------------------------------------------------------------------------------------

    def cut(self) -> asyncio.Future[None]:
        """End the connection now, sent or not; the future is done when it is gone."""
        self._transport.abort()
        return self._gone

    def _read_head(self, data: bytes) -> None:
        self._http.receive_data(data)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            self._reply(*_text(HTTPStatus(error.error_status_hint), "bad request\n"))
            return
        if isinstance(event, h11.Request):
            self._without_body = event.method == b"HEAD"
            self._reply(*self._endpoint.answer(event))
        elif self._received >= HEAD_BYTES:
            reason = f"the request's head is longer than {HEAD_BYTES} bytes\n"
            self._reply(*_text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, reason))

    def _too_late(self) -> None:
        if self._answered:
            self.cut()
            return
        self._timer = self._loop.call_later(GOODBYE_S, self.cut)
        self._reply(*_text(HTTPStatus.REQUEST_TIMEOUT, f"no request within {DEADLINE_S:g} s\n"))

    def _reply(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self._answered = True
        if self._transport.is_closing():
            return
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET, HEAD"))
        head = self._http.send(h11.Response(status_code=status, headers=headers, reason=status.phrase)) or b""
        self._transport.write(head if self._without_body else head + body)
        self._transport.write_eof()


def _text(status: HTTPStatus, text: str) -> tuple[HTTPStatus, str, bytes]:
    return status, TEXT, text.encode()


# -- addresses -----------------------------------------------------------------------------------------------------


def _bind(address: str) -> socket.socket:
    """Listen on the first address of ``address`` that can be had."""
    host, port = _parsed(address)
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _cannot_bind(address, error) from error
    except UnicodeError as error:  # a name that can't be one, such as a label that is too long
        raise _malformed(address) from error
    failure = OSError("no such address")
    for family, _, _, _, name in sorted(infos, key=lambda info: info[0] != socket.AF_INET):
        try:
            return _listen_on(family, name)
        except OSError as error:
            failure = error
    raise _cannot_bind(address, failure) from failure


def _listen_on(family: int, name: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(name)
        sock.listen(BACKLOG)
        sock.settimeout(0)
    except BaseException:
        sock.close()
        raise
    return sock


def _parsed(address: str) -> tuple[str, int]:
    match = ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None or int(match["port"]) > MAX_PORT:
        raise _malformed(address)
    if match["v6"] is None:
        return match["host"], int(match["port"])
    try:
        ipaddress.IPv6Address(match["v6"])
    except ValueError as error:
        raise _malformed(address) from error
    return match["v6"], int(match["port"])


def _malformed(address: object) -> ConfigError:
    return ConfigError(f'metrics must be "host:port", such as "127.0.0.1:9091" or "[::1]:9091", not {address!r}')


def _cannot_bind(address: str, error: OSError) -> BindError:
    return BindError(address, OSError(error.errno, f"{error.strerror or error} (the metrics address)"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names_loopback(header: bytes | None) -> bool:
    """Tell whether a Host header is one that a page elsewhere can't send; HTTP/1.0 probes have none, browsers do."""
    if header is None:
        return True
    match = HOST_HEADER.fullmatch(header.decode("latin-1").strip())
    if match is None:
        return False
    host = match[1] if match[1] is not None else match[2]
    return host.lower() == "localhost" or _is_loopback(host)
