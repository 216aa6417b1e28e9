"""``gevpy run`` under systemd: sockets that were bound for it, readiness, signs of life, and the unit file of the docs.

What systemd does is done by a stand-in, as its manual pages tell it.
"""

from __future__ import annotations

import configparser
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy.cli import command
from tests.integration.harness import ROOT, wait_until
from tests.integration.systemd_stand_in import Service
from tests.integration.tree_harness import ask, is_running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WATCHDOG_S = 1.0
BEATS = 3

APP = """
import asyncio
import json
import os
from pathlib import Path

import gevpy

SPOKEN = ("LISTEN_", "NOTIFY_", "WATCHDOG_")


class Echo(gevpy.Handler):
    async def on_start(self, worker):
        self.worker = worker
        Path(f"started-{worker.id}").touch()
        while Path("wait").exists():
            await asyncio.sleep(0.01)

    def on_message(self, conn, ctx, data):
        if data == b"who":
            variables = sorted(name for name in os.environ if name.startswith(SPOKEN))
            return json.dumps({"pid": os.getpid(), "slot": self.worker.id, "variables": variables}).encode()
        return data
"""


@pytest.fixture
def service(tmp_path: Path) -> Callable[..., Service]:
    """Make services that run an application with so many workers."""
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

    def make(workers: int | str, *arguments: str, loop: str = "", **options: Any) -> Service:
        command = [sys.executable, "-m", "gevpy", "run", "app:Echo", "--protocol", "line", *arguments]
        environment = {"PYTHONPATH": path, **({"GEVPY_LOOP": loop} if loop else {})}
        return Service([*command, "--workers", str(workers)], tmp_path, environment=environment, **options)

    return make


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """Give the socket of a socket unit."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def connect(listening: socket.socket) -> socket.socket:
    """Connect a client to the socket unit."""
    sock = socket.socket(listening.family)
    sock.settimeout(20.0)
    sock.connect(listening.getsockname())
    return sock


def who(listening: socket.socket) -> dict[str, Any]:
    """Ask a worker of itself, on a connection of its own."""
    with connect(listening) as sock:
        found: dict[str, Any] = json.loads(ask(sock, "who"))
        return found


@pytest.mark.parametrize("workers", [1, 2])
def test_it_is_ready_when_it_serves_and_not_before(
    service: Callable[..., Service], listening: socket.socket, tmp_path: Path, loop: str, workers: int
) -> None:
    """Who comes while it starts waits in the passed socket; READY=1 comes once, when all are served."""
    (tmp_path / "wait").touch()
    with connect(listening) as early, service(workers, loop=loop, sockets=[listening]) as running:
        early.sendall(b"hello\n")
        marks = [tmp_path / f"started-{number}" for number in range(workers)]
        wait_until(lambda: all(mark.exists() for mark in marks), "it has begun to start", 20.0)
        assert running.told == []
        (tmp_path / "wait").unlink()
        running.wait_told("READY=1")
        with connect(listening) as late:
            assert ask(late, "at once") == "at once"
        assert early.recv(100) == b"hello\n"
        assert running.stop() == 0, running.log()
        running.wait_told("STOPPING=1")
        assert [text for _, text in running.told] == ["READY=1", "STOPPING=1"]
        assert running.strangers == []
        assert "Traceback" not in running.log()


@pytest.mark.parametrize("workers", [1, 2])
def test_all_workers_serve_the_passed_socket(
    service: Callable[..., Service], listening: socket.socket, workers: int
) -> None:
    """It is theirs, and what systemd said of it is not: no variable reaches them, nor what they might start."""
    with service(workers, sockets=[listening], watchdog_s=60.0) as running:
        running.wait_told("READY=1")
        slots: dict[int, dict[str, Any]] = {}

        def all_seen() -> bool:
            answer = who(listening)
            slots[answer["slot"]] = answer
            return len(slots) == workers

        wait_until(all_seen, "each has taken a connection", 20.0)
        for answer in slots.values():
            leaked = {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & set(answer["variables"])
            assert not leaked
            assert (answer["pid"] == running.process.pid) == (workers == 1)
            if workers > 1:
                assert answer["variables"] == []
        assert running.stop() == 0
        assert not [answer["pid"] for answer in slots.values() if is_running(answer["pid"])]


def test_who_waits_between_two_runs_is_served_by_the_next(
    service: Callable[..., Service], listening: socket.socket
) -> None:
    """The passed socket stays the manager's: stopping the service neither shuts nor resets it."""
    with service(2, sockets=[listening]) as first:
        first.wait_told("READY=1")
        before = who(listening)["pid"]
        assert first.stop() == 0
    with connect(listening) as waiting:
        waiting.sendall(b"who\n")
        with service(2, sockets=[listening]) as second:
            second.wait_told("READY=1")
            assert json.loads(waiting.recv(1000))["pid"] != before
            assert second.stop() == 0


def test_a_passed_unix_socket_keeps_its_path(service: Callable[..., Service], tmp_path: Path) -> None:
    """ListenStream=/run/...: who has bound it removes it, and that is not the service."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        with service(2, sockets=[listening]) as running:
            running.wait_told("READY=1")
            assert {who(listening)["slot"] for _ in range(20)} <= {0, 1}
            assert running.stop() == 0
        assert (tmp_path / "s").is_socket()


def test_several_sockets_are_all_served(service: Callable[..., Service], listening: socket.socket) -> None:
    """Two ListenStream= lines; with a placement, the supervisor accepts on both."""
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        service(2, "--placement", "round_robin", sockets=[listening, other]) as running,
    ):
        running.wait_told("READY=1")
        assert [{who(sock)["slot"] for _ in range(4)} for sock in (listening, other)] == [{0, 1}] * 2
        assert running.stop() == 0


def test_a_reload_keeps_the_main_process(service: Callable[..., Service], listening: socket.socket) -> None:
    """ExecReload=/bin/kill -HUP: new workers serve the same socket, and nothing but READY=1 was ever told."""
    with service(2, sockets=[listening]) as running:
        running.wait_told("READY=1")
        before = set()
        wait_until(lambda: before.add(who(listening)["pid"]) or len(before) == 2, "both are known", 20.0)  # type: ignore[func-returns-value]
        running.reload()
        wait_until(lambda: not any(map(is_running, before)), "both are replaced", 30.0)
        assert who(listening)["pid"] not in before
        assert running.process.poll() is None
        assert running.stop() == 0
        running.wait_told("STOPPING=1")
        assert running.strangers == []


@pytest.mark.parametrize("workers", ["auto", "1"])
def test_a_reload_never_ends_the_service(service: Callable[..., Service], workers: str) -> None:
    """Also where the unit file of the docs finds a single core, or is told to serve with one process."""
    one_core = {min(os.sched_getaffinity(0))}
    with service(workers, "--port", "0", cpus=one_core) as running:
        running.wait_told("READY=1")
        running.reload()

        def answered() -> bool:
            assert running.process.poll() is None, "it was ended by the signal"
            return "reload" in running.log() or "SIGHUP" in running.log()

        wait_until(answered, "it says what it does about it", 10.0)
        assert running.stop() == 0
        running.wait_told("STOPPING=1")


@pytest.mark.parametrize("workers", [1, 2])
def test_no_signal_hurts_a_start(service: Callable[..., Service], tmp_path: Path, workers: int) -> None:
    """Those that change a server, before it serves: their default would end or stop the process."""
    (tmp_path / "wait").touch()
    with service(workers, "--port", "0") as running:
        wait_until((tmp_path / "started-0").exists, "it has begun to start", 20.0)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTTOU) if workers > 1 else ():
            running.process.send_signal(number)
        (tmp_path / "wait").unlink()
        running.wait_told("READY=1")
        assert running.stop() == 0


@pytest.mark.parametrize(("workers", "abstract"), [(1, True), (2, False)], ids=["1-abstract", "2-path"])
def test_signs_of_life_come_in_time(
    service: Callable[..., Service], tmp_path: Path, loop: str, workers: int, abstract: bool
) -> None:
    """WATCHDOG=1 at half the limit, from the main process, after READY=1 and until the stop."""
    (tmp_path / "wait").touch()
    with service(workers, "--port", "0", loop=loop, watchdog_s=WATCHDOG_S, abstract=abstract) as running:
        marks = [tmp_path / f"started-{number}" for number in range(workers)]
        wait_until(lambda: all(mark.exists() for mark in marks), "it has begun to start", 20.0)
        begun = time.monotonic()  # before READY=1, however late we hear of that
        (tmp_path / "wait").unlink()
        running.wait_told("READY=1")
        running.wait_told("WATCHDOG=1", BEATS)
        took_s = time.monotonic() - begun
        assert running.stop() == 0
        running.wait_told("STOPPING=1")
        beats = running.times_of("WATCHDOG=1")
        (ready,) = running.times_of("READY=1")
        gaps = [after - before for before, after in zip([ready, *beats], beats, strict=False)]
        assert took_s > 0.9 * BEATS * WATCHDOG_S / 2, "they come more often than asked for"
        assert min(gaps) < WATCHDOG_S, "they come so seldom that the service would be killed"
        assert running.strangers == []


def test_a_watchdog_of_another_process_is_not_ours(service: Callable[..., Service]) -> None:
    """WATCHDOG_PID names who has to give signs of life."""
    running = service(1, "--port", "0", watchdog_s=0.1)
    running._environment["WATCHDOG_PID"] = "1"
    with running:
        running.wait_told("READY=1")
        assert running.stop() == 0
        running.wait_told("STOPPING=1")
        assert running.times_of("WATCHDOG=1") == []


def test_a_start_that_fails_is_no_readiness(service: Callable[..., Service], tmp_path: Path) -> None:
    """No READY=1, and an exit code that Restart=on-failure takes for a failure."""
    (tmp_path / "app.py").write_text(APP.replace("self.worker = worker", "raise OSError('no database')"))
    with service(2, "--port", "0") as running:
        assert running.process.wait(20) == 3, running.log()
        assert running.log().rstrip().endswith("no worker could start: OSError: no database")
        assert running.times_of("READY=1") == []


# -- the unit file -------------------------------------------------------------------------------------


def unit_of_the_docs() -> str:
    """Give the unit file that the docs show."""
    text = (ROOT / "docs/howto/workers.md").read_text(encoding="utf-8")
    unit = text.partition("```ini\n")[2].partition("```")[0]
    assert unit.startswith("[Unit]")
    return unit


def test_the_unit_file_says_what_gevpy_does() -> None:
    """Its command line is one that gevpy takes, and its limits leave time for a drain and its grace."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    unit.read_string(unit_of_the_docs())
    service = unit["Service"]
    _, verb, *arguments = shlex.split(service["ExecStart"])
    assert verb == "run"
    command.commands["run"].make_context("run", arguments)  # raises what it would say to a user
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    assert shlex.split(service["ExecReload"]) == ["/bin/kill", "-HUP", "$MAINPID"]
    assert float(service["TimeoutStopSec"]) >= (gevpy.Timeouts().drain_s or 0) + 5
    assert float(service["WatchdogSec"]) > 2 * 1.0
    assert service["Restart"] == "on-failure"


def test_systemd_has_nothing_against_the_unit_file(tmp_path: Path) -> None:
    """``systemd-analyze verify``, where it is installed; what it runs is replaced by a program that is there."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    program = shutil.which("true")
    text = unit_of_the_docs().replace("/srv/echo/venv/bin/gevpy", str(program)).replace("/srv/echo", str(tmp_path))
    (tmp_path / "echo.service").write_text(text, encoding="utf-8")
    socket_unit = "[Socket]\nListenStream=1833\n\n[Install]\nWantedBy=sockets.target\n"
    (tmp_path / "echo.socket").write_text(socket_unit, encoding="utf-8")
    units = [str(tmp_path / name) for name in ("echo.service", "echo.socket")]
    done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "echo." in line]) == (0, []), done.stderr
