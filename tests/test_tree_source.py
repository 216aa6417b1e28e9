"""What the metrics port shows of a tree: every process of every slot, totals that never fall, the application's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from gevpy.build import VERSION
from gevpy.metrics.merge import families_of
from gevpy.tree_source import TreeSource
from tests.metrics.test_source import COUNTS, OF_A_WORKER
from tests.tree_fakes import Grove

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from gevpy.metrics.merge import Family

Series = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def grove(monkeypatch: pytest.MonkeyPatch) -> Iterator[Grove]:
    """A supervisor without processes."""
    found = Grove(monkeypatch)
    yield found
    found.close()


@pytest.fixture
def source(grove: Grove) -> TreeSource:
    """What shows it."""
    return TreeSource(grove.supervisor, ["127.0.0.1:1833"], lambda: bool(grove.supervisor.live))


def own(jobs: float, depth: float) -> list[Family]:
    """Give what a worker's application has counted."""

    class Own:
        def collect(self) -> list[Metric]:
            return [
                CounterMetricFamily("app_jobs", "Jobs.", value=jobs),
                GaugeMetricFamily("app_depth", "Depth.", value=depth),
            ]

    registry = CollectorRegistry()
    registry.register(Own())
    return families_of(registry)


def scraped(source: TreeSource) -> Series:
    """Give the series of a page, by name and label values; none comes twice."""
    found: Series = {}
    for family in text_string_to_metric_families(generate_latest(source).decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sample.labels.values()))
            assert key not in found, f"{key} comes twice"
            found[key] = sample.value
    return found


def rows(source: TreeSource) -> list[tuple[int, str, int]]:
    """Give slot, state and connections of each process that the document shows."""
    return [(row["id"], row["state"], row["connections"]) for row in source.stats()["workers"]]


def test_the_document_has_the_keys_of_a_single_server_s(grove: Grove, source: TreeSource) -> None:
    """Whoever reads it needn't know how many processes there are."""
    grove.start()
    found = source.stats()
    assert set(found) == {"version", "started_at", "now", "state", "addresses", "restarts", "total", "workers"}
    assert set(found["total"]) == COUNTS
    assert [set(row) for row in found["workers"]] == [COUNTS | OF_A_WORKER] * 2
    assert (found["version"], found["addresses"], found["restarts"]) == (VERSION, ["127.0.0.1:1833"], 0)
    assert [row["pid"] for row in found["workers"]] == [sapling.pid for sapling in grove.saplings]


def test_the_state_follows_the_tree(grove: Grove, source: TreeSource) -> None:
    """Starting, ready, draining."""
    grove.start(ready=False)
    assert source.stats()["state"] == "starting"
    for sapling in grove.saplings:
        sapling.get_ready()
    grove.run_start()
    assert source.stats()["state"] == "ready"
    stopping = grove.loop.create_task(grove.supervisor.stop(1.0))
    grove.loop.settle()
    assert source.stats()["state"] == "draining"
    assert {state for _, state, _ in rows(source)} == {"draining"}
    for sapling in grove.saplings:
        sapling.die(0)
    grove.run(stopping)


def test_the_total_is_the_sum_and_never_falls(grove: Grove, source: TreeSource) -> None:
    """Connections are those of the living, counters those of all that ever were."""
    first, second = grove.start()
    first.beat(opened=5, connections=3, rss_bytes=100)
    second.beat(opened=2, connections=1, rss_bytes=50)
    before = source.stats()["total"]
    assert (before["opened"], before["connections"]) == (7, 4)
    first.die()
    after = source.stats()
    assert (after["total"]["opened"], after["total"]["connections"], after["restarts"]) == (7, 1, 1)
    grove.advance(1)
    grove.newest.get_ready().beat(opened=1, connections=1)
    assert source.stats()["total"]["opened"] == 8
    assert source.stats()["workers"][0]["restarts"] == 1


def test_a_slot_without_a_process_is_shown(grove: Grove, source: TreeSource) -> None:
    """With the slot's state, and zeros."""
    _, second = grove.start()
    second.die(1)
    assert rows(source) == [(0, "ready", 0), (1, "starting", 0)]
    grove.advance(0.25)
    grove.newest.die(1)
    assert rows(source) == [(0, "ready", 0), (1, "backing off", 0)]
    row = source.stats()["workers"][1]
    assert (row["pid"], row["uptime_s"], row["restarts"]) == (0, 0.0, 2)


def test_both_processes_of_a_slot_are_shown(grove: Grove, source: TreeSource) -> None:
    """The one that serves first, then its successor, or those that drain."""
    first, _ = grove.start()
    first.beat(connections=3)
    grove.call(grove.supervisor.rolling.reload)
    assert rows(source) == [(0, "ready", 3), (0, "starting", 0), (1, "ready", 0)]
    grove.newest.get_ready().beat(connections=1)
    grove.loop.settle()
    assert rows(source)[:2] == [(0, "ready", 1), (0, "draining", 3)]
    assert source.stats()["total"]["connections"] == 4
    found = scraped(source)
    assert found[("gevpy_connections", ("0",))] == 4
    assert found[("gevpy_workers", ("ready",))] == 2


def test_uptime_is_the_process_s(grove: Grove, source: TreeSource) -> None:
    """By the supervisor's clock, from when it was spawned."""
    first, second = grove.start()
    grove.advance(20, step=1.0)
    for sapling in (first, second):
        sapling.beat()
    grove.call(first.die)
    grove.advance(5, step=1.0)
    grove.newest.get_ready()
    assert [round(row["uptime_s"]) for row in source.stats()["workers"]] == [5, 25]


def test_every_state_is_a_series(grove: Grove, source: TreeSource) -> None:
    """Failed slots can be alerted on before one has failed."""
    grove.start()
    found = scraped(source)
    states = {labels[0]: value for (name, labels), value in found.items() if name == "gevpy_workers"}
    assert states == {"starting": 0, "ready": 2, "backing off": 0, "failed": 0, "draining": 0}


def test_the_application_s_own_hold_through_a_reload(grove: Grove, source: TreeSource) -> None:
    """While a slot has two processes, both count; the gauge is that of the one that serves."""
    first, second = grove.start()
    first.beat(families=own(jobs=5, depth=50))
    second.beat(families=own(jobs=3, depth=30))

    def jobs_and_depths() -> tuple[float, dict[tuple[str, ...], float]]:
        found = scraped(source)
        depths = {labels: value for (name, labels), value in found.items() if name == "app_depth"}
        return found[("app_jobs_total", ())], depths

    assert jobs_and_depths() == (8, {("0",): 50, ("1",): 30})
    grove.call(grove.supervisor.rolling.reload)
    assert jobs_and_depths() == (8, {("0",): 50, ("1",): 30})
    grove.newest.get_ready().beat(families=own(jobs=1, depth=10))
    assert jobs_and_depths() == (9, {("0",): 10, ("1",): 30})
    first.beat(families=own(jobs=6, depth=60))
    assert jobs_and_depths() == (10, {("0",): 10, ("1",): 30})
    first.die(0)
    assert jobs_and_depths() == (10, {("0",): 10, ("1",): 30})


def test_the_application_s_own_outlive_a_worker(grove: Grove, source: TreeSource) -> None:
    """Counters do; gauges go with who had them."""
    first, second = grove.start()
    first.beat(families=own(jobs=5, depth=50))
    first.beat()  # a plain beat doesn't say, which is not to say that there are none
    second.beat(families=own(jobs=3, depth=30))
    first.die()
    found = scraped(source)
    assert found[("app_jobs_total", ())] == 8
    assert ("app_depth", ("0",)) not in found
    assert found[("app_depth", ("1",))] == 30


def test_a_refresh_asks_the_workers(grove: Grove, source: TreeSource) -> None:
    """What is shown afterwards is what they have just said."""
    first, second = grove.start()
    refreshing = grove.loop.create_task(source.refresh())
    grove.loop.settle()
    for sapling in (first, second):
        ((message, _),) = [pair for pair in sapling.sent if pair[0].KIND == "ask"]
        ticket: Any = getattr(message, "ticket")  # noqa: B009 - of an Ask
        sapling.beat(ticket, received_messages=4)
    grove.run(refreshing)
    assert source.stats()["total"]["received_messages"] == 8


def test_before_the_start_there_is_nothing_to_show(grove: Grove, source: TreeSource) -> None:
    """The port answers all the same."""
    assert source.stats()["workers"] == []
    assert set(source.stats()["total"].values()) == {0}
    assert scraped(source)[("gevpy_connections_opened_total", ())] == 0
    grove.run(source.refresh())
