"""What the fault tests share: a server in a process of its own, clients that misbehave, and readers of ``/proc``.

A `FaultServer` is entered as a context. Leaving it asserts what must hold after every fault: as many
closed as opened, as many ``on_close`` as ``on_connect``, nobody counted as connected, no deadline
armed, no task and no descriptor left, exit code 0, and a log without tracebacks.

Latencies and lags are gated in the best of several rounds (`best_of`): the machine's noise spoils a
round, a fault of the server spoils them all.
"""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from tests.websocket.heads import opening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

__all__ = [
    "SOAK",
    "Crowd",
    "FaultServer",
    "best_of",
    "cpu_of",
    "echo",
    "echo_times",
    "fate",
    "frame",
    "open_descriptors",
    "percentile",
    "raise_descriptor_limit",
    "receive_all",
    "receive_exactly",
    "reset",
    "resident_bytes",
    "wait_until",
]

SOAK = os.environ.get("GEVPY_SOAK") == "1"  # the whole counts of the catalogue instead of those for CI
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("fault_server.py")
PATIENCE_S = 9.0  # for what should take milliseconds: a stalled machine may take seconds; less than close_s
START_S = 30.0  # for a process to start or to end
POLL_S = 0.005
LONG_DELAY_S = 0.02
LOG_PERIOD_S = 5.0  # of `gevpy.log_limit`
FAULTS = ("Traceback", "never retrieved", "never awaited", "Exception in callback", "Fatal error")
GREETINGS = {"websocket": opening()}  # what makes a connection one; those of other protocols are without a word
LINGER_RESET = struct.pack("ii", 1, 0)


# -- waiting ---------------------------------------------------------------------------------------


def wait_until(probe: Callable[[], object], what: str, within_s: float = PATIENCE_S, every_s: float = POLL_S) -> float:
    """Ask ``probe`` every so often until it gives something true; give the seconds it took, fail after ``within_s``."""
    started = time.monotonic()
    while not probe():
        assert time.monotonic() - started < within_s, f"waited {within_s} s in vain: {what}"
        select.select((), (), (), every_s)
    return time.monotonic() - started


def best_of(rounds: int, attempt: Callable[[], float], limit: float) -> float:
    """Give the least of up to ``rounds`` measurements, and stop early at one within ``limit``."""
    best = math.inf
    for _ in range(rounds):
        best = min(best, attempt())
        if best <= limit:
            break
    return best


def percentile(values: Iterable[float], share: float) -> float:
    """Give the value that ``share`` of all don't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


# -- the system ------------------------------------------------------------------------------------


def open_descriptors(pid: int) -> int:
    """Count the descriptors of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def resident_bytes(pid: int) -> int:
    """Give the resident set of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def cpu_of(pid: int) -> float:
    """Give the CPU seconds that a process used, in the kernel and out of it, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def raise_descriptor_limit(needed: int) -> int:
    """Raise our own soft RLIMIT_NOFILE towards ``needed``; give what there is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


# -- clients ---------------------------------------------------------------------------------------


class Crowd:
    """Client sockets that are closed together."""

    def __init__(self, port: int) -> None:
        """Begin with nobody."""
        self._port = port
        self.sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all that are left."""
        self.close(len(self.sockets))

    def join(self, *, timeout_s: float = PATIENCE_S, receive_buffer: int | None = None) -> socket.socket:
        """Connect one more. Whether it was reset at once is for `fate` to find."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sockets.append(sock)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(timeout_s)
        with suppress(ConnectionResetError):
            sock.connect(("127.0.0.1", self._port))
        return sock

    def close(self, count: int) -> None:
        """Close the first ``count``."""
        for sock in self.sockets[:count]:
            sock.close()
        del self.sockets[:count]


def echo(sock: socket.socket, data: bytes = b"x") -> bytes:
    """Send ``data`` and receive as much."""
    sock.sendall(data)
    return receive_exactly(sock, len(data))


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive ``size`` bytes, or what comes before the end of the stream."""
    got = bytearray()
    while len(got) < size:
        piece = sock.recv(min(size - len(got), 1 << 20))
        if not piece:
            break
        got += piece
    return bytes(got)


def receive_all(sock: socket.socket) -> bytes:
    """Receive up to the end of the stream; a reset is an error."""
    got = bytearray()
    while piece := sock.recv(1 << 20):
        got += piece
    return bytes(got)


def fate(sock: socket.socket, data: bytes = b"x") -> str:
    """Tell whether a connection echoes (``live``), was ``reset``, or ``closed``."""
    try:
        return "live" if echo(sock, data) else "closed"
    except OSError as error:
        if isinstance(error, ConnectionError) or error.errno == errno.ENOTCONN:
            return "reset"
        raise


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    sock.close()


def frame(data: bytes) -> bytes:
    """Put the default length prefix before ``data``."""
    return len(data).to_bytes(4, "big") + data


def echo_times(sock: socket.socket, count: int, data: bytes = b"x") -> list[float]:
    """Measure ``count`` round trips."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        assert echo(sock, data) == data
        times.append(time.perf_counter() - started)
    return times


# -- the server ------------------------------------------------------------------------------------


class FaultServer:
    """A `fault_server.py` in a process of its own.

    Args:
        loop: ``"asyncio"`` or ``"uvloop"``.
        log_path: where its log goes.
        config: see `fault_server.Config`.
        faults_expected: tracebacks in the log are what the test is about.
    """

    def __init__(self, loop: str, log_path: Path, config: dict[str, Any], *, faults_expected: bool = False) -> None:
        """Keep what to run."""
        self.loop = loop
        self.log_path = log_path
        self._config = config
        self._faults_expected = faults_expected
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._exit_stack = ExitStack()
        self._started = 0.0
        self.port = 0
        self.first_descriptors = 0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None, "the server was entered"
        return self._process

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self.process.pid

    def __enter__(self) -> Self:
        """Start it; return when it listens."""
        self._started = time.monotonic()
        log = self._exit_stack.enter_context(self.log_path.open("wb"))
        environment = {
            **os.environ,
            "GEVPY_LOOP": self.loop,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        }
        command = [sys.executable, str(PROGRAM), json.dumps(self._config)]
        self._process = self._exit_stack.enter_context(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=ROOT
            )
        )
        try:
            self.port = self._read_line(START_S)["port"]
        except BaseException:
            self._end()
            raise
        self._warm_up()
        self.first_descriptors = open_descriptors(self.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Check that nothing is left behind, then stop it."""
        try:
            if kind is None:
                self._check_nothing_left()
                self.ask("stop")
                assert self.process.wait(START_S) == 0, f"exit code {self.process.returncode}\n{self.log()}"
                if not self._faults_expected:
                    self.check_log()
        finally:
            self._end()

    def _warm_up(self) -> None:
        """Have a first connection come and go: uvloop opens a descriptor with it that it keeps."""
        with Crowd(self.port) as crowd:
            crowd.join().sendall(GREETINGS.get(self._config.get("protocol", "raw"), b""))
            wait_until(lambda: self.report()["opened"], "the first connection")  # it may be idle, and gone, by then
        self.wait_for(0)

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self._exit_stack.close()

    # -- asking ----------------------------------------------------------------------------------

    def ask(self, command: str, **args: Any) -> Any:
        """Give a command and return the answer."""
        stdin = self._pipe(self.process.stdin)
        stdin.write(json.dumps({"do": command, **args}).encode() + b"\n")
        stdin.flush()
        return self._read_line()

    def report(self) -> dict[str, Any]:
        """Give the server's report on itself."""
        answer: dict[str, Any] = self.ask("report")
        return answer

    def connections(self) -> int:
        """Give the gauge."""
        return int(self.report()["gauge"])

    def wait_for(self, gauge: int, within_s: float = PATIENCE_S) -> float:
        """Wait until so many are connected; give the seconds it took."""
        return wait_until(lambda: self.connections() == gauge, f"a gauge of {gauge}", within_s)

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None, "both ends were asked for"
        return pipe

    def _read_line(self, within_s: float = PATIENCE_S) -> Any:
        fd = self._pipe(self.process.stdout).fileno()
        end = time.monotonic() + within_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([fd], (), (), max(0.0, end - time.monotonic()))
            got = os.read(fd, 1 << 20) if ready else b""
            if not got:
                code = self.process.poll()
                msg = f"the server is silent (exit code {code}):\n{self.log()}"
                raise AssertionError(msg)
            self._buffer += got
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def slack_s(self) -> float:
        """Give by how much deadlines may be late: the loop's own delays since ``lag`` was asked for.

        gevpy counts a long delay as one turn of its wheel, so that a blocked loop evicts nobody early:
        each of them comes on top.
        """
        lags: list[float] = self.ask("lag")["wall"]
        return max(lags) + sum(lag for lag in lags if lag > LONG_DELAY_S) + 0.02

    # -- the log ---------------------------------------------------------------------------------

    def log(self) -> str:
        """Give the log so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def complaints(self) -> list[str]:
        """Give the lines of the log that are no INFO."""
        return [line for line in self.log().splitlines() if not line.startswith("INFO ")]

    def most_lines(self) -> int:
        """Give how many lines of one class there may be so far: one each five seconds, however long the test takes."""
        return 1 + int((time.monotonic() - self._started) / LOG_PERIOD_S)

    def check_log(self) -> None:
        """Assert that nothing in the log tells of a fault of ours."""
        log = self.log()
        assert not [fault for fault in FAULTS if fault in log], log

    # -- what must hold after every fault --------------------------------------------------------

    def _check_nothing_left(self) -> None:
        self.wait_for(0)
        wait_until(
            lambda: open_descriptors(self.pid) == self.first_descriptors,
            f"{self.first_descriptors} descriptors, as at the start",
        )
        wait_until(lambda: self.report()["unfinished"] == 0, "every on_close has ended")
        report = self.report()
        assert report["opened"] == sum(report["closed"].values()), report
        assert report["connects"] == report["closes"] == report["opened"], report
        left = {name: report[name] for name in ("gauge", "admitted", "networks", "armed", "tasks")}
        assert not any(left.values()), left
        assert report["out_of_order"] == 0, report
        assert report["strange_addresses"] == 0, report
