"""An asyncio event loop whose time stands still until it is told to go on.

It is asyncio's own loop with another clock and nothing to wait on: callbacks, tasks, timers and timeouts are the real
ones. Where the real loop would ask the system to wake it at the next timer, this one moves its clock there, or stops
because it has come as far as it was told. So a minute passes in a millisecond, and always in the same order.
"""

from __future__ import annotations

import asyncio
import math
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["ManualLoop"]

T = TypeVar("T")

CLOSE_ENOUGH_S = 1e-6  # sums of many small steps miss by less, and no timer is that precise
MOST_TURNS = 100_000  # in one moment: whoever needs more waits by turning round
THREAD_S = 10.0  # real time, for work that was given to a thread


class _Clock:
    """Stands where the loop expects its selector: asked to wait, it moves the time or ends the run.

    Args:
        loop: whose clock it is.
    """

    def __init__(self, loop: ManualLoop) -> None:
        """Begin at 0."""
        self.now = 0.0
        self.until = 0.0  # how far the run that is going on may come
        self.in_threads = 0  # calls that were given to threads and have not come back
        self.woken = threading.Event()
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None) -> list[Any]:
        """Wait, as a selector would: for a timer, for a thread, or for the end of the run."""
        if self.woken.is_set():
            self.woken.clear()
        elif timeout == 0:
            self._turn_at_once()
            return []
        elif self.in_threads:
            if not self.woken.wait(THREAD_S):
                msg = f"a thread that something waits for had not ended after {THREAD_S:g} s of real time"
                raise RuntimeError(msg)
            self.woken.clear()
        elif timeout is not None and self.now + timeout <= self.until + CLOSE_ENOUGH_S:
            self.now += timeout
        else:
            self._loop.stop()
        self._turns = 0
        return []

    def _turn_at_once(self) -> None:
        self._turns += 1
        if self._turns > MOST_TURNS:
            self._turns = 0
            msg = (
                f"still busy after {MOST_TURNS:,} turns of the loop in one moment: something calls itself again and"
                " again, or waits in a loop of asyncio.sleep(0), which lets no time pass here: await an event instead"
            )
            raise RuntimeError(msg)


class ManualLoop(asyncio.BaseEventLoop):
    """A loop for tests: it runs what is ready when it is told to, and its time moves when it is told to.

    Tasks, futures, ``call_later``, ``asyncio.sleep``, ``asyncio.timeout`` and everything built on those work, and so do
    ``asyncio.to_thread`` and ``run_in_executor``, whose threads are waited for. There are no sockets, pipes, signals or
    subprocesses: asking for one raises ``NotImplementedError``. ``time.monotonic()`` is not its clock; ``loop.time()``
    is, and begins at 0.

    One thread at a time, and not inside another running loop: plain tests, no ``async def`` ones. It owns nothing of
    the system's, so it need not be closed.

    Example:
        >>> loop = ManualLoop()
        >>> called = []
        >>> _ = loop.call_later(60, called.append, "a minute later")
        >>> loop.advance(59.9)
        >>> called
        []
        >>> loop.advance(0.1)
        >>> called
        ['a minute later']

    Source: Netty's ``EmbeddedChannel`` with a frozen clock, trio's ``MockClock``.
    """

    def __init__(self) -> None:
        """Begin at time 0."""
        super().__init__()
        self._clock = _Clock(self)
        self._selector = self._clock

    def time(self) -> float:
        """Give the time in seconds: how far it was advanced."""
        return self._clock.now

    def settle(self) -> None:
        """Run what is ready, and what that makes ready, until nothing is left to do at this moment.

        Raises:
            RuntimeError: it doesn't come to rest, a thread doesn't end, or another loop is running in this thread.
        """
        self.advance(0.0)

    def advance(self, seconds: float) -> None:
        """Let time pass: every timer due within ``seconds`` from now runs, at its own moment, in order.

        Args:
            seconds: 0 or more.

        Raises:
            ValueError: ``seconds`` is negative, infinite or no number.
            RuntimeError: as for `settle`.
        """
        if not 0 <= seconds < math.inf:
            msg = f"seconds must be 0 or more, and finite, not {seconds!r}"
            raise ValueError(msg)
        self._clock.until = self._clock.now + seconds
        self.run_forever()
        self._clock.now = max(self._clock.now, self._clock.until)

    def complete(self, work: Coroutine[Any, Any, T], within_s: float) -> T:
        """Run a coroutine to its end, letting as much time pass as it takes.

        Args:
            work: the coroutine; it is cancelled if it takes longer.
            within_s: the most time that may pass, in seconds.

        Returns:
            What it returns.

        Raises:
            TimeoutError: it had not ended within ``within_s``.
            Exception: whatever it raises.
        """
        self._clock.until = self._clock.now + within_s
        task = self.create_task(work)
        task.add_done_callback(self._stop_when_done)
        self.run_forever()
        if not task.done():
            self._clock.now = max(self._clock.now, self._clock.until)
            task.cancel()
            self.settle()
            msg = f"{getattr(work, '__qualname__', work)} had not ended after {within_s:g} s of the loop's time"
            raise TimeoutError(msg)
        return task.result()

    def _stop_when_done(self, _task: asyncio.Task[Any]) -> None:
        self.stop()

    # -- what asyncio's loop leaves to its subclasses ----------------------------------------------

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run ``func(*args)`` in a thread, which `settle` waits for."""
        future = super().run_in_executor(executor, func, *args)
        self._clock.in_threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _future: asyncio.Future[Any]) -> None:
        self._clock.in_threads -= 1

    def _write_to_self(self) -> None:
        self._clock.woken.set()

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none: `_Clock.select` gives no events."""

    def __del__(self) -> None:
        """Go without a warning: there is nothing that would leak."""
        if not self.is_closed():
            self.close()
