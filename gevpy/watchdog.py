"""Who holds up the loop: a thread sees when the loop is late, looks at its stack, and charges the time.

    the loop turns, and stamps ──▶ late by 250 ms ──▶ sample its stack ──▶ it turns again: charge, report, log

The stamp is the loop's own; this thread only reads it, and so never makes a loop that hangs look alive.

A process that was stopped, or a machine that slept or had no time for us, is nobody's fault: this thread's own wait
ends late then, too, and nobody in the process computed meanwhile. That time is never charged. Where somebody did
compute, in C and without letting go of the interpreter, the sample comes when that ends, and finds the culprit still
there. Only C code that sleeps while it holds the interpreter can't be told from a process that was stopped.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from dataclasses import replace
from time import monotonic, process_time
from typing import TYPE_CHECKING

from gevpy.blocked import OTHER, Blocked, BlockedSeconds
from gevpy.culprit import Culprits, without_plumbing, written
from gevpy.log_limit import LimitedLog

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Watchdog"]

LATE_S = 0.25  # five turns of the reactor: what peers begin to notice, and what a busy machine alone seldom does
BACK_S = 0.05  # between looks at a loop that is late: as often as the reactor turns
NOISE_S = 0.01  # a wait that ends later than this was not just scheduled a little late
STUCK_S = 5.0  # then it is logged although it goes on: where there is no supervisor, nobody else would ever tell
MAX_FRAMES = 20

NOT_RUNNING = "the process itself was not running: it was stopped, or the machine slept or had no time for it"

logger = logging.getLogger("gevpy.watchdog")


class Watchdog:
    """A daemon thread that tells who blocks a loop, and charges the time to the method and the kind of message.

    Twice within ``late_s``, for 0.1 % of a core, it compares the loop's stamp with the clock. Once the loop is late,
    its stack is sampled; this first sample decides whom the whole time is charged to. When it turns again, the time is
    added to ``seconds``, ``on_blocked`` is told, and a warning is logged, one for each place in 5 s at most. A block
    that goes on and on is logged before it is over, too: it may never be. Any thread may call any method.

    Args:
        handler: the application; its methods are looked up once, here.
        stamp: gives the ``time.monotonic()`` at which the loop last turned; called in the watchdog's thread. Until it
            first moves, time counts from `start`.
        thread_id: the loop's thread, as of ``threading.get_ident()``.
        late_s: seconds without a turn that make the loop late. Default 0.25: five turns of the reactor.
        stuck_s: seconds after which a block is logged although it goes on. Default 5.
        on_blocked: told of each block that is over, and of pauses of the whole process, which are not ``charged``;
            called in the watchdog's thread, it must not wait for the loop. Default: nobody is told.

    Attributes:
        seconds: what was charged.
        on_stuck: told of a block that has gone on for ``stuck_s``; called in the watchdog's thread.

    Example:
        >>> watchdog = Watchdog(handler, stamp=last_turn, thread_id=threading.get_ident(), on_blocked=print)
        >>> watchdog.start()
        >>> watchdog.current() is None
        True
        >>> watchdog.stop()
    """

    def __init__(  # noqa: PLR0913 - all but the first by name
        self,
        handler: object,
        *,
        stamp: Callable[[], float],
        thread_id: int,
        late_s: float = LATE_S,
        stuck_s: float = STUCK_S,
        on_blocked: Callable[[Blocked], object] = bool,
    ) -> None:
        """Look the handler over; nothing is watched before `start`."""
        self.seconds = BlockedSeconds()
        self.on_stuck: Callable[[Blocked], object] = bool
        self._culprits = Culprits(handler)
        self._stamp = stamp
        self._thread_id = thread_id
        self._late_s = late_s
        self._stuck_s = stuck_s
        self._on_blocked = on_blocked
        self._log = LimitedLog(logger)  # the watchdog's thread alone uses it: it has no lock
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gevpy watchdog", daemon=True)
        self._seen = 0.0  # the stamp at the last look
        self._since = 0.0  # when the loop last turned, or when we began to look
        self._stood = 0.0  # seconds since then in which the process itself was not running
        self._ongoing: tuple[float, Blocked] | None = None  # since when, as if the process had always run; and what
        self._stuck_told = False

    def start(self) -> None:
        """Begin to watch.

        Raises:
            RuntimeError: it was started before.
        """
        self._begin(monotonic())
        self._thread.start()

    def stop(self) -> None:
        """Watch no more, and wait until the thread has ended; a block that goes on is reported as it stands.

        Idempotent. Where ``on_blocked`` calls it, in that very thread, it doesn't wait.
        """
        self._done.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def current(self) -> Blocked | None:
        """Give what blocks the loop at this moment, with the seconds so far; None while the loop turns."""
        ongoing = self._ongoing
        return None if ongoing is None else replace(ongoing[1], seconds=max(0.0, monotonic() - ongoing[0]))

    def _watch(self) -> None:
        timeout = self._late_s / 2
        began, used = monotonic(), process_time()
        while not self._done.wait(timeout):
            now, cpu = monotonic(), process_time()
            # What the wait was too long by, while nobody computed: whoever did may have kept us waiting.
            stood = now - began - max(timeout, cpu - used)
            timeout = self._look(now, stood if stood > NOISE_S else 0.0)
            began, used = monotonic(), process_time()
        self._finish(monotonic() - self._since - self._stood)

    def _begin(self, now: float) -> None:
        self._seen, self._since = self._stamp(), now

    def _look(self, now: float, stood: float = 0.0) -> float:
        """Judge the loop at ``now``, and give the seconds until the next look.

        Args:
            now: on the clock of the stamps.
            stood: for how many seconds, since the last look, the process itself was not running.
        """
        was_blocked = self._ongoing is not None
        stamp = self._stamp()
        if stamp == self._seen:
            self._stood += stood
        else:
            self._turned(stamp, now, stood)
        began = self._since + self._stood
        if self._ongoing is not None:
            self._ongoing = began, self._ongoing[1]
            self._tell_if_stuck(now - began, self._ongoing[1])
            return BACK_S
        left = began + self._late_s - now
        blocked = self._sample() if left <= 0 else None
        if blocked is not None:
            self._ongoing = began, blocked
            self._stuck_told = False
        if stood >= self._late_s and not was_blocked:
            self._tell_not_running(stood)  # after the sample: while this is written, the loop may go on
        return min(left, self._late_s / 2) if left > 0 else BACK_S

    def _turned(self, stamp: float, now: float, stood: float) -> None:
        """Note that the loop has turned since the last look; it may be late anew."""
        before = 0.0 if now - stamp >= stood else stood  # the process stood after that turn, if that was time enough
        self._finish(stamp - self._since - self._stood - before)
        self._seen = self._since = stamp
        self._stood = stood - before

    def _finish(self, seconds: float) -> None:
        """Report the block that is over, if there was one."""
        if self._ongoing is None:
            return
        blocked = replace(self._ongoing[1], seconds=max(0.0, seconds))
        self._ongoing = None
        self.seconds.add(blocked.where, blocked.kind, blocked.seconds)
        self._tell(blocked)
        message = f"the loop was blocked for {blocked.seconds:.1f} s {self._culprits.describe(blocked)}"
        self._log.log(("blocked", blocked.where), logging.WARNING, message)

    def _tell_if_stuck(self, seconds: float, blocked: Blocked) -> None:
        if seconds >= self._stuck_s and not self._stuck_told:
            self._stuck_told = True
            message = f"the loop is blocked, for {seconds:.1f} s so far, {self._culprits.describe(blocked)}"
            self._log.log(("stuck", blocked.where), logging.WARNING, message)
            self.on_stuck(blocked)

    def _tell_not_running(self, seconds: float) -> None:
        self._tell(Blocked(seconds, OTHER, "", NOT_RUNNING, charged=False))
        self._log.log("not running", logging.WARNING, f"the loop stood still for {seconds:.1f} s: {NOT_RUNNING}")

    def _tell(self, blocked: Blocked) -> None:
        try:
            self._on_blocked(blocked)
        except Exception as error:  # noqa: BLE001 - the watchdog outlives whom it tells
            self._log.log("on_blocked", logging.ERROR, "the watchdog could not report that the loop was blocked", error)

    def _sample(self) -> Blocked | None:
        """See what the loop's thread is doing; None if the loop is back, and that is not what made it late."""
        frame = sys._current_frames().get(self._thread_id)
        calls = [] if frame is None else list(traceback.walk_stack(frame))  # empty: the thread has ended
        try:
            where, kind = self._culprits.locate([frame for frame, _ in calls])
        except Exception as error:  # noqa: BLE001 - it looks at the application's own types, which may do anything
            self._log.log("sample", logging.ERROR, "the watchdog can't tell who blocks the loop", error)
            where, kind = OTHER, ""
        lines = [
            (frame.f_code.co_filename, line, frame.f_code.co_name, None)
            for frame, line in without_plumbing(calls)[:MAX_FRAMES]
        ]
        del frame, calls  # or what the application's variables hold might have to be freed in this thread
        if self._stamp() != self._seen:
            return None
        # Only now: it reads sources from the disk, and lets the loop's thread go on meanwhile.
        return Blocked(0.0, where, self.seconds.admit(kind), written(lines))
