"""A server in the calling loop: what ``workers=1`` runs on."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any

from gevpy.addresses import format_address
from gevpy.binding import ListeningSockets, bind_all
from gevpy.loop_service import LoopService
from gevpy.metrics.source import LoopSource
from gevpy.tls import TLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy.handler import Handler
    from gevpy.options import ServeOptions
    from gevpy.timers import TimerGroup

__all__ = ["SingleLoop"]

logger = logging.getLogger("gevpy.server")


class SingleLoop:
    """The loop service of a server, and the sockets it listens on.

    Args:
        handler: the application.
        options: the server's.
    """

    def __init__(self, handler: Handler, options: ServeOptions) -> None:
        """Set up; nothing runs before `start`."""
        self._handler = handler
        self._options = options
        self._listening: ListeningSockets | None = None
        self._service: LoopService | None = None

    @property
    def addresses(self) -> list[tuple[str, int] | str]:
        """Where peers can connect."""
        return [] if self._listening is None else self._listening.addresses

    @property
    def connections(self) -> int:
        """How many are open."""
        return 0 if self._service is None else self._service.worker.connections

    @property
    def service(self) -> LoopService:
        """What runs. Raises RuntimeError as long as nothing does."""
        if self._service is None:
            msg = "the server is not running"
            raise RuntimeError(msg)
        return self._service

    @property
    def timers(self) -> TimerGroup:
        """The server's timers."""
        return self.service.reactor.timers

    @property
    def max_connections(self) -> int:
        """How many are admitted at once."""
        return self.service.reactor.admission.max_connections

    def source(self, is_ready: Callable[[], bool]) -> LoopSource:
        """Give what the metrics endpoint shows."""
        return LoopSource([self.service.reactor], map(format_address, self.addresses), is_ready)

    def bind(self) -> None:
        """Bind; see `bind_all`."""
        self._listening = bind_all(self._options)
        self._service = LoopService(asyncio.get_running_loop(), self._handler, self._options)

    async def start(self) -> None:
        """Greet the handler. Raises whatever its ``on_start`` raises."""
        await self.service.start()

    def accept(self) -> None:
        """Let peers in."""
        if self._listening is not None:
            self.service.accept_on(self._listening.sockets)

    def broadcast(self, data: Any) -> None:
        """Send ``data`` to every connection."""
        self.service.worker.broadcast(data)

    def publish(self, topic: str, data: Any) -> None:
        """Send ``data`` to every subscriber."""
        self.service.worker.publish(topic, data)

    @property
    def signals(self) -> dict[int, Callable[[], object]]:
        """What signals do while the server serves."""
        return {signal.SIGHUP: self._reload} if hasattr(signal, "SIGHUP") else {}

    def _reload(self) -> None:
        if isinstance(self._options.ssl, TLS):
            self.reload_tls()
        else:
            logger.info("SIGHUP: nothing to reload: there is no TLS, and no worker process to replace")

    def reload_tls(self) -> None:
        """Read the certificates again."""
        if self._service is not None and self._service.reactor.tls is not None:
            self._service.reactor.tls.reload()

    def runs_current_task(self) -> bool:
        """Tell whether the running task is a handler of this server, whose end a drain waits for."""
        return self._service is not None and self._service.reactor.runs_current_task()

    def hurry(self) -> None:
        """End a drain's patience now."""
        if self._service is not None:
            self._service.reactor.hurry()

    async def stop(self, timeout_s: float | None) -> None:
        """Accept no more, drain, and call the last hook."""
        if self._service is not None:
            self._service.stop_accepting()
        if self._listening is not None:
            self._listening.close()
        if self._service is not None:
            aborted = await self._service.drain(timeout_s)
            if aborted:
                what = "a connection was" if aborted == 1 else f"{aborted} connections were"
                logger.warning("%s aborted: not ended when the drain was over", what)
            await self._service.finish(timeout_s)

    async def close(self) -> None:
        """Release everything, in whatever state it is."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._service is not None:
            await self._service.close()
