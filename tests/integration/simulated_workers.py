"""A metrics port over four workers that don't exist: each look at them is one second later than the one before.

For the live page's tests and its picture in the docs: however fast a browser asks, it sees a quiet afternoon, with
waves of clients, and a worker that dies and comes back.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily

from gevpy.build import VERSION
from gevpy.metrics.endpoint import MetricsEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

START = 1_700_000_000.0
WORKERS = 4
DIES_AT = 40  # seconds after the first look
IS_BACK_AT = 50
MIB = 1 << 20


class SimulatedWorker:
    """A worker with clients that come and go in waves."""

    def __init__(self, number: int) -> None:
        self._noise = random.Random(number)
        self._share = (1.0, 0.92, 1.08, 0.97)[number % 4]
        self.number = number
        self.pid = 4100 + number
        self.state = "ready"
        self.restarts = 0
        self.started_at = 0
        self.counts = dict.fromkeys(
            ("opened", "received_bytes", "sent_bytes", "received_messages", "sent_messages", "handler_errors",
             "dropped_messages", "rejected"), 0,
        )  # fmt: skip
        self.connections = 0
        self.lag_s = 0.0
        self.buffered = (0, 0)

    def live(self, second: int) -> None:
        """Let one second pass."""
        if self.number == 2 and second == DIES_AT:
            self.counts = dict.fromkeys(self.counts, 0)
            self.state, self.pid, self.connections, self.lag_s, self.buffered = "backing off", 0, 0, 0.0, (0, 0)
        if self.number == 2 and second == IS_BACK_AT:
            self.state, self.pid, self.restarts, self.started_at = "ready", 4177, 1, second
        if self.state == "ready":
            self._work(second)

    def _work(self, second: int) -> None:
        wave = 0.62 + 0.3 * math.sin(second / 55) + 0.08 * math.sin(second / 13)
        grown = min(1.0, (second - self.started_at + 4) / 25)
        noise = self._noise.gauss(1, 0.025)
        aim = int(900 * wave * grown * self._share)
        self.counts["opened"] += max(0, aim - self.connections) + self._noise.randrange(4)
        self.connections = aim
        messages = int(self.connections * 21 * noise)
        self.counts["received_messages"] += messages
        self.counts["sent_messages"] += int(messages * 0.94)
        self.counts["received_bytes"] += messages * 118
        self.counts["sent_bytes"] += int(messages * 0.94) * 305
        self.counts["handler_errors"] += self._noise.random() < 0.01
        self.counts["dropped_messages"] += self._noise.random() < 0.02
        self.lag_s = abs(self._noise.gauss(0.0011, 0.0005)) + (0.012 if self._noise.random() < 0.01 else 0)
        self.buffered = (self._noise.randrange(8192), int(messages * abs(self._noise.gauss(9, 4))))

    def status(self, second: int) -> dict[str, Any]:
        """Give its part of the document."""
        return {
            "id": self.number,
            "pid": self.pid,
            "state": self.state,
            "restarts": self.restarts,
            "uptime_s": float(second - self.started_at) if self.pid else 0.0,
            "rss_bytes": 31 * MIB + self.connections * 2048 if self.pid else 0,
            "lag_s": self.lag_s,
            "blocked_s": 0.0,
            "connections": self.connections,
            **self.counts,
            "read_buffer_bytes": self.buffered[0],
            "write_buffer_bytes": self.buffered[1],
        }


class SimulatedSource:
    """What the supervisor of these workers would say.

    Args:
        addresses: where it says that it listens.
    """

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses
        self._second = 0
        self._workers = [SimulatedWorker(number) for number in range(WORKERS)]
        self._gone = dict.fromkeys(self._workers[0].counts, 0)

    async def refresh(self) -> None:
        """Let one second pass."""
        self._second += 1
        for worker in self._workers:
            before = worker.counts
            worker.live(self._second)
            if worker.counts is not before:  # it has died: what it counted goes on counting
                self._gone = {key: count + before[key] for key, count in self._gone.items()}

    def collect(self) -> Iterator[Metric]:
        """Give nearly nothing."""
        yield CounterMetricFamily("simulated_seconds", "How many have passed.", value=self._second)

    def trouble(self) -> str:
        """Know of none."""
        return ""

    def stats(self) -> dict[str, Any]:
        """Give the document."""
        workers = [worker.status(self._second) for worker in self._workers]
        gauges = ("connections", "read_buffer_bytes", "write_buffer_bytes")
        return {
            "version": VERSION,
            "started_at": START,
            "now": START + self._second,
            "state": "ready",
            "addresses": self._addresses,
            "restarts": sum(worker["restarts"] for worker in workers),
            "total": {key: sum(worker[key] for worker in workers) for key in gauges}
            | {key: gone + sum(worker[key] for worker in workers) for key, gone in self._gone.items()},
            "workers": workers,
        }


async def main() -> None:
    """Listen, say where, and go on until killed."""
    endpoint = await MetricsEndpoint.start("127.0.0.1:0", SimulatedSource(sys.argv[1:] or ["127.0.0.1:1833"]))
    print(f"metrics on http://{endpoint.address}/", flush=True)  # noqa: T201 - so the test learns it
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
