"""Timing small pieces: nanoseconds by the wall clock, instructions by callgrind.

A `Case` is one operation, repeated by a function of its own. Time is the best of several repetitions: other
programs can only add to it. Instructions are counted by `valgrind --tool=callgrind` between two marks
(`mark.c`), so neither start-up nor setup is in them; they hardly move on a busy machine, which makes them the
thing to guard (`bench/micro/guard.py`). They are comparable for one Python build and one C library only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.client import BUILD, HERE, compile_c

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Case", "main"]

REPETITIONS = 7
SHORTEST_S = 0.02
COUNTED_OPERATIONS = 200
UNDER_CALLGRIND = "BENCH_UNDER_CALLGRIND"
_BUILDS = {"compiled": {}, "pure": {"GEVPY_PURE_PYTHON": "1"}}


@dataclass(frozen=True, slots=True)
class Case:
    """One operation to measure.

    `make` sets up and returns a function that performs the operation as often as it is told. `scale` is how many of
    the things that the name speaks of (messages, entries) one operation handles.
    """

    name: str
    make: Callable[[], Callable[[int], object]]
    scale: int = 1


def nanoseconds(case: Case) -> float:
    """Return the time of one thing, in ns: the best of several repetitions."""
    run = case.make()
    count = 1
    while _timed(run, count) < SHORTEST_S:
        count *= 4
    best = min(_timed(run, count) for _ in range(REPETITIONS))
    return best / count / case.scale * 1e9


def _timed(run: Callable[[int], object], count: int) -> float:
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        run(count)
        return time.perf_counter() - began
    finally:
        gc.enable()


# -- instructions ----------------------------------------------------------------------------------


def _mark_library() -> Path:
    library = BUILD / "mark.so"
    source = HERE / "mark.c"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        compile_c(source, library, "-shared", "-fPIC")
    return library


def run_marked(cases: Sequence[Case]) -> None:
    """Run every case between two marks; this process is under callgrind.

    Once and twice as often: the difference is free of what the marks themselves and the first call cost.
    """
    library = ctypes.CDLL(str(_mark_library()))
    gc.disable()
    for case in cases:
        run = case.make()
        run(COUNTED_OPERATIONS)
        for times in (1, 2):
            library.mark_begin()
            run(times * COUNTED_OPERATIONS)
            library.mark_end(f"{case.name} x{times}".encode())


def count_instructions(module: str, cases: Sequence[Case], build: str) -> dict[str, float]:
    """Run `module` again under callgrind, and return the instructions of one thing for every case."""
    _mark_library()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind",
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={folder}/out",
            sys.executable,
            "-m",
            module,
        ]
        environment = {
            **os.environ,
            **_BUILDS[build],
            UNDER_CALLGRIND: "1",
            "PYTHONHASHSEED": "0",
        }
        subprocess.run(command, env=environment, check=True, capture_output=True, cwd=HERE.parent)
        totals = dict(_dumped(path) for path in Path(folder).iterdir() if path.name != "out")
    return {case.name: _difference(totals, case) for case in cases}


def _difference(totals: dict[str, int], case: Case) -> float:
    once, twice = totals[f"{case.name} x1"], totals[f"{case.name} x2"]
    return (twice - once) / COUNTED_OPERATIONS / case.scale


def _dumped(path: Path) -> tuple[str, int]:
    text = path.read_text(errors="replace")
    name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    total = re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
    assert name is not None, "every dump is made by mark_end"
    assert total is not None, "every dump has a total"
    return name[1], int(total[1])


# -- the command line ------------------------------------------------------------------------------


def _time_build(module: str, build: str) -> dict[str, float]:
    """Time all cases in a process of their own: a build is chosen when gevpy is imported."""
    environment = {**os.environ, **_BUILDS[build]}
    command = [sys.executable, "-m", module, "--raw"]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, cwd=HERE.parent, text=True)
    times: dict[str, float] = json.loads(done.stdout)
    return times


def _print_table(cases: Sequence[Case], columns: dict[str, dict[str, float]]) -> None:
    print(f"{'':<52}" + "".join(f"{name:>16}" for name in columns))
    for case in cases:
        values = "".join(f"{column[case.name]:>16,.1f}" for column in columns.values())
        print(f"{case.name:<52}{values}")


def main(module: str, cases: Sequence[Case]) -> None:
    """Be the command line of `python -m MODULE`."""
    if os.environ.get(UNDER_CALLGRIND):
        run_marked(cases)
        return
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--instructions", action="store_true", help="count by callgrind instead")
    parser.add_argument("--check", action="store_true", help="compare with what is recorded: bench/micro/guard.py")
    parser.add_argument("--record", action="store_true", help="record: the same")
    parser.add_argument("--raw", action="store_true", help="this process's build alone, as JSON")
    options = parser.parse_args()
    if options.raw:
        print(json.dumps({case.name: nanoseconds(case) for case in cases}))
        return
    if not options.instructions:
        _print_table(cases, {f"{b}, ns": _time_build(module, b) for b in _BUILDS})
        return
    if shutil.which("valgrind") is None:
        raise SystemExit("instructions are counted by valgrind, which is not here")
    _print_table(cases, {f"{b}, instr.": count_instructions(module, cases, b) for b in _BUILDS})
