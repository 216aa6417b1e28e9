"""What Autobahn|Testsuite found: its verdicts, what of them is a fault, and the page that tells it."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["FAULTLESS", "GROUPS", "INDEX", "PROGRAM_LOG", "SUITE_LOG", "Report", "page", "read"]

FAULTLESS = frozenset({"OK", "INFORMATIONAL"})
GROUPS = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "close handshake",
    9: "large messages, small pieces",
    10: "automatic fragmentation",
    12: "compression, by size",
    13: "compression, by parameters",
}

#: What a run leaves in its folder.
INDEX = "index.json"
SUITE_LOG = "suite.log"
PROGRAM_LOG = "program.log"

PAGE = """\
# Conformance

Autobahn|Testsuite 25.10.1 talks to our server and to our client, with compression on and messages of up to 16 MiB, and
says of each case whether what came back is what RFC 6455 and RFC 7692 ask for. `make conformance` runs all {cases}
cases in both directions and writes this page. CI runs {brief} of them with each change, the server on both builds; one
that fails, or is met less strictly than it could be, keeps the change out.

| cases | server | client |
|---|---|---|
{rows}

Informational, which is neither right nor wrong: {informational}. There the suite sends what the RFC leaves open, more
data behind a close frame (7.1.6) or a close code that nobody has defined (7.13), and only tells what came back.
"""


@dataclass(frozen=True)
class Report:
    """What the suite found.

    Attributes:
        behavior: what it says of each case, by the case's number.
        close: what it says of how each was closed.
        expected: how many cases there should have been.
        log: what the program under test wrote.
    """

    behavior: dict[str, str]
    close: dict[str, str]
    expected: int
    log: str

    def faults(self) -> list[str]:
        """Give a line for each thing that must not be."""
        lines = []
        if not self.expected or len(self.behavior) != self.expected:
            lines.append(f"{len(self.behavior)} of {self.expected} cases were run")
        for what, verdicts in (("", self.behavior), ("closing: ", self.close)):
            lines += [f"{case}: {what}{verdict}" for case, verdict in verdicts.items() if verdict not in FAULTLESS]
        if "Traceback" in self.log:
            lines.append("the program's log has a traceback")
        return lines

    def informational(self) -> list[str]:
        """Give the cases in which there is nothing right or wrong."""
        return [case for case, verdict in self.behavior.items() if verdict == "INFORMATIONAL"]

    def group(self, number: int) -> dict[str, str]:
        """Give the verdicts on one group of cases."""
        return {case: verdict for case, verdict in self.behavior.items() if _order(case)[0] == number}

    def __str__(self) -> str:
        """Give a summary of some lines, and a line for each fault."""
        lines = [
            f"{len(self.behavior)} of {self.expected} cases",
            f"  behavior:      {_counts(self.behavior)}",
            f"  behaviorClose: {_counts(self.close)}",
            f"  informational: {' '.join(self.informational()) or 'none'}",
        ]
        return "\n".join([*lines, *(f"  FAULT {fault}" for fault in self.faults())])


def read(folders: Iterable[Path]) -> Report:
    """Read what the suite has left behind, and make one report of it."""
    found: dict[str, dict[str, str]] = {}
    logs: dict[Path, str] = {}
    expected = 0
    for folder in folders:
        announced = re.search(r"will run (\d+) test cases", _text(folder / SUITE_LOG))
        expected += int(announced[1]) if announced else 0
        index = json.loads(_text(folder / INDEX) or "{}")
        for cases in index.values():
            found.update(cases)
        for path in (folder / PROGRAM_LOG, folder.parent / PROGRAM_LOG):
            logs[path] = _text(path)
    ordered = sorted(found, key=_order)
    return Report(
        behavior={case: found[case]["behavior"] for case in ordered},
        close={case: found[case]["behaviorClose"] for case in ordered},
        expected=expected,
        log="".join(logs.values()),
    )


def page(server: Report, client: Report, brief: int) -> str:
    """Give the page of the documentation: both directions, group by group; CI runs ``brief`` cases."""
    rows = [
        f"| {number}: {name} | {_counts(server.group(number))} | {_counts(client.group(number))} |"
        for number, name in GROUPS.items()
    ]
    rows.append(f"| all | {_counts(server.behavior)} | {_counts(client.behavior)} |")
    rows.append(f"| how they were closed | {_counts(server.close)} | {_counts(client.close)} |")
    informational = sorted({*server.informational(), *client.informational()}, key=_order)
    text = PAGE.format(
        cases=server.expected, brief=brief, rows="\n".join(rows), informational=", ".join(informational) or "none"
    )
    return text.replace(" INFORMATIONAL", " informational")


def _counts(verdicts: dict[str, str]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in Counter(verdicts.values()).most_common()) or "none"


def _order(case: str) -> list[int]:
    return [int(number) for number in case.split(".")]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
