"""Rows B1 to B3: descriptors that run out, more clients than are admitted, and clients that are gone at once."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from tests.integration.harness import (
    PATIENCE_S,
    SOAK,
    Crowd,
    FaultServer,
    best_of,
    cpu_of,
    echo,
    fate,
    reset,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DESCRIPTORS = 64
ADMITTED = 32  # half of 64, as there is no room for the usual reserve
MAX_CPU = 0.05
MAX_RECOVERY_S = 0.2
MAX_LOG_LINES = 10
ROUNDS = 8  # for what takes times: the best of them
STORM = 20_000 if SOAK else 6_000


def cpu_share(server: FaultServer, is_over: Callable[[], object]) -> float:
    """Give the share of a core that the server used until ``is_over``."""
    started, used = time.monotonic(), cpu_of(server.pid)
    wait_until(is_over, "the measured interval ends", every_s=0.1)  # asking costs CPU, too
    return (cpu_of(server.pid) - used) / (time.monotonic() - started)


def ticks_pass(server: FaultServer, count: int) -> Callable[[], bool]:
    """Give a probe that is true once the server's wheel has turned ``count`` times (50 ms each)."""
    first = server.report()["tick"]
    return lambda: server.report()["tick"] >= first + count


def recovery_s(server: FaultServer, crowd: Crowd) -> float:
    """Close a live client, and give the seconds until a new one is served in its place."""
    started = time.monotonic()
    crowd.close(1)
    with Crowd(server.port) as late:

        def served() -> bool:
            try:
                return fate(late.join(timeout_s=1.0)) == "live"
            except (ConnectionError, TimeoutError):
                return False

        wait_until(served, "a new client is served")
        took = time.monotonic() - started
    crowd.join()
    return took


def test_a_low_descriptor_limit_is_never_reached(fault_server: Callable[..., FaultServer]) -> None:
    """B1: of 200 clients 64 descriptors serve 32 and reset the rest, quietly, at rest, and make room at once."""
    with fault_server("echo", descriptors=DESCRIPTORS) as server, Crowd(server.port) as crowd:
        fates = []
        for _ in range(200):
            crowd.join()
        fates = [fate(sock) for sock in crowd.sockets]
        assert fates == ["live"] * ADMITTED + ["reset"] * (200 - ADMITTED)
        assert server.report()["rejected"] == {"max_connections": 200 - ADMITTED}

        assert best_of(ROUNDS, lambda: cpu_share(server, ticks_pass(server, 10)), MAX_CPU) <= MAX_CPU
        assert [fate(sock) for sock in crowd.sockets[:ADMITTED]] == ["live"] * ADMITTED

        for sock in crowd.sockets[ADMITTED:]:
            sock.close()
        del crowd.sockets[ADMITTED:]
        assert best_of(ROUNDS, lambda: recovery_s(server, crowd), MAX_RECOVERY_S) <= MAX_RECOVERY_S
        assert 1 <= len(server.complaints()) <= MAX_LOG_LINES, server.log()


def refusals(server: FaultServer) -> int:
    """Count how often accepting has paused."""
    return int(server.report()["rejected"].get("out_of_descriptors", 0))


def paused_s(server: FaultServer, crowd: Crowd) -> float:
    """Take the server's descriptors, give them back, and give the seconds until those who waited are served."""
    server.wait_for(10)  # who has left has given its descriptor back
    server.ask("eat")
    waiting = [crowd.join() for _ in range(10)]  # the kernel takes them into the backlog
    for sock in waiting:
        sock.sendall(b"w")
    before = refusals(server)
    wait_until(lambda: refusals(server) > before, "accept fails")
    server.ask("give")
    started = time.monotonic()
    for sock in waiting:
        assert sock.recv(1) == b"w"
    took = time.monotonic() - started
    crowd.close(10)
    return took


def test_descriptors_eaten_by_others_pause_accepting(fault_server: Callable[..., FaultServer]) -> None:
    """B1: when accept fails, gevpy backs off, says so once, serves who is in, and then who waits."""
    with fault_server("echo", descriptors=DESCRIPTORS) as server, Crowd(server.port) as crowd:
        for _ in range(10):
            assert fate(crowd.join()) == "live"
        server.ask("eat")
        with Crowd(server.port) as late:
            late.join()
            wait_until(lambda: refusals(server), "accept fails")

            def share_of_six() -> float:
                first = refusals(server)
                return cpu_share(server, lambda: refusals(server) >= first + 6)

            assert best_of(ROUNDS, share_of_six, MAX_CPU) <= MAX_CPU
            assert [fate(sock) for sock in crowd.sockets] == ["live"] * 10
            server.ask("give")
        assert best_of(ROUNDS, lambda: paused_s(server, crowd), MAX_RECOVERY_S) <= MAX_RECOVERY_S
        paused = [line for line in server.complaints() if "accept" in line]
        assert 1 <= len(paused) <= server.most_lines(), server.log()
        assert len(server.complaints()) <= MAX_LOG_LINES, server.log()


def test_exactly_max_connections_are_admitted(fault_server: Callable[..., FaultServer]) -> None:
    """B2: with a cap of 100, of 300 clients 100 live and 200 are reset and counted; 10 that leave make room for 10."""
    with (
        fault_server("echo", serve={"limits": {"max_connections": 100}}) as server,
        Crowd(server.port) as crowd,
    ):
        for _ in range(300):
            crowd.join()
        fates = [fate(sock) for sock in crowd.sockets]
        assert (fates.count("live"), fates.count("reset")) == (100, 200)
        assert server.report()["rejected"] == {"max_connections": 200}
        lines = [line for line in server.complaints() if "max_connections" in line]
        assert 1 <= len(lines) <= server.most_lines(), server.log()

        crowd.close(10)
        server.wait_for(90)
        with Crowd(server.port) as late:
            assert [fate(late.join()) for _ in range(11)] == ["live"] * 10 + ["reset"]
            assert server.connections() == 100
            assert server.report()["rejected"] == {"max_connections": 201}


def test_clients_of_one_address_are_capped(fault_server: Callable[..., FaultServer]) -> None:
    """B3: the per-IP cap counts each loopback address by itself, and forgets it when its last client has left."""
    with fault_server("echo", serve={"limits": {"max_connections_per_ip": 3}}) as server, Crowd(server.port) as crowd:
        assert [fate(crowd.join()) for _ in range(4)] == ["live"] * 3 + ["reset"]
        with socket.create_connection(("127.0.0.1", server.port), source_address=("127.0.0.9", 0)) as other:
            assert echo(other) == b"x"
            assert server.report()["networks"] == 2
        assert server.report()["rejected"] == {"max_connections_per_ip": 1}


def test_a_storm_of_resets_leaves_nothing(fault_server: Callable[..., FaultServer]) -> None:
    """B3: 6,000 clients that reset right after connecting raise nothing, leak nothing, and are counted in and out."""
    limits = {"max_connections": 5_000, "max_connections_per_ip": 5_000}
    with fault_server("amplify", serve={"limits": limits}) as server:
        for number in range(STORM):
            sock = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
            if number % 3:
                sock.send(b"hello")
            reset(sock)
        server.wait_for(0)
        with Crowd(server.port) as crowd:
            good = crowd.join()
            good.sendall(b"x")
            assert good.recv(1) == b"x"
            assert server.report()["networks"] == 1
        report = server.report()
        assert (
            report["opened"] + sum(report["rejected"].values()) <= STORM + 2
        )  # the storm, the first connection of all, and the good one
        assert report["handler_errors"] == 0
