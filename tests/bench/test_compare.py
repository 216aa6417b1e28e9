"""Comparing two saved results."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.compare import compare

SCRIPT = Path(__file__).parents[2] / "bench" / "compare.py"
RESULT: dict[str, Any] = {
    "suite": "quick",
    "started": "2026-01-01T00:00:00+00:00",
    "machine": {"cores": 2},
    "others_busy_cores": 0.0,
    "servers": {"gevpy": {"versions": {"python": "3.11.7"}}},
    "cells": [{"load": "tcp", "server": "gevpy", "cpu_us": 10.0, "spread": 0.02, "rounds": 3}],
    "values": {"wheel CPU": 0.5},
    "figures": [{"what": "wheel", "goal": "<= 1", "met": True}],
}


@pytest.fixture
def newer() -> dict[str, Any]:
    """Give a result like `RESULT`, to be changed."""
    return copy.deepcopy(RESULT)


def line_of(text: str, beginning: str) -> str:
    """Give the line that begins so."""
    return next(line for line in text.splitlines() if line.strip().startswith(beginning))


def test_equal_results_differ_in_nothing(newer: dict[str, Any]) -> None:
    """No mark, no answer changed."""
    text = compare(RESULT, newer)
    assert "+0.0%" in line_of(text, "tcp gevpy")
    assert "*" not in text
    assert "no figure's answer changed" in text


@pytest.mark.parametrize(
    ("cpu_us", "spread", "rounds", "marked"),
    [(10.2, 0.0, 3, False), (10.5, 0.02, 3, True), (9.5, 0.02, 3, True), (10.5, 0.1, 3, False), (10.9, 0.0, 1, False)],
)
def test_a_change_counts_if_larger_than_the_spread(
    newer: dict[str, Any], cpu_us: float, spread: float, rounds: int, marked: bool
) -> None:
    """It must exceed 3 % and what rounds differ by among themselves; one round cannot tell."""
    newer["cells"][0] |= {"cpu_us": cpu_us, "spread": spread, "rounds": rounds}
    assert line_of(compare(RESULT, newer), "tcp gevpy").endswith("*") is marked


def test_what_else_changed_is_said(newer: dict[str, Any]) -> None:
    """Machine, versions, noise, and what only one of both has."""
    newer["machine"]["cores"] = 4
    newer["servers"]["gevpy"]["versions"]["python"] = "3.13.0"
    newer["others_busy_cores"] = 0.4
    newer["cells"][0]["server"] = "floor"
    text = compare(RESULT, newer)
    assert "machine cores: 2 -> 4" in text
    assert "gevpy python: 3.11.7 -> 3.13.0" in text
    assert "NOISY new" in text
    assert "only in old: tcp, gevpy" in text
    assert "only in new: tcp, floor" in text


def test_a_figure_that_is_met_no_longer_stands_out(newer: dict[str, Any]) -> None:
    """From yes to no."""
    newer["figures"][0]["met"] = False
    assert "wheel (<= 1): yes -> NO" in compare(RESULT, newer)


def test_it_is_a_program_that_needs_only_two_files(tmp_path: Path) -> None:
    """As `bench/README.md` has it, from anywhere."""
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RESULT))
    done = subprocess.run(
        [sys.executable, SCRIPT, path, path], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "no figure's answer changed" in done.stdout
