"""Autobahn|Testsuite, let loose on a server or a client.

A server program echoes, says its port in a line ``port 1833``, and serves until SIGTERM. A client program is given the
fuzzing server's URL as its last argument, asks for the number of cases, echoes in each of them, has the report written,
and ends.

The suite is one process of Python 2.7 that runs case after case, so the cases are dealt out to two of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.autobahn.verdicts import GROUPS, PROGRAM_LOG, SUITE_LOG, Report, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["ALL", "BRIEF", "BRIEF_CASES", "INSTALLED", "fuzz_client", "fuzz_server", "wstest"]

INSTALLED = Path(__file__).resolve().parents[2] / "build" / "autobahn"

#: What to run: two shares that take about as long.
Shares = tuple[tuple[str, ...], tuple[str, ...]]
COMPRESSION = (12, 13)
UNCOMPRESSED = tuple(f"{group}.*" for group in GROUPS if group not in COMPRESSION)
ALL: Shares = ((*UNCOMPRESSED, "12.*", "13.1.*"), tuple(f"13.{setting}.*" for setting in range(2, 8)))
#: Groups 12 and 13 try 18 sizes of messages in 5 and 7 settings each; the first six tell most of it.
BRIEF: Shares = (
    (*UNCOMPRESSED, *(f"12.{setting}.{size}" for setting in range(1, 6) for size in range(1, 7))),
    tuple(f"13.{setting}.{size}" for setting in range(1, 8) for size in range(1, 7)),
)
BRIEF_CASES = 373

START_S = 30.0  # for what takes a second on an idle machine
RUN_S = 1800.0  # all cases take some minutes; one that hangs is ended by the suite itself
POLL_S = 0.05
PORTS = range(20000, 32000)  # below those that the system gives to clients: none can come in between


def wstest() -> Path | None:
    """Give the suite's program: ``WSTEST``, or what ``make conformance`` installed; None where there is neither."""
    path = Path(os.environ.get("WSTEST") or INSTALLED / "wstest")
    return path if path.exists() else None


def fuzz_server(program: Sequence[str], shares: Shares, folder: Path) -> Report:
    """Run the fuzzing client against a server; reports and logs go into ``folder``, which is made anew."""
    folders = _folders(folder, len(shares))
    with _running(program, folder / PROGRAM_LOG) as server:
        port = _port_of(server, folder / PROGRAM_LOG)
        with ThreadPoolExecutor() as pool:
            list(pool.map(partial(_run_client, port), shares, folders))
    return read(folders)


def fuzz_client(program: Sequence[str], shares: Shares, folder: Path) -> Report:
    """Run the fuzzing server, and a client against it; reports and logs go into ``folder``, which is made anew."""
    folders = _folders(folder, len(shares))
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(_run_server, program), shares, folders, _free_ports(len(shares))))
    return read(folders)


def _folders(folder: Path, count: int) -> list[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folders = [folder / str(share) for share in range(count)]
    for each in folders:
        each.mkdir(parents=True)
    return folders


def _run_client(port: int, cases: Sequence[str], folder: Path) -> None:
    servers = [{"agent": "program", "url": f"ws://127.0.0.1:{port}"}]
    with _suite("fuzzingclient", cases, folder, servers=servers) as suite:
        suite.wait(RUN_S)


def _run_server(program: Sequence[str], cases: Sequence[str], folder: Path, port: int) -> None:
    url = f"ws://127.0.0.1:{port}"
    with _suite("fuzzingserver", cases, folder, url=url) as suite:
        _await_listener(suite, folder / SUITE_LOG, port)
        with _running([*program, url], folder / PROGRAM_LOG) as client:
            client.wait(RUN_S)


@contextmanager
def _suite(mode: str, cases: Sequence[str], folder: Path, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run the suite in one of its modes; not the web server that it has, too."""
    program = wstest()
    assert program is not None, "who calls this has asked wstest()"
    spec = {"outdir": str(folder), "cases": cases, "exclude-cases": [], "exclude-agent-cases": {}, **settings}
    path = folder / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    command = [str(program), "--mode", mode, "--webport", "0", "--spec", str(path)]
    with _running(command, folder / SUITE_LOG) as process:
        yield process


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, all that it says going into ``log``; end it, if it hasn't ended by then."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603 - our own, or what we were told to run
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            process.wait(START_S)
        finally:
            process.kill()
            process.wait()


def _port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait for a server to say its port."""
    deadline = time.monotonic() + START_S
    while True:
        ended = process.poll() is not None or time.monotonic() > deadline
        text = log.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^port (\d+)$", text, re.MULTILINE)
        if found:
            return int(found[1])
        if ended:
            raise RuntimeError(f"the server didn't say its port, but:\n{text}")
        time.sleep(POLL_S)


def _await_listener(process: subprocess.Popen[bytes], log: Path, port: int) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), START_S).close()
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"the fuzzing server doesn't listen, but said:\n{text}") from None
            time.sleep(POLL_S)
        else:
            return


def _free_ports(count: int) -> list[int]:
    """Find ports that nobody listens at: the suite can't be told to choose one by itself."""
    free: list[int] = []
    for port in range(PORTS.start + os.getpid() % 10_000, PORTS.stop):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        free.append(port)
        if len(free) == count:
            return free
    raise RuntimeError("no ports are free")
