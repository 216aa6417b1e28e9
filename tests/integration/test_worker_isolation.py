"""Rows A10, A14 and F8: what a worker holds, and what one that has gone mad, or its peers, can do to the supervisor."""

from __future__ import annotations

import ast
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gevpy
from tests.integration.harness import SOAK, open_descriptors, wait_until
from tests.integration.tree_app import ABUSES, LIES
from tests.integration.tree_harness import Tree, ask
from tests.integration.tree_procs import descriptors_of, is_running, listeners_of

if TYPE_CHECKING:
    from collections.abc import Callable

BAD_CLIENTS = 100_000 if SOAK else 1_000
MAX_LINES = 100
TOO_LONG = "x" * 9_000  # for a line
EVIL = "\r\n\x1b[31mERROR forged\x00\x7f\u2028\u202e"


# -- descriptors -----------------------------------------------------------------------------------


def test_a_worker_holds_only_its_own_descriptors(shared_tree: Tree) -> None:
    """A10: of all listeners its own, once; beside that control channel, alarm, clients, and the loop's pair."""
    kept = listeners_of(shared_tree.process.pid)
    own = [listeners_of(shared_tree.pid_of(slot)) for slot in (0, 1)]
    assert [len(sockets) for sockets in own] == [1, 1]
    assert own[0] != own[1]
    assert own[0] | own[1] <= kept
    for slot in (0, 1):
        with shared_tree.reach(slot) as sock:
            wait_until(lambda: ask(sock, "fds").count('"socket:') <= 6, "other clients are gone")


def test_what_a_worker_spawns_holds_none_of_them(shared_tree: Tree) -> None:
    """A10: a program that a handler starts gets stdin, stdout and stderr, although it may inherit all that can be."""
    with shared_tree.reach(1) as sock:
        pid = int(ask(sock, "spawn"))
        try:
            wait_until(lambda: Path(f"/proc/{pid}/comm").read_text(encoding="ascii") == "sleep\n", "it has begun")
            # What it was given stays; what it opens itself, to begin with, goes.
            wait_until(lambda: set(descriptors_of(pid)) <= {0, 1, 2}, "it holds nothing else")
        finally:
            os.kill(pid, signal.SIGKILL)


def test_what_a_worker_spawned_does_not_hide_its_death(mad_tree: Tree) -> None:
    """A10: a worker that dies is replaced, although a program it has started lives on."""
    worker = mad_tree.pid_of(1)
    with mad_tree.reach(1) as sock:
        pid = int(ask(sock, "spawn"))
        try:
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: mad_tree.pid_of(1) not in (0, worker), "it is replaced", 20.0, 0.05)
            assert is_running(pid)
        finally:
            os.kill(pid, signal.SIGKILL)


def test_nothing_leaks_over_restarts(tree: Callable[..., Tree]) -> None:
    """A10: neither over reloads: the supervisor holds no descriptor of workers that are gone."""
    with tree() as server:

        def reload(number: int) -> int:
            server.signal(signal.SIGHUP)
            wait_until(lambda: server.log().count("reloaded: ") == number, "both are replaced", 30.0, 0.05)
            wait_until(lambda: len(server.workers()) == 2, "the old ones are gone", 20.0, 0.05)
            return open_descriptors(server.process.pid)

        before = reload(1)
        for number in (2, 3):
            reload(number)
        wait_until(lambda: open_descriptors(server.process.pid) <= before, "no descriptor stays")


# -- the control channel ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", [*ABUSES, "descriptors"])
def test_a_worker_that_talks_nonsense_is_replaced(mad_tree: Tree, how: str) -> None:
    """A14: garbage, a length of 1 GiB, 250 descriptors: that worker ends, and costs the supervisor nothing."""
    pid = mad_tree.pid_of(1)
    before = open_descriptors(mad_tree.process.pid)
    with mad_tree.reach(1) as sock:
        sock.sendall(f"abuse {how}\n".encode())
        wait_until(lambda: not is_running(pid), "it is killed")
        mad_tree.wait_log(rf"killing worker 1 \(pid {pid}\): its control channel failed: ")
    wait_until(lambda: mad_tree.pid_of(1) not in (0, pid), "it is replaced", 20.0, 0.05)
    wait_until(lambda: open_descriptors(mad_tree.process.pid) <= before, "no descriptor stays")
    assert {mad_tree.who()["slot"] for _ in range(60)} == {0, 1}


@pytest.mark.parametrize("payload", LIES)
def test_a_worker_that_lies_is_replaced(mad_tree: Tree, payload: str) -> None:
    """A14: a beat as it should be, with figures that are none: the worker ends, and the others' still add up."""
    pid = mad_tree.pid_of(1)
    with mad_tree.reach(1) as sock:
        sock.sendall(f"lie {payload}\n".encode())
        wait_until(lambda: not is_running(pid), "it is killed")
    wait_until(lambda: mad_tree.pid_of(1) not in (0, pid), "it is replaced", 20.0, 0.05)
    assert mad_tree.get("/metrics")[0] == 200
    assert "Traceback" not in mad_tree.log(), mad_tree.log()


def test_nothing_is_ever_unpickled() -> None:
    """A14: no module that reads what workers, or other machines, send can import pickle or marshal."""
    package = Path(gevpy.__file__).parent
    readers = ["control", "control_messages", "child", "supervisor", "gather", "tree", "tree_source", "worker_process"]
    paths = [package / f"{name}.py" for name in readers] + sorted((package / "pubsub").glob("*.py"))
    imported = {path.name: _imports(path) for path in paths if path.exists()}
    assert len(imported) >= 5
    assert not {name: found for name, found in imported.items() if found & {"pickle", "marshal", "shelve", "dill"}}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


# -- the log ---------------------------------------------------------------------------------------


def test_bad_clients_of_all_workers_share_a_few_lines(shared_tree: Tree) -> None:
    """F8: a flood of clients that break the protocol is counted one by one, and logged in a few lines."""
    before = len(shared_tree.log().splitlines())
    with shared_tree.clients(least=BAD_CLIENTS, at_once=8, line=TOO_LONG, rejected=True) as clients:
        pass
    served = clients.report["served"]
    assert served >= BAD_CLIENTS
    series = 'gevpy_connections_closed_total{reason="frame_too_large"}'
    wait_until(lambda: f"{series} {served:.1f}" in shared_tree.get("/metrics")[1], "all are counted")
    assert 1 <= len(shared_tree.log().splitlines()) - before <= MAX_LINES
    assert clients.report["failures"] == []


def test_what_peers_send_forges_no_line(loop: str, tmp_path: Path) -> None:
    """F8: a worker's error that quotes the payload, control characters and all, is escaped in the server's log."""
    with Tree(loop, tmp_path / "log", {"workers": 2}, faults_expected=True) as server:
        with server.connect() as sock:
            sock.sendall(b"fail " + EVIL.encode().hex().encode() + b"\n")
            assert sock.recv(1) == b""
        server.wait_log("error in on_message")
        log = server.log_path.read_bytes().decode()
        assert not [line for line in log.split("\n") if line.lstrip().startswith(("ERROR forged", "\x1b"))]
        assert not set(EVIL) - {"\n", *" ERRORforged[31m"} & set(log)
