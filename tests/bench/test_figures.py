"""The figures to reach: each a row with goal, what was reached, and whether that is enough."""

from __future__ import annotations

from typing import Any

import pytest

from bench.client import Load
from bench.figures import FIGURES, judge
from bench.results import Results, sample_of
from bench.servers import HANDED_OVER, TWO_WORKERS
from bench.suites import BROADCAST

RAW = {
    "seconds": 1.0,
    "count": 1000,
    "per_s": 1000.0,
    "server_cpu_ns": 10_000_000,
    "server_user_ticks": 1,
    "server_system_ticks": 1,
    "server_cpu_each_ns": [10_000_000],
    "client_cpu_ns": 1,
    "client_idle_ns": 0,
    "p50_us": 1.0,
    "p99_us": 1.0,
    "p999_us": 1.0,
}
FIRST = "raw TCP echo, 64 B, depth 1: CPU by the floor's"


@pytest.fixture
def results() -> Results:
    """Give a run that measured nothing yet."""
    return Results("quick", "2026-01-01T00:00:00+00:00", {}, 1.0)


def row(results: Results, what: str) -> dict[str, Any]:
    """Give a figure's row."""
    return next(row for row in judge(results) if row["what"] == what)


def test_what_was_not_measured_is_neither_met_nor_missed(results: Results) -> None:
    """Every figure has its row all the same, under a name of its own."""
    rows = judge(results)
    assert [row["met"] for row in rows] == [None] * len(FIGURES)
    assert len({row["what"] for row in rows}) == len(FIGURES)


@pytest.mark.parametrize(("cpu_ns", "met"), [(10_000_000, True), (10_400_000, True), (10_700_000, False)])
def test_a_ratio_is_taken_between_two_servers(results: Results, cpu_ns: int, met: bool) -> None:
    """At most 1.05 times the floor's CPU."""
    load = Load("tcp", depth=1)
    results.samples.append(sample_of("floor", 1, load, RAW, 0.0))
    results.samples.append(sample_of("gevpy", 1, load, RAW | {"server_cpu_ns": cpu_ns}, 0.0))
    reached = row(results, FIRST)
    assert reached["reached"] == pytest.approx(cpu_ns / 10_000_000)
    assert reached["met"] is met
    assert reached["goal"] == "<= 1.05 x"


def test_rounds_are_paired(results: Results) -> None:
    """A machine that slows down for both servers of a round changes no ratio."""
    for number, slower in ((1, 1), (2, 5), (3, 2)):
        for server in ("floor", "gevpy"):
            raw = RAW | {"server_cpu_ns": 10_000_000 * slower}
            results.samples.append(sample_of(server, number, Load("tcp", depth=1), raw, 0.0))
    assert row(results, FIRST)["reached"] == 1.0


@pytest.mark.parametrize(("earliest_s", "met"), [(0.01, True), (0.0, True), (-0.01, False)])
def test_a_value_may_have_to_be_at_least_something(results: Results, earliest_s: float, met: bool) -> None:
    """No connection is evicted before its time."""
    results.values["wheel earliest"] = earliest_s
    earliest = row(results, "earliest eviction, after the timeout")
    assert earliest["goal"] == ">= 0 s"
    assert earliest["met"] is met


@pytest.mark.parametrize(
    ("cpu_ns", "met"), [(8_900_000, False), (9_000_000, True), (11_000_000, True), (11_100_000, False)]
)
def test_a_ratio_may_have_to_be_near_one(results: Results, cpu_ns: int, met: bool) -> None:
    """Two workers cost what one process does, within a tenth."""
    load = Load(depth=1, connections=100)
    results.samples.append(sample_of("gevpy", 1, load, RAW, 0.0))
    results.samples.append(sample_of(TWO_WORKERS, 1, load, RAW | {"server_cpu_ns": cpu_ns}, 0.0))
    near = row(results, "two workers, raw TCP, depth 1: CPU by that of one process")
    assert near["goal"] == "0.9 to 1.1 x"
    assert near["met"] is met


def test_the_busier_worker_is_judged(results: Results) -> None:
    """Its share of the workers' CPU, the supervisor's left out; the median over rounds."""
    load = Load(work="accept")
    for number, cpus in enumerate(([999, 40, 60], [1, 45, 55], [1, 90, 10]), 1):
        results.samples.append(sample_of(TWO_WORKERS, number, load, RAW | {"server_cpu_each_ns": cpus}, 0.0))
    share = row(results, "two workers, connect, echo, close: the busier one's share of their CPU")
    assert share["reached"] == pytest.approx(60)
    assert share["goal"] == "<= 60 %"
    assert share["met"] is True


@pytest.mark.parametrize(("per_s", "met"), [(4999.0, False), (5000.0, True)])
def test_a_rate_is_judged_by_itself(results: Results, per_s: float, met: bool) -> None:
    """Connects per second with hand-over placement, on any machine."""
    results.samples.append(sample_of(HANDED_OVER, 1, Load(work="accept"), RAW | {"per_s": per_s}, 0.0))
    rate = row(results, "two workers, hand-over placement: connect, echo, close")
    assert rate["goal"] == ">= 5000 per s"
    assert rate["met"] is met


@pytest.mark.parametrize(("tenfold_ns", "met"), [(3_000_000, True), (3_100_000, False)])
def test_broadcasts_of_one_turn_share_their_cost(results: Results, tenfold_ns: int, met: bool) -> None:
    """Ten in a turn cost at most 0.3 times as much each as single ones; these, 1.15 times the floor's."""
    single, tenfold = BROADCAST
    results.samples.append(sample_of("floor", 1, single, RAW | {"server_cpu_ns": 9_000_000}, 0.0))
    results.samples.append(sample_of("gevpy", 1, single, RAW, 0.0))
    results.samples.append(sample_of("gevpy", 1, tenfold, RAW | {"server_cpu_ns": tenfold_ns}, 0.0))
    what = "broadcast of 128 B to 2,000, CPU per delivered message"
    assert row(results, f"{what}: by the floor's")["reached"] == pytest.approx(10 / 9)
    several = row(results, f"{what}, 10 in a turn: by that of single ones")
    assert several["goal"] == "<= 0.3 x"
    assert several["met"] is met


@pytest.mark.parametrize(("failed", "met"), [(0, True), (1, False)])
def test_nothing_may_fail(results: Results, failed: int, met: bool) -> None:
    """One failed connect is one too many."""
    results.values["reloads: failed"] = failed
    reloads = row(results, "reloads: failed connects")
    assert reloads["goal"] == "<= 0"
    assert reloads["met"] is met
