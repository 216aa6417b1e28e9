"""Timers on an event loop: call something once after a delay, or again and again.

Both are a chain of ``loop.call_at``, so that they have the loop's own precision (a millisecond) and
cost nothing while they wait. What this module adds to ``call_at``:

* **No drift.** Beat *n* is due at ``first + n * interval``, not one interval after the last one
  ran.
* **No burst.** A beat that comes late runs late; the beats that were due meanwhile are skipped, and
  the next one is in step again.
* **Async callbacks.** A callback may be ``async def`` or return any awaitable. A run that is still
  going when the next beat is due skips that beat: one timer never runs its callback twice at once.
* **Endurance.** An exception is logged with its traceback on the logger ``gevpy.timers``, and the
  timer goes on.
* **An owner.** A `TimerGroup` stops all its timers together and waits for what they were doing.

Everything here belongs to the loop's thread; from another one use ``loop.call_soon_threadsafe``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Any

from gevpy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Timer", "TimerGroup", "run_after", "run_every"]

_log = logging.getLogger("gevpy.timers")

# The loop refers to tasks only weakly; a task that waits for something nobody else holds would be
# collected.
_running: set[asyncio.Future[Any]] = set()


class Timer:
    """A callback that an event loop will call, as returned by ``run_after`` and ``run_every``.

    Keep it only to `stop` it; a timer that waits is held by its loop, and one that has ended holds
    neither its callback nor its arguments. Not to be constructed by the caller.

    Loop affinity: to be used in the thread of the loop that runs it.
    """

    __slots__ = (
        "__weakref__",
        "_beat",
        "_callback",
        "_first",
        "_group",
        "_handle",
        "_interval",
        "_loop",
        "_name",
        "_task",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        delay_s: float,
        interval_s: float | None,
        callback: partial[object],
        group: TimerGroup | None,
    ) -> None:
        """Arm it: a call after ``delay_s``, then every ``interval_s`` unless that is None."""
        self._loop = loop
        self._interval = interval_s
        self._callback: partial[object] | None = callback
        function = callback.func
        self._name = getattr(function, "__qualname__", type(function).__qualname__)
        self._group = group
        self._task: asyncio.Future[Any] | None = None
        self._first = loop.time() + delay_s
        self._beat = 0
        self._handle: asyncio.TimerHandle | None = loop.call_at(self._first, self._fire)

    def __repr__(self) -> str:
        """Show the callback's name, the kind of timer and its state."""
        kind = "once" if self._interval is None else f"every {self._interval:g} s"
        state = "active" if self.active else "ended"
        if self._task is not None:
            state += ", running"
        return f"<Timer {self._name} {kind}, {state}>"

    @property
    def active(self) -> bool:
        """Whether it will call again: not stopped and, for ``run_after``, not yet fired."""
        return self._callback is not None

    def stop(self) -> bool:
        """Stop it: the callback is not called again.

        An async callback that is running goes on to its end; so a callback may stop its own timer.

        Returns:
            True the first time; False when it was stopped before or, for ``run_after``, has fired.
        """
        if self._callback is None:
            return False
        if self._handle is not None:
            self._handle.cancel()
        self._end()
        return True

    def _end(self) -> None:
        """Let go of everything a Timer that somebody keeps should not keep."""
        self._handle = None
        self._callback = None
        self._forget()

    def _forget(self) -> None:
        """Leave the group once there is nothing left to stop."""
        if self._group is not None and self._callback is None and self._task is None:
            self._group._timers.discard(self)

    def _fire(self) -> None:
        """Do one beat; the loop calls this."""
        callback, interval = self._callback, self._interval
        if callback is None:
            return
        self._handle = None
        if interval is None:
            self._end()  # before the call: a one-shot has fired once its callback runs
        if self._task is None:
            self._call(callback)
        # After the call, so that beats which were due during a long one are skipped as well. The
        # callback may have stopped this timer.
        if interval is not None and self._callback is not None:
            self._arm_next(interval)

    def _call(self, callback: partial[object]) -> None:
        """Call the callback, and see to what it wants awaited."""
        try:
            result = callback()
            if inspect.isawaitable(result):
                self._start(result)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the timer outlives its callback
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        """Tell the owner, or the log where there is none."""
        if self._group is not None and self._group._on_error is not None:
            self._group._on_error(self._name, error)
        else:
            _log.error("timer callback %s failed", self._name, exc_info=error)

    def _arm_next(self, interval: float) -> None:
        """Ask for the first beat that is still to come."""
        passed = math.floor((self._loop.time() - self._first) / interval)
        # At least one on: a loop may fire a little early, within its clock's resolution.
        self._beat = max(self._beat, passed) + 1
        self._handle = self._loop.call_at(self._first + self._beat * interval, self._fire)

    def _start(self, result: Awaitable[Any]) -> None:
        """Run what an async callback returned, as a task of its own.

        The coroutine is the task's own, not wrapped in one of ours: a wrapper cancelled before its
        first step would leave it never awaited, which warns.
        """
        task: asyncio.Future[Any]
        if inspect.iscoroutine(result):
            task = self._loop.create_task(result, name=f"gevpy timer {self._name}")
        else:
            task = asyncio.ensure_future(result, loop=self._loop)
        self._task = task
        _running.add(task)
        if self._group is not None:
            self._group._timers.add(self)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Future[Any]) -> None:
        """Note that a run has ended; log what it raised."""
        _running.discard(task)
        self._task = None
        self._forget()
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            self._failed(error)


class TimerGroup:
    """The timers of one owner, a worker or a server, which end together.

    Args:
        loop: the loop that runs them.

    Loop affinity: to be used in the loop's thread.

    Example:
        >>> async def serve() -> None:
        ...     timers = TimerGroup(asyncio.get_running_loop())
        ...     timers.run_every(60.0, print, "still here")
        ...     timers.stop()
        ...     await timers.wait_closed()
    """

    __slots__ = ("_loop", "_on_error", "_stopped", "_timers")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_error: Callable[[str, BaseException], None] | None = None
    ) -> None:
        """Start without timers; ``on_error(name, error)`` is told of callbacks that raise, instead of the log."""
        self._loop = loop
        self._on_error = on_error
        self._timers: set[Timer] = set()
        self._stopped = False

    def __len__(self) -> int:
        """Count the timers that wait or run."""
        return len(self._timers)

    def run_after(self, delay_s: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)`` once, like `run_after`, unless the group is stopped before.

        Args:
            delay_s: seconds from now, 0 or more.
            callback: a function or an ``async def`` function.
            args: its arguments.

        Returns:
            The timer; it need not be kept.

        Raises:
            ConfigError: ``delay_s`` is negative, infinite or no number, or ``callback`` is not
                callable.
            RuntimeError: the group is stopped.
        """
        return self._add(_checked("delay_s", delay_s, zero=True), None, _bound(callback, args))

    def run_every(self, interval_s: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)`` again and again, like `run_every`, until the group is stopped.

        Args:
            interval_s: seconds between calls and before the first one, more than 0.
            callback: a function or an ``async def`` function.
            args: its arguments.

        Returns:
            The timer; it need not be kept.

        Raises:
            ConfigError: ``interval_s`` is not positive, infinite or no number, or ``callback`` is
                not callable.
            RuntimeError: the group is stopped.
        """
        interval = _checked("interval_s", interval_s, zero=False)
        return self._add(interval, interval, _bound(callback, args))

    def stop(self) -> None:
        """Stop all timers, cancel the async callbacks that are running, and take no more.

        Idempotent. A callback that calls this is not cancelled by it: it may stop its own owner.
        """
        self._stopped = True
        current = _current_task()
        for timer in tuple(self._timers):
            task = timer._task
            timer.stop()
            if task is not None and task is not current:
                task.cancel()

    async def wait_closed(self) -> None:
        """Wait until no async callback of this group is running any more.

        A callback that calls this does not wait for itself. To be called after `stop`, else it
        waits only for the runs of this moment and those begun meanwhile. A callback that refuses to
        be cancelled makes it wait: bound it with ``asyncio.timeout`` where that matters.
        """
        current = _current_task()
        while tasks := [t._task for t in self._timers if t._task is not None and t._task is not current]:
            await asyncio.wait(tasks)

    def _add(self, delay_s: float, interval_s: float | None, callback: partial[object]) -> Timer:
        """Make a timer of this group."""
        if self._stopped:
            msg = "these timers are stopped: their worker or server is going away"
            raise RuntimeError(msg)
        timer = Timer(self._loop, delay_s, interval_s, callback, self)
        self._timers.add(timer)
        return timer


def run_after(loop: asyncio.AbstractEventLoop, delay_s: float, callback: Callable[..., object], *args: Any) -> Timer:
    """Call ``callback(*args)`` once, ``delay_s`` from now.

    Args:
        loop: the loop that runs it, in whose thread this is called.
        delay_s: seconds, 0 or more; 0 is the loop's next turn.
        callback: a function, or an ``async def`` function, which runs as a task. What it raises is
            logged.
        args: its arguments.

    Returns:
        The timer; it need not be kept.

    Raises:
        ConfigError: ``delay_s`` is negative, infinite or no number, or ``callback`` is not
            callable.

    Example:
        >>> timer = run_after(loop, 0.25, print, "a quarter of a second later")
    """
    delay = _checked("delay_s", delay_s, zero=True)
    return Timer(loop, delay, None, _bound(callback, args), None)


def run_every(loop: asyncio.AbstractEventLoop, interval_s: float, callback: Callable[..., object], *args: Any) -> Timer:
    """Call ``callback(*args)`` every ``interval_s``, for the first time one interval from now.

    In step with the first beat for ever: no drift, late beats are not made up for in a burst, and a
    beat is skipped while an async callback's last run is still going.

    Args:
        loop: the loop that runs it, in whose thread this is called.
        interval_s: seconds, more than 0.
        callback: a function, or an ``async def`` function, which runs as a task. What it raises is
            logged, and the timer goes on.
        args: its arguments.

    Returns:
        The timer; it need not be kept, except to stop it.

    Raises:
        ConfigError: ``interval_s`` is not positive, infinite or no number, or ``callback`` is not
            callable.

    Example:
        >>> timer = run_every(loop, 60.0, print, "a minute has passed")
        >>> timer.stop()
        True
    """
    interval = _checked("interval_s", interval_s, zero=False)
    return Timer(loop, interval, interval, _bound(callback, args), None)


def _bound(callback: object, args: tuple[Any, ...]) -> partial[object]:
    """Join a callback and its arguments, or raise `ConfigError` if it cannot be called."""
    if not callable(callback):
        msg = f"a timer needs a function to call (and not its result): {callback!r} is none"
        raise ConfigError(msg)
    return partial(callback, *args)


def _checked(name: str, seconds: float, *, zero: bool) -> float:
    """Give the seconds as a float, or raise `ConfigError` naming the argument."""
    need = "0 or more" if zero else "more than 0"
    try:
        fits = math.isfinite(seconds) and (seconds > 0 or (zero and seconds == 0))
    except (TypeError, OverflowError):  # no number; an int beyond any float
        fits = False
    if not fits:
        msg = f"{name} must be a finite number of seconds, {need}, not {seconds!r}"
        raise ConfigError(msg)
    return float(seconds)


def _current_task() -> asyncio.Task[Any] | None:
    """Give the task that runs right now, None outside of one or of a running loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
