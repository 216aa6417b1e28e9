"""The gate itself: which verdicts are faults, that cases which were not run are one, and the page that is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tools.autobahn.suite import ALL, BRIEF, BRIEF_CASES
from tools.autobahn.verdicts import GROUPS, INDEX, PROGRAM_LOG, SUITE_LOG, Report, page, read

if TYPE_CHECKING:
    from pathlib import Path

CASES_OF_GROUPS = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1}


def report(behavior: str = "OK", close: str = "OK", *, expected: int = 2, log: str = "") -> Report:
    """Give a report of two cases, the second with these verdicts."""
    return Report({"1.1.1": "OK", "7.1.6": behavior}, {"1.1.1": "OK", "7.1.6": close}, expected, log)


def leave(folder: Path, cases: dict[str, str], announced: int, log: str = "") -> Path:
    """Leave what a run of the suite leaves."""
    folder.mkdir()
    found = {case: {"behavior": verdict, "behaviorClose": "OK"} for case, verdict in cases.items()}
    (folder / INDEX).write_text(json.dumps({"program": found}))
    (folder / SUITE_LOG).write_text(f"Ok, will run {announced} test cases against 1 servers\n")
    (folder / PROGRAM_LOG).write_text(log)
    return folder


@pytest.mark.parametrize(
    "verdict", ["FAILED", "NON-STRICT", "UNIMPLEMENTED", "WRONG CODE", "UNCLEAN", "FAILED BY CLIENT"]
)
def test_all_that_is_not_ok_is_a_fault(verdict: str) -> None:
    """A case that is less than OK is one, in what was said and in how it was closed."""
    assert report(behavior=verdict).faults() == [f"7.1.6: {verdict}"]
    assert report(close=verdict).faults() == [f"7.1.6: closing: {verdict}"]
    assert f"FAULT 7.1.6: {verdict}" in str(report(behavior=verdict))


def test_informational_is_no_fault() -> None:
    """What the RFC leaves open is counted, not held against anyone."""
    assert report("INFORMATIONAL", "INFORMATIONAL").faults() == []
    assert report("INFORMATIONAL").informational() == ["7.1.6"]


def test_cases_that_were_not_run_are_a_fault() -> None:
    """The suite itself ends well when the server is gone: so the cases are counted, and none at all is a fault, too."""
    assert report(expected=3).faults() == ["2 of 3 cases were run"]
    assert Report({}, {}, 0, "").faults() == ["0 of 0 cases were run"]


def test_traceback_is_a_fault() -> None:
    """A server that says all the right things, and a traceback into its log, isn't right."""
    assert report(log="Traceback (most recent call last):\n").faults() == ["the program's log has a traceback"]


def test_shares_are_read_as_one(tmp_path: Path) -> None:
    """What two runs of the suite left behind is one report, in the order of the cases."""
    folders = [
        leave(tmp_path / "0", {"12.1.10": "OK", "2.1": "OK"}, 2),
        leave(tmp_path / "1", {"12.1.9": "FAILED"}, 2, "all is well"),
    ]
    both = read(folders)
    assert list(both.behavior) == ["2.1", "12.1.9", "12.1.10"]
    assert both.expected == 4
    assert both.log == "all is well"
    assert both.faults() == ["3 of 4 cases were run", "12.1.9: FAILED"]


def test_run_that_left_nothing_is_a_fault(tmp_path: Path) -> None:
    """A suite that broke down at once is not mistaken for one that found nothing."""
    assert read([tmp_path]).faults() == ["0 of 0 cases were run"]


def test_brief_is_of_all_groups() -> None:
    """The cases for CI leave out nothing but sizes of compressed messages."""
    compressed = [case for share in BRIEF for case in share if not case.endswith("*")]
    assert len(set(compressed)) + sum(CASES_OF_GROUPS.values()) == BRIEF_CASES
    assert {case.split(".")[0] for share in BRIEF for case in share} == {str(group) for group in GROUPS}
    assert {case.split(".")[0] for share in ALL for case in share} == {str(group) for group in GROUPS}
    assert {f"13.{setting}.*" for setting in range(1, 8)} < {case for share in ALL for case in share}


def test_page_tells_each_group() -> None:
    """The page has a row for each group, and the sums."""
    text = page(report("INFORMATIONAL"), report(), 373)
    assert "| 1: framing | 1 OK | 1 OK |" in text
    assert "| 7: close handshake | 1 informational | 1 OK |" in text
    assert "| all | 1 OK, 1 informational | 2 OK |" in text
    assert "neither right nor wrong: 7.1.6." in text
