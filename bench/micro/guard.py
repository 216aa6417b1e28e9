"""The guard of the hot loops: what one operation costs, held to recorded figures, give or take 5 %.

Wall time says nothing on a busy machine, so three figures are counted (`bench.micro.callgrind`). Each is compared
where it is comparable:

* **calls** out of gevpy's extension modules, into Python and the C library: wherever the key is the same, that is
  Python's version (3.11) and the architecture;
* **own** instructions, inside of the extension modules, and **all**, which are these and Python's: where besides there
  is a record of the very same build of Python, made with the same Cython and gcc. Its builds differ: in the flags that
  they compile extensions with (own: up to 11 %) and in how they are compiled themselves (all: up to 17 %).

Where nothing is recorded for a key nothing is checked, and that is said. With `--must` (CI) it is a failure on CPython
3.11 for x86_64, which the record is kept for.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypedDict

import gevpy
from bench import harness
from bench.micro.callgrind import FIGURES, count
from gevpy import ring_buffer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.micro.callgrind import Counts

__all__ = ["RECORD", "Recorded", "compare", "key", "main"]

RECORD = Path(__file__).parents[1] / "recorded.json"
TOLERANCE = 0.05
ALWAYS_CHECKED = "cpython 3.11 x86_64"


class Recorded(TypedDict):
    """What was counted once, and by which tools."""

    tools: dict[str, str]
    counts: dict[str, Counts]


Records = dict[str, dict[str, dict[str, Recorded]]]
"""By key, then by module, then by build of Python."""


def key() -> str:
    """Name what a record is made for."""
    return f"{sys.implementation.name} {'{}.{}'.format(*sys.version_info)} {platform.machine()}"


def _build() -> str:
    return " ".join(sys.version.split())


def _tools() -> dict[str, str]:
    """Name what else the counts depend on; both have left their versions in what they made."""
    built = Path(ring_buffer.__file__).read_bytes()
    cython = re.search(rb"_cython_(\d+)_(\d+)", built)
    gcc = re.search(rb"GCC: \([^)]*\) (\d+)", built)
    return {
        "cython": b".".join(cython.groups()).decode() if cython else "unknown",
        "gcc": gcc[1].decode() if gcc else "none",
    }


def compare(recorded: dict[str, Counts], counted: dict[str, Counts], figures: Sequence[str]) -> list[str]:
    """Return a line for everything that is off by more than 5 %, up or down, not recorded, or gone."""
    lines = [f"{name}: not recorded" for name in counted if name not in recorded]
    lines += [f"{name}: recorded, but gone" for name in recorded if name not in counted]
    for name in (name for name in counted if name in recorded):
        for figure in figures:
            before, now = recorded[name][figure], counted[name][figure]
            if abs(now - before) > TOLERANCE * before:
                lines.append(f"{name}: {figure} {before:,.1f} -> {now:,.1f} ({_change(before, now):+.1%})")
    return lines


def _change(before: float, now: float) -> float:
    return now / before - 1 if before else float(now > 0)


def check(module: str, counted: dict[str, Counts], records: dict[str, Recorded]) -> None:
    """Print what differs from the record that is nearest, and fail if anything does."""
    build = _build() if _build() in records else max(records)
    recorded, here = records[build], {"python": _build(), **_tools()}
    others = {tool: was for tool, was in {"python": build, **recorded["tools"]}.items() if here[tool] != was}
    figures = FIGURES[:1] if others else FIGURES
    off = compare(recorded["counts"], counted, figures)
    print(
        f"{module}: {len(counted)} cases, {len(off)} off by more than {TOLERANCE:.0%}; compared: {', '.join(figures)}"
    )
    for tool, was in others.items():
        print(f"  so only calls are compared: {tool} was {was}, is {here[tool]}")
    if off:
        print(*(f"  {line}" for line in (*off, "Meant, or for the better? Then: make guard-record")), sep="\n")
        raise SystemExit(1)


def record(module: str, counted: dict[str, Counts], records: Records) -> None:
    """Make `counted` what is to hold from now on, for this key and build."""
    counts = {name: {figure: round(value, 3) for figure, value in of.items()} for name, of in counted.items()}
    builds = records.setdefault(key(), {}).setdefault(module, {})
    builds[_build()] = {"tools": _tools(), "counts": counts}
    RECORD.write_text(_INNERMOST.sub(_on_one_line, json.dumps(records, indent=1, sort_keys=True)) + "\n")
    print(f"{module}: {len(counted)} cases recorded for {key()}")


_INNERMOST = re.compile(r"\{[^{}]*\}")


def _on_one_line(found: re.Match[str]) -> str:
    return " ".join(found[0].split()).replace("{ ", "{").replace(" }", "}")


def main(module: str, cases: Sequence[harness.Case]) -> None:
    """Be the command line of `python -m MODULE`: `--check` and `--record` are ours, the rest is the harness's."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--must", action="store_true")
    options, _ = parser.parse_known_args()
    if not (options.check or options.record):
        harness.main(module, cases)
        return
    if shutil.which("valgrind") is None:
        _give_up(module, "valgrind is not installed", failed=options.record)
    if not gevpy.build_info().compiled:
        _give_up(module, "gevpy is not compiled here", failed=options.record or options.must)
    records: Records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if options.record:
        record(module, count(module, cases), records)
    elif module in records.get(key(), {}):
        check(module, count(module, cases), records[key()][module])
    else:
        reason = f"nothing is recorded for {key()}, only for: {', '.join(records) or 'nothing'}"
        _give_up(module, reason, failed=options.must and key() == ALWAYS_CHECKED)


def _give_up(module: str, reason: str, *, failed: bool) -> NoReturn:
    print(f"{module}: hot loops NOT CHECKED: {reason}")
    raise SystemExit(failed)
