"""One server's counters as Prometheus metrics, read at the moment of the scrape.

The hot path adds to plain integers (`gevpy.stats`) and knows of no Prometheus. Nothing is copied between scrapes, and
nothing lives in ``prometheus_client.REGISTRY``: several servers in one process each count from 0 on their own.

Every label value comes from a closed enum, or is a worker's number, and every member is always shown, 0 included. So
the number of series never depends on what clients do, and ``rate()`` sees the first event of a kind as an increase.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)

from gevpy import machine
from gevpy.build import build_info
from gevpy.closing import CloseKind
from gevpy.metrics.snapshot import Snapshot, total
from gevpy.restarts import RestartReason
from gevpy.stats import DropReason, RejectReason

if TYPE_CHECKING:
    import enum
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from gevpy.reactor import Reactor

__all__ = ["ServerCollector", "families"]

WORKER_STATES = ("starting", "ready", "backing off", "failed", "draining")

# name, help, name in a snapshot
PLAIN_COUNTERS = (
    ("gevpy_connections_opened_total", "Connections that were admitted and could carry messages.", "opened"),
    ("gevpy_received_bytes_total", "Bytes read from peers.", "received_bytes"),
    ("gevpy_sent_bytes_total", "Bytes handed to the transports.", "sent_bytes"),
    ("gevpy_received_messages_total", "Messages that were given to the handler.", "received_messages"),
    ("gevpy_sent_messages_total", "Messages packed for sending: replies and sends.", "sent_messages"),
    ("gevpy_handler_errors_total", "Exceptions that left a handler, a protocol or a callback.", "handler_errors"),
)

# name, help, table of a snapshot, the closed list its label comes from
REASON_COUNTERS: tuple[tuple[str, str, str, type[enum.StrEnum]], ...] = (
    ("gevpy_connections_closed_total", "Connections closed, by reason.", "closed", CloseKind),
    (
        "gevpy_connections_rejected_total",
        "Connections refused at the door, by reason; for out_of_descriptors: pauses of accepting.",
        "rejected",
        RejectReason,
    ),
    ("gevpy_dropped_messages_total", "Messages to be sent that were dropped, by reason.", "dropped", DropReason),
)

HANDLER_SECONDS_HELP = (
    "Wall time of handler work. The count is of batches, not of messages: one for all messages of one read, "
    "one for each message of an asynchronous handler."
)


class ServerCollector:
    """A prometheus_client collector over the reactors of one server.

    Register it in a registry of your own, never in the global one: two servers would clash there.

    Args:
        reactors: the server's loops; each shows its own gauges, the counters are sums.

    For the loop of the reactors, like all they hold.

    Example:
        >>> registry = prometheus_client.CollectorRegistry()  # doctest: +SKIP
        >>> registry.register(ServerCollector([reactor]))  # doctest: +SKIP
    """

    def __init__(self, reactors: Sequence[Reactor]) -> None:
        """Keep the reactors."""
        self._reactors = tuple(reactors)

    def collect(self) -> Iterator[Metric]:
        """Give every metric of the server as it stands now; the names and label sets are always the same."""
        yield from families([Snapshot.of(reactor) for reactor in self._reactors])


def families(
    workers: Sequence[Snapshot],
    past: Snapshot | None = None,
    *,
    restarts: Mapping[RestartReason, int] = MappingProxyType({}),
    states: Sequence[str] = ("ready",),
) -> Iterator[Metric]:
    """Give every metric of a server; the names and label sets are always the same.

    Args:
        workers: what each worker has counted; gauges carry its number.
        past: what workers that are gone have counted, so that no counter ever falls.
        restarts: how often workers were replaced because they died, by reason.
        states: of the workers' slots.
    """
    whole = total([*workers, past] if past is not None else workers)
    yield _info()
    yield from _plain_counters(whole)
    yield from _reason_counters(whole)
    yield _handler_seconds(whole)
    yield _restarts(restarts)
    yield _listen_overflows()
    yield _blocked_seconds(whole)
    yield _states(states)
    yield from _gauges(workers)
    yield _buffer_bytes(workers)


def _info() -> Metric:
    build = build_info()
    facts = {
        "version": build.version,
        "build": "compiled" if build.compiled else "pure",
        "loop": build.loop,
        "python": build.python,
    }
    return InfoMetricFamily("gevpy", "Which gevpy is running, and on what.", value=facts)


def _plain_counters(whole: Snapshot) -> Iterator[Metric]:
    for name, documentation, counter in PLAIN_COUNTERS:
        yield CounterMetricFamily(name, documentation, value=whole.counters[counter])


def _reason_counters(whole: Snapshot) -> Iterator[Metric]:
    for name, documentation, table, reasons in REASON_COUNTERS:
        family = CounterMetricFamily(name, documentation, labels=("reason",))
        for reason in reasons:
            family.add_metric((reason.value,), whole.tables[table].get(reason.value, 0))
        yield family


def _handler_seconds(whole: Snapshot) -> Metric:
    return SummaryMetricFamily(
        "gevpy_handler_seconds",
        HANDLER_SECONDS_HELP,
        count_value=int(whole.counters["handler_calls"]),
        sum_value=whole.counters["handler_seconds"],
    )


def _restarts(restarts: Mapping[RestartReason, int]) -> Metric:
    family = CounterMetricFamily(
        "gevpy_worker_restarts_total", "Workers that died and were replaced, by reason.", labels=("reason",)
    )
    for reason in RestartReason:
        family.add_metric((reason.value,), restarts.get(reason, 0))
    return family


def _listen_overflows() -> Metric:
    what = "Connections that met a full accept queue on this machine, of whichever server; 0 where it isn't known."
    return CounterMetricFamily("gevpy_listen_overflows_total", what, value=machine.listen_overflows())


def _blocked_seconds(whole: Snapshot) -> Metric:
    family = CounterMetricFamily(
        "gevpy_loop_blocked_seconds_total",
        "Time for which a loop was blocked, by the handler's method and the kind of message.",
        labels=("where", "kind"),
    )
    for place, seconds in (whole.blocked or {"other|": 0.0}).items():
        where, _, kind = place.partition("|")
        family.add_metric((where, kind), seconds)
    return family


def _states(states: Sequence[str]) -> Metric:
    family = GaugeMetricFamily("gevpy_workers", "Workers, by state.", labels=("state",))
    for state in WORKER_STATES:
        family.add_metric((state,), sum(one == state for one in states))
    return family


def _gauges(workers: Sequence[Snapshot]) -> Iterator[Metric]:
    connections = GaugeMetricFamily("gevpy_connections", "Connections open now.", labels=("worker",))
    lag = GaugeMetricFamily("gevpy_loop_lag_seconds", "How late the loop's last tick came.", labels=("worker",))
    resident = GaugeMetricFamily(
        "gevpy_worker_resident_bytes", "Resident memory of the worker's process.", labels=("worker",)
    )
    for number, several in _by_number(workers).items():
        connections.add_metric((number,), sum(one.connections for one in several))
        lag.add_metric((number,), max(one.lag_seconds for one in several))
        resident.add_metric((number,), sum(one.rss_bytes for one in several))
    limit = sum(one.limit for one in workers)
    yield connections
    yield GaugeMetricFamily("gevpy_connections_limit", "Connections that are admitted at once, at most.", value=limit)
    yield lag
    yield resident


def _buffer_bytes(workers: Sequence[Snapshot]) -> Metric:
    family = GaugeMetricFamily(
        "gevpy_buffer_bytes",
        "Bytes that wait in the buffers of open connections: read and not handled, or not sent yet.",
        labels=("worker", "direction"),
    )
    for number, several in _by_number(workers).items():
        family.add_metric((number, "read"), sum(one.read_buffer_bytes for one in several))
        family.add_metric((number, "write"), sum(one.write_buffer_bytes for one in several))
    return family


def _by_number(workers: Sequence[Snapshot]) -> dict[str, list[Snapshot]]:
    """Gather the snapshots of each slot: while one is replaced, there are two processes in it."""
    found: dict[str, list[Snapshot]] = {}
    for one in workers:
        found.setdefault(str(one.worker), []).append(one)
    return found
