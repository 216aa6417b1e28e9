"""One worker: a loop that serves, as the application sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from gevpy.errors import ConnectionClosed, WriteBufferFull
from gevpy.stats import DropReason
from gevpy.topics import check_topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gevpy.connection import Connection
    from gevpy.reactor import Reactor
    from gevpy.timers import Timer

__all__ = ["Worker"]


class Others(Protocol):
    """The other workers, as one of them reaches them."""

    def publish(self, topic: str, data: Any) -> None:
        """Have ``data`` sent to a topic's subscribers there."""

    async def presence(self, topic: str) -> int:
        """Count a topic's subscribers there."""


class Worker:
    """The worker that a connection lives on; a server with ``workers=1`` has one, in the calling loop.

    All methods are for the worker's own loop.

    Attributes:
        id: 0 for the first worker, and so on.
    """

    __slots__ = ("_others", "_reactor", "id")

    def __init__(self, reactor: Reactor, identity: int) -> None:
        """Show ``reactor`` to the application."""
        self._reactor = reactor
        self._others: Others | None = None
        self.id = identity
        reactor.worker = self

    def __repr__(self) -> str:
        """Show which one it is."""
        return f"<Worker {self.id}: {self.connections} connections>"

    def connect(self, others: Others) -> None:
        """Reach the other workers by way of ``others``."""
        self._others = others

    @property
    def connections(self) -> int:
        """How many connections are open on this worker."""
        return len(self._reactor.connections)

    def run_after(self, delay_s: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)``, which may be ``async def``, once, ``delay_s`` seconds from now.

        Returns:
            A `Timer`, whose ``stop`` calls it off.

        Raises:
            ConfigError: ``delay_s`` is negative, infinite or no number.
        """
        return self._reactor.timers.run_after(delay_s, callback, *args)

    def run_every(self, interval_s: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)``, which may be ``async def``, every ``interval_s`` seconds, first after one interval.

        Drift-free; beats that a blocked loop missed are not caught up, and a run that still goes on skips a beat.

        Returns:
            A `Timer`, whose ``stop`` ends it.

        Raises:
            ConfigError: ``interval_s`` is not above 0, infinite or no number.
        """
        return self._reactor.timers.run_every(interval_s, callback, *args)

    def broadcast(self, data: Any, where: Callable[[Connection], object] | None = None) -> None:
        """Send ``data`` to every connection of this worker, or to those for which ``where(conn)`` is true.

        A connection that is closing, or whose slow-consumer policy refuses the message, is passed over (and counted);
        the others get theirs.

        Raises:
            Exception: whatever a protocol's ``packet`` raises.
        """
        connections = cast("list[Connection]", list(self._reactor.connections))
        self._send_all(connections if where is None else [conn for conn in connections if where(conn)], data)

    def publish(self, topic: str, data: Any, *, exclude: Connection | None = None) -> None:
        """Send ``data`` to every connection that subscribes to ``topic``, on every worker, except ``exclude``.

        Other workers get it through the supervisor: at most once, and only ``str`` or bytes-like ``data``.

        Raises:
            ConfigError: ``topic`` can't be a topic.
            TypeError: there are other workers, and ``data`` is neither ``str`` nor bytes-like.
            Exception: whatever a protocol's ``packet`` raises.
        """
        self.publish_here(topic, data, exclude=exclude)
        if self._others is not None:
            self._others.publish(topic, data)

    def publish_here(self, topic: str, data: Any, *, exclude: Connection | None = None) -> None:
        """Send ``data`` to the subscribers of ``topic`` on this worker alone; else like `publish`."""
        check_topic(topic)
        members = cast("tuple[Connection, ...]", self._reactor.topics.members(topic))
        self._send_all([conn for conn in members if conn is not exclude], data)

    async def presence(self, topic: str) -> int:
        """Count the connections that subscribe to ``topic``, on every worker.

        Raises:
            ConfigError: ``topic`` can't be a topic.
        """
        check_topic(topic)
        elsewhere = 0 if self._others is None else await self._others.presence(topic)
        return self._reactor.topics.count(topic) + elsewhere

    def _send_all(self, connections: Iterable[Connection], data: Any) -> None:
        made: dict[Any, bytes] = {}
        for conn in connections:
            if not conn.connected:
                continue
            try:
                conn.send_shared(data, made)
            except ConnectionClosed:
                continue  # the slow-consumer policy has acted, and counted it
            except WriteBufferFull:
                self._reactor.stats.count_dropped(DropReason.DROP_NEWEST)  # "block" has nobody here who could wait
