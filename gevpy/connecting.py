"""The client's door: ``await gevpy.connect(url)``, ``async with`` it, or ``async for`` to connect again and again."""

from __future__ import annotations

import asyncio
import functools
import logging
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

from gevpy.client import Client
from gevpy.client_loop import ClientOptions
from gevpy.dial import dial, parse_url
from gevpy.errors import ConfigError, HandshakeError
from gevpy.log_limit import LimitedLog, printable
from gevpy.loop_service import USER_TIMEOUT_GRACE_S
from gevpy.options import Limits, ServeOptions, Timeouts, Watermarks, require_seconds
from gevpy.protocol.base import Protocol
from gevpy.protocol.raw import RawProtocol
from gevpy.reconnect import Backoff
from gevpy.tls import TLS, client_context

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Generator
    from types import TracebackType

    from gevpy.dial import Target

__all__ = ["Connecting", "connect"]

WEBSOCKET_OPTIONS = frozenset(
    {"headers", "subprotocols", "compression", "max_message_bytes", "ping_interval_s", "ping_timeout_s"}
)
PASSING = frozenset({None, 408, 425, 429, 500, 502, 503, 504})  # what failed without a status, or may soon be over
CLIENT_LIMITS = Limits(slow_consumer="block")

log = LimitedLog(logging.getLogger("gevpy.client"))


class Connecting:
    """What `connect` returns: await it or enter it for a `Client`, or loop over it for one after the other."""

    def __init__(  # noqa: PLR0913 - all that was told to `connect`
        self,
        target: Target,
        *,
        protocol: Protocol,
        context: SSLContext | None,
        server_hostname: str | None,
        connect_timeout_s: float | None,
        options: ClientOptions,
        attempts: int | None,
    ) -> None:
        """Keep what to do; nothing runs yet."""
        self._target = target
        self._protocol = protocol
        self._context = context
        self._server_hostname = server_hostname
        self._connect_timeout_s = connect_timeout_s
        self._options = options
        self._attempts = attempts
        self._client: Client | None = None

    def __repr__(self) -> str:
        """Show where to."""
        return f"<Connecting to {self._target}>"

    def __await__(self) -> Generator[Any, None, Client]:
        """Connect once, and give the client."""
        return self._open().__await__()

    async def __aenter__(self) -> Client:
        """Connect once, and give the client."""
        if self._client is not None:
            raise RuntimeError("what connect() returned can be entered once at a time: call connect() again")
        self._client = await self._open()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def __aiter__(self) -> AsyncGenerator[Client, None]:
        """Connect again and again: give a client, close it when the next is asked for, wait, and give another."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._attempts)
        while True:
            client = await self._open_at_last(backoff)
            began = loop.time()
            async with client:
                yield client
            backoff.ended(loop.time() - began)
            await asyncio.sleep(backoff.next_wait_s())

    async def _open_at_last(self, backoff: Backoff) -> Client:
        """Connect, however often it takes; raise the last error when there is to be no other attempt."""
        while True:
            try:
                return await self._open()
            except (OSError, HandshakeError) as error:
                backoff.failed()
                if backoff.exhausted or getattr(error, "status", None) not in PASSING:
                    raise
                wait_s = backoff.next_wait_s()
                text = printable(getattr(error, "strerror", None) or error)
                if str(self._target) not in text:
                    text = f"cannot connect to {self._target}: {text}"
                then = f"the next attempt ({backoff.failures + 1}) follows in {wait_s:.1f} s"
                log.log(type(error).__name__, logging.WARNING, f"{text}; {then}")
            await asyncio.sleep(wait_s)

    async def _open(self) -> Client:
        try:
            async with asyncio.timeout(self._connect_timeout_s) as patience:
                return await self._open_unhurried()
        except TimeoutError as error:
            if not patience.expired():
                raise
            text = f"cannot connect to {self._target}: not done within {self._connect_timeout_s} s"
            raise TimeoutError(text) from error

    async def _open_unhurried(self) -> Client:
        stall_s = self._options.timeouts.write_stall_s
        sock = await dial(self._target, None if stall_s is None else stall_s + USER_TIMEOUT_GRACE_S)
        client = Client(self._target, self._options, self._protocol)
        try:
            await self._make_transport(client, sock)
            await client.opened()
        except BaseException:
            if client._connection.was_made:
                client.abort()  # cancelled in the very turn: TLS would say good-bye on a socket that is closed
            client.leave()
            sock.close()
            raise
        return client

    async def _make_transport(self, client: Client, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection = client._connection
        if self._context is None:
            await loop.create_connection(lambda: connection, sock=sock)
            return
        reactor = connection.worker._reactor
        try:
            await loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=self._context,
                server_hostname=self._server_hostname,
                ssl_handshake_timeout=reactor.handshake_s,
                ssl_shutdown_timeout=reactor.tls_shutdown_s,
            )
        except OSError as error:
            reason = str(error) or type(error).__name__
            raise HandshakeError(f"cannot connect to {self._target}: the TLS handshake failed: {reason}") from error


def connect(  # noqa: PLR0913 - flat where people reach for them, grouped where they don't
    url: str,
    *,
    protocol: Protocol | None = None,
    ssl: TLS | SSLContext | None = None,
    server_hostname: str | None = None,
    connect_timeout_s: float | None = 10.0,
    idle_timeout_s: float | None = None,
    limits: Limits = CLIENT_LIMITS,
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    watermarks: Watermarks = Watermarks(),  # noqa: B008 - frozen
    attempts: int | None = None,
    **websocket: Any,
) -> Connecting:
    """Connect to a server: ``await`` it for a `Client`, use ``async with`` to have it closed, or ``async for``.

    ``async for`` gives a connected client again and again. The body of the loop uses it until it ends; going on closes
    it and connects anew, after a wait drawn from a window that doubles from 0.1 s to 30 s with each failure, and begins
    anew after a connection that lasted 5 s. Leave with ``break``; put ``async with client`` around the body to have it
    closed right then. Errors inside the body are the body's own: catch `ConnectionClosed` to go on.

    For one loop: clients of it with equal options share a read buffer and a timer.

    Args:
        url: ``tcp://host:port``, ``tls://host:port``, ``unix:///path``, ``ws://host:port/path?query`` or ``wss://``.
            IPv6 addresses in brackets. A name's addresses are tried 0.25 s apart, both families alternating; the first
            that answers is taken.
        protocol: how bytes become messages; default `RawProtocol`. One object may serve many clients.
        ssl: for ``tls://``: a `TLS` (``ca`` replaces the system's authorities, ``cert`` is shown to the server), or an
            ``ssl.SSLContext``. Default: the system's authorities. With ``unix://`` it turns TLS on.
        server_hostname: the name that the certificate must have; default: the host of the URL.
        connect_timeout_s: for all of it: looking the name up, connecting, the TLS handshake. Default 10; None: no end.
        idle_timeout_s: close when nothing moved for so long. Default None: a client may wait for as long as it likes.
        limits: how much output may wait, and what to do beyond; by default more than 1 MiB makes ``send`` raise
            `WriteBufferFull`. The other limits are for servers.
        timeouts: see `Timeouts`: ``handshake_s``, ``frame_s``, ``write_stall_s``, ``close_s``, ``tls_shutdown_s``.
        watermarks: when `Client.drain` waits, and how long.
        websocket: for ``ws://`` and ``wss://``: ``headers`` (a table or pairs) and ``subprotocols`` (a list) of the
            opening request; ``compression`` (default False), ``max_message_bytes`` (1 MiB), ``ping_interval_s`` and
            ``ping_timeout_s`` (20 each), as `gevpy.websocket.WebSocketProtocol` has them.
        attempts: for ``async for``: raise after so many failures to connect in a row. Default None: never. Without it,
            too, a WebSocket server's refusal is raised at once, unless its status says that it may pass: 408, 425, 429,
            500, 502, 503, 504.

    Returns:
        An object to be awaited, entered, or iterated. Nothing happens before.

    Raises:
        ConfigError: an option can't work; at once, and never a reason to try again.
        OSError: when connecting: what the system says, as asyncio would (``ConnectionRefusedError``,
            ``socket.gaierror``, ``FileNotFoundError`` for a Unix socket), with the URL in its text.
        TimeoutError: it took longer than ``connect_timeout_s``. It is an ``OSError``, too.
        HandshakeError: the TLS handshake failed; ``__cause__`` is the ``ssl.SSLError``. Or the WebSocket handshake did;
            with ``status`` and ``headers`` where the server refused.

    Source: the shape of the ``websockets`` library's client; RFC 8305 for names with many addresses.

    Example:
        >>> import gevpy
        >>> async def follow(show):
        ...     async for client in gevpy.connect("tcp://127.0.0.1:1833", protocol=gevpy.LineProtocol()):
        ...         try:
        ...             async for line in client:
        ...                 show(line)
        ...         except gevpy.ConnectionClosed as error:
        ...             show(f"lost: {error}")
    """
    target = parse_url(url)
    protocol = _protocol_of(target, protocol, websocket)
    if connect_timeout_s is not None:
        require_seconds("connect_timeout_s", connect_timeout_s)
    if attempts is not None and (not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1):
        raise ConfigError(f"attempts must be a whole number, 1 or more, or None, not {attempts!r}")
    options = ClientOptions(idle_timeout_s, limits, timeouts, watermarks)
    ServeOptions(protocol=protocol, **options._asdict())  # checks them
    context = _context_of(target, ssl)
    name = server_hostname or target.host
    if context is None and server_hostname is not None:
        raise ConfigError("server_hostname is for TLS: use a tls:// or wss:// url")
    if context is not None and not name:
        raise ConfigError("server_hostname is needed: a Unix socket has no name that a certificate could have")
    return Connecting(
        target,
        protocol=protocol,
        context=context,
        server_hostname=name or None,
        connect_timeout_s=connect_timeout_s,
        options=options,
        attempts=attempts,
    )


def _protocol_of(target: Target, protocol: Protocol | None, websocket: dict[str, Any]) -> Protocol:
    if unknown := websocket.keys() - WEBSOCKET_OPTIONS:
        raise TypeError(f"connect() got an unexpected keyword argument {min(unknown)!r}")
    if target.is_websocket:
        if protocol is not None:
            raise ConfigError("protocol is for tcp://, tls:// and unix:// urls: ws:// and wss:// have their own")
        from gevpy.websocket.client import WebSocketClientProtocol  # noqa: PLC0415 - on first use: wsproto takes time

        return WebSocketClientProtocol(target.authority, target.resource, **websocket)
    if websocket:
        raise ConfigError(f"{min(websocket)} is for ws:// and wss:// urls")
    if protocol is not None and not isinstance(protocol, Protocol):
        raise ConfigError(f"protocol must be a gevpy.Protocol object, not {protocol!r}")
    if getattr(protocol, "is_client", True) is False:
        raise ConfigError(f"{type(protocol).__name__} is the server's side: use a ws:// or wss:// url")
    return RawProtocol() if protocol is None else protocol


def _context_of(target: Target, ssl: TLS | SSLContext | None) -> SSLContext | None:
    if ssl is None:
        return _system_context() if target.is_encrypted else None
    if target.scheme in ("tcp", "ws"):
        raise ConfigError(f"ssl is for tls:// and wss:// urls; with {target.scheme}:// nothing would be encrypted")
    if not isinstance(ssl, TLS | SSLContext):
        raise ConfigError(f"ssl must be a gevpy.TLS or an ssl.SSLContext, not {type(ssl).__name__}")
    return client_context(ssl)


@functools.cache
def _system_context() -> SSLContext:
    """Trust the system's authorities: reading them takes a good while, so it is done once."""
    return client_context(TLS())
