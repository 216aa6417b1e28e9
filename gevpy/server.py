"""A running server: what it is, what it counts, how it starts and stops."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any

from gevpy.addresses import format_address
from gevpy.build import build_info
from gevpy.errors import ConfigError
from gevpy.signals import LoopSignals
from gevpy.single import SingleLoop
from gevpy.systemd import notify, watchdog_interval_s
from gevpy.tree import WorkerTree

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy.handler import Handler
    from gevpy.metrics.endpoint import MetricsEndpoint
    from gevpy.metrics.source import LoopSource
    from gevpy.options import ServeOptions
    from gevpy.timers import Timer
    from gevpy.tree_source import TreeSource

__all__ = ["Server"]

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
        self._site: SingleLoop | WorkerTree = (
            SingleLoop(handler, options) if options.in_calling_loop else WorkerTree(handler, options)
        )
        self._source: LoopSource | TreeSource | None = None
        self._endpoint: MetricsEndpoint | None = None
        self._ready = False
        self._starting: asyncio.Future[None] | None = None
        self._start_called_off = False
        self._stop_signals = 0
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

    def stats(self) -> dict[str, Any]:
        """Tell what the server has counted: the document of ``/stats.json``, with or without ``metrics``.

        Its ``"total"`` has the connections that are open and the counters of all workers, those that are gone
        included; ``"workers"`` has a row for each process. With many workers they are as told within the last second.

        Raises:
            RuntimeError: the server has not started.

        Example:
            >>> server.stats()["total"]["received_messages"]  # doctest: +SKIP
            1024
        """
        if self._source is None:
            raise RuntimeError("the server has not started")
        return self._source.stats()

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

    def reload_tls(self) -> None:
        """Read the files of ``ssl=TLS(...)`` again; with many workers, in each. SIGHUP does so, too.

        New handshakes use what is there now. Where the files can't be used, the old certificate stays, and the reason
        is logged. Nothing without TLS, or with an ``ssl.SSLContext``: load that again by yourself.
        """
        self._site.reload_tls()

    # -- starting ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind, greet the handler, and serve. `serve` calls this.

        Raises:
            BindError: an address can't be had.
            WorkerError: with many workers, not one could start.
            Exception: whatever ``on_start`` raises; nothing is left bound or running.
        """
        self._site.bind()
        self._source = self._site.source(lambda: self._ready)
        try:
            if self.options.metrics is not None:
                from gevpy.metrics.endpoint import MetricsEndpoint  # noqa: PLC0415 - prometheus_client loads on first use

                self._endpoint = await MetricsEndpoint.start(self.options.metrics, self._source)
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
        count = options.processes
        workers = "" if options.in_calling_loop else f" by {count} worker{'s' if count > 1 else ''}"
        metrics = f", metrics on http://{self.metrics_address}/metrics" if self._endpoint else ""
        what = type(options.protocol).__name__
        return f"{build_info()} serving {what} on {where}{workers}{metrics}; {' '.join(limits)}"

    # -- stopping ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, announce, and serve until stopped; a signal during a slow start ends that, too. `serve` calls this."""
        with self._signals():
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
        with self._signals():
            await self._wait_stopped()

    async def _wait_stopped(self) -> None:
        try:
            await self._stopped.wait()
        except asyncio.CancelledError:
            await self.stop()
            raise

    def _signals(self) -> LoopSignals:
        callbacks = dict(self._site.signals)
        callbacks[signal.SIGINT] = callbacks[signal.SIGTERM] = self._on_stop_signal
        return LoopSignals(asyncio.get_running_loop(), callbacks)

    def _on_stop_signal(self) -> None:
        """Begin to stop; from the second signal on, at once."""
        self._stop_signals += 1
        if self._starting is not None and not self._starting.done():
            self._start_called_off = True
            self._starting.cancel()
            return
        if self._stop_signals > 1:
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
