"""The front door: ``await gevpy.serve(handler)``, or ``async with gevpy.serve(handler) as server``."""

from __future__ import annotations

from collections.abc import Coroutine
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Literal

from gevpy.application import check_travels
from gevpy.errors import ConfigError
from gevpy.hooks import check_handler
from gevpy.options import IdleRefresh, Limits, Ordering, ServeOptions, Timeouts, Watermarks
from gevpy.placement import Placement, check_placement
from gevpy.protocol.base import Protocol
from gevpy.protocol.raw import RawProtocol
from gevpy.proxy_gate import TrustedProxies
from gevpy.server import Server
from gevpy.tls import server_context

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Callable, Generator, Hashable, Sequence
    from types import TracebackType

    from gevpy.handler import Handler
    from gevpy.tls import TLS

__all__ = ["Serving", "serve"]


class Serving(Coroutine[Any, Any, None]):
    """What `serve` returns: await it to serve until stopped, or enter it to get the running `Server`."""

    def __init__(self, handler: Handler, options: ServeOptions) -> None:
        """Keep what to serve; nothing runs yet."""
        self._handler = handler
        self._options = options
        self._server: Server | None = None
        self._coroutine: Coroutine[Any, Any, None] | None = None

    def _make(self) -> Server:
        if self._server is not None:
            msg = "what serve() returned can be awaited or entered once: call serve() again"
            raise RuntimeError(msg)
        self._server = Server(self._handler, self._options)
        return self._server

    def __await__(self) -> Generator[Any, None, None]:
        """Serve until SIGINT, SIGTERM or cancellation, and return after the drain."""
        return self._serve().__await__()

    def send(self, value: Any) -> Any:
        """Go on, as a coroutine does: so that ``gevpy.run(serve(...))`` and ``create_task(serve(...))`` work."""
        if self._coroutine is None:
            self._coroutine = self._serve()
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise inside, as a coroutine does."""
        if self._coroutine is None:
            self._coroutine = self._serve()
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """End, as a coroutine does."""
        if self._coroutine is not None:
            self._coroutine.close()

    async def _serve(self) -> None:
        await self._make().run()

    async def __aenter__(self) -> Server:
        """Start, and give the running server."""
        server = self._make()
        await server.start()
        server.announce()
        return server

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server, with its drain."""
        if self._server is not None:
            await self._server.stop()


def serve(  # noqa: PLR0913 - flat where people reach for them, grouped where they don't
    handler: Handler,
    host: str | Sequence[str] | None = "127.0.0.1",
    port: int = 1388,
    *,
    protocol: Protocol | None = None,
    workers: int | Literal["auto"] = 1,
    placement: Placement = "reuseport",
    affinity: bool = False,
    idle_timeout_s: float | None = 120.0,
    idle_refresh: IdleRefresh = "both",
    half_close: bool = False,
    ordering: Ordering = "serial",
    ordering_key: Callable[[Any, Any], Hashable] | None = None,
    ssl: TLS | SSLContext | None = None,
    trusted_proxies: Sequence[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    sockets: Sequence[socket.socket] | None = None,
    reuse_port: bool = False,
    backlog: int = 2048,
    metrics: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    watermarks: Watermarks = Watermarks(),  # noqa: B008 - frozen
) -> Serving:
    """Serve ``handler``: ``await`` it to serve until stopped, or use ``async with`` for a running `Server`.

    Awaited, it handles SIGINT and SIGTERM (in the main thread) and returns after the drain; a second signal stops at
    once. As a context it gives the `Server` and stops it on exit; signals are then handled only inside
    ``server.serve_forever()``.

    Args:
        handler: the application, an object with ``on_message``; see `Handler`.
        host: an address or name, or several; None or ``""`` for every address of both families, ``"::"`` likewise in
            one socket. Default: this machine only.
        port: 0 to 65535; 0 lets the system choose, one port for all addresses. Default 1388, gev's.
        protocol: how bytes become messages; default `RawProtocol`.
        workers: 1, the default: the calling loop serves. N up to 128, or ``"auto"`` for as many as can run at once, by
            cores and a cgroup's quota, be it one: so many processes serve, each with a copy of handler and protocol,
            and the calling loop supervises them. Limits are for each.
        placement: which worker gets a connection. ``"reuseport"`` (default) leaves it to the kernel, which spreads
            evenly (Linux); with ``"round_robin"``, ``"least_connections"``, ``"source_hash"`` or a callable
            ``(workers, peer) -> worker`` the supervisor accepts and hands over. See `gevpy.placement`. Without meaning
            for ``workers=1``.
        affinity: bind each worker to a core of its own (Linux). Without meaning for ``workers=1``.
        idle_timeout_s: close a connection on which nothing moved for so long, in seconds above 0, rounded up to whole
            ticks of 100 ms. Default 120; None turns it off.
        idle_refresh: what counts against idleness: ``"read"``, ``"write"`` or ``"both"``.
        half_close: keep our side open after the peer's EOF, until the handler closes.
        ordering: how ``async def on_message`` runs for the messages of one connection. ``"serial"`` (default): one
            after the other, replies in order. ``"concurrent"``: up to ``limits.max_concurrent`` at once, each reply
            leaves when it is ready. ``"keyed"``: those with the same key one after the other, others at once.
        ordering_key: for ``"keyed"``: ``(ctx, data) -> key``, hashable; called on the loop for each message.
        ssl: serve TLS: a `TLS`, which names the files, or an ``ssl.SSLContext``, which can't go to worker processes.
        trusted_proxies: networks, such as ``["10.0.0.0/8"]``, of load balancers that send a PROXY header (version 1 or
            2): each connection must come from one, and begin with one; ``conn.peer_addr`` is then the client's address.
            Default None: no header is looked for.
        path: listen on a Unix socket there (mode 0600) instead of TCP.
        sockets: listen on these, bound already, instead. The server closes them when it stops.
        reuse_port: set SO_REUSEPORT, so that many single servers share the port.
        backlog: connections that may wait to be accepted; default 2048, cut by the system's own limit.
        metrics: ``"127.0.0.1:9091"`` serves a live page, ``/metrics``, ``/stats.json``, ``/healthz`` and ``/readyz``
            there; default off.
        limits: see `Limits`.
        timeouts: see `Timeouts`.
        watermarks: see `Watermarks`.

    Returns:
        An object to be awaited, or entered with ``async with``, once.

    Raises:
        ConfigError: an option or the handler can't work; at once.
        BindError: an address can't be had; when it starts.
        WorkerError: with many workers, not one could start; when it starts.
        Exception: with ``workers=1``, whatever ``on_start`` raises; when it starts.

    Example:
        >>> import gevpy
        >>> class Echo(gevpy.Handler):
        ...     def on_message(self, conn, ctx, data):
        ...         return data
        >>> async def main():
        ...     await gevpy.serve(Echo(), port=1833)
    """
    check_handler(handler)
    check_placement(placement)
    if protocol is not None and not isinstance(protocol, Protocol):
        msg = f"protocol must be a gevpy.Protocol object, not {protocol!r}"
        raise ConfigError(msg)
    options = ServeOptions(
        protocol=protocol if protocol is not None else RawProtocol(),
        host=host,
        port=port,
        path=path,
        sockets=sockets,
        reuse_port=reuse_port,
        backlog=backlog,
        workers=workers,
        placement=placement,
        affinity=affinity,
        idle_timeout_s=idle_timeout_s,
        idle_refresh=idle_refresh,
        half_close=half_close,
        ordering=ordering,
        ordering_key=ordering_key,
        ssl=ssl,
        trusted_proxies=trusted_proxies,
        metrics=metrics,
        limits=limits,
        timeouts=timeouts,
        watermarks=watermarks,
    )
    if ssl is not None:
        server_context(ssl)
    if trusted_proxies is not None:
        TrustedProxies(trusted_proxies)
    if not options.in_calling_loop:
        if isinstance(ssl, SSLContext):
            raise ConfigError(
                "an SSLContext can't go to worker processes: name the files, ssl=gevpy.TLS(cert=..., key=...)"
            )
        check_travels("ssl", ssl)
        check_travels("ordering_key", ordering_key)
        check_travels("handler", handler)
        check_travels("protocol", options.protocol)
    return Serving(handler, options)
