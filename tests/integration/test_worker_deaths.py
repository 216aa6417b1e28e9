"""Rows A1, A13, F5 and F7: workers that are killed lose what they had accepted, and nothing else."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import SOAK, wait_until
from tests.integration.tree_harness import Tree
from tests.integration.tree_storm import CONNECTS, Storm, rage

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT_GRACE_S = 0.1 if SOAK else 5.0  # a machine with other work to do may have none for us
MAX_ANSWER_S = 5.0 if SOAK else 8.0  # 5 s is the metrics port's own deadline


@pytest.fixture(scope="module")
def storm(loop: str, tmp_path_factory: pytest.TempPathFactory) -> Storm:
    """Kill workers once for all tests."""
    with Tree(loop, tmp_path_factory.mktemp("storm") / "log", {"workers": 2}, faults_expected=True) as server:
        return rage(server)


def test_a_kill_loses_only_what_was_accepted(storm: Storm) -> None:
    """A1: every connect that fails was one that a killed worker held; who waits in its queue is served."""
    failures = storm.clients["failures"]
    assert storm.clients["failed"] == len(failures)
    never_accepted = Counter(one["port"] for one in failures) - Counter(storm.accepted)
    assert not never_accepted, (failures, storm.accepted)
    assert storm.clients["served"] + len(failures) >= CONNECTS


def test_nobody_waits_longer_than_a_restart_takes(storm: Storm) -> None:
    """A1: the slowest client is served no later than a successor is ready, and 100 ms."""
    assert storm.clients["slowest_s"] <= max(storm.repairs) + CONNECT_GRACE_S


def test_each_death_is_told(storm: Storm) -> None:
    """A1: the log names the signal, and the metrics count every worker that was replaced."""
    assert storm.scraper is not None
    assert storm.log.count("was ended by SIGKILL: replacing it") == storm.kills + 1
    assert storm.scraper.scrapes[-1]['gevpy_worker_restarts_total{reason="signal"}'] == storm.kills + 1


def test_nothing_of_the_dead_stays(storm: Storm) -> None:
    """A13: no descriptor and no zombie is left with the supervisor."""
    assert storm.zombies == []  # that no descriptor is, `rage` has seen to


def test_the_metrics_port_answers_through_deaths(storm: Storm) -> None:
    """F5: every scrape is answered, whoever dies meanwhile, although slow clients hold half of the places."""
    assert storm.scraper is not None
    assert set(storm.scraper.statuses) == {200}
    assert storm.scraper.statuses[200] > storm.kills
    assert storm.scraper.slowest_s < MAX_ANSWER_S


def test_slow_clients_of_the_metrics_port_are_sent_away(storm: Storm) -> None:
    """F5: who never ends a request is told so."""
    assert [answer.split()[1] for answer in storm.slow] == [b"408"] * len(storm.slow)


def test_no_counter_ever_falls(storm: Storm) -> None:
    """F7: from each scrape to the next, what the dead had counted included."""
    assert storm.scraper is not None
    last: dict[str, float] = {}
    fallen = []
    for scrape in storm.scraper.scrapes:
        counters = {series: number for series, number in scrape.items() if _is_counter(series)}
        fallen += [
            (series, last[series], number) for series, number in counters.items() if number < last.get(series, 0)
        ]
        assert counters.keys() >= last.keys()
        last = counters
    assert fallen == []
    assert last["gevpy_connections_opened_total"] > 0


def _is_counter(series: str) -> bool:
    return series.partition("{")[0].endswith(("_total", "_count", "_sum", "_bucket"))


def test_a_dead_worker_leaves_its_counts(tree: Callable[..., Tree]) -> None:
    """F7: what a worker that died has counted stays in the totals, to the last message."""
    with tree() as server:
        for _ in range(40):
            server.who()
        wait_until(lambda: server.metric("gevpy_received_messages_total") >= 40, "all are counted")
        os.kill(server.pid_of(0), signal.SIGKILL)
        wait_until(lambda: server.metric("gevpy_worker_restarts_total") == 1, "it is replaced")
        assert server.metric("gevpy_received_messages_total") == 40
        wait_until(lambda: server.pid_of(0), "it is back", 20.0)
