"""Autobahn|Testsuite against the server and the client of this build, in processes of their own: the cases for CI.

Skipped where it isn't installed (``make conformance`` does that, given a Python 2.7); with ``REQUIRE_AUTOBAHN=1`` that
is a failure instead. All cases: ``make conformance``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gevpy
from tools.autobahn.suite import BRIEF, BRIEF_CASES, fuzz_client, fuzz_server, wstest

if TYPE_CHECKING:
    from tools.autobahn.verdicts import Report

pytestmark = [pytest.mark.alone, pytest.mark.timeout(600)]  # half a minute on two idle cores, most of it the suite's

HERE = Path(__file__).parent
NEITHER_RIGHT_NOR_WRONG = {"7.1.6", "7.13.1", "7.13.2"}  # informational for everyone


@pytest.fixture(autouse=True)
def _installed() -> None:
    """Skip, or fail, without the suite."""
    if wstest() is not None:
        return
    if os.environ.get("REQUIRE_AUTOBAHN") == "1":
        pytest.fail("Autobahn|Testsuite isn't installed")
    pytest.skip("Autobahn|Testsuite isn't installed: make conformance does; REQUIRE_AUTOBAHN=1 makes this a failure")


def check(report: Report) -> None:
    """Hold that every case was run, and that all are OK but those that can't be."""
    assert not report.faults(), str(report)
    assert len(report.behavior) == BRIEF_CASES
    assert set(report.informational()) <= NEITHER_RIGHT_NOR_WRONG


def test_server_is_ok_in_every_case(tmp_path: Path) -> None:
    """E20: the fuzzing client finds nothing failed, non-strict, unimplemented or wrongly closed, and no traceback."""
    check(fuzz_server((sys.executable, "-W", "error", str(HERE / "echo_server.py")), BRIEF, tmp_path / "server"))


@pytest.mark.skipif(not gevpy.build_info().compiled, reason="frames and session are the server's, tried above")
def test_client_is_ok_in_every_case(tmp_path: Path) -> None:
    """E20: the fuzzing server finds nothing failed, non-strict, unimplemented or wrongly closed, and no traceback."""
    check(fuzz_client((sys.executable, "-W", "error", str(HERE / "echo_client.py")), BRIEF, tmp_path / "client"))
