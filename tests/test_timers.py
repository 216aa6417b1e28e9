"""Timers on a loop whose clock the test moves; at the end, a few on real loops.

Only the last section waits for time to pass, a few milliseconds, and it waits for events.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from gevpy.errors import ConfigError
from gevpy.event_loop import new_event_loop
from gevpy.timers import Timer, TimerGroup, run_after, run_every

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until the test moves it."""

    now = 1_000.0

    def time(self) -> float:
        """Give the test's time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time jump, and the loop do everything that is due then."""
        self.now += seconds
        self.settle()

    def settle(self) -> None:
        """Run a few turns, so that callbacks and what they started get as far as they can."""
        self.run_until_complete(_turns())


async def _turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


@pytest.fixture
def loop() -> Iterator[ManualLoop]:
    """A manual loop, closed afterwards."""
    manual = ManualLoop()
    yield manual
    manual.settle()
    manual.close()


class Calls:
    """A callback that notes when it was called, and with what."""

    def __init__(self, loop: ManualLoop) -> None:
        """Start without calls."""
        self.loop = loop
        self.times: list[float] = []
        self.args: list[tuple[object, ...]] = []

    def __call__(self, *args: object) -> None:
        """Note one call, in seconds since the loop's time 1000."""
        self.times.append(round(self.loop.now - 1_000.0, 6))
        self.args.append(args)


# run_after


def test_run_after_fires_once_after_the_delay(loop: ManualLoop) -> None:
    """Not before the delay, with its arguments, and never again."""
    calls = Calls(loop)
    timer = run_after(loop, 2.5, calls, 1, "two")
    loop.advance(2.499)
    assert calls.times == []
    assert timer.active
    loop.advance(0.001)
    loop.advance(100)
    assert calls.times == [2.5]
    assert calls.args == [(1, "two")]
    assert not timer.active


def test_no_delay_is_the_next_turn(loop: ManualLoop) -> None:
    """A delay of 0 does not call at once, but without time passing."""
    calls = Calls(loop)
    run_after(loop, 0, calls)
    assert calls.times == []
    loop.settle()
    assert calls.times == [0.0]


def test_stop_is_true_the_first_time(loop: ManualLoop) -> None:
    """A stopped timer never fires; stopping it again is False."""
    calls = Calls(loop)
    timer = run_after(loop, 1, calls)
    assert timer.stop()
    assert not timer.stop()
    loop.advance(5)
    assert calls.times == []


def test_stop_after_firing_is_false(loop: ManualLoop) -> None:
    """A one-shot that has fired, or is firing, cannot be stopped any more."""
    answers: list[bool] = []
    timer = run_after(loop, 1, lambda: answers.append(timer.stop()))
    loop.advance(1)
    assert answers == [False]
    assert not timer.stop()


def test_stop_in_the_turn_in_which_it_is_due(loop: ManualLoop) -> None:
    """Stopping a timer that the loop has picked up already still holds it back."""
    calls = Calls(loop)
    timers: list[Timer] = []

    def stop_the_other() -> None:
        timers[0].stop()

    run_after(loop, 1, stop_the_other)
    timers.append(run_after(loop, 1, calls))
    loop.advance(1)
    assert calls.times == []


# run_every


def test_run_every_first_fires_after_one_interval(loop: ManualLoop) -> None:
    """The first call comes after one interval, then one per interval."""
    calls = Calls(loop)
    run_every(loop, 10, calls, "x")
    loop.advance(0)
    assert calls.times == []
    for _ in range(3):
        loop.advance(10)
    assert calls.times == [10, 20, 30]
    assert calls.args == [("x",)] * 3


def test_run_every_does_not_drift(loop: ManualLoop) -> None:
    """Beats that run late do not move the ones after them: all stay on the grid."""
    calls = Calls(loop)
    timer = run_every(loop, 0.1, calls)
    for beat in range(1, 1_001):
        assert timer._handle is not None
        assert timer._handle.when() == pytest.approx(1_000 + beat * 0.1, abs=1e-9)
        loop.now = 1_000 + beat * 0.1 + 0.03 * (beat % 3)
        loop.settle()
    assert len(calls.times) == 1_000


def test_a_blocked_loop_causes_no_burst(loop: ManualLoop) -> None:
    """After 3.5 intervals there is one late call, and the next is in step again."""
    calls = Calls(loop)
    run_every(loop, 10, calls)
    loop.advance(35)
    loop.advance(4.9)
    assert calls.times == [35]
    loop.advance(0.1)
    loop.advance(10)
    assert calls.times == [35, 40, 50]


def test_a_long_callback_skips_the_beats_it_covers(loop: ManualLoop) -> None:
    """Beats due while a synchronous callback ran are skipped as well."""
    calls = Calls(loop)

    def slow() -> None:
        calls()
        loop.now += 25

    run_every(loop, 10, slow)
    loop.advance(10)
    assert calls.times == [10]
    loop.advance(5)
    assert calls.times == [10, 40]


def test_a_beat_that_fires_early_is_not_repeated(loop: ManualLoop) -> None:
    """A loop that is early by its clock's resolution does not make a beat come twice."""
    calls = Calls(loop)
    timer = run_every(loop, 1, calls)
    loop.now = 1_000.9996
    assert timer._handle is not None
    timer._handle.cancel()
    timer._fire()
    assert timer._handle.when() == 1_002.0
    timer.stop()


def test_a_periodic_timer_may_stop_itself(loop: ManualLoop) -> None:
    """A callback that stops its own timer gets True, and is not called again."""
    answers: list[bool] = []
    timer = run_every(loop, 1, lambda: answers.append(timer.stop()))
    loop.advance(1)
    loop.advance(1)
    assert answers == [True]


# async callbacks


def test_async_callbacks_run(loop: ManualLoop) -> None:
    """An async def callback runs as a task with the arguments, for both kinds of timer."""
    seen: list[object] = []

    async def note(what: object) -> None:
        await asyncio.sleep(0)
        seen.append(what)

    run_after(loop, 1, note, "after")
    timer = run_every(loop, 1, note, "every")
    loop.advance(1)
    assert sorted(map(str, seen)) == ["after", "every"]
    timer.stop()


def test_a_run_that_is_still_going_skips_beats(loop: ManualLoop) -> None:
    """One timer never runs its callback twice at once; it goes on when the run has ended."""
    calls = Calls(loop)
    gates = [loop.create_future() for _ in range(2)]

    async def slow() -> None:
        calls()
        await gates[len(calls.times) - 1]

    timer = run_every(loop, 10, slow)
    for _ in range(4):
        loop.advance(10)
    assert calls.times == [10]
    assert "running" in repr(timer)
    gates[0].set_result(None)
    loop.advance(3)
    assert calls.times == [10]
    loop.advance(7)
    assert calls.times == [10, 50]
    gates[1].set_result(None)
    timer.stop()


def test_any_awaitable_is_awaited(loop: ManualLoop) -> None:
    """A plain function that returns a future keeps its timer busy like an async one."""
    future: asyncio.Future[None] = loop.create_future()
    calls = Calls(loop)

    def give() -> asyncio.Future[None]:
        calls()
        return future

    timer = run_every(loop, 1, give)
    loop.advance(1)
    loop.advance(1)
    assert calls.times == [1]
    future.set_result(None)
    loop.settle()
    loop.advance(1)
    assert calls.times == [1, 3]
    timer.stop()


def test_stop_lets_a_running_async_callback_end(loop: ManualLoop) -> None:
    """So an async callback can stop its own timer without cancelling itself."""
    seen: list[object] = []

    async def once() -> None:
        seen.append(timer.stop())
        await asyncio.sleep(0)
        seen.append("end")

    timer = run_every(loop, 1, once)
    loop.advance(1)
    loop.advance(5)
    assert seen == [True, "end"]


def test_a_running_callback_is_not_collected(loop: ManualLoop) -> None:
    """A task that waits for a future nobody else holds survives the garbage collector."""
    futures: list[weakref.ref[asyncio.Future[None]]] = []
    seen: list[str] = []

    async def lonely() -> None:
        future: asyncio.Future[None] = loop.create_future()
        futures.append(weakref.ref(future))
        await future
        seen.append("end")

    run_after(loop, 1, lonely)
    loop.advance(1)
    gc.collect()
    future = futures[0]()
    assert future is not None
    future.set_result(None)
    loop.settle()
    assert seen == ["end"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_work(loop: ManualLoop) -> None:
    """With a task factory that runs callbacks at once, nothing is left running."""
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # absent in 3.11
    calls = Calls(loop)
    group = TimerGroup(loop)

    async def quick() -> None:
        calls()

    group.run_after(1, quick)
    timer = group.run_every(1, quick)
    loop.advance(1)
    loop.advance(1)
    assert calls.times == [1, 1, 2]
    timer.stop()
    assert len(group) == 0


# errors


async def _fail_later() -> None:
    await asyncio.sleep(0)
    _fail()


def _fail() -> None:
    message = "broken callback"
    raise LookupError(message)


@pytest.mark.parametrize("callback", [_fail, _fail_later], ids=["sync", "async"])
def test_an_exception_is_logged_and_the_timer_goes_on(
    loop: ManualLoop, caplog: pytest.LogCaptureFixture, callback: Callable[[], object]
) -> None:
    """Each failure is one record with a traceback; the beats continue."""
    timer = run_every(loop, 1, callback)
    run_after(loop, 1, callback)
    with caplog.at_level(logging.ERROR, logger="gevpy.timers"):
        loop.advance(1)
        loop.advance(1)
    assert timer.active
    timer.stop()
    assert len(caplog.records) == 3
    for record in caplog.records:
        assert record.name == "gevpy.timers"
        assert record.getMessage() == f"timer callback {callback.__qualname__} failed"
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], LookupError)


def test_a_cancellation_does_not_end_the_timer(loop: ManualLoop, caplog: pytest.LogCaptureFixture) -> None:
    """CancelledError is no Exception, but out of a callback it must not kill the beat either."""

    def cancelled() -> None:
        raise asyncio.CancelledError

    async def cancelled_later() -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    timers = [run_every(loop, 1, cancelled), run_every(loop, 1, cancelled_later)]
    loop.advance(1)
    loop.advance(1)
    assert all(timer.active for timer in timers)
    assert len(caplog.records) == 2
    for timer in timers:
        timer.stop()


@pytest.mark.parametrize("seconds", [-1, -0.001, math.inf, -math.inf, math.nan, "1", None, b"1", 10**400])
def test_a_bad_time_is_a_config_error(loop: ManualLoop, seconds: Any) -> None:
    """Negative, infinite or no number at all: the error names the argument."""
    group = TimerGroup(loop)
    for make in (group.run_after, lambda *args: run_after(loop, *args)):
        with pytest.raises(ConfigError, match="delay_s must be a finite number of seconds"):
            make(seconds, print)
    for make in (group.run_every, lambda *args: run_every(loop, *args)):
        with pytest.raises(ConfigError, match="interval_s must be a finite number of seconds"):
            make(seconds, print)
    assert len(group) == 0


def test_an_interval_of_nothing_is_a_config_error(loop: ManualLoop) -> None:
    """A period of 0 would never let the loop rest."""
    with pytest.raises(ConfigError, match="more than 0"):
        run_every(loop, 0, print)


def test_what_cannot_be_called_is_a_config_error(loop: ManualLoop) -> None:
    """The usual slip, passing a call instead of the function, is told at once."""
    wrong: Any = None
    with pytest.raises(ConfigError, match="not its result"):
        run_after(loop, 1, wrong)
    with pytest.raises(ConfigError, match="not its result"):
        TimerGroup(loop).run_every(1, wrong)


# leaving nothing behind


class Payload:
    """An argument that can be referred to weakly."""

    def method(self) -> None:
        """Do nothing, as a bound callback."""


@pytest.mark.parametrize("how", ["fire", "stop"])
def test_an_ended_timer_holds_nothing(loop: ManualLoop, how: str) -> None:
    """A Timer that is kept after its end keeps neither callback nor arguments."""
    payload = Payload()
    seen = weakref.ref(payload)
    timer = run_after(loop, 1, payload.method)
    if how == "stop":
        timer.stop()
    loop.advance(1)
    del payload
    assert seen() is None
    assert repr(timer) == "<Timer Payload.method once, ended>"


def test_a_fired_timer_is_freed(loop: ManualLoop) -> None:
    """Nobody holds a timer after its end: no group, no loop, no cycle."""
    group = TimerGroup(loop)

    async def briefly() -> None:
        await asyncio.sleep(0)

    seen = [weakref.ref(group.run_after(1, callback)) for callback in (list, briefly)]
    seen.append(weakref.ref(run_after(loop, 1, briefly)))
    loop.advance(1)
    assert len(group) == 0
    gc.collect()
    assert [timer() for timer in seen] == [None, None, None]


def test_the_repr_says_what_and_when(loop: ManualLoop) -> None:
    """The repr names the callback, the kind and the state."""
    timer = run_every(loop, 0.5, Calls(loop))
    assert repr(timer) == "<Timer Calls every 0.5 s, active>"
    timer.stop()
    assert repr(timer) == "<Timer Calls every 0.5 s, ended>"


# groups


def test_a_group_stops_all_its_timers(loop: ManualLoop) -> None:
    """After stop nothing fires; stopping again is harmless; other timers go on."""
    group, calls, other = TimerGroup(loop), Calls(loop), Calls(loop)
    timers = [group.run_after(1, calls), group.run_every(1, calls), group.run_every(2, calls)]
    run_after(loop, 1, other)
    assert len(group) == 3
    group.stop()
    group.stop()
    loop.advance(5)
    assert calls.times == []
    assert other.times == [5]
    assert [timer.stop() for timer in timers] == [False, False, False]
    assert len(group) == 0


def test_a_stopped_timer_leaves_its_group(loop: ManualLoop) -> None:
    """A group does not collect timers that were stopped one by one."""
    group = TimerGroup(loop)
    for _ in range(100):
        group.run_every(1, print).stop()
    assert len(group) == 0


def test_a_stopped_group_takes_no_more_timers(loop: ManualLoop) -> None:
    """A timer that could never fire is refused, not taken silently."""
    group = TimerGroup(loop)
    group.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        group.run_after(1, print)
    with pytest.raises(RuntimeError, match="stopped"):
        group.run_every(1, print)


def test_a_group_cancels_running_callbacks_and_waits(loop: ManualLoop) -> None:
    """Stop cancels what runs; wait_closed returns when its cleaning up has ended."""
    group = TimerGroup(loop)
    gate = loop.create_future()
    seen: list[str] = []

    async def work(name: str) -> None:
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            await gate
            seen.append(name)
            raise

    group.run_after(1, work, "after")
    group.run_every(1, work, "every")
    loop.advance(1)
    assert len(group) == 2
    group.stop()
    closing = loop.create_task(group.wait_closed())
    loop.settle()
    assert not closing.done()
    gate.set_result(None)
    loop.run_until_complete(closing)
    assert sorted(seen) == ["after", "every"]
    assert len(group) == 0


def test_stop_before_the_first_step_of_a_callback(loop: ManualLoop) -> None:
    """A coroutine whose task is cancelled before it ran is closed properly: no warning."""
    group = TimerGroup(loop)
    seen: list[str] = []

    async def never() -> None:
        seen.append("began")

    group.run_after(1, never)
    run_after(loop, 1, group.stop)
    loop.advance(1)
    loop.run_until_complete(group.wait_closed())
    gc.collect()
    assert seen == []


def test_a_callback_may_stop_its_own_group(loop: ManualLoop) -> None:
    """It is not cancelled by that, and waiting for the group does not wait for itself."""
    group = TimerGroup(loop)
    seen: list[str] = []

    async def forever() -> None:
        try:
            await loop.create_future()
        finally:
            seen.append("cancelled")

    async def shut_down() -> None:
        group.stop()
        await group.wait_closed()
        seen.append("closed")

    group.run_after(1, forever)
    group.run_after(2, shut_down)
    loop.advance(1)
    loop.advance(1)
    loop.settle()
    assert seen == ["cancelled", "closed"]
    assert len(group) == 0


def test_work_begun_by_a_stopped_timer_is_still_waited_for(loop: ManualLoop) -> None:
    """A callback may stop its timer and return something to await: its group knows that run."""
    group = TimerGroup(loop)
    future: asyncio.Future[None] = loop.create_future()

    def last() -> asyncio.Future[None]:
        timer.stop()
        return future

    timer = group.run_every(1, last)
    loop.advance(1)
    assert len(group) == 1
    group.stop()
    loop.run_until_complete(group.wait_closed())
    assert future.cancelled()
    assert len(group) == 0


def test_waiting_for_an_idle_group_is_immediate(loop: ManualLoop) -> None:
    """Nothing runs, so there is nothing to wait for; pending timers do not count."""
    group = TimerGroup(loop)
    group.run_after(1, print)
    loop.run_until_complete(group.wait_closed())
    group.stop()


# real loops


@pytest.fixture(params=["asyncio", "uvloop"])
def real_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of each kind, with its own clock."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    monkeypatch.setenv("GEVPY_LOOP", request.param)
    real = new_event_loop()
    yield real
    real.run_until_complete(real.shutdown_asyncgens())
    real.close()


def test_real_loops_keep_a_delay(real_loop: asyncio.AbstractEventLoop) -> None:
    """A one-shot fires after its delay, to the millisecond that loops promise."""

    async def main() -> float:
        fired: asyncio.Future[float] = real_loop.create_future()
        start = real_loop.time()
        run_after(real_loop, 0.005, lambda: fired.set_result(real_loop.time() - start))
        async with asyncio.timeout(10):
            return await fired

    assert real_loop.run_until_complete(main()) >= 0.004


def test_real_loops_beat(real_loop: asyncio.AbstractEventLoop) -> None:
    """A periodic async callback comes again and again, until its group ends."""

    async def main() -> tuple[int, int]:
        group = TimerGroup(real_loop)
        enough = asyncio.Event()
        beats = 0

        async def beat() -> None:
            nonlocal beats
            beats += 1
            await asyncio.sleep(0)
            if beats == 5:
                enough.set()

        group.run_every(0.002, beat)
        async with asyncio.timeout(10):
            await enough.wait()
            group.stop()
            await group.wait_closed()
        return beats, len(group)

    assert real_loop.run_until_complete(main()) == (5, 0)


def test_real_loops_cancel_running_callbacks(real_loop: asyncio.AbstractEventLoop) -> None:
    """Stopping a group ends what its callbacks wait for."""

    async def main() -> list[str]:
        group, began, seen = TimerGroup(real_loop), asyncio.Event(), list[str]()

        async def wait() -> None:
            began.set()
            try:
                await real_loop.create_future()
            finally:
                seen.append("ended")

        timer = group.run_after(0, wait)
        async with asyncio.timeout(10):
            await began.wait()
            assert isinstance(timer, Timer)
            assert not timer.stop()
            group.stop()
            await group.wait_closed()
        return seen

    assert real_loop.run_until_complete(main()) == ["ended"]
