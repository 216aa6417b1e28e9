"""The servers under test: who they are, how each starts, and why one that cannot is skipped.

A server prints one JSON line when it is ready (`bench/system/serving.py`). One that prints
`{"unsupported": reason}`, or dies before, is skipped with that reason; nothing else of the run is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.client import BUILD, HERE, on_core

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.client import Load

__all__ = [
    "HANDED_OVER",
    "REDIS",
    "REDIS_EXAMPLE",
    "SERVERS",
    "TWO_WORKERS",
    "Running",
    "Server",
    "Unavailable",
    "running",
]

TWO_WORKERS = "gevpy, 2 workers"
HANDED_OVER = "gevpy, 2 workers, least_connections"

REDIS = "redis-server"
REDIS_EXAMPLE = "gevpy, examples/redis_server.py"

START_LIMIT_S = 15
STOP_LIMIT_S = 5


class Unavailable(Exception):
    """The server cannot run here; the text says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server under test."""

    name: str
    module: str
    protocols: frozenset[str]
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    compiled: bool = False
    echoes_payloads: bool = False
    """Whether it stands beside WebSocket servers without speaking it: it echoes TCP messages of the same size."""

    def load(self, load: Load) -> Load:
        """Return what the client does to this server where others get `load`."""
        if self.echoes_payloads and load.protocol == "websocket":
            return replace(load, mode="tcp")
        return load

    def command(self, protocol: str, extra: tuple[str, ...]) -> list[str]:
        """Return what to execute."""
        if self.module.endswith(".go"):
            return [_go_build(self.module), "-port=0"]
        return [
            sys.executable,
            "-m",
            f"bench.system.{self.module}",
            "--port=0",
            f"--protocol={protocol}",
            *self.arguments,
            *extra,
        ]


@dataclass(frozen=True, slots=True)
class Running:
    """A server that accepts connections."""

    port: int
    pid: int
    facts: dict[str, Any]
    errors: Path
    workers: tuple[int, ...] = ()
    """Process ids, by slot; empty where one process does everything."""

    @property
    def pids(self) -> tuple[int, ...]:
        """All its processes, the one that was started first."""
        return (self.pid, *self.workers)

    def last_words(self) -> str:
        """Return the last line of its standard error, for when something went wrong."""
        return (self.errors.read_text().strip().splitlines() or ["nothing"])[-1]

    def resident_bytes(self) -> int:
        """Return its resident memory, exactly (`/proc/PID/status` is approximate)."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
        return 0


def _go_build(source: str) -> str:
    go = shutil.which("go")
    if go is None:
        reason = "no Go toolchain on this machine"
        raise Unavailable(reason)
    program = BUILD / Path(source).stem
    BUILD.mkdir(exist_ok=True)
    subprocess.run([go, "build", "-o", program, HERE / "system" / source], check=True)
    return str(program)


def _ready_line(process: subprocess.Popen[str], errors: Path) -> dict[str, Any]:
    assert process.stdout is not None, "the process was started with a pipe"
    ready, _, _ = select.select([process.stdout], [], [], START_LIMIT_S)
    line = process.stdout.readline() if ready else ""
    try:
        facts: dict[str, Any] = json.loads(line)
    except ValueError:
        said = errors.read_text().strip().splitlines() or ["the server died without a word"]
        raise Unavailable(said[-1]) from None
    if "unsupported" in facts:
        raise Unavailable(facts["unsupported"])
    return facts


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running(server: Server, protocol: str, *, core: int | None, extra: tuple[str, ...] = ()) -> Iterator[Running]:
    """Run `server` for the `with` block.

    Raises:
        Unavailable: it cannot run here.
    """
    if protocol not in server.protocols:
        reason = f"{server.name} has no {protocol} server"
        raise Unavailable(reason)
    command = server.command(protocol, extra)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GEVPY_")}
    environment = {**inherited, "GOMAXPROCS": "1", **server.environment}
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "stderr"
        with errors.open("w") as stderr, on_core(core):
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                text=True,
                env=environment,
                cwd=HERE.parent,
            )
        try:
            facts = _ready_line(process, errors)
            port, workers = facts.pop("port"), tuple(facts.pop("workers", ()))
            yield Running(port, process.pid, facts, errors, workers)
        finally:
            _stop(process)
            if process.stdout is not None:
                process.stdout.close()


_TCP = frozenset({"raw", "length_prefix", "line"})
_ALL = _TCP | {"websocket"}
_RAW = frozenset({"raw"})
_WEBSOCKET = frozenset({"websocket"})
_BROADCAST = frozenset({"broadcast"})
_REDIS = frozenset({"redis"})
_TLS = frozenset({"tls"})
_PURE = {"GEVPY_PURE_PYTHON": "1"}
_STDLIB = {"GEVPY_LOOP": "asyncio"}
_UVLOOP = {"GEVPY_LOOP": "uvloop"}
_HAND_OVER = ("--workers=2", "--placement=least_connections")

SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        Server("gevpy", "gevpy_server", _ALL | _BROADCAST | _TLS, environment=_UVLOOP, compiled=True),
        Server("gevpy pure", "gevpy_server", _ALL | _BROADCAST | _TLS, environment=_UVLOOP | _PURE),
        Server("gevpy, asyncio loop", "gevpy_server", _ALL, environment=_STDLIB, compiled=True),
        Server("gevpy pure, asyncio loop", "gevpy_server", _ALL, environment=_STDLIB | _PURE),
        Server(TWO_WORKERS, "gevpy_server", _ALL, ("--workers=2",), _UVLOOP, compiled=True),
        Server(HANDED_OVER, "gevpy_server", _ALL, _HAND_OVER, _UVLOOP, compiled=True),
        Server("floor", "floor", _TCP | _BROADCAST | _TLS, ("--loop=uvloop",), echoes_payloads=True),
        Server("asyncio Protocol", "floor", _TCP | _TLS, ("--loop=asyncio",)),
        Server("streams on uvloop", "streams", _TCP, ("--loop=uvloop",)),
        Server("streams on asyncio", "streams", _TCP, ("--loop=asyncio",)),
        Server("gevent", "gevent_server", _RAW),
        Server("Twisted", "twisted_server", _TCP),
        Server("Tornado", "tornado_server", _TCP),
        Server("Go net", "net_echo.go", _RAW),
        Server("picows", "picows_server", _WEBSOCKET | _BROADCAST),
        Server("websockets", "websockets_server", _WEBSOCKET | _BROADCAST),
        Server("aiohttp", "aiohttp_server", _WEBSOCKET),
        Server(REDIS, "redis_c", _REDIS),
        Server(REDIS_EXAMPLE, "redis_example", _REDIS, environment=_UVLOOP, compiled=True),
    )
}
"""Every server, by the name that tables and results use."""
