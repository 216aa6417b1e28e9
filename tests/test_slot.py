"""A slot's restarts by the clock: at once after a good life, later and later after bad starts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevpy.slot import BACK_OFF_S, DEATHS_WINDOW_S, MANY_DEATHS, RESTART_GAP_S, Slot

NOW = 5_000.0


def process(*, ready: bool = True, leaving: bool = False) -> Any:
    """Make what a slot looks at of a child."""
    return type("Process", (), {"ready": ready, "leaving": leaving})()


def slot_with(child: Any = None, successor: Any = None) -> Slot:
    """Make a slot in which processes are already."""
    slot = Slot(3, [])
    slot.child, slot.next = child, successor
    return slot


def early_deaths(slot: Slot, count: int, now: float = NOW, lasts_s: float = 0.0) -> list[float]:
    """Let workers die before they are ready, each after ``lasts_s``; give the delays."""
    delays = []
    for _ in range(count):
        now += lasts_s
        delays.append(slot.restart_delay_s(was_ready=False, now=now, hurry=False))
        now += delays[-1]
    return delays


def test_a_good_life_is_followed_at_once() -> None:
    """One that served until it died is replaced without delay."""
    slot = slot_with()
    assert slot.restart_delay_s(was_ready=True, now=NOW, hurry=False) == 0.0
    assert slot.restarts == 1
    assert slot.early_deaths == 0
    assert not slot.failed


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=50), st.booleans())
def test_no_more_than_two_restarts_a_second(lives: list[float], hurry: bool) -> None:
    """However soon each one dies, the starts are half a second apart."""
    slot, now, starts = slot_with(), NOW, []
    for life in lives:
        now += slot.restart_delay_s(was_ready=True, now=now, hurry=hurry)
        starts.append(now)
        now += life
    gaps = [after - before for before, after in pairwise(starts)]
    assert all(gap >= RESTART_GAP_S - 1e-6 for gap in gaps)


def test_bad_starts_back_off_up_to_30_s() -> None:
    """0.5, 1, 2, 4, 8, 16 and 30 s, and 30 for ever."""
    assert early_deaths(slot_with(), 10) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
    assert early_deaths(slot_with(), 10, lasts_s=20.0) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
    assert list(BACK_OFF_S) == sorted(BACK_OFF_S)


def test_five_bad_starts_in_a_minute_are_a_failure() -> None:
    """Not four, and not five over a longer time."""
    slot = slot_with()
    early_deaths(slot, MANY_DEATHS - 1)
    assert (slot.state, slot.failed) == ("backing off", False)
    early_deaths(slot, 1, now=NOW + 20)
    assert (slot.state, slot.failed) == ("failed", True)

    slow = slot_with()
    for number in range(20):
        slow.restart_delay_s(was_ready=False, now=NOW + number * DEATHS_WINDOW_S / 4.01, hurry=False)
    assert slow.failed
    seldom = slot_with()
    for number in range(20):
        seldom.restart_delay_s(was_ready=False, now=NOW + number * DEATHS_WINDOW_S / 3.99, hurry=False)
    assert (seldom.state, seldom.failed) == ("backing off", False)


def test_a_failure_lasts_until_a_worker_is_ready() -> None:
    """However much later it is tried again: readiness must not flap."""
    slot = slot_with()
    early_deaths(slot, MANY_DEATHS)
    early_deaths(slot, 1, now=NOW + 10 * DEATHS_WINDOW_S)
    assert (slot.state, slot.failed) == ("failed", True)
    slot.mark_ready()
    assert (slot.state, slot.failed, slot.early_deaths) == ("ready", False, 0)
    assert early_deaths(slot, 2, now=NOW + 11 * DEATHS_WINDOW_S) == [0.5, 1.0]
    assert slot.state == "backing off"


def test_haste_skips_the_back_off_and_not_the_gap() -> None:
    """Where nobody serves there is no time to lose; but processes aren't started in a busy loop either."""
    slot = slot_with()
    early_deaths(slot, 3)
    late = NOW + 100
    assert slot.restart_delay_s(was_ready=False, now=late, hurry=True) == 0.0
    assert slot.restart_delay_s(was_ready=False, now=late, hurry=True) == RESTART_GAP_S


def test_it_is_served_by_one_that_takes_connections() -> None:
    """Not by one that starts, nor by one that leaves."""
    assert slot_with(process()).is_served
    assert not slot_with(process(ready=False)).is_served
    assert not slot_with(process(leaving=True)).is_served
    assert not slot_with().is_served


def test_a_successor_takes_the_place() -> None:
    """The old one leaves; all are among the processes until they are gone."""
    old, new = process(), process()
    slot = slot_with(old, new)
    slot.succeed()
    assert (slot.child, slot.next, slot.leaving) == (new, None, {old})
    assert set(slot.processes) == {old, new}
    assert not slot.forget(old)
    assert slot.processes == [new]


def test_a_successor_without_a_predecessor() -> None:
    """It may have died meanwhile."""
    new = process()
    slot = slot_with(None, new)
    slot.succeed()
    assert (slot.child, slot.next, slot.leaving) == (new, None, set())


@pytest.mark.parametrize(("who", "unserved"), [("child", True), ("next", False), ("leaving", False)])
def test_a_death_leaves_a_gap_only_where_nobody_is_left(who: str, *, unserved: bool) -> None:
    """Who only drained, or was only about to serve, leaves none."""
    gone = process()
    slot = slot_with()
    if who == "leaving":
        slot.child = process()
        slot.leaving.add(gone)
    else:
        slot.child = process()
        setattr(slot, who, gone)
    assert slot.forget(gone) is unserved
    assert gone not in slot.processes


def test_the_next_one_takes_over_from_one_that_died() -> None:
    """A reload and a death at once: nobody else needs to be started."""
    old, new = process(), process(ready=False)
    slot = slot_with(old, new)
    assert not slot.forget(old)
    assert (slot.child, slot.next, slot.state) == (new, None, "starting")


def test_a_vacated_slot_has_nobody() -> None:
    """All shall leave, the one that was about to serve included, and nobody is started any more."""
    old, new, older = process(), process(ready=False), process(leaving=True)
    slot = slot_with(old, new)
    slot.leaving.add(older)
    cancelled: list[bool] = []

    class Handle:
        def cancel(self) -> None:
            cancelled.append(True)

    slot.restarting = Handle()  # type: ignore[assignment]
    assert set(slot.vacate()) == {old, new, older}
    assert (slot.child, slot.next, slot.state, cancelled) == (None, None, "draining", [True])
    for one in (old, new, older):
        assert not slot.forget(one)
    assert (slot.processes, slot.state) == ([], "draining")
