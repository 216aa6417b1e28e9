"""Rows A6, A7, A9 and A12: workers that start slowly, badly or not at all, and servers that can't begin."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import SOAK, wait_until
from tests.integration.tree_harness import Tree, ask, run_program
from tests.integration.tree_procs import kill, state_of
from tests.integration.tree_storm import samples_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOCKED_S = 2.5
START_S = 6.0
MAX_HANG_S = 1.0
WAITING = 40  # so many that the queue of one of two workers does not stay empty

WORKER_FAILS = """
import multiprocessing

import gevpy

if multiprocessing.parent_process() is not None:
    raise ImportError("no module named 'numpy' today")


class Echo(gevpy.Handler):
    def on_message(self, conn, ctx, data):
        return data
"""

START_FAILS = """
import gevpy


class Bad(gevpy.Handler):
    def on_start(self, worker):
        raise ValueError("no database")

    def on_message(self, conn, ctx, data):
        return data
"""

UNGUARDED = """
import gevpy


class Echo(gevpy.Handler):
    def on_message(self, conn, ctx, data):
        return data


async def main():
    await gevpy.serve(Echo(), port=0, workers=2)


gevpy.run(main())
"""

INSIDE_A_LOOP = """
import asyncio

import gevpy


async def main():
    gevpy.run(main())


if __name__ == "__main__":
    asyncio.run(main())
"""

SECOND = """
import gevpy
from tests.integration.tree_app import Tell


async def main():
    await gevpy.serve(Tell(), port={port}, workers=2)


if __name__ == "__main__":
    gevpy.run(main())
"""


# -- slowly ----------------------------------------------------------------------------------------


def starting(server: Tree) -> float:
    """Give for how long a worker has been starting, or 0."""
    return max((float(one["uptime_s"]) for one in server.workers() if one["state"] == "starting"), default=0.0)


def test_a_slow_start_is_no_hang(tree: Callable[..., Tree], tmp_path: Path) -> None:
    """A6: a start has a limit of its own, not that of a blocked loop."""
    hold = tmp_path / "hold"
    with tree(timeouts={"blocked_s": BLOCKED_S}, handler={"hold": str(hold)}) as server:
        first = server.pid_of(0)
        hold.touch()
        server.signal(signal.SIGHUP)
        wait_until(lambda: starting(server) > BLOCKED_S + 1.0, "it takes its time", 20.0, 0.05)
        hold.unlink()
        wait_until(lambda: server.pid_of(0) not in (0, first), "it is ready", 20.0, 0.05)
        server.wait_log("reloaded:", 20.0)
        assert "killing" not in server.log()


def test_a_start_that_takes_too_long_is_given_up(tree: Callable[..., Tree], tmp_path: Path) -> None:
    """A6: beyond `start_s` a new worker is killed, and the old one stays."""
    hold = tmp_path / "hold"
    with tree(timeouts={"start_s": START_S}, handler={"hold": str(hold)}) as server:
        first = server.pid_of(0)
        assert first
        hold.touch()
        server.signal(signal.SIGHUP)
        server.wait_log(rf"killing worker 0 .*: it was not ready within {START_S:g} s", 20.0)
        server.wait_log("the new worker 0 can't start")
        assert server.pid_of(0) == first
        assert server.who()["pid"]
        hold.unlink()


# -- badly -----------------------------------------------------------------------------------------


def test_a_live_worker_adopts_the_queue(tree: Callable[..., Tree], tmp_path: Path) -> None:
    """A7: while a slot's worker can't start again, another serves the slot's listener: no connect hangs."""
    mark = tmp_path / "well"
    mark.touch()
    with tree(handler={"bad_slots": [1], "mark": str(mark)}, faults_expected=True) as server:
        pid = server.pid_of(1)
        assert pid
        with server.clients() as clients:
            mark.unlink()
            with ExitStack() as stack:
                os.kill(pid, signal.SIGSTOP)
                wait_until(lambda: state_of(pid) == "T", "it has stopped")
                waiting = [stack.enter_context(server.connect(20.0)) for _ in range(WAITING)]
                accepted = kill(pid, server.port)
                # Nobody but worker 0 is there to answer them: slot 1 has none before the mark is back.
                assert {json.loads(ask(sock, "who"))["slot"] for sock in waiting} == {0}
            if SOAK:
                _wait_failed(server)
            server.wait_log("worker 1 died before it was ready")
            assert {server.who()["slot"] for _ in range(WAITING)} == {0}
            mark.touch()
            wait_until(lambda: server.pid_of(1), "it is back", 60.0, 0.05)
        assert {one["port"] for one in clients.report["failures"]} <= set(accepted)
        assert not SOAK or clients.report["slowest_s"] < MAX_HANG_S
        assert {server.who()["slot"] for _ in range(60)} == {0, 1}
        assert "can't start today" in server.log()


def _wait_failed(server: Tree) -> None:
    """Wait until five deaths have made a slot a failed one, in every place that tells of it."""
    wait_until(lambda: [one["state"] for one in server.workers()] == ["ready", "failed"], "it has failed", 30.0, 0.05)
    figures = samples_of(server.get("/metrics")[1])
    assert figures['gevpy_workers{state="failed"}'] == figures['gevpy_workers{state="ready"}'] == 1
    status, text = server.get("/readyz")
    assert (status, "degraded" in text) == (200, True)
    assert "worker 1 died before it was ready 5 times, and counts as failed" in server.log()


def test_all_workers_failing_is_one_clear_error(loop: str, tmp_path: Path) -> None:
    """A7: if no worker can start, the server ends with a WorkerError that says why, and leaves nothing behind."""
    with pytest.raises(AssertionError, match=r"WorkerError: no worker could start: RuntimeError: worker . can't start"):
        Tree(loop, tmp_path / "log", {"workers": 2, "handler": {"bad_slots": [0, 1]}}).__enter__()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("Bad", START_FAILS, "ValueError: no database"),
        ("Echo", WORKER_FAILS, "ImportError: no module named 'numpy' today"),
    ],
    ids=["start", "import"],
)
def test_the_command_exits_with_3(loop: str, tmp_path: Path, name: str, text: str, says: str) -> None:
    """A7: `gevpy run` says in one line why no worker could start, an import that fails there included; exit code 3."""
    (tmp_path / "app.py").write_text(text)
    command = ["-m", "gevpy", "run", f"app:{name}", "--port", "0", "--workers", "2", "--log-level", "warning"]
    done = run_program(loop, *command, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stderr.rstrip().splitlines()[-1] == f"gevpy: no worker could start: {says}"


# -- not at all ------------------------------------------------------------------------------------


def test_a_script_without_a_guard_is_told_so(loop: str, tmp_path: Path) -> None:
    """A9: workers import the main script; one that serves while it is imported gets a line that says what to write."""
    path = tmp_path / "unguarded.py"
    path.write_text(UNGUARDED)
    done = run_program(loop, path, cwd=tmp_path)
    assert done.returncode == 1
    assert "workers import the main script: put what serves under \"if __name__ == '__main__':\"" in done.stderr


def test_a_running_loop_is_told_of(loop: str, tmp_path: Path) -> None:
    """A9: `run` inside of a running loop names the cause."""
    path = tmp_path / "inside.py"
    path.write_text(INSIDE_A_LOOP)
    done = run_program(loop, path, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("RuntimeError: gevpy.run() cannot be called while a loop runs")


def test_a_taken_port_is_one_clear_error(shared_tree: Tree, loop: str, tmp_path: Path) -> None:
    """A12: another server on the port, gevpy's own workers included, is a BindError; the first one serves on."""
    path = tmp_path / "second.py"
    path.write_text(SECOND.format(port=shared_tree.port))
    done = run_program(loop, path, cwd=tmp_path)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{shared_tree.port}" in done.stderr.splitlines()[-1]
    assert {shared_tree.who()["slot"] for _ in range(60)} == {0, 1}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--port", "{taken}"], "cannot listen on 127.0.0.1:{taken}"),
        (["--host", "192.0.2.1", "--port", "0"], "cannot listen on 192.0.2.1:0"),
        (["--host", "no such host", "--port", "0"], "cannot listen on no such host:0"),
        pytest.param(
            ["--port", "80"],
            "cannot listen on 127.0.0.1:80",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may use every port"),
        ),
    ],
    ids=["taken", "foreign", "unknown", "privileged"],
)
def test_the_command_exits_with_2(shared_tree: Tree, loop: str, tmp_path: Path, options: list[str], says: str) -> None:
    """A12: what can't be listened on is one clear line, with exit code 2, and no worker was started for it."""
    (tmp_path / "app.py").write_text(START_FAILS)
    taken = str(shared_tree.port)
    options = [option.format(taken=taken) for option in options]
    done = run_program(loop, "-m", "gevpy", "run", "app:Bad", "--workers", "2", *options, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if "INFO" not in line]
    assert len(said) == 1, said
    assert said[0].startswith(f"gevpy: {says.format(taken=taken)}")
    assert "database" not in done.stderr
