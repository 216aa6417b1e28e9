"""The page of the documentation that a run fills: what it measured, in tables and charts, and how to repeat it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PAGE", "write_page"]

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"

_HEAD = """\
# Benchmarks

This page is written by `make bench-report`: nothing in it was typed in. gevpy is measured against *the floor*, a raw
uvloop `asyncio.Protocol` that writes back what it got, and against other servers, on the same work. `bench/README.md`
says how each figure is taken, and how to read the columns.

Server and client have one core each; servers take turns round by round; ratios are taken within a round, and medians
over the rounds. The figure to trust is the server's CPU time per message. gevpy runs with all of its limits, counters
and deadlines on.

| to repeat | what | how long |
|---|---|---|
| `make bench-quick` | gevpy, the floor and a peer | a minute |
| `make bench` | gevpy, the floor, the nearest peers, broadcast, memory, accepts, the wheel, workers | 10 minutes |
| `make bench-report` | every peer, and this page | 40 minutes |
| `make bench-websocket` | WebSocket alone: sizes, depths, peers, broadcast, handshakes, memory | 4 minutes |
| `make bench-loops` | uvloop against asyncio, compiled against pure | 6 minutes |
| `python bench/compare.py OLD NEW` | what changed between two saved results | |
"""


def write_page(text: str, charts: Sequence[Path], page: Path = PAGE) -> None:
    """Write the page.

    Args:
        text: the tables of the run, as they were printed.
        charts: the SVG files drawn from it.
        page: where to write.
    """
    pictures = [f"![{path.stem.replace('-', ' ')}](assets/bench/{path.name})" for path in charts]
    parts = [_HEAD, "## Charts", *pictures, "## Tables", f"```text\n{text}\n```"]
    page.write_text("\n\n".join(part.rstrip() for part in parts) + "\n")
