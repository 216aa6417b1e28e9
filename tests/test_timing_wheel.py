"""The timing wheel against a sorted heap, at its boundaries, and by the steps it takes.

Every test runs on the module as it was built and on its plain Python source, loaded beside it.
"""

from __future__ import annotations

import gc
import heapq
import importlib.util
import random
import sys
import tracemalloc
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

import gevpy.timing_wheel
from gevpy.timing_wheel import TimingWheel, WheelEntry

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, ModuleType

SOURCE = Path(gevpy.timing_wheel.__file__).with_name("timing_wheel.py")
IS_COMPILED = not gevpy.timing_wheel.__file__.endswith(".py")


def _load_source() -> ModuleType:
    """Load the .py source under a name of its own, so that no compiled module shadows it."""
    spec = importlib.util.spec_from_file_location("timing_wheel_from_source", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PureWheel = cast("type[TimingWheel]", _load_source().TimingWheel)
WHEELS = [pytest.param(TimingWheel, id="as-built"), pytest.param(PureWheel, id="source")]
EDGES = [1, 2, 255, 256, 257, 511, 512, 16_383, 16_384, 16_385, (1 << 20) - 1, 1 << 20]
FAR = [(1 << 20) + 1, (1 << 26) - 1, 1 << 26, (1 << 26) + 1, (1 << 27) + 5, 3 << 40]


@pytest.fixture(params=WHEELS)
def wheel_type(request: pytest.FixtureRequest) -> type[TimingWheel]:
    """The wheel class under test."""
    return cast("type[TimingWheel]", request.param)


def test_items_come_out_by_due_tick(wheel_type: type[TimingWheel]) -> None:
    """Items of all levels come out together in the order of their ticks."""
    wheel = wheel_type()
    ticks = [70_000, 3, 300, 1 << 21, 5, 20_000, 256]
    for tick in ticks:
        wheel.add(tick, tick)
    assert wheel.advance(1 << 22) == sorted(ticks)
    assert len(wheel) == 0


@pytest.mark.parametrize("start", [0, 1, 100, 255, 256, 16_383, (1 << 26) - 1, 123_456_789])
@pytest.mark.parametrize("ahead", EDGES + FAR)
def test_an_item_is_due_at_its_tick_exactly(wheel_type: type[TimingWheel], start: int, ahead: int) -> None:
    """Nothing is due one tick before, the item is due at its tick, on both sides of each level."""
    wheel = wheel_type(start)
    entry = wheel.add("x", start + ahead)
    assert wheel.advance(start + ahead - 1) == []
    assert entry.active
    assert wheel.advance(start + ahead) == ["x"]
    assert not entry.active


@pytest.mark.parametrize("start", [0, 200, 16_300])
def test_single_steps_find_every_item_at_its_tick(wheel_type: type[TimingWheel], start: int) -> None:
    """Walking tick by tick, over cascades, yields each item at its own tick."""
    wheel = wheel_type(start)
    for ahead in range(1, 2_000, 7):
        wheel.add(start + ahead, start + ahead)
    for tick in range(start + 1, start + 2_001):
        expected = [tick] if (tick - start) % 7 == 1 and tick - start < 2_000 else []
        assert wheel.advance(tick) == expected


def test_an_overdue_item_comes_with_the_next_tick(wheel_type: type[TimingWheel]) -> None:
    """A due tick that has passed becomes the next tick, also far in the past."""
    wheel = wheel_type(500)
    now, past = wheel.add("now", 500), wheel.add("past", -(1 << 40))
    assert (now.tick, past.tick) == (501, 501)
    assert wheel.advance(500) == []
    assert sorted(map(str, wheel.advance(501))) == ["now", "past"]


def test_move_puts_a_deadline_off_or_forward(wheel_type: type[TimingWheel]) -> None:
    """A moved entry is due at its new tick only, and is counted once."""
    wheel = wheel_type()
    later, sooner = wheel.add("later", 10), wheel.add("sooner", 90_000)
    wheel.move(later, 40_000)
    wheel.move(sooner, 20)
    assert len(wheel) == 2
    assert wheel.advance(39_999) == ["sooner"]
    assert wheel.advance(40_000) == ["later"]


def test_move_arms_an_expired_or_cancelled_entry_again(wheel_type: type[TimingWheel]) -> None:
    """An inactive entry keeps its item and comes back."""
    wheel = wheel_type()
    expired, cancelled = wheel.add("expired", 1), wheel.add("cancelled", 1)
    wheel.cancel(cancelled)
    wheel.advance(1)
    wheel.move(expired, 5)
    wheel.move(cancelled, 6)
    assert (expired.active, cancelled.active, len(wheel)) == (True, True, 2)
    assert wheel.advance(10) == ["expired", "cancelled"]


def test_cancel_is_true_once(wheel_type: type[TimingWheel]) -> None:
    """A cancelled entry never comes due; cancelling it again, or an expired one, is False."""
    wheel = wheel_type()
    gone, due = wheel.add("gone", 3), wheel.add("due", 3)
    assert wheel.cancel(gone)
    assert not wheel.cancel(gone)
    assert wheel.advance(3) == ["due"]
    assert not wheel.cancel(due)
    assert len(wheel) == 0


def test_the_result_may_be_worked_through_while_the_wheel_changes(
    wheel_type: type[TimingWheel],
) -> None:
    """Adding, moving and cancelling between the items of one advance is safe."""
    wheel = wheel_type()
    entries = {n: wheel.add(n, 10) for n in range(5)}
    for item in wheel.advance(10):
        number = cast("int", item)
        wheel.move(entries[number], 11 + number)
        wheel.cancel(entries[0])
        wheel.add("new", 10)
    assert len(wheel) == 9
    assert wheel.advance(11) == ["new"] * 5
    assert wheel.advance(15) == [1, 2, 3, 4]


def test_time_does_not_go_back(wheel_type: type[TimingWheel]) -> None:
    """An earlier tick, or a negative start, is a ValueError and changes nothing."""
    wheel = wheel_type(7)
    with pytest.raises(ValueError, match="cannot go back from tick 7 to 6"):
        wheel.advance(6)
    assert wheel.now == 7
    with pytest.raises(ValueError, match="0 or more"):
        wheel_type(-1)


@pytest.mark.parametrize("tick", [(1 << 62) + 1, 1 << 63, 1 << 200])
def test_a_tick_beyond_the_range_is_refused(wheel_type: type[TimingWheel], tick: int) -> None:
    """Ticks that could overflow 64 bits raise OverflowError and leave the wheel as it was."""
    wheel = wheel_type()
    entry = wheel.add("x", 5)
    attempts: list[Callable[[], object]] = [
        lambda: wheel.add("y", tick),
        lambda: wheel.move(entry, tick),
        lambda: wheel.advance(tick),
        lambda: wheel_type(tick),
    ]
    for attempt in attempts:
        with pytest.raises(OverflowError):
            attempt()
    assert (len(wheel), wheel.now, entry.tick, entry.active) == (1, 0, 5, True)


def test_the_largest_tick_works(wheel_type: type[TimingWheel]) -> None:
    """The documented bound itself is usable, as a due tick and as now."""
    wheel = wheel_type()
    wheel.add("end", 1 << 62)
    assert wheel.advance((1 << 62) - 1) == []
    assert wheel.advance(1 << 62) == ["end"]


@pytest.mark.parametrize("stranger", [None, 3, "entry"])
def test_what_is_no_entry_is_refused(wheel_type: type[TimingWheel], stranger: Any) -> None:
    """Passing anything else is a TypeError, in both builds, and no crash."""
    wheel = wheel_type()
    with pytest.raises(TypeError):
        wheel.move(stranger, 1)
    with pytest.raises(TypeError):
        wheel.cancel(stranger)


def test_an_entry_of_another_wheel_is_refused(wheel_type: type[TimingWheel]) -> None:
    """Unlinking a foreign entry would corrupt its wheel, so it is a ValueError."""
    wheel, other = wheel_type(), wheel_type()
    entry = other.add("x", 1)
    with pytest.raises(ValueError, match="another wheel"):
        wheel.move(entry, 1)
    with pytest.raises(ValueError, match="another wheel"):
        wheel.cancel(entry)
    assert (len(wheel), len(other)) == (0, 1)


@pytest.mark.parametrize("name", ["item", "tick", "active"])
def test_entry_attributes_are_read_only(wheel_type: type[TimingWheel], name: str) -> None:
    """An entry can be changed through its wheel only."""
    entry = wheel_type().add("x", 4)
    assert (entry.item, entry.tick, entry.active) == ("x", 4, True)
    with pytest.raises(AttributeError):
        setattr(entry, name, 1)


def test_reprs_say_the_state(wheel_type: type[TimingWheel]) -> None:
    """The reprs are for a person reading a log."""
    wheel = wheel_type(2)
    entry = wheel.add("x", 4)
    assert repr(entry) == "<WheelEntry active tick=4 item='x'>"
    wheel.cancel(entry)
    assert repr(entry) == "<WheelEntry inactive tick=4 item='x'>"
    assert repr(wheel) == "<TimingWheel now=2 entries=0>"


class Item:
    """Something that can be referred to weakly."""


@pytest.mark.parametrize("how", ["cancel", "expire"])
def test_an_inactive_entry_is_fully_unlinked(wheel_type: type[TimingWheel], how: str) -> None:
    """Once its handle is dropped, reference counting alone frees entry and item."""
    wheel = wheel_type()
    items = [Item() for _ in range(3)]
    entries = [wheel.add(item, 5) for item in items]
    middle = weakref.ref(items[1])
    gc.disable()
    try:
        if how == "cancel":
            wheel.cancel(entries[1])
        else:
            wheel.advance(5)
        del items[1], entries[1]
        assert middle() is None
    finally:
        gc.enable()


def test_a_full_wheel_is_collected(wheel_type: type[TimingWheel]) -> None:
    """Dropping a wheel with one very long list frees everything, without deep recursion."""
    wheel = wheel_type()
    item = Item()
    seen = weakref.ref(item)
    for _ in range(100_000):
        wheel.add(item, 77)
    del wheel, item
    gc.collect()
    assert seen() is None


def test_memory_per_entry(wheel_type: type[TimingWheel]) -> None:
    """A compiled entry takes at most 100 bytes with everything; plain Python adds its int."""
    wheel = wheel_type()
    limit = 100 if IS_COMPILED and wheel_type is TimingWheel else 140
    entries: list[WheelEntry | None] = [None] * 20_000
    gc.collect()
    tracemalloc.start()
    try:
        for index in range(20_000):
            entries[index] = wheel.add(None, 1_000 + index)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / len(entries) <= limit
    assert sys.getsizeof(entries[0]) <= 100


def _lines_run(action: Callable[[], object]) -> int:
    """Count the source lines of the plain Python wheel that an action executes."""
    count = 0

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != str(SOURCE):
            return None
        count += event == "line"
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(previous)
    return count


def _lines_by_operation(size: int) -> list[int]:
    """Count the lines of one add, move, cancel and idle tick on a wheel of some size."""
    wheel = PureWheel()
    entries = [wheel.add(n, 1_000 + n % 3_000) for n in range(size)]
    operations: list[Callable[[], object]] = [
        lambda: wheel.add("x", 9_000),
        lambda: wheel.move(entries[5], 2_000),
        lambda: wheel.cancel(entries[6]),
        lambda: wheel.advance(1),
    ]
    return [_lines_run(operation) for operation in operations]


def test_steps_do_not_grow_with_the_number_of_entries() -> None:
    """Add, move, cancel and an idle tick run the same lines with 10 and with 10,000 entries."""
    few, many = _lines_by_operation(10), _lines_by_operation(10_000)
    assert few == many
    assert max(few) < 60


def test_a_jump_costs_the_slots_and_what_is_due() -> None:
    """However far: an empty wheel jumps at once, another passes each slot at most once."""
    wheel = PureWheel()
    assert _lines_run(lambda: wheel.advance(1 << 40)) < 10
    wheel.add("far", 1 << 61)
    lone = _lines_run(lambda: wheel.advance(1 << 50))
    assert lone < 10 * 448
    start = wheel.now
    for number in range(1_000):
        wheel.add(number, start + 1 + number * 1_000)
    full = _lines_run(lambda: wheel.advance(1 << 51))
    assert full < lone + 20 * 1_000


class Model:
    """The oracle: a sorted heap with lazy deletion."""

    def __init__(self) -> None:
        """Start at tick 0."""
        self.now = 0
        self.heap: list[tuple[int, int]] = []
        self.armed: dict[int, int] = {}

    def arm(self, number: int, tick: int) -> None:
        """Add or move; what the heap held before is stale from now on."""
        self.armed[number] = max(tick, self.now + 1)
        heapq.heappush(self.heap, (self.armed[number], number))

    def advance(self, tick: int) -> list[tuple[int, int]]:
        """Give due ticks and numbers, in order."""
        self.now = tick
        due = []
        while self.heap and self.heap[0][0] <= tick:
            when, number = heapq.heappop(self.heap)
            if self.armed.get(number) == when:
                del self.armed[number]
                due.append((when, number))
        return due


class Pair:
    """A wheel and its model, driven together."""

    def __init__(self, wheel_type: type[TimingWheel]) -> None:
        """Start both at tick 0."""
        self.wheel = wheel_type()
        self.model = Model()
        self.entries: list[WheelEntry] = []

    def add(self, ahead: int) -> int:
        """Add the next number to both."""
        number = len(self.entries)
        tick = self.wheel.now + ahead
        self.entries.append(self.wheel.add(number, tick))
        self.model.arm(number, tick)
        return number

    def move(self, number: int, ahead: int) -> None:
        """Move a number in both."""
        tick = self.wheel.now + ahead
        self.wheel.move(self.entries[number], tick)
        self.model.arm(number, tick)

    def cancel(self, number: int) -> None:
        """Cancel a number in both, which must agree on whether it was armed."""
        assert self.wheel.cancel(self.entries[number]) is (number in self.model.armed)
        self.model.armed.pop(number, None)

    def advance(self, ahead: int) -> list[object]:
        """Advance both, which must agree on what is due and in which order of ticks."""
        tick = self.wheel.now + ahead
        expected = self.model.advance(tick)
        got = self.wheel.advance(tick)
        ticks = [self.entries[cast("int", number)].tick for number in got]
        assert ticks == [when for when, _ in expected]
        assert sorted(cast("list[int]", got)) == sorted(number for _, number in expected)
        return got

    def check(self) -> None:
        """Compare what can be seen from outside."""
        assert len(self.wheel) == len(self.model.armed)
        assert self.wheel.now == self.model.now


def _random_walk(wheel_type: type[TimingWheel], seed: int, steps: int) -> list[object]:
    """Drive wheel and model with random operations; give everything that came due."""
    choose = random.Random(seed)  # a test script, no secret
    pair = Pair(wheel_type)
    came: list[object] = []
    spans = [1, 3, 100, 256, 300, 16_384, 20_000, 1 << 20, 1 << 26, 1 << 28]
    for _ in range(steps):
        roll = choose.random()
        span = choose.randint(-1, choose.choice(spans))
        if roll < 0.4 or not pair.entries:
            pair.add(span)
        elif roll < 0.65:
            pair.move(choose.randrange(len(pair.entries)), span)
        elif roll < 0.8:
            pair.cancel(choose.randrange(len(pair.entries)))
        else:
            came += pair.advance(max(0, span))
        pair.check()
    return came


@settings(max_examples=10)
@given(seed=st.integers(0, 1 << 32))
def test_long_random_walks_agree_with_a_heap(seed: int) -> None:
    """Ten walks of 5,000 operations in each build: 10^5 altogether, and both builds the same."""
    built = _random_walk(TimingWheel, seed, 5_000)
    assert built == _random_walk(PureWheel, seed, 5_000)


ticks_ahead = st.one_of(
    st.integers(-2, 600),
    st.sampled_from(EDGES + FAR),
    st.integers(0, 1 << 28),
)


class WheelMachine(RuleBasedStateMachine):
    """Any short sequence of operations, shrunk by hypothesis when one fails."""

    wheel_type: type[TimingWheel] = TimingWheel
    numbers: Bundle[int] = Bundle("numbers")

    def __init__(self) -> None:
        """Start with an empty pair."""
        super().__init__()
        self.pair = Pair(self.wheel_type)

    @rule(target=numbers, aheads=st.lists(ticks_ahead, max_size=5))
    def add(self, aheads: list[int]) -> Any:
        """Add a few."""
        return multiple(*[self.pair.add(ahead) for ahead in aheads])

    @rule(number=numbers, ahead=ticks_ahead)
    def move(self, number: int, ahead: int) -> None:
        """Move one, in whatever state it is."""
        self.pair.move(number, ahead)

    @rule(number=numbers)
    def cancel(self, number: int) -> None:
        """Cancel one, in whatever state it is."""
        self.pair.cancel(number)

    @rule(ahead=ticks_ahead)
    def advance(self, ahead: int) -> None:
        """Let time pass."""
        self.pair.advance(max(0, ahead))

    @invariant()
    def agrees(self) -> None:
        """Hold the counts and the clock equal after every step."""
        self.pair.check()


class PureWheelMachine(WheelMachine):
    """The same on the plain Python source."""

    wheel_type = PureWheel


@pytest.mark.parametrize("machine", [WheelMachine, PureWheelMachine])
def test_any_sequence_of_operations_agrees_with_a_heap(machine: type[WheelMachine]) -> None:
    """Stateful search over add, move, cancel and advance finds no difference to the model."""
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=30))
