"""A server in many processes: what ``workers=N`` runs on.

The supervisor keeps the workers; here is what it serves with: the listening sockets, the acceptors where connections
are handed over, the program that steers the kernel's choice, and the signals that change the tree while it runs.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gevpy.acceptor import Acceptor
from gevpy.addresses import format_address
from gevpy.admission import connection_limit
from gevpy.application import Application
from gevpy.binding import WorkerSockets
from gevpy.child import DUMP_S
from gevpy.control_messages import Deliver, ReloadTLS
from gevpy.errors import ConfigError
from gevpy.placement import chooser
from gevpy.reuseport import kernel_spreads, steer
from gevpy.supervisor import Supervisor
from gevpy.timers import TimerGroup
from gevpy.topics import check_topic
from gevpy.tree_source import TreeSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy.child import Child
    from gevpy.handler import Handler
    from gevpy.options import ServeOptions

__all__ = ["WorkerTree"]

TIMER_GRACE_S = 1.0  # for a timer's callback that was cancelled

logger = logging.getLogger("gevpy.supervisor")


class WorkerTree:
    """The supervisor of a server, and the sockets it keeps.

    Args:
        handler: the application; it travels to the workers, and is not used here.
        options: the server's.
    """

    def __init__(self, handler: Handler, options: ServeOptions) -> None:
        """Set up; nothing runs before `start`."""
        self._options = options
        self._application = Application(handler, replace(options, sockets=None, placement="reuseport"))
        self._sockets: WorkerSockets | None = None
        self._supervisor: Supervisor | None = None
        self._acceptors: list[Acceptor] = []
        self._timers: TimerGroup | None = None

    @property
    def addresses(self) -> list[tuple[str, int] | str]:
        """Where peers can connect."""
        return [] if self._sockets is None else self._sockets.listening.addresses

    @property
    def supervisor(self) -> Supervisor:
        """What runs. Raises RuntimeError as long as nothing does."""
        if self._supervisor is None:
            msg = "the server is not running"
            raise RuntimeError(msg)
        return self._supervisor

    @property
    def connections(self) -> int:
        """How many are open on all workers, as they said within the last half second."""
        return 0 if self._supervisor is None else self._supervisor.connections

    @property
    def timers(self) -> TimerGroup:
        """The server's timers; they run here, once for all workers."""
        if self._timers is None:
            msg = "the server is not running"
            raise RuntimeError(msg)
        return self._timers

    @property
    def max_connections(self) -> int:
        """How many each worker admits at once."""
        return connection_limit(self._options.limits.max_connections)

    def source(self, is_ready: Callable[[], bool]) -> TreeSource:
        """Give what the metrics endpoint shows."""
        return TreeSource(self.supervisor, list(map(format_address, self.addresses)), is_ready)

    def bind(self) -> None:
        """Bind, for the first worker; see `WorkerSockets`."""
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            msg = "workers import the main script: put what serves under \"if __name__ == '__main__':\""
            raise ConfigError(msg)
        self._sockets = WorkerSockets(self._options, grouped=self._kernel_places)
        loop = asyncio.get_running_loop()
        self._supervisor = Supervisor(loop, self._application, self._options)
        self._supervisor.on_change = self._steer
        self._timers = TimerGroup(loop, self._timer_failed)

    @property
    def _kernel_places(self) -> bool:
        return bool(self._options.placement == "reuseport") and kernel_spreads()

    async def start(self) -> None:
        """Start the workers. Raises `WorkerError` if not one of them can start."""
        await self.supervisor.start([self._listeners_of(number) for number in range(self._options.processes)])

    def accept(self) -> None:
        """Let peers in."""
        self.supervisor.accept()
        if self._kernel_places or self._sockets is None:
            return
        name = self._options.placement
        choose = chooser("least_connections" if name == "reuseport" else name)
        self._acceptors = [Acceptor(self.supervisor, sock, choose) for sock in self._sockets.listening.sockets]
        for acceptor in self._acceptors:
            acceptor.start()
        self.supervisor.on_untaken = self._acceptors[0].place_again

    def _listeners_of(self, number: int) -> list[Any]:
        if not self._kernel_places or self._sockets is None:
            return []
        return self._sockets.of_slot(number)

    def _steer(self) -> None:
        """Have the kernel choose only among slots whose worker takes connections; who waits elsewhere is adopted."""
        if self._sockets is None or not self._sockets.grouped:
            return
        slots = self.supervisor.slots.values()
        serving = sorted(slot.id for slot in slots if slot.child is not None and slot.child.ready)
        steered = [steer(sock, serving) for sock in self._sockets.listening.sockets] if serving else [True]
        if not all(steered):
            # Nothing is lost: whoever the kernel's hash sends to a worker that drains is adopted by another.
            self.supervisor.log.log("steer", logging.INFO, "the kernel's choice of a worker can't be steered here")

    # -- signals ---------------------------------------------------------------------------------------

    @property
    def signals(self) -> dict[int, Callable[[], object]]:
        """What signals do while the server serves."""
        if not hasattr(signal, "SIGTTIN"):
            return {}
        return {
            signal.SIGHUP: self._reload,
            signal.SIGTTIN: self._add_worker,
            signal.SIGTTOU: self._remove_worker,
            signal.SIGUSR1: self._dump_stacks,
        }

    def reload_tls(self) -> None:
        """Have all workers read the certificates again."""
        for child in self.supervisor.children:
            child.send(ReloadTLS())

    def _reload(self) -> None:
        if self._supervisor is not None:
            self._supervisor.rolling.reload()

    def _remove_worker(self) -> None:
        if self._supervisor is not None:
            self._supervisor.remove_worker()

    def _add_worker(self) -> None:
        if self._supervisor is not None:
            number = self._supervisor.free_slot()
            self._supervisor.add_worker(self._listeners_of(number))

    def _dump_stacks(self) -> None:
        """Have all write their stacks, in turns: at once, nobody could read them."""
        loop = asyncio.get_running_loop()
        for number, child in enumerate(self._supervisor.children if self._supervisor is not None else ()):
            loop.call_later(number * DUMP_S, _dump_stacks_of, child)

    # -- what an application calls -----------------------------------------------------------------------

    def broadcast(self, data: Any) -> None:
        """Send ``data``, a str or bytes, to every connection of every worker."""
        self._deliver(None, data)

    def publish(self, topic: str, data: Any) -> None:
        """Send ``data``, a str or bytes, to every subscriber on every worker."""
        check_topic(topic)
        self._deliver(topic, data)

    def _deliver(self, topic: str | None, data: Any) -> None:
        is_text = isinstance(data, str)
        payload = data.encode() if is_text else _as_bytes(data)
        self.supervisor.deliver(Deliver(topic, is_text), payload)

    def runs_current_task(self) -> bool:
        """Tell whether a handler of this server runs here: they run in the workers."""
        return False

    def hurry(self) -> None:
        """End all drains now."""
        if self._supervisor is not None:
            self._supervisor.hurry()

    async def stop(self, timeout_s: float | None) -> None:
        """Accept no more, and have all workers drain."""
        for acceptor in self._acceptors:
            acceptor.stop()
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None
        if self._supervisor is not None:
            await self._supervisor.stop(timeout_s)

    async def close(self) -> None:
        """Release everything, in whatever state it is."""
        for acceptor in self._acceptors:
            acceptor.stop()
        self._acceptors.clear()
        if self._timers is not None:
            self._timers.stop()
        if self._supervisor is not None:
            await self._supervisor.close()
        if self._timers is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._timers.wait_closed(), TIMER_GRACE_S)
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None

    def _timer_failed(self, name: str, error: BaseException) -> None:
        self.supervisor.log.log(
            ("timer", type(error)), logging.ERROR, f"timer callback {name} failed: {error!r}", error
        )


def _dump_stacks_of(child: Child) -> None:
    logger.info("the stacks of %r:", child)
    child.signal(signal.SIGUSR1)


def _as_bytes(data: Any) -> bytes:
    try:
        return bytes(memoryview(data))
    except TypeError as error:
        msg = f"what is sent to all workers must be str or bytes-like, not {type(data).__name__}: it crosses processes"
        raise TypeError(msg) from error
