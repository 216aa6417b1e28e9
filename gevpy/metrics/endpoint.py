"""The metrics port: ``/metrics`` for Prometheus, ``/`` for people, ``/stats.json``, and ``/healthz`` and ``/readyz``.

A listener of its own on the server's loop. A connection carries one request: the head is parsed by h11, answered in
one write, and then the connection ends. What needs no numbers is answered at once; for numbers, the source is asked
to bring them up to date first, once for all who wait. That is the only task, so nothing a scraper does can leave one
behind; all that a connection holds is its transport and one timer.

What a bad client can take is bounded: 8 KiB of request head, which is what browsers need, 5 seconds from connecting
to having the answer, 8 connections at once, and some more that are only told to go away. Whatever goes wrong here is
answered with an error or cuts this connection; the server never notices.

Bound to loopback, it answers only to requests that name loopback in ``Host``. That keeps out web pages which
point their own name at 127.0.0.1 to read what only this machine should see (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, cast

import h11
from prometheus_client.exposition import choose_encoder

from gevpy.addresses import format_address
from gevpy.log_limit import LimitedLog
from gevpy.metrics.address import BACKLOG, is_loopback, listen_at, names_loopback
from gevpy.metrics.answer import FIELDS, Answer, plain
from gevpy.metrics.page import page_file
from gevpy.metrics.refresh import Refresher

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

__all__ = ["MetricsEndpoint", "MetricsSource"]

HEAD_BYTES = 8 * 1024
DEADLINE_S = 5.0
GOODBYE_S = 1.0  # for a client to read that it was too late
MAX_CONNECTIONS = 8
MAX_OPEN = 64  # with those that are being told that there are too many
MAX_DISCARDED_BYTES = 64 * 1024

METHODS = (b"GET", b"HEAD")
PATHS_HINT = "not found; there are /, /metrics, /stats.json, /healthz and /readyz\n"

ODD_VERSION = re.compile(r"version=(?![0-9]+(?:\.[0-9]+)*\s*(?:[;,]|$))", re.ASCII)  # choose_encoder can't take these

logger = logging.getLogger("gevpy.metrics")


class MetricsSource(Protocol):
    """Where the numbers come from: one loop, or the supervisor of many.

    For the loop of the endpoint that asks it.
    """

    async def refresh(self) -> None:
        """Bring the numbers up to date, as far as that can be done within a second.

        What it raises is logged, and the last numbers are shown. It is cancelled when it takes too long.
        """

    def collect(self) -> Iterator[Metric]:
        """Give what ``/metrics`` shows: gevpy's families, then the application's own."""
        ...

    def stats(self) -> dict[str, Any]:
        """Give the document of ``/stats.json``, which ``json`` can write; see `gevpy.metrics.source`."""
        ...

    def trouble(self) -> str:
        """Say what is wrong although the server serves, such as ``"1 of 2 workers has failed"``; "" for nothing."""
        ...


class MetricsEndpoint:
    """The metrics port of one server; made by `start`.

    For the loop it was started on.

    Attributes:
        address: where it really listens, ``"127.0.0.1:9091"`` or ``"[::1]:9091"``.
        ready: what ``/readyz`` says. False until the server sets it, and again while it drains.

    Resource handling: `stop` closes the listener and every connection, and waits until they are gone.
    """

    def __init__(self, sock: socket.socket, source: MetricsSource) -> None:
        """Set up on a bound socket; nothing is served before `start` has listened."""
        name = sock.getsockname()
        self.address = format_address(name)
        self.ready = False
        self.log = LimitedLog(logger)
        self.refresher = Refresher(source.refresh, self.log)
        self._source = source
        self._only_loopback = is_loopback(name[0])
        self._server: asyncio.Server | None = None
        self._served: set[_Exchange] = set()
        self._refused: set[_Exchange] = set()
        self._stopped = False

    @classmethod
    async def start(cls, address: str, source: MetricsSource) -> MetricsEndpoint:
        """Listen on ``address`` and begin to answer.

        Args:
            address: ``"host:port"`` or ``"[ipv6]:port"``; port 0 lets the system choose. A name is bound on the
                first of its addresses that can be had, IPv4 first.
            source: the numbers to show.

        Raises:
            ConfigError: ``address`` is not of this form.
            BindError: it can't be listened on.
        """
        sock = listen_at(address)
        endpoint = cls(sock, source)
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
        await self.refresher.stop()
        if left:
            await asyncio.wait(left)
        await server.wait_closed()

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
        self.refresher.forget(exchange.answer_late)

    # -- answers -------------------------------------------------------------------------------------------------

    def answer(self, request: h11.Request) -> Answer | Callable[[], Answer]:
        """Answer a request; if that takes fresh numbers, give what answers once they are there. Never raises."""
        headers = dict(request.headers)
        if self._only_loopback and not names_loopback(headers.get(b"host")):
            return plain(HTTPStatus.FORBIDDEN, "the Host header must name this machine's loopback\n")
        if request.method not in METHODS:
            return plain(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n")
        path = request.target.partition(b"?")[0]
        if path == b"/metrics":
            accept = headers.get(b"accept", b"").decode("ascii", "replace")
            encode, content_type = choose_encoder("" if ODD_VERSION.search(accept) else accept)
            return partial(self._show, content_type, encode)
        if path == b"/stats.json":
            return partial(self._show, "application/json", _json_of)
        return self._answer_now(path)

    def _answer_now(self, path: bytes) -> Answer:
        if path == b"/healthz":
            return plain(HTTPStatus.OK, "ok")
        if path == b"/readyz":
            if not self.ready:
                return plain(HTTPStatus.SERVICE_UNAVAILABLE, "not ready")
            trouble = self._source.trouble()
            return plain(HTTPStatus.OK, f"degraded: {trouble}" if trouble else "ready")
        return page_file(path) or plain(HTTPStatus.NOT_FOUND, PATHS_HINT)

    def _show(self, content_type: str, encode: Callable[[MetricsSource], bytes]) -> Answer:
        try:
            return Answer(HTTPStatus.OK, content_type, encode(self._source))
        except Exception as error:  # noqa: BLE001 - collectors in the global registry are the application's
            self.log.log("collect", logging.ERROR, "a metrics collector failed", error)
            return plain(HTTPStatus.INTERNAL_SERVER_ERROR, "a metrics collector failed; see the log\n")


def _json_of(source: MetricsSource) -> bytes:
    return json.dumps(source.stats(), separators=(",", ":"), allow_nan=False).encode()


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
        self._late_answer: Callable[[], Answer] | None = None  # asked for, and waits for fresh numbers
        self._answered = False
        self._without_body = False
        self._at_eof = False
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
            self._reply(plain(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n"))

    def data_received(self, data: bytes) -> None:
        """Read the head; the first whole one is answered, whatever follows is thrown away."""
        room = max(0, HEAD_BYTES - self._received)
        self._received += len(data)
        if self._answered or self._late_answer is not None:
            if self._received > MAX_DISCARDED_BYTES:
                self.cut()
            return
        try:
            self._read_head(data[:room])
        except Exception as error:  # noqa: BLE001 - a fault of ours ends this connection, not more
            self._fail(error)

    def eof_received(self) -> bool:
        """Close, if the client has all it wanted, or has given up; but not before an answer that it waits for."""
        self._at_eof = True
        return self._late_answer is not None and not self._answered

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

    def answer_late(self) -> None:
        """Answer what was asked, with the numbers as they are now. Never raises."""
        if self._late_answer is None or self._answered or self._transport.is_closing():
            return
        try:
            self._reply(self._late_answer())
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._fail(error)

    def _read_head(self, data: bytes) -> None:
        self._http.receive_data(data)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            self._reply(plain(HTTPStatus(error.error_status_hint), "bad request\n"))
            return
        if isinstance(event, h11.Request):
            self._without_body = event.method == b"HEAD"
            self._answer(event)
        elif self._received >= HEAD_BYTES:
            reason = f"the request's head is longer than {HEAD_BYTES} bytes\n"
            self._reply(plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, reason))

    def _answer(self, request: h11.Request) -> None:
        answer = self._endpoint.answer(request)
        if isinstance(answer, Answer):
            self._reply(answer)
        else:
            self._late_answer = answer
            self._endpoint.refresher.ask(self.answer_late)

    def _fail(self, error: Exception) -> None:
        self._endpoint.log.log("answer", logging.ERROR, "a request on the metrics port failed", error)
        self.cut()

    def _too_late(self) -> None:
        if self._answered:
            self.cut()
            return
        self._timer = self._loop.call_later(GOODBYE_S, self.cut)
        if self._late_answer is not None:
            self.answer_late()  # the head came late, or the refresh does: better old numbers than none
        else:
            self._reply(plain(HTTPStatus.REQUEST_TIMEOUT, f"no request within {DEADLINE_S:g} s\n"))

    def _reply(self, answer: Answer) -> None:
        self._answered = True
        if self._transport.is_closing():
            return
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Connection", "close"),
            *FIELDS,
        ]
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET, HEAD"))
        response = h11.Response(status_code=answer.status, headers=headers, reason=answer.status.phrase)
        head = self._http.send(response) or b""
        self._transport.write(head if self._without_body else head + answer.body)
        if self._at_eof:
            self._transport.close()
        else:
            self._transport.write_eof()
