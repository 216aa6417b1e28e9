"""What the worker tests share: a server with workers as a child process, and clients of it, one by one or many at once.

The many are a process of their own, `tree_client.py`: what they do takes no time of the test's that watches.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from tests.integration.harness import FAULTS, ROOT, wait_until
from tests.integration.tree_procs import children_of, is_running

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Clients", "Tree", "ask", "is_running", "run_program"]

SERVER = Path(__file__).with_name("tree_server.py")
CLIENT = Path(__file__).with_name("tree_client.py")
START_S = 30.0
REPORT_S = 50.0


def ask(sock: socket.socket, line: str) -> str:
    """Send a line and receive one."""
    sock.sendall(line.encode() + b"\n")
    got = b""
    while not got.endswith(b"\n"):
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError("closed")
        got += piece
    return got.decode().rstrip("\n")


def _environment(loop: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "GEVPY_LOOP": loop, "PYTHONPATH": path}


def run_program(loop: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with ``arguments`` to its end, gevpy on its path."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=_environment(loop), capture_output=True, text=True, timeout=50, check=False
    )


class Tree:
    """A `tree_server.py` in a process of its own; leaving the context ends it and checks that nothing is left."""

    def __init__(self, loop: str, log_path: Path, config: dict[str, Any], *, faults_expected: bool = False) -> None:
        """Keep what to run."""
        self._loop = loop
        self.log_path = log_path
        self._config = config
        self._faults_expected = faults_expected
        self._stack = ExitStack()
        self.port = 0
        self.metrics = ""
        self.exit_code = 0  # what is expected

    def __enter__(self) -> Self:
        """Start it; return when it serves."""
        log = self._stack.enter_context(self.log_path.open("wb"))
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), json.dumps(self._config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(self._loop),
            cwd=ROOT,
        )
        self._stack.enter_context(self.process)
        self._stack.callback(self._end)
        stdout: IO[bytes] | None = self.process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], (), (), START_S)
        line = stdout.readline() if ready else b""
        if not line:
            self._stack.close()
            msg = f"it doesn't serve:\n{self.log()}"
            raise AssertionError(msg)
        said = json.loads(line)
        self.port, self.metrics = said["port"], said["metrics"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it; it must exit well, and leave no process."""
        with self._stack:
            pids = [worker["pid"] for worker in self.workers()] if kind is None and self.runs() else []
            if self.runs():
                self.signal(signal.SIGTERM)
            code = self.process.wait(20)
            if kind is None:
                assert code == self.exit_code, f"exit code {code}\n{self.log()}"
                assert not [pid for pid in pids if is_running(pid)]
                if not self._faults_expected:
                    found = [line for line in self.log().splitlines() if any(fault in line for fault in FAULTS)]
                    assert not found, self.log()

    def _end(self) -> None:
        for pid in children_of(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.runs():
            self.process.kill()

    def runs(self) -> bool:
        """Tell whether the supervisor runs."""
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    def log(self) -> str:
        """Give what it logged."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def wait_log(self, pattern: str, within_s: float = 10.0) -> None:
        """Wait for a line; a server that is gone will log no more."""

        def logged() -> bool:
            runs = self.runs()  # asked first: what it logged at its end counts
            found = re.search(pattern, self.log()) is not None
            assert found or runs, f"no {pattern!r}, and it exited with {self.process.returncode}:\n{self.log()}"
            return found

        wait_until(logged, f"{pattern!r} in the log of {self.log_path}", within_s, 0.02)

    # -- clients -------------------------------------------------------------------------------------

    def clients(self, **config: Any) -> Clients:
        """Give many clients at once; see `tree_client.Config`."""
        return Clients(self.port, config)

    def connect(self, timeout_s: float = 10.0) -> socket.socket:
        """Connect a client."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)

    def who(self) -> dict[str, int]:
        """Tell which worker takes a new connection."""
        with self.connect() as sock:
            answer: dict[str, int] = json.loads(ask(sock, "who"))
            return answer

    def reach(self, slot: int) -> socket.socket:
        """Give a connection to a certain worker."""
        end = time.monotonic() + 10.0
        while time.monotonic() < end:
            sock = self.connect()
            if json.loads(ask(sock, "who"))["slot"] == slot:
                return sock
            sock.close()
        msg = f"worker {slot} takes no connections"
        raise AssertionError(msg)

    # -- the metrics port ------------------------------------------------------------------------------

    def get(self, path: str) -> tuple[int, str]:
        """Fetch a page of the metrics port."""
        connection = http.client.HTTPConnection(self.metrics, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def stats(self) -> dict[str, Any]:
        """Give ``/stats.json``."""
        document: dict[str, Any] = json.loads(self.get("/stats.json")[1])
        return document

    def workers(self) -> list[dict[str, Any]]:
        """Give what it says of its workers."""
        found: list[dict[str, Any]] = self.stats()["workers"]
        return found

    def pid_of(self, slot: int) -> int:
        """Give the pid of a slot's worker that is ready, or 0."""
        pids = [one["pid"] for one in self.workers() if one["id"] == slot and one["state"] == "ready"]
        return int(pids[0]) if pids else 0

    def metric(self, name: str) -> float:
        """Give the sum of a metric's samples."""
        lines = self.get("/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(\{{| )", line))


class Clients:
    """A `tree_client.py` at work while the context lasts; `report` is what it saw.

    Attributes:
        report: there once the context was left.
    """

    def __init__(self, port: int, config: dict[str, Any]) -> None:
        """Keep what to do."""
        self._config = {"port": port, **config}
        self.report: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Start; return when the first client is through."""
        self._process = subprocess.Popen(
            [sys.executable, str(CLIENT), json.dumps(self._config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        stdout = self._process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], (), (), START_S)
        line = stdout.readline() if ready else b""
        if line != b"begun\n":
            self._end()
            msg = f"the clients don't begin: {line!r}"
            raise AssertionError(msg)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Have them end, and read what they saw."""
        try:
            said, _ = self._process.communicate(timeout=REPORT_S)
            if kind is None:
                self.report = json.loads(said)
        finally:
            self._end()

    def _end(self) -> None:
        self._process.kill()
        with self._process:  # which waits, and closes the pipes
            pass
