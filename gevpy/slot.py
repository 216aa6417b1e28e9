"""The place of one worker in the tree, and when a worker that died there is started again.

A worker that dies after it was ready is replaced at once, but at most twice a second. One that dies before it was ever
ready backs off, longer each time; five such deaths within a minute mark the slot as failed, until a worker is ready.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Sequence

    from gevpy.child import Child

__all__ = ["Slot"]

RESTART_GAP_S = 0.5  # at most twice a second
BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
MANY_DEATHS = 5  # before ready, within the window: the slot has failed
DEATHS_WINDOW_S = 60.0


class Slot:
    """The place of one worker: its listeners outlive the processes that serve them.

    Attributes:
        id: its number.
        listeners: what its worker accepts on.
        child: the process that serves it, or is about to; None between two.
        next: its successor, as long as that is not ready.
        leaving: processes that drain.
        state: ``"starting"``, ``"ready"``, ``"backing off"``, ``"failed"`` or ``"draining"``.
        restarts: how often a worker was replaced because it died.
        failed: it has seen too many early deaths, and no worker that was ready since.
        early_deaths: how many in a row died here before they were ready.
        adopted_by: the process that accepts on its listeners in place of its own.
        restarting: what will start the next one.

    Args:
        identity: its number.
        listeners: what its worker will accept on.
    """

    def __init__(self, identity: int, listeners: Sequence[socket.socket]) -> None:
        """Begin without a process."""
        self.id = identity
        self.listeners = tuple(listeners)
        self.child: Child | None = None
        self.next: Child | None = None
        self.leaving: set[Child] = set()
        self.state = "starting"
        self.restarts = 0
        self.failed = False
        self.early_deaths = 0
        self._lately: deque[float] = deque()  # when they died, within the window
        self.adopted_by: Child | None = None
        self.restarting: asyncio.TimerHandle | None = None
        self._last_restart_s = float("-inf")

    @property
    def is_served(self) -> bool:
        """Whether its own worker takes new connections."""
        return self.child is not None and self.child.ready and not self.child.leaving

    @property
    def processes(self) -> list[Child]:
        """Its processes, the draining ones included."""
        return [child for child in (self.child, self.next, *self.leaving) if child is not None]

    @property
    def is_vacant(self) -> bool:
        """Whether its worker was removed, and is gone."""
        return self.state == "draining" and not self.processes

    def mark_ready(self) -> None:
        """Note that its worker is ready: what went wrong before is over."""
        self.state = "ready"
        self.failed = False
        self.early_deaths = 0
        self._lately.clear()

    def succeed(self) -> None:
        """Put the successor, which is ready, in the place of the one that served so far."""
        if self.child is not None:
            self.leaving.add(self.child)
        self.child, self.next = self.next, None

    def vacate(self) -> list[Child]:
        """Have nobody serve here any more; give who shall leave."""
        self.state = "draining"
        if self.restarting is not None:
            self.restarting.cancel()
        self.leaving.update(self.processes)
        self.child = self.next = None
        return list(self.leaving)

    def forget(self, child: Child) -> bool:
        """Strike out a process that is gone; tell whether nobody is left to serve the slot."""
        self.leaving.discard(child)
        if self.next is child:
            self.next = None
        elif self.child is child:
            self.child, self.next = self.next, None
            self.state = "starting"
            return self.child is None
        return False

    def restart_delay_s(self, *, was_ready: bool, now: float, hurry: bool) -> float:
        """Count a death, and give the seconds until the slot's next worker is started.

        Args:
            was_ready: whether the dead one had ever been ready.
            now: monotonic time, in seconds.
            hurry: no worker is left that serves: there is no time to back off.
        """
        self.restarts += 1
        delay = max(0.0, self._last_restart_s + RESTART_GAP_S - now)
        if not was_ready:
            delay = max(delay, self._back_off_s(now, hurry=hurry))
        self._last_restart_s = now + delay
        return delay

    def _back_off_s(self, now: float, *, hurry: bool) -> float:
        self.early_deaths += 1
        self._lately.append(now)
        while self._lately[0] < now - DEATHS_WINDOW_S:
            self._lately.popleft()
        self.failed = self.failed or len(self._lately) >= MANY_DEATHS
        self.state = "failed" if self.failed else "backing off"
        return 0.0 if hurry else BACK_OFF_S[min(self.early_deaths, len(BACK_OFF_S)) - 1]
