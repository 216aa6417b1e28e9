"""`python -m bench.charts RESULT.json [FOLDER]`: a saved result as SVG charts for the documentation."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.svg import Bar, Panel, bar_chart

__all__ = ["FOLDER", "charts", "write_charts"]

FOLDER = Path(__file__).parent.parent / "docs" / "assets" / "bench"

Result = dict[str, Any]

_MODES = {
    "tcp": "Raw TCP echo",
    "length_prefix": "Length-prefixed echo",
    "line": "Line echo",
    "websocket": "WebSocket echo",
}
_SMALL = ("64 B, depth 1", "64 B, depth 32")
_LARGER = ("4 KiB, depth 1", "4 KiB, depth 32", "64 KiB, depth 1", "64 KiB, depth 32")
_LOOPS = {
    "gevpy": "gevpy on uvloop",
    "gevpy, asyncio loop": "gevpy on asyncio",
    "gevpy pure": "gevpy pure on uvloop",
    "gevpy pure, asyncio loop": "gevpy pure on asyncio",
}
_IDLE = {
    "tcp silent": "TCP, silent",
    "tcp after a message": "TCP, after one message",
    "websocket silent": "WebSocket, silent",
    "websocket after a message": "WebSocket, after one message",
    "websocket deflate": "WebSocket, deflate negotiated, silent",
}
_CPU_SUBTITLE = "server CPU per message in µs, less is better; dark: user, light: system"
_FEWEST_BARS = 2


def charts(result: Result) -> dict[str, str]:
    """Return every chart that this result has data for, by file name."""
    found = {f"{mode}.svg": _echo(result, mode) for mode in _MODES}
    found["websocket-sizes.svg"] = _echo(result, "websocket", _LARGER)
    found["broadcast.svg"] = _broadcast(result)
    found["large-messages.svg"] = _large(result)
    found["loops.svg"] = _loops(result)
    found["accept.svg"] = _accept(result)
    found["idle-memory.svg"] = _idle(result)
    return {name: chart for name, chart in found.items() if chart is not None}


def _cells(result: Result, load: str) -> list[Result]:
    return [cell for cell in result["cells"] if cell["load"] == load]


def _foot(result: Result) -> str:
    machine = result["machine"]
    gevpy = result["servers"].get("gevpy", {}).get("build", {}).get("version", "")
    return (
        f"{machine['processor']}, one core each for server and client, {machine['kernel']}, {machine['python']}"
        f"{f', gevpy {gevpy}' if gevpy else ''}; {result['started'][:10]}"
    )


def _chart(result: Result, title: str, subtitle: str, panels: list[Panel]) -> str | None:
    panels = [panel for panel in panels if len(panel.bars) >= _FEWEST_BARS]
    return bar_chart(title, subtitle, panels, _foot(result)) if panels else None


def _cpu_bar(cell: Result, label: str = "") -> Bar:
    name, cpu = label or cell["server"], cell["cpu_us"]
    return Bar(name, cpu, f"{cpu:.3g} µs", first=cell["user_share"])


def _floor(cells: list[Result]) -> float | None:
    return next((cell["cpu_us"] for cell in cells if cell["server"] == "floor"), None)


def _echo(result: Result, mode: str, sizes: tuple[str, ...] = _SMALL) -> str | None:
    panels = []
    for what in sizes:
        cells = [c for c in _cells(result, f"{mode} {what}") if "loop" not in c["server"]]
        bars = tuple(_cpu_bar(cell) for cell in cells)
        panels.append(Panel(what, bars, _floor(cells), "the floor"))
    title = _MODES[mode] if sizes is _SMALL else f"{_MODES[mode]}, larger messages"
    return _chart(result, title, f"50 connections; {_CPU_SUBTITLE}", panels)


def _broadcast(result: Result) -> str | None:
    panels = []
    for title in dict.fromkeys(cell["load"] for cell in result["cells"]):
        if title.startswith("broadcast"):
            cells = _cells(result, title)
            panels.append(Panel(title, tuple(_cpu_bar(cell) for cell in cells), _floor(cells), "the floor"))
    return _chart(result, "Broadcast", _CPU_SUBTITLE.replace("message", "delivered message"), panels)


def _loops(result: Result) -> str | None:
    panels = []
    for mode, name in _MODES.items():
        for what in _SMALL:
            cells = {cell["server"]: cell for cell in _cells(result, f"{mode} {what}")}
            bars = tuple(_cpu_bar(cells[s], label) for s, label in _LOOPS.items() if s in cells)
            if any("asyncio" in bar.label for bar in bars):
                panels.append(Panel(f"{name}, {what}", bars))
    return _chart(result, "uvloop and asyncio, compiled and pure", _CPU_SUBTITLE, panels)


def _large(result: Result) -> str | None:
    panels = []
    for mode, name in _MODES.items():
        cells = _cells(result, f"{mode} 1 MiB, depth 1")
        cells.sort(key=lambda cell: -cell["per_s"])
        bars = tuple(Bar(c["server"], c["per_s"], f"{c['per_s']:,.0f} MiB/s") for c in cells)
        panels.append(Panel(name, bars))
    subtitle = "8 connections, 1 MiB each way and message; MiB/s each way, more is better"
    return _chart(result, "Large messages", subtitle, panels)


def _accept(result: Result) -> str | None:
    panels = []
    for mode, name in (("tcp", "TCP"), ("websocket", "WebSocket, with its handshake")):
        cells = _cells(result, f"{mode} accept")
        cells.sort(key=lambda cell: -cell["per_s"])
        bars = tuple(Bar(c["server"], c["per_s"], f"{c['per_s']:,.0f}/s") for c in cells)
        panels.append(Panel(name, bars))
    return _chart(result, "Accepts", "connect, one echo, close; per second, more is better", panels)


def _idle(result: Result) -> str | None:
    groups: dict[str, list[Bar]] = {}
    for name, value in result["values"].items():
        what, _, server = name.partition(": ")
        if what.startswith("idle"):
            bar = Bar(server, value, f"{value:.1f} KB")
            groups.setdefault(_IDLE[what.removeprefix("idle ")], []).append(bar)
    panels = [Panel(what, tuple(sorted(bars, key=lambda bar: bar.value))) for what, bars in groups.items()]
    subtitle = "server memory per open connection in KB, less is better; socket buffers are the kernel's"
    return _chart(result, "Idle connections", subtitle, panels)


def write_charts(result: Result, folder: Path = FOLDER) -> list[Path]:
    """Write the charts of a result; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, chart in charts(result).items():
        path = folder / name.replace("_", "-")
        path.write_text(chart)
        paths.append(path)
    return paths


def main() -> None:
    """Draw a saved result."""
    parser = argparse.ArgumentParser(prog="python -m bench.charts", description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    options = parser.parse_args()
    for path in write_charts(json.loads(options.result.read_text()), options.folder):
        print(path)


if __name__ == "__main__":
    main()
