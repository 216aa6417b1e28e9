"""The supervisor without processes, second by second: restarts, orphans, reloads, limits on what a worker may do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy.child import DUMP_S, MOST_ON_THE_WAY
from gevpy.control_messages import (
    Accept,
    Adopt,
    Ask,
    Beat,
    Count,
    Counted,
    Deliver,
    Drain,
    Drained,
    Hurry,
    Logged,
    Message,
    Release,
    Take,
    Taken,
)
from gevpy.metrics.snapshot import as_status
from gevpy.restarts import RestartReason
from gevpy.rolling import KILL_GRACE_S
from gevpy.supervisor import HURRY_GRACE_S
from gevpy.worker_process import beat_s
from tests.tree_fakes import Grove, Sapling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOK_S = beat_s(None)  # between looks at the workers' health, at most


@pytest.fixture
def make_grove(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Grove]]:
    """Make supervisors without processes, and close them."""
    made: list[Grove] = []

    def make(**options: Any) -> Grove:
        made.append(Grove(monkeypatch, **options))
        return made[-1]

    yield make
    for grove in made:
        grove.close()


@pytest.fixture
def grove(make_grove: Callable[..., Grove]) -> Grove:
    """One with the defaults."""
    return make_grove()


def births(grove: Grove, slot: int) -> list[float]:
    """Give when the workers of a slot were spawned, by the seconds since the first."""
    times = [sapling.born_s for sapling in grove.saplings if sapling.slot == slot]
    return [round(time - times[0], 3) for time in times]


# -- starting ------------------------------------------------------------------------------------------


def test_start_waits_for_all(grove: Grove) -> None:
    """It returns when each worker is ready or has failed; nobody accepts before it is said."""
    first, second = grove.start(ready=False)
    first.get_ready()
    grove.advance(5)
    assert not grove.starting.done()
    assert not first.told(Accept)
    second.fail("ValueError: no database")
    grove.loop.settle()
    assert grove.starting.done()
    grove.call(grove.supervisor.accept)
    assert first.told(Accept)
    assert grove.states == ["ready", "backing off"]


def test_no_worker_at_all_is_one_error(grove: Grove, caplog: pytest.LogCaptureFixture) -> None:
    """It says why, once, with the traceback in the log."""
    for sapling in grove.start(ready=False):
        sapling.fail("ValueError: no database", "Traceback: ...")
    with pytest.raises(gevpy.WorkerError, match=r"^no worker could start: ValueError: no database$"):
        grove.run(grove.starting)
    assert caplog.text.count("Traceback: ...") == 1


def test_a_worker_that_dies_without_a_word_is_told_of(grove: Grove) -> None:
    """There is only its exit to tell."""
    for sapling in grove.start(ready=False):
        sapling.die(-signal.SIGSEGV)
    with pytest.raises(
        gevpy.WorkerError, match=r"no worker could start: worker 1 \(pid \d+\) was ended by SIGSEGV, see"
    ):
        grove.run(grove.starting)


def test_a_process_that_can_t_be_started_is_a_bad_start(grove: Grove, caplog: pytest.LogCaptureFixture) -> None:
    """Out of processes, or of memory: it backs off like any other, and the others serve."""
    grove.spawn_errors = [OSError(11, "Resource temporarily unavailable")]
    grove.start(ready=False)
    grove.saplings[1].get_ready()
    grove.run_start()
    assert grove.states == ["backing off", "ready"]
    assert "worker 0 could not be spawned" in caplog.text
    grove.advance(1)
    grove.newest.get_ready()
    assert grove.states == ["ready", "ready"]


def test_a_start_that_takes_too_long_is_ended(make_grove: Callable[..., Grove]) -> None:
    """timeouts.start_s, not the limit on a blocked loop."""
    grove = make_grove(timeouts=gevpy.Timeouts(start_s=10.0, blocked_s=1.0))
    first, second = grove.start(ready=False)
    for _ in range(20):
        first.beat()
        first.ready or first.get_ready()
        grove.advance(0.5)
        first.beat()
    assert not second.is_killed
    grove.advance(2 * LOOK_S)
    assert second.is_killed
    assert not first.is_killed


# -- deaths --------------------------------------------------------------------------------------------


def test_one_that_served_is_replaced_at_once(grove: Grove) -> None:
    """No back-off; the slot is not ready meanwhile."""
    first, _ = grove.start()
    grove.advance(100)
    first.beat()
    first.die()
    grove.loop.settle()
    grove.loop.advance(0)
    assert len(grove.saplings) == 3
    assert grove.newest.slot == 0
    assert grove.states == ["starting", "ready"]
    grove.newest.get_ready()
    assert grove.newest.told(Accept)
    assert grove.states == ["ready", "ready"]


def test_no_more_than_two_restarts_a_second(grove: Grove) -> None:
    """One that dies as soon as it is ready, for ten seconds."""
    grove.start()
    grove.call(grove.saplings[0].die)
    for _ in range(80):
        grove.advance(0.125)
        last = [sapling for sapling in grove.saplings if sapling.slot == 0][-1]
        if not last.gone.done():
            grove.call(last.get_ready().die)
    times = births(grove, 0)[1:]
    assert 15 <= len(times) <= 21
    assert min(after - before for before, after in pairwise(times)) >= 0.5


def test_bad_starts_back_off_and_fail(grove: Grove) -> None:
    """0.5, 1, 2, 4, 8 s ...; the fifth death marks the slot, until a worker is ready there."""
    grove.start(ready=False)
    grove.saplings[0].get_ready()
    grove.saplings[1].die(1)
    grove.run_start()
    states = []
    for _ in range(8 * 40):
        grove.advance(0.125)
        if grove.newest.slot == 1 and not grove.newest.gone.done():
            grove.newest.die(1)
            states.append(grove.states[1])
    assert births(grove, 1) == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert states == ["backing off"] * 3 + ["failed"] * 3
    grove.advance(30.5)
    assert grove.states[1] == "failed"  # while it is tried again, too
    grove.newest.get_ready()
    assert grove.states == ["ready", "ready"]


def test_without_a_live_worker_nothing_is_waited_for(grove: Grove) -> None:
    """Nobody serves: the next one is started within the half second that all are apart."""
    grove.start()
    for sapling in grove.saplings[:2]:
        sapling.die()
    for _ in range(80):
        grove.advance(0.125)
        for sapling in grove.saplings:
            if not sapling.gone.done():
                sapling.die(1)
    for slot in (0, 1):
        assert len(births(grove, slot)) >= 15
    grove.advance(1)
    grove.saplings[-2].get_ready()
    assert len(grove.supervisor.live) == 1


def test_time_in_which_the_supervisor_stood_still_does_not_count(make_grove: Callable[..., Grove]) -> None:
    """Its workers stood still with it, or turned unheard: only for what they do after that are they ended."""
    grove = make_grove(timeouts=gevpy.Timeouts(start_s=10.0, blocked_s=2.0))
    first, second = grove.start(ready=False)
    first.get_ready()
    grove.loop.advance(60.0)
    assert not first.is_killed
    assert not second.is_killed
    second.get_ready()
    grove.advance(1.5)
    first.beat()
    grove.advance(1.0)
    first.beat()
    assert not first.is_killed
    grove.advance(1.0)
    assert second.is_killed
    grove.advance(1.0)
    assert not first.is_killed
    grove.advance(1.0)
    assert first.is_killed


@pytest.fixture
def gate(grove: Grove, monkeypatch: pytest.MonkeyPatch) -> Callable[[], asyncio.Future[None]]:
    """Make spawns wait from now on, until the future that this gives is done."""

    def hold() -> asyncio.Future[None]:
        held: asyncio.Future[None] = grove.loop.create_future()
        spawn = Sapling.spawn

        async def late(self: Sapling, *arguments: Any) -> None:
            await held
            await spawn(self, *arguments)

        monkeypatch.setattr(Sapling, "spawn", late)
        return held

    return hold


def test_a_stop_reaches_who_is_being_spawned(grove: Grove, gate: Callable[[], asyncio.Future[None]]) -> None:
    """It is killed once it is there: it heard nothing of the stop, which would wait for it for ever."""
    grove.start()
    held = gate()
    grove.call(grove.supervisor.add_worker, ())
    stopping = grove.loop.create_task(grove.supervisor.stop(30.0))
    grove.loop.settle()
    held.set_result(None)
    grove.loop.settle()
    assert grove.newest.is_killed
    for sapling in grove.saplings:
        sapling.die()
    grove.run(stopping)


def test_a_removal_reaches_who_is_being_spawned(grove: Grove, gate: Callable[[], asyncio.Future[None]]) -> None:
    """It is told to go once it can hear."""
    grove.start()
    held = gate()
    grove.call(grove.supervisor.add_worker, ())
    grove.call(grove.supervisor.remove_worker)
    held.set_result(None)
    grove.loop.settle()
    grove.newest.get_ready()
    assert grove.newest.told(Drain)[-1] == Drain("stop", 0, patient=False)


def test_restarts_are_counted_by_reason(make_grove: Callable[..., Grove]) -> None:
    """Signal, exit, start, blocked: each where it belongs."""
    grove = make_grove(timeouts=gevpy.Timeouts(blocked_s=2.0))
    grove.start()
    grove.saplings[0].die(-signal.SIGSEGV)
    grove.advance(1)
    grove.newest.die(1)
    grove.advance(1)
    grove.newest.get_ready().die(0)
    grove.advance(1)
    grove.newest.get_ready()
    grove.saplings[1].beat()
    grove.advance(2 + 3 * LOOK_S)
    grove.newest.beat()
    assert grove.saplings[1].is_killed
    grove.saplings[1].die()
    reasons = {RestartReason.SIGNAL: 1, RestartReason.START: 1, RestartReason.EXIT: 1, RestartReason.BLOCKED: 1}
    assert grove.supervisor.restarts == reasons


def test_what_the_dead_have_counted_stays(grove: Grove) -> None:
    """Counters don't fall, connections do."""
    first, second = grove.start()
    first.beat(opened=5, received_bytes=100, connections=3)
    second.beat(opened=2, received_bytes=10, connections=1)
    before = as_status(grove.supervisor.total())
    first.die()
    after = as_status(grove.supervisor.total())
    assert (after["opened"], after["received_bytes"]) == (before["opened"], before["received_bytes"]) == (7, 110)
    assert (before["connections"], after["connections"], grove.supervisor.connections) == (4, 1, 1)


def test_kinds_of_messages_are_bounded_over_all_lives(grove: Grove) -> None:
    """Each new worker may bring its own 32: the page has 32 in all, and no second is lost."""
    grove.start()
    for life in range(5):
        grove.newest.beat(blocked={f"on_message|{life}-{number}": 1.0 for number in range(32)})
        grove.newest.die()
        grove.advance(1)
        grove.newest.get_ready()
    whole = grove.supervisor.total().blocked
    assert len(whole) == 32 + 1
    assert (whole["on_message|other"], sum(whole.values())) == (4 * 32, 5 * 32)
    grove.newest.beat(blocked={"on_message|0-7": 2.0})
    assert grove.supervisor.total().blocked["on_message|0-7"] == 3.0


# -- orphans ---------------------------------------------------------------------------------------------


@pytest.fixture
def listeners() -> Iterator[list[list[socket.socket]]]:
    """Give a listening socket for each of three slots."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    yield [[sock] for sock in sockets]
    for sock in sockets:
        sock.close()


def adoptions(sapling: Sapling) -> list[tuple[str, int, list[int]]]:
    """Give what a worker was told of others' listeners."""
    return [(message.KIND, message.slot, fds) for message, fds in sapling.sent if isinstance(message, Adopt | Release)]


def test_a_live_worker_adopts_and_gives_back(grove: Grove, listeners: list[list[socket.socket]]) -> None:
    """The listener of a dead one is accepted on until its own worker is ready again."""
    first, second = grove.start(listeners[:2])
    second.die()
    grove.loop.settle()
    assert adoptions(first) == [("adopt", 1, [listeners[1][0].fileno()])]
    grove.advance(3)
    assert len(adoptions(first)) == 1
    grove.newest.get_ready()
    assert grove.newest.told(Accept)
    assert adoptions(first)[1:] == [("release", 1, [])]
    assert not adoptions(grove.newest)


def test_another_one_adopts_when_the_adopter_dies(grove: Grove, listeners: list[list[socket.socket]]) -> None:
    """All orphans find a home as long as there is one worker; if there is none, the first that comes back has them."""
    first, second, third = grove.start(listeners)
    third.die()
    adopter, other = (first, second) if adoptions(first) else (second, first)
    assert not adoptions(other)
    adopter.die()
    homes = {slot for kind, slot, _ in adoptions(other) if kind == "adopt"}
    assert homes == {adopter.slot, 2}
    other.die()
    grove.advance(1)
    grove.newest.get_ready()
    assert {slot for kind, slot, _ in adoptions(grove.newest)} == {0, 1, 2} - {grove.newest.slot}


def test_an_adopter_that_leaves_gives_back(grove: Grove, listeners: list[list[socket.socket]]) -> None:
    """A reload while a slot is orphaned: the new worker adopts what the old one had."""
    first, second = grove.start(listeners[:2])
    second.die()
    assert adoptions(first) == [("adopt", 1, [listeners[1][0].fileno()])]
    grove.call(grove.supervisor.rolling.reload)
    new = next(sapling for sapling in grove.saplings[2:] if sapling.slot == 0)
    new.get_ready()
    grove.loop.settle()
    assert adoptions(first)[1:] == [("release", 1, [])]
    assert adoptions(new) == [("adopt", 1, [listeners[1][0].fileno()])]


def test_nobody_adopts_before_the_server_accepts(grove: Grove, listeners: list[list[socket.socket]]) -> None:
    """A slot that is slow to start is no orphan yet."""
    first, second = grove.start(listeners[:2], ready=False)
    first.get_ready()
    grove.advance(1)
    assert not adoptions(first)
    second.die(1)
    grove.run(grove.starting)
    assert not adoptions(first)
    grove.call(grove.supervisor.accept)
    assert adoptions(first)


def test_without_listeners_there_is_nothing_to_adopt(grove: Grove) -> None:
    """With the acceptor, workers have none."""
    first, second = grove.start()
    second.die()
    grove.advance(1)
    assert not adoptions(first)


def test_who_serves_is_told_at_each_change(grove: Grove) -> None:
    """So that the kernel chooses among them."""
    _, second = grove.start()
    seen = grove.changes
    second.die()
    assert grove.changes > seen
    seen = grove.changes
    grove.advance(1)
    grove.newest.get_ready()
    assert grove.changes > seen


# -- reloading, adding, removing -------------------------------------------------------------------------


def reloaded(grove: Grove, rounds: int = 1000) -> int:
    """Have each new worker become ready, until nothing is left to do; give the most that started at once."""
    most = 0
    for _ in range(rounds):
        grove.advance(0.25)
        starting = [sapling for sapling in grove.saplings if not sapling.ready and not sapling.gone.done()]
        most = max(most, len(starting))
        if not starting:
            break
        starting[0].get_ready()
    return most


def test_a_reload_replaces_one_by_one(grove: Grove) -> None:
    """Each old one is told to leave, patiently, only when its successor is ready."""
    first, second = grove.start()
    grove.call(grove.supervisor.rolling.reload)
    assert [sapling.slot for sapling in grove.saplings[2:]] == [0]
    grove.advance(10)
    assert not first.leaving
    grove.newest.get_ready()
    grove.loop.settle()
    assert first.told(Drain) == [Drain("reload", grove.options.timeouts.drain_s, patient=True)]
    assert not second.leaving
    assert [sapling.slot for sapling in grove.saplings[2:]] == [0, 1]
    grove.newest.get_ready()
    grove.loop.settle()
    assert second.leaving
    assert grove.supervisor.live == grove.saplings[2:]
    assert len(grove.supervisor.children) == 4
    for sapling in (first, second):
        sapling.die(0)
    grove.advance(5)
    assert grove.supervisor.children == grove.saplings[2:]
    assert not grove.supervisor.restarts


def test_many_reloads_are_two(grove: Grove) -> None:
    """200 of them at once: one that is under way, and one more for those who asked meanwhile."""
    grove.start()
    for _ in range(200):
        grove.call(grove.supervisor.rolling.reload)
    assert reloaded(grove) == 1
    assert len(grove.saplings) == 2 + 4
    grove.call(grove.supervisor.rolling.reload)
    reloaded(grove)
    assert len(grove.saplings) == 2 + 6


def test_a_new_worker_that_can_t_start_ends_the_reload(grove: Grove, caplog: pytest.LogCaptureFixture) -> None:
    """The old ones stay, all of them; the next reload tries again."""
    first, second = grove.start()
    grove.call(grove.supervisor.rolling.reload)
    grove.newest.fail("SyntaxError: invalid syntax")
    grove.advance(60)
    assert len(grove.saplings) == 3
    assert grove.supervisor.live == [first, second]
    assert grove.states == ["ready", "ready"]
    assert "the new worker 0 can't start (SyntaxError: invalid syntax): the old one stays" in caplog.text
    assert not grove.supervisor.restarts
    grove.call(grove.supervisor.rolling.reload)
    reloaded(grove)
    assert grove.supervisor.live == grove.saplings[3:]


def test_an_old_one_that_dies_meanwhile_has_its_successor(grove: Grove) -> None:
    """Nobody else is started, and the reload goes on."""
    first, _ = grove.start()
    grove.call(grove.supervisor.rolling.reload)
    first.die()
    grove.advance(2)
    assert len(grove.saplings) == 3
    reloaded(grove)
    assert grove.supervisor.live == grove.saplings[2:]


def test_one_that_doesn_t_leave_is_killed(grove: Grove) -> None:
    """After the drain's time and a grace; and it isn't replaced once more."""
    first, _ = grove.start()
    grove.call(grove.supervisor.rolling.reload)
    reloaded(grove)
    for _ in range(136):
        for sapling in grove.saplings:
            if not sapling.gone.done():
                sapling.beat()
        assert not first.is_killed
        grove.advance(0.25)
    grove.advance(2.0)
    assert first.is_killed
    first.die()
    grove.advance(2)
    assert len(grove.saplings) == 4
    assert (grove.options.timeouts.drain_s, KILL_GRACE_S) == (30.0, 5.0)


def test_a_worker_is_added_and_removed(grove: Grove) -> None:
    """The last one goes, its number is the next one's, and one always stays."""
    first, second = grove.start()
    grove.call(grove.supervisor.add_worker, [])
    third = grove.newest.get_ready()
    assert (third.slot, grove.states) == (2, ["ready"] * 3)
    assert grove.run(_called(grove.supervisor.remove_worker))
    assert third.told(Drain) == [Drain("remove", grove.options.timeouts.drain_s, patient=True)]
    assert grove.supervisor.live == [first, second]
    assert grove.run(_called(grove.supervisor.remove_worker))
    assert not grove.run(_called(grove.supervisor.remove_worker))
    assert grove.supervisor.live == [first]
    third.die(0)
    second.die(0)
    grove.advance(60)
    assert len(grove.saplings) == 3  # nobody takes their places
    grove.call(grove.supervisor.add_worker, [])
    assert grove.newest.get_ready().slot == 1


async def _called(function: Callable[[], Any]) -> Any:
    return function()


def test_a_removed_worker_s_listener_is_served(grove: Grove, listeners: list[list[socket.socket]]) -> None:
    """By another one, until the slot has a worker again."""
    first, _ = grove.start(listeners[:2])
    grove.call(grove.supervisor.remove_worker)
    assert adoptions(first) == [("adopt", 1, [listeners[1][0].fileno()])]
    grove.call(grove.supervisor.add_worker, listeners[1])
    grove.newest.get_ready()
    assert adoptions(first)[1:] == [("release", 1, [])]


def test_a_worker_that_is_removed_while_it_is_replaced_stays_away(grove: Grove) -> None:
    """Neither it nor its successor comes back."""
    first, second = grove.start()
    grove.call(grove.supervisor.rolling.reload)
    grove.newest.get_ready()
    grove.loop.settle()
    successor = grove.newest
    assert (successor.slot, successor.ready) == (1, False)
    grove.call(grove.supervisor.remove_worker)
    successor.get_ready()
    grove.advance(1)
    assert grove.states == ["ready", "draining"]
    assert second.leaving
    assert successor.leaving
    for sapling in (first, second, successor):
        sapling.die(0)
    grove.advance(60)
    assert len(grove.supervisor.children) == 1
    assert len(grove.saplings) == 4


def test_a_removed_worker_is_not_started_by_its_back_off(grove: Grove) -> None:
    """What would have started it is called off."""
    _, second = grove.start()
    second.die(1)
    grove.advance(0.1)
    grove.newest.die(1)
    grove.call(grove.supervisor.remove_worker)
    before = len(grove.saplings)
    grove.advance(60)
    assert len(grove.saplings) == before


def test_old_and_big_workers_are_replaced_one_at_a_time(make_grove: Callable[..., Grove]) -> None:
    """By lifetime, and by resident memory."""
    limits, timeouts = gevpy.Limits(max_worker_bytes=1000), gevpy.Timeouts(worker_lifetime_s=100.0)
    grove = make_grove(limits=limits, timeouts=timeouts)
    first, second = grove.start()

    def live_on(seconds: float) -> None:
        for _ in range(int(seconds)):
            for sapling in grove.saplings:
                if not sapling.gone.done():
                    sapling.beat(rss_bytes=2000 if sapling is second else 900)
            grove.advance(1)

    first.beat(rss_bytes=1000)
    second.beat(rss_bytes=1001)
    grove.advance(1)
    assert [sapling.slot for sapling in grove.saplings[2:]] == [1]
    grove.newest.get_ready()
    grove.loop.settle()
    assert second.told(Drain) == [Drain("recycle", timeouts.drain_s, patient=True)]
    second.die(0)
    live_on(98)
    assert len(grove.saplings) == 3
    live_on(4)
    assert [sapling.slot for sapling in grove.saplings[3:]] == [0]  # the other is younger
    grove.newest.get_ready()
    grove.loop.settle()
    assert first.leaving
    assert not grove.supervisor.restarts


# -- health ------------------------------------------------------------------------------------------------


def test_a_loop_that_does_not_turn_is_ended(make_grove: Callable[..., Grove]) -> None:
    """Its stacks first, then the process; one that draining blocks as well."""
    grove = make_grove(timeouts=gevpy.Timeouts(blocked_s=5.0, drain_s=300.0))
    first, second = grove.start()
    grove.call(grove.supervisor.remove_worker)
    for _ in range(40):
        first.beat()
        grove.advance(0.25)
        if second.is_killed:
            break
    assert second.signals == [signal.SIGUSR1, signal.SIGKILL]
    assert not first.signals
    assert 5.0 <= grove.loop.now - second.turned_s <= 5.0 + 3 * LOOK_S + DUMP_S + 0.25


def test_blocked_loops_may_be_let_be(make_grove: Callable[..., Grove]) -> None:
    """timeouts.blocked_s=None, start_s=None: for debuggers."""
    grove = make_grove(timeouts=gevpy.Timeouts(blocked_s=None, start_s=None))
    first, _ = grove.start(ready=False)
    first.get_ready()
    grove.advance(500, step=1.0)
    assert not any(sapling.signals for sapling in grove.saplings)


# -- between workers ---------------------------------------------------------------------------------------


def test_what_one_publishes_the_others_get(grove: Grove) -> None:
    """All that are ready, but not the one it comes from."""
    first, second = grove.start()
    grove.call(grove.supervisor.add_worker, [])
    message = Deliver("news", is_text=True)
    first.say(message, b"hello")
    assert not first.told(Deliver)
    assert not grove.newest.told(Deliver)
    assert (second.told(Deliver), second.payloads[-1]) == ([message], b"hello")


def test_one_that_does_not_read_is_told_of_once(grove: Grove, caplog: pytest.LogCaptureFixture) -> None:
    """Messages to it are dropped, the others get theirs."""
    first, second = grove.start()
    second.deaf = True
    for _ in range(50):
        grove.call(grove.supervisor.deliver, Deliver(None, is_text=False), b"x")
    assert len(first.told(Deliver)) == 50
    assert len([record for record in caplog.records if "doesn't read" in record.getMessage()]) == 1


def test_one_that_exits_is_told_nothing(grove: Grove, caplog: pytest.LogCaptureFixture) -> None:
    """It has no connections any more, so nothing is lost, and nothing is said of it."""
    first, second = grove.start()
    second.hang_up()
    grove.call(grove.supervisor.deliver, Deliver(None, is_text=False), b"x")
    assert first.told(Deliver)
    assert not [record for record in caplog.records if "doesn't read" in record.getMessage()]


def test_subscribers_are_counted_on_all_others(grove: Grove) -> None:
    """Each is asked; the sum goes to who asked, under its own ticket."""
    first, second = grove.start()
    grove.call(grove.supervisor.add_worker, [])
    third = grove.newest.get_ready()
    grove.call(first.say, Count(77, "news"))
    asked = [sapling.told(Count) for sapling in (first, second, third)]
    assert [len(one) for one in asked] == [0, 1, 1]
    assert {one.topic for several in asked for one in several} == {"news"}
    for sapling, count in ((second, 4), (third, 5)):
        grove.call(sapling.say, Counted(sapling.told(Count)[0].ticket, count))
    assert first.told(Counted) == [Counted(77, 9)]


def test_one_that_hangs_is_not_waited_for(grove: Grove) -> None:
    """After a second, the count is what the others said; one that dies isn't waited for at all."""
    first, second = grove.start()
    grove.call(grove.supervisor.add_worker, [])
    third = grove.newest.get_ready()
    grove.call(first.say, Count(1, "news"))
    grove.call(second.say, Counted(second.told(Count)[0].ticket, 4))
    assert not first.told(Counted)
    grove.advance(1.25)
    assert first.told(Counted) == [Counted(1, 4)]
    grove.call(first.say, Count(2, "news"))
    grove.call(second.say, Counted(second.told(Count)[1].ticket, 5))
    grove.call(third.die)
    assert first.told(Counted)[1:] == [Counted(2, 5)]


def test_nobody_else_has_no_subscribers(grove: Grove) -> None:
    """Zero is an answer, too."""
    first, second = grove.start()
    second.die()
    grove.call(first.say, Count(5, "news"))
    assert first.told(Counted) == [Counted(5, 0)]


def test_figures_are_asked_for_and_waited_for(grove: Grove) -> None:
    """refresh() ends when all have told, or after a second."""
    first, second = grove.start()
    refreshing = grove.loop.create_task(grove.supervisor.refresh())
    grove.loop.settle()
    first.beat(first.told(Ask)[0].ticket, opened=3)
    grove.loop.settle()
    assert not refreshing.done()
    second.beat(0, opened=1)  # a plain one is no answer
    grove.loop.settle()
    assert not refreshing.done()
    second.beat(second.told(Ask)[0].ticket, opened=4)
    grove.loop.settle()
    assert refreshing.done()
    assert grove.supervisor.total().counters["opened"] == 7
    again = grove.loop.create_task(grove.supervisor.refresh())
    grove.advance(1.25)
    assert again.done()


def test_a_connection_is_counted_where_it_was_handed(grove: Grove) -> None:
    """At once, if the worker took it; minus what it says is gone, never below zero."""
    first, second = grove.start()
    second.deaf = True
    with socket.socket() as sock:
        assert first.hand_over(sock.fileno())
        assert first.hand_over(sock.fileno())
        assert not second.hand_over(sock.fileno())
        assert [fds for message, fds in first.sent if isinstance(message, Take)] == [[sock.fileno()]] * 2
    assert [child.load.connections for child in (first, second)] == [2, 0]
    first.tell_open(2)
    assert (first.load.connections, grove.supervisor.connections) == (2, 2)
    first.tell_open(1, gone=1)
    assert (first.load.connections, grove.supervisor.connections) == (1, 1)
    first.tell_open(0, gone=1000)
    assert first.load.connections == 0


def test_what_a_dead_worker_had_not_taken_is_given_back(grove: Grove) -> None:
    """Each once, in order; what it had taken died with it. Without anybody to ask, they are closed."""
    first, second = grove.start()
    back: list[int] = []
    grove.supervisor.on_untaken = back.append
    pairs = [socket.socketpair() for _ in range(3)]
    for ours, _ in pairs:
        assert first.hand_over(ours.fileno())
        ours.close()
    first.say(Taken())
    assert pairs[0][1].recv(1) == b""  # its duplicate was closed, and there is no worker here
    first.die()
    assert len(back) == 2
    for fd, (_, peer) in zip(back, pairs[1:], strict=True):
        os.write(fd, b"x")
        assert peer.recv(1) == b"x"
        os.close(fd)
    grove.supervisor.on_untaken = os.close
    with socket.socket() as sock:
        assert second.hand_over(sock.fileno())
    second.die()
    for _, peer in pairs:
        peer.close()


def test_one_that_does_not_take_gets_no_more(grove: Grove) -> None:
    """So many on the way, and the others get theirs; until it has taken some."""
    first, _ = grove.start()
    with socket.socket() as sock:
        for _ in range(MOST_ON_THE_WAY):
            assert first.hand_over(sock.fileno())
        assert not first.hand_over(sock.fileno())
        first.say(Taken())
        assert first.hand_over(sock.fileno())
    assert first.load.connections == MOST_ON_THE_WAY + 1


# -- what a worker says that it shouldn't ----------------------------------------------------------------


@pytest.mark.parametrize("message", [Accept(), Take(), Hurry(), Ask(1), Adopt(0)], ids=lambda message: message.KIND)
def test_an_order_from_a_worker_ends_it(grove: Grove, message: Message) -> None:
    """A14: such messages go the other way."""
    first, second = grove.start()
    first.say(message)
    assert first.is_killed
    assert not second.signals


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b"[" * 50_000, b'{"worker":0,"counters":null,"tables":[]}'])
def test_a_beat_that_is_garbage_ends_the_worker(grove: Grove, payload: bytes) -> None:
    """A14: and spoils nobody's figures."""
    first, second = grove.start()
    second.beat(opened=2)
    first.beat(opened=1)
    first.say(Beat(0, grove.loop.now), payload)
    assert first.is_killed
    assert grove.supervisor.total().counters["opened"] == 3
    first.die()
    assert grove.supervisor.total().counters["opened"] == 3


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe", b"[" * 50_000, b"7", b"null", b"peer\nwith a line of its own\n"])
def test_any_list_of_the_aborted_is_one_line(grove: Grove, caplog: pytest.LogCaptureFixture, payload: bytes) -> None:
    """A14: whatever a worker says of whom it aborted, the log can't be forged with it."""
    first, _ = grove.start()
    with caplog.at_level(logging.WARNING):
        first.say(Drained(3), payload)
    (record,) = [record for record in caplog.records if "aborted 3 connections" in record.getMessage()]
    assert "\n" not in record.getMessage()


def test_what_a_worker_logs_is_logged(grove: Grove, caplog: pytest.LogCaptureFixture) -> None:
    """At the levels that are set here, with its number."""
    first, second = grove.start()
    with caplog.at_level(logging.WARNING, logger="their.app"):
        first.say(Logged("their.app", logging.WARNING, "100 % sure"))
        second.say(Logged("their.app", logging.INFO, "not asked for"))
        second.say(Logged("their.app", -5, "nor this"))
    told = [record.getMessage() for record in caplog.records if record.name == "their.app"]
    assert told == ["[worker 0] 100 % sure"]


# -- stopping ----------------------------------------------------------------------------------------------


def test_stop_drains_all_and_waits(grove: Grove) -> None:
    """Those that served are told how long they have, those that started are killed, those that drain hurry up."""
    first, second = grove.start()
    grove.call(grove.supervisor.rolling.reload)
    reloaded(grove)
    third, fourth = grove.saplings[2:]
    grove.call(grove.supervisor.add_worker, [])
    stopping = grove.loop.create_task(grove.supervisor.stop(8.0))
    grove.loop.settle()
    for sapling in (first, second, third, fourth):
        assert sapling.told(Drain)[-1] == Drain("stop", 8.0, patient=False)
        assert not sapling.is_killed
    assert grove.newest.is_killed
    for sapling in grove.saplings:
        assert not stopping.done()
        sapling.die(0)
        grove.loop.settle()
    assert stopping.done()
    assert len(grove.saplings) == 5  # nobody takes their places
    assert not grove.supervisor.children
    grove.call(grove.supervisor.rolling.reload)
    grove.advance(2)
    assert len(grove.saplings) == 5


def test_one_that_does_not_stop_is_killed(grove: Grove) -> None:
    """After the drain's time and a grace; at once when a second signal comes."""
    first, second = grove.start()
    stopping = grove.loop.create_task(grove.supervisor.stop(8.0))
    grove.advance(8.0 + KILL_GRACE_S - 0.25)
    assert not first.is_killed
    first.die(0)
    grove.call(grove.supervisor.hurry)
    assert second.told(Hurry)
    assert not second.is_killed
    grove.advance(HURRY_GRACE_S + 0.125)
    assert second.is_killed
    second.die()
    grove.run(stopping)


def test_one_that_stays_is_killed_in_the_end(grove: Grove) -> None:
    """Nobody needs to send a second signal."""
    first, second = grove.start()
    stopping = grove.loop.create_task(grove.supervisor.stop(2.0))
    second.die(0)
    for _ in range(4 * 6):
        first.beat()
        grove.advance(0.25)
    assert not first.is_killed
    grove.advance(1.25)
    assert first.is_killed
    first.die()
    grove.run(stopping)


def test_a_worker_that_comes_too_late_goes_again(grove: Grove) -> None:
    """It was being spawned when the stop began."""
    grove.start()
    grove.saplings[0].die()
    grove.loop.settle()
    late = grove.newest
    stopping = grove.loop.create_task(grove.supervisor.stop(1.0))
    grove.loop.settle()
    late.get_ready()
    assert not late.told(Accept)
    for sapling in grove.saplings:
        if not sapling.gone.done():
            sapling.die(0)
    grove.run(stopping)
    assert asyncio.all_tasks(grove.loop) == set()
