"""One connection: what a handler sees of its peer, and may ask of it.

There is one class for every protocol; what differs between protocols is in the protocol. How a connection reads, sends,
calls the handler and ends stands in its bases, from `gevpy.write_side` up to `gevpy.lifecycle`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gevpy.closing import CloseKind
from gevpy.errors import ConfigError
from gevpy.lifecycle import Lifecycle
from gevpy.protocol.base import Protocol
from gevpy.tls import client_context, server_context
from gevpy.upgrade import upgrade

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from gevpy.reactor import Reactor
    from gevpy.tls import TLS
    from gevpy.websocket.http import Request
    from gevpy.worker import Worker

__all__ = ["Connection"]


class ConnectionCore(Lifecycle):
    """All of a connection but the base class that asyncio asks for, which an extension type can't have first."""

    __slots__ = ("_values", "context")

    def __init__(self, reactor: Reactor, peer: Any, network: str) -> None:
        """Begin before the transport is there; called by the listener."""
        super().__init__(reactor, peer, network)
        self.context: Any = None
        self._values: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """Show who it is and how it is."""
        state = "connected" if self._connected else str(self._reason or "not connected")
        return f"<Connection {self.id} from {self.peer_addr or 'unknown'}: {state}>"

    @property
    def reactor(self) -> Reactor:
        """What it shares with the other connections of its loop; for protocols."""
        return self._reactor

    @property
    def worker(self) -> Worker:
        """The worker whose loop this connection lives on."""
        return self._reactor.worker

    @property
    def protocol(self) -> Protocol:
        """The protocol in use. Assign another to swap the codec mid-stream.

        The new one is used from the next ``unpacket`` on, beginning with what is still buffered, and from the next
        ``packet`` on; `protocol_state` is None again. Inside ``on_message`` the reply of that call is packed by the new
        one.
        """
        return self._protocol

    @protocol.setter
    def protocol(self, protocol: Protocol) -> None:
        """Swap the codec. Raises `ConfigError` for what is no protocol."""
        if not isinstance(protocol, Protocol):
            msg = f"protocol must be a gevpy.Protocol, not {type(protocol).__name__}"
            raise ConfigError(msg)
        self._protocol = protocol
        self.protocol_state = None
        self.protocol_tick = -1
        self.forget_search()
        if self._opened and self._connected:
            protocol.begin(self)  # who has an opening handshake doesn't wait for it without end

    # -- TLS ---------------------------------------------------------------------------------------

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS session, for its version, cipher and certificates; None without TLS.

        Source: `ssl.SSLObject`.
        """
        session: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        return session

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's certificate, as `ssl.SSLSocket.getpeercert` gives it; None if it showed none, or without TLS.

        On a server it is there with mutual TLS (``TLS(ca=...)``), and was verified before ``on_connect``.
        """
        return self._transport.get_extra_info("peercert") or None

    async def start_tls(
        self, tls: TLS | ssl.SSLContext, *, server_side: bool = True, server_hostname: str | None = None
    ) -> None:
        r"""Go on with TLS on this connection, as STARTTLS of mail and others does; to be awaited in a handler.

        What was sent before still leaves as it is. Messages are handled again, and what is sent meanwhile leaves, once
        the handshake is done. The protocol stays; assign `protocol` to swap it.

        Args:
            tls: a server's certificate, or whom a client trusts.
            server_side: whether we are the server.
            server_hostname: for a client: the name that the certificate must have.

        Raises:
            HandshakeError: it failed, or took longer than ``timeouts.handshake_s``; the connection closes.
            ProtocolError: the peer had sent more already, in the clear, where nobody may be trusted; it closes, too.
            ConnectionClosed: the connection is closed.
            GevError: it uses TLS already.
            ConfigError: as for `TLS`.

        Source: RFC 3207 section 6 for what must not be sent before.

        Example:
            >>> import gevpy
            >>> class Upgrading(gevpy.Handler):
            ...     async def on_message(self, conn, ctx, data):
            ...         if data == b"STARTTLS":
            ...             conn.send(b"go ahead")
            ...             await conn.start_tls(gevpy.TLS(cert="server.pem"))
        """
        context = server_context(tls) if server_side else client_context(tls)
        await upgrade(self, self._reactor, context, server_side=server_side, server_hostname=server_hostname)

    def begin_upgrade(self) -> None:
        """Hold output back, and handle no input, until `end_upgrade`; for `gevpy.upgrade`."""
        self.wait_for_upgrade()
        self._busy = True

    def end_upgrade(self, transport: asyncio.BaseTransport) -> None:
        """Go on by a transport that encrypts."""
        self._take_transport(transport, is_tls=True)
        self._busy = False
        self.upgrade_done()
        self.flush()

    def fail_upgrade(self, error: BaseException) -> None:
        """End, because the handshake failed."""
        self._reactor.report(self, "start_tls", error, expected=True)
        self._abort_with(CloseKind.HANDSHAKE_FAILED, error)

    @property
    def has_input(self) -> bool:
        """Whether bytes or messages wait that came already."""
        return bool(self.read_buffer_length) or (self._inbox is not None and self._inbox.has_waiting)

    # -- WebSocket ---------------------------------------------------------------------------------

    @property
    def request(self) -> Request | None:
        """The opening request: path, query, headers; None of protocols that have none."""
        request: Request | None = getattr(self.protocol_state, "request", None)
        return request

    @property
    def subprotocol(self) -> str | None:
        """What was agreed on in the opening handshake, or None."""
        name: str | None = getattr(self.protocol_state, "subprotocol", None)
        return name

    async def ping(self) -> float:
        """Send a ping and wait for its pong; give the seconds it took.

        Raises:
            ConnectionClosed: the connection is closed, or closes while waiting.
            GevError: its protocol has no pings.

        Source: RFC 6455 section 5.5.2.
        """
        if not self.connected:
            raise self._closed_error()
        return await self._protocol.ping(self)

    # -- values ------------------------------------------------------------------------------------

    def set(self, key: str, value: Any) -> None:
        """Keep a value under ``key`` for as long as the connection lives. Source: gev's ``KeyValueContext``."""
        if self._values is None:
            self._values = {}
        self._values[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        """Give the value kept under ``key``, or ``default``."""
        return default if self._values is None else self._values.get(key, default)

    def delete(self, key: str) -> None:
        """Forget the value kept under ``key``, if there is one."""
        if self._values is not None:
            self._values.pop(key, None)

    # -- topics ------------------------------------------------------------------------------------

    def subscribe(self, topic: str) -> None:
        """Have every ``publish`` to ``topic`` sent to this connection, until it unsubscribes or closes.

        Raises:
            ConfigError: ``topic`` is empty, too long, or has control characters.
            ConnectionClosed: the connection is closed or closing.
        """
        if not self.connected:
            raise self._closed_error()
        self._reactor.topics.subscribe(topic, self)

    def unsubscribe(self, topic: str) -> None:
        """End a subscription, if there is one."""
        self._reactor.topics.unsubscribe(topic, self)

    def _send_from_thread(self, data: Any, on_written: Callable[[Any, BaseException | None], object] | None) -> None:
        self._reactor.send_from_thread(self, data, on_written)


class Connection(ConnectionCore, asyncio.BufferedProtocol):
    r"""One peer, as a handler sees it.

    Only `send`, `close`, `abort`, `connected` and `id` are safe from other threads; all else is for the loop's own.

    Attributes:
        id: a number that no other connection of this worker has had.
        context: yours: any object, None at first.
        protocol_state: the protocol's own memory of this connection, None at first and whenever `protocol` is assigned.

    Example:
        >>> import gevpy
        >>> class Counter(gevpy.Handler):
        ...     def on_connect(self, conn):
        ...         conn.context = 0
        ...     def on_message(self, conn, ctx, data):
        ...         conn.context += 1
        ...         return b"%d\n" % conn.context
    """

    __slots__ = ("__weakref__",)
    data_received = None  # uvloop looks for it; an AttributeError for each connection would cost 1 µs
