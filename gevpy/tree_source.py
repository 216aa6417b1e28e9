"""The numbers of a server in many processes: what its workers last said, and what those that are gone have counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gevpy.build import VERSION
from gevpy.metrics.snapshot import Snapshot, as_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client.core import Metric

    from gevpy.child import Child
    from gevpy.slot import Slot
    from gevpy.supervisor import Supervisor

__all__ = ["TreeSource"]


class TreeSource:
    """The `MetricsSource` of a supervisor. For its loop.

    Args:
        supervisor: whose workers are shown.
        addresses: where peers can connect, as written for people.
        is_ready: whether the server has started.
    """

    def __init__(self, supervisor: Supervisor, addresses: Sequence[str], is_ready: Callable[[], bool]) -> None:
        """Note the time: the server starts now."""
        self._supervisor = supervisor
        self._addresses = list(addresses)
        self._is_ready = is_ready
        self._started_at = time.time()

    async def refresh(self) -> None:
        """Ask the workers."""
        await self._supervisor.refresh()

    def collect(self) -> Iterator[Metric]:
        """Give the server's metrics, then the application's own, of all processes together."""
        from gevpy.metrics.collector import families  # noqa: PLC0415 - prometheus_client loads on first use
        from gevpy.metrics.merge import families_of, merge, retired  # noqa: PLC0415 - the same

        supervisor = self._supervisor
        states = [slot.state for slot in supervisor.manned]
        yield from families(
            [child.snapshot for child in supervisor.children],
            supervisor.totals.past,
            restarts=supervisor.restarts,
            states=states,
        )
        past = supervisor.totals.past.families
        shown = {slot.child for slot in supervisor.slots.values()}  # a slot's other processes come or go: only counters
        for child in supervisor.children:
            if child not in shown:
                past = retired(past, child.snapshot.families)
        serving = {str(child.slot): child.snapshot.families for child in shown if child is not None}
        yield from merge({"past": past, **serving, "supervisor": families_of()})

    def stats(self) -> dict[str, Any]:
        """Give the document of ``/stats.json``."""
        supervisor = self._supervisor
        return {
            "version": VERSION,
            "started_at": self._started_at,
            "now": time.time(),
            "state": self._state(),
            "addresses": self._addresses,
            "restarts": supervisor.restarts.total(),
            "total": as_status(supervisor.total()),
            "workers": [self._worker(slot, child) for slot in supervisor.manned for child in _processes(slot)],
        }

    def _state(self) -> str:
        if self._supervisor.stopping:
            return "draining"
        if not self._is_ready():
            return "starting"
        return "degraded" if self.trouble() else "ready"

    def trouble(self) -> str:
        """Say how many slots have failed."""
        slots = self._supervisor.manned
        failed = sum(slot.failed for slot in slots)
        return f"{failed} of {len(slots)} workers {'has' if failed == 1 else 'have'} failed" if failed else ""

    def _worker(self, slot: Slot, child: Child | None) -> dict[str, Any]:
        """Describe a process; for a slot without one, the slot."""
        snapshot = Snapshot.empty(slot.id) if child is None else child.snapshot
        return {
            "id": slot.id,
            "pid": 0 if child is None else child.pid,
            "state": _state_of(slot, child),
            "restarts": slot.restarts,
            "uptime_s": 0.0 if child is None else time.monotonic() - child.started_s,
            "rss_bytes": snapshot.rss_bytes,
            "lag_s": snapshot.lag_seconds,
            "blocked_s": sum(snapshot.blocked.values()),
            **as_status(snapshot),
        }


def _state_of(slot: Slot, child: Child | None) -> str:
    if child is not None and child.leaving:
        return "draining"
    return "starting" if child is not None and child is slot.next else slot.state


def _processes(slot: Slot) -> list[Child | None]:
    """Give the processes of a slot, or None for one that has none just now."""
    found: list[Child | None] = [child for child in (slot.child, slot.next, *slot.leaving) if child is not None]
    return found or [None]
