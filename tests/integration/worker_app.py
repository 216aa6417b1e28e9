"""What `test_worker_application` serves: an application that tells of its worker, and counts what it does."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

import gevpy
from tests.integration.tree_app import TextLines

__all__ = ["Courteous", "Reporter", "Rude"]

logger = logging.getLogger("worker_app")


class Reporter(gevpy.Handler):
    """Answers every line; commands are lines, too."""

    def __init__(self) -> None:
        self.starts = 0
        self.ticks = 0
        self.ballast: list[bytes] = []

    def on_start(self, worker: gevpy.Worker) -> None:
        """Begin to count; metrics are made here, as they can't travel."""
        self.starts += 1
        self.worker = worker
        worker.run_every(0.01, self.tick)
        self.jobs = Counter("app_jobs", "Jobs done.", ["how"])
        self.depth = Gauge("app_depth", "Depth of the queue.")
        self.sizes = Histogram("app_sizes", "Sizes of jobs.", buckets=(1, 10))

    def on_stop(self, worker: gevpy.Worker) -> None:
        """Say so in the log, which is the supervisor's."""
        logger.warning("worker %d stops", worker.id)

    def tick(self) -> None:
        """Count the turns of the worker's timer."""
        self.ticks += 1

    def on_drain(self, conn: gevpy.Connection) -> None:
        """Tell the peer, who may take its time."""
        conn.send("moving")

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> str:
        """Obey."""
        command, _, rest = data.decode().partition(" ")
        match command:
            case "who":
                return json.dumps(self.describe())
            case "sub":
                conn.subscribe(rest)
            case "job":
                self.jobs.labels(how=rest).inc()
                self.sizes.observe(5)
            case "depth":
                self.depth.set(float(rest))
            case "grow":
                self.ballast.append(b"x" * int(rest))
        return "ok"

    def describe(self) -> dict[str, Any]:
        """Tell of the worker."""
        return {
            "pid": os.getpid(),
            "slot": self.worker.id,
            "cpus": sorted(os.sched_getaffinity(0)),
            "starts": self.starts,
            "ticks": self.ticks,
        }


class Rude(Reporter):
    """Fails in ``on_drain``."""

    def on_drain(self, conn: gevpy.Connection) -> None:
        """Fail."""
        raise RuntimeError("no manners")


class Courteous(TextLines):
    """Lines with a goodbye."""

    def goodbye(self, conn: Any, why: str) -> None:
        """Say why the server goes away."""
        conn.send(f"goodbye: {why}")
