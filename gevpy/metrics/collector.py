"""One server's counters as Prometheus metrics, read at the moment of the scrape.

The hot path adds to plain integers (`gevpy.stats`) and knows of no Prometheus. Nothing is copied between scrapes, and
nothing lives in ``prometheus_client.REGISTRY``: several servers in one process each count from 0 on their own.

Every label value comes from a closed enum, or is a worker's number, and every member is always shown, 0 included. So
the number of series never depends on what clients do, and ``rate()`` sees the first event of a kind as an increase.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)

from gevpy.build import build_info
from gevpy.closing import CloseKind
from gevpy.stats import DropReason, RejectReason

if TYPE_CHECKING:
    import enum
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric

    from gevpy.reactor import Reactor

__all__ = ["ServerCollector"]

# name, help, attribute of Stats
PLAIN_COUNTERS = (
    ("gevpy_connections_opened_total", "Connections that were admitted and could carry messages.", "opened"),
    ("gevpy_received_bytes_total", "Bytes read from peers.", "received_bytes"),
    ("gevpy_sent_bytes_total", "Bytes handed to the transports.", "sent_bytes"),
    ("gevpy_received_messages_total", "Messages that were given to the handler.", "received_messages"),
    ("gevpy_sent_messages_total", "Messages packed for sending: replies and sends.", "sent_messages"),
    ("gevpy_handler_errors_total", "Exceptions that left a handler, a protocol or a callback.", "handler_errors"),
)

# name, help, attribute of Stats, the closed list its label comes from
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
        """Keep the reactors, and what never changes."""
        self._reactors = tuple(reactors)
        self._build = build_info()

    def collect(self) -> Iterator[Metric]:
        """Give every metric of the server as it stands now; the names and label sets are always the same."""
        yield self._info()
        yield from self._plain_counters()
        yield from self._reason_counters()
        yield self._handler_seconds()
        yield from self._gauges()
        yield self._buffer_bytes()

    def _info(self) -> Metric:
        build = self._build
        facts = {
            "version": build.version,
            "build": "compiled" if build.compiled else "pure",
            "loop": build.loop,
            "python": build.python,
        }
        return InfoMetricFamily("gevpy", "Which gevpy is running, and on what.", value=facts)

    def _plain_counters(self) -> Iterator[Metric]:
        for name, documentation, attribute in PLAIN_COUNTERS:
            total = sum(getattr(reactor.stats, attribute) for reactor in self._reactors)
            yield CounterMetricFamily(name, documentation, value=total)

    def _reason_counters(self) -> Iterator[Metric]:
        for name, documentation, attribute, reasons in REASON_COUNTERS:
            family = CounterMetricFamily(name, documentation, labels=("reason",))
            counts = [getattr(reactor.stats, attribute) for reactor in self._reactors]
            for reason in reasons:
                family.add_metric((reason.value,), sum(count.get(reason, 0) for count in counts))
            yield family

    def _handler_seconds(self) -> Metric:
        return SummaryMetricFamily(
            "gevpy_handler_seconds",
            HANDLER_SECONDS_HELP,
            count_value=sum(reactor.stats.handler_calls for reactor in self._reactors),
            sum_value=sum(reactor.stats.handler_seconds for reactor in self._reactors),
        )

    def _gauges(self) -> Iterator[Metric]:
        connections = GaugeMetricFamily("gevpy_connections", "Connections open now.", labels=("worker",))
        lag = GaugeMetricFamily("gevpy_loop_lag_seconds", "How late the loop's last tick came.", labels=("worker",))
        for reactor in self._reactors:
            worker = (str(reactor.worker.id),)
            connections.add_metric(worker, len(reactor.connections))
            lag.add_metric(worker, reactor.stats.lag_seconds)
        limit = sum(reactor.admission.max_connections for reactor in self._reactors)
        yield connections
        yield GaugeMetricFamily(
            "gevpy_connections_limit", "Connections that are admitted at once, at most.", value=limit
        )
        yield lag

    def _buffer_bytes(self) -> Metric:
        family = GaugeMetricFamily(
            "gevpy_buffer_bytes",
            "Bytes that wait in the buffers of open connections: read and not handled, or not sent yet.",
            labels=("worker", "direction"),
        )
        for reactor in self._reactors:
            read = write = 0
            for conn in reactor.connections:
                read += conn.read_buffer_length
                write += conn.write_buffer_length
            worker = str(reactor.worker.id)
            family.add_metric((worker, "read"), read)
            family.add_metric((worker, "write"), write)
        return family
