"""The front door: ``await gevpy.serve(handler)``, or ``async with gevpy.serve(handler) as server``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gevpy.addresses import format_address
from gevpy.admission import Admission, connection_limit
from gevpy.binding import ListeningSockets, bind_all
from gevpy.build import build_info
from gevpy.errors import ConfigError
from gevpy.listener import Listener, tune
from gevpy.options import IdleRefresh, Limits, ServeOptions, Timeouts, Watermarks
from gevpy.protocol.base import Protocol
from gevpy.protocol.raw import RawProtocol
from gevpy.reactor import Reactor, check_handler
from gevpy.signals import StopSignals
from gevpy.worker import Worker

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType

    from gevpy.handler import Handler
    from gevpy.metrics.endpoint import MetricsEndpoint
    from gevpy.timers import Timer

__all__ = ["Server", "Serving", "serve"]

STOP_GRACE_S = 1.0  # for an on_stop that was cancelled
USER_TIMEOUT_GRACE_S = 5.0  # the kernel's own timeout comes after gevpy's, which knows the reason

logger = logging.getLogger("gevpy.server")


class Server:
    """A running server; made by `serve`.

    All attributes and methods are for the loop that it serves on.

    Attributes:
        options: what `serve` was told, as a frozen `ServeOptions`.
    """

    def __init__(self, handler: Handler, options: ServeOptions) -> None:
        """Set up; nothing runs before `start`."""
        self.options = options
        self._handler = handler
        self._reactor: Reactor | None = None
        self._listening: ListeningSockets | None = None
        self._listeners: list[Listener] = []
        self._endpoint: MetricsEndpoint | None = None
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
        return [] if self._listening is None else self._listening.addresses

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return 0 if self._reactor is None else len(self._reactor.connections)

    @property
    def metrics_address(self) -> str | None:
        """Where the metrics are, as ``"host:port"``; None without ``metrics``."""
        return None if self._endpoint is None else self._endpoint.address

    # -- what it does ------------------------------------------------------------------------------

    def run_after(self, delay_s: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)``, which may be ``async def``, once; see `Worker.run_after`. gev's ``RunAfter``."""
        return self._running().timers.run_after(delay_s, callback, *args)

    def run_every(self, interval_s: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)`` again and again; see `Worker.run_every`. gev's ``RunEvery``."""
        return self._running().timers.run_every(interval_s, callback, *args)

    def broadcast(self, data: Any) -> None:
        """Send ``data`` to every connection; see `Worker.broadcast`."""
        self._running().worker.broadcast(data)

    def publish(self, topic: str, data: Any) -> None:
        """Send ``data`` to every connection that subscribes to ``topic``; see `Worker.publish`."""
        self._running().worker.publish(topic, data)

    def _running(self) -> Reactor:
        if self._reactor is None:
            msg = "the server is not running"
            raise RuntimeError(msg)
        return self._reactor

    # -- starting ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind, greet the handler, and serve. `serve` calls this.

        Raises:
            BindError: an address can't be had.
            Exception: whatever ``on_start`` raises; nothing is left bound or running.
        """
        loop = asyncio.get_running_loop()
        options = self.options
        self._listening = bind_all(options)
        try:
            await self._start_on(loop, self._listening)
        except BaseException:
            await self._tear_down()
            raise
        for listener in self._listeners:
            listener.start()

    def announce(self) -> None:
        """Log the one start-up line: address, loop, build and limits."""
        logger.info("%s", self._start_line())

    async def _start_on(self, loop: asyncio.AbstractEventLoop, listening: ListeningSockets) -> None:
        options = self.options
        admission = Admission(connection_limit(options.limits.max_connections), options.limits.max_connections_per_ip)
        self._reactor = reactor = Reactor(loop, self._handler, options, admission)
        worker = Worker(reactor, 0)
        stall = options.timeouts.write_stall_s
        for sock in listening.sockets:
            tune(sock, None if stall is None else stall + USER_TIMEOUT_GRACE_S)
            self._listeners.append(Listener(reactor, sock))
        if options.metrics is not None:
            from gevpy.metrics.endpoint import MetricsEndpoint  # noqa: PLC0415 - prometheus_client loads on first use

            self._endpoint = await MetricsEndpoint.start(options.metrics, [reactor])
        reactor.start()
        await self._call_handler("on_start", worker)
        if self._endpoint is not None:
            self._endpoint.ready = True

    async def _call_handler(self, name: str, worker: Worker) -> None:
        hook = self._running().hooks.get(name)
        if hook is None:
            return
        result = hook(worker)
        if hasattr(result, "__await__"):
            await result

    def _start_line(self) -> str:
        reactor = self._running()
        options = self.options
        limits = [
            f"max_connections={reactor.admission.max_connections}",
            f"per_ip={options.limits.max_connections_per_ip or 'off'}",
            f"write_buffer={options.limits.max_write_buffer_bytes}",
            f"slow_consumer={options.limits.slow_consumer}",
            f"max_frame={options.protocol.max_frame_bytes}",
            f"idle={options.idle_timeout_s or 'off'}",
        ]
        where = ", ".join(map(_written, self.addresses))
        metrics = f", metrics on http://{self.metrics_address}/metrics" if self._endpoint else ""
        return f"{build_info()} serving {type(options.protocol).__name__} on {where}{metrics}; {' '.join(limits)}"

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
        if count > 1 and self._reactor is not None:
            self._reactor.hurry()
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
        if self._reactor is None or not self._reactor.runs_current_task():
            await self._stopped.wait()

    def _begin_stop(self, drain_timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        if self._stopping is None:
            self._stopping = loop.create_task(self._stop(drain_timeout_s))
        elif drain_timeout_s is not None and self._reactor is not None:
            loop.call_later(drain_timeout_s, self._reactor.hurry)  # who asks later may ask for less patience

    async def _stop(self, drain_timeout_s: float | None) -> None:
        logger.info("stopping: %d connections to drain, within %s s", self.connections, drain_timeout_s)
        try:
            if self._endpoint is not None:
                self._endpoint.ready = False
            for listener in self._listeners:
                listener.stop()
            if self._listening is not None:
                self._listening.close()
            if self._reactor is not None:
                await self._drain(self._reactor, drain_timeout_s)
        finally:
            await self._tear_down()
            self._stopped.set()
            logger.info("stopped")

    async def _drain(self, reactor: Reactor, drain_timeout_s: float | None) -> None:
        aborted = await reactor.drain(drain_timeout_s)
        if aborted:
            logger.warning("%d connections were aborted: they had not ended within the drain", aborted)
        await self._call_on_stop(reactor, drain_timeout_s)

    async def _call_on_stop(self, reactor: Reactor, timeout_s: float | None) -> None:
        """Call the last hook; it has as long as the drain had, and a further signal ends it, too."""
        last = asyncio.ensure_future(self._call_handler("on_stop", reactor.worker))
        await asyncio.wait((last, reactor.hurried), timeout=timeout_s or None, return_when=asyncio.FIRST_COMPLETED)
        if not last.done():
            logger.warning("on_stop had not ended in time: cancelled")
            last.cancel()
            await asyncio.wait((last,), timeout=STOP_GRACE_S)
        elif not last.cancelled() and last.exception() is not None:
            logger.error("on_stop failed", exc_info=last.exception())

    async def _tear_down(self) -> None:
        """Release all that `start` has taken, in whatever state it is."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self._listeners.clear()
        if self._reactor is not None:
            self._reactor.stop()
            with suppress(TimeoutError):  # a callback that refuses to be cancelled is left behind
                await asyncio.wait_for(self._reactor.timers.wait_closed(), STOP_GRACE_S)
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
    workers: int = 1,
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
        workers: 1: the calling loop.
        idle_timeout_s: close a connection on which nothing moved for so long, in seconds above 0, rounded up to whole
            ticks of 100 ms. Default 120; None turns it off.
        idle_refresh: what counts against idleness: ``"read"``, ``"write"`` or ``"both"``.
        half_close: keep our side open after the peer's EOF, until the handler closes.
        path: listen on a Unix socket there (mode 0600) instead of TCP.
        sockets: listen on these, bound already, instead. The server closes them when it stops.
        reuse_port: set SO_REUSEPORT, so that many single servers share the port.
        backlog: connections that may wait to be accepted; default 2048, cut by the system's own limit.
        metrics: ``"127.0.0.1:9091"`` serves ``/metrics``, ``/healthz`` and ``/readyz`` there; default off.
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
        idle_timeout_s=idle_timeout_s,
        idle_refresh=idle_refresh,
        half_close=half_close,
        metrics=metrics,
        limits=limits,
        timeouts=timeouts,
        watermarks=watermarks,
    )
    return Serving(handler, options)
