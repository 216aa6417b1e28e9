"""Replacing workers that serve well, one by one: each successor has proven to be ready before the old one drains.

All of them at a reload; now and then one that has grown too old or too big.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gevpy.options import ServeOptions
    from gevpy.slot import Slot
    from gevpy.supervisor import Supervisor

__all__ = ["KILL_GRACE_S", "Rolling"]

KILL_GRACE_S = 5.0  # after a drain's deadline

logger = logging.getLogger("gevpy.supervisor")


class Rolling:
    """The replacements of one supervisor. On its loop only.

    Args:
        supervisor: whose workers are replaced.
        options: the server's.
    """

    def __init__(self, supervisor: Supervisor, options: ServeOptions) -> None:
        """Begin with nothing to replace."""
        self._supervisor = supervisor
        self._timeouts = options.timeouts
        self._max_worker_bytes = options.limits.max_worker_bytes
        self._reloading: asyncio.Task[None] | None = None
        self._again = False
        self._recycling: asyncio.Task[bool] | None = None

    def reload(self) -> None:
        """Replace all workers; asked for while it goes on, it is done once more afterwards."""
        if self._reloading is not None and not self._reloading.done():
            self._again = True
        elif not self._supervisor.stopping:
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        again = True
        while again:
            self._again = False
            slots = self._supervisor.manned
            logger.info("reloading: replacing %d workers one by one", len(slots))
            for slot in slots:
                if not await self._roll(slot, "reload"):
                    break
            else:
                logger.info("reloaded: all workers are new; the old ones leave as their connections end")
            again = self._again

    def recycle(self, now: float) -> None:
        """Replace one worker that is too old or too big, unless one is being replaced already.

        Args:
            now: monotonic time, in seconds.
        """
        if self._recycling is not None and not self._recycling.done():
            return
        for slot in self._supervisor.slots.values():
            reason = self._why_recycle(slot, now)
            if reason:
                logger.info("recycling %r: %s", slot.child, reason)
                self._recycling = asyncio.get_running_loop().create_task(self._roll(slot, "recycle"))
                return

    def _why_recycle(self, slot: Slot, now: float) -> str:
        child, lifetime_s, most = slot.child, self._timeouts.worker_lifetime_s, self._max_worker_bytes
        if child is None or not slot.is_served or slot.next is not None:
            return ""
        if lifetime_s is not None and now - child.started_s > lifetime_s:
            return f"it has served for more than {lifetime_s:g} s"
        if most is not None and child.snapshot.rss_bytes > most:
            return f"its {child.snapshot.rss_bytes:,} bytes are more than {most:,}"
        return ""

    async def _roll(self, slot: Slot, why: str) -> bool:
        """Start a slot's next worker, and have the old one leave once that is ready; tell whether it went well."""
        old = slot.child
        if old is None or not slot.is_served or slot.next is not None:
            return True  # it is being replaced already
        new = self._supervisor.spawn_next(slot)
        if not await self._supervisor.started(new):
            logger.error("the new worker %d can't start (%s): the old one stays", slot.id, new.failure)
            return False
        old.drain(why, self._timeouts.drain_s, KILL_GRACE_S, patient=True)
        return True

    def cancel(self) -> None:
        """Replace nobody any more."""
        for task in (self._reloading, self._recycling):
            if task is not None:
                task.cancel()
