"""The timing wheel: adding, moving, and turning it with 20,000 entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.harness import Case
from gevpy.timing_wheel import TimingWheel

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CASES"]

ENTRIES = 20_000
TIMEOUT_TICKS = 2402


def add_and_cancel() -> Callable[[int], None]:
    """A deadline that does not come."""
    wheel = TimingWheel()

    def run(count: int) -> None:
        add, cancel = wheel.add, wheel.cancel
        for number in range(count):
            cancel(add(None, 1 + number % TIMEOUT_TICKS))

    return run


def move() -> Callable[[int], None]:
    """A deadline put off."""
    wheel = TimingWheel()
    entry = wheel.add(None, 1)

    def run(count: int) -> None:
        move = wheel.move
        for number in range(count):
            move(entry, 1 + number % TIMEOUT_TICKS)

    return run


def turn() -> Callable[[int], None]:
    """A turn, 20,000 connections being watched; those due are put off by the timeout again."""
    wheel = TimingWheel()
    for number in range(ENTRIES):
        wheel.add(number, 1 + number % TIMEOUT_TICKS)

    def run(count: int) -> None:
        for _ in range(count):
            now = wheel.now + 1
            for item in wheel.advance(now):
                wheel.add(item, now + TIMEOUT_TICKS)

    return run


CASES = (
    Case("wheel: add and cancel", add_and_cancel),
    Case("wheel: move", move),
    Case("wheel: turn with 20,000 entries", turn),
)
