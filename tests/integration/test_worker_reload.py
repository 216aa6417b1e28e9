"""Rows A2, A11 and A13: workers that are replaced, added, removed and recycled, and nobody is turned away."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import SOAK, wait_until
from tests.integration.tree_harness import Tree, ask
from tests.integration.tree_procs import children_of, is_running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONNECTS = 30_000 if SOAK else 1_000
RELOADS = 20 if SOAK else 2
MOST_BYTES = 96 << 20
LEAK_BYTES = 128 << 20


@pytest.mark.parametrize("placement", ["reuseport", "least_connections"])
def test_reload_loses_no_connect(tree: Callable[..., Tree], placement: str) -> None:
    """A2: SIGHUP replaces all workers, one by one; every connect during it is answered."""
    with tree(placement=placement) as server:
        with server.clients(least=CONNECTS, at_once=8) as clients:
            for _ in range(RELOADS):
                before = {server.pid_of(0), server.pid_of(1)}
                server.signal(signal.SIGHUP)

                def replaced(old: set[int] = before) -> bool:
                    now = {server.pid_of(0), server.pid_of(1)}
                    return 0 not in now and not now & old

                wait_until(replaced, "both are new", 30.0, 0.05)
        assert clients.report["failures"] == []
        assert clients.report["served"] >= CONNECTS
        assert server.log().count("is ready after") == 2 + 2 * RELOADS


def test_old_connections_live_through_a_reload(tree: Callable[..., Tree]) -> None:
    """A2: a reload is patient: a connection stays with its old worker until it closes by itself."""
    with tree() as server:
        with server.reach(0) as sock:
            pid = json.loads(ask(sock, "who"))["pid"]
            server.signal(signal.SIGHUP)
            wait_until(lambda: server.pid_of(0) not in (0, pid), "it is replaced", 20.0)
            assert json.loads(ask(sock, "who"))["pid"] == pid
        wait_until(lambda: not is_running(pid), "the old one goes", 20.0)


def test_many_reloads_coalesce(tree: Callable[..., Tree], tmp_path: Path) -> None:
    """A13: 200 SIGHUPs in a row are two reloads, and leave no zombie."""
    hold = tmp_path / "hold"
    with tree(handler={"hold": str(hold)}) as server:
        first = {server.pid_of(0), server.pid_of(1)}
        hold.touch()  # the first reload does not end before the last signal was sent
        server.signal(signal.SIGHUP)
        server.wait_log("reloading:")
        for _ in range(199):
            server.signal(signal.SIGHUP)
        hold.unlink()
        wait_until(lambda: server.log().count("reloaded:") == 2, "both are over", 30.0)
        wait_until(lambda: len(server.workers()) == 2, "the old ones are gone", 20.0)
        assert not {server.pid_of(0), server.pid_of(1)} & (first | {0})
        assert server.log().count("reloading:") == 2
        assert all(is_running(pid) for pid in children_of(server.process.pid))


def test_workers_are_added_and_removed(tree: Callable[..., Tree]) -> None:
    """SIGTTIN and SIGTTOU; a removed worker's listener is still served, and no connect fails."""
    with tree() as server, server.clients() as clients:
        server.signal(signal.SIGTTIN)
        wait_until(lambda: server.pid_of(2), "a third one is ready", 20.0, 0.05)
        assert {server.who()["slot"] for _ in range(120)} == {0, 1, 2}
        third = server.pid_of(2)
        server.signal(signal.SIGTTOU)
        wait_until(lambda: not is_running(third), "it is gone", 20.0, 0.05)
        assert {server.who()["slot"] for _ in range(60)} == {0, 1}
    assert clients.report["failures"] == []


def test_a_worker_that_has_grown_is_drained(tree: Callable[..., Tree]) -> None:
    """A11: above `max_worker_bytes` it is replaced, not killed: it keeps who is connected, and no connect fails."""
    with tree(limits={"max_worker_bytes": MOST_BYTES}) as server:
        pid = server.pid_of(1)
        with server.reach(1) as sock, server.clients(least=100) as clients:
            assert ask(sock, f"leak {LEAK_BYTES}") == "ok"
            wait_until(lambda: server.pid_of(1) not in (0, pid), "it is replaced", 30.0, 0.05)
            assert json.loads(ask(sock, "who"))["pid"] == pid
        wait_until(lambda: not is_running(pid), "it goes when its last connection has gone", 20.0)
        assert clients.report["failures"] == []
        assert "recycling worker 1" in server.log()
        assert "killing" not in server.log()
        assert server.metric("gevpy_worker_restarts_total") == 0
