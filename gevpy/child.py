"""One worker process, as its supervisor sees it: spawned, ready, beating, draining, gone."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections import deque
from contextlib import suppress
from multiprocessing import get_context
from typing import TYPE_CHECKING

from gevpy.control import Channel
from gevpy.control_messages import Drain, Hurry, Message, Stuck, Take, Taken
from gevpy.forwarded_log import levels
from gevpy.metrics.snapshot import Snapshot
from gevpy.placement import WorkerLoad
from gevpy.restarts import RestartReason
from gevpy.worker_process import Assignment, run_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import SpawnProcess

    from gevpy.application import Application

__all__ = ["DUMP_S", "Child"]

MOST_ON_THE_WAY = 256  # connections handed over to a worker that does not take them, being busy: then to others
DUMP_S = 0.2  # to write its stacks in

SPAWN = get_context("spawn")

logger = logging.getLogger("gevpy.supervisor")


class Child:
    """A worker process and the supervisor's end of its control channel.

    On the supervisor's loop only.

    Attributes:
        slot: its number.
        ready: whether it has said so.
        hung_up: whether it hears nothing any more: it is about to be gone.
        leaving: it was told to drain.
        snapshot: what it last said it had counted.
        turned_s: when its loop last turned, by the monotonic clock, which all processes share.
        started_s: when it was spawned, by the same.
        blocked: it was killed because its loop did not turn.
        failure: why it could not start, in a line; "" if it did not say.
        load: what placements see of it.
        exit_code: how it ended: None as long as it runs, the negative signal number for one that a signal ended.

    Args:
        loop: the supervisor's loop.
        slot: the number the worker will have.
        on_message: called with each of its messages.
        on_exit: called once, when it has exited and all it had said was taken.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        slot: int,
        on_message: Callable[[Child, Message, bytes], None],
        on_exit: Callable[[Child], None],
    ) -> None:
        """Set up; `spawn` begins."""
        self._loop = loop
        self.slot = slot
        self._on_message = on_message
        self._on_exit = on_exit
        self.ready = False
        self.hung_up = False
        self.leaving = False
        self.blocked = False
        self.failure = ""
        self.trace = ""
        self.snapshot = Snapshot.empty(slot)
        self.started_s = self.turned_s = time.monotonic()
        self.load = WorkerLoad(slot, 0)
        self._process: SpawnProcess | None = None
        self._channel: Channel | None = None
        self._alarm: Channel | None = None
        self._killing: asyncio.TimerHandle | None = None
        self._watched = -1  # readable when it has exited
        self._stuck: Stuck | None = None  # what blocks its loop, as its watchdog has said
        self._blocked_s = 0.0
        self._killed = False
        self._reaped = False
        self.exit_code: int | None = None
        self._on_the_way: deque[int] = deque()  # descriptors of connections that were handed over and not taken yet
        self.gone: asyncio.Future[None] = loop.create_future()

    def __repr__(self) -> str:
        """Show which one it is."""
        return f"worker {self.slot} (pid {self.pid})"

    @property
    def pid(self) -> int:
        """The process's id, 0 before it is spawned."""
        return self.load.pid

    @property
    def how_it_ended(self) -> str:
        """The exit in words."""
        code = self.exit_code
        if code is not None and code < 0:
            try:
                return f"was ended by {signal.Signals(-code).name}"
            except ValueError:
                return f"was ended by signal {-code}"
        return f"exited with code {code}"

    @property
    def restart_reason(self) -> RestartReason:
        """Why it has to be replaced, now that it is gone."""
        if not self.ready:
            return RestartReason.START
        if self.blocked:
            return RestartReason.BLOCKED
        return RestartReason.SIGNAL if self.exit_code is not None and self.exit_code < 0 else RestartReason.EXIT

    async def spawn(
        self, application: Application, listeners: Sequence[socket.socket], cpus: tuple[int, ...] | None
    ) -> None:
        """Start the process. Raises whatever keeps it from being started, such as OSError."""
        ours, its = socket.socketpair()
        our_alarm, its_alarm = socket.socketpair()
        assignment = Assignment(self.slot, application, list(listeners), its, its_alarm, levels(), cpus)
        process = SPAWN.Process(target=run_worker, args=(assignment,), name=f"gevpy worker {self.slot}")
        try:
            await asyncio.to_thread(process.start)  # it writes all that the process needs to a pipe, and waits for it
        except BaseException:
            ours.close()
            our_alarm.close()
            raise
        finally:
            its.close()
            its_alarm.close()
        self._process = process
        self.load = WorkerLoad(self.slot, process.pid or 0)
        self._channel = Channel(self._loop, ours, self._received, self._channel_ended)
        self._alarm = Channel(self._loop, our_alarm, self._received, lambda _error: None)
        self._watched = _watch(process)
        self._loop.add_reader(self._watched, self._exited)

    def send(self, message: Message, payload: bytes = b"", descriptors: Sequence[int] = ()) -> bool:
        """Say something to it; False if it can't be told."""
        return self._channel is not None and self._channel.send(message, payload, descriptors)

    def hand_over(self, fd: int) -> bool:
        """Give it an accepted connection, of which a duplicate is kept until it has taken it; False if it can't."""
        if len(self._on_the_way) >= MOST_ON_THE_WAY:
            return False
        try:
            kept = os.dup(fd)
        except OSError:
            return False
        if not self.send(Take(), descriptors=[fd]):
            os.close(kept)
            return False
        self._on_the_way.append(kept)
        self.load.connections += 1
        return True

    def untaken(self) -> list[int]:
        """Give up, once it is gone, the connections that it never took: their descriptors are the caller's then."""
        left = list(self._on_the_way)
        self._on_the_way.clear()
        return left

    def drain(self, why: str, timeout_s: float | None, kill_after_s: float, *, patient: bool = False) -> None:
        """Tell it to drain and exit, and kill it if it hasn't ``kill_after_s`` after the deadline. Idempotent."""
        if self.leaving:
            return
        self.leaving = True
        self.send(Drain(why, timeout_s, patient))
        if timeout_s is not None:
            self._kill_in(timeout_s + kill_after_s)

    def hurry(self, kill_after_s: float) -> None:
        """End its drain now."""
        self.send(Hurry())
        self._kill_in(kill_after_s)

    def kill(self, why: str, level: int = logging.ERROR) -> None:
        """End the process at once, if there is one yet; who has it spawned looks after it then. Idempotent."""
        if self.pid and not self._reaped and not self._killed:
            self._killed = True
            logger.log(level, "killing %r: %s", self, why)
            self.signal(signal.SIGKILL)

    def end_blocked(self, seconds: float) -> None:
        """End it, as its loop has not turned for ``seconds``; it dumps its stacks, unless its watchdog has told."""
        if self.blocked:
            return
        self.blocked = True
        self._blocked_s = seconds
        if self._stuck is None:
            self.signal(signal.SIGUSR1)
        self._loop.call_later(DUMP_S, self.kill, f"its loop has not turned for {seconds:.1f} s")

    def charge_block(self) -> None:
        """Add the block that it was ended for to what it has counted: it could not tell of it any more."""
        if self.blocked:
            place = f"{self._stuck.where}|{self._stuck.what}" if self._stuck is not None else "other|"
            blocked = self.snapshot.blocked
            blocked[place] = blocked.get(place, 0.0) + self._blocked_s

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self._process is not None and not self._reaped:
            os.kill(self.pid, number)

    def _kill_in(self, seconds: float) -> None:
        if self._killing is not None:
            self._killing.cancel()
        self._killing = self._loop.call_later(seconds, self.kill, "it has not exited in time")

    def _received(self, message: Message, payload: bytes, descriptors: list[int]) -> None:
        for fd in descriptors:  # a worker has none to give
            os.close(fd)
        if isinstance(message, Taken) and self._on_the_way:
            os.close(self._on_the_way.popleft())
            return
        if isinstance(message, Stuck):
            self._stuck = message
            return
        self._on_message(self, message, payload)

    def _channel_ended(self, error: Exception | None) -> None:
        self.hung_up = True
        if error is None or self.leaving:
            return
        text = f"its control channel failed: {error}"
        if isinstance(error, ConnectionError):
            self._loop.call_later(DUMP_S, self.kill, text)  # most likely it is dead, and we shall hear of it
        else:
            self.kill(text)

    def _exited(self) -> None:
        process = self._process
        assert process is not None, "it was spawned"
        self._loop.remove_reader(self._watched)
        if self._watched != process.sentinel:
            os.close(self._watched)
        process.join()
        self._reaped = True  # from now on its id may be another's
        self.exit_code = process.exitcode
        process.close()  # what it holds would else wait for the garbage collector
        if self._killing is not None:
            self._killing.cancel()
        for channel in (self._channel, self._alarm):
            if channel is not None:
                channel.read_rest()
                channel.close()
        self.gone.set_result(None)
        self._on_exit(self)

    def take_beat(self, payload: bytes, turned_s: float, ticket: int) -> None:
        """Keep what a beat said."""
        try:
            snapshot = Snapshot.from_json(payload)
        except ValueError as error:
            self.kill(f"it sent no snapshot: {error}")
            return
        snapshot.families = snapshot.families or self.snapshot.families
        if not ticket:  # a plain beat doesn't say
            snapshot.read_buffer_bytes = self.snapshot.read_buffer_bytes
            snapshot.write_buffer_bytes = self.snapshot.write_buffer_bytes
        self.snapshot = snapshot
        self.turned_s = turned_s
        self._stuck = None


def _watch(process: SpawnProcess) -> int:
    """Give a descriptor that gets readable when the process exits.

    A pidfd where there is one: multiprocessing's sentinel is a pipe that stays open as long as anybody holds its other
    end, and whatever the application starts in the worker may do so.
    """
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):  # a sandbox may forbid it
            return os.pidfd_open(process.pid or 0)
    return process.sentinel
