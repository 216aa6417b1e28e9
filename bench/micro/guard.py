"""The guard of the hot loops: instruction counts, held to recorded figures, give or take 5 %.

Wall time says nothing on a busy machine. The number of instructions that one operation takes is a property of
the code, if nothing else is let in; what would get in is shut out here:

* **the processor**: the C library picks its `memcpy` and `memchr` by what the processor can do, and callgrind counts
  each byte of a `rep movsb`. `STEADY` has it take the plain SSE2 ones everywhere.
* **the environment**: only `KEPT` goes on to the measured process, so no `PYTHON...` or `GEVPY_...` variable does;
  the hash seed is fixed.
* **start-up, caches, the garbage collector**: `bench.harness` warms up, disables collection, and subtracts two run
  lengths. Where memory lies is valgrind's own choice, so address randomisation has no part in it.

What is left belongs to the interpreter: its version, the compiler and whether it was built with profile feedback
make a difference of 10 % and more. They are the key of a record; where there is none, nothing is checked, and
that is said. With `--must` (CI) it is a failure on CPython 3.11 for x86_64, the build that the record is kept for.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypedDict

import gevpy
from bench import harness

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RECORD", "Recorded", "compare", "key", "main"]

RECORD = Path(__file__).parents[1] / "recorded.json"
TOLERANCE = 0.05
ALWAYS_CHECKED = ("cpython", "3.11", "x86_64")
KEPT = ("HOME", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")
STEADY = {
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-SSSE3,-AVX2,-AVX2_Usable,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM"
    ":glibc.cpu.x86_non_temporal_threshold=0x400000",
    "PYTHONHASHSEED": "0",
}


class Recorded(TypedDict):
    """What was counted once, by which tools."""

    tools: str
    counts: dict[str, float]


Records = dict[str, dict[str, Recorded]]
"""By key, then by module."""


def key() -> str:
    """Name what the counts depend on besides gevpy: `cpython 3.11 x86_64, gcc, pgo`."""
    compiler = platform.python_compiler().split()[0].lower()
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    profile = ", pgo" if "--enable-optimizations" in options else ""
    return f"{' '.join(_interpreter())}, {compiler}{profile}"


def _interpreter() -> tuple[str, str, str]:
    return sys.implementation.name, "{}.{}".format(*sys.version_info), platform.machine()


def _tools() -> str:
    """Name what may move the counts a little: for whoever wonders why they did."""
    done = subprocess.run(["gcc", "--version"], check=True, capture_output=True, text=True)  # noqa: S607 - as the build
    gcc = done.stdout.splitlines()[0].split()[-1]
    cython = importlib.metadata.version("Cython")
    return f"Python {platform.python_version()}, {platform.python_compiler()}; gevpy by Cython {cython}, gcc {gcc}"


def compare(recorded: dict[str, float], counted: dict[str, float]) -> list[str]:
    """Return a line for every case that is off by more than 5 %, up or down, not recorded, or gone."""
    lines = []
    for name in sorted(recorded.keys() | counted.keys()):
        before, now = recorded.get(name), counted.get(name)
        if before is None or now is None:
            lines.append(f"{name}: {'not recorded' if before is None else 'recorded, but gone'}")
        elif abs(now / before - 1) > TOLERANCE:
            lines.append(f"{name}: {before:,.1f} -> {now:,.1f} instructions ({now / before - 1:+.1%})")
    return lines


def check(module: str, counted: dict[str, float], recorded: Recorded) -> None:
    """Print what differs from `recorded`, and fail if anything does."""
    lines = compare(recorded["counts"], counted)
    if not lines:
        changes = [now / recorded["counts"][name] - 1 for name, now in counted.items()]
        print(f"{module}: {len(counted)} instruction counts as recorded, {min(changes):+.2%} to {max(changes):+.2%}")
        return
    print(f"{module}: instruction counts off by more than {TOLERANCE:.0%}:", *lines, sep="\n  ")
    print(f"  recorded with {recorded['tools']}", f"  counted with  {_tools()}", sep="\n")
    print("  Meant, or for the better? Then: make guard-record")
    raise SystemExit(1)


def _steady() -> None:
    """Leave nothing in the environment that could move a count."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    os.environ.clear()
    os.environ.update(kept | STEADY)


def record(module: str, counted: dict[str, float], records: Records) -> None:
    """Make `counted` what is to hold from now on, for this key."""
    rounded = {name: round(count, 1) for name, count in counted.items()}
    records.setdefault(key(), {})[module] = {"tools": _tools(), "counts": rounded}
    RECORD.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")
    print(f"{module}: {len(counted)} instruction counts recorded for {key()}")


def main(module: str, cases: Sequence[harness.Case]) -> None:
    """Be the command line of `python -m MODULE`: `--check` and `--record` are ours, the rest is the harness's."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--must", action="store_true")
    options, _ = parser.parse_known_args()
    if not (options.check or options.record):
        harness.main(module, cases, RECORD)
        return
    if shutil.which("valgrind") is None:
        _give_up(module, "valgrind is not installed", failed=options.record)
    if not gevpy.build_info().compiled:
        _give_up(module, "gevpy is not compiled here", failed=options.record or options.must)
    records: Records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    recorded = records.get(key(), {}).get(module)
    if recorded is None and options.check:
        reason = f"nothing is recorded for {key()}; {RECORD.name} has: {'; '.join(records) or 'nothing'}"
        _give_up(module, reason, failed=options.must and _interpreter() == ALWAYS_CHECKED)
    _steady()
    counted = harness.count_instructions(module, cases, "compiled")
    if options.record:
        record(module, counted, records)
    else:
        check(module, counted, recorded)


def _give_up(module: str, reason: str, *, failed: bool) -> NoReturn:
    print(f"{module}: instruction counts NOT CHECKED: {reason}")
    raise SystemExit(failed)
