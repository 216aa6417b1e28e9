"""Rows B4 to B6 and F6 with workers: floods of connects, of data, of labels, and queues that are full."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from gevpy.machine import listen_overflows
from tests.integration.harness import SOAK, best_of, percentile, wait_until
from tests.integration.tree_harness import Tree, ask
from tests.integration.tree_procs import queues_of, state_of
from tests.integration.tree_storm import samples_of

if TYPE_CHECKING:
    from collections.abc import Callable

PER_IP = 20
FLOODER, QUIET = "127.0.0.2", "127.0.0.3"
VISITS = 400 if SOAK else 100
BUSY = 200 if SOAK else 50
MAX_P99_S = 0.1
ROUNDS = 10  # the machine's noise spoils some, a fault of the server all
BACKLOG = 16
WAITING = 100  # so many that neither of two queues stays short
LABELLED = 50_000 if SOAK else 500
MAX_SERIES = 300


def visit_s(server: Tree, source: str) -> float:
    """Connect from ``source``, be answered, and give the seconds it took."""
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10, source_address=(source, 0)) as sock:
        assert ask(sock, "who")
    return time.perf_counter() - started


def p99_s(server: Tree) -> float:
    """Give the 99th percentile of many visits in a row."""
    return percentile([visit_s(server, QUIET) for _ in range(VISITS)], 0.99)


def test_a_flood_of_one_address_is_no_concern_of_another(tree: Callable[..., Tree]) -> None:
    """B4: what one address floods beyond its share is refused and counted; another one is served as if alone."""
    with tree(limits={"max_connections_per_ip": PER_IP}) as server:
        idle_s = best_of(2, lambda: p99_s(server), 0.0)
        with server.clients(least=10 * PER_IP, at_once=2, source=FLOODER, keep=2 * PER_IP, patience_s=30) as flood:
            most_s = 3 * idle_s if SOAK else max(3 * idle_s, MAX_P99_S)
            busy_s = best_of(ROUNDS, lambda: p99_s(server), most_s)
        assert busy_s <= most_s, (idle_s, busy_s)
        figures = samples_of(server.get("/metrics")[1])
        assert flood.report["failed"] > 0
        refused = figures['gevpy_connections_rejected_total{reason="max_connections_per_ip"}']
        assert refused >= flood.report["failed"]
        assert server.log().count("max_connections_per_ip") < 50


def test_busy_data_leaves_room_for_new_connections(shared_tree: Tree) -> None:
    """B5: beside sockets that send without a pause a new connection is accepted and answered within 100 ms."""
    with shared_tree.clients(busy=BUSY) as clients:
        assert best_of(ROUNDS, lambda: p99_s(shared_tree), MAX_P99_S) <= MAX_P99_S
    assert clients.report["received"] > 0


def test_a_full_queue_makes_clients_wait(tree: Callable[..., Tree]) -> None:
    """B6: workers that accept nothing leave backlog + 1 connections in each queue; the rest are let in when they do."""
    with tree(backlog=BACKLOG) as server:
        pids = [server.pid_of(0), server.pid_of(1)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: {state_of(pid) for pid in pids} == {"T"}, "they have stopped")
        before = listen_overflows()
        socks = [socket.socket() for _ in range(WAITING)]
        for sock in socks:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", server.port))
        # As the kernel counts: a client may take itself for connected, and not be in the queue yet.
        wait_until(lambda: queues_of(server.port) == [BACKLOG + 1] * 2, "the queues are full")
        wait_until(lambda: listen_overflows() - before >= WAITING - 2 * (BACKLOG + 1), "the others are turned away")
        assert queues_of(server.port) == [BACKLOG + 1] * 2

        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        for sock in socks:
            sock.settimeout(20)  # the kernel tries again after 1 s, 2 s, 4 s
            wait_until(lambda: is_connected(sock), "it is let in", 20.0)  # noqa: B023 - called at once
            assert json.loads(ask(sock, "who"))["pid"] in pids
            sock.close()


def is_connected(sock: socket.socket) -> bool:
    """Tell whether a connect is through."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def test_labels_don_t_depend_on_clients(shared_tree: Tree) -> None:
    """F6: whoever comes, from wherever, with whatever topics and ends: the same series, and at most 300 a worker."""
    for slot in (0, 1):  # what is charged to no message has its series once a loop was late
        shared_tree.reach(slot).close()
    before = samples_of(shared_tree.get("/metrics")[1])
    for number in range(2, 6):
        with shared_tree.clients(least=LABELLED // 8, source=f"127.0.0.{number}", line="sub topic-{}") as clients:
            pass
        assert clients.report["failures"] == []
        with shared_tree.clients(least=LABELLED // 8, line="x" * 9_000 + "{}", rejected=True) as clients:
            pass
    after = samples_of(shared_tree.get("/metrics")[1])
    late = {series for series in after if series.startswith("gevpy_loop_blocked_seconds")}
    assert after.keys() - late == {series for series in before if not series.startswith("gevpy_loop_blocked_seconds")}
    assert len(after) <= 2 * MAX_SERIES
