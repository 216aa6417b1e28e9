"""Counting what one operation costs under callgrind, so that it comes out the same every time and on every machine.

The number of instructions is a property of the code, if nothing else is let in. What would get in is shut out:

* **the C library**: how many instructions a `memcpy` takes depends on the processor (which of its variants is used) and
  on where in memory both blocks lie, that is on what was imported before, and from how long a path. So what happens
  inside of the C library is left out; an additional copy shows by what it takes to ask for it.
* **the environment**: only `KEPT` goes on to the measured process, so no `PYTHON...` or `GEVPY_...` variable does;
  the hash seed is fixed.
* **start-up, caches, the garbage collector**: `bench.harness` warms up, disables collection, and counts two run
  lengths; we subtract. Address randomisation has no part in it: valgrind decides where memory lies.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench import harness
from bench.client import HERE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["FIGURES", "Counts", "count", "summed"]

FIGURES = ("calls", "own", "all")
"""Calls that leave gevpy's extension modules; instructions inside of these; instructions of these and Python's."""

Counts = dict[str, float]
"""A number for each of `FIGURES`."""

OURS = "/gevpy/"
C_LIBRARY = ("libc.", "libc-", "ld-", "ld.")
TITLE = "desc: Trigger: Client Request: "
KEPT = ("HOME", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH")
STEADY = {
    "PYTHONHASHSEED": "0",
    # callgrind takes "rep movsb" byte by byte; without, it ends in half of the time.
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-ERMS",
}


def count(module: str, cases: Sequence[harness.Case]) -> dict[str, Counts]:
    """Run `module` under callgrind, and return what one thing costs in every case."""
    harness._mark_library()
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={folder}/out",
        ]
        done = subprocess.run(
            [*command, sys.executable, "-m", module],
            env=kept | STEADY | {harness.UNDER_CALLGRIND: "1"},
            check=False,
            capture_output=True,
            text=True,
            cwd=HERE.parent,
        )
        if done.returncode:
            raise SystemExit(f"{module} failed under callgrind:\n{done.stderr}")
        dumps = dict(_read(path) for path in Path(folder).iterdir() if path.name != "out")
    return {case.name: _per_thing(dumps[f"{case.name} x1"], dumps[f"{case.name} x2"], case.scale) for case in cases}


def _per_thing(once: Counts, twice: Counts, scale: int) -> Counts:
    return {name: (twice[name] - once[name]) / harness.COUNTED_OPERATIONS / scale for name in FIGURES}


def _read(path: Path) -> tuple[str, Counts]:
    with path.open(errors="replace") as lines:
        title = next(line for line in lines if line.startswith(TITLE))
        return title.removeprefix(TITLE).strip(), summed(lines)


def summed(lines: Iterable[str]) -> Counts:
    """Add up the lines of a callgrind dump.

    `ob=(3) /path` begins what the object file 3 executed (later on `ob=(3)` will do): lines of position and cost.
    `calls=2 ...` says that it made 2 calls, into another object if `cob=` came before; the line after that is
    the callee's cost, which counts where the callee's own lines are.
    """
    counts = dict.fromkeys(FIGURES, 0.0)
    paths: dict[str, str] = {}
    caller, callee, after_calls = "", "", False
    for line in lines:
        name, _, value = line.partition("=")
        if name in {"ob", "cob"}:
            number, _, path = value.strip().partition(" ")
            callee = paths.setdefault(number, path)
            caller = callee if name == "ob" else caller
        elif name == "calls":
            leaves = OURS in caller and OURS not in callee
            counts["calls"] += int(value.split()[0]) if leaves else 0
            callee, after_calls = caller, True
        elif line[0] in "+-*0123456789":
            cost = 0 if after_calls else int(line.split()[1])
            counts["own"] += cost if OURS in caller else 0
            counts["all"] += cost if not Path(caller).name.startswith(C_LIBRARY) else 0
            after_calls = False
    return counts
