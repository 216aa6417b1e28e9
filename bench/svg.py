"""Bar charts as SVG, by hand: one horizontal bar per server, in one or more panels.

A chart carries its own background and both colour schemes (`prefers-color-scheme`), so it reads on any page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Bar", "Panel", "bar_chart"]

WIDTH = 760
MARGIN = 28
LABEL_WIDTH = 180
VALUE_WIDTH = 96
BAR_HEIGHT = 18
BAR_STEP = 28
PANEL_HEAD = 46
PANEL_GAP = 18
TITLE_HEIGHT = 66
FOOT_HEIGHT = 38
TICKS = 4

STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-size: 13px; fill: #1b2130; }
.title { font-size: 17px; font-weight: 600; } .head, .us { font-weight: 600; }
.soft { fill: #667085; font-size: 12px; } .tick { fill: #667085; font-size: 11px; }
.card { fill: #ffffff; stroke: #e2e5ea; } .grid { stroke: #edeff3; }
.mark { stroke: #d9480f; stroke-dasharray: 4 3; stroke-width: 1.5; } .marked { fill: #d9480f; font-size: 11px; }
.ours { fill: #1769e0; } .ours2 { fill: #8db8f5; } .peer { fill: #8b95a7; } .peer2 { fill: #cdd3dd; }
@media (prefers-color-scheme: dark) {
  text { fill: #eceff5; } .soft, .tick { fill: #9aa4b5; }
  .card { fill: #171b24; stroke: #2c3240; } .grid { stroke: #252b37; }
  .mark { stroke: #ff8a4c; } .marked { fill: #ff8a4c; }
  .ours { fill: #5b9bff; } .ours2 { fill: #2d5490; } .peer { fill: #7c879b; } .peer2 { fill: #454e5f; }
}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One server's value; `first` is the share drawn in the strong colour (1: all of it)."""

    label: str
    value: float
    text: str
    first: float = 1.0

    @property
    def ours(self) -> bool:
        """Whether it is gevpy's."""
        return self.label.startswith("gevpy")


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars on one scale; `mark` draws a line at a value that all are compared with."""

    head: str
    bars: tuple[Bar, ...]
    mark: float | None = None
    mark_text: str = ""

    @property
    def height(self) -> int:
        """The panel's height in pixels."""
        return PANEL_HEAD + len(self.bars) * BAR_STEP + 16


def bar_chart(title: str, subtitle: str, panels: Sequence[Panel], foot: str) -> str:
    """Draw the panels below each other."""
    body = [
        f'<text class="title" x="{MARGIN}" y="36">{escape(title)}</text>',
        f'<text class="soft" x="{MARGIN}" y="56">{escape(subtitle)}</text>',
    ]
    top = TITLE_HEIGHT
    for panel in panels:
        body += _panel(panel, top)
        top += panel.height + PANEL_GAP
    height = top - PANEL_GAP + FOOT_HEIGHT
    body.append(f'<text class="tick" x="{MARGIN}" y="{height - 18}">{escape(foot)}</text>')
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">'
    )
    card = f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>'
    return "\n".join([opening, f"<style>{STYLE}</style>", card, *body, "</svg>", ""])


def _panel(panel: Panel, top: int) -> list[str]:
    left = MARGIN + LABEL_WIDTH
    width = WIDTH - left - MARGIN - VALUE_WIDTH
    step = _tick_step(max(bar.value for bar in panel.bars))
    largest = max(bar.value for bar in panel.bars)
    scale = width / max(largest, step)
    bottom = top + PANEL_HEAD + len(panel.bars) * BAR_STEP
    lines = [f'<text class="head" x="{MARGIN}" y="{top + 22}">{escape(panel.head)}</text>']
    for number in range(int(largest / step) + 1):
        x = left + number * step * scale
        lines.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 34}" y2="{bottom}"/>')
        lines.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 13}" text-anchor="middle">{number * step:g}</text>')
    for number, bar in enumerate(panel.bars):
        lines += _bar(bar, left, top + PANEL_HEAD + number * BAR_STEP - 6, scale)
    if panel.mark is not None:
        x = left + panel.mark * scale
        lines.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 30}" y2="{bottom}"/>')
        lines.append(f'<text class="marked" x="{x + 4:.1f}" y="{top + 30}">{escape(panel.mark_text)}</text>')
    return lines


def _bar(bar: Bar, left: int, top: int, scale: float) -> list[str]:
    colour = "ours" if bar.ours else "peer"
    width = max(bar.value * scale, 1.5)
    strong = width * bar.first
    middle = top + BAR_HEIGHT - 5
    name = ' class="us"' if bar.ours else ""
    return [
        f'<text{name} x="{left - 10}" y="{middle}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{colour}2" x="{left}" y="{top}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="2"/>',
        f'<rect class="{colour}" x="{left}" y="{top}" width="{strong:.1f}" height="{BAR_HEIGHT}" rx="2"/>',
        f'<text{name} x="{left + width + 7:.1f}" y="{middle}">{escape(bar.text)}</text>',
    ]


def _tick_step(largest: float) -> float:
    """Return 1, 2 or 5 times a power of ten, such that about `TICKS` ticks fit."""
    if largest <= 0:
        return 1.0
    raw = largest / TICKS
    power: float = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if raw <= power * factor)
