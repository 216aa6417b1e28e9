"""The figures to reach: each a row with goal, what was reached, and whether that is enough."""

from __future__ import annotations

from typing import Any

import pytest

from bench.client import Load
from bench.figures import FIGURES, judge
from bench.results import Results, sample_of

RAW = {
    "seconds": 1.0,
    "count": 1000,
    "per_s": 1000.0,
    "server_cpu_ns": 10_000_000,
    "server_user_ticks": 1,
    "server_system_ticks": 1,
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
