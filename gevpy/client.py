"""One end of a connection that we began: messages are fetched with ``recv``, instead of being handed to a handler.

Beneath is the same `Connection` as on a server. What comes waits in a bounded queue; while that is full the connection
isn't read, so that a server which sends too fast is slowed down by TCP, and nothing piles up here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from gevpy.client_loop import ClientConnection, ClientLoop, client_loop
from gevpy.closing import CloseKind
from gevpy.errors import ConfigError, ConnectionClosed, GevError, HandshakeError, ProtocolError
from gevpy.inbox import MAX_BYTES, MAX_MESSAGES, size_of
from gevpy.options import require_seconds
from gevpy.tls import TLS

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from types import TracebackType

    from gevpy.client_loop import ClientOptions
    from gevpy.closing import CloseReason
    from gevpy.connection import Connection
    from gevpy.dial import Target
    from gevpy.protocol.base import Protocol

__all__ = ["Client"]

NORMAL = frozenset({CloseKind.PEER_CLOSED, CloseKind.CLOSED_LOCALLY})
NORMAL_CODES = frozenset({None, 1000, 1001, 1005})  # of WebSocket; 1005: a close frame without a code


class Client:
    r"""A connection to a server; made by `gevpy.connect`.

    Messages that came wait here, at most 16 or 1 MiB of them; then nothing more is read until some were fetched. What
    waits to be sent never stops the reading: a server may take requests only as fast as its replies are taken.

    All of it is for the loop it was connected on, except `send` and `abort`, which are safe from any thread. Many tasks
    may send; one at a time may wait for messages.

    Example:
        >>> import gevpy
        >>> async def ask(question):
        ...     async with gevpy.connect("tcp://127.0.0.1:1833", protocol=gevpy.LineProtocol()) as client:
        ...         client.send(question)
        ...         return await client.recv(timeout_s=5)
    """

    def __init__(self, target: Target, options: ClientOptions, protocol: Protocol) -> None:
        """Set up; `gevpy.connect` calls this, and then has the loop open the connection."""
        self._target = target
        self._shared: ClientLoop | None = client_loop(options)
        self._connection = ClientConnection(self._shared.reactor, None, self)
        self._connection.protocol = protocol
        self._messages: deque[tuple[Any, Any]] = deque()
        self._bytes = 0
        self._takes_all = False
        self._waiter: asyncio.Future[None] | None = None
        self._ended = asyncio.Event()
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        """Show where it is connected to, and how it is."""
        state = str(self.close_reason) if self.closed else "connected"
        return f"<Client of {self._target}: {state}>"

    async def __aenter__(self) -> Self:
        """Give itself; leaving closes it."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; see `close`."""
        await self.close()

    # -- what it is --------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection:
        """The connection beneath: its addresses, counters of waiting bytes, TLS session, and ``context``.

        Its reading is paused and resumed by the client: leave that alone.
        """
        return self._connection

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more; messages that came before may still be there to fetch."""
        return not self._connection.connected

    @property
    def close_reason(self) -> CloseReason | None:
        """Why it closed; None as long as it hasn't."""
        return self._connection.close_reason

    @property
    def peer_addr(self) -> str:
        """The server's address, as ``"ip:port"``, ``"[::1]:80"``, or the path of a Unix socket."""
        return self._connection.peer_addr

    @property
    def local_addr(self) -> str:
        """Our own address, written like `peer_addr`."""
        return self._connection.local_addr

    @property
    def subprotocol(self) -> str | None:
        """What a WebSocket's opening handshake agreed on, or None."""
        return self._connection.subprotocol

    @property
    def protocol(self) -> Protocol:
        """The protocol in use. Assign another to swap the codec mid-stream; see `Connection.protocol`.

        Messages that wait to be fetched were made by the old one.
        """
        return self._connection.protocol

    @protocol.setter
    def protocol(self, protocol: Protocol) -> None:
        """Swap the codec. Raises `ConfigError` for what is no protocol."""
        self._connection.protocol = protocol

    # -- sending -----------------------------------------------------------------------------------

    def send(self, data: Any, *, on_written: Callable[[Any, BaseException | None], object] | None = None) -> None:
        """Send one message. It never waits: see `Connection.send`, and `drain` for slowing down.

        Args:
            data: what the protocol's ``packet`` takes; bytes-like for the byte protocols.
            on_written: called once, on the loop, as ``on_written(data, error)`` when it has left, or never will.

        Raises:
            ConnectionClosed: the connection is closed or closing.
            WriteBufferFull: more than ``limits.max_write_buffer_bytes`` wait; ``await drain()`` before sending more.
            Exception: whatever ``packet`` raises; the connection lives on.
        """
        self._connection.send(data, on_written=on_written)

    async def drain(self) -> None:
        """Wait until what waits to be sent is not more than the server can be expected to take soon.

        Returns at once unless more than ``watermarks.high_bytes`` wait; else when at most ``low_bytes`` do.

        Raises:
            ConnectionClosed: the connection is closed, or closes while waiting.

        Source: asyncio's ``StreamWriter.drain``.
        """
        await self._connection.drain()

    async def ping(self) -> float:
        """Send a ping and wait for its pong; give the seconds it took. For ``ws://`` and ``wss://``.

        Raises:
            ConnectionClosed: the connection is closed, or closes while waiting.
            GevError: its protocol has no pings.
        """
        return await self._connection.ping()

    # -- receiving ---------------------------------------------------------------------------------

    async def recv(self, timeout_s: float | None = None) -> Any:
        """Wait for the next message and give its data.

        What had come before the connection closed can still be fetched. Cancelling it loses no message.

        Args:
            timeout_s: how long to wait, in seconds above 0. Default None: as long as it takes.

        Returns:
            The data, ``bytes`` from the byte protocols; `recv_message` gives the context, too.

        Raises:
            ConnectionClosed: the connection is closed, whatever the reason (``error.reason``), and nothing is left.
            TimeoutError: no message came in time; the connection lives on.
            GevError: another task waits for a message already.
            ConfigError: ``timeout_s`` is no number of seconds.

        Example:
            ``reply = await client.recv(timeout_s=5)``
        """
        return (await self.recv_message(timeout_s))[1]

    async def recv_message(self, timeout_s: float | None = None) -> tuple[Any, Any]:
        """Wait for the next message and give ``(ctx, data)``, as the protocol made them; otherwise like `recv`."""
        if not self._messages:
            self._connection.fail_late()
            await self._wait(timeout_s)
        message = self._messages.popleft()
        self._bytes -= size_of(message[1])
        if not self._is_full():
            self._connection.resume_reading()
        return message

    def __aiter__(self) -> Self:
        """Give the data of one message after the other.

        Ends when the connection was closed by either side in order, after the last message; with WebSocket, with code
        1000, 1001 or none.

        Raises:
            ConnectionClosed: it ended otherwise: by a reset, inside a frame, with a broken frame, idle, aborted.
        """
        return self

    async def __anext__(self) -> Any:
        """Give the next message's data."""
        try:
            return await self.recv()
        except ConnectionClosed as error:
            if error.reason is not None and _is_normal(error.reason):
                raise StopAsyncIteration from None
            raise

    async def _wait(self, timeout_s: float | None) -> None:
        """Wait until there is a message."""
        if self._waiter is not None:
            raise GevError("another task waits for a message of this client already")
        if timeout_s is None:
            await self._wait_unhurried()
            return
        require_seconds("timeout_s", timeout_s)
        try:
            async with asyncio.timeout(timeout_s) as patience:
                await self._wait_unhurried()
        except TimeoutError:
            if not patience.expired():
                raise
            raise TimeoutError(f"no message from {self._target} within {timeout_s} s") from None

    async def _wait_unhurried(self) -> None:
        try:
            while not self._messages:
                if self._ended.is_set():
                    raise self._connection._closed_error()
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        finally:
            self._waiter = None

    def _is_full(self) -> bool:
        return (len(self._messages) >= MAX_MESSAGES or self._bytes >= MAX_BYTES) and not self._takes_all

    # -- what the connection says ------------------------------------------------------------------

    def take_message(self, ctx: Any, data: Any) -> None:
        """Queue a message for `recv`; the connection calls this."""
        self._messages.append((ctx, data))
        self._bytes += size_of(data)
        if self._is_full():
            self._connection.pause_reading()
        self._wake()

    def take_open(self) -> None:
        """Learn that messages can be sent; the connection calls this."""
        if not self._opened.done():
            self._opened.set_result(None)

    async def opened(self) -> None:
        """Wait until messages can be sent; `gevpy.connect` does.

        Raises:
            HandshakeError: the protocol's opening handshake failed.
        """
        await self._opened

    def is_behind(self) -> bool:
        """Tell whether messages wait; the connection asks before it ends by what came behind them."""
        return bool(self._messages)

    def take_all(self) -> None:
        """Have room for what is left of a stream that has ended, one read at most; the connection calls this."""
        self._takes_all = True

    def take_end(self, reason: CloseReason) -> None:
        """Learn that the connection is gone; it calls this."""
        self._ended.set()
        if not self._opened.done():
            self._opened.set_exception(_why_not_opened(self._target, reason))
            self._opened.exception()  # nobody may be waiting any more
        self._wake()
        self.leave()

    def leave(self) -> None:
        """Share the loop's reactor no more. Idempotent."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.leave()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- ending ------------------------------------------------------------------------------------

    async def close(self, code: int | None = None, reason: str = "") -> None:
        """End the connection: send what waits (for at most ``timeouts.close_s``), then close; wait until it's closed.

        Messages that came before can still be fetched. Idempotent. Cancelling it ends the waiting; the connection
        closes all the same.

        Args:
            code: of the close frame, for ``ws://`` and ``wss://``; default 1000. See `Connection.close`.
            reason: its text, at most 123 bytes in UTF-8.

        Raises:
            ConfigError: a code or reason that can't be sent, or a protocol that has none.
        """
        self._connection.close(code, reason)
        await self._ended.wait()

    def abort(self) -> None:
        """End the connection at once: what waits is discarded, and TCP sends a reset."""
        self._connection.abort()

    # -- TLS ---------------------------------------------------------------------------------------

    async def start_tls(self, tls: TLS | ssl.SSLContext | None = None, *, server_hostname: str | None = None) -> None:
        """Go on with TLS, as STARTTLS of mail and others does; to be called when the server has agreed.

        Args:
            tls: whom to trust, and our certificate if the server wants one. Default: the system's authorities.
            server_hostname: the name that the certificate must have; default: the host of the URL.

        Raises:
            HandshakeError: it failed, or took longer than ``timeouts.handshake_s``; the connection closes.
            ProtocolError: more had come already, in the clear, which must not pass for what comes after it; it closes.
            ConnectionClosed: the connection is closed.
            GevError: it uses TLS already.
            ConfigError: a file can't be used; or there is no name, as for a Unix socket.

        Source: RFC 3207 section 6 for what must not have come before.
        """
        name = server_hostname or self._target.host
        if not name:
            raise ConfigError("server_hostname is needed: a Unix socket has no name that a certificate could have")
        if self._messages and not self.closed:
            early = ProtocolError("messages came in the clear, before the TLS handshake", actual=len(self._messages))
            self._connection.fail_upgrade(early)
            raise early
        await self._connection.start_tls(TLS() if tls is None else tls, server_side=False, server_hostname=name)


def _is_normal(reason: CloseReason) -> bool:
    return reason.kind in NORMAL and reason.error is None and reason.code in NORMAL_CODES


def _why_not_opened(target: Target, reason: CloseReason) -> Exception:
    if not isinstance(reason.error, HandshakeError):
        error = HandshakeError(f"cannot connect to {target}: it ended during the opening handshake: {reason}")
    else:
        error = HandshakeError(f"cannot connect to {target}: {reason.error}")
        error.status, error.headers = reason.error.status, reason.error.headers
    error.__cause__ = reason.error
    return error
