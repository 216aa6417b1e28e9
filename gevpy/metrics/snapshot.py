"""What one loop has counted, at one moment, as plain data: it crosses processes, and adds up.

Counters of workers that are gone go on counting: `Snapshot.add_counters` keeps them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gevpy.reactor import Reactor

__all__ = ["Snapshot", "as_status", "resident_bytes", "total"]

COUNTERS = (
    "opened",
    "received_bytes",
    "sent_bytes",
    "received_messages",
    "sent_messages",
    "handler_errors",
    "handler_calls",
    "handler_seconds",
)
TABLES = ("closed", "rejected", "dropped")
MOST = 2**63  # what no counter reaches; also keeps out infinity, and numbers that are no float any more
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def resident_bytes() -> int:
    """Give this process's resident set in bytes, 0 where the system doesn't tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


@dataclass(slots=True)
class Snapshot:
    """The counters and gauges of one worker.

    Attributes:
        worker: its number, or -1 for what workers that are gone have counted.
        counters: by the names of `gevpy.stats.Stats`.
        tables: counters by reason: closed, rejected, dropped.
        blocked: seconds for which the loop was blocked, by place and kind of message, ``"on_message|Login"``.
        connections, limit: open, and admitted at most.
        lag_seconds: how late the loop's last tick came.
        read_buffer_bytes, write_buffer_bytes: what waits in the connections' buffers.
        rss_bytes: the process's resident set.
        families: the application's own metrics; see `gevpy.metrics.merge`.
    """

    worker: int
    counters: dict[str, float]
    tables: dict[str, dict[str, int]]
    blocked: dict[str, float] = field(default_factory=dict)
    connections: int = 0
    limit: int = 0
    lag_seconds: float = 0.0
    read_buffer_bytes: int = 0
    write_buffer_bytes: int = 0
    rss_bytes: int = 0
    families: list[Any] = field(default_factory=list)

    @classmethod
    def empty(cls, worker: int = -1) -> Self:
        """Give one in which nothing has happened."""
        return cls(worker, dict.fromkeys(COUNTERS, 0), {name: {} for name in TABLES})

    @classmethod
    def of(cls, reactor: Reactor, *, buffers: bool = True) -> Self:
        """Take one of a loop, on that loop; without ``buffers`` at the same cost however many connections there are."""
        stats = reactor.stats
        read = write = 0
        for conn in reactor.connections if buffers else ():
            read += conn.read_buffer_length
            write += conn.write_buffer_length
        return cls(
            worker=reactor.worker.id,
            counters={name: getattr(stats, name) for name in COUNTERS},
            tables={name: {reason.value: count for reason, count in getattr(stats, name).items()} for name in TABLES},
            blocked={f"{where}|{kind}": seconds for (where, kind), seconds in reactor.blocked_seconds().items()},
            connections=len(reactor.connections),
            limit=reactor.admission.max_connections,
            lag_seconds=stats.lag_seconds,
            read_buffer_bytes=read,
            write_buffer_bytes=write,
            rss_bytes=resident_bytes(),
        )

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Make one of what `to_json` gave.

        Raises:
            ValueError: it is something else.
        """
        msg = f"no snapshot: {text[:64]!r}"
        try:
            snapshot = cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(msg) from error
        if not _is_sound(snapshot):
            raise ValueError(msg)
        return snapshot

    def to_json(self) -> bytes:
        """Write it down."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    def add_counters(self, other: Snapshot) -> None:
        """Add what another has counted; gauges stay."""
        for name, count in other.counters.items():
            self.counters[name] = self.counters.get(name, 0) + count
        for name, table in other.tables.items():
            mine = self.tables.setdefault(name, {})
            for reason, count in table.items():
                mine[reason] = mine.get(reason, 0) + count
        for place, seconds in other.blocked.items():
            self.blocked[place] = self.blocked.get(place, 0.0) + seconds


def _is_sound(snapshot: Snapshot) -> bool:
    """Tell whether it holds what it should: what is added up later must not fail there."""
    one = snapshot
    gauges = (one.connections, one.limit, one.lag_seconds, one.read_buffer_bytes, one.write_buffer_bytes, one.rss_bytes)
    return (
        isinstance(one.worker, int)
        and all(map(_is_amount, gauges))
        and _is_table(one.counters)
        and one.counters.keys() == set(COUNTERS)
        and isinstance(one.tables, dict)
        and one.tables.keys() == set(TABLES)
        and all(map(_is_table, one.tables.values()))
        and _is_table(one.blocked)
        and isinstance(one.families, list)
        and all(map(_is_family, one.families))
    )


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_amount, value.values()))


def _is_family(value: object) -> bool:
    match value:
        case [str(), str(), str(), str(), list() as samples]:
            return all(map(_is_sample, samples))
    return False


def _is_sample(value: object) -> bool:
    match value:
        case [str(), dict() as labels, float()]:
            return all(isinstance(label, str) for label in labels.values())
    return False


def total(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Add up counters and gauges."""
    whole = Snapshot.empty()
    for one in snapshots:
        whole.add_counters(one)
        whole.connections += one.connections
        whole.limit += one.limit
        whole.read_buffer_bytes += one.read_buffer_bytes
        whole.write_buffer_bytes += one.write_buffer_bytes
        whole.rss_bytes += one.rss_bytes
        whole.lag_seconds = max(whole.lag_seconds, one.lag_seconds)
    return whole


def as_status(snapshot: Snapshot) -> dict[str, Any]:
    """Give the figures that ``/stats.json`` shows of a worker, or of all."""
    return {
        "connections": snapshot.connections,
        **{name: snapshot.counters[name] for name in COUNTERS[:6]},
        "dropped_messages": sum(snapshot.tables["dropped"].values()),
        "rejected": sum(snapshot.tables["rejected"].values()),
        "read_buffer_bytes": snapshot.read_buffer_bytes,
        "write_buffer_bytes": snapshot.write_buffer_bytes,
    }
