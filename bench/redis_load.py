"""Redis's own load generator against a server that speaks its protocol: pipelines of commands, 50 connections.

`redis-benchmark` counts requests, not seconds, so a short run first tells how many fit. Its table has no 99.9th
percentile; what stands in its place is the slowest of all.
"""

from __future__ import annotations

import csv
import resource
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from bench.client import LoadError, on_core
from bench.server_cpu import ServerCpu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.client import Load

__all__ = ["run_redis_load"]

WARM_UP_REQUESTS = 20_000
LIMIT_S = 60


def run_redis_load(
    load: Load, *, port: int, server_pids: Sequence[int], seconds: float, core: int | None
) -> dict[str, Any]:
    """Send `load.work` commands for about so many seconds, and return what was measured as `run_load` does."""
    pace = _benchmark(load, port, WARM_UP_REQUESTS, core)["rps"]
    count = max(WARM_UP_REQUESTS, int(pace * seconds))
    server, client_before = ServerCpu(server_pids), _children_seconds()
    row = _benchmark(load, port, count, core)
    spent, client_s = server.spent(), _children_seconds() - client_before
    return {
        "seconds": count / row["rps"],
        "count": count,
        "per_s": row["rps"],
        **spent,
        "client_cpu_ns": client_s * 1e9,
        "client_idle_ns": 0,
        "p50_us": 1000 * row["p50_latency_ms"],
        "p99_us": 1000 * row["p99_latency_ms"],
        "p999_us": 1000 * row["max_latency_ms"],
    }


def _benchmark(load: Load, port: int, count: int, core: int | None) -> dict[str, float]:
    program = shutil.which("redis-benchmark")
    if program is None:
        message = "no redis-benchmark on this machine: it is in Debian's redis-tools"
        raise LoadError(message)
    command = [program, "-h", "127.0.0.1", "-p", str(port), "-n", str(count), "-t", load.work, "--csv"]
    command += ["-P", str(load.depth), "-c", str(load.connections)]
    with on_core(core):
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_S)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    if done.returncode or len(rows) != 1:
        message = f"redis-benchmark said {done.stdout[-200:]!r}, {done.stderr[-200:]!r}"
        raise LoadError(message)
    return {name: float(value) for name, value in rows[0].items() if name != "test"}


def _children_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
