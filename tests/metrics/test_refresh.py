"""One refresh for all who wait, and what happens when it fails, is late, or is no longer wanted."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gevpy.log_limit import LimitedLog
from gevpy.metrics import refresh as module
from gevpy.metrics.refresh import Refresher
from tests.metrics.scraping import HeldSource

LOGGER = logging.getLogger("gevpy.metrics")


def refresher(source: HeldSource) -> Refresher:
    """Make one that logs as the metrics port does."""
    return Refresher(source.refresh, LimitedLog(LOGGER))


async def test_all_who_wait_are_called_back_once() -> None:
    """Whoever asks before the refresh has ended is served by it; asking twice is waiting once."""
    source = HeldSource()
    shared = refresher(source)
    called: list[str] = []
    done = asyncio.Event()

    def first() -> None:
        called.append("first")

    shared.ask(first)
    await source.asked.wait()
    shared.ask(first)
    shared.ask(done.set)
    source.go_on.set()
    async with asyncio.timeout(5):
        await done.wait()
    assert called == ["first"]
    assert source.refreshes == 1


async def test_who_was_forgotten_is_not_called_back() -> None:
    """One that has left doesn't hinder the others, and forgetting a stranger is nothing."""
    source = HeldSource()
    shared = refresher(source)
    called: list[str] = []
    done = asyncio.Event()

    def gone() -> None:
        called.append("gone")

    shared.ask(gone)
    shared.ask(done.set)
    shared.forget(gone)
    shared.forget(gone)
    source.go_on.set()
    async with asyncio.timeout(5):
        await done.wait()
    assert called == []


async def test_a_call_back_may_ask_again() -> None:
    """It begins the next refresh, as the one before has ended."""
    source = HeldSource()
    source.go_on.set()
    shared = refresher(source)
    done = asyncio.Event()
    shared.ask(lambda: shared.ask(done.set))
    async with asyncio.timeout(5):
        await done.wait()
    assert source.ended == 2


@pytest.mark.parametrize(
    ("failure", "lines"),
    [(ValueError("no"), 1), (TimeoutError(), 1), (asyncio.CancelledError(), 0)],
)
async def test_a_failure_calls_back_all_the_same(
    failure: BaseException, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the source raises, those who wait go on, and the log has a line; a cancellation is nobody's fault."""

    async def fail() -> None:
        raise failure

    shared = Refresher(fail, LimitedLog(LOGGER))
    done = asyncio.Event()
    shared.ask(done.set)
    async with asyncio.timeout(5):
        await done.wait()
    assert len(caplog.records) == lines


async def test_stop_does_not_wait_for_what_refuses_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh that swallows its cancellation is left behind after a moment; nobody is called back."""
    monkeypatch.setattr(module, "STOP_GRACE_S", 0.05)
    begun, end = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        begun.set()
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    shared = Refresher(stubborn, LimitedLog(LOGGER))
    called: list[str] = []
    shared.ask(lambda: called.append("called"))
    await begun.wait()
    task = shared._task
    assert task is not None
    await shared.stop()
    await shared.stop()
    end.set()
    await asyncio.wait((task,))
    assert called == []
