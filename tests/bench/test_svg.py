"""Charts: well-formed, self-contained, and true to the values."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from bench.svg import Bar, Panel, bar_chart

SPACE = "{http://www.w3.org/2000/svg}"


def parsed(*panels: Panel, title: str = "Echo") -> ET.Element:
    """Draw, and parse what was drawn."""
    return ET.fromstring(bar_chart(title, "less is better", panels, "a machine"))  # noqa: S314 - our own text


def bars(chart: ET.Element) -> list[float]:
    """Give the whole length of every bar."""
    kinds = {"ours2", "peer2"}
    return [float(found.attrib["width"]) for found in chart.iter(f"{SPACE}rect") if found.get("class") in kinds]


def test_a_chart_is_well_formed_whatever_the_names() -> None:
    """Names are text, not markup."""
    title = "<Echo> & \"more\" 'of it'"
    chart = parsed(Panel("a < b", (Bar("<script>", 1.0, "1 & 2"),)), title=title)
    assert chart.tag == f"{SPACE}svg"
    assert chart.attrib["aria-label"] == title
    texts = [found.text for found in chart.iter(f"{SPACE}text")]
    assert {title, "a < b", "<script>", "1 & 2"} <= set(texts)


def test_lengths_are_proportional_to_values() -> None:
    """Twice the value, twice the bar."""
    one, two = bars(parsed(Panel("CPU", (Bar("gevpy", 1.0, "1"), Bar("other", 2.0, "2")))))
    assert two == pytest.approx(2 * one, rel=0.01)


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.3, 7.0, 1e12])
def test_any_size_of_value_can_be_drawn(value: float) -> None:
    """A bar is never longer than the card, and never invisible."""
    chart = parsed(Panel("CPU", (Bar("gevpy", value, "v"),)))
    (length,) = bars(chart)
    assert 1 <= length < float(chart.attrib["width"])


def test_panels_lie_below_each_other_on_the_card() -> None:
    """A second panel makes the card higher and begins after the first; a mark is drawn where asked for."""
    panel = Panel("CPU", (Bar("gevpy", 1.0, "1"),), mark=0.5, mark_text="the floor")
    single, double = parsed(panel), parsed(panel, panel)
    assert float(double.attrib["height"]) > float(single.attrib["height"])
    tops = [float(found.attrib["y"]) for found in double.iter(f"{SPACE}text") if found.text == "CPU"]
    assert tops[0] < tops[1] < float(double.attrib["height"])
    assert sum(found.get("class") == "mark" for found in double.iter(f"{SPACE}line")) == 2
