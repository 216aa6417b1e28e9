"""Row F8: what peers send can't forge log lines, and a flood of bad peers can't become a flood of lines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy.log_limit import LimitedLog, printable
from tests.integration.harness import SOAK, Crowd, FaultServer, frame, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

BAD_CLIENTS = 100_000 if SOAK else 5_000
MAX_LINES = 100
EVIL = "\r\n\x1b[31mERROR forged\x00\x7f\u2028\u202e"


def test_bad_clients_share_a_few_lines(fault_server: Callable[..., FaultServer]) -> None:
    """F8: 5,000 clients with an impossible length make one line each five seconds, and one count each."""
    with fault_server("echo", protocol="length") as server:
        for _ in range(BAD_CLIENTS // 50):
            with Crowd(server.port) as crowd:
                clients = [crowd.join() for _ in range(50)]
                for sock in clients:
                    sock.sendall(b"\xff\xff\xff\xff\r\n\x1b[31m")
                for sock in clients:
                    assert sock.recv(1) == b""
        wait_until(lambda: server.report()["closed"].get("frame_too_large") == BAD_CLIENTS, "all are counted")
        assert 1 <= len(server.complaints()) <= MAX_LINES, server.log()
        assert "\x1b" not in server.log()


def test_payload_in_errors_is_escaped(fault_server: Callable[..., FaultServer]) -> None:
    """F8: an error that quotes the payload, control characters and all, stays on its own line, cut short."""
    with fault_server("quote", protocol="length", faults_expected=True) as server, Crowd(server.port) as crowd:
        bad = crowd.join()
        bad.sendall(frame(EVIL.encode() + b"A" * 5000))
        assert bad.recv(1) == b""
        log = server.log()
        first = next(line for line in server.complaints() if line.startswith("ERROR "))
        assert "error in on_message" in first
        assert len(first) < 500
        assert not [line for line in log.splitlines() if line.startswith("ERROR forged")]
        assert "\x1b" not in log
        assert "\x00" not in log


@pytest.mark.parametrize("text", ["\r\n", "\x1b[31m", "\x00", "\x7f", "\x9b", "\u2028", "\u202e", "\ud800"])
def test_control_characters_are_escaped(text: str) -> None:
    """F8: whatever could move the cursor, end the line or turn the direction is shown as an escape."""
    shown = printable(f"a{text}b")
    assert shown.isprintable()
    assert shown.isascii()
    assert shown.startswith("a\\")
    assert shown.endswith("b")


def test_a_class_of_lines_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    """F8: one line per class and five seconds; the next one tells how many were passed over."""
    now = [0.0]
    log = LimitedLog(logging.getLogger("gevpy.test"), clock=lambda: now[0])
    for _ in range(1000):
        log.log("one", logging.WARNING, "first class")
    log.log("two", logging.WARNING, "second class")
    now[0] = 5.0
    log.log("one", logging.WARNING, "first class")
    assert caplog.messages == ["first class", "second class", "first class (999 more like it were not logged)"]


def test_the_payload_is_in_no_repr() -> None:
    """F8: the text of gevpy's own errors and objects doesn't quote what peers sent."""
    errors: list[Any] = [gevpy.FrameTooLarge("declared frame length", limit=1, actual=2, offset=0)]
    buffer = gevpy.RingBuffer()
    buffer.write(b"secret")
    assert not [thing for thing in [*errors, buffer] if "secret" in repr(thing) + str(thing)]
