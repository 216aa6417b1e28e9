"""Many registries as one: what adds up is what one registry would have counted; what doesn't carries the worker."""

from __future__ import annotations

import copy
import json
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from gevpy.metrics.merge import families_of, merge, retired

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gevpy.metrics.merge import Family

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Application:
    """What an application has made with prometheus_client, in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.logins = Counter("logins", "Logins.", ["how"], registry=self.registry)
        self.sizes = Histogram("sizes", "Sizes.", buckets=(1, 10, 100), registry=self.registry)
        self.waits = Summary("waits", "Waits.", ["room"], registry=self.registry)
        self.players = Gauge("players", "Players.", ["room"], registry=self.registry)

    def count(self, what: str, label: str, amount: int) -> None:
        """Move one of them."""
        match what:
            case "logins":
                self.logins.labels(label).inc(amount)
            case "sizes":
                self.sizes.observe(amount)
            case "waits":
                self.waits.labels(label).observe(amount)
            case _:
                self.players.labels(label).set(amount)

    def written(self) -> list[Family]:
        """Write it down, and let it cross processes."""
        return crossed(families_of(self.registry))


def crossed(families: list[Family]) -> list[Family]:
    """Give what arrives at the supervisor."""
    found: list[Family] = json.loads(json.dumps(families))
    return found


def of(*collected: Metric) -> list[Family]:
    """Write down what a collector of the application's own gives."""

    class Own:
        def collect(self) -> Iterable[Metric]:
            return collected

    registry = CollectorRegistry()
    registry.register(Own())
    return crossed(families_of(registry))


class _Merged:
    """What was merged, as a registry."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        return self._metrics


def shown(workers: Mapping[str, list[Family]]) -> Series:
    """Give every series that a scraper would read; there is none twice."""
    text = generate_latest(_Merged(merge(workers))).decode()
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} comes twice:\n{text}"
            found[key] = sample.value
    return found


def without_created(series: Series) -> Series:
    """Leave out the times at which counters began."""
    return {key: value for key, value in series.items() if not key[0].endswith("_created")}


events = st.lists(
    st.tuples(
        st.sampled_from(["logins", "sizes", "waits"]),
        st.sampled_from(["a", "b", 'c"\\\n']),
        st.integers(0, 200),
        st.integers(0, 2),
    ),
    max_size=25,
)


@given(events)
def test_what_adds_up_is_what_one_registry_would_have_counted(done: list[tuple[str, str, int, int]]) -> None:
    """Counters, histograms and summaries, label by label and bucket by bucket."""
    whole, workers = Application(), [Application() for _ in range(3)]
    for what, label, amount, worker in done:
        whole.count(what, label, amount)
        workers[worker].count(what, label, amount)
    merged = shown({str(number): worker.written() for number, worker in enumerate(workers)})
    assert without_created(merged) == without_created(shown({"0": whole.written()}))


@given(events, st.permutations(range(3)))
def test_the_order_of_workers_is_nothing(done: list[tuple[str, str, int, int]], order: list[int]) -> None:
    """Whichever is named first, each series has the same value."""
    workers = [Application() for _ in range(3)]
    for what, label, amount, worker in done:
        workers[worker].count(what, label, amount)
    written = {str(number): worker.written() for number, worker in enumerate(workers)}
    assert shown(written) == shown({str(number): written[str(number)] for number in order})


@given(st.lists(st.tuples(st.booleans(), events), max_size=6))
def test_nothing_falls_when_a_worker_goes(lives: list[tuple[bool, list[tuple[str, str, int, int]]]]) -> None:
    """Whoever counts or dies, no series that adds up is ever less than it was, nor gone."""
    past: list[Family] = []
    workers = [Application() for _ in range(3)]

    def all_shown() -> Series:
        written = {str(number): worker.written() for number, worker in enumerate(workers)}
        return without_created(shown({"past": past, **written}))

    before = all_shown()
    for dies, done in lives:
        for what, label, amount, worker in done:
            workers[worker].count(what, label, amount)
        if dies:
            past = crossed(retired(past, workers[0].written()))
            workers[0] = Application()
        now = all_shown()
        assert all(now.get(key, -1) >= value for key, value in before.items())
        before = now


def test_gauges_carry_the_worker() -> None:
    """They can't be added: who has which value is what there is to tell."""
    workers = [Application(), Application()]
    for number, worker in enumerate(workers):
        worker.players.labels("lobby").set(10 + number)
    series = shown({str(number): worker.written() for number, worker in enumerate(workers)})
    assert series[("players", (("room", "lobby"), ("worker", "0")))] == 10
    assert series[("players", (("room", "lobby"), ("worker", "1")))] == 11


def test_gauges_of_who_is_gone_are_gone() -> None:
    """Only what adds up stays of a worker."""
    gone = Application()
    gone.players.labels("lobby").set(10)
    gone.logins.labels("password").inc(3)
    series = shown({"past": retired([], gone.written()), "0": Application().written()})
    assert series[("logins_total", (("how", "password"),))] == 3
    assert not [name for name, _ in series if name == "players"]


def test_info_and_enums_carry_the_worker() -> None:
    """Whatever can't be added does, whatever it is called."""
    workers = {}
    for number, state in enumerate(("warm", "cold")):
        registry = CollectorRegistry()
        Info("build", "What runs.", registry=registry).info({"version": str(number)})
        Enum("oven", "State.", states=["warm", "cold"], registry=registry).state(state)
        workers[str(number)] = crossed(families_of(registry))
    series = shown(workers)
    assert series[("build_info", (("version", "0"), ("worker", "0")))] == 1
    assert series[("build_info", (("version", "1"), ("worker", "1")))] == 1
    assert series[("oven", (("oven", "warm"), ("worker", "0")))] == 1
    assert series[("oven", (("oven", "warm"), ("worker", "1")))] == 0


def test_the_earliest_beginning_is_the_whole_s() -> None:
    """A counter of many processes began when the first of them did."""
    began = [CounterMetricFamily("jobs", "Jobs.", value=2, created=when) for when in (300.0, 100.0, 200.0)]
    series = shown({"past": retired([], of(began[0])), "0": of(began[1]), "1": of(began[2])})
    assert series[("jobs_total", ())] == 6
    assert series[("jobs_created", ())] == 100.0


def test_two_that_disagree_on_what_a_name_is_give_the_first() -> None:
    """A counter here and a gauge there can't be one metric: the first worker is believed, and the page stays valid."""
    counter, gauge = CounterMetricFamily("jobs", "Jobs.", value=2), GaugeMetricFamily("jobs", "Jobs.", value=7)
    assert shown({"0": of(counter), "1": of(gauge), "2": of(counter)}) == {("jobs_total", ()): 4}
    assert shown({"0": of(gauge), "1": of(counter)}) == {("jobs", (("worker", "0"),)): 7}


def test_a_label_called_worker_stays_the_application_s() -> None:
    """A gauge by workers in a mine must not become many series of one name; a counter by them needs no help."""
    gauge = GaugeMetricFamily("coal", "Coal.", labels=["worker"])
    counter = CounterMetricFamily("shifts", "Shifts.", labels=["worker"])
    for name, tons in (("ann", 3), ("bob", 4)):
        gauge.add_metric([name], tons)
        counter.add_metric([name], tons)
    series = shown({"0": of(gauge, counter), "1": of(gauge, counter)})
    assert sorted(value for (name, _), value in series.items() if name == "coal") == [3, 3, 4, 4]
    assert series[("shifts_total", (("worker", "ann"),))] == 6
    assert series[("shifts_total", (("worker", "bob"),))] == 8


def test_labels_in_another_order_are_the_same_labels() -> None:
    """A collector of the application's own may give them in any."""
    one = Metric("jobs", "Jobs.", "counter")
    one.add_sample("jobs_total", {"a": "1", "b": "2"}, 3)
    other = Metric("jobs", "Jobs.", "counter")
    other.add_sample("jobs_total", {"b": "2", "a": "1"}, 4)
    assert shown({"0": of(one), "1": of(other)}) == {("jobs_total", (("a", "1"), ("b", "2"))): 7}


@pytest.mark.parametrize("number", [True, Decimal("2.5"), Fraction(5, 2), float("inf"), 10**25], ids=repr)
def test_any_number_of_a_collector_crosses(number: Any) -> None:
    """Whatever prometheus_client shows of one process, it shows of many: no kind of number is lost on the way."""
    (((_, value),),) = (shown({"0": of(GaugeMetricFamily("depth", "Depth.", value=number))}).items(),)
    assert value == float(number)


def test_not_a_number_stays_one() -> None:
    """A gauge that was never set by a callback, say."""
    (value,) = shown({"0": of(GaugeMetricFamily("depth", "Depth.", value=float("nan")))}).values()
    assert value != value  # noqa: PLR0124 - that is what NaN is


def test_merging_leaves_what_it_is_given_alone() -> None:
    """What a worker last said is merged again at the next scrape."""
    worker = Application()
    worker.logins.labels("key").inc()
    worker.players.labels("lobby").set(1)
    written = worker.written()
    before = copy.deepcopy(written)
    for _ in range(3):
        assert shown({"past": written[:1], "0": written, "1": written})
        retired(written, written)
    assert written == before


def test_nobody_has_metrics() -> None:
    """An application without any costs nothing."""
    assert list(merge({})) == []
    assert list(merge({"past": [], "0": []})) == []
    assert retired([], []) == []


def test_a_collector_that_fails_says_so() -> None:
    """Whoever asks decides what to do about it."""

    class Broken:
        def describe(self) -> list[Metric]:
            return []

        def collect(self) -> list[Metric]:
            raise OSError("no sensor")

    registry = CollectorRegistry()
    registry.register(Broken())
    with pytest.raises(OSError, match="no sensor"):
        families_of(registry)


def test_what_is_no_metric_is_left_out() -> None:
    """A name or a type that prometheus_client refuses mustn't take the page from all others."""
    good = of(GaugeMetricFamily("depth", "Depth.", value=1))
    for bad in (["", "gauge", "", "", []], ["depth2", "thing", "", "", [["depth2", {}, 1.0]]]):
        assert shown({"0": [bad, *good], "1": [bad]}) == {("depth", (("worker", "0"),)): 1}
