"""Workers that come and go under load: killed, reloaded, started.

Whoever connects while a worker is killed may lose the connection only if that worker had accepted it. Nobody else can
tell: the client sees a reset either way, and the worker is dead. So each victim is stopped first (SIGSTOP), what it
holds is read from `/proc`, and then it is killed: all that it will ever have accepted is on that list, and every other
failure counts. While it stands still its queue fills, which is what is to be tried: those connections must be served.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.client import HERE, on_core
from bench.servers import SERVERS, TWO_WORKERS, Running, Unavailable, running
from bench.visits import Failure, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bench.machine import Cores

__all__ = ["Kill", "Start", "WorkerStep", "WorkerTasks", "never_accepted", "peers_in", "starts_in", "worker_steps"]

SLOTS = 2
STEP_S = 0.01
START_LIMIT_S = 30.0
END_LIMIT_S = 60.0
STOP_LIMIT_S = 5.0
SETUP_S = 1.5
KILL_S = 0.8
RELOAD_S = 1.9
START_S = 0.8
"""How long a run takes, and each kill, reload and start in it: for the time left."""

APPLICATION = "bench.system.gevpy_server"

_READY = re.compile(r"worker (\d+) \(pid (\d+)\) is ready after ([\d.]+) s")


@dataclass(frozen=True, slots=True)
class WorkerTasks:
    """How much of it a suite does."""

    kills: int = 10
    kill_visits: int = 8_000
    reloads: int = 20
    reload_visits: int = 30_000
    starts: int = 10


# -- what the log and the kernel know ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """A worker that has become ready."""

    slot: int
    pid: int
    seconds: float


def starts_in(log: str) -> list[Start]:
    """Return every start that a supervisor's log tells of."""
    return [Start(int(slot), int(pid), float(seconds)) for slot, pid, seconds in _READY.findall(log)]


def peers_in(table: str, port: int, *, inodes: Iterable[int]) -> list[str]:
    """Return the far ends, `ip:port`, of a port's connections whose socket has one of these inodes.

    Args:
        table: the text of `/proc/net/tcp`.
        port: the near end's.
        inodes: 0 stands for connections that no process has accepted.
    """
    wanted = set(inodes)
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        near, far, state, inode = fields[1], fields[2], fields[3], int(fields[9])
        if state in _CONNECTED and int(near.rpartition(":")[2], 16) == port and inode in wanted:
            found.append(_address(far))
    return found


_CONNECTED = ("01", "08")  # ESTABLISHED; CLOSE_WAIT: the client has gone, the server has not noticed


def _address(written: str) -> str:
    """Read an address as the kernel writes it: four bytes in the machine's order, then the port."""
    ip, _, port = written.partition(":")
    numbers = int(ip, 16).to_bytes(4, sys.byteorder)
    return f"{'.'.join(map(str, numbers))}:{int(port, 16)}"


def _socket_inodes(pid: int) -> set[int]:
    names = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(str(path.readlink()))
    return {int(name[8:-1]) for name in names if name.startswith("socket:[")}


def _stands_still(pid: int) -> bool:
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(state == "T" for state in states)


def _wait(condition: Callable[[], bool], what: str, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            reason = f"not within {limit_s:g} s: {what}"
            raise Unavailable(reason)
        time.sleep(STEP_S)


# -- kills -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kill:
    """The end of one worker."""

    at_s: float
    accepted: frozenset[str]
    """The far ends of the connections that it held."""

    waiting: int
    """Connections that nobody had accepted."""

    def excuses(self, failure: Failure) -> bool:
        """Tell whether a visit was lost with this worker."""
        return failure.peer in self.accepted and failure.began_s <= self.at_s <= failure.ended_s


def never_accepted(failures: Iterable[Failure], kills: Iterable[Kill]) -> list[Failure]:
    """Return the failures of visits that no killed worker had accepted."""
    kills = list(kills)
    return [failure for failure in failures if not any(kill.excuses(failure) for kill in kills)]


def _kill(pid: int, port: int) -> Kill:
    os.kill(pid, signal.SIGSTOP)
    _wait(lambda: _stands_still(pid), f"worker {pid} stops", STOP_LIMIT_S)
    inodes = _socket_inodes(pid)
    table = Path("/proc/net/tcp").read_text()
    at_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    accepted = frozenset(peers_in(table, port, inodes=inodes))
    return Kill(at_s, accepted, len(peers_in(table, port, inodes=[0])))


def measure_kills(tasks: WorkerTasks, cores: Cores) -> dict[str, float]:
    """Kill one worker after the other while visitors come; count who failed without having been accepted."""
    kills: list[Kill] = []
    with _serving(cores) as server, _visiting(server, tasks.kill_visits, cores) as client:
        for number in range(tasks.kills):
            starts = _starts(server)
            slot = number % SLOTS
            pid = [start.pid for start in starts if start.slot == slot][-1]
            kills.append(_kill(pid, server.port))
            _wait_starts(server, len(starts) + 1)
        report = client.finish()
    unexcused = never_accepted(report.failures, kills)
    _tell(unexcused)
    return {
        "kills": len(kills),
        "kills: connects": report.visits,
        "kills: waited for a worker, not accepted": sum(kill.waiting for kill in kills),
        "kills: failed, accepted by the dead": len(report.failures) - len(unexcused),
        "kills: failed, never accepted": len(unexcused),
        "kills: slowest connect and echo, s": report.slowest_s,
    }


def measure_reloads(tasks: WorkerTasks, cores: Cores) -> dict[str, float]:
    """Replace all workers again and again while visitors come; count who failed."""
    with _serving(cores) as server, _visiting(server, tasks.reload_visits, cores) as client:
        for _ in range(tasks.reloads):
            _reload(server)
        report = client.finish()
    _tell(report.failures)
    return {
        "reloads": tasks.reloads,
        "reloads: connects": report.visits,
        "reloads: failed": len(report.failures),
        "reloads: slowest connect and echo, s": report.slowest_s,
    }


def _tell(failures: list[Failure]) -> None:
    """Say how the first ones failed: a figure that is missed says only how many."""
    for failure in failures[:5]:
        sys.stderr.write(
            f"\n  {failure.peer or 'no port'} after {failure.ended_s - failure.began_s:.3f} s: {failure.error}"
        )


# -- starts ------------------------------------------------------------------------------------------


def measure_starts(tasks: WorkerTasks, cores: Cores) -> dict[str, float]:
    """Time workers from spawn to ready, and in turn what a plain interpreter needs to import the application.

    A reload starts one worker at a time; all of it happens on the server's core.
    """
    imports: list[float] = []
    with _serving(cores) as server:
        before = len(_starts(server))
        while len(imports) < tasks.starts:
            imports += [_import_s(cores.server) for _ in range(SLOTS)]
            _reload(server)
        ready = [start.seconds for start in _starts(server)[before:]]
    return {
        "start: spawn to ready, s": median(ready),
        "start: import of the application, s": median(imports),
        "start: beyond the import, s": median(ready) - median(imports),
    }


def _import_s(core: int | None) -> float:
    program = f"import {APPLICATION}, time; print(time.monotonic())"
    with on_core(core):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=HERE.parent
        )
    return float(done.stdout) - began


# -- the server and its visitors ---------------------------------------------------------------------


def _serving(cores: Cores) -> contextlib.AbstractContextManager[Running]:
    return running(SERVERS[TWO_WORKERS], "raw", core=cores.server)


def _starts(server: Running) -> list[Start]:
    return starts_in(server.errors.read_text())


def _wait_starts(server: Running, count: int) -> None:
    _wait(lambda: len(_starts(server)) >= count, f"{count} workers were ready ({server.last_words()})", START_LIMIT_S)


def _reload(server: Running) -> None:
    count = len(_starts(server))
    os.kill(server.pid, signal.SIGHUP)
    _wait_starts(server, count + SLOTS)


@dataclass(slots=True)
class _Client:
    """`bench.visits` in a process of its own."""

    process: subprocess.Popen[str]

    def finish(self) -> Report:
        """Have it end; return what it saw. Raises Unavailable if it had to end too early."""
        assert self.process.stdin is not None, "it was started with pipes"
        self.process.stdin.close()
        said = self.line(END_LIMIT_S)
        failures = [Failure(**failure) for failure in said.pop("failures")]
        report = Report(**said, failures=failures)
        if report.cut_short:
            reason = f"out of time after {report.visits} connects: this machine is too busy"
            raise Unavailable(reason)
        return report

    def line(self, limit_s: float) -> dict[str, Any]:
        """Return what it says next."""
        assert self.process.stdout is not None, "it was started with pipes"
        ready, _, _ = select.select([self.process.stdout], [], [], limit_s)
        text = self.process.stdout.readline() if ready else ""
        try:
            said: dict[str, Any] = json.loads(text)
        except ValueError:
            reason = f"the visitors said {text!r}"
            raise Unavailable(reason) from None
        return said


@contextlib.contextmanager
def _visiting(server: Running, at_least: int, cores: Cores) -> Iterator[_Client]:
    """Have visitors come for the `with` block; return when they do."""
    command = [sys.executable, "-m", "bench.visits", f"--port={server.port}", f"--at-least={at_least}"]
    with on_core(cores.client):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    client = _Client(process)
    with process:
        try:
            if "visiting" not in client.line(START_LIMIT_S):
                reason = f"no visit succeeds: {server.last_words()}"
                raise Unavailable(reason)
            yield client
        finally:
            process.kill()


# -- for a run ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerStep:
    """One of the measurements above, as a step of a run."""

    name: str
    planned_s: float
    measure: Callable[[WorkerTasks, Cores], dict[str, float]]
    headline: str
    """Which of its values to show at once."""


def worker_steps(tasks: WorkerTasks | None) -> list[WorkerStep]:
    """Return the steps that a suite's tasks amount to."""
    if tasks is None:
        return []
    return [
        WorkerStep(
            f"{tasks.kills} workers killed under {tasks.kill_visits:,} connects",
            tasks.kills * KILL_S + SETUP_S,
            measure_kills,
            "kills: failed, never accepted",
        ),
        WorkerStep(
            f"{tasks.reloads} reloads under {tasks.reload_visits:,} connects",
            tasks.reloads * RELOAD_S + SETUP_S,
            measure_reloads,
            "reloads: failed",
        ),
        WorkerStep(
            f"{tasks.starts} workers started, one by one",
            tasks.starts * START_S + SETUP_S,
            measure_starts,
            "start: beyond the import, s",
        ),
    ]
