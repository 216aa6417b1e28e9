"""The load generator from Python: building it, running it on its core, reading its JSON."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["BUILD", "Idle", "Load", "LoadError", "build_loadgen", "compile_c", "hold_idle", "on_core", "run_load"]

HERE = Path(__file__).parent
BUILD = HERE / ".build"
LOADGEN = BUILD / "loadgen"

WARM_UP_S = 0.3
USUAL_CONNECTIONS = 50
_SIZES = ((1 << 20, "MiB"), (1 << 10, "KiB"))


class LoadError(Exception):
    """The load generator, or the server under it, failed; the text says how."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the client does to a server."""

    mode: str = "tcp"
    size: int = 64
    depth: int = 1
    connections: int = USUAL_CONNECTIONS
    work: str = "echo"

    @property
    def protocol(self) -> str:
        """The server's `--protocol` that this load needs."""
        if self.work == "broadcast":
            return self.work
        return "raw" if self.mode == "tcp" else self.mode

    @property
    def title(self) -> str:
        """Return the name that tables and results use: `tcp 64 B, depth 1`."""
        if self.mode == "redis":
            return f"redis {self.work}, depth {self.depth}"
        if self.work == "broadcast":
            return f"broadcast of {format_size(self.size)} to {self.connections:,}, {self.depth} in a turn"
        if self.work != "echo":
            return f"{self.mode} {self.work}"
        many = f", {self.connections} connections" if self.connections > USUAL_CONNECTIONS else ""
        return f"{self.mode} {format_size(self.size)}, depth {self.depth}{many}"

    def arguments(self) -> list[str]:
        """Return the load generator's arguments."""
        return [
            f"--work={self.work}",
            f"--mode={self.mode}",
            f"--size={self.size}",
            f"--depth={self.depth}",
            f"--connections={self.connections}",
        ]


def format_size(size: int) -> str:
    """Write a size as `64 B`, `4 KiB`, `1 MiB`."""
    for unit, name in _SIZES:
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def build_loadgen() -> None:
    """Compile `loadgen.c` if it is newer than its program."""
    source = HERE / "loadgen.c"
    if LOADGEN.exists() and LOADGEN.stat().st_mtime >= source.stat().st_mtime:
        return
    compile_c(source, LOADGEN, "-std=gnu11", "-Wall", "-Wextra", "-Werror")


def compile_c(source: Path, target: Path, *flags: str) -> None:
    """Compile one C file."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise SystemExit("gcc is needed to build the load generator, and is not here")
    BUILD.mkdir(exist_ok=True)
    made = target.with_name(f"{target.name}.{os.getpid()}")  # nobody runs a half of it, and two may build at once
    subprocess.run([compiler, "-O2", *flags, "-o", made, source], check=True)
    made.replace(target)


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Have processes that are started inside run on `core` only."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_load(load: Load, *, port: int, server_pids: Sequence[int], seconds: float, core: int | None) -> dict[str, Any]:
    """Run `load` for `seconds` after a warm-up and return what the generator measured."""
    command = [
        str(LOADGEN),
        *load.arguments(),
        f"--port={port}",
        f"--seconds={seconds}",
        f"--warmup={min(WARM_UP_S, seconds / 3):.2f}",
        *(f"--server-pid={pid}" for pid in server_pids),
    ]
    with on_core(core):
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return _parsed(done.stdout)


def _parsed(line: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        message = f"the load generator said {line!r}"
        raise LoadError(message) from None
    if "error" in answer:
        raise LoadError(str(answer["error"]))
    return answer


@dataclass(slots=True)
class Idle:
    """Idle connections that are open; `release` closes them."""

    process: subprocess.Popen[str]
    opened_s: float
    """How long opening them took."""

    def wait_closed(self) -> dict[str, Any]:
        """Wait until the server has closed every connection; return when it did."""
        assert self.process.stdout is not None, "the process was started with a pipe"
        return _parsed(self.process.stdout.readline())

    def release(self) -> None:
        """Close the connections."""
        assert self.process.stdin is not None, "the process was started with a pipe"
        self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def hold_idle(  # noqa: PLR0913 - keywords, all different
    mode: str,
    *,
    port: int,
    connections: int,
    message: bool,
    deflate: bool = False,
    core: int | None,
    seconds: float = 60,
) -> Iterator[Idle]:
    """Hold `connections` open, silent or after one message each, for `seconds` at most."""
    command = [
        str(LOADGEN),
        "--work=idle",
        f"--mode={mode}",
        f"--port={port}",
        f"--connections={connections}",
        f"--seconds={seconds}",
        *(["--message"] if message else []),
        *(["--deflate"] if deflate else []),
    ]
    with on_core(core):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None, "the process was started with a pipe"
        idle = Idle(process, 0.0)
        try:
            idle.opened_s = _parsed(process.stdout.readline())["seconds"]
            yield idle
        finally:
            idle.release()
