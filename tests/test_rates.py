"""What a server says of itself: read with care, and turned into rates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gevpy.rates import Rates, Report

NOBODY = (None, 0)


def counts(messages: int = 0) -> dict[str, Any]:
    """Give what is said of a worker and of all of them: every message has 10 bytes, and is answered twice."""
    return {
        "connections": 5,
        "opened": 7,
        "received_bytes": 10 * messages,
        "sent_bytes": 20 * messages,
        "received_messages": messages,
        "sent_messages": 2 * messages,
        "handler_errors": 1,
        "dropped_messages": 2,
        "rejected": 3,
        "read_buffer_bytes": 100,
        "write_buffer_bytes": 200,
    }


def worker(
    number: int = 0, *, pid: int = 100, messages: int = 0, uptime_s: float = 10.0, **more: Any
) -> dict[str, Any]:
    """Give what is said of a worker."""
    about = {"id": number, "pid": pid, "state": "ready", "restarts": 0, "uptime_s": uptime_s, "rss_bytes": 1000}
    return {**about, "lag_s": 0.001, "blocked_s": 0.0, **counts(messages), **more}


def said(*workers: dict[str, Any], now: float = 1010.0, **more: Any) -> dict[str, Any]:
    """Give what a server says."""
    about = {"version": "0.1.0", "started_at": 1000.0, "now": now, "state": "ready", "addresses": ["127.0.0.1:1833"]}
    return {**about, "restarts": 4, "total": counts(), "workers": list(workers), **more}


def report(*workers: dict[str, Any], now: float = 1010.0, **more: Any) -> Report:
    """Read what a server says."""
    return Report.parse(json.dumps(said(*workers, now=now, **more)).encode())


# -- reading -------------------------------------------------------------------------------------------------------


def test_a_worker_is_read() -> None:
    """Every number finds its place."""
    (row,) = report(worker(3, pid=123, messages=5, restarts=2, lag_s=0.25)).workers
    assert (row.id, row.pid, row.state, row.restarts, row.connections) == (3, 123, "ready", 2, 5)
    assert row.counters == (5, 10, 50, 100)
    assert (row.buffered_bytes, row.lag_s, row.rss_bytes, row.uptime_s) == (300, 0.25, 1000, 10.0)


def test_all_together_are_read() -> None:
    """Counts are what the server says; memory is the sum of the workers, lag the worst of them."""
    read = report(worker(0, lag_s=0.5), worker(1), now=1060.0)
    assert (read.version, read.addresses, len(read.workers)) == ("0.1.0", ("127.0.0.1:1833",), 2)
    total = read.total
    assert (total.id, total.pid, total.state, total.restarts, total.connections) == (None, 0, "ready", 4, 5)
    assert (total.lag_s, total.rss_bytes, total.uptime_s) == (0.5, 2000, 60.0)
    assert read.troubles == {"rejected": 3, "dropped messages": 2, "handler errors": 1}


def test_a_worker_without_a_process_is_read() -> None:
    """A slot that has failed has nothing to tell."""
    (row,) = report({"id": 1, "pid": None, "state": "failed"}).workers
    assert (row.pid, row.state, row.counters, row.rss_bytes) == (0, "failed", (0, 0, 0, 0), 0)


def test_a_server_without_workers_is_read() -> None:
    """As it may be while it starts."""
    read = report()
    assert read.workers == ()
    assert read.total.lag_s == 0


def test_text_loses_what_a_terminal_could_take_for_a_command() -> None:
    """Nobody clears the screen from afar, or fills it."""
    read = report(worker(state="\x1b[2J"), version="1\n2\udc80", addresses=["a" * 5000])
    assert read.workers[0].state == "?[2J"
    assert read.version == "1?2?"
    assert len(read.addresses[0]) == 100


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b"[" * 100_000,
        json.dumps(said(workers=7)).encode(),
        json.dumps(said(workers=[7])).encode(),
        json.dumps(said(worker(state=7))).encode(),
        json.dumps(said(worker(restarts="7"))).encode(),
        json.dumps(said(worker(rss_bytes=float("nan")))).encode(),
        json.dumps(said(worker(uptime_s=float("inf")))).encode(),
        json.dumps(said(worker(uptime_s=10**400))).encode(),
        json.dumps(said(started_at=[])).encode(),
        json.dumps(said(total=[])).encode(),
        json.dumps(said(version=None)).encode(),
        json.dumps(said(addresses=None)).encode(),
    ],
)
def test_whatever_is_no_such_document_is_a_value_error(document: bytes) -> None:
    """And no other error."""
    with pytest.raises(ValueError, match="no statistics of gevpy"):
        Report.parse(document)


# -- rates ---------------------------------------------------------------------------------------------------------


def test_rates_need_two_reports() -> None:
    """The first has none; then each counter by the worker's own time, whatever the time of day is."""
    rates = Rates()
    assert rates.update(report(worker(messages=1000))) == {(0, 100): None, NOBODY: None}
    second = report(worker(messages=1500, uptime_s=12.0), now=1099.0)
    assert rates.update(second)[0, 100] == (250, 500, 2500, 5000)


def test_all_together_are_the_sum_of_what_is_known() -> None:
    """A worker that has only begun counts from the next report on."""
    rates = Rates()
    rates.update(report(worker(0), worker(1, pid=101)))
    told = rates.update(
        report(
            worker(0, messages=10, uptime_s=11.0),
            worker(1, pid=101, messages=30, uptime_s=11.0),
            worker(2, pid=102, messages=500, uptime_s=1.0),
        )
    )
    assert told[NOBODY] == (40, 80, 400, 800)
    assert told[2, 102] is None


@pytest.mark.parametrize(
    "second",
    [
        report(worker(messages=2000, uptime_s=10.0)),
        report(worker(messages=2000, uptime_s=12.0, pid=200)),
        report(worker(messages=999, uptime_s=12.0)),
        report(worker(messages=2000, uptime_s=9.0)),
        report(worker(messages=2000, uptime_s=12.0), started_at=1001.0),
    ],
)
def test_what_restarts_begins_anew(second: Report) -> None:
    """Another process, a counter or time that fell or stands, another server: no rates; with the next report again."""
    rates = Rates()
    rates.update(report(worker(messages=1000)))
    (row,) = second.workers
    assert rates.update(second) == {row.key: None, NOBODY: None}
    third = worker(pid=row.pid, messages=int(row.counters[0]) + 10, uptime_s=row.uptime_s + 1)
    assert rates.update(report(third, started_at=second.started_at))[row.key] == (10, 20, 100, 200)


def test_two_processes_of_one_number_are_two() -> None:
    """While a worker is replaced, the old one still drains."""
    rates = Rates()
    rates.update(report(worker(pid=100, messages=1000), worker(pid=200)))
    told = rates.update(
        report(worker(pid=100, messages=1001, uptime_s=11.0), worker(pid=200, messages=7, uptime_s=11.0))
    )
    assert told[0, 100] == (1, 2, 10, 20)
    assert told[0, 200] == (7, 14, 70, 140)
