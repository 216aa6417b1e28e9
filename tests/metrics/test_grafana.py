"""The Grafana dashboard in the docs asks only for metrics and labels that there are."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import gevpy
from gevpy.metrics.collector import ServerCollector
from tests.metrics.scraping import Echo
from tests.serving import reactor_of

DASHBOARD = Path(__file__).parents[2] / "docs" / "assets" / "grafana-dashboard.json"

OF_THE_SCRAPE = {"job", "instance"}
FUNCTIONS = {"sum", "max", "rate", "increase"}
GROUPINGS = {"by", "without"}

TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<range>\[(?:\$__rate_interval|\d+[smhd])\])
      | (?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<number>\d+(?:\.\d+)?)
      | (?P<mark>=~|!~|!=|>=|<=|==|[-+*/(){},=<>])""",
    re.VERBOSE,
)


@dataclass
class Query:
    """What an expression of PromQL names.

    Attributes:
        selected: each metric, with the labels it is narrowed by.
        grouped: the labels that aggregations keep or drop.
    """

    selected: list[tuple[str, set[str]]] = field(default_factory=list)
    grouped: set[str] = field(default_factory=set)


class Parser:
    """Reads as much of PromQL as the dashboard uses, and fails at anything else."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            found = TOKEN.match(text, at)
            assert found, f"not understood: {text[at:]!r} in {text!r}"
            at = found.end()
            if found.lastgroup != "space":
                self._tokens.append((str(found.lastgroup), found.group()))
        self.query = Query()

    def parse(self) -> Query:
        """Read all of it."""
        self._expression()
        assert not self._tokens, f"left over: {self._tokens}"
        return self.query

    def _next(self, *wanted: str) -> str:
        kind, text = self._tokens.pop(0)
        assert not wanted or kind in wanted or text in wanted, f"{text!r} where one of {wanted} was expected"
        return text

    def _peek(self) -> str:
        return self._tokens[0][1] if self._tokens else ""

    def _expression(self) -> None:
        self._operand()
        while self._peek() in {"+", "-", "*", "/", ">", "<", ">=", "<=", "==", "!="}:
            self._next()
            self._operand()

    def _operand(self) -> None:
        kind, text = self._tokens[0]
        if kind == "number":
            self._next()
        elif text == "(":
            self._parenthesised()
        elif text in FUNCTIONS:
            self._call()
        else:
            self._selector()

    def _parenthesised(self) -> None:
        self._next("(")
        self._expression()
        self._next(")")

    def _call(self) -> None:
        self._next()
        if self._peek() in GROUPINGS:
            self._next()
            self.query.grouped |= self._labels("(", ")")
        self._parenthesised()

    def _selector(self) -> None:
        name = self._next("word")
        labels = self._labels("{", "}") if self._peek() == "{" else set()
        if self._tokens and self._tokens[0][0] == "range":
            self._next()
        self.query.selected.append((name, labels))

    def _labels(self, opening: str, closing: str) -> set[str]:
        self._next(opening)
        labels = set()
        while self._peek() != closing:
            labels.add(self._next("word"))
            if opening == "{":
                self._next("=", "!=", "=~", "!~")
                self._next("string")
            if self._peek() == ",":
                self._next()
        self._next(closing)
        return labels


def dashboard() -> dict[str, Any]:
    """Give the dashboard."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found


def targets() -> list[tuple[str, dict[str, Any]]]:
    """Give each query, with the title of its panel."""
    return [(panel["title"], target) for panel in dashboard()["panels"] for target in panel["targets"]]


def variable_queries() -> list[str]:
    """Give what the variables of the dashboard are filled with."""
    return [each["query"] for each in dashboard()["templating"]["list"] if each["type"] == "query"]


@pytest.fixture
async def given() -> dict[str, set[str]]:
    """The names of a server's samples, each with its labels."""
    async with gevpy.serve(Echo(), port=0) as server:
        samples = [sample for metric in ServerCollector([reactor_of(server)]).collect() for sample in metric.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def check(query: Query, known: dict[str, set[str]]) -> set[str]:
    """Check the names of one query; give the labels that its result may have."""
    labels = set(OF_THE_SCRAPE)
    for name, narrowed in query.selected:
        assert name in known, f"no such metric: {name}"
        assert narrowed <= known[name] | OF_THE_SCRAPE, f"{name} has no {narrowed - known[name] - OF_THE_SCRAPE}"
        labels |= known[name]
    assert query.grouped <= labels, f"no such label: {query.grouped - labels}"
    return labels


async def test_every_query_names_what_there_is(given: dict[str, set[str]]) -> None:
    """Each metric exists, each label is one of its own, and legends use no other."""
    for title, target in targets():
        labels = check(Parser(target["expr"]).parse(), given)
        legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert legend <= labels, title


async def test_the_variables_are_filled_from_what_there_is(given: dict[str, set[str]]) -> None:
    """``label_values(metric, label)``: the metric exists, and the label is one that every scrape adds."""
    queries = variable_queries()
    assert len(queries) == 2
    for text in queries:
        found = re.fullmatch(r"label_values\((?P<selector>.*), (?P<label>\w+)\)", text)
        assert found, text
        check(Parser(found["selector"]).parse(), given)
        assert found["label"] in OF_THE_SCRAPE


async def test_a_query_that_is_wrong_is_found_out(given: dict[str, set[str]]) -> None:
    """The checks above can fail: at unknown names, at unknown labels, and at what can't be read."""
    for wrong in (
        "gevpy_conections",
        "sum(rate(gevpy_sent_bytes[5m]))",
        'gevpy_connections{reason="idle"}',
        "sum by (direction) (gevpy_connections)",
        "sum(gevpy_connections",
        "sum(gevpy_connections))",
        "deriv(gevpy_connections[5m])",
    ):
        with pytest.raises((AssertionError, IndexError)):
            check(Parser(wrong).parse(), given)


def test_every_kind_of_figure_is_drawn() -> None:
    """What the page has, the dashboard has: each family of gevpy's is asked for somewhere, but the build's."""
    asked = {name for _, target in targets() for name, _ in Parser(target["expr"]).parse().selected}
    for name in (
        "gevpy_connections",
        "gevpy_connections_opened_total",
        "gevpy_connections_closed_total",
        "gevpy_connections_rejected_total",
        "gevpy_received_messages_total",
        "gevpy_sent_messages_total",
        "gevpy_received_bytes_total",
        "gevpy_sent_bytes_total",
        "gevpy_dropped_messages_total",
        "gevpy_handler_errors_total",
        "gevpy_loop_lag_seconds",
        "gevpy_buffer_bytes",
        "gevpy_worker_restarts_total",
        "gevpy_workers",
        "gevpy_loop_blocked_seconds_total",
        "gevpy_worker_resident_bytes",
    ):
        assert name in asked, name


def test_panels_have_places_of_their_own() -> None:
    """Ids differ, panels stay within the 24 columns, and none lies over another."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


def test_every_panel_asks_the_data_source_of_the_reader() -> None:
    """Nothing is bound to a data source of ours: it is chosen in the dashboard."""
    found = re.findall(r'"uid": "([^"]*)"', DASHBOARD.read_text(encoding="utf-8"))
    assert set(found) == {"gevpy", "${datasource}"}
