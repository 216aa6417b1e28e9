"""The figures to reach (design, section 5), one row each: goal, reached, yes or no.

A row whose servers were not measured says so instead; it counts as neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.client import Load, format_size
from bench.servers import HANDED_OVER, REDIS, REDIS_EXAMPLE, TWO_WORKERS
from bench.suites import BROADCAST, REDIS_LOADS, TLS, WORKERS

if TYPE_CHECKING:
    from bench.results import Results

__all__ = ["FIGURES", "Middle", "Ratio", "Value", "judge"]

MIB = 1 << 20
_BIG_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Ratio:
    """A server's metric by another's, in the same run.

    Attributes:
        low: where the ratio must be near 1, how low it may be; `limit` is how high.
    """

    what: str
    metric: str
    above: tuple[str, Load]
    below: tuple[str, Load]
    limit: float
    at_most: bool = True
    unit: str = "x"
    low: float | None = None

    def reached(self, results: Results) -> float | None:
        """Return the ratio, or None when either side is missing."""
        return results.ratio(self.metric, self.above, self.below)


@dataclass(frozen=True, slots=True)
class Middle:
    """The median, over rounds, of one server's metric."""

    what: str
    metric: str
    server: str
    load: Load
    limit: float
    unit: str
    at_most: bool = True
    low: None = None

    def reached(self, results: Results) -> float | None:
        """Return the median, or None when it was not measured."""
        return results.median_of(self.metric, self.server, self.load)


@dataclass(frozen=True, slots=True)
class Value:
    """A value that the run measured by itself."""

    what: str
    name: str
    limit: float
    unit: str
    at_most: bool = True
    low: None = None

    def reached(self, results: Results) -> float | None:
        """Return the value, or None when it was not measured."""
        return results.values.get(self.name)


Figure = Ratio | Middle | Value


def _against_floor(what: str, mode: str, depth: int, limit: float) -> Ratio:
    load = Load(mode, depth=depth)
    return Ratio(f"{what}, 64 B, depth {depth}: CPU by the floor's", "cpu_us", ("gevpy", load), ("floor", load), limit)


def _against_picows(size: int, depth: int, limit: float) -> Ratio:
    load = Load("websocket", size=size, depth=depth)
    what = load.title.replace("websocket", "WebSocket echo,")
    return Ratio(f"{what}: CPU by picows's", "cpu_us", ("gevpy", load), ("picows", load), limit)


def _pure(what: str, mode: str, depth: int, limit: float) -> Ratio:
    load = Load(mode, depth=depth)
    return Ratio(
        f"pure-Python build, {what}, depth {depth}: CPU by the compiled build's",
        "cpu_us",
        ("gevpy pure", load),
        ("gevpy", load),
        limit,
    )


def _big(what: str, mode: str, peer: str, metric: str, limit: float) -> Ratio:
    load = Load(mode, size=MIB, connections=_BIG_CONNECTIONS)
    noun = "CPU" if metric == "cpu_us" else "throughput"
    whose = "the floor's" if peer == "floor" else f"{peer}'s"
    return Ratio(
        f"1 MiB messages, {what}: {noun} by {whose}",
        metric,
        ("gevpy", load),
        (peer, load),
        limit,
        at_most=metric == "cpu_us",
    )


def _broadcast(single: Load, tenfold: Load) -> tuple[Ratio, Ratio]:
    what = f"broadcast of {format_size(single.size)} to {single.connections:,}, CPU per delivered message"
    return (
        Ratio(f"{what}: by the floor's", "cpu_us", ("gevpy", single), ("floor", single), 1.15),
        Ratio(
            f"{what}, {tenfold.depth} in a turn: by that of single ones",
            "cpu_us",
            ("gevpy", tenfold),
            ("gevpy", single),
            0.3,
        ),
    )


def _two_workers(load: Load) -> Ratio:
    what = f"two workers, raw TCP, depth {load.depth}: CPU by that of one process"
    return Ratio(what, "cpu_us", (TWO_WORKERS, load), ("gevpy", load), 1.1, low=0.9)


def _tls(load: Load) -> Ratio:
    what = f"TLS echo, {format_size(load.size)}: CPU by the floor's"
    return Ratio(what, "cpu_us", ("gevpy", load), ("floor", load), 1.1)


def _redis(load: Load) -> Ratio:
    what = f"{load.title}, examples/redis_server.py: requests per second by redis-server's"
    return Ratio(what, "per_s", (REDIS_EXAMPLE, load), (REDIS, load), 0.25, at_most=False)


FIGURES: tuple[Figure, ...] = (
    _against_floor("raw TCP echo", "tcp", 1, 1.05),
    _against_floor("raw TCP echo", "tcp", 32, 1.25),
    _against_floor("length-prefixed echo", "length_prefix", 1, 1.10),
    _against_floor("length-prefixed echo", "length_prefix", 32, 1.6),
    _against_floor("WebSocket echo", "websocket", 1, 1.10),
    _against_floor("WebSocket echo", "websocket", 32, 1.6),
    _against_picows(64, 1, 1.0),
    _against_picows(4096, 1, 0.95),
    _against_picows(65536, 1, 1.0),
    _against_picows(64, 32, 0.08),
    _against_picows(4096, 32, 0.5),
    _big("raw TCP", "tcp", "floor", "per_s", 0.9),
    _big("raw TCP", "tcp", "floor", "cpu_us", 1.25),
    _big("length-prefixed", "length_prefix", "floor", "per_s", 0.9),
    _big("length-prefixed", "length_prefix", "floor", "cpu_us", 1.25),
    _big("WebSocket", "websocket", "picows", "per_s", 1.0),
    *_broadcast(*BROADCAST),
    _pure("raw TCP", "tcp", 1, 1.4),
    _pure("raw TCP", "tcp", 32, 6),
    _pure("length-prefixed", "length_prefix", 1, 1.4),
    _pure("length-prefixed", "length_prefix", 32, 6),
    _pure("WebSocket", "websocket", 1, 1.4),
    _pure("WebSocket", "websocket", 32, 6),
    Value("idle TCP connection, silent: memory", "idle tcp silent: gevpy", 2.0, "KB"),
    Value("idle TCP connection, after a message: memory", "idle tcp after a message: gevpy", 2.0, "KB"),
    Value("idle WebSocket connection: memory", "idle websocket after a message: gevpy", 2.5, "KB"),
    Value("idle WebSocket connection, deflate: memory", "idle websocket deflate: gevpy", 4.0, "KB"),
    Ratio(
        "accepts per second by the floor's (create_server)",
        "per_s",
        ("gevpy", Load(work="accept")),
        ("floor", Load(work="accept")),
        0.85,
        at_most=False,
    ),
    Value("20,000 idle connections under the wheel: CPU", "wheel CPU", 1.0, "% of a core"),
    Value("earliest eviction, after the timeout", "wheel earliest", 0.0, "s", at_most=False),
    Value("latest eviction, after the timeout (tick 0.1 s, loop delay 0.02 s)", "wheel latest", 0.12, "s"),
    *(_two_workers(load) for load in WORKERS),
    Middle(
        "two workers, connect, echo, close: the busier one's share of their CPU",
        "largest_share",
        TWO_WORKERS,
        Load(work="accept"),
        60,
        "%",
    ),
    Middle(
        "two workers, hand-over placement: connect, echo, close",
        "per_s",
        HANDED_OVER,
        Load(work="accept"),
        5000,
        "per s",
        at_most=False,
    ),
    *(_tls(load) for load in TLS),
    *(_redis(load) for load in REDIS_LOADS),
    Value("kill -9 of workers: failed connects that no worker had accepted", "kills: failed, never accepted", 0, ""),
    Value("reloads: failed connects", "reloads: failed", 0, ""),
    Value("worker start to ready, beyond importing the application", "start: beyond the import, s", 0.5, "s"),
)


def _goal(figure: Figure) -> str:
    sign = "<=" if figure.at_most else ">="
    limit = f"{sign} {figure.limit:g}" if figure.low is None else f"{figure.low:g} to {figure.limit:g}"
    return f"{limit} {figure.unit}".rstrip()


def _met(figure: Figure, reached: float) -> bool:
    if figure.low is not None and reached < figure.low:
        return False
    return reached <= figure.limit if figure.at_most else reached >= figure.limit


def judge(results: Results) -> list[dict[str, Any]]:
    """Return a row for every figure: what, goal, reached (None: not measured), met."""
    rows = []
    for figure in FIGURES:
        reached = figure.reached(results)
        met = None if reached is None else _met(figure, reached)
        rows.append({"what": figure.what, "goal": _goal(figure), "reached": reached, "unit": figure.unit, "met": met})
    return rows
