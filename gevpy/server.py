"""The front door: ``await gevpy.serve(handler)``, or ``async with gevpy.serve(handler) as server``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Literal

from gevpy.addresses import format_address
from gevpy.application import check_travels
from gevpy.build import build_info
from gevpy.errors import ConfigError
from gevpy.options import IdleRefresh, Limits, ServeOptions, Timeouts, Watermarks
from gevpy.placement import Placement, check_placement
from gevpy.protocol.base import Protocol
from gevpy.protocol.raw import RawProtocol
from gevpy.reactor import check_handler
from gevpy.signals import StopSignals
from gevpy.single import SingleLoop
from gevpy.systemd import notify, watchdog_interval_s
from gevpy.tree import WorkerTree

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType

    from gevpy.handler import Handler
    from gevpy.metrics.endpoint import MetricsEndpoint
    from gevpy.timers import Timer

__all__ = ["Server", "Serving", "serve"]

logger = logging.getLogger("gevpy.server")


class Server:
    """A running server; made by `serve`.

    All attributes and methods are for the loop that it serves on. With ``workers=1`` that is the loop which serves the
    connections, too; with more it is the supervisor's.

    Attributes:
        options: what `serve` was told, as a frozen `ServeOptions`.
    """

    def __init__(self, handler: Handler, options: ServeOptions) -> None:
        """Set up; nothing runs before `start`."""
        self.options = options
        one = options.processes == 1
        self._site: SingleLoop | WorkerTree = SingleLoop(handler, options) if one else WorkerTree(handler, options)
        self._endpoint: MetricsEndpoint | None = None
        self._ready = False
        self._starting: asyncio.Future[None] | None = None
        self._start_called_off = False
        self._stopping: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()

    def __repr__(self) -> str:
        """Show where it listens."""
        return f"<Server on {', '.join(map(_written, self.addresses)) or 'nothing'}>"

    # -- what it is --------------------------------------------------------------------------------

    @property
    def addresses(self) -> list[tuple[str, int] | str]:
        """Where peers can connect: ``(host, port)`` each, or the path of a Unix socket. Empty after the stop."""
        return self._site.addresses

    @property
    def connections(self) -> int:
        """How many connections are open; with many workers, as they said within the last half second."""
        return self._site.connections

    @property
    def metrics_address(self) -> str | None:
        """Where the metrics are, as ``"host:port"``; None without ``metrics``."""
        return None if self._endpoint is None else self._endpoint.address

    # -- what it does ------------------------------------------------------------------------------

    def run_after(self, delay_s: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)``, which may be ``async def``, once; see `Worker.run_after`. gev's ``RunAfter``.

        With many workers it runs in the supervisor, once for all of them.
        """
        return self._site.timers.run_after(delay_s, callback, *args)

    def run_every(self, interval_s: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)`` again and again; see `Worker.run_every`. gev's ``RunEvery``.

        With many workers it runs in the supervisor, once for all of them.
        """
        return self._site.timers.run_every(interval_s, callback, *args)

    def broadcast(self, data: Any) -> None:
        """Send ``data`` to every connection of every worker; see `Worker.broadcast`.

        With many workers it crosses processes: then only ``str`` and bytes-like data can be sent.
        """
        self._site.broadcast(data)

    def publish(self, topic: str, data: Any) -> None:
        """Send ``data`` to every connection that subscribes to ``topic``; see `Worker.publish`."""
        self._site.publish(topic, data)

    # -- starting ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind, greet the handler, and serve. `serve` calls this.

        Raises:
            BindError: an address can't be had.
            WorkerError: with many workers, not one could start.
            Exception: whatever ``on_start`` raises; nothing is left bound or running.
        """
        self._site.bind()
        try:
            if self.options.metrics is not None:
                from gevpy.metrics.endpoint import MetricsEndpoint  # noqa: PLC0415 - prometheus_client loads on first use

                source = self._site.source(lambda: self._ready)
                self._endpoint = await MetricsEndpoint.start(self.options.metrics, source)
            await self._site.start()
        except BaseException:
            await self._tear_down()
            raise
        self._set_ready(ready=True)
        self._site.accept()
        notify("READY=1")
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            self.run_every(interval_s, notify, "WATCHDOG=1")

    def announce(self) -> None:
        """Log the one start-up line: address, loop, build and limits."""
        logger.info("%s", self._start_line())

    def _set_ready(self, *, ready: bool) -> None:
        self._ready = ready
        if self._endpoint is not None:
            self._endpoint.ready = ready

    def _start_line(self) -> str:
        options = self.options
        limits = [
            f"max_connections={self._site.max_connections}",
            f"per_ip={options.limits.max_connections_per_ip or 'off'}",
            f"write_buffer={options.limits.max_write_buffer_bytes}",
            f"slow_consumer={options.limits.slow_consumer}",
            f"max_frame={options.protocol.max_frame_bytes}",
            f"idle={options.idle_timeout_s or 'off'}",
        ]
        where = ", ".join(map(_written, self.addresses))
        workers = f" by {options.processes} workers" if options.processes > 1 else ""
        metrics = f", metrics on http://{self.metrics_address}/metrics" if self._endpoint else ""
        what = type(options.protocol).__name__
        return f"{build_info()} serving {what} on {where}{workers}{metrics}; {' '.join(limits)}"

    # -- stopping ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, announce, and serve until stopped; a signal during a slow start ends that, too. `serve` calls this."""
        with StopSignals(asyncio.get_running_loop(), self._on_signal):
            self._starting = asyncio.ensure_future(self.start())
            try:
                await self._starting
            except asyncio.CancelledError:
                if self._start_called_off:
                    return
                await self.stop()  # the start may have ended in the very turn of the cancellation
                raise
            self.announce()
            await self._wait_stopped()

    async def serve_forever(self) -> None:
        """Serve until `stop`, SIGINT or SIGTERM; return after the drain. A second signal ends the drain at once.

        Cancelling it stops the server, too.
        """
        with StopSignals(asyncio.get_running_loop(), self._on_signal):
            await self._wait_stopped()

    async def _wait_stopped(self) -> None:
        try:
            await self._stopped.wait()
        except asyncio.CancelledError:
            await self.stop()
            raise

    def _on_signal(self, count: int) -> None:
        if self._starting is not None and not self._starting.done():
            self._start_called_off = True
            self._starting.cancel()
            return
        if count > 1:
            self._site.hurry()
        self._begin_stop(self.options.timeouts.drain_s)

    async def stop(self, drain_timeout_s: float | None = None) -> None:
        """Stop: accept no more, drain, abort what is left at the deadline. Idempotent; all callers wait for the end.

        All but a handler of this server: the drain waits for that to end, so there it returns once the stop has begun.

        Args:
            drain_timeout_s: seconds for the drain, 0 for none; default ``timeouts.drain_s``.

        Raises:
            ConfigError: ``drain_timeout_s`` is negative.
        """
        if drain_timeout_s is not None and (not isinstance(drain_timeout_s, int | float) or not drain_timeout_s >= 0):
            msg = f"drain_timeout_s must be a number of seconds, 0 or more, not {drain_timeout_s!r}"
            raise ConfigError(msg)
        self._begin_stop(self.options.timeouts.drain_s if drain_timeout_s is None else drain_timeout_s)
        if not self._site.runs_current_task():
            await self._stopped.wait()

    def _begin_stop(self, drain_timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        if self._stopping is None:
            self._stopping = loop.create_task(self._stop(drain_timeout_s))
        elif drain_timeout_s is not None:
            loop.call_later(drain_timeout_s, self._site.hurry)  # who asks later may ask for less patience

    async def _stop(self, drain_timeout_s: float | None) -> None:
        logger.info("stopping: %d connections to drain, within %s s", self.connections, drain_timeout_s)
        try:
            self._set_ready(ready=False)
            notify("STOPPING=1")
            await self._site.stop(drain_timeout_s)
        finally:
            await self._tear_down()
            self._stopped.set()
            logger.info("stopped")

    async def _tear_down(self) -> None:
        """Release all that `start` has taken, in whatever state it is."""
        await self._site.close()
        if self._endpoint is not None:
            await self._endpoint.stop()
            self._endpoint = None


def _written(address: tuple[str, int] | str) -> str:
    return format_address(address)


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
        workers: 1, the default: the calling loop serves. N up to 128, or ``"auto"`` for one on each core: so many
            processes serve, each with a copy of handler and protocol, and the calling loop supervises them.
        placement: which worker gets a connection. ``"reuseport"`` (default) leaves it to the kernel, which spreads by a
            hash of the addresses; with ``"round_robin"``, ``"least_connections"``, ``"source_hash"`` or a callable
            ``(workers, peer) -> worker`` the supervisor accepts and hands over. See `gevpy.placement`.
        affinity: bind each worker to a core of its own (Linux).
        idle_timeout_s: close a connection on which nothing moved for so long, in seconds above 0, rounded up to whole
            ticks of 100 ms. Default 120; None turns it off.
        idle_refresh: what counts against idleness: ``"read"``, ``"write"`` or ``"both"``.
        half_close: keep our side open after the peer's EOF, until the handler closes.
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
        metrics=metrics,
        limits=limits,
        timeouts=timeouts,
        watermarks=watermarks,
    )
    if options.processes > 1:
        check_travels("handler", handler)
        check_travels("protocol", options.protocol)
    return Serving(handler, options)
