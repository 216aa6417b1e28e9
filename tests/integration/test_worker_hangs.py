"""Row A5: a worker whose loop does not turn is killed, replaced, and told of with the stack of what blocks it."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import SOAK, wait_until
from tests.integration.tree_procs import accepted_ports, age_s, is_running, state_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.tree_harness import Tree

LIMIT_S = 2.0
SMALL_S = 1.0 if SOAK else 2.5
LONG_S = 5.5  # beyond a block: the machine may stall for some of it
GRACE_S = 1.0 if SOAK else 8.0  # a machine with other work to do may have none for us
STACK = r'tree_app\.py", line \d+,? in on_message'


@pytest.mark.parametrize("how", ["spin", "sleep 60", "deadlock"])
def test_a_blocked_worker_is_replaced(tree: Callable[..., Tree], how: str) -> None:
    """A5: be it spinning, asleep, or stuck in C with the interpreter in its hands; the log shows where."""
    with tree(timeouts={"blocked_s": LIMIT_S}, faults_expected=True) as server, server.reach(1) as sock:
        pid = server.pid_of(1)
        started = time.monotonic()
        sock.sendall(how.encode() + b"\n")
        wait_until(lambda: not is_running(pid), "it is killed", 20.0)
        assert time.monotonic() - started <= LIMIT_S + GRACE_S
        wait_until(lambda: server.pid_of(1) not in (0, pid), "it is replaced", 20.0)
        assert {server.who()["slot"] for _ in range(60)} == {0, 1}
        assert "its loop has not turned" in server.log()
        assert re.search(STACK, server.log()), server.log()


def test_a_stopped_worker_is_replaced(tree: Callable[..., Tree]) -> None:
    """A5: SIGSTOP; who waits in its queue is served by others as soon as it is killed: only what it held is lost."""
    with tree(timeouts={"blocked_s": LIMIT_S}, faults_expected=True) as server:
        pid = server.pid_of(1)
        with server.clients(at_once=8) as clients:
            started = time.monotonic()
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: state_of(pid) == "T", "it has stopped")
            accepted = accepted_ports(pid, server.port)
            wait_until(lambda: not is_running(pid), "it is killed", 20.0)
            killed_s = time.monotonic() - started
            wait_until(lambda: server.pid_of(1) not in (0, pid), "it is replaced", 20.0)
        assert killed_s <= LIMIT_S + GRACE_S
        assert {one["port"] for one in clients.report["failures"]} <= set(accepted)
        assert clients.report["slowest_s"] <= LIMIT_S + GRACE_S
        assert {server.who()["slot"] for _ in range(60)} == {0, 1}


def test_a_small_limit_kills_nobody_who_turns(tree: Callable[..., Tree]) -> None:
    """A5: a worker that is well outlives a limit of some beats; for less of a limit see `test_supervisor`."""
    with tree(timeouts={"blocked_s": SMALL_S}) as server:
        pids = [server.pid_of(0), server.pid_of(1)]
        wait_until(lambda: all(age_s(pid) > 2 * SMALL_S for pid in pids), "they have lived", 20.0, 0.1)
        assert [server.pid_of(0), server.pid_of(1)] == pids
        assert "killing" not in server.log()


def test_a_block_below_the_limit_is_forgiven(tree: Callable[..., Tree]) -> None:
    """A5: the limit counts from the loop's last turn, not from the last time the supervisor heard of it."""
    with tree(timeouts={"blocked_s": LONG_S}) as server, server.reach(0) as first, server.reach(1) as second:
        for sock in (first, second):
            sock.sendall(b"sleep %.1f\n" % (LONG_S - 2.5))
        assert [sock.recv(100) for sock in (first, second)] == [b"ok\n"] * 2
        assert "killing" not in server.log()
