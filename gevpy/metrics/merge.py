"""The application's own metrics of many processes, as one.

Each worker process has a ``prometheus_client.REGISTRY`` of its own. A worker writes its families down as plain data,
the supervisor puts them together: counters, histograms and summaries add up, workers that are gone included, so that
none ever falls; gauges and whatever else can't be added carry the worker's number.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY
from prometheus_client.core import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import CollectorRegistry

__all__ = ["Family", "families_of", "merge", "retired"]

Family = list[Any]
"""``[name, type, documentation, unit, [[sample name, {label: value}, number], ...]]``."""

ADDED = frozenset({"counter", "histogram", "summary"})
OWN_WORKER = "exported_worker"
CREATED = "_created"  # the time at which a counter began: the earliest is the whole's


def families_of(registry: CollectorRegistry = REGISTRY) -> list[Family]:
    """Write down what a registry holds now. Raises whatever one of its collectors raises."""
    return [_written(metric) for metric in registry.collect()]


def _written(metric: Metric) -> Family:
    # As prometheus_client writes them: a collector of the application's own may give any kind of number.
    samples = [[sample.name, sample.labels, float(sample.value)] for sample in metric.samples]
    return [metric.name, metric.type, metric.documentation, metric.unit, samples]


def retired(past: Iterable[Family], gone: Iterable[Family]) -> list[Family]:
    """Add the counters of a worker that is gone to those of others that are: what stays of it."""
    return [_written(metric) for metric in merge({"": past, " ": gone}) if metric.type in ADDED]


def merge(workers: Mapping[str, Iterable[Family]]) -> Iterator[Metric]:
    """Put the families of several processes together.

    Args:
        workers: by what the label ``worker`` will say; past workers under a name that no worker has: of them only what
            adds up is taken.
    """
    found: dict[str, Metric] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for worker, families in workers.items():
        for name, kind, documentation, unit, samples in families:
            with suppress(ValueError):  # no name or type that prometheus_client knows
                found.setdefault(name, Metric(name, documentation, kind, unit))
            metric = found.get(name)
            if metric is None or metric.type != kind:
                continue  # two processes disagree on what it is; the first is believed
            if kind in ADDED:
                _add(sums.setdefault(name, {}), samples)
            else:
                for sample_name, labels, number in samples:
                    metric.add_sample(sample_name, _labelled(labels, worker), number)
    for name, metric in found.items():
        for (sample_name, labels), number in sums.get(name, {}).items():
            metric.add_sample(sample_name, dict(labels), number)
    yield from found.values()


def _labelled(labels: Mapping[str, str], worker: str) -> dict[str, str]:
    """Add the worker; a label of the application's with that name is renamed as Prometheus renames it."""
    return {OWN_WORKER if name == "worker" else name: value for name, value in labels.items()} | {"worker": worker}


def _add(sums: dict[tuple[str, tuple[tuple[str, str], ...]], float], samples: Iterable[Any]) -> None:
    for name, labels, number in samples:
        key = (name, tuple(sorted(labels.items())))
        if name.endswith(CREATED):
            sums[key] = min(sums.get(key, number), number)
        else:
            sums[key] = sums.get(key, 0.0) + number
