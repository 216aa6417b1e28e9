"""Who gets a connection: in turn, the least busy, by the peer's IP, or as the application says."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gevpy
from gevpy.placement import PLACEMENTS, WorkerLoad, check_placement, chooser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gevpy.placement import Chooser, PlacementName

BY_GEVPY: list[PlacementName] = ["round_robin", "least_connections", "source_hash"]
PEER = "192.0.2.7:4000"

#: The slots of six peers among four workers, as they came out when this was written.
PINNED = [1, 0, 1, 1, 3, 0]


def loads(*ids: int) -> list[WorkerLoad]:
    """Make workers for these slots."""
    return [WorkerLoad(number, 100 + number) for number in ids]


def hand_over(choose: Chooser, workers: Sequence[WorkerLoad], peer: str = PEER) -> WorkerLoad:
    """Do what the supervisor does: ask, and count at once."""
    chosen = choose(workers, peer)
    chosen.connections += 1
    return chosen


def spread_of(workers: Sequence[WorkerLoad]) -> int:
    """Tell how far the busiest is from the least busy."""
    counts = [worker.connections for worker in workers]
    return max(counts) - min(counts)


# -- what can be a placement ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [*PLACEMENTS, lambda workers, peer: workers[0], max, partial(min, key=id)])
def test_names_and_callables_are_placements(value: Any) -> None:
    """The four names and whatever can be called."""
    check_placement(value)


@pytest.mark.parametrize("value", ["", "random", "ROUND_ROBIN", None, 3, ["round_robin"], {"a": 1}, b"reuseport"])
def test_anything_else_is_refused(value: Any) -> None:
    """A ConfigError that names what there is, and what was given."""
    with pytest.raises(gevpy.ConfigError) as caught:
        check_placement(value)
    text = str(caught.value)
    assert all(name in text for name in PLACEMENTS)
    assert repr(value) in text
    with pytest.raises(gevpy.ConfigError):
        chooser(value)


def test_an_async_placement_is_refused() -> None:
    """A connection can't wait for its place."""

    async def place(workers: Sequence[WorkerLoad], peer: str) -> WorkerLoad:
        return workers[0]

    with pytest.raises(gevpy.ConfigError, match="async"):
        check_placement(place)


def test_reuseport_has_no_chooser() -> None:
    """There the kernel chooses."""
    with pytest.raises(gevpy.ConfigError, match="reuseport"):
        chooser("reuseport")


@pytest.mark.parametrize("placement", [*BY_GEVPY, lambda workers, peer: workers[0]])
def test_no_workers_is_a_worker_error(placement: Any) -> None:
    """The same error for every placement; and with the first worker it goes on."""
    choose = chooser(placement)
    with pytest.raises(gevpy.WorkerError, match="no worker"):
        choose([], PEER)
    (only,) = workers = loads(3)
    assert choose(workers, PEER) is only


@pytest.mark.parametrize("placement", BY_GEVPY)
def test_the_caller_counts(placement: PlacementName) -> None:
    """Choosing changes neither the workers nor their list."""
    workers = loads(1, 0)
    before = list(workers)
    chooser(placement)(workers, PEER)
    assert workers == before
    assert [worker.connections for worker in workers] == [0, 0]


def test_a_worker_shows_what_it_is() -> None:
    """For log lines."""
    assert repr(WorkerLoad(1, 4711, 2)) == "WorkerLoad(id=1, pid=4711, connections=2)"


# -- round robin ---------------------------------------------------------------------------------------


def test_round_robin_goes_by_slot_whatever_the_order() -> None:
    """The list may be shuffled between two calls."""
    choose = chooser("round_robin")
    workers = loads(0, 1, 2)
    assert [choose(order, PEER).id for order in (workers, workers[::-1], workers, workers[::-1])] == [0, 1, 2, 0]


@given(others=st.lists(st.sets(st.sampled_from([1, 3, 5, 7])), min_size=1, max_size=60))
def test_round_robin_is_steady_when_workers_come_and_go(others: list[set[int]]) -> None:
    """Those that stay get their turns in the same order, none skipped and none twice, whoever else is there."""
    choose = chooser("round_robin")
    stayers = loads(0, 2, 4, 6)
    chosen = [choose([*stayers, *loads(*there)], PEER) for there in others]
    turns = [worker for worker in chosen if worker in stayers]
    assert turns == list(islice(cycle(stayers), len(turns)))


def test_two_workers_of_one_slot_both_get_their_turn() -> None:
    """As long as a worker and its successor are both offered."""
    choose = chooser("round_robin")
    old, new, other = WorkerLoad(0, 100), WorkerLoad(0, 200), WorkerLoad(1, 101)
    assert [choose([other, new, old], PEER) for _ in range(4)] == [old, new, other, old]


# -- least connections ---------------------------------------------------------------------------------


def test_a_burst_stays_even() -> None:
    """200 connections over four workers before any of them has told anything: 50 each."""
    choose = chooser("least_connections")
    workers = loads(0, 1, 2, 3)
    for _ in range(200):
        hand_over(choose, workers)
    assert [worker.connections for worker in workers] == [50, 50, 50, 50]


def test_equals_take_turns() -> None:
    """Connections that are gone before the next one comes don't all go to the first worker."""
    choose = chooser("least_connections")
    workers = loads(0, 1, 2)
    ids = []
    for _ in range(6):
        chosen = hand_over(choose, workers)
        ids.append(chosen.id)
        chosen.connections -= 1
    assert ids == [0, 1, 2, 0, 1, 2]


@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    moves=st.lists(st.one_of(st.none(), st.integers(0, 7)), max_size=120),
)
def test_any_bursts_and_closes_even_out(counts: list[int], moves: list[int | None]) -> None:
    """No hand-over widens the gap beyond one, and a burst that can close the gap does."""
    choose = chooser("least_connections")
    workers = [WorkerLoad(number, 100 + number, count) for number, count in enumerate(counts)]
    for move in moves:
        if move is None:
            before = spread_of(workers)
            hand_over(choose, workers)
            assert spread_of(workers) <= max(1, before)
        else:
            closing = workers[move % len(workers)]
            closing.connections = max(0, closing.connections - 1)
    most = max(worker.connections for worker in workers)
    for _ in range(sum(most - worker.connections for worker in workers)):
        hand_over(choose, workers)
        assert max(worker.connections for worker in workers) == most
    assert spread_of(workers) == 0
    for _ in range(3 * len(workers)):
        hand_over(choose, workers)
        assert spread_of(workers) <= 1


# -- source hash ---------------------------------------------------------------------------------------

ips = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(lambda ip: f"[{ip}]"))
slots = st.lists(st.integers(0, 200), min_size=2, max_size=12, unique=True)


@given(ip=ips, ports=st.lists(st.integers(1, 65535), min_size=2, max_size=5), ids=slots, shuffled=st.randoms())
def test_one_ip_always_finds_the_same_slot(ip: str, ports: list[int], ids: list[int], shuffled: Any) -> None:
    """Whatever the port, the order of the workers, their pids and their connections."""
    found = set()
    for port in ports:
        workers = [WorkerLoad(number, shuffled.randrange(1, 1 << 22), shuffled.randrange(100)) for number in ids]
        shuffled.shuffle(workers)
        found.add(chooser("source_hash")(workers, f"{ip}:{port}").id)
    assert len(found) == 1


@given(clients=st.lists(ips, min_size=1, max_size=40), ids=slots)
def test_a_worker_that_leaves_moves_only_its_own_clients(clients: list[str], ids: list[int]) -> None:
    """And they return when its slot has a worker again."""
    choose = chooser("source_hash")
    workers = loads(*ids)
    leaving = workers[0]
    before = {ip: choose(workers, f"{ip}:1") for ip in clients}
    during = {ip: choose(workers[1:], f"{ip}:1") for ip in clients}
    assert {ip for ip in clients if before[ip] is not during[ip]} == {ip for ip in clients if before[ip] is leaving}
    successor = WorkerLoad(leaving.id, 9999)
    after = {ip: choose([*workers[1:], successor], f"{ip}:1").id for ip in clients}
    assert after == {ip: worker.id for ip, worker in before.items()}


def test_source_hash_spreads_neighbours() -> None:
    """Four workers, the 1,024 addresses of four neighbouring networks: about a quarter each."""
    choose = chooser("source_hash")
    workers = loads(0, 1, 2, 3)
    counts = Counter(choose(workers, f"10.0.{net}.{host}:1").id for net in range(4) for host in range(256))
    assert all(256 - 64 <= counts[worker.id] <= 256 + 64 for worker in workers), counts


def test_source_hash_is_the_same_everywhere() -> None:
    """Not Python's hash, which differs from process to process: these are for good."""
    choose = chooser("source_hash")
    workers = loads(0, 1, 2, 3)
    peers = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "[2001:db8::1]:1", "[2001:db8::2]:1", "[fe80::1%eth0]:1"]
    assert [choose(workers, peer).id for peer in peers] == PINNED


def test_peers_without_an_address_go_round() -> None:
    """Over a Unix socket there is no IP: one hash for all would leave the other workers idle."""
    choose = chooser("source_hash")
    workers = loads(0, 1, 2)
    assert [choose(workers, "").id for _ in range(4)] == [0, 1, 2, 0]


# -- the application's own -----------------------------------------------------------------------------


def test_a_callable_chooses() -> None:
    """It gets the workers and the peer."""
    seen: list[tuple[Any, str]] = []

    def place(workers: Sequence[WorkerLoad], peer: str) -> WorkerLoad:
        seen.append((workers, peer))
        return workers[-1]

    workers = loads(0, 1)
    assert chooser(place)(workers, PEER) is workers[1]
    assert seen == [((workers[0], workers[1]), PEER)]


def test_a_callable_that_raises_is_a_worker_error() -> None:
    """The cause is chained; its text can't forge a log line. The next call is asked again."""
    answers: list[Any] = [RuntimeError("full\nERROR forged"), None]

    def place(workers: Sequence[WorkerLoad], peer: str) -> WorkerLoad:
        if (error := answers.pop(0)) is not None:
            raise error
        return workers[0]

    choose = chooser(place)
    workers = loads(0)
    with pytest.raises(gevpy.WorkerError, match=r"RuntimeError: full\\nERROR forged") as caught:
        choose(workers, PEER)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert choose(workers, PEER) is workers[0]


class EqualToAll:
    """Says that it is whatever it is compared with."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


@pytest.mark.parametrize(
    ("given_back", "text"),
    [
        (None, "something of type NoneType, "),
        (0, "something of type int, "),
        ("0\n", "something of type str, "),
        (EqualToAll(), "something of type EqualToAll, "),
        (WorkerLoad(0, 100), r"WorkerLoad\(id=0, pid=100, connections=0\), "),
    ],
)
def test_a_callable_must_give_one_of_the_workers(given_back: Any, text: str) -> None:
    """Not a slot, not nothing, not a worker of another time: a WorkerError that says what came."""
    with pytest.raises(gevpy.WorkerError, match=f"gave {text}which is none of the workers"):
        chooser(lambda workers, peer: given_back)(loads(0, 1), PEER)


def test_what_ends_a_program_is_not_caught() -> None:
    """Ctrl-C inside the callable stays Ctrl-C."""

    def place(workers: Sequence[WorkerLoad], peer: str) -> WorkerLoad:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chooser(place)(loads(0), PEER)
