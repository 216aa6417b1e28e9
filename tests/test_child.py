"""One worker process as its supervisor sees it, with real processes that behave and that don't."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import child as module
from gevpy.application import Application
from gevpy.child import Child
from gevpy.control_messages import Beat, Failed, Logged, Message, Ready
from gevpy.metrics.snapshot import Snapshot
from gevpy.options import ServeOptions
from gevpy.placement import WorkerLoad
from gevpy.restarts import RestartReason
from tests import rogue_workers
from tests.integration.harness import open_descriptors
from tests.integration.tree_procs import children_of, is_running

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 20.0


class Parent:
    """Spawns children, and keeps what they say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.messages: list[Message] = []
        self.exits: list[Child] = []
        self.children: list[Child] = []

    def child(self) -> Child:
        """Make one that isn't spawned."""
        self.children.append(Child(asyncio.get_running_loop(), 3, self._hear, self.exits.append))
        return self.children[-1]

    def _hear(self, child: Child, message: Message, payload: bytes) -> None:
        self.messages.append(message)
        if isinstance(message, Ready):
            child.ready = True
        elif isinstance(message, Beat):
            child.take_beat(payload, message.turned_s, message.ticket)

    async def spawn(self, target: Callable[..., None]) -> Child:
        """Spawn one."""
        self._monkeypatch.setattr(module, "run_worker", target)
        child = self.child()
        options = ServeOptions(protocol=gevpy.RawProtocol(), workers=2)
        await child.spawn(Application(gevpy.Handler(), options), [], None)
        return child

    async def until_ready(self, child: Child) -> None:
        """Wait until it has said so."""
        await self.until(lambda: child.ready, child)

    async def until(self, condition: Callable[[], object], child: Child) -> None:
        """Wait for something; a child that is gone will do nothing more."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                assert not child.gone.done(), f"{child!r} {child.how_it_ended}"
                await asyncio.sleep(0.005)

    async def until_gone(self, child: Child) -> None:
        """Wait for its exit, which is told once, and leaves nothing."""
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.shield(child.gone)
        assert self.exits == [child]
        assert not is_running(child.pid)
        assert child.pid not in children_of(os.getpid())
        assert not child.send(Ready())

    def close(self) -> None:
        """Kill who is left."""
        for child in self.children:
            child.kill("the test is over")


@pytest.fixture
async def parent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give one; all its children are gone in the end."""
    found = Parent(monkeypatch)
    yield found
    found.close()
    for child in found.children:
        if child.pid:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.shield(child.gone)


def kills(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give the lines that tell of a kill."""
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("killing")]


# -- a life ------------------------------------------------------------------------------------------------


async def test_a_life_from_spawn_to_exit(parent: Parent, caplog: pytest.LogCaptureFixture) -> None:
    """It has a pid, is ready, drains when told, and is gone; no descriptor stays."""
    await asyncio.to_thread(int)  # the executor, the resource tracker and the like are there to stay
    first = await parent.spawn(rogue_workers.obedient)
    await parent.until_ready(first)
    first.drain("stop", 30.0, 5.0)
    await parent.until_gone(first)
    parent.exits.clear()
    before = open_descriptors(os.getpid())

    child = await parent.spawn(rogue_workers.obedient)
    assert child.pid > 0
    assert repr(child) == f"worker 3 (pid {child.pid})"
    await parent.until_ready(child)
    child.drain("stop", 30.0, 5.0)
    child.drain("stop", 0.0, 0.0)  # once is enough
    assert child.leaving
    await parent.until_gone(child)
    assert (child.exit_code, child.how_it_ended, child.restart_reason) == (0, "exited with code 0", RestartReason.EXIT)
    assert open_descriptors(os.getpid()) <= before  # fewer, where the collector had something to do
    assert not kills(caplog)


async def test_what_it_said_last_is_heard_first(parent: Parent) -> None:
    """The exit is told of when all messages were taken, those of other threads included."""
    child = await parent.spawn(rogue_workers.last_words)
    await parent.until_gone(child)
    assert parent.messages[0] == Ready()
    assert len([message for message in parent.messages if isinstance(message, Beat)]) == 200
    assert len([message for message in parent.messages if isinstance(message, Logged)]) == 200
    assert [message for message in parent.messages if isinstance(message, Failed)] == [Failed("last words", "")]
    assert child.snapshot.counters["opened"] == 0


async def test_an_exit_before_it_was_ready_is_a_bad_start(parent: Parent) -> None:
    """With its exit code."""
    child = await parent.spawn(rogue_workers.exits)
    await parent.until_gone(child)
    assert (child.how_it_ended, child.restart_reason) == ("exited with code 7", RestartReason.START)


async def test_a_signal_is_told_by_name(parent: Parent) -> None:
    """As people know it; real-time ones have none."""
    child = await parent.spawn(rogue_workers.deaf)
    await parent.until_ready(child)
    child.signal(signal.SIGSEGV)
    await parent.until_gone(child)
    assert (child.how_it_ended, child.restart_reason) == ("was ended by SIGSEGV", RestartReason.SIGNAL)
    child.exit_code = -40
    assert child.how_it_ended == "was ended by signal 40"


async def test_one_that_does_not_leave_in_time_is_killed(parent: Parent, caplog: pytest.LogCaptureFixture) -> None:
    """The drain's time and the grace have passed."""
    child = await parent.spawn(rogue_workers.deaf)
    await parent.until_ready(child)
    child.drain("stop", 0.05, 0.05)
    await parent.until_gone(child)
    assert kills(caplog) == [f"killing {child!r}: it has not exited in time"]


async def test_haste_shortens_the_wait(parent: Parent) -> None:
    """Whatever the drain was given."""
    child = await parent.spawn(rogue_workers.deaf)
    await parent.until_ready(child)
    child.drain("stop", 3600.0, 5.0)
    child.hurry(0.05)
    await parent.until_gone(child)


async def test_a_drain_without_a_deadline_kills_nobody(parent: Parent) -> None:
    """drain_s=None means as long as it takes."""
    child = await parent.spawn(rogue_workers.deaf)
    await parent.until_ready(child)
    child.drain("reload", None, 0.0, patient=True)
    assert child._killing is None


async def test_one_that_is_gone_is_sent_no_signal(parent: Parent, caplog: pytest.LogCaptureFixture) -> None:
    """Its number may be another's by now; and before it is spawned it has none."""
    unborn = parent.child()
    unborn.signal(signal.SIGUSR1)
    assert not unborn.send(Ready())
    child = await parent.spawn(rogue_workers.exits)
    await parent.until_gone(child)
    child.load = WorkerLoad(3, os.getpid())  # as if it were ours
    child.signal(signal.SIGKILL)
    child.kill("once more")
    assert not kills(caplog)


async def test_a_kill_before_it_is_spawned_does_not_spare_it_later(
    parent: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop that comes while its process is being started must reach it afterwards: else nothing ever ends it."""
    child = parent.child()
    child.kill("too early")
    child.load = WorkerLoad(3, 4_000_000)
    sent: list[signal.Signals] = []
    monkeypatch.setattr(child, "signal", sent.append)
    child.kill("now")
    assert sent == [signal.SIGKILL]
    parent.children.clear()


async def test_a_blocked_one_dumps_its_stacks_first(parent: Parent, caplog: pytest.LogCaptureFixture) -> None:
    """Then it is killed; the reason says so."""
    child = await parent.spawn(rogue_workers.deaf)
    await parent.until_ready(child)
    sent: list[signal.Signals] = []
    send = child.signal

    def note(number: signal.Signals) -> None:
        sent.append(number)
        if number == signal.SIGKILL:  # the other would end this process, which isn't a real worker
            send(number)

    child.signal = note  # type: ignore[method-assign]
    child.end_blocked(31.0)
    await parent.until_gone(child)
    assert sent == [signal.SIGUSR1, signal.SIGKILL]
    assert child.restart_reason is RestartReason.BLOCKED
    assert kills(caplog) == [f"killing {child!r}: its loop has not turned for 31.0 s"]


# -- processes that can't be started ---------------------------------------------------------------------


async def test_a_spawn_that_fails_leaves_nothing(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of processes: the error is the caller's, and the channel's four sockets are closed."""

    class Process:
        pid = None

        def __init__(self, **_: object) -> None:
            pass

        def start(self) -> None:
            raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(module, "SPAWN", type("Context", (), {"Process": Process}))
    await asyncio.to_thread(int)
    before = open_descriptors(os.getpid())
    with pytest.raises(OSError, match="temporarily unavailable"):
        await parent.spawn(rogue_workers.obedient)
    assert open_descriptors(os.getpid()) <= before  # fewer, where the collector had something to do
    parent.children.clear()


# -- processes that misbehave ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (rogue_workers.garbage, "its control channel failed: "),
        (rogue_workers.boastful, "its control channel failed: a control message announces"),
        (rogue_workers.generous, "its control channel failed: "),
        (rogue_workers.confused, "it sent no snapshot: "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_one_that_breaks_the_channel_is_killed(
    parent: Parent, caplog: pytest.LogCaptureFixture, target: Callable[..., None], says: str
) -> None:
    """A14: garbage, a gigabyte, 250 descriptors, a beat that is none: one line, one kill, and nothing stays open."""
    await asyncio.to_thread(int)
    warm = await parent.spawn(rogue_workers.exits)
    await parent.until_gone(warm)
    parent.exits.clear()
    before = open_descriptors(os.getpid())
    child = await parent.spawn(target)
    await parent.until_gone(child)
    assert child.exit_code == -signal.SIGKILL
    (line,) = kills(caplog)
    assert line.startswith(f"killing {child!r}: {says}")
    assert open_descriptors(os.getpid()) <= before  # fewer, where the collector had something to do
    assert not [record for record in caplog.records if record.exc_info]


async def test_garbage_on_the_alarm_costs_only_that(parent: Parent, caplog: pytest.LogCaptureFixture) -> None:
    """A record that was cut short by a full buffer is the end of such records, not of the worker."""
    child = await parent.spawn(rogue_workers.mumbling)
    await parent.until_ready(child)
    assert not kills(caplog)
    child.drain("stop", 30.0, 5.0)
    await parent.until_gone(child)
    assert child.exit_code == 0


# -- beats ---------------------------------------------------------------------------------------------


async def test_a_plain_beat_leaves_what_it_does_not_tell(parent: Parent) -> None:
    """Buffers and the application's metrics come only when asked for, or now and then."""
    child = parent.child()
    asked = Snapshot.empty(3)
    asked.read_buffer_bytes, asked.write_buffer_bytes = 10, 20
    asked.families = [["app", "gauge", "", "", [["app", {}, 1.0]]]]
    child.take_beat(asked.to_json(), 5.0, 1)
    plain = Snapshot.empty(3)
    plain.connections = 4
    child.take_beat(plain.to_json(), 6.0, 0)
    assert (child.snapshot.connections, child.turned_s) == (4, 6.0)
    assert (child.snapshot.read_buffer_bytes, child.snapshot.write_buffer_bytes) == (10, 20)
    assert child.snapshot.families == asked.families
    child.take_beat(plain.to_json(), 7.0, 2)
    assert (child.snapshot.read_buffer_bytes, child.snapshot.write_buffer_bytes) == (0, 0)
    parent.children.clear()


async def test_a_bad_beat_changes_nothing(parent: Parent, caplog: pytest.LogCaptureFixture) -> None:
    """What was known stays known, and the worker is ended."""
    child = parent.child()
    child.load = WorkerLoad(3, 4_000_000)
    before = child.snapshot
    turned = child.turned_s
    with caplog.at_level(logging.ERROR):
        child.take_beat(b'{"worker": "three"}', turned + 10, 0)
    assert child.snapshot is before
    assert child.turned_s == turned
    assert len(kills(caplog)) == 1
    parent.children.clear()
