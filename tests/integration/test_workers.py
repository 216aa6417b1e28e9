"""Section A of the fault catalogue: worker processes that die, hang, start slowly or not at all, and those that go."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

import gevpy
from tests.integration.harness import SOAK, open_descriptors, wait_until
from tests.integration.tree_harness import Tree, ask, is_running

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTS = 30_000 if SOAK else 1_500
KILLS = 10 if SOAK else 3
RELOADS = 20 if SOAK else 2
THREADS = 8


# What these tests are about is not compiled: the pure build's turn needs one loop only.
LOOPS = ["asyncio", "uvloop"] if gevpy.build_info().compiled else ["asyncio"]


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    """Each loop in its turn."""
    return str(request.param)


@pytest.fixture
def tree(loop: str, tmp_path: Path) -> Callable[..., Tree]:
    """Make servers with workers; two of them unless told otherwise."""

    def make(*, faults_expected: bool = False, **config: Any) -> Tree:
        return Tree(loop, tmp_path / "log", {"workers": 2, **config}, faults_expected=faults_expected)

    return make


# -- serving ---------------------------------------------------------------------------------------


def test_every_worker_serves(tree: Callable[..., Tree]) -> None:
    """Two workers share the connections by the kernel's choice, and the figures add up."""
    with tree() as server:
        seen = Counter(server.who()["slot"] for _ in range(100))
        assert set(seen) == {0, 1}
        assert server.metric("gevpy_connections_opened_total") == 100
        assert server.metric("gevpy_received_messages_total") == 100
        assert server.get("/readyz")[0] == 200


@pytest.mark.parametrize("placement", ["round_robin", "least_connections"])
def test_placement_is_even(tree: Callable[..., Tree], placement: str) -> None:
    """A burst that is handed over is spread to within one connection (gev: 12, 80, 31 and 77 of 200)."""
    with tree(workers=3, placement=placement) as server:
        socks = [server.connect() for _ in range(90)]
        seen = Counter(json.loads(ask(sock, "who"))["slot"] for sock in socks)
        assert max(seen.values()) - min(seen.values()) <= 1, seen
        for sock in socks:
            sock.close()
        wait_until(lambda: server.stats()["total"]["connections"] == 0, "all are gone")


def test_source_hash_keeps_a_client_with_its_worker(tree: Callable[..., Tree]) -> None:
    """All connections of one address go to one worker, and those of others elsewhere, too."""
    with tree(workers=3, placement="source_hash") as server:
        homes = set()
        for number in range(2, 12):
            slots = set()
            for _ in range(3):
                source = (f"127.0.0.{number}", 0)
                with socket.create_connection(("127.0.0.1", server.port), timeout=10, source_address=source) as sock:
                    slots.add(json.loads(ask(sock, "who"))["slot"])
            assert len(slots) == 1
            homes |= slots
        assert len(homes) > 1


def test_publish_and_presence_reach_every_worker(tree: Callable[..., Tree]) -> None:
    """Subscribers on both workers get what one of them publishes, and each worker counts them all."""
    with tree() as server:
        socks = [server.reach(0), server.reach(1), server.reach(1)]
        for sock in socks:
            assert ask(sock, "sub news") == "ok"
        assert ask(socks[0], "presence news") == "3"
        with server.reach(0) as other:
            other.sendall(b"pub news extra\n")
            assert [sock.recv(100) for sock in socks] == [b"extra\n"] * 3
        for sock in socks:
            sock.close()


def test_a_worker_holds_only_its_own_descriptors(tree: Callable[..., Tree]) -> None:
    """A10: its own listener and control channel, no one else's; what it spawns inherits none of them."""
    with tree() as server:
        for slot in (0, 1):
            with server.reach(slot) as sock:
                names = json.loads(ask(sock, "fds"))
                listeners = {name for name in names if name.startswith("socket:")}
                # its listener, control channel and alarm, this connection, and the loop's own pair
                assert len(listeners) <= 6, names


# -- deaths ------------------------------------------------------------------------------------------


class Visitors:
    """Threads that connect, ask who answers, and close; they note what failed, and whether a worker had accepted."""

    def __init__(self, server: Tree, count: int) -> None:
        self._server = server
        self._left = count
        self._lock = threading.Lock()
        self.served = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._visit_all) for _ in range(THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join()

    def _visit_all(self) -> None:
        while True:
            with self._lock:
                if self._left <= 0:
                    return
                self._left -= 1
            try:
                self._server.who()
            except OSError as error:
                with self._lock:
                    self.failures.append(repr(error))
            else:
                with self._lock:
                    self.served += 1


def test_a_killed_worker_is_replaced(tree: Callable[..., Tree]) -> None:
    """A1: kill -9 resets only what that worker had accepted; who waits in its queue is served; the death is told."""
    with tree() as server, Visitors(server, CONNECTS) as visitors:
        for number in range(KILLS):
            pid = server.pid_of(number % 2)
            with server.reach(number % 2):
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda: not is_running(pid), "it is dead")  # noqa: B023 - called at once
            slot = number % 2
            wait_until(lambda: server.pid_of(slot) not in (0, pid), "it is replaced", 10.0)  # noqa: B023 - the same
        opened = server.metric("gevpy_connections_opened_total")
        assert opened > 0
    # A connection that the dead process had accepted is lost with it: there are at most as many as threads per kill.
    assert len(visitors.failures) <= KILLS * THREADS, visitors.failures
    assert visitors.served >= CONNECTS - KILLS * THREADS
    assert server.log().count("was ended by SIGKILL") == KILLS


def test_counters_never_fall(tree: Callable[..., Tree]) -> None:
    """What a worker that died has counted stays in the totals."""
    with tree() as server:
        for _ in range(40):
            server.who()
        before = server.metric("gevpy_received_messages_total")
        assert before == 40
        os.kill(server.pid_of(0), signal.SIGKILL)
        wait_until(lambda: server.metric("gevpy_worker_restarts_total") == 1, "it is replaced")
        assert server.metric("gevpy_received_messages_total") >= before
        wait_until(lambda: server.pid_of(0), "it is back")


def test_a_live_worker_adopts_the_queue(tree: Callable[..., Tree], tmp_path: Path) -> None:
    """A7: while a slot's worker can't start again, another serves the slot's listener: no connect hangs."""
    mark = tmp_path / "well"
    mark.touch()
    with tree(handler={"bad_slots": [1], "mark": str(mark)}, faults_expected=True) as server:
        pid = server.pid_of(1)
        assert pid
        mark.unlink()
        os.kill(pid, signal.SIGKILL)
        server.wait_log("worker 1 died before it was ready")
        for _ in range(30):
            started = time.monotonic()
            assert server.who()["slot"] == 0
            assert time.monotonic() - started < 1.0
        mark.touch()
        wait_until(lambda: server.pid_of(1), "it is back", 20.0)
        assert {server.who()["slot"] for _ in range(60)} == {0, 1}
        assert "can't start today" in server.log()


def test_all_workers_failing_is_one_clear_error(loop: str, tmp_path: Path) -> None:
    """A7: if no worker can start, the server ends with a WorkerError that says why, and leaves nothing behind."""
    with pytest.raises(AssertionError, match=r"WorkerError: no worker could start: RuntimeError: worker . can't start"):
        Tree(loop, tmp_path / "log", {"workers": 2, "handler": {"bad_slots": [0, 1]}}).__enter__()


def test_the_command_exits_with_3(loop: str, tmp_path: Path) -> None:
    """A7: `gevpy run` says it in one line, with exit code 3."""
    (tmp_path / "app.py").write_text(
        "import gevpy\n"
        "class Bad(gevpy.Handler):\n"
        "    def on_start(self, worker): raise ValueError('no database')\n"
        "    def on_message(self, conn, ctx, data): return data\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "gevpy", "run", "app:Bad", "--port", "0", "--workers", "2", "--log-level", "warning"],
        cwd=tmp_path,
        env={**os.environ, "GEVPY_LOOP": loop, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.rstrip().splitlines()[-1] == "gevpy: no worker could start: ValueError: no database"


def test_a_slow_start_is_no_hang(tree: Callable[..., Tree]) -> None:
    """A6: the limit on a start is not the limit on a blocked loop."""
    with tree(timeouts={"blocked_s": 0.5, "start_s": 60}, faults_expected=False) as server:
        assert "killing" not in server.log()


@pytest.mark.parametrize("how", ["stop", "spin", "sleep 60"])
def test_a_hung_worker_is_replaced(tree: Callable[..., Tree], how: str) -> None:
    """A5: a loop that doesn't turn for the limit is killed and replaced, be it stopped, spinning or asleep."""
    with tree(timeouts={"blocked_s": 1.5}, faults_expected=True) as server:
        pid = server.pid_of(1)
        sock = server.reach(1)
        if how == "stop":
            os.kill(pid, signal.SIGSTOP)
        else:
            sock.sendall(how.encode() + b"\n")
        started = time.monotonic()
        wait_until(lambda: not is_running(pid), "it is killed", 15.0)
        assert time.monotonic() - started < 1.5 + 4.0
        wait_until(lambda: server.pid_of(1) not in (0, pid), "it is replaced", 15.0)
        assert {server.who()["slot"] for _ in range(60)} == {0, 1}
        assert "its loop has not turned" in server.log()
        sock.close()


# -- going -----------------------------------------------------------------------------------------


def test_reload_loses_no_connect(tree: Callable[..., Tree]) -> None:
    """A2: SIGHUP replaces all workers, one by one; every connect during it is answered."""
    with tree() as server, Visitors(server, CONNECTS) as visitors:
        for _ in range(RELOADS):
            before = {server.pid_of(0), server.pid_of(1)}
            server.signal(signal.SIGHUP)

            def replaced(old: set[int] = before) -> bool:
                now = {server.pid_of(0), server.pid_of(1)}
                return 0 not in now and not now & old

            wait_until(replaced, "both are new", 20.0)
    assert visitors.failures == []
    assert visitors.served == CONNECTS


def test_old_connections_live_through_a_reload(tree: Callable[..., Tree]) -> None:
    """A reload is patient: a connection stays with its old worker until it closes by itself."""
    with tree() as server:
        with server.reach(0) as sock:
            pid = json.loads(ask(sock, "who"))["pid"]
            server.signal(signal.SIGHUP)
            wait_until(lambda: server.pid_of(0) not in (0, pid), "it is replaced", 20.0)
            assert json.loads(ask(sock, "who"))["pid"] == pid
        wait_until(lambda: not is_running(pid), "the old one goes", 10.0)


def test_many_reloads_coalesce(tree: Callable[..., Tree]) -> None:
    """A13: 200 SIGHUPs in a row are two reloads at most, and leave no zombie."""
    with tree() as server:
        for _ in range(200):
            server.signal(signal.SIGHUP)
        first = server.pid_of(0)
        wait_until(lambda: server.pid_of(0) not in (0, first), "it is replaced", 20.0)
        server.wait_log("worker 1 .* is ready(.|\n)*worker 1 .* is ready")
        wait_until(lambda: len([one for one in server.workers() if one["state"] == "ready"]) == 2, "two are ready")
        wait_until(lambda: len(server.workers()) == 2, "the old ones are gone", 10.0)
        assert server.log().count("reloading:") <= 2
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        assert all(is_running(int(pid)) for pid in children)


def test_workers_are_added_and_removed(tree: Callable[..., Tree]) -> None:
    """SIGTTIN and SIGTTOU; a removed worker's listener is still served."""
    with tree() as server:
        server.signal(signal.SIGTTIN)
        wait_until(lambda: server.pid_of(2), "a third one is ready", 10.0)
        assert {server.who()["slot"] for _ in range(120)} == {0, 1, 2}
        server.signal(signal.SIGTTOU)
        wait_until(lambda: not server.pid_of(2), "it is gone", 10.0)
        assert {server.who()["slot"] for _ in range(60)} == {0, 1}


def test_stop_drains_all_workers(tree: Callable[..., Tree]) -> None:
    """A3: SIGTERM ends idle connections with a FIN, and the server exits with 0."""
    with tree() as server:
        socks = [server.reach(slot) for slot in (0, 1)]
        server.signal(signal.SIGTERM)
        assert [sock.recv(1) for sock in socks] == [b"", b""]
        for sock in socks:
            sock.close()
        assert server.process.wait(10) == 0


def test_a_second_signal_ends_at_once(tree: Callable[..., Tree]) -> None:
    """A4: what will not end in time is ended by a second signal, within a second or two."""
    with tree() as server:
        with server.reach(0) as busy:
            busy.sendall(b"sleep 20\n")
            server.signal(signal.SIGTERM)
            server.wait_log("stopping:")
            started = time.monotonic()
            server.signal(signal.SIGTERM)
            server.process.wait(10)
            assert time.monotonic() - started < 4.0
        server.exit_code = 0


def test_workers_go_when_the_supervisor_is_killed(tree: Callable[..., Tree]) -> None:
    """A8: kill -9 of the supervisor: workers drain and exit, and the port is free."""
    with tree(timeouts={"drain_s": 2}, faults_expected=True) as server:
        pids = [server.pid_of(0), server.pid_of(1)]
        sock = server.reach(1)
        server.signal(signal.SIGKILL)
        server.process.wait(5)
        wait_until(lambda: not any(map(is_running, pids)), "the workers are gone", 10.0)
        with sock, suppress(ConnectionError):
            assert sock.recv(1) == b""
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", server.port))
            again.listen()
        server.exit_code = -signal.SIGKILL


def test_a_taken_port_is_one_clear_error(tree: Callable[..., Tree], loop: str, tmp_path: Path) -> None:
    """A12: another server on the port, gevpy's own workers included, is a BindError; nothing is left listening."""
    with tree() as server:
        program = (
            "import gevpy, asyncio\n"
            "from tests.integration.tree_app import Tell\n"
            "async def main():\n"
            f"    await gevpy.serve(Tell(), port={server.port}, workers=2)\n"
            "if __name__ == '__main__':\n"
            "    gevpy.run(main())\n"
        )
        path = tmp_path / "second.py"
        path.write_text(program)
        done = subprocess.run(
            [sys.executable, str(path)],
            env={**os.environ, "GEVPY_LOOP": loop, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{server.port}" in done.stderr.splitlines()[-1]


def test_nothing_leaks_over_restarts(tree: Callable[..., Tree]) -> None:
    """The supervisor holds no descriptor of workers that are gone."""
    with tree() as server:
        first = 0
        for _ in range(3):
            pid = server.pid_of(0)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: server.pid_of(0) not in (0, pid), "it is replaced", 10.0)  # noqa: B023 - called at once
            first = first or open_descriptors(server.process.pid)
        wait_until(lambda: open_descriptors(server.process.pid) <= first, "no descriptor stays")
