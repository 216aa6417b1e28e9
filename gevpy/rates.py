"""What ``/stats.json`` of a running server says, checked, and the rates that follow from one answer after the other.

The document is gevpy's own, but it comes over a network: whatever is not as it should be is a ``ValueError``, and text
loses what a terminal could take for a command.

Counters become rates by the time each worker had for them: what it counted, over what its ``uptime_s`` grew by.
That clock never jumps, as the time of day may.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["COUNTERS", "PerSecond", "RateTable", "Rates", "Report", "Row"]

COUNTERS = ("received_messages", "sent_messages", "received_bytes", "sent_bytes")
MOST = 2**63
TEXT_LENGTH = 100

PerSecond = tuple[float, ...] | None
"""What each of ``COUNTERS`` grows by in a second; None where that isn't known yet."""

RateTable = dict[tuple[int | None, int], PerSecond]
"""The rates of each row, by `Row.key`."""


@dataclass(frozen=True, slots=True)
class Row:
    """A worker at one moment, or all of them together.

    Attributes:
        id: the worker's number; None for all together.
        pid: its process; 0 where there is none.
        state: ``"ready"``, ``"starting"``, ``"draining"``, ``"failed"`` or ``"backing off"``.
        restarts: how often it was started again.
        connections: that are open.
        counters: as in ``COUNTERS``; they only grow while the process lives.
        buffered_bytes: read and not handled, or not sent yet.
        lag_s: how late its loop is; of all together, the worst.
        rss_bytes: memory it holds.
        uptime_s: how long it has been running.
    """

    id: int | None
    pid: int
    state: str
    restarts: int
    connections: int
    counters: tuple[float, ...]
    buffered_bytes: int
    lag_s: float
    rss_bytes: int
    uptime_s: float

    @property
    def key(self) -> tuple[int | None, int]:
        """What tells it from all others: while a worker is replaced, two processes have its number."""
        return self.id, self.pid


@dataclass(frozen=True, slots=True)
class Report:
    """What a server said at one moment.

    Attributes:
        version: of its gevpy.
        started_at: when it started, in seconds since the epoch; another one is another server.
        now: when it said this, by the same clock.
        addresses: where it serves.
        total: all workers together.
        workers: each of them.
        troubles: what has been counted since the start and should be nothing, by name.
    """

    version: str
    started_at: float
    now: float
    addresses: tuple[str, ...]
    total: Row
    workers: tuple[Row, ...]
    troubles: dict[str, int]

    @classmethod
    def parse(cls, document: bytes) -> Report:
        """Read the document.

        Raises:
            ValueError: it is none of gevpy.
        """
        try:
            return _report(json.loads(document))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError("no statistics of gevpy") from error


def _report(said: dict[str, Any]) -> Report:
    counts, now, started_at = said["total"], _number(said["now"]), _number(said["started_at"])
    workers = tuple(_row(int(_number(one["id"])), one, one) for one in said["workers"])
    together = {
        "state": said["state"],
        "restarts": said.get("restarts"),
        "lag_s": max((worker.lag_s for worker in workers), default=0),
        "rss_bytes": sum(worker.rss_bytes for worker in workers),
        "uptime_s": max(0, now - started_at),
    }
    return Report(
        version=_text(said["version"]),
        started_at=started_at,
        now=now,
        addresses=tuple(_text(address) for address in said["addresses"]),
        total=_row(None, together, counts),
        workers=workers,
        troubles={
            "rejected": int(_number(counts.get("rejected"))),
            "dropped messages": int(_number(counts.get("dropped_messages"))),
            "handler errors": int(_number(counts.get("handler_errors"))),
        },
    )


def _row(number: int | None, process: dict[str, Any], counts: dict[str, Any]) -> Row:
    return Row(
        id=number,
        pid=int(_number(process.get("pid"))),
        state=_text(process["state"]),
        restarts=int(_number(process.get("restarts"))),
        connections=int(_number(counts.get("connections"))),
        counters=tuple(_number(counts.get(name)) for name in COUNTERS),
        buffered_bytes=int(_number(counts.get("read_buffer_bytes")) + _number(counts.get("write_buffer_bytes"))),
        lag_s=_number(process.get("lag_s")),
        rss_bytes=int(_number(process.get("rss_bytes"))),
        uptime_s=_number(process.get("uptime_s")),
    )


def _number(value: object) -> float:
    """Check a number. What isn't there, such as the pid of a worker without a process, counts as 0."""
    if value is None:
        return 0
    if not isinstance(value, int | float) or not -MOST < value < MOST:
        raise TypeError("no number")
    return max(0, value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return "".join(letter if letter.isprintable() else "?" for letter in value[:TEXT_LENGTH])


class Rates:
    """Counters per second, for each worker.

    A worker is known by its number and its process: a new process begins anew, without rates. So does one whose
    counters or time fell, and so do all when the server is another than before.

    Example:
        >>> rates = Rates()
        >>> rates.update(Report.parse(first)), rates.update(Report.parse(second))  # doctest: +SKIP
    """

    def __init__(self) -> None:
        """Begin without a past."""
        self._started_at = -1.0
        self._rows: dict[tuple[int | None, int], Row] = {}

    def update(self, report: Report) -> RateTable:
        """Take the next report.

        Returns:
            The rates by `Row.key`. Those of all together are the sum of those that are known.
        """
        past = self._rows if report.started_at == self._started_at else {}
        self._started_at = report.started_at
        self._rows = {row.key: row for row in report.workers}
        rates = {row.key: _rates(past.get(row.key), row) for row in report.workers}
        known = [rate for rate in rates.values() if rate is not None]
        return {**rates, report.total.key: tuple(map(sum, zip(*known, strict=True))) if known else None}


def _rates(before: Row | None, row: Row) -> PerSecond:
    if before is None:
        return None
    elapsed = row.uptime_s - before.uptime_s
    grown = [new - old for new, old in zip(row.counters, before.counters, strict=True)]
    return None if elapsed <= 0 or min(grown) < 0 else tuple(count / elapsed for count in grown)
