"""Who gets in: counts that always balance, networks, and the system's limit on descriptors."""

from __future__ import annotations

import logging
import random
from types import SimpleNamespace

import pytest

from gevpy import admission
from gevpy.addresses import client_network
from gevpy.admission import Admission, connection_limit
from gevpy.stats import RejectReason

INFINITY = -1  # as on Linux: lower than every number, which is the trap


class Limit:
    """Stands in for RLIMIT_NOFILE."""

    def __init__(self, soft: int, hard: int, refusal: Exception | None = None) -> None:
        self.soft, self.hard = soft, hard
        self.refusal = refusal
        self.calls: list[tuple[int, int]] = []

    def get(self, which: int) -> tuple[int, int]:
        return self.soft, self.hard

    def set(self, which: int, limits: tuple[int, int]) -> None:
        self.calls.append(limits)
        if self.refusal is not None:
            raise self.refusal
        soft, hard = limits
        assert hard == self.hard, "the hard limit is not ours to touch"
        assert hard == INFINITY or soft <= hard, "the system refuses that"
        self.soft = soft


def use(monkeypatch: pytest.MonkeyPatch, limit: Limit) -> Limit:
    """Have the system's limit be this one."""
    fake = SimpleNamespace(RLIMIT_NOFILE=7, RLIM_INFINITY=INFINITY, getrlimit=limit.get, setrlimit=limit.set)
    monkeypatch.setattr(admission, "resource", fake)
    return limit


@pytest.mark.parametrize(
    ("soft", "expected"),
    [
        (1024, 768), (10_256, 10_000), (10_255, 9_999), (1 << 20, 10_000), (INFINITY, 10_000),
        (512, 256), (300, 150), (100, 50), (1, 1), (0, 1),
    ],
)  # fmt: skip
def test_the_default_follows_the_soft_limit(monkeypatch: pytest.MonkeyPatch, soft: int, expected: int) -> None:
    """min(10,000, soft - 256), half of few, at least one; the limit itself isn't touched."""
    limit = use(monkeypatch, Limit(soft, INFINITY))
    assert connection_limit(None) == expected
    assert limit.calls == []


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        (Limit(1024, 1 << 20), 5_000),
        (Limit(1024, 5_256), 5_000),
        (Limit(1024, INFINITY), 1_000_000),
        (Limit(100, 1024), 200),
    ],
)
def test_an_explicit_number_raises_the_soft_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: Limit, wanted: int
) -> None:
    """As far as needed, and without a word."""
    use(monkeypatch, limit)
    assert connection_limit(wanted) == wanted
    assert limit.calls == [(wanted + 256, limit.hard)]
    assert not caplog.records


@pytest.mark.parametrize("soft", [1024, 1 << 20, INFINITY])
def test_what_fits_changes_nothing(monkeypatch: pytest.MonkeyPatch, soft: int) -> None:
    """A number the soft limit has room for."""
    limit = use(monkeypatch, Limit(soft, INFINITY))
    assert connection_limit(768) == 768
    assert connection_limit(1) == 1
    assert limit.calls == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give the warnings of the server's logger."""
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name == "gevpy.server"]


def test_the_hard_limit_clamps_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The text has what was wanted, what there is, and what came of it."""
    limit = use(monkeypatch, Limit(1024, 4096))
    assert connection_limit(50_000) == 4096 - 256
    assert limit.soft == 4096
    (text,) = warnings(caplog)
    assert "50000" in text
    assert "4096" in text
    assert "3840" in text


@pytest.mark.parametrize("refusal", [ValueError("not allowed to raise maximum limit"), PermissionError(1, "no")])
@pytest.mark.parametrize("hard", [INFINITY, 1 << 20])
def test_a_system_that_refuses_clamps_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusal: Exception, hard: int
) -> None:
    """A container may forbid what its limits promise: the server starts all the same."""
    use(monkeypatch, Limit(1024, hard, refusal))
    assert connection_limit(50_000) == 768
    assert len(warnings(caplog)) == 1


def test_systems_without_such_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number as it is, or the default."""
    monkeypatch.setattr(admission, "resource", None)
    assert connection_limit(None) == 10_000
    assert connection_limit(123_456) == 123_456


# -- counting ------------------------------------------------------------------------------------------------------


def test_the_limit_is_exact() -> None:
    """So many get in, the next doesn't; when one leaves, one gets in."""
    door = Admission(3, None)
    assert [door.enter("a") for _ in range(4)] == [None, None, None, RejectReason.MAX_CONNECTIONS]
    door.leave("a")
    assert door.enter("b") is None
    assert door.enter("b") is RejectReason.MAX_CONNECTIONS
    assert door.count == 3


def test_the_cap_of_a_network_is_exact() -> None:
    """One network's cap doesn't touch another; a refused one takes no place."""
    door = Admission(100, 2)
    assert [door.enter("a") for _ in range(3)] == [None, None, RejectReason.MAX_CONNECTIONS_PER_IP]
    assert door.enter("b") is None
    assert door.count == 3
    door.leave("a")
    assert door.enter("a") is None
    assert door.enter("a") is RejectReason.MAX_CONNECTIONS_PER_IP


def test_a_full_house_counts_for_no_network() -> None:
    """Refused for the total, a network keeps its own places."""
    door = Admission(1, 1)
    assert door.enter("a") is None
    assert door.enter("b") is RejectReason.MAX_CONNECTIONS
    door.leave("a")
    assert door.enter("b") is None


def test_an_attacker_with_a_whole_64_is_one_client() -> None:
    """A thousand addresses of one /64 have one cap; mapped IPv4 counts as the IPv4 it is."""
    door = Admission(10_000, 5)
    inside = [door.enter(client_network((f"2001:db8:1:2::{n:x}", 1, 0, 0))) for n in range(1, 1001)]
    assert inside.count(None) == 5
    assert door.enter(client_network(("2001:db8:1:3::1", 1, 0, 0))) is None
    both = [("192.0.2.7", 1), ("::ffff:192.0.2.7", 1, 0, 0)] * 3
    assert [door.enter(client_network(address)) for address in both].count(None) == 5
    assert door.enter(client_network(("::ffff:192.0.2.8", 1, 0, 0))) is None


def test_counts_balance_and_nothing_is_left() -> None:
    """After any comings and goings all counts agree with who is in, and an empty house remembers nobody."""
    dice = random.Random(7)
    door = Admission(50, 4)
    inside: list[str] = []
    for _ in range(20_000):
        if inside and dice.random() < 0.5:
            network = inside.pop(dice.randrange(len(inside)))
            door.leave(network)
        else:
            network = f"n{dice.randrange(30)}"
            refused = door.enter(network)
            full, crowded = len(inside) >= 50, inside.count(network) >= 4
            assert (refused is None) == (not full and not crowded)
            if refused is None:
                inside.append(network)
            else:
                assert refused == ("max_connections" if full else "max_connections_per_ip")
        assert door.count == len(inside)
    for network in inside:
        door.leave(network)
    assert door.count == 0
    assert not door._networks
