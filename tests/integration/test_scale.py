"""Rows C13 and C16: many connections that are touched again and again, and one that wants the whole server."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import (
    SOAK,
    Crowd,
    FaultServer,
    best_of,
    cpu_of,
    echo,
    echo_times,
    frame,
    percentile,
    raise_descriptor_limit,
    receive_exactly,
    reset,
    resident_bytes,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MANY = 18_000 if SOAK else 2_000
TOUCHES = 50
BURST = 200  # touches before the server is waited for: fewer than would keep it from its timers by themselves
SPARE_DESCRIPTORS = 500
MAX_LAG_S = 0.010
FLOOD_BYTES = 10**9 if SOAK else 200 * 10**6
OTHERS = 10
MAX_ECHO_S = 0.050
MIB = 1024 * 1024


def touch_all(crowd: Crowd, probe: socket.socket) -> None:
    """Send one byte on every connection, in bursts that the server has handled before the next."""
    for start in range(0, len(crowd.sockets), BURST):
        for sock in crowd.sockets[start : start + BURST]:
            sock.send(b"touched")
        assert echo(probe) == b"x"


def test_touched_connections_cost_no_memory_and_no_time(fault_server: Callable[..., FaultServer]) -> None:
    """C13: 50 touches of each of thousands of connections leave RSS flat and one deadline each, and timers on time."""
    many = min(MANY, raise_descriptor_limit(MANY + SPARE_DESCRIPTORS) - SPARE_DESCRIPTORS)
    config = {"handler_args": {"echo_below": 2}, "serve": {"limits": {"max_connections": many + 1}}}
    with fault_server("sum", **config) as server, Crowd(server.port) as single, Crowd(server.port) as crowd:
        probe = single.join()
        for _ in range(many):
            crowd.join()
        server.wait_for(many + 1)
        for _ in range(5):
            touch_all(crowd, probe)
        before = resident_bytes(server.pid)
        server.ask("lag")

        def lag_of_touches() -> float:
            for _ in range(TOUCHES // 5):
                touch_all(crowd, probe)
            return percentile(server.ask("lag")["own"], 0.99)

        lags = [lag_of_touches() for _ in range(5)]
        assert resident_bytes(server.pid) - before <= MIB, "the slope is flat"
        report = server.report()
        assert report["armed"] == many + 1, "one deadline a connection"
        assert min(lags) <= MAX_LAG_S, lags
        sent = many * len(b"touched") * (5 + TOUCHES)
        wait_until(lambda: server.report()["received_bytes"] > sent, "every touch is handled")
        crowd.close(many)
        server.wait_for(1)


@contextmanager
def flooding(port: int, piece: memoryview) -> Iterator[Callable[[], int]]:
    """Have one client send ``piece`` again and again from a thread; give what tells how many bytes it has sent."""
    sent = 0
    stop = threading.Event()

    def flood() -> None:
        nonlocal sent
        sock = socket.create_connection(("127.0.0.1", port))
        while not stop.is_set():
            try:
                sent += sock.send(piece[sent % len(piece) :], socket.MSG_DONTWAIT)
            except BlockingIOError:
                select.select((), (sock,), (), 0.1)
        reset(sock)  # what is still on its way is of no more interest

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield lambda: sent
    finally:
        stop.set()
        thread.join()


def slowest_percent(others: list[socket.socket]) -> float:
    """Give the 99th percentile of one round of echoes of all the others."""
    data = frame(b"other")
    return percentile((took for sock in others for took in echo_times(sock, 5, data)), 0.99)


@pytest.mark.parametrize("kind", ["large frames", "tiny frames", "tiny frames and a slow handler"])
def test_one_flooding_client_leaves_time_for_the_others(fault_server: Callable[..., FaultServer], kind: str) -> None:
    """C16: while one client sends all it can, ten others get their echoes with a p99 of at most 50 ms."""
    piece = frame(b"") * 16_384 if kind.startswith("tiny") else frame(bytes(60_000)) * 4
    slow = kind.endswith("handler")
    enough = FLOOD_BYTES // (1 if kind == "large frames" else 2_000 if slow else 100)
    handler = ("work", {"work_s": 10e-6 if slow else 0.0}) if kind.startswith("tiny") else ("sum", {"echo_below": 100})
    with (
        fault_server(handler[0], protocol="length", handler_args=handler[1]) as server,
        Crowd(server.port) as crowd,
    ):
        others = [crowd.join() for _ in range(OTHERS)]
        with flooding(server.port, memoryview(piece)):
            wait_until(lambda: server.report()["received_bytes"] > len(piece), "the flood has begun")
            best = best_of(20, lambda: slowest_percent(others), MAX_ECHO_S)
            while server.report()["received_bytes"] < enough:
                slowest_percent(others)
        if slow:
            server.ask("rest")
        assert best <= MAX_ECHO_S, f"p99 {best * 1e3:.1f} ms"


def test_a_flood_of_tiny_frames_is_all_answered(fault_server: Callable[..., FaultServer]) -> None:
    """C16: yielding the turn loses and reorders nothing: 50,000 numbered frames sent at once come back in order."""
    with fault_server("echo", protocol="length", serve={"limits": {"max_write_buffer_bytes": 64 * MIB}}) as server:
        stream = b"".join(frame(number.to_bytes(4, "big")) for number in range(50_000))
        with Crowd(server.port) as crowd:
            sock = crowd.join()
            sender = threading.Thread(target=sock.sendall, args=(stream,))
            used = cpu_of(server.pid)
            sender.start()
            assert receive_exactly(sock, len(stream)) == stream
            sender.join()
            assert cpu_of(server.pid) - used < 5.0, "seconds of the server's own time, for what takes one"
