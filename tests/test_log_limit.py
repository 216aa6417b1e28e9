"""No flood of lines, and no line that a peer wrote."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevpy.log_limit import LimitedLog, printable


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Lines(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def clock() -> Clock:
    """A manual clock."""
    return Clock()


@pytest.fixture
def lines() -> Lines:
    """What is logged by `limited`."""
    return Lines()


@pytest.fixture
def limited(clock: Clock, lines: Lines) -> LimitedLog:
    """A log of one line per class and 5 s of the manual clock."""
    logger = logging.Logger("test")  # noqa: LOG001 - one of its own, not among the process's loggers
    logger.addHandler(lines)
    return LimitedLog(logger, 5.0, clock)


def test_the_first_line_of_a_class_comes_at_once(limited: LimitedLog, lines: Lines) -> None:
    """Each class has its own allowance."""
    limited.log("a", logging.WARNING, "one")
    limited.log("b", logging.ERROR, "two")
    limited.log(("a", ValueError), logging.INFO, "three")
    assert lines.texts == ["one", "two", "three"]
    assert [record.levelno for record in lines.records] == [logging.WARNING, logging.ERROR, logging.INFO]


def test_the_next_comes_after_the_interval_exactly(limited: LimitedLog, lines: Lines, clock: Clock) -> None:
    """One moment before it is passed over; then the count of those passed over is told, once."""
    limited.log("a", logging.WARNING, "first")
    for moment in (1000.0, 1002.5, 1004.999):
        clock.now = moment
        limited.log("a", logging.WARNING, "again")
    assert lines.texts == ["first"]
    clock.now = 1005.0
    limited.log("a", logging.WARNING, "second")
    assert lines.texts[1] == "second (3 more like it were not logged)"
    clock.now = 1010.0
    limited.log("a", logging.WARNING, "third")
    assert lines.texts[2] == "third"


def test_suppressed_lines_do_not_lengthen_the_silence(limited: LimitedLog, lines: Lines, clock: Clock) -> None:
    """A steady flood is heard once per interval: 10^5 events in 100 s are 20 lines that account for all."""
    events = 100_000
    for event in range(events):
        clock.now = 1000.0 + event * 100.0 / events
        limited.log("flood", logging.WARNING, "bad client")
    assert len(lines.records) == 20
    told = sum(int(text.split("(")[1].split()[0]) for text in lines.texts[1:])
    clock.now += 5.0
    limited.log("flood", logging.WARNING, "bad client")
    told += int(lines.texts[-1].split("(")[1].split()[0])
    assert told + len(lines.records) == events + 1


def test_a_clock_at_zero_is_no_reason_to_be_silent(limited: LimitedLog, lines: Lines, clock: Clock) -> None:
    """A monotonic clock may begin anywhere."""
    clock.now = 0.0
    limited.log("a", logging.WARNING, "first")
    assert lines.texts == ["first"]


def test_percent_signs_are_text(limited: LimitedLog, lines: Lines) -> None:
    """A message is no format: what a peer sent can't break the logging of it."""
    limited.log("a", logging.WARNING, "100 % of %s %d %(name)s")
    assert lines.texts == ["100 % of %s %d %(name)s"]


def test_an_error_brings_its_traceback(limited: LimitedLog, lines: Lines) -> None:
    """The exception itself is in the record, for whatever formats it."""
    nothing: dict[str, int] = {}
    try:
        nothing["mine"]
    except KeyError as error:
        limited.log("a", logging.ERROR, "failed", error)
    info: Any = lines.records[0].exc_info
    assert info[0] is KeyError
    assert info[2] is not None
    limited.log("b", logging.ERROR, "failed")
    assert not lines.records[1].exc_info


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain text 1.2 é 漢", "plain text 1.2 é 漢"),
        ("\r\n\x1b[31m", "\\r\\n\\x1b[31m"),
        ("a\tb\0c\x7f\x80\x9b", "a\\tb\\x00c\\x7f\\x80\\x9b"),
        ("line\u2028break\u2029\x85\x0b\x0c", "line\\u2028break\\u2029\\x85\\x0b\\x0c"),
        ("right\u202eto left\u2066", "right\\u202eto left\\u2066"),
        ("\ud800 alone \U000e0001", "\\ud800 alone \\U000e0001"),
        (b"\r\n", "b'\\r\\n'"),
        (5, "5"),
        ("", ""),
    ],
)
def test_printable_escapes_what_is_not(text: object, safe: str) -> None:
    """Line ends, terminal controls, invisible and direction marks, lone surrogates."""
    assert printable(text) == safe


@given(text=st.text(st.characters(), max_size=400))
def test_printable_is_one_short_encodable_line(text: str) -> None:
    """Whatever comes in."""
    safe = printable(text)
    assert safe.isprintable()
    assert len(safe) <= 201
    assert len(safe.splitlines()) <= 1
    safe.encode()


def test_long_text_is_cut() -> None:
    """200 characters are shown whole; of more, the first 200 and a sign; of escapes no more than of letters."""
    assert printable("x" * 200) == "x" * 200
    assert printable("x" * 201) == "x" * 200 + "…"
    assert len(printable("\n" * 1_000_000)) == 201
