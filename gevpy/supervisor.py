"""The process tree: worker processes in numbered slots, kept alive, replaced, drained.

    ┌──────────── supervisor: listeners, slots, totals ────────────┐
    │ slot 0            slot 1                      slot 2         │
    │ worker (ready)    worker (draining)           worker         │
    │                   its successor (starting)                   │
    └──────────────────────────────────────────────────────────────┘

The supervisor owns every listening socket, so a worker's death loses no queue: as long as a slot has no worker that is
ready, another one accepts on its listeners, too. Nothing but messages of a fixed schema crosses the control channels.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from gevpy.child import Child
from gevpy.control_messages import (
    Accept,
    Adopt,
    Ask,
    Beat,
    Count,
    Counted,
    Deliver,
    Drained,
    Failed,
    Leaving,
    Logged,
    Message,
    Open,
    Ready,
    Release,
)
from gevpy.errors import WorkerError
from gevpy.gather import Gather
from gevpy.log_limit import LimitedLog, printable
from gevpy.rolling import KILL_GRACE_S, Rolling
from gevpy.slot import Slot
from gevpy.totals import Totals
from gevpy.worker_process import beat_s

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Sequence

    from gevpy.application import Application
    from gevpy.metrics.snapshot import Snapshot
    from gevpy.options import ServeOptions
    from gevpy.restarts import RestartReason

__all__ = ["Supervisor"]

HURRY_GRACE_S = 0.5
LOOK_S = 0.2  # between looks at the workers' health

logger = logging.getLogger("gevpy.supervisor")


class Supervisor:
    """Keeps the workers of one server running.

    On its loop only.

    Attributes:
        slots: by number.
        restarts: how often a worker was replaced because it died, by reason.
        rolling: replaces workers that serve well.
        totals: what workers that are gone have counted, and all together.
        stopping: whether the end has begun.
        on_change: called when another set of workers takes connections.
        on_untaken: called with the descriptor of a connection that was handed over to a worker which died before it
            took it; whoever is called owns it.

    Args:
        loop: the running loop.
        application: what the workers serve.
        options: the server's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, application: Application, options: ServeOptions) -> None:
        """Set up; no process runs before `start`."""
        self._loop = loop
        self._application = application
        self._options = options
        self.slots: dict[int, Slot] = {}
        self.log = LimitedLog(logger)
        self.restarts: Counter[RestartReason] = Counter()
        self.on_change: Callable[[], None] = lambda: None
        self.on_untaken: Callable[[int], object] = os.close
        self.totals = Totals()
        self._failed_once: Child | None = None
        self._told_trace = ""
        self._accepting = False
        self.stopping = False
        self._settled: asyncio.Event = asyncio.Event()
        self._gather = Gather()
        self._beat_s = beat_s(options.timeouts.blocked_s)  # what a worker told last may be so old
        self.rolling = Rolling(self, options)
        self._look_handle: asyncio.TimerHandle | None = None
        self._looked_s = self._awake_s = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- what it knows -------------------------------------------------------------------------------

    @property
    def children(self) -> list[Child]:
        """All processes, the draining ones included."""
        return [child for slot in self.slots.values() for child in slot.processes]

    @property
    def manned(self) -> list[Slot]:
        """The slots that have, or shall have, a worker."""
        return [slot for slot in self.slots.values() if not slot.is_vacant]

    @property
    def live(self) -> list[Child]:
        """The processes that take new connections."""
        return [slot.child for slot in self.slots.values() if slot.child is not None and slot.is_served]

    @property
    def connections(self) -> int:
        """How many connections are open on all workers, as they last said."""
        return sum(child.snapshot.connections for child in self.children)

    def total(self) -> Snapshot:
        """Add up what all workers have counted, those that are gone included."""
        return self.totals.of(child.snapshot for child in self.children)

    async def refresh(self) -> None:
        """Ask all workers for their figures; return when they have told, or after a second."""
        await self._gather.ask([child for child in self.children if child.ready], Ask)

    # -- starting ------------------------------------------------------------------------------------

    async def start(self, listeners: Sequence[Sequence[socket.socket]]) -> None:
        """Spawn a worker for each entry of ``listeners``; return when each is ready or has failed.

        Raises:
            WorkerError: not one could start.
        """
        for number, sockets in enumerate(listeners):
            self.slots[number] = Slot(number, sockets)
        for slot in self.slots.values():
            self._bring_up(slot)
        self._looked_s = time.monotonic()
        self._look_handle = self._loop.call_later(LOOK_S, self._look)
        for child in self.children:
            await self.started(child)
        if not self.live:
            raise self._why_none_started()

    def accept(self) -> None:
        """Have the workers accept."""
        self._accepting = True
        for child in self.live:
            child.send(Accept())
        self._share_orphans()

    def _why_none_started(self) -> WorkerError:
        child = self._failed_once
        if child is None:
            return WorkerError("no worker could start")
        if child.failure:
            return WorkerError(f"no worker could start: {child.failure}")
        hint = "is the main script's serving under \"if __name__ == '__main__':\"?"
        return WorkerError(f"no worker could start: {child!r} {child.how_it_ended}, see above; {hint}")

    def _bring_up(self, slot: Slot) -> None:
        slot.restarting = None
        slot.state = "failed" if slot.failed else "starting"
        slot.child = self._spawn(slot)

    def _spawn(self, slot: Slot) -> Child:
        child = Child(self._loop, slot.id, self._on_message, self._on_exit)
        self._run(self._spawn_now(slot, child))
        return child

    async def _spawn_now(self, slot: Slot, child: Child) -> None:
        cpus = self._options.cpus_of(slot.id)
        try:
            await child.spawn(self._application, slot.listeners, cpus)
            if self.stopping:
                child.kill("the server stops", logging.INFO)
        except Exception as error:
            logger.exception("worker %d could not be spawned", slot.id)
            child.failure = f"{type(error).__name__}: {error}"
            child.gone.set_result(None)
            self._on_exit(child)

    def _run(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what workers say ------------------------------------------------------------------------------

    def _on_message(self, child: Child, message: Message, payload: bytes) -> None:  # noqa: C901 - one case a message
        match message:
            case Beat():
                child.take_beat(payload, message.turned_s, message.ticket)
                self.totals.admit(child.snapshot)
                self._gather.answer(message.ticket, child, None)
            case Ready():
                self._on_ready(child)
            case Failed():
                child.failure, child.trace = message.error, message.trace
            case Open():
                child.snapshot.connections = message.connections
                child.load.connections = max(0, child.load.connections - message.gone)
            case Deliver():
                self.deliver(message, payload, but=child)
            case Count():
                self._run(self._count(child, message))
            case Counted():
                self._gather.answer(message.ticket, child, message.count)
            case Logged():
                log = logging.getLogger(message.name)
                if log.isEnabledFor(message.level):
                    log.log(message.level, "[worker %d] %s", child.slot, message.text)
            case Leaving():
                child.leaving = True
                self._share_orphans()
            case Drained():
                _tell_aborted(child, message, payload)
            case _:
                child.kill(f"it sent a {message.KIND} message")

    def _on_ready(self, child: Child) -> None:
        slot = self.slots.get(child.slot)
        child.ready = True
        if slot is None or child not in (slot.child, slot.next) or self.stopping:
            child.leaving = False  # what it was told before it was spawned, it didn't hear
            child.drain("stop", 0, KILL_GRACE_S)
            return
        if child is slot.next:
            slot.succeed()
        slot.mark_ready()
        logger.info("%r is ready after %.2f s", child, time.monotonic() - child.started_s)
        if self._accepting:
            child.send(Accept())
        self._share_orphans()
        self._settled.set()

    # -- orphans: the listeners of slots without a worker that is ready ----------------------------------

    def _share_orphans(self) -> None:
        """Have every listener accepted on: by its own worker if that is ready, by another one if not."""
        if not self._accepting:
            return
        self.on_change()
        live = self.live
        for slot in self.slots.values():
            adopter = None if slot.is_served or not live else live[slot.id % len(live)]
            if slot.adopted_by is adopter:
                continue
            if slot.adopted_by is not None:
                slot.adopted_by.send(Release(slot.id))
            if adopter is not None and slot.listeners:
                adopter.send(Adopt(slot.id), descriptors=[sock.fileno() for sock in slot.listeners])
            slot.adopted_by = adopter

    # -- deaths ------------------------------------------------------------------------------------------

    def _on_exit(self, child: Child) -> None:
        child.charge_block()
        self.totals.admit(child.snapshot)
        self.totals.retire(child.snapshot)
        self._gather.forget(child)
        for one in self.slots.values():
            if one.adopted_by is child:
                one.adopted_by = None
        slot = self.slots[child.slot]
        if child in slot.leaving and not self.stopping:
            logger.info("%r has left", child)
        unserved = slot.forget(child)
        for fd in child.untaken():
            self.on_untaken(fd)
        if not self.stopping:
            if unserved:
                self._replace(slot, child)
            self._share_orphans()
        self._settled.set()

    def _replace(self, slot: Slot, dead: Child) -> None:
        """Bring a slot back: at once after a good life, later after a bad start."""
        hurry = self._accepting and not self.live
        delay = slot.restart_delay_s(was_ready=dead.ready, now=time.monotonic(), hurry=hurry)
        if dead.ready:
            logger.error("%r %s: replacing it", dead, dead.how_it_ended)
        else:
            self._failed_once = dead
            self._tell_early_death(slot, dead, delay)
        self.restarts[dead.restart_reason] += 1
        slot.restarting = self._loop.call_later(delay, self._bring_up, slot)

    def _tell_early_death(self, slot: Slot, dead: Child, delay: float) -> None:
        why = dead.failure or f"{dead.how_it_ended}, see above"
        often = f" {slot.early_deaths} times, and counts as failed" if slot.failed else ""
        again = f": again in {delay:g} s" if self._accepting or self.live else ""
        logger.error("worker %d died before it was ready%s (%s)%s", slot.id, often, why, again)
        if dead.trace and dead.trace != self._told_trace:
            self._told_trace = dead.trace
            logger.error("worker %d could not start\n%s", slot.id, dead.trace)

    # -- health --------------------------------------------------------------------------------------------

    def _look(self) -> None:
        now = time.monotonic()
        blocked_s, start_s = self._options.timeouts.blocked_s, self._options.timeouts.start_s
        limit_s = min((limit for limit in (blocked_s, start_s) if limit is not None), default=0.0)
        if now - self._looked_s > LOOK_S + limit_s / 2:
            self._awake_s = now  # we stood still: they may have told of their turns, or have stood still with us
        self._looked_s = now
        for child in self.children:
            silent_s, age_s = (now - max(since, self._awake_s) for since in (child.turned_s, child.started_s))
            if child.ready and blocked_s is not None and silent_s > blocked_s + self._beat_s:
                child.end_blocked(silent_s)
            elif not child.ready and start_s is not None and age_s > start_s:
                child.kill(f"it was not ready within {start_s:g} s")
        self.rolling.recycle(now)
        self._look_handle = self._loop.call_later(LOOK_S, self._look)

    # -- between workers -------------------------------------------------------------------------------------

    def deliver(self, message: Deliver, payload: bytes, but: Child | None = None) -> None:
        """Have the payload sent by every worker but one."""
        for child in self.children:
            hears = child is not but and child.ready and not child.hung_up
            if hears and not child.send(message, payload):
                self.log.log(("full", child.slot), logging.WARNING, f"{child!r} doesn't read: a message was dropped")

    async def _count(self, asker: Child, message: Count) -> None:
        others = [child for child in self.children if child is not asker and child.ready]
        counts = await self._gather.ask(others, partial(Count, topic=message.topic))
        asker.send(Counted(message.ticket, sum(counts)))

    # -- changing --------------------------------------------------------------------------------------------

    def spawn_next(self, slot: Slot) -> Child:
        """Start a slot's next worker, which takes its place once it is ready."""
        slot.next = self._spawn(slot)
        return slot.next

    async def started(self, child: Child) -> bool:
        """Wait until a process is ready or gone; tell whether it is ready."""
        while not child.ready and not child.gone.done():
            self._settled.clear()
            await self._settled.wait()
        return child.ready

    def free_slot(self) -> int:
        """Give the number of the first slot that no worker serves."""
        removed = (number for number, slot in self.slots.items() if slot.state == "draining" and slot.child is None)
        return min(removed, default=len(self.slots))

    def add_worker(self, listeners: Sequence[socket.socket]) -> None:
        """Add a worker in the first free slot."""
        number = self.free_slot()
        slot = self.slots.setdefault(number, Slot(number, listeners))
        logger.info("adding worker %d", number)
        self._bring_up(slot)

    def remove_worker(self) -> bool:
        """Have the last worker leave, patiently; its listeners are accepted on by another one for good."""
        if len([slot for slot in self.slots.values() if slot.state != "draining"]) < 2:  # noqa: PLR2004 - one stays
            logger.info("the last worker stays")
            return False
        slot = self.slots[max(number for number, slot in self.slots.items() if slot.state != "draining")]
        logger.info("removing worker %d", slot.id)
        for child in slot.vacate():
            child.drain("remove", self._options.timeouts.drain_s, KILL_GRACE_S, patient=True)
        self._share_orphans()
        return True

    # -- stopping --------------------------------------------------------------------------------------------

    async def stop(self, timeout_s: float | None) -> None:
        """Have all workers drain and exit; kill those that don't."""
        self.stopping = True
        self.rolling.cancel()
        for slot in self.slots.values():
            if slot.restarting is not None:
                slot.restarting.cancel()
        for child in self.children:
            child.leaving = False  # a patient one loses its patience
            child.drain("stop", timeout_s, KILL_GRACE_S)
            if not child.ready:
                child.kill("the server stops before it was ready", logging.INFO)
        await self._all_gone()

    async def close(self) -> None:
        """End everything at once, in whatever state it is."""
        self.stopping = True
        if self._look_handle is not None:
            self._look_handle.cancel()
        for child in self.children:
            child.kill("the server ends", logging.INFO)
        await self._all_gone()

    def hurry(self) -> None:
        """End all drains now."""
        for child in self.children:
            child.hurry(HURRY_GRACE_S)

    async def _all_gone(self) -> None:
        while self._tasks:  # spawning
            await asyncio.wait(tuple(self._tasks))
        gone: Iterable[asyncio.Future[None]] = [child.gone for child in self.children]
        for one in gone:
            await asyncio.shield(one)


def _tell_aborted(child: Child, drained: Drained, payload: bytes) -> None:
    if drained.aborted:
        what = "a connection" if drained.aborted == 1 else f"{drained.aborted} connections"
        left = printable(payload.decode("utf-8", "replace"))
        logger.warning("%r drained, and aborted %s that had not ended: %s", child, what, left)
