"""A worker process from its first line to its last: load the application, serve one loop, do what the supervisor says.

It was spawned, not forked: it has its own copy of the application, and of descriptors only its listeners and its end of
the control channel. When that channel ends, the supervisor is gone: the worker drains and exits.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gevpy.control import MAX_PAYLOAD_BYTES, Channel
from gevpy.control_messages import (
    Accept,
    Adopt,
    Ask,
    Beat,
    Count,
    Counted,
    Deliver,
    Drain,
    Drained,
    Failed,
    Hurry,
    Leaving,
    Message,
    Open,
    Ready,
    Release,
    ReloadTLS,
    Take,
    Taken,
)
from gevpy.errors import WorkerError
from gevpy.event_loop import run
from gevpy.forwarded_log import LOG_CHARACTERS, ForwardedLog
from gevpy.listener import Door
from gevpy.loop_service import LoopService
from gevpy.metrics.snapshot import Snapshot
from gevpy.systemd import forget

if TYPE_CHECKING:
    from gevpy.application import Application
    from gevpy.listener import Listener

__all__ = ["Assignment", "beat_s", "run_worker"]

BEAT_S = 0.5
LEAST_BEAT_S = 0.05
FAMILIES_EVERY = 10  # beats: how often the application's metrics are told without being asked for
LAST_TICKET = -1
STDERR = 2
DESCRIPTORS = Path("/dev/fd")
GONE, SIGNALLED = ON_ITS_OWN = ("supervisor gone", "signal")  # why a worker drains without being told to
OPEN_S = 0.05  # how soon the supervisor knows of connections that came or ended
LEFT_SHOWN = 20  # of those who were aborted

logger = logging.getLogger("gevpy.worker")


def beat_s(blocked_s: float | None) -> float:
    """Give the seconds between two beats of a worker: some of them within ``Timeouts.blocked_s``."""
    return BEAT_S if blocked_s is None else min(BEAT_S, max(LEAST_BEAT_S, blocked_s / 4))


@dataclass
class Assignment:
    """What a worker process is given at spawn.

    Attributes:
        slot: its number.
        application: handler and options.
        listeners: where it accepts; its own for ever.
        control: its end of the control channel.
        alarm: where other threads than the loop's log: they must be heard while that is blocked.
        log_levels: of the supervisor's loggers, by name.
        cpus: the cores it may run on, or None for all.
    """

    slot: int
    application: Application
    listeners: list[socket.socket]
    control: socket.socket
    alarm: socket.socket
    log_levels: dict[str, int]
    cpus: tuple[int, ...] | None


def run_worker(assignment: Assignment) -> None:
    """Be the worker: the process ends when this returns."""
    forget()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor acts on it
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    _keep_descriptors()
    if assignment.cpus is not None:
        os.sched_setaffinity(0, assignment.cpus)
    run(_Worker(assignment).serve())


def _keep_descriptors() -> None:
    """Let nothing that the application starts inherit what we hold: multiprocessing's pipes, too."""
    for path in DESCRIPTORS.iterdir() if DESCRIPTORS.is_dir() else ():
        with suppress(OSError):  # the one that lists them
            if int(path.name) > STDERR:
                os.set_inheritable(int(path.name), False)  # noqa: FBT003 - its own argument


class _Worker:
    """One worker process's loop, seen from inside."""

    def __init__(self, assignment: Assignment) -> None:
        """Set up; `serve` does the rest."""
        self._assignment = assignment
        self._service: LoopService | None = None
        self._adopted: dict[int, tuple[list[Listener], list[socket.socket]]] = {}
        self._taken = 0
        self._told_open = (0, 0)
        self._drain: asyncio.Future[Drain] | None = None
        self._questions: dict[int, asyncio.Future[int]] = {}
        self._beats = 0

    async def serve(self) -> None:
        """Start, say so, serve until told to drain, drain, exit."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._drain = loop.create_future()
        self._channel = Channel(loop, self._assignment.control, self._on_message, self._on_closed)
        self._log = ForwardedLog(self._channel, self._assignment.alarm, self._assignment.log_levels)
        self._log.take_over()
        loop.add_signal_handler(signal.SIGTERM, self._begin_drain, Drain(SIGNALLED, None, patient=False))
        if await self._start(loop):
            self._channel.send(Ready())
            self._beat()
            self._tell_open()
            await self._end(await self._drain)
        self._channel.close()

    async def _start(self, loop: asyncio.AbstractEventLoop) -> bool:
        try:
            handler, options = self._assignment.application.load()
            self._log.take_over()
            self._service = service = LoopService(loop, handler, options, self._assignment.slot)
            service.worker.connect(self)
            service.watchdog.on_stuck = self._log.tell_stuck
            await service.start()
        except Exception as error:  # noqa: BLE001 - whatever the application raised is told to the supervisor
            if self._service is not None:
                await self._service.close()
            text = f"{type(error).__name__}: {error}"
            self._channel.send(Failed(text[:1000], traceback.format_exc()[-LOG_CHARACTERS:]))
            return False
        self._options = options
        self._door = Door(service.reactor)
        return True

    async def _end(self, drain: Drain) -> None:
        service = self._running()
        for slot in tuple(self._adopted):
            self._release(slot)
        service.stop_accepting()
        if not drain.patient:  # else others accept on them; at a stop, whoever comes shall be refused, not wait in vain
            for sock in self._assignment.listeners:
                sock.close()
        if drain.why == SIGNALLED:
            self._channel.send(Leaving())
        timeout_s = self._options.timeouts.drain_s if drain.why in ON_ITS_OWN else drain.timeout_s
        aborted = await service.drain(timeout_s, why=drain.why, patient=drain.patient)
        await service.finish(timeout_s)
        self._send_beat(LAST_TICKET)
        left = ", ".join(map(str, service.reactor.aborted_peers[:LEFT_SHOWN]))
        self._channel.send(Drained(aborted), left.encode())
        await service.close()

    def _running(self) -> LoopService:
        if self._service is None:
            raise WorkerError("the worker has not started")
        return self._service

    # -- what the supervisor says --------------------------------------------------------------------

    def _on_message(  # noqa: C901, PLR0912 - one case a message
        self, message: Message, payload: bytes, descriptors: list[int]
    ) -> None:
        match message:
            case Accept():
                self._running().accept_on(self._assignment.listeners)
            case Adopt():
                self._adopt(message.slot, descriptors)
            case Release():
                self._release(message.slot)
            case Take():
                self._take(descriptors)
            case Drain():
                self._begin_drain(message)
            case Hurry():
                self._running().reactor.hurry()
            case ReloadTLS():
                self._reload_tls()
            case Ask():
                self._send_beat(message.ticket)
            case Deliver():
                self._deliver(message, payload)
            case Count():
                count = self._running().reactor.topics.count(message.topic)
                self._channel.send(Counted(message.ticket, count))
            case Counted():
                question = self._questions.pop(message.ticket, None)
                if question is not None and not question.done():
                    question.set_result(message.count)
            case _:
                logger.error("the supervisor sent a %s message", message.KIND)

    def _reload_tls(self) -> None:
        tls = self._running().reactor.tls
        if tls is not None:
            tls.reload()

    def _on_closed(self, error: Exception | None) -> None:
        logger.warning("the supervisor is gone (%s): draining", error or "its end of the channel was closed")
        for question in self._questions.values():
            if not question.done():
                question.set_result(0)
        self._begin_drain(Drain(GONE, None, patient=False))

    def _begin_drain(self, drain: Drain) -> None:
        if self._drain is None:
            return
        if not self._drain.done():
            self._drain.set_result(drain)
        elif not drain.patient:
            self._running().reactor.lose_patience()

    def _adopt(self, slot: int, descriptors: list[int]) -> None:
        self._release(slot)
        sockets = [socket.socket(fileno=fd) for fd in descriptors]
        self._adopted[slot] = (self._running().accept_on(sockets), sockets)

    def _release(self, slot: int) -> None:
        listeners, sockets = self._adopted.pop(slot, ((), ()))
        self._running().stop_some(listeners)
        for sock in sockets:
            sock.close()

    def _take(self, descriptors: list[int]) -> None:
        for fd in descriptors:
            self._taken += 1
            self._channel.send(Taken())  # first: whoever dies after this had accepted it
            self._door.take_descriptor(fd)

    def _tell_open(self) -> None:
        """Keep the supervisor's count true, wherever it has changed."""
        reactor = self._running().reactor
        gone = max(0, self._taken - reactor.admission.count) if self._taken else 0
        now = (len(reactor.connections), gone)
        if now != self._told_open:
            self._channel.send(Open(now[0], gone - self._told_open[1]))
            self._told_open = now
        self._loop.call_later(OPEN_S, self._tell_open)

    def _deliver(self, message: Deliver, payload: bytes) -> None:
        try:
            data = payload.decode() if message.is_text else payload
            if message.topic is None:
                self._running().worker.broadcast(data)
            else:
                self._running().worker.publish_here(message.topic, data)
        except Exception:
            logger.exception("what was published could not be packed")

    # -- what the supervisor is told -----------------------------------------------------------------

    def _beat(self) -> None:
        # First: whatever fails now, the supervisor must hear of us again.
        self._loop.call_later(beat_s(self._options.timeouts.blocked_s), self._beat)
        self._beats += 1
        self._send_beat(0)

    def _send_beat(self, ticket: int) -> None:
        if not self._channel.closed:
            snapshot = Snapshot.of(self._running().reactor, buffers=ticket != 0)
            if ticket or not self._beats % FAMILIES_EVERY:
                snapshot.families = _families()
            payload = snapshot.to_json()
            if len(payload) > MAX_PAYLOAD_BYTES:
                logger.error("the application's metrics are too many for one message, and left out")
                snapshot.families = []
                payload = snapshot.to_json()
            self._channel.send(Beat(ticket, time.monotonic()), payload)

    # -- what the application's worker asks for (see `Worker.connect`) -------------------------------

    def publish(self, topic: str, data: Any) -> None:
        """Have ``data`` sent to the topic's subscribers on all other workers."""
        is_text = isinstance(data, str)
        payload = data.encode() if is_text else bytes(memoryview(data))
        if not self._channel.send(Deliver(topic, is_text), payload):
            logger.warning("a published message was dropped: the control channel is full")

    async def presence(self, topic: str) -> int:
        """Count a topic's subscribers on all other workers."""
        ticket = len(self._questions) + 1
        while ticket in self._questions:
            ticket += 1
        answer: asyncio.Future[int] = self._loop.create_future()
        self._questions[ticket] = answer
        try:
            return await answer if self._channel.send(Count(ticket, topic)) else 0
        finally:
            self._questions.pop(ticket, None)


def _families() -> list[Any]:
    """Write down the application's metrics, if it has any."""
    if "prometheus_client" not in sys.modules:
        return []
    from gevpy.metrics.merge import families_of  # noqa: PLC0415 - prometheus_client loads on first use

    try:
        return families_of()
    except Exception:
        logger.exception("a metrics collector failed")
        return []
