"""The guard of the hot loops: what it counts, what it compares, and when it fails."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from bench.micro import guard
from bench.micro.callgrind import summed

if TYPE_CHECKING:
    from pathlib import Path

    from bench.micro.callgrind import Counts

MODULE = "bench.micro"
COUNTS: Counts = {"calls": 10.0, "own": 100.0, "all": 1000.0}
DUMP = """\
ob=(1) /usr/bin/python3.11
fn=(1) eval
12 5
cob=(2) /tree/gevpy/ring_buffer.so
cfn=(2) read
calls=1 0
13 900
+1 7

ob=(2)
fn=(2)
1 30
cfn=(3) helper
calls=4 0
2 11
cob=(3) /lib/libc.so.6
cfn=(4) memcpy
calls=2 0
* 600
-1 3

ob=(3)
fn=(4)
1 600
"""


def test_a_dump_is_summed_by_object_file() -> None:
    """Our own instructions, the calls that leave us, and all but those of the C library."""
    assert summed(DUMP.splitlines(keepends=True)) == {"calls": 2, "own": 33, "all": 45}


@pytest.mark.parametrize(("factor", "off"), [(1.0, 0), (1.04, 0), (0.96, 0), (1.06, 1), (0.94, 1)])
@pytest.mark.parametrize("figure", ["calls", "own", "all"])
def test_every_figure_may_move_by_five_percent(figure: str, factor: float, off: int) -> None:
    """Up or down: what became faster has to be recorded, or it could be lost again unnoticed."""
    lines = guard.compare(
        {"read": COUNTS}, {"read": COUNTS | {figure: COUNTS[figure] * factor}}, ["calls", "own", "all"]
    )
    assert len(lines) == off


def test_a_figure_that_is_not_comparable_here_is_not_compared() -> None:
    """Another build of Python takes other instructions, but as many calls."""
    assert not guard.compare({"read": COUNTS}, {"read": COUNTS | {"all": 2000.0}}, ["calls"])


def test_cases_must_be_those_recorded() -> None:
    """A new one and one that is gone: both ask for a new record."""
    assert guard.compare({"old": COUNTS}, {"new": COUNTS}, ["calls"]) == [
        "new: not recorded",
        "old: recorded, but gone",
    ]


def test_what_took_no_call_must_not_begin_to() -> None:
    """From zero, any change is more than 5 %."""
    assert guard.compare({"move": COUNTS | {"calls": 0.0}}, {"move": COUNTS | {"calls": 1.0}}, ["calls"])


@pytest.mark.parametrize(("argument", "code"), [("--check", False), ("--must", True)])
def test_without_a_record_it_says_that_nothing_was_checked(
    argument: str, code: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is a failure only where CI says that there must be one."""
    record = tmp_path / "recorded.json"
    record.write_text(json.dumps({"cpython 2.7 vax": {MODULE: {}}}))
    monkeypatch.setattr(guard, "RECORD", record)
    monkeypatch.setattr(guard, "ALWAYS_CHECKED", guard.key())
    monkeypatch.setattr("sys.argv", [MODULE, "--check", argument])
    monkeypatch.setattr("gevpy.build_info", lambda: type("Compiled", (), {"compiled": True}))
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/valgrind")
    with pytest.raises(SystemExit) as left:
        guard.main(MODULE, [])
    assert left.value.code is code
    said = capsys.readouterr().out
    assert f"NOT CHECKED: nothing is recorded for {guard.key()}, only for: cpython 2.7 vax" in said


def test_without_valgrind_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Who has none is not kept from anything."""
    monkeypatch.setattr("sys.argv", [MODULE, "--check", "--must"])
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SystemExit) as left:
        guard.main(MODULE, [])
    assert left.value.code is False
    assert "NOT CHECKED: valgrind is not installed" in capsys.readouterr().out
