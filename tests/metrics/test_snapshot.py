"""What a worker tells of itself: it comes back whole from JSON, adds up in any order, and garbage is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

import gevpy
from gevpy.metrics.collector import families
from gevpy.metrics.merge import merge
from gevpy.metrics.snapshot import COUNTERS, TABLES, Snapshot, as_status, resident_bytes, total
from tests.metrics.scraping import Echo, connect_to, hang_up
from tests.serving import reactor_of, until

if TYPE_CHECKING:
    from prometheus_client.core import Metric

FIELDS = tuple(field.name for field in fields(Snapshot))

counts = st.integers(0, 2**53)
seconds = st.integers(0, 2**30).map(lambda number: number / 1024)  # whole binary fractions: adding them is exact
gauges = st.floats(allow_nan=False, width=32)
words = st.text(max_size=12)
samples = st.tuples(words, st.dictionaries(words, words, max_size=3), gauges).map(list)
own_families = st.lists(st.tuples(words, words, words, words, st.lists(samples, max_size=3)).map(list), max_size=2)

snapshots = st.builds(
    Snapshot,
    worker=st.integers(0, 127),
    counters=st.fixed_dictionaries(dict.fromkeys(COUNTERS, counts) | {"handler_seconds": seconds}),
    tables=st.fixed_dictionaries(dict.fromkeys(TABLES, st.dictionaries(words, counts, max_size=4))),
    blocked=st.dictionaries(words, seconds, max_size=4),
    connections=counts,
    limit=counts,
    lag_seconds=seconds,
    read_buffer_bytes=counts,
    write_buffer_bytes=counts,
    rss_bytes=counts,
    families=own_families,
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
garbage = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)
near_families = st.lists(
    st.tuples(words, words | st.just("gauge"), words, words, st.lists(st.tuples(words, garbage, scalars), max_size=2)),
    max_size=2,
)


class _Collected:
    """What was collected, as a registry."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def use(snapshot: Snapshot) -> None:
    """Do with a snapshot all that a supervisor does with those of its workers."""
    whole = total([snapshot, Snapshot.empty()])
    whole.add_counters(snapshot)
    assert sum(snapshot.blocked.values()) >= 0
    as_status(snapshot)
    as_status(whole)
    shown = [*families([snapshot], whole), *merge({"past": [], "0": snapshot.families})]
    assert generate_latest(_Collected(shown))


def changed(path: tuple[str, ...], value: Any) -> bytes:
    """Give a good snapshot as JSON in which one thing is another."""
    document: Any = json.loads(Snapshot.empty(3).to_json())
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return json.dumps(document).encode()


# -- to JSON and back --------------------------------------------------------------------------------


@given(snapshots)
def test_a_snapshot_comes_back(snapshot: Snapshot) -> None:
    """from_json(to_json()) is the same, field by field."""
    assert Snapshot.from_json(snapshot.to_json()) == snapshot


def test_an_empty_one_has_every_counter_at_0() -> None:
    """So that nobody who adds or shows has to ask whether one is there."""
    empty = Snapshot.empty(5)
    assert empty.worker == 5
    assert empty.counters == dict.fromkeys(COUNTERS, 0)
    assert empty.tables == {name: {} for name in TABLES}
    use(empty)


async def test_a_loop_s_snapshot_is_plain_data() -> None:
    """What a running loop has counted crosses processes unchanged, and can be used at the other side."""
    async with gevpy.serve(Echo(), port=0) as server:
        client = await connect_to(server)
        client[1].write(b"hello")
        await client[0].readexactly(5)
        snapshot = Snapshot.of(reactor_of(server))
        assert (snapshot.connections, snapshot.counters["opened"], snapshot.counters["received_messages"]) == (1, 1, 1)
        await hang_up(client)
        await until(lambda: not server.connections)
        later = Snapshot.of(reactor_of(server))
    assert sum(later.tables["closed"].values()) == 1
    for one in (snapshot, later):
        assert Snapshot.from_json(one.to_json()) == one
        use(Snapshot.from_json(one.to_json()))


async def test_without_buffers_nothing_is_asked_of_connections() -> None:
    """A plain beat costs the same however many there are."""
    async with gevpy.serve(Echo(), port=0, protocol=gevpy.LineProtocol()) as server:
        client = await connect_to(server)
        client[1].write(b"half")
        await until(lambda: Snapshot.of(reactor_of(server)).read_buffer_bytes == 4)
        assert Snapshot.of(reactor_of(server), buffers=False).read_buffer_bytes == 0
        await hang_up(client)


def test_the_resident_set_is_known_here() -> None:
    """More than an interpreter's first MiB, or 0 where the system doesn't tell."""
    assert resident_bytes() == 0 or resident_bytes() > 1 << 20


# -- garbage -----------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_are_a_snapshot_or_a_value_error(data: bytes) -> None:
    """A14: a worker that has lost its mind can't raise anything else in its supervisor."""
    with pytest.raises(ValueError):  # noqa: PT011 - the type is all that is promised; that bytes of chance fit is not
        Snapshot.from_json(data)


@settings(max_examples=300)
@given(garbage)
def test_any_json_is_a_snapshot_or_a_value_error(value: Any) -> None:
    """A14: no JSON document does either."""
    with pytest.raises(ValueError):  # noqa: PT011 - as above
        Snapshot.from_json(json.dumps(value).encode())


@settings(max_examples=500)
@given(st.sampled_from(FIELDS), garbage)
def test_a_field_of_another_type_is_refused_or_harmless(name: str, value: Any) -> None:
    """A14: what passes can be added, shown and merged: nothing explodes later, far from who sent it."""
    try:
        snapshot = Snapshot.from_json(changed((name,), value))
    except ValueError:
        return
    use(snapshot)


@settings(max_examples=300)
@given(near_families)
def test_families_that_are_nearly_good_are_refused_or_harmless(value: Any) -> None:
    """A14: the application's own metrics are shown to scrapers: one bad worker mustn't take that from all."""
    try:
        snapshot = Snapshot.from_json(changed(("families",), value))
    except ValueError:
        return
    use(snapshot)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("worker",), None),
        (("counters",), None),
        (("counters",), []),
        (("counters",), {}),
        (("counters", "opened"), None),
        (("counters", "opened"), "7"),
        (("counters", "opened"), -1),
        (("counters", "opened"), 10**400),
        (("counters", "handler_seconds"), float("nan")),
        (("counters", "handler_seconds"), float("inf")),
        (("tables",), []),
        (("tables",), {}),
        (("tables", "closed"), None),
        (("tables", "closed"), {"idle": "1"}),
        (("tables", "closed"), {"idle": -1}),
        (("blocked",), []),
        (("blocked",), {"on_message|": "long"}),
        (("connections",), "9"),
        (("connections",), {}),
        (("lag_seconds",), []),
        (("lag_seconds",), float("nan")),
        (("rss_bytes",), None),
        (("families",), None),
        (("families",), 3),
        (("families",), [1]),
        (("families",), [["name", "counter", "what"]]),
        (("families",), [["name", "counter", "what", "", [["name_total", [], 1]]]]),
        (("families",), [["name", "counter", "what", "", [["name_total", {"a": 1}, 1]]]]),
        (("families",), [["name", "counter", "what", "", [["name_total", {}, "1"]]]]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_would_break_the_totals_is_refused(path: tuple[str, ...], value: Any) -> None:
    """A14: a number that is none, or that can't be added, is a ValueError where it comes in."""
    with pytest.raises(ValueError, match="no snapshot"):
        Snapshot.from_json(changed(path, value))


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_too_few_or_too_many_is_refused_or_harmless(name: str) -> None:
    """Those with a default may miss; no other, and none may be too many."""
    document = json.loads(Snapshot.empty(3).to_json())
    with pytest.raises(ValueError, match="no snapshot"):
        Snapshot.from_json(json.dumps({**document, f"{name}2": 0}).encode())
    del document[name]
    try:
        use(Snapshot.from_json(json.dumps(document).encode()))
    except ValueError:
        assert name in {"worker", "counters", "tables"}


def test_depth_is_no_way_in() -> None:
    """A14: brackets without end are refused like anything else."""
    with pytest.raises(ValueError):  # noqa: PT011 - the type is all that is promised
        Snapshot.from_json(b"[" * 200_000)


# -- adding up -----------------------------------------------------------------------------------------


@given(snapshots, snapshots)
def test_adding_is_commutative(one: Snapshot, other: Snapshot) -> None:
    """Whichever worker is named first, the total is the same."""
    assert total([one, other]) == total([other, one])


@given(st.lists(snapshots, max_size=4), st.randoms(use_true_random=False))
def test_the_total_knows_no_order(several: list[Snapshot], random: Any) -> None:
    """Nor does it depend on how they are grouped, and it is what adding each column gives."""
    mixed = random.sample(several, len(several))
    whole = total(several)
    assert total(mixed) == whole
    assert {name: sum(one.counters[name] for one in several) for name in COUNTERS} == whole.counters
    assert sum(one.connections for one in several) == whole.connections
    assert sum(one.rss_bytes for one in several) == whole.rss_bytes
    assert max((one.lag_seconds for one in several), default=0) == whole.lag_seconds
    for name in TABLES:
        assert sum(sum(one.tables[name].values()) for one in several) == sum(whole.tables[name].values())
    assert sum(sum(one.blocked.values()) for one in several) == sum(whole.blocked.values())


@given(snapshots, snapshots)
def test_adding_leaves_the_other_alone(one: Snapshot, other: Snapshot) -> None:
    """What a worker said is not changed by being added, nor does the total share its tables."""
    before = copy.deepcopy((one, other))
    whole = total([one, other])
    whole.add_counters(other)
    assert (one, other) == before


@given(snapshots, snapshots)
def test_gauges_of_who_is_gone_are_gone(past: Snapshot, gone: Snapshot) -> None:
    """Adding counters moves no gauge: nobody has connections any more."""
    gauges_before = {name: getattr(past, name) for name in FIELDS if name not in {"counters", "tables", "blocked"}}
    past.add_counters(gone)
    assert {name: getattr(past, name) for name in gauges_before} == gauges_before


def grown(snapshot: Snapshot, more: Snapshot) -> Snapshot:
    """Give what a worker says later: its counters have grown by ``more``."""
    later = copy.deepcopy(snapshot)
    later.add_counters(more)
    return later


@given(st.lists(st.tuples(st.sampled_from(["beat", "death"]), st.integers(0, 2), snapshots), max_size=12))
def test_counters_never_fall(events: list[tuple[str, int, Snapshot]]) -> None:
    """Whoever counts or dies in whatever order: no counter of the whole is ever less than it was."""
    past = Snapshot.empty()
    alive = {slot: Snapshot.empty(slot) for slot in range(3)}
    shown = total([*alive.values(), past])
    for what, slot, more in events:
        if what == "beat":
            alive[slot] = grown(alive[slot], more)
        else:
            past.add_counters(alive[slot])
            alive[slot] = Snapshot.empty(slot)
        now = total([*alive.values(), past])
        assert all(now.counters[name] >= shown.counters[name] for name in COUNTERS)
        for name in TABLES:
            assert all(now.tables[name].get(key, 0) >= count for key, count in shown.tables[name].items())
        assert all(now.blocked.get(place, 0) >= spent for place, spent in shown.blocked.items())
        shown = now
