"""One loop that serves: what a server with one loop and a worker process have in common.

    start ──▶ accept ──▶ stop_accepting ──▶ drain ──▶ finish ──▶ close

It is given listening sockets and doesn't own them; who binds, and who says when to stop, is above it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from gevpy.admission import Admission, connection_limit
from gevpy.listener import Listener, tune
from gevpy.reactor import Reactor
from gevpy.watchdog import Watchdog
from gevpy.worker import Worker

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from gevpy.handler import Handler
    from gevpy.options import ServeOptions

__all__ = ["LoopService"]

STOP_GRACE_S = 1.0  # for an on_stop, or a timer's callback, that was cancelled
STUCK_S = 5.0  # a loop that is blocked for so long is told of before it turns again
USER_TIMEOUT_GRACE_S = 5.0  # the kernel's own timeout comes after gevpy's, which knows the reason

logger = logging.getLogger("gevpy.server")


class LoopService:
    """A reactor with its listeners, its worker, and the handler's first and last hook.

    For the loop it was made on.

    Attributes:
        reactor: the connections.
        worker: what the application sees of them.
        watchdog: who blocks the loop.

    Args:
        loop: the running loop.
        handler: the application.
        options: the server's.
        worker_id: the number the application and the metrics see.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, handler: Handler, options: ServeOptions, worker_id: int = 0
    ) -> None:
        """Set up; nothing runs before `start`."""
        limits = options.limits
        admission = Admission(connection_limit(limits.max_connections), limits.max_connections_per_ip)
        self.reactor = Reactor(loop, handler, options, admission)
        self.worker = Worker(self.reactor, worker_id)
        self._listeners: list[Listener] = []
        blocked_s = options.timeouts.blocked_s
        self.watchdog = Watchdog(
            handler,
            stamp=lambda: self.reactor.turned_s,
            thread_id=threading.get_ident(),
            stuck_s=STUCK_S if blocked_s is None else min(STUCK_S, blocked_s / 2),
        )
        self.reactor.blocked_seconds = self.watchdog.seconds.totals

    async def start(self) -> None:
        """Begin to turn, and greet the handler. Raises whatever its ``on_start`` raises."""
        self.reactor.start()
        self.watchdog.start()
        await self._call_handler("on_start")

    def accept_on(self, sockets: Iterable[socket.socket]) -> list[Listener]:
        """Accept on ``sockets``, until `stop_accepting`, or `stop_some` of what is returned."""
        stall = self.reactor.options.timeouts.write_stall_s
        listeners = []
        for sock in sockets:
            tune(sock, None if stall is None else stall + USER_TIMEOUT_GRACE_S)
            listeners.append(Listener(self.reactor, sock))
        self._listeners += listeners
        for listener in listeners:
            listener.start()
        return listeners

    def stop_some(self, listeners: Iterable[Listener]) -> None:
        """Accept no more on some of them."""
        for listener in listeners:
            listener.stop()
            self._listeners.remove(listener)

    def stop_accepting(self) -> None:
        """Accept no more. Idempotent."""
        for listener in self._listeners:
            listener.stop()
        self._listeners.clear()

    async def drain(self, timeout_s: float | None, *, why: str = "stop", patient: bool = False) -> int:
        """End all connections (see `Reactor.drain`), abort at the deadline, and tell how many had to be aborted."""
        return await self.reactor.drain(timeout_s, why=why, patient=patient)

    async def finish(self, timeout_s: float | None) -> None:
        """Call the last hook; it has as long as the drain had, and a further signal ends it, too."""
        last = asyncio.ensure_future(self._call_handler("on_stop"))
        hurried = self.reactor.hurried
        await asyncio.wait((last, hurried), timeout=timeout_s or None, return_when=asyncio.FIRST_COMPLETED)
        if not last.done():
            logger.warning("on_stop had not ended in time: cancelled")
            last.cancel()
            await asyncio.wait((last,), timeout=STOP_GRACE_S)
        elif not last.cancelled() and last.exception() is not None:
            logger.error("on_stop failed", exc_info=last.exception())

    async def close(self) -> None:
        """Release everything, in whatever state it is."""
        self.stop_accepting()
        self.watchdog.stop()
        self.reactor.stop()
        with suppress(TimeoutError):  # a callback that refuses to be cancelled is left behind
            await asyncio.wait_for(self.reactor.timers.wait_closed(), STOP_GRACE_S)

    async def _call_handler(self, name: str) -> None:
        hook = self.reactor.hooks.get(name)
        if hook is None:
            return
        result = hook(self.worker)
        if hasattr(result, "__await__"):
            await result
