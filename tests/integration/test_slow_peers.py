"""Rows C1 to C3: peers that read slowly, never read, or never finish a frame."""

from __future__ import annotations

import itertools
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.harness import (
    PATIENCE_S,
    Crowd,
    FaultServer,
    best_of,
    echo_times,
    frame,
    open_descriptors,
    percentile,
    receive_exactly,
    resident_bytes,
    wait_until,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

KIB = 1024
HARD_LIMIT = 1024 * KIB
STUCK = 20
FRAME = 4 * KIB
ROUND_TRIPS = 300
ROUNDS = 40
TICK_S = 0.1
SLOWLORIS = 500
FRAME_S = 0.8
STALL_S = 1.2
SLOW_ROUNDS = 5
BIG = 16 * 1024 * KIB
FLAT_S = 0.005  # a p99 below this is flat, whatever it was before: on a shared machine the scheduler alone makes it
LONG_FRAME = (60_000).to_bytes(4, "big")[:3]  # a part of a prefix; zeros that trickle in make it 59,904 and go on


def p99_s(sock: socket.socket) -> float:
    """Measure the 99th percentile of a good client's round trips."""
    return percentile(echo_times(sock, ROUND_TRIPS, frame(b"good")), 0.99)


def stick(server: FaultServer, crowd: Crowd) -> list[socket.socket]:
    """Connect the clients that never read again."""
    stuck = [crowd.join(receive_buffer=2048) for _ in range(STUCK)]
    for sock in stuck:
        sock.sendall(frame(b"stuck"))
        assert receive_exactly(sock, 9) == frame(b"stuck")
    return stuck


def numbers_of(sock: socket.socket, last: int) -> list[int]:
    """Read frames until the one numbered ``last``, or until none comes, and give their numbers."""
    numbers: list[int] = []
    sock.settimeout(PATIENCE_S)
    while not numbers or numbers[-1] < last:
        assert int.from_bytes(receive_exactly(sock, 4), "big") == FRAME
        numbers.append(int.from_bytes(receive_exactly(sock, FRAME)[:8], "big"))
    return numbers


@pytest.mark.parametrize("policy", ["close", "drop_newest", "drop_oldest", "block"])
def test_slow_readers_are_bounded(fault_server: Callable[..., FaultServer], policy: str) -> None:
    """C1: clients that don't read cost at most the hard limit and 64 KiB each, and nobody else's time."""
    options = {"limits": {"slow_consumer": policy}}
    with (
        fault_server("push", protocol="length", handler_args={"size": FRAME}, serve=options) as server,
        Crowd(server.port) as crowd,
    ):
        good = crowd.join()
        stuck = stick(server, crowd)
        before = resident_bytes(server.pid)
        server.ask("push", each=1)  # the kernel still takes it all: pushing alone is what it costs
        quiet = best_of(ROUNDS // 4, lambda: p99_s(good), 0.0)
        server.ask("push", each=STUCK)
        wait_until(lambda: is_acting(server, policy), f"{policy} acts on all of them")
        server.ask("push", each=1)
        busy = best_of(ROUNDS, lambda: p99_s(good), max(2 * quiet, FLAT_S))
        assert max(server.ask("waiting")) <= HARD_LIMIT + FRAME + 4
        result = server.ask("end_push")
        grown = resident_bytes(server.pid) - before
        assert grown <= STUCK * (HARD_LIMIT + 64 * KIB), f"{grown / STUCK / KIB:.0f} KiB each"
        assert busy <= max(2 * quiet, FLAT_S), f"p99 {busy * 1e6:.0f} µs, was {quiet * 1e6:.0f} µs"
        check_policy(server, policy, stuck, result)


def rest_of(sock: socket.socket) -> int:
    """Count what comes until the stream ends, by a FIN or by a reset: an abort may do either."""
    count = 0
    with suppress(ConnectionResetError):
        while piece := sock.recv(1 << 20):
            count += len(piece)
    return count


def is_acting(server: FaultServer, policy: str) -> bool:
    """Tell whether the policy has had to act on every stuck client."""
    report = server.report()
    if policy == "close":
        return bool(report["closed"].get("slow_consumer", 0) == STUCK)
    acted = server.ask("pushes")["refused"] if policy == "block" else report["dropped"].get(policy, 0)
    return bool(acted >= STUCK and min(server.ask("waiting")) > HARD_LIMIT - 2 * FRAME)


def check_policy(server: FaultServer, policy: str, stuck: list[socket.socket], result: dict[str, int]) -> None:
    """Assert what the policy promises to the peer, the handler and the counters."""
    report = server.report()
    if policy == "close":
        assert report["dropped"].keys() <= {"connection_closed"}
        assert [line for line in server.complaints() if "slow_consumer" in line], "a rate-limited log line"
        assert len(server.complaints()) <= 2 * server.most_lines(), server.log()
        assert rest_of(stuck[0]) < result["pushed"] * FRAME
        return
    assert report["gauge"] == STUCK + 1
    assert result["closed"] == 0
    assert result["refused"] > 0 if policy == "block" else report["dropped"][policy] > 0
    sent = result["pushed"] - result["refused"] - report["dropped"].get("drop_newest", 0)
    numbers = numbers_of_first(server, stuck[0], policy, result["pushed"])
    assert numbers == sorted(numbers), "order is kept"
    assert sent > 0
    assert len(set(numbers)) == len(numbers), "nothing comes twice"


def numbers_of_first(server: FaultServer, sock: socket.socket, policy: str, pushed: int) -> list[int]:
    """Let the first stuck client read all that is left for it."""
    if policy == "drop_oldest":
        return numbers_of(sock, pushed - STUCK + 1)  # its newest frame is the first of the last round
    sock.settimeout(PATIENCE_S)
    numbers: list[int] = []
    while server.ask("waiting")[0] or not numbers:
        assert int.from_bytes(receive_exactly(sock, 4), "big") == FRAME
        numbers.append(int.from_bytes(receive_exactly(sock, FRAME)[:8], "big"))
    return numbers


def test_a_zero_window_ends_in_an_abort(fault_server: Callable[..., FaultServer]) -> None:
    """C2: a peer that never reads is aborted at write_stall_s, within a second, and its descriptor is free."""
    with fault_server("reply", serve={"timeouts": {"write_stall_s": STALL_S}}) as server, Crowd(server.port) as crowd:
        before = open_descriptors(server.pid)
        server.ask("lag")
        peer = crowd.join(receive_buffer=2048)
        peer.sendall(str(BIG).encode())
        wait_until(lambda: server.ask("times"), "it is given up", STALL_S + PATIENCE_S)
        wait_until(lambda: open_descriptors(server.pid) == before, "the descriptor is free")
        ((lived_s, reason),) = server.ask("times")
        assert reason == "write_stall"
        assert STALL_S <= lived_s <= STALL_S + 1.0 + server.slack_s()
        assert server.report()["closed"]["write_stall"] == 1
        assert len([line for line in server.complaints() if "stall" in line]) == 1, "a rate-limited log line"
        assert rest_of(peer) < BIG


def test_a_close_does_not_wait_for_a_zero_window(fault_server: Callable[..., FaultServer]) -> None:
    """C2: close() with a peer that never reads ends in an abort after close_s."""
    with fault_server("reply", serve={"timeouts": {"close_s": STALL_S}}) as server, Crowd(server.port) as crowd:
        server.ask("lag")
        crowd.join(receive_buffer=2048).sendall(b"16777216 close")
        wait_until(lambda: server.ask("times"), "it is given up", STALL_S + PATIENCE_S)
        ((lived_s, reason),) = server.ask("times")
        assert reason == "closed_locally"
        assert STALL_S <= lived_s <= STALL_S + 1.0 + server.slack_s()


def test_a_peer_that_reads_slowly_is_not_stalled(fault_server: Callable[..., FaultServer]) -> None:
    """C2: as long as bytes leave, however few, the stall deadline starts anew."""
    with fault_server("reply", serve={"timeouts": {"write_stall_s": STALL_S}}) as server, Crowd(server.port) as crowd:
        for _ in range(SLOW_ROUNDS):
            peer = crowd.join(receive_buffer=16 * KIB)
            peer.sendall(b"8000000")
            longest, received = read_slowly(server, peer)
            if received == 8_000_000 or longest < STALL_S / 2:
                break  # else the machine kept us from reading: we were what the deadline is for
            crowd.close(1)
        assert received == 8_000_000, f"cut off, though there was never more than {longest:.2f} s between two reads"
        assert server.connections() == 1


def read_slowly(server: FaultServer, peer: socket.socket) -> tuple[float, int]:
    """Read a little at each turn of the wheel, for longer than the deadline, then all; give the longest wait, and all.

    The wait is from one read's end to the next one's: more than the time for which nothing may have left.
    """
    first = server.report()["tick"]
    received, longest, last = 0, 0.0, time.monotonic()
    with suppress(ConnectionResetError):
        for tick in range(first, first + 30):  # 1.5 s: more than the deadline
            wait_until(lambda past=tick: server.report()["tick"] > past, "the wheel turns")  # type: ignore[misc]
            received += len(peer.recv(32 * KIB))
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        received += len(receive_exactly(peer, 8_000_000 - received))
    return longest, received


def trickle(good: socket.socket, slow: list[socket.socket]) -> list[float]:
    """Have a slow client send one byte more of its frame, and the good one echo all the while.

    One byte for a hundred round trips is about a hundred a second, what 500 clients make that send one in 5 s. It
    is always the same ten of them, so that bytes come often enough to put off a deadline that could be put off.
    """
    for sock in slow:
        with suppress(ConnectionError):  # gone: as it should be
            sock.send(b"\0")
    return echo_times(good, 100, frame(b"good"))


def test_slowloris_frames_are_cut_off(fault_server: Callable[..., FaultServer]) -> None:
    """C3: 500 clients that trickle a frame are all gone by deadline and tick, counted from the frame's first byte."""
    options: dict[str, Any] = {"timeouts": {"frame_s": FRAME_S}}
    with fault_server("time", protocol="first_byte", serve=options) as server, Crowd(server.port) as crowd:
        good = crowd.join()
        quiet = best_of(ROUNDS // 4, lambda: percentile(trickle(good, []), 0.99), 0.0)
        limit = max(2 * quiet, FLAT_S)
        busy = best_of(SLOW_ROUNDS, lambda: slowloris(server, good), limit)
        assert len(server.complaints()) <= 2 * server.most_lines(), server.log()
        assert busy <= limit, f"p99 {busy * 1e6:.0f} µs, was {quiet * 1e6:.0f} µs"


def slowloris(server: FaultServer, good: socket.socket) -> float:
    """Have the 500 trickle until all were cut off, and check when that was; give the best p99 of the good one."""
    seen = len(server.ask("lived"))
    with Crowd(server.port) as crowd:
        slow = [crowd.join() for _ in range(SLOWLORIS)]
        server.wait_for(SLOWLORIS + 1)
        server.ask("lag")
        for sock in slow:
            sock.send(LONG_FRAME)
        busy = []
        started = time.monotonic()
        for number in itertools.count():
            busy.append(percentile(trickle(good, [slow[number % 10]]), 0.99))
            assert time.monotonic() - started < PATIENCE_S, "they are never cut off"
            if number % 5 == 0 and server.connections() == 1:
                break
    slack = server.slack_s()
    lived = server.ask("lived")[seen:]
    assert len(lived) == SLOWLORIS
    assert {reason for _, reason in lived} == {"frame_timeout"}
    took = [seconds for seconds, _ in lived]
    assert min(took) >= FRAME_S - 0.002  # the first byte is noted a moment after the deadline was set
    assert percentile(took, 0.95) <= FRAME_S + TICK_S + slack
    assert max(took) <= FRAME_S + 2 * TICK_S + slack  # with a byte to be taken off the wire first
    return min(busy)
