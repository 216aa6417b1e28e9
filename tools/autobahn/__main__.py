"""Hold a WebSocket server and a client to Autobahn|Testsuite, and say what it found.

    python -m tools.autobahn both                  our server and our client, and all cases
    python -m tools.autobahn both --page FILE      the same, and write the page of the documentation
    python -m tools.autobahn server [PROGRAM...]   its fuzzing client against a server
    python -m tools.autobahn client [PROGRAM...]   its fuzzing server against a client
    python -m tools.autobahn --brief ...           only the cases that CI runs

What a PROGRAM has to do, tools/autobahn/suite.py tells; default is ours, of tests/conformance. The exit code is 0 only
if every case was run and is OK or informational, in what was said and in how it was closed. The suite's own pages, with
every octet, are in build/autobahn/reports then.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tools.autobahn.suite import ALL, BRIEF, BRIEF_CASES, INSTALLED, fuzz_client, fuzz_server, wstest
from tools.autobahn.verdicts import Report, page

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAMS = Path(__file__).resolve().parents[2] / "tests" / "conformance"
REPORTS = INSTALLED / "reports"


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.autobahn", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("direction", choices=("server", "client", "both"))
    parser.add_argument("program", nargs="*", help="and its arguments; default: ours")
    parser.add_argument("--brief", action="store_true", help=f"{BRIEF_CASES} cases, in half a minute, instead of all")
    parser.add_argument("--page", type=Path, help="where to write the page of the documentation: of both directions")
    options = parser.parse_args()
    if options.page and (options.direction != "both" or options.brief):
        parser.error("the page tells of all cases in both directions")
    return options


def run(direction: str, program: Sequence[str], *, brief: bool) -> Report:
    """Run one direction, and print what was found."""
    ours = PROGRAMS / f"echo_{direction}.py"
    fuzz = fuzz_server if direction == "server" else fuzz_client
    begun = time.monotonic()
    report = fuzz(program or (sys.executable, str(ours)), BRIEF if brief else ALL, REPORTS / direction)
    print(f"{direction}: {report}\n  {time.monotonic() - begun:.0f} s", flush=True)
    return report


def main() -> int:
    """Run what was asked for."""
    options = arguments()
    if wstest() is None:
        sys.exit("Autobahn|Testsuite isn't installed: tools/autobahn/install build/autobahn")
    directions = ("server", "client") if options.direction == "both" else (options.direction,)
    reports = [run(direction, options.program, brief=options.brief) for direction in directions]
    if any(report.faults() for report in reports):
        return 1
    if options.page:
        server, client = reports
        options.page.write_text(page(server, client, BRIEF_CASES), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
