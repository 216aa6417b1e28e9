"""The process tree: worker processes in numbered slots, kept alive, replaced, drained.

    ┌──────────── supervisor: listeners, slots, totals ────────────┐
    │ slot 0            slot 1                      slot 2         │
    │ worker (ready)    worker (draining)           worker         │
    │                   its successor (starting)                   │
    └──────────────────────────────────────────────────────────────┘

The supervisor owns every listening socket, so a worker's death loses no queue: as long as a slot has no worker that is
ready, another one accepts on its listeners, too. A worker that dies before it was ever ready backs off, one that dies
later is replaced at once. Nothing but messages of a fixed schema crosses the control channels.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gevpy.child import Child
from gevpy.control import (
    Accept,
    Adopt,
    Ask,
    Beat,
    Count,
    Counted,
    Deliver,
    Drained,
    Failed,
    Logged,
    Message,
    Open,
    Ready,
    Release,
    Take,
)
from gevpy.errors import WorkerError
from gevpy.log_limit import LimitedLog
from gevpy.metrics.snapshot import Snapshot, total
from gevpy.timers import TimerGroup

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Sequence

    from gevpy.application import Application
    from gevpy.options import ServeOptions

__all__ = ["Slot", "Supervisor"]

LOOK_S = 1.0  # between looks at the workers' health
KILL_GRACE_S = 5.0  # after a drain's deadline
HURRY_GRACE_S = 1.0
RESTART_GAP_S = 0.5  # at most twice a second in each slot
BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
MANY_DEATHS = 5  # before ready, within the window: the slot has failed
DEATHS_WINDOW_S = 60.0
FAILED_RETRY_S = 30.0
ASK_S = 1.0  # for workers to tell their figures

logger = logging.getLogger("gevpy.supervisor")


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
        self.adopted_by: Child | None = None
        self.early_deaths: deque[float] = deque()
        self.last_restart_s = 0.0
        self.restarting: asyncio.TimerHandle | None = None


class Supervisor:
    """Keeps the workers of one server running.

    On its loop only.

    Attributes:
        slots: by number.
        timers: of the server: they run here, once for all workers.
        restarts: how often a worker was replaced because it died.
        past: what workers that are gone have counted.
        stopping: whether the end has begun.
        on_change: called when another set of workers takes connections.

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
        self.timers = TimerGroup(loop, self._timer_failed)
        self.restarts = 0
        self.on_change: Callable[[], None] = lambda: None
        self.past = Snapshot.empty()  # what workers that are gone have counted
        self._failed_once: Child | None = None
        self._accepting = False
        self.stopping = False
        self._settled: asyncio.Event = asyncio.Event()
        self._tickets = 0
        self._asked: dict[int, tuple[set[Child], asyncio.Future[None]]] = {}
        self._counting: dict[int, tuple[set[Child], list[int], Child, int]] = {}
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = False
        self._recycling: asyncio.Task[bool] | None = None
        self._look_handle: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- what it knows -------------------------------------------------------------------------------

    @property
    def children(self) -> list[Child]:
        """All processes, the draining ones included."""
        found: list[Child] = []
        for slot in self.slots.values():
            found += [child for child in (slot.child, slot.next, *slot.leaving) if child is not None]
        return found

    @property
    def live(self) -> list[Child]:
        """The processes that take new connections."""
        return [slot.child for slot in self.slots.values() if slot.child is not None and slot.child.ready]

    @property
    def connections(self) -> int:
        """How many connections are open on all workers, as they last said."""
        return sum(child.snapshot.connections for child in self.children)

    def total(self) -> Snapshot:
        """Add up what all workers have counted, those that are gone included."""
        whole = total(child.snapshot for child in self.children)
        whole.add_counters(self.past)
        return whole

    async def refresh(self) -> None:
        """Ask all workers for their figures; return when they have told, or after a second."""
        children = {child for child in self.children if child.ready}
        self._tickets += 1
        ticket = self._tickets
        told: asyncio.Future[None] = self._loop.create_future()
        waiting = {child for child in children if child.send(Ask(ticket))}
        if not waiting:
            return
        self._asked[ticket] = (waiting, told)
        await asyncio.wait((told,), timeout=ASK_S)
        self._asked.pop(ticket, None)

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
        self._look_handle = self._loop.call_later(LOOK_S, self._look)
        first = self.children
        while not all(child.ready or child.gone.done() for child in first):
            self._settled.clear()
            await self._settled.wait()
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
        text = "no worker could start"
        if child is not None:
            text += f": {child.failure or f'{child!r} {child.how_it_ended}, see above'}"
            if child.trace:
                logger.error("worker %d could not start\n%s", child.slot, child.trace)
        return WorkerError(text)

    def _bring_up(self, slot: Slot) -> None:
        slot.restarting = None
        slot.state = "starting"
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
                child.kill("the server stops")
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
                self._told(message.ticket, child)
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
                self._count(child, message)
            case Counted():
                self._counted(child, message)
            case Logged():
                log = logging.getLogger(message.name)
                if log.isEnabledFor(message.level):
                    log.log(message.level, "[worker %d] %s", child.slot, message.text)
            case Drained():
                self._on_drained(child, message, payload)
            case _:
                child.kill(f"it sent a {message.KIND} message")

    def _on_drained(self, child: Child, message: Drained, payload: bytes) -> None:
        if message.aborted:
            left = ", ".join(map(str, json.loads(payload)))
            logger.warning("%r aborted %d connections at its drain's deadline: %s", child, message.aborted, left)

    def _told(self, ticket: int, child: Child) -> None:
        waiting, told = self._asked.get(ticket, (set(), None))
        waiting.discard(child)
        if told is not None and not waiting and not told.done():
            told.set_result(None)

    def _on_ready(self, child: Child) -> None:
        slot = self.slots.get(child.slot)
        child.ready = True
        if slot is None or child not in (slot.child, slot.next) or self.stopping:
            child.drain("stop", 0, KILL_GRACE_S)
            return
        if child is slot.next:
            slot.next = None
            old, slot.child = slot.child, child
            if old is not None:
                slot.leaving.add(old)
        slot.state = "ready"
        logger.info("%r is ready after %.2f s", child, time.monotonic() - child.started_s)
        if self._accepting:
            child.send(Accept())
            self._share_orphans()
        self._settled.set()

    # -- orphans: the listeners of slots without a worker that is ready ----------------------------------

    def _share_orphans(self) -> None:
        """Have every listener accepted on: by its own worker if that is ready, by another one if not."""
        self.on_change()
        live = [child for child in self.live if not child.leaving]
        for slot in self.slots.values():
            served = slot.child is not None and slot.child.ready and not slot.child.leaving
            adopter = None if served or not live else live[slot.id % len(live)]
            if slot.adopted_by is adopter:
                continue
            if slot.adopted_by is not None:
                slot.adopted_by.send(Release(slot.id))
            if adopter is not None and slot.listeners:
                adopter.send(Adopt(slot.id), descriptors=[sock.fileno() for sock in slot.listeners])
            slot.adopted_by = adopter

    # -- deaths ------------------------------------------------------------------------------------------

    def _on_exit(self, child: Child) -> None:
        self._keep_counters(child)
        for waiting, told in self._asked.values():
            waiting.discard(child)
            if not waiting and not told.done():
                told.set_result(None)
        slot = self.slots.get(child.slot)
        if slot is None:
            return
        slot.leaving.discard(child)
        for one in self.slots.values():
            if one.adopted_by is child:
                one.adopted_by = None
        self._settle(slot, child)
        if not self.stopping:
            self._share_orphans()
        self._settled.set()

    def _keep_counters(self, child: Child) -> None:
        self.past.add_counters(child.snapshot)
        if child.snapshot.families:
            from gevpy.metrics.merge import retired  # noqa: PLC0415 - prometheus_client loads on first use

            self.past.families = retired(self.past.families, child.snapshot.families)

    def _settle(self, slot: Slot, child: Child) -> None:
        """Put a slot in order whose child, or whose next one, is gone."""
        if slot.next is child:
            slot.next = None
        elif slot.child is child:
            slot.child, slot.next = slot.next, None
            if slot.child is not None:
                slot.state = "starting"
            elif not self.stopping:
                self._replace(slot, child)

    def _replace(self, slot: Slot, dead: Child) -> None:
        """Bring a slot back: at once after a good life, later after a bad start."""
        now = time.monotonic()
        if dead.ready:
            logger.error("%r %s: replacing it", dead, dead.how_it_ended)
            delay = max(0.0, slot.last_restart_s + RESTART_GAP_S - now)
            slot.state = "starting"
        else:
            self._failed_once = dead
            delay = self._back_off(slot, dead, now)
        slot.restarts += 1
        self.restarts += 1
        slot.last_restart_s = now + delay
        slot.restarting = self._loop.call_later(delay, self._bring_up, slot)

    def _back_off(self, slot: Slot, dead: Child, now: float) -> float:
        deaths = slot.early_deaths
        deaths.append(now)
        while deaths and deaths[0] < now - DEATHS_WINDOW_S:
            deaths.popleft()
        slot.state = "backing off"
        delay = BACK_OFF_S[min(len(deaths), len(BACK_OFF_S)) - 1]
        why = dead.failure or dead.how_it_ended
        if len(deaths) >= MANY_DEATHS:
            slot.state = "failed"
            delay = FAILED_RETRY_S
            logger.error("worker %d died %d times before it was ready: it has failed (%s)", slot.id, len(deaths), why)
        elif self._accepting and not self.live:
            delay = 0.0  # nobody serves: no time to lose
        else:
            logger.error("worker %d died before it was ready (%s): again in %g s", slot.id, why, delay)
        if dead.trace and len(deaths) == 1 and self._accepting:
            logger.error("worker %d could not start\n%s", slot.id, dead.trace)
        return delay

    # -- health --------------------------------------------------------------------------------------------

    def _look(self) -> None:
        now = time.monotonic()
        timeouts = self._options.timeouts
        for child in self.children:
            if child.ready and timeouts.blocked_s is not None and now - child.turned_s > timeouts.blocked_s:
                child.signal(signal.SIGUSR1)  # it writes its stacks to stderr
                child.kill(f"its loop has not turned for {now - child.turned_s:.1f} s")
            elif not child.ready and timeouts.start_s is not None and now - child.started_s > timeouts.start_s:
                child.kill(f"it was not ready within {timeouts.start_s:g} s")
        self._recycle(now)
        self._look_handle = self._loop.call_later(LOOK_S, self._look)

    def _recycle(self, now: float) -> None:
        """Replace one worker that is old or big."""
        if self._recycling is not None and not self._recycling.done():
            return
        lifetime_s, most_bytes = self._options.timeouts.worker_lifetime_s, self._options.limits.max_worker_bytes
        for slot in self.slots.values():
            child = slot.child
            if child is None or not child.ready or slot.next is not None:
                continue
            old = lifetime_s is not None and now - child.started_s > lifetime_s
            if old or (most_bytes is not None and child.snapshot.rss_bytes > most_bytes):
                logger.info("recycling %r: %s", child, "its lifetime is over" if old else "it has grown too big")
                self._recycling = self._loop.create_task(self._roll(slot, "recycle"))
                return

    # -- between workers -------------------------------------------------------------------------------------

    def deliver(self, message: Deliver, payload: bytes, but: Child | None = None) -> None:
        """Have the payload sent by every worker but one."""
        for child in self.children:
            if child is not but and child.ready and not child.send(message, payload):
                self.log.log(("full", child.slot), logging.WARNING, f"{child!r} doesn't read: a message was dropped")

    def _count(self, asker: Child, message: Count) -> None:
        self._tickets += 1
        others = {child for child in self.children if child is not asker and child.ready}
        others = {child for child in others if child.send(Count(self._tickets, message.topic))}
        if not others:
            asker.send(Counted(message.ticket, 0))
            return
        ticket = self._tickets
        self._counting[ticket] = (others, [], asker, message.ticket)
        self._loop.call_later(ASK_S, self._answer_count, ticket)

    def _counted(self, child: Child, message: Counted) -> None:
        if message.ticket not in self._counting:
            return
        others, counts, _, _ = self._counting[message.ticket]
        others.discard(child)
        counts.append(message.count)
        if not others:
            self._answer_count(message.ticket)

    def _answer_count(self, ticket: int) -> None:
        found = self._counting.pop(ticket, None)
        if found is not None:
            _, counts, asker, its_ticket = found
            asker.send(Counted(its_ticket, sum(counts)))

    def hand_over(self, child: Child, sock: socket.socket) -> bool:
        """Give an accepted connection to a worker; it stays the caller's to close."""
        if not child.send(Take(), descriptors=[sock.fileno()]):
            return False
        child.load.connections += 1
        return True

    # -- changing --------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Replace all workers one by one; asked for while it goes on, it is done once more afterwards."""
        if self.stopping:
            return
        if self._reloading is not None and not self._reloading.done():
            self._reload_again = True
            return
        self._reloading = self._loop.create_task(self._reload())

    async def _reload(self) -> None:
        logger.info("reloading: replacing %d workers one by one", len(self.slots))
        for slot in list(self.slots.values()):
            if self.stopping or not await self._roll(slot, "reload"):
                break
        if self._reload_again and not self.stopping:
            self._reload_again = False
            await self._reload()

    async def _roll(self, slot: Slot, why: str) -> bool:
        """Start a slot's next worker, and have the old one leave once that is ready; tell whether it went well."""
        old = slot.child
        if old is None or not old.ready or slot.next is not None:
            return True  # it is being replaced already
        new = slot.next = self._spawn(slot)
        while not new.ready and not new.gone.done():
            self._settled.clear()
            await self._settled.wait()
        if not new.ready:
            logger.error("the new worker %d can't start (%s): the old one stays", slot.id, new.failure)
            return False
        old.drain(why, self._options.timeouts.drain_s, KILL_GRACE_S, patient=True)
        return True

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
            return False
        slot = self.slots[max(number for number, slot in self.slots.items() if slot.state != "draining")]
        slot.state = "draining"
        child, slot.child = slot.child, None
        if slot.restarting is not None:
            slot.restarting.cancel()
        if child is not None:
            slot.leaving.add(child)
            child.drain("remove", self._options.timeouts.drain_s, KILL_GRACE_S, patient=True)
        self._share_orphans()
        return True

    # -- stopping --------------------------------------------------------------------------------------------

    async def stop(self, timeout_s: float | None) -> None:
        """Have all workers drain and exit; kill those that don't."""
        self.stopping = True
        for task in (self._reloading, self._recycling):
            if task is not None:
                task.cancel()
        for slot in self.slots.values():
            if slot.restarting is not None:
                slot.restarting.cancel()
        for child in self.children:
            child.leaving = False  # a patient one loses its patience
            child.drain("stop", timeout_s, KILL_GRACE_S)
            if not child.ready:
                child.kill("the server stops before it was ready")
        await self._all_gone()

    async def close(self) -> None:
        """End everything at once, in whatever state it is."""
        self.stopping = True
        if self._look_handle is not None:
            self._look_handle.cancel()
        self.timers.stop()
        for child in self.children:
            child.kill("the server ends")
        await self._all_gone()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.timers.wait_closed(), HURRY_GRACE_S)

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

    def _timer_failed(self, name: str, error: BaseException) -> None:
        self.log.log(("timer", type(error)), logging.ERROR, f"timer callback {name} failed: {error!r}", error)
