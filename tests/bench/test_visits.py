"""The visitors: every connect that gets no echo is told of, with what is needed to say whose fault it was."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from bench.visits import WARM_UP_VISITS, Report, Visitors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 10.0
VISITS = 300


@contextmanager
def serving(answer: Callable[[socket.socket, bytes], None]) -> Iterator[tuple[int, set[str]]]:
    """Serve one client after the other by ``answer``; give the port, and the peers that came so far."""
    peers: set[str] = set()
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                client, address = listener.accept()
            except TimeoutError:
                continue
            peers.add("{}:{}".format(*address))
            with client:
                client.settimeout(DEADLINE_S)
                answer(client, client.recv(1000))

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], peers
        finally:
            ended.set()
            thread.join(DEADLINE_S)
    assert not thread.is_alive()


def echo(client: socket.socket, message: bytes) -> None:
    """Send it back."""
    client.sendall(message)


def reset(client: socket.socket, message: bytes) -> None:
    """Hang up hard."""
    assert message
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang_up(client: socket.socket, message: bytes) -> None:
    """Close without a word."""
    assert client.fileno() >= 0
    assert message


def garble(client: socket.socket, message: bytes) -> None:
    """Send the message to another visitor, as it were."""
    client.sendall(bytes([message[0] ^ 1]) + message[1:])


def visit(port: int, at_least: int) -> Report:
    """Have them visit, as briefly as possible."""
    return Visitors(port, at_least).finish()


def test_visits_that_get_their_echo_are_counted() -> None:
    """As many as were asked for, and no failure."""
    with serving(echo) as (port, peers):
        visitors = Visitors(port, VISITS)
        assert visitors.wait_warm()
        report = visitors.finish()
    assert report.visits >= VISITS > WARM_UP_VISITS
    assert report.failures == []
    assert not report.cut_short
    assert 0 < report.slowest_s < DEADLINE_S
    assert len({peer.partition(":")[0] for peer in peers}) > 1  # from many addresses


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(reset, "ConnectionResetError", id="reset"),
        pytest.param(hang_up, "closed by the server", id="closed"),
        pytest.param(garble, "wrong echo", id="wrong"),
    ],
)
def test_a_visit_without_its_echo_is_a_failure(answer: Callable[[socket.socket, bytes], None], error: str) -> None:
    """It is told with the peer that the server saw, and with its time."""
    before = time.monotonic()
    with serving(answer) as (port, peers):
        report = visit(port, 5)
    assert len(report.failures) == report.visits >= 5
    for failure in report.failures:
        assert error in failure.error
        assert failure.peer in peers
        assert before <= failure.began_s <= failure.ended_s <= time.monotonic()


def test_a_refused_connect_is_a_failure() -> None:
    """Nobody listens: no worker can have accepted it."""
    with socket.socket() as reserved:  # and nobody else can: it is bound
        reserved.bind(("127.0.0.1", 0))
        report = visit(reserved.getsockname()[1], 1)
    assert report.visits == len(report.failures) >= 1
    assert {failure.peer for failure in report.failures} == {""}
