"""Who holds up the loop: a thread sees when the loop is late, looks at its stack, and charges the time.

    the loop turns, and stamps ──▶ late by 250 ms ──▶ sample its stack ──▶ it turns again: charge, report, log

The stamp is the loop's own; this thread only reads it, and so never makes a loop that hangs look alive. What is
charged is found by code objects and not by gevpy's frames, which the compiled build has none of. Whatever becomes a
label is bounded: the places are a closed list, the kinds of message are few, short and printable.

A process that was stopped, or a machine that slept or had no time for us, is nobody's fault: this thread's own wait
ends late then, too, and nobody in the process computed meanwhile. That time is never charged. Where somebody did
compute, in C and without letting go of the interpreter, the sample comes when that ends, and finds the culprit still
there. Only C code that sleeps while it holds the interpreter can't be told from a process that was stopped.
"""

from __future__ import annotations

import enum
import inspect
import logging
import sys
import threading
import traceback
from dataclasses import dataclass, replace
from functools import partial, partialmethod
from time import monotonic, process_time
from types import CodeType, MethodType
from typing import TYPE_CHECKING, Any

from gevpy.log_limit import LimitedLog, printable
from gevpy.protocol.base import Protocol
from gevpy.reactor import HOOKS
from gevpy.timers import Timer, _running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["PLACES", "Blocked", "BlockedSeconds", "Watchdog"]

METHODS = ("on_message", *HOOKS)
CODEC = ("unpacket", "packet")
TIMER, OTHER = "timer", "other"

PLACES = (*METHODS, *CODEC, TIMER, OTHER)
"""Where a loop can be blocked: all the values of the metrics label."""

LATE_S = 0.25  # five turns of the reactor: what peers begin to notice, and what a busy machine alone seldom does
BACK_S = 0.05  # between looks at a loop that is late: as often as the reactor turns
NOISE_S = 0.01  # a wait that ends later than this was not just scheduled a little late
STUCK_S = 5.0  # then it is logged although it goes on: where there is no supervisor, nobody else would ever tell
MAX_KINDS = 32
MAX_KIND = 64
MAX_INT_BITS = 64  # the numbers that protocols use; the digits of a huge one take long to find
MAX_FRAMES = 20
MAX_STACK_BYTES = 4096
MAX_WRAPPERS = 16  # decorators around one method; a bound, for a __wrapped__ that goes in circles

NOT_RUNNING = "the process itself was not running: it was stopped, or the machine slept or had no time for it"

logger = logging.getLogger("gevpy.watchdog")


@dataclass(frozen=True, slots=True)
class Blocked:
    """One time that a loop was blocked.

    Attributes:
        seconds: from the loop's last turn to its next one, less those in which the process itself was not running.
        where: what was running, one of `PLACES`.
        kind: of the message in hand: its ``ctx``, if that is a string, a number or an enum's member, else the type of
            its data; ``""`` for no message, ``"other"`` after 32 kinds. At most 64 characters, all printable.
        stack: the loop's, innermost call last; at most 20 frames and 4 KiB, without the values of variables.
        charged: False if it was the whole process that was not running; then ``stack`` says so.
    """

    seconds: float
    where: str
    kind: str
    stack: str
    charged: bool = True


class BlockedSeconds:
    """The seconds for which a loop was blocked, by place and kind of message; they only grow.

    There are at most 34 kinds: the first 32, ``""``, and ``"other"`` for all that come later. Any thread may call any
    method.

    Example:
        >>> seconds = BlockedSeconds()
        >>> seconds.add("on_message", "login", 1.5)
        >>> seconds.totals()
        {('on_message', 'login'): 1.5}
    """

    def __init__(self) -> None:
        """Begin with nothing charged."""
        self._lock = threading.Lock()
        self._kinds = {"", OTHER}
        self._seconds: dict[tuple[str, str], float] = {}

    def admit(self, kind: str) -> str:
        """Give ``kind`` back if it is one of the first 32, else ``"other"``."""
        with self._lock:
            if len(self._kinds) < MAX_KINDS + 2:
                self._kinds.add(kind)
            return kind if kind in self._kinds else OTHER

    def add(self, where: str, kind: str, seconds: float) -> None:
        """Charge ``seconds`` to ``where``, one of `PLACES`, and ``kind``."""
        key = where, self.admit(kind)
        with self._lock:
            self._seconds[key] = self._seconds.get(key, 0.0) + seconds

    def totals(self) -> dict[tuple[str, str], float]:
        """Give a copy: ``{(where, kind): seconds}``."""
        with self._lock:
            return dict(self._seconds)


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
        self._application = _Application(handler)
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
        message = f"the loop was blocked for {blocked.seconds:.1f} s {self._application.describe(blocked)}"
        self._log.log(("blocked", blocked.where), logging.WARNING, message)

    def _tell_if_stuck(self, seconds: float, blocked: Blocked) -> None:
        if seconds >= self._stuck_s and not self._stuck_told:
            self._stuck_told = True
            message = f"the loop is blocked, for {seconds:.1f} s so far, {self._application.describe(blocked)}"
            self._log.log(("stuck", blocked.where), logging.WARNING, message)

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
            where, kind = self._application.locate([frame for frame, _ in calls])
        except Exception as error:  # noqa: BLE001 - it looks at the application's own types, which may do anything
            self._log.log("sample", logging.ERROR, "the watchdog can't tell who blocks the loop", error)
            where, kind = OTHER, ""
        lines = [(frame.f_code.co_filename, line, frame.f_code.co_name, None) for frame, line in calls[:MAX_FRAMES]]
        del frame, calls  # or what the application's variables hold might have to be freed in this thread
        if self._stamp() != self._seen:
            return None
        # Only now: it reads sources from the disk, and lets the loop's thread go on meanwhile.
        return Blocked(0.0, where, self.seconds.admit(kind), _written(lines))


class _Application:
    """Finds, on a stack, the frames of a handler's methods, inherited and wrapped ones too, of codecs and of timers."""

    def __init__(self, handler: object) -> None:
        self._name = type(handler).__name__
        self._hooks: dict[CodeType, set[str]] = {}
        for hook in METHODS:
            for method in (getattr(handler, hook, None), *(vars(cls).get(hook) for cls in type(handler).__mro__)):
                for code in _codes_of(method):
                    self._hooks.setdefault(code, set()).add(hook)

    def describe(self, blocked: Blocked) -> str:
        """Say where it was, for the log."""
        places = {TIMER: "in a timer callback", OTHER: "outside of the handler's methods"}
        places.update((name, f"in the protocol's {name}") for name in CODEC)
        place = places.get(blocked.where, f"in {self._name}.{blocked.where}")
        kind = f" (kind {blocked.kind})" if blocked.kind else ""
        return f"{place}{kind}\n{blocked.stack}".rstrip()

    def locate(self, frames: list[FrameType]) -> tuple[str, str]:
        """Give the place and the kind of message for a stack, innermost frame first; the innermost place counts."""
        timed = _timed_codes()
        found = OTHER
        for frame in frames:
            place = self._place(frame, timed)
            if place is not None and found == OTHER:
                found = place
            if place == "on_message":
                return found, _kind_of(frame)
        return found, ""

    def _place(self, frame: FrameType, timed: set[CodeType]) -> str | None:
        code = frame.f_code
        hooks = self._hooks.get(code)
        if hooks is not None:
            return self._hook(frame, hooks)
        if code.co_name in CODEC and _is_of_a_protocol(frame):
            return code.co_name
        return TIMER if code in timed else None

    def _hook(self, frame: FrameType, hooks: set[str]) -> str | None:
        """Tell which method a frame is of; the wrappers that one decorator made have one code, and hold the method."""
        if len(hooks) > 1:
            held = [frame.f_locals.get(name) for name in frame.f_code.co_freevars]
            owners = [self._hooks.get(code, set()) for value in held for code in _codes_of(value)]
            hooks = {hook for owner in owners if len(owner) == 1 for hook in owner}
        return next(iter(hooks)) if len(hooks) == 1 else None


def _codes_of(method: Any) -> Iterator[CodeType]:
    """Give the code of a method, and of what it wraps."""
    for _ in range(MAX_WRAPPERS):
        if isinstance(method, MethodType | staticmethod | classmethod):
            method = method.__func__
        elif isinstance(method, partial | partialmethod):
            method = method.func
        else:
            code = getattr(method, "__code__", None)
            if isinstance(code, CodeType):
                yield code
            method = getattr(method, "__wrapped__", None)


def _timed_codes() -> set[CodeType]:
    """Give the code that calls timer callbacks, and that of asynchronous ones which have begun."""
    coroutines = [task.get_coro() for task in tuple(_running) if hasattr(task, "get_coro")]
    codes = [getattr(coroutine, "cr_code", None) for coroutine in coroutines]
    return {Timer._call.__code__, *(code for code in codes if code is not None)}


def _is_of_a_protocol(frame: FrameType) -> bool:
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return bool(names) and issubclass(type(frame.f_locals.get(names[0])), Protocol)


def _kind_of(frame: FrameType) -> str:
    """Give the kind of the message that an ``on_message`` handles."""
    ctx, data = _message_of(frame)
    if isinstance(ctx, enum.Enum):
        text = str(ctx.name)
    elif isinstance(ctx, str) and ctx:
        text = str.__str__(ctx)
    elif isinstance(ctx, int):
        text = int.__repr__(ctx) if int.bit_length(ctx) <= MAX_INT_BITS else "int"
    else:
        text = type(data).__name__
    return printable(text[:MAX_KIND])[:MAX_KIND]


def _message_of(frame: FrameType) -> tuple[Any, Any]:
    """Give the ``ctx`` and ``data`` that an ``on_message`` was called with, whatever it names them."""
    code, values = frame.f_code, frame.f_locals
    if "ctx" in values and "data" in values:
        return values["ctx"], values["data"]
    arguments = [values.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & inspect.CO_VARARGS:
        arguments += values.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
    ctx, data = (None, None, *arguments)[-2:]
    return ctx, data


def _written(lines: list[tuple[str, int, str, None]]) -> str:
    text = "".join(traceback.StackSummary.from_list(reversed(lines)).format())
    return text.encode("utf-8", "backslashreplace")[-MAX_STACK_BYTES:].decode("utf-8", "ignore")
