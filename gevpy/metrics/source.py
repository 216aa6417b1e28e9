"""The numbers of a server that is one loop: all at hand, read where they are counted."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from gevpy.build import VERSION
from gevpy.metrics.snapshot import Snapshot, as_status, total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.core import Metric

    from gevpy.reactor import Reactor

__all__ = ["LoopSource"]


class LoopSource:
    """The `MetricsSource` of reactors in this process.

    Args:
        reactors: the server's loops; each is shown as a worker.
        addresses: where peers can connect, as written for people: ``"127.0.0.1:1833"``.
        is_ready: tells whether the server has started; the document says ``"starting"`` before.

    For the loop of the reactors, like all they hold.

    Example:
        >>> await MetricsEndpoint.start("127.0.0.1:9091", LoopSource([reactor]))  # doctest: +SKIP
    """

    def __init__(
        self,
        reactors: Sequence[Reactor],
        addresses: Iterable[str] = (),
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """Note the time: the server starts now."""
        self._reactors = tuple(reactors)
        self._addresses = list(addresses)
        self._is_ready = is_ready
        self._started_at = time.time()
        self._started = time.monotonic()

    async def refresh(self) -> None:
        """Do nothing: the numbers are read as they stand."""

    def collect(self) -> Iterator[Metric]:
        """Give the server's metrics, then the application's own from the global registry."""
        from prometheus_client import REGISTRY  # noqa: PLC0415 - it loads on first use

        from gevpy.metrics.collector import ServerCollector  # noqa: PLC0415 - it loads the former

        yield from ServerCollector(self._reactors).collect()
        yield from REGISTRY.collect()

    def stats(self) -> dict[str, Any]:
        """Give the document of ``/stats.json``."""
        snapshots = [Snapshot.of(reactor) for reactor in self._reactors]
        return {
            "version": VERSION,
            "started_at": self._started_at,
            "now": time.time(),
            "state": self._state(self._reactors),
            "addresses": self._addresses,
            "restarts": 0,
            "total": as_status(total(snapshots)),
            "workers": [self._worker(*pair) for pair in zip(self._reactors, snapshots, strict=True)],
        }

    def trouble(self) -> str:
        """Say nothing: one loop serves, or it doesn't."""
        return ""

    def _state(self, reactors: Iterable[Reactor]) -> str:
        if any(reactor.draining for reactor in reactors):
            return "draining"
        return "ready" if self._is_ready() else "starting"

    def _worker(self, reactor: Reactor, snapshot: Snapshot) -> dict[str, Any]:
        return {
            "id": snapshot.worker,
            "pid": os.getpid(),
            "state": self._state((reactor,)),
            "restarts": 0,
            "uptime_s": time.monotonic() - self._started,
            "rss_bytes": snapshot.rss_bytes,
            "lag_s": snapshot.lag_seconds,
            "blocked_s": sum(snapshot.blocked.values()),
            **as_status(snapshot),
        }
