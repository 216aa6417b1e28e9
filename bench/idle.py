"""What idle connections cost: memory each, and the CPU and punctuality of the wheel that watches them.

Memory is the growth of the server's resident set over the growth of its connections, after the first 2,000,
which stay open: they take what start-up left free in the allocator, and with it a bias of up to a half.
The kernel's socket buffers are not in it: they belong to no process.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from bench.client import hold_idle
from bench.server_cpu import cpu_seconds
from bench.servers import SERVERS, Running, Unavailable, running

if TYPE_CHECKING:
    from bench.machine import Cores
    from bench.suites import IdleTask, Suite

__all__ = ["measure_idle", "measure_wheel", "wheel_seconds"]

KB = 1024
FIRST_CONNECTIONS = 2000
SETTLE_LIMIT_S = 5.0
SETTLE_STEP_S = 0.25
OPEN_PER_S = 5000
"""loadgen's pace, `IDLE_CONNECTS_PER_S`."""

WHEEL_MARGIN_S = 2.0
"""The CPU interval ends so long before the first connection may be evicted."""

SHORTEST_WATCH_S = 3.0


def measure_idle(task: IdleTask, connections: int, cores: Cores) -> float:
    """Return the server's memory per idle connection, in KB."""
    deflate = task.state == "deflate"
    protocol = "raw" if task.mode == "tcp" else task.mode
    extra = ("--deflate",) if deflate else ()
    with running(SERVERS[task.server], protocol, core=cores.server, extra=extra) as server:
        hold = functools.partial(
            hold_idle,
            task.mode,
            port=server.port,
            message=task.state == "after a message",
            deflate=deflate,
            core=cores.client,
        )
        with hold(connections=FIRST_CONNECTIONS):
            before = _settled(server)
            with hold(connections=connections):
                after = _settled(server)
    return (after - before) / connections / KB


def _settled(server: Running) -> int:
    """Return the resident memory once it has stopped changing: accepting may lag behind connecting."""
    deadline = time.monotonic() + SETTLE_LIMIT_S
    last = -1
    while (now := server.resident_bytes()) != last and time.monotonic() < deadline:
        last = now
        time.sleep(SETTLE_STEP_S)
    return now


def wheel_seconds(suite: Suite) -> float:
    """Return how long `measure_wheel` takes."""
    if not suite.wheel_connections:
        return 0.0
    return suite.wheel_timeout_s + suite.wheel_connections / OPEN_PER_S + 1.5


def measure_wheel(suite: Suite, cores: Cores) -> dict[str, float]:
    """Open connections, watch them idle, and see when gevpy evicts them.

    Each sends one message. "Earliest" counts from the moment the client sent it, "latest" from the moment
    the echo came back: the server's own clock starts between the two, so neither flatters.
    """
    timeout_s = suite.wheel_timeout_s
    extra = (f"--idle-timeout-s={timeout_s}",)
    with (
        running(SERVERS["gevpy"], "raw", core=cores.server, extra=extra) as server,
        hold_idle(
            "tcp",
            port=server.port,
            connections=suite.wheel_connections,
            message=True,
            core=cores.client,
            seconds=4 * timeout_s,
        ) as idle,
    ):
        watch_s = timeout_s - idle.opened_s - WHEEL_MARGIN_S
        if watch_s < SHORTEST_WATCH_S:
            reason = f"opening the connections took {idle.opened_s:.0f} s: this machine is too busy"
            raise Unavailable(reason)
        before = cpu_seconds(server.pid)
        time.sleep(watch_s)
        cpu = cpu_seconds(server.pid) - before
        closed = idle.wait_closed()
    if closed["closed_by_server"] < suite.wheel_connections:
        reason = f"only {closed['closed_by_server']} connections were evicted"
        raise Unavailable(reason)
    return {
        "wheel connections": suite.wheel_connections,
        "wheel CPU": 100 * cpu / watch_s,
        "wheel earliest": closed["min_since_send_s"] - timeout_s,
        "wheel latest": closed["max_since_receive_s"] - timeout_s,
    }
