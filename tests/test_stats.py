"""Counters begin at zero, count by reason, and have names from closed lists."""

from __future__ import annotations

import re

import pytest

from gevpy import CloseKind
from gevpy.stats import DropReason, RejectReason, Stats

NUMBERS = (
    "opened",
    "received_bytes",
    "sent_bytes",
    "received_messages",
    "sent_messages",
    "handler_calls",
    "handler_seconds",
    "lag_seconds",
    "handler_errors",
)


def test_everything_begins_at_zero() -> None:
    """For each server anew."""
    Stats().count_closed(CloseKind.IDLE)
    stats = Stats()
    assert [getattr(stats, name) for name in NUMBERS] == [0] * len(NUMBERS)
    assert (stats.closed, stats.rejected, stats.dropped) == ({}, {}, {})


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_can_be_added_to(name: str) -> None:
    """Past 32 bits, as byte counters must."""
    stats = Stats()
    for _ in range(3):
        setattr(stats, name, getattr(stats, name) + (1 << 40))
    assert getattr(stats, name) == 3 << 40


def test_counts_are_kept_by_reason() -> None:
    """Each kind has its own; drops may come several at once, or not at all."""
    stats = Stats()
    stats.count_closed(CloseKind.IDLE)
    stats.count_closed(CloseKind.IDLE)
    stats.count_closed(CloseKind.PEER_RESET)
    stats.count_rejected(RejectReason.MAX_CONNECTIONS)
    stats.count_dropped(DropReason.DROP_OLDEST, 5)
    stats.count_dropped(DropReason.DROP_OLDEST)
    assert stats.closed == {CloseKind.IDLE: 2, CloseKind.PEER_RESET: 1}
    assert stats.rejected == {RejectReason.MAX_CONNECTIONS: 1}
    assert stats.dropped == {DropReason.DROP_OLDEST: 6}


@pytest.mark.parametrize("reason", [*RejectReason, *DropReason, *CloseKind])
def test_reasons_are_metrics_labels(reason: str) -> None:
    """Short words of a closed list, equal to their names."""
    assert re.fullmatch(r"[a-z_]{3,30}", reason)
    assert str(reason) == reason == getattr(reason, "value", None)
    assert getattr(reason, "name", "").lower() == reason


def test_nothing_else_can_be_counted() -> None:
    """A misspelt counter is an error, not a new attribute."""
    with pytest.raises(AttributeError):
        Stats().recieved_bytes = 1  # type: ignore[attr-defined]
