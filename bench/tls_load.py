"""Echoes over TLS: a client on uvloop, in a process of its own, that prints one JSON line as `loadgen` does.

`loadgen` speaks no TLS. This client costs more than it and waits for events, so it may be the limit: what counts is the
server's CPU per message. It checks every byte: contents differ between connections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
import time
from statistics import quantiles
from typing import TYPE_CHECKING, Any, cast

from bench.client import HERE, WARM_UP_S, LoadError, on_core
from bench.server_cpu import ServerCpu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.client import Load

__all__ = ["run_tls_load"]

LIMIT_S = 30


def run_tls_load(
    load: Load, *, port: int, server_pids: Sequence[int], seconds: float, core: int | None
) -> dict[str, Any]:
    """Run `load` for `seconds` after a warm-up, and return what was measured as `run_load` does."""
    options = {"port": port, "size": load.size, "connections": load.connections, "seconds": seconds}
    command = [sys.executable, "-m", "bench.tls_load", *(f"--{name}={value}" for name, value in options.items())]
    command += [f"--server-pid={pid}" for pid in server_pids]
    with on_core(core):
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_S, cwd=HERE.parent)
    if done.returncode:
        message = f"the TLS client said {done.stderr[-300:]!r}"
        raise LoadError(message)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Asker(asyncio.Protocol):
    """Sends a message, waits until all of it has come back, and begins again."""

    def __init__(self, size: int, failures: list[str]) -> None:
        self._message = os.urandom(size)
        self._failures = failures
        self._parts: list[bytes] = []
        self._missing = 0
        self._sent_at = 0.0
        self.times: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Take a part of the echo, and check it when it is whole."""
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return
        self.times.append(time.perf_counter() - self._sent_at)
        if b"".join(self._parts) != self._message:
            self._failures.append("an echo differs from what was sent")
            self._transport.abort()
            return
        self._parts.clear()
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note what must not be."""
        self._failures.append(f"a connection was lost: {exc}")

    def _ask(self) -> None:
        self._missing = len(self._message)
        self._sent_at = time.perf_counter()
        self._transport.write(self._message)


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Open all connections, wait a little, and count for a while."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    failures: list[str] = []
    askers = []
    for _ in range(options.connections):
        _, asker = await loop.create_connection(
            lambda: Asker(options.size, failures), "127.0.0.1", options.port, ssl=context
        )
        askers.append(asker)
    await asyncio.sleep(min(WARM_UP_S, options.seconds / 3))
    for asker in askers:
        asker.times.clear()
    server, began, client = ServerCpu(options.server_pid), time.perf_counter(), time.process_time_ns()
    await asyncio.sleep(options.seconds)
    spent, elapsed = server.spent(), time.perf_counter() - began
    client = time.process_time_ns() - client
    times = [each for asker in askers for each in asker.times]
    if failures or len(times) < 2:
        raise SystemExit(failures[0] if failures else "no echo came")
    cuts = quantiles(times, n=1000)
    facts = {"seconds": elapsed, "count": len(times), "per_s": len(times) / elapsed, **spent}
    facts |= {"client_cpu_ns": client, "client_idle_ns": 0}
    return facts | {"p50_us": cuts[499] * 1e6, "p99_us": cuts[989] * 1e6, "p999_us": cuts[998] * 1e6}


def main() -> None:
    """Measure, and print."""
    import uvloop  # noqa: PLC0415 - the benchmark's own process needs none

    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in (("port", int), ("size", int), ("connections", int), ("seconds", float)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--server-pid", type=int, action="append", default=[])
    print(json.dumps(uvloop.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
