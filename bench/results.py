"""What a run measured: samples, their medians, and the JSON that holds both.

A `Sample` is one server under one load in one round. A `Cell` is the median of a server's rounds under a
load: a table's row. Ratios pair the rounds first and then take the median, because a machine's mood lasts
longer than a round: what slows both servers of a pair cancels out.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from bench.client import Load

__all__ = ["Cell", "Results", "Sample", "sample_of"]

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One server under one load in one round. Times in microseconds."""

    server: str
    load: Load
    round: int
    seconds: float
    count: int
    per_s: float
    cpu_us: float
    user_ticks: int
    system_ticks: int
    p50_us: float
    p99_us: float
    p999_us: float
    server_busy: float
    client_busy: float
    others_busy: float
    largest_share: float | None = None
    """Of the workers' CPU, in percent, what the busiest of them has spent; None for a server without."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The medians of a server's rounds under a load, and how far its CPU rounds lie apart.

    The CPU total comes from the process's CPU clock, in nanoseconds. The kernel splits it into user and system
    by sampling (10 ms ticks), so the split is taken over all rounds together: `user_share`.
    """

    server: str
    load: str
    rounds: int
    per_s: float
    cpu_us: float
    user_share: float
    p50_us: float
    p99_us: float
    p999_us: float
    server_busy: float
    client_busy: float
    spread: float


_MEDIANS = (
    "per_s",
    "cpu_us",
    "p50_us",
    "p99_us",
    "p999_us",
    "server_busy",
    "client_busy",
)


def sample_of(server: str, number: int, load: Load, raw: dict[str, Any], others_busy: float) -> Sample:
    """Make a sample from the load generator's answer."""
    seconds = raw["seconds"]
    return Sample(
        server=server,
        load=load,
        round=number,
        seconds=seconds,
        count=raw["count"],
        per_s=raw["per_s"],
        cpu_us=raw["server_cpu_ns"] / max(raw["count"], 1) / 1000,
        user_ticks=raw["server_user_ticks"],
        system_ticks=raw["server_system_ticks"],
        p50_us=raw["p50_us"],
        p99_us=raw["p99_us"],
        p999_us=raw["p999_us"],
        server_busy=raw["server_cpu_ns"] / 1e9 / seconds,
        client_busy=(raw["client_cpu_ns"] - raw["client_idle_ns"]) / 1e9 / seconds,
        others_busy=others_busy,
        largest_share=_largest_share(raw["server_cpu_each_ns"][1:]),
    )


def _largest_share(workers_cpu_ns: list[int]) -> float | None:
    whole = sum(workers_cpu_ns)
    return 100 * max(workers_cpu_ns) / whole if whole else None


@dataclass(slots=True)
class Results:
    """Everything one run found."""

    suite: str
    started: str
    machine: dict[str, Any]
    seconds: float
    servers: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    figures: list[dict[str, Any]] = field(default_factory=list)

    def rounds(self, server: str, load: Load) -> dict[int, Sample]:
        """Return the samples of a server under a load, by round."""
        return {s.round: s for s in self.samples if s.server == server and s.load == load}

    def loads(self) -> list[Load]:
        """Return every load measured, in order of first appearance."""
        return list(dict.fromkeys(sample.load for sample in self.samples))

    def cells(self, load: Load) -> list[Cell]:
        """Return the servers' medians under `load`, the cheapest first."""
        servers = dict.fromkeys(s.server for s in self.samples if s.load == load)
        cells = [self._cell(server, load) for server in servers]
        return sorted(cells, key=lambda cell: cell.cpu_us)

    def _cell(self, server: str, load: Load) -> Cell:
        samples = list(self.rounds(server, load).values())
        cpus = [sample.cpu_us for sample in samples]
        medians = {name: median(getattr(s, name) for s in samples) for name in _MEDIANS}
        user = sum(sample.user_ticks for sample in samples)
        ticks = user + sum(sample.system_ticks for sample in samples)
        return Cell(
            server=server,
            load=load.title,
            rounds=len(samples),
            user_share=user / ticks if ticks else 0.0,
            spread=(max(cpus) - min(cpus)) / median(cpus),
            **medians,
        )

    def ratio(self, metric: str, above: tuple[str, Load], below: tuple[str, Load]) -> float | None:
        """Return the median, over rounds, of one server's `metric` by another's."""
        tops, bottoms = self.rounds(*above), self.rounds(*below)
        ratios = [
            getattr(top, metric) / getattr(bottoms[number], metric)
            for number, top in tops.items()
            if number in bottoms and getattr(bottoms[number], metric) > 0
        ]
        return median(ratios) if ratios else None

    def median_of(self, metric: str, server: str, load: Load) -> float | None:
        """Return the median of one server's `metric` over the rounds that have it."""
        found = [getattr(sample, metric) for sample in self.rounds(server, load).values()]
        found = [value for value in found if value is not None]
        return median(found) if found else None

    def others_busy(self) -> float:
        """Return how many cores others kept busy while we measured: the median over samples."""
        return median(s.others_busy for s in self.samples) if self.samples else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        data = {key: getattr(self, key) for key in ("suite", "started", "machine", "seconds")}
        cells = [asdict(cell) for load in self.loads() for cell in self.cells(load)]
        return {
            "schema": SCHEMA,
            **data,
            "others_busy_cores": round(self.others_busy(), 3),
            "servers": self.servers,
            "skipped": self.skipped,
            "figures": self.figures,
            "values": self.values,
            "cells": cells,
            "samples": [asdict(sample) for sample in self.samples],
        }

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_rounded(self.as_dict()), indent=1) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
