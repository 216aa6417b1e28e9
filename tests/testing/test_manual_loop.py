"""The manual loop: asyncio's own loop, whose time moves when it is told to."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from typing import Any

import pytest

from gevpy.testing import ManualLoop, manual_loop


def test_time_stands_still_until_it_is_advanced() -> None:
    """Timers come at their own moments, in order, and not before."""
    loop = ManualLoop()
    seen: list[tuple[str, float]] = []

    def note(name: str) -> None:
        seen.append((name, loop.time()))

    for name, delay in (("b", 2.0), ("a", 1.0), ("c", 3.5)):
        loop.call_later(delay, note, name)
    loop.settle()
    assert (seen, loop.time()) == ([], 0.0)
    loop.advance(3.0)
    assert seen == [("a", 1.0), ("b", 2.0)]
    assert loop.time() == 3.0
    loop.advance(0.5)
    assert seen[-1] == ("c", 3.5)


def test_many_small_steps_arrive_where_one_large_step_does() -> None:
    """A sum of floats that misses by a hair doesn't miss a timer."""
    loop = ManualLoop()
    beats: list[float] = []

    def beat(when: float) -> None:
        beats.append(when)
        loop.call_at(when + 0.05, beat, when + 0.05)

    beat(0.0)
    loop.advance(30.0)
    assert len(beats) == 601
    for _ in range(300):
        loop.advance(0.1)
    assert len(beats) == 1201


def test_a_cancelled_timer_does_not_come() -> None:
    """Handles are asyncio's own."""
    loop = ManualLoop()
    seen: list[int] = []
    loop.call_later(1, seen.append, 1).cancel()
    loop.advance(2)
    assert seen == []


def test_complete_runs_a_coroutine_however_long_it_takes() -> None:
    """By the loop's time; no time of ours."""
    loop = ManualLoop()

    async def work() -> str:
        await asyncio.sleep(3600)
        return "done"

    begun = time.monotonic()
    assert loop.complete(work(), 4000) == "done"
    assert loop.time() == pytest.approx(3600)
    assert time.monotonic() - begun < 30


def test_complete_gives_up() -> None:
    """What takes longer is cancelled; what fails, fails."""
    loop = ManualLoop()
    cancelled: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(TimeoutError, match="had not ended after 10 s"):
        loop.complete(work(), 10)
    assert cancelled == [True]
    assert loop.time() == pytest.approx(10)

    async def fail() -> None:
        raise LookupError("of its own")

    with pytest.raises(LookupError, match="of its own"):
        loop.complete(fail(), 10)


def test_asyncios_tools_follow_the_clock() -> None:
    """Tasks, timeouts, queues, wait_for, gather."""
    loop = ManualLoop()

    async def work() -> list[Any]:
        queue: asyncio.Queue[int] = asyncio.Queue()
        asyncio.get_running_loop().call_later(5, queue.put_nowait, 7)
        first = await queue.get()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 1)
        return [first, *await asyncio.gather(asyncio.sleep(2, "x"), asyncio.sleep(3, "y"))]

    assert loop.complete(work(), 60) == [7, "x", "y"]
    assert loop.time() == pytest.approx(9)


def test_an_exception_that_ends_a_run_leaves_the_loop_usable() -> None:
    """KeyboardInterrupt, for one, goes through."""
    loop = ManualLoop()
    seen: list[int] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    loop.call_soon(seen.append, 1)
    with pytest.raises(KeyboardInterrupt):
        loop.settle()
    loop.settle()
    assert seen == [1]


def test_a_thread_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is real time that it takes, so it is bounded."""
    monkeypatch.setattr(manual_loop, "THREAD_S", 0.01)
    loop = ManualLoop()
    never = loop.create_future()
    loop._clock.in_threads += 1  # as a call that doesn't come back
    with pytest.raises(RuntimeError, match="thread"):
        loop.settle()
    never.cancel()


def test_there_are_no_sockets() -> None:
    """Asking for one is refused."""
    loop = ManualLoop()

    async def work() -> None:
        await asyncio.open_connection("127.0.0.1", 1)

    with pytest.raises(NotImplementedError):
        loop.complete(work(), 1)


async def test_it_does_not_run_inside_another_loop() -> None:
    """asyncio's own refusal."""
    loop = ManualLoop()
    with pytest.raises(RuntimeError, match="another loop is running"):
        loop.settle()


def test_it_need_not_be_closed() -> None:
    """It owns nothing of the system's, and says nothing when it goes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop = ManualLoop()
        loop.settle()
        del loop
        gc.collect()


def test_a_thread_is_waited_for() -> None:
    """The loop sleeps for real, as long as a call that was given to a thread takes."""
    loop = ManualLoop()
    gate = threading.Event()

    class Woken(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            gate.set()  # now, and not before, the loop waits
            return super().wait(timeout)

    loop._clock.woken = Woken()
    assert loop.complete(asyncio_to_thread(gate), 1) is True
    assert loop.time() == 0.0


async def asyncio_to_thread(gate: threading.Event) -> bool:
    """Wait in a thread."""
    return await asyncio.to_thread(gate.wait, 5)
