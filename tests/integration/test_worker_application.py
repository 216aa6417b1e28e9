"""What an application sees of a server with workers: the supervisor's `Server` in this process, real workers behind it.

The workers run on the loop under test, like the supervisor.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest
from prometheus_client.parser import text_string_to_metric_families

import gevpy
from tests.conftest import loop_factories
from tests.integration.harness import wait_until
from tests.integration.tree_harness import Tree, is_running
from tests.integration.tree_procs import children_of
from tests.integration.worker_app import Courteous, Reporter, Rude
from tests.metrics.scraping import connect_to, fetch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gevpy.placement import WorkerLoad

    Serve = Callable[..., AbstractAsyncContextManager[gevpy.Server]]

# What these tests are about is not compiled, and little of it touches the loop: the pure build's turn needs one only.
LOOPS = sorted(loop_factories()) if gevpy.build_info().compiled else ["asyncio"]
on_each_loop = pytest.mark.asyncio(loop_factories=LOOPS)
on_one_loop = pytest.mark.asyncio(loop_factories=LOOPS[-1:])
PATIENCE_S = 20.0  # for what takes a second on an idle machine: a worker to start, say
UNASKED = ("moving", "goodbye")
MIB = 1 << 20


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait for something that comes from another process."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE_S} s in vain: {what}"
        await asyncio.sleep(0.01)


class Peer:
    """A client that speaks in lines."""

    def __init__(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], about: dict[str, Any]) -> None:
        self._reader, self._writer = streams
        self.about = about

    @classmethod
    async def of(cls, server: gevpy.Server) -> Self:
        """Connect, and ask who is there."""
        peer = cls(await connect_to(server), {})
        peer.about = json.loads(await peer.ask("who"))
        return peer

    @classmethod
    async def with_each(cls, server: gevpy.Server, slots: int = 2) -> list[Self]:
        """Give a peer of each worker, in their order."""
        found: dict[int, Self] = {}
        end = time.monotonic() + PATIENCE_S
        while len(found) < slots:
            assert time.monotonic() < end, f"only workers {sorted(found)} take connections"
            peer = await cls.of(server)
            if found.setdefault(peer.about["slot"], peer) is not peer:
                await peer.hang_up()
        return [found[slot] for slot in sorted(found)]

    async def ask(self, line: str) -> str:
        """Say a line and give the answer; what the server says of its going is passed over."""
        self._writer.write(line.encode() + b"\n")
        while (answer := await self.hear()).startswith(UNASKED):
            pass
        return answer

    async def hear(self) -> str:
        """Give the next line, or ``""`` for the end."""
        async with asyncio.timeout(PATIENCE_S):
            return (await self._reader.readline()).decode().rstrip("\n")

    async def hang_up(self) -> None:
        """Close."""
        self._writer.close()
        await self._writer.wait_closed()


def states(server: gevpy.Server) -> dict[int, tuple[str, int]]:
    """Give state and pid of each slot's worker, of the newest one where there are two."""
    found: dict[int, tuple[str, int]] = {}
    for one in server.stats()["workers"]:
        found.setdefault(one["id"], (one["state"], one["pid"]))
    return found


def pids(server: gevpy.Server) -> set[int]:
    """Give all processes, the draining ones included."""
    return {one["pid"] for one in server.stats()["workers"] if one["pid"]}


async def series(server: gevpy.Server) -> dict[tuple[str, str], float]:
    """Scrape ``/metrics``, and give the application's own: by sample name and the values of the labels."""
    assert server.metrics_address is not None
    answer = await fetch(server.metrics_address, "/metrics")
    assert answer.status == 200
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            key = (sample.name, ",".join(sample.labels.values()))
            assert key not in found, f"{key} comes twice"
            found[key] = sample.value
    return found


async def told(server: gevpy.Server, key: tuple[str, str], value: float) -> dict[tuple[str, str], float]:
    """Scrape until a series has a value: a worker that has no CPU for a second is left out of one answer."""
    end = time.monotonic() + PATIENCE_S
    while (found := await series(server)).get(key) != value:
        assert time.monotonic() < end, (key, found)
    return found


@pytest.fixture
def serve(loop_kind: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Serve:
    """Make a server with two workers that listens to signals; leaving it checks that no process is left."""
    monkeypatch.setenv("GEVPY_LOOP", loop_kind)
    before = set(children_of(os.getpid()))

    @asynccontextmanager
    async def make(handler: gevpy.Handler | None = None, **options: Any) -> AsyncIterator[gevpy.Server]:
        options = {"workers": 2, "protocol": Courteous(), "timeouts": gevpy.Timeouts(drain_s=5.0), **options}
        async with gevpy.serve(handler or Reporter(), port=0, **options) as server:
            serving = asyncio.ensure_future(server.serve_forever())  # it listens to signals
            left = pids(server)
            yield server
            left |= pids(server)
        await serving
        assert not [pid for pid in left if is_running(pid)]
        assert not [pid for pid in {*children_of(os.getpid())} - before if not is_running(pid)], "a zombie is left"

    return make


# -- what the supervisor sends, counts and runs --------------------------------------------------------


@on_each_loop
async def test_the_server_reaches_every_connection_of_every_worker(serve: Serve) -> None:
    """broadcast() and publish() cross processes; so do the figures, which are totals."""
    async with serve() as server:
        peers = [*await Peer.with_each(server), *await Peer.with_each(server)]
        for peer in peers[:2]:
            assert await peer.ask("sub news") == "ok"
        server.broadcast(b"to all")
        assert [await peer.hear() for peer in peers] == ["to all"] * 4
        server.publish("news", "to subscribers")
        server.broadcast(bytearray(b"to all again"))
        assert [await peer.hear() for peer in peers[:2]] == ["to subscribers"] * 2
        assert [await peer.hear() for peer in peers] == ["to all again"] * 4
        with pytest.raises(TypeError):
            server.broadcast({"no": "bytes"})

        await eventually(lambda: server.connections == 4, "all connections are counted")
        found = server.stats()
        assert found["total"]["connections"] == 4
        assert sorted(one["connections"] for one in found["workers"]) == [2, 2]
        assert [one["id"] for one in found["workers"]] == [0, 1]
        assert pids(server) == {peer.about["pid"] for peer in peers}
        assert os.getpid() not in pids(server)
        await eventually(lambda: server.stats()["total"]["sent_messages"] >= 4 + 2 + 4 + 2 + 4, "beats tell of it")
        for peer in peers:
            await peer.hang_up()
        await eventually(lambda: server.connections == 0, "all are gone")


@on_one_loop
async def test_timers_run_where_they_were_made(serve: Serve) -> None:
    """server.run_every once, here; worker.run_every and on_start in each worker; on_stop in each at the end."""
    beats: list[int] = []
    async with serve() as server:
        timer = server.run_every(0.01, lambda: beats.append(os.getpid()))
        peers = await Peer.with_each(server)
        for peer in peers:
            before = json.loads(await peer.ask("who"))["ticks"]
            while json.loads(await peer.ask("who"))["ticks"] <= before:  # noqa: ASYNC110 - each asks the worker
                await asyncio.sleep(0.01)
            assert peer.about["starts"] == 1
        await eventually(lambda: len(beats) > 2, "the server's timer runs")
        assert set(beats) == {os.getpid()}
        assert timer.stop()
        once = asyncio.Event()
        server.run_after(0.0, once.set)
        async with asyncio.timeout(PATIENCE_S):
            await once.wait()
        for peer in peers:
            await peer.hang_up()


@on_one_loop
async def test_the_workers_log_is_the_supervisor_s(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """What a worker logs is told here, with its number: an application sets up logging once."""
    async with serve():
        pass
    told = [record.getMessage() for record in caplog.records if record.name == "worker_app"]
    assert sorted(told) == ["[worker 0] worker 0 stops", "[worker 1] worker 1 stops"]


# -- metrics of the application ------------------------------------------------------------------------


@on_each_loop
async def test_the_application_s_metrics_are_merged(serve: Serve) -> None:
    """Counters and histograms of all workers add up, gauges carry the worker; none falls when a worker dies."""
    async with serve(metrics="127.0.0.1:0") as server:
        first, second = await Peer.with_each(server)
        for peer, jobs in ((first, 2), (second, 3)):
            for _ in range(jobs):
                assert await peer.ask("job quick") == "ok"
        assert await second.ask("job slow") == "ok"
        assert await first.ask("depth 7") == "ok"
        assert await second.ask("depth 8.5") == "ok"
        found = await told(server, ("app_jobs_total", "quick"), 5)
        assert found[("app_jobs_total", "slow")] == 1
        assert found[("app_sizes_bucket", "1.0")] == 0
        assert found[("app_sizes_bucket", "10.0")] == 6
        assert found[("app_sizes_count", "")] == 6
        assert found[("app_sizes_sum", "")] == 30
        assert found[("app_depth", "0")] == 7
        assert found[("app_depth", "1")] == 8.5
        assert found[("gevpy_connections", "0")] + found[("gevpy_connections", "1")] == 2

        os.kill(second.about["pid"], signal.SIGKILL)
        await eventually(lambda: server.stats()["restarts"] == 1, "its death is noticed")
        await eventually(lambda: states(server)[1][0] == "ready", "it is replaced")
        found = await told(server, ("app_depth", "1"), 0)
        assert (found[("app_jobs_total", "quick")], found[("app_jobs_total", "slow")]) == (5, 1)
        assert (found[("app_sizes_count", "")], found[("app_sizes_sum", "")]) == (6, 30)
        assert (found[("app_depth", "0")], found[("app_depth", "1")]) == (7, 0)
        await first.hang_up()
        await second.hang_up()


@on_one_loop
async def test_counters_hold_through_a_reload(serve: Serve) -> None:
    """While two processes share a slot, one starting or one draining, both count."""
    async with serve(metrics="127.0.0.1:0") as server:
        old = await Peer.with_each(server)
        for peer in old:
            assert await peer.ask("job quick") == "ok"
        before = pids(server)
        shown = [(await told(server, ("app_jobs_total", "quick"), 2))[("app_jobs_total", "quick")]]
        os.kill(os.getpid(), signal.SIGHUP)
        while not all(state == "ready" and pid not in before for state, pid in states(server).values()):
            shown.append((await series(server)).get(("app_jobs_total", "quick"), 0))
        new = await Peer.with_each(server)
        for peer in (*old, *new):
            assert await peer.ask("job quick") == "ok"
        shown.append((await told(server, ("app_jobs_total", "quick"), 6))[("app_jobs_total", "quick")])
        assert (shown[0], shown[-1]) == (2, 6)
        assert shown == sorted(shown)
        for peer in (*old, *new):
            await peer.hang_up()
        await eventually(lambda: not pids(server) & before, "the old ones go")
        assert (await series(server))[("app_jobs_total", "quick")] == 6


# -- where workers run, and for how long ---------------------------------------------------------------


@on_one_loop
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core")
async def test_each_worker_has_a_core(serve: Serve) -> None:
    """affinity=True: in turn, over the cores that the server may use; this process keeps its own."""
    ours = sorted(os.sched_getaffinity(0))
    async with serve(affinity=True) as server:
        peers = await Peer.with_each(server)
        assert [peer.about["cpus"] for peer in peers] == [[ours[slot % len(ours)]] for slot in (0, 1)]
        assert sorted(os.sched_getaffinity(0)) == ours
        for peer in peers:
            await peer.hang_up()
    async with serve(affinity=False) as server:
        peer = await Peer.of(server)
        assert peer.about["cpus"] == ours
        await peer.hang_up()


@on_one_loop
async def test_an_old_worker_is_replaced(serve: Serve) -> None:
    """timeouts.worker_lifetime_s: the successor is ready first, connections live on, no connect fails, none died."""
    timeouts = gevpy.Timeouts(worker_lifetime_s=3.0, drain_s=8.0)
    async with serve(timeouts=timeouts) as server:
        (old, other) = await Peer.with_each(server)
        pid = old.about["pid"]
        while states(server)[0][1] == pid or states(server)[0][0] != "ready":
            visitor = await Peer.of(server)  # raises if it is refused
            await visitor.hang_up()
            await asyncio.sleep(0.02)  # the successor starts on the same cores
        assert await old.hear() == "moving"
        assert await old.hear() == "goodbye: recycle"
        assert json.loads(await old.ask("who"))["pid"] == pid
        assert server.stats()["restarts"] == 0
        await old.hang_up()
        await other.hang_up()
        await eventually(lambda: not is_running(pid), "it goes")


@on_one_loop
async def test_a_worker_that_has_grown_is_replaced(serve: Serve) -> None:
    """limits.max_worker_bytes: the one that is too big is, and no other."""
    async with serve(limits=gevpy.Limits(max_worker_bytes=256 * MIB)) as server:
        first, second = await Peer.with_each(server)
        assert await second.ask(f"grow {300 * MIB}") == "ok"
        await eventually(lambda: states(server)[1][1] not in (0, second.about["pid"]), "it is replaced")
        assert await second.hear() == "moving"
        assert states(server)[0] == ("ready", first.about["pid"])
        assert server.stats()["restarts"] == 0
        await first.hang_up()
        await second.hang_up()


def test_stacks_are_written_when_asked_for(loop: str, tmp_path: Path) -> None:
    """SIGUSR1: each worker tells on stderr what it is doing, one after the other, and goes on doing it."""
    with Tree(loop, tmp_path / "log", {"workers": 2}) as server:
        server.signal(signal.SIGUSR1)
        wait_until(lambda: server.log().count("in run_worker") == 2, "both have told")
        assert server.log().count("Current thread") == 2
        assert {server.who()["slot"] for _ in range(40)} == {0, 1}
        assert server.stats()["restarts"] == 0


# -- going ------------------------------------------------------------------------------------------------


@on_each_loop
async def test_each_connection_is_told_when_the_server_stops(serve: Serve) -> None:
    """on_drain, then the protocol's goodbye, then the end: on every worker."""
    async with serve() as server:
        peers = await Peer.with_each(server)
        await server.stop()
        for peer in peers:
            assert [await peer.hear(), await peer.hear(), await peer.hear()] == ["moving", "goodbye: stop", ""]
            await peer.hang_up()
        assert server.connections == 0
        assert server.addresses == []


@on_each_loop
async def test_each_connection_is_told_of_a_reload(serve: Serve) -> None:
    """on_drain and the goodbye come once, and the connection lives on; the new workers' connections hear nothing."""
    async with serve() as server:
        old = await Peer.with_each(server)
        before = pids(server)
        os.kill(os.getpid(), signal.SIGHUP)
        for peer in old:
            assert [await peer.hear(), await peer.hear()] == ["moving", "goodbye: reload"]
        await eventually(lambda: all(pid not in before for _, pid in states(server).values()), "all are new")
        new = await Peer.with_each(server)
        for peer in (*old, *new):
            assert await peer.ask("job quick") == "ok"
            await peer.hang_up()
        await eventually(lambda: not pids(server) & before, "the old ones go")


@on_one_loop
async def test_a_hook_that_fails_ends_no_drain(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in on_drain is told of; the server stops all the same."""
    async with serve(Rude()) as server:
        peer = await Peer.of(server)
        left = pids(server)
        await server.stop()
        assert not any(map(is_running, left))
        await peer.hang_up()
    assert "no manners" in caplog.text


# -- placement of the application's own ---------------------------------------------------------------


@on_each_loop
async def test_a_function_places(serve: Serve) -> None:
    """It sees each worker's number, pid and connections, and the peer; it needn't travel."""
    seen: list[tuple[list[tuple[int, int, int]], str]] = []

    def place(workers: Sequence[WorkerLoad], peer: str) -> WorkerLoad:
        seen.append(([(one.id, one.pid, one.connections) for one in workers], peer))
        return workers[-1]

    async with serve(placement=place) as server:
        peers = [await Peer.of(server) for _ in range(5)]
        assert [peer.about["slot"] for peer in peers] == [1] * 5
        assert [[one[:2] for one in workers] for workers, _ in seen] == [
            [(slot, pid) for slot, (_, pid) in sorted(states(server).items())]
        ] * 5
        assert [[one[2] for one in workers] for workers, _ in seen] == [[0, count] for count in range(5)]
        assert [peer for _, peer in seen] == [
            "{}:{}".format(*peer._writer.get_extra_info("sockname")[:2]) for peer in peers
        ]
        for peer in peers:
            await peer.hang_up()
        end = time.monotonic() + PATIENCE_S
        while seen[-1][0][-1][2] != 0:  # those who hung up are counted out when their worker tells of it
            assert time.monotonic() < end, seen[-1]
            visitor = await Peer.of(server)
            await visitor.hang_up()
            await asyncio.sleep(0.1)


@on_one_loop
@pytest.mark.parametrize("what", ["raises", "gives none of them"])
async def test_a_function_that_fails_costs_nobody(serve: Serve, caplog: pytest.LogCaptureFixture, what: str) -> None:
    """The least busy worker takes those it doesn't place; the log tells of it once, not for each."""

    def place(workers: Sequence[WorkerLoad], peer: str) -> Any:
        return workers[7] if what == "raises" else None

    async with serve(placement=place) as server:
        peers = [await Peer.of(server) for _ in range(20)]
        assert sorted(peer.about["slot"] for peer in peers) == [0] * 10 + [1] * 10
        for peer in peers:
            await peer.hang_up()
    told = [record.getMessage() for record in caplog.records if "the least busy worker takes it" in record.getMessage()]
    assert 1 <= len(told) <= 3  # once in five seconds


# -- what can't travel ----------------------------------------------------------------------------------


class Held(Reporter):
    """Holds what it is given."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held


class HeldLines(Courteous):
    """The same, as a protocol."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held


@pytest.mark.parametrize(
    "held", [lambda: None, threading.Lock(), iter(lambda: 0, 0)], ids=["lambda", "lock", "generator"]
)
def test_what_can_t_travel_is_named_at_once(held: Any) -> None:
    """A ConfigError from serve() itself, before anything is bound or spawned, that names the attribute."""
    with pytest.raises(gevpy.ConfigError, match=r"^handler\.held can't be sent to a worker process .*on_start"):
        gevpy.serve(Held(held), workers=2)
    with pytest.raises(gevpy.ConfigError, match=r"^protocol\.held can't be sent to a worker process"):
        gevpy.serve(Reporter(), protocol=HeldLines(held), workers=2)
    gevpy.serve(Held(held), protocol=HeldLines(held), workers=1)  # nothing has to


@on_one_loop
async def test_a_second_server_in_one_process(serve: Serve) -> None:
    """Two trees side by side know nothing of each other."""
    async with serve() as one:
        async with gevpy.serve(Reporter(), port=0, workers=2, protocol=Courteous()) as other:
            peers = [await Peer.of(one), await Peer.of(other)]
            one.broadcast("first")
            other.broadcast("second")
            assert [await peer.hear() for peer in peers] == ["first", "second"]
            assert not pids(one) & pids(other)
            for peer in peers:
                await peer.hang_up()
        again = await Peer.of(one)
        await again.hang_up()
