"""Workers that are killed one after the other, while clients come and go and the metrics port is asked all the time."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

from tests.integration.harness import SOAK, open_descriptors, wait_until
from tests.integration.tree_procs import children_of, is_running, kill, state_of

if TYPE_CHECKING:
    from tests.integration.tree_harness import Tree

__all__ = ["Scraper", "Storm", "rage", "samples_of"]

CONNECTS = 8_000 if SOAK else 800
AT_ONCE = 16 if SOAK else 6
KILLS = 20 if SOAK else 3
SLOW = 4  # of the eight that the metrics port talks to at once


def samples_of(text: str) -> dict[str, float]:
    """Take apart what ``/metrics`` answers: a number for each series."""
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {series: float(number) for series, _, number in lines}


class Scraper:
    """A thread that asks for ``/metrics`` again and again while the context lasts.

    Attributes:
        statuses: how it was answered, and how often; 0 for not at all.
        scrapes: what it was answered.
        slowest_s: how long that took at most.
    """

    def __init__(self, server: Tree) -> None:
        """Begin with nothing asked."""
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._scrape_all)
        self.statuses: Counter[int] = Counter()
        self.scrapes: list[dict[str, float]] = []
        self.slowest_s = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()

    def _scrape_all(self) -> None:
        over = False
        while not over:
            over = self._over.is_set()  # the last one is asked for after all that happened
            started = time.monotonic()
            try:
                status, text = self._server.get("/metrics")
            except OSError:
                status, text = 0, ""
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
            self.statuses[status] += 1
            if status == HTTPStatus.OK:
                self.scrapes.append(samples_of(text))


@dataclass
class Storm:
    """What was seen of it.

    Attributes:
        kills: how many workers were killed.
        accepted: the ports of the clients whose connections the killed workers had accepted.
        repairs: for each kill, the seconds until the slot's successor was ready.
        clients: what the clients saw; see `tree_client.py`.
        scraper: what the metrics port answered.
        slow: what it answered to those who never finished their requests.
        log: of the server.
        zombies: processes that were not reaped.
    """

    kills: int = KILLS
    accepted: list[int] = field(default_factory=list)
    repairs: list[float] = field(default_factory=list)
    clients: dict[str, Any] = field(default_factory=dict)
    scraper: Scraper | None = None
    slow: list[bytes] = field(default_factory=list)
    log: str = ""
    zombies: list[int] = field(default_factory=list)


def rage(server: Tree) -> Storm:
    """Kill the workers of ``server`` in turn, and wait until no descriptor of theirs is left with it."""
    storm = Storm()
    _kill_one(server, 0)  # the first one brings what a supervisor only opens then
    before = open_descriptors(server.process.pid)
    with ExitStack() as stack:
        slow = [stack.enter_context(_slow_client(server)) for _ in range(SLOW)]
        clients = server.clients(least=CONNECTS, at_once=AT_ONCE)
        with Scraper(server) as scraper, clients:
            for number in range(KILLS):
                accepted, repair_s = _kill_one(server, number % 2)
                storm.accepted += accepted
                storm.repairs.append(repair_s)
        storm.slow = [sock.recv(1000) for sock in slow]
    storm.clients, storm.scraper, storm.log = clients.report, scraper, server.log()
    wait_until(lambda: open_descriptors(server.process.pid) <= before, "no descriptor stays")
    storm.zombies = [pid for pid in children_of(server.process.pid) if state_of(pid) == "Z"]
    return storm


def _kill_one(server: Tree, slot: int) -> tuple[list[int], float]:
    pid = server.pid_of(slot)
    assert pid, server.log()
    started = time.monotonic()
    accepted = kill(pid, server.port)
    wait_until(lambda: server.pid_of(slot) not in (0, pid), "it is replaced", 20.0, 0.02)
    assert not is_running(pid)
    return accepted, time.monotonic() - started


def _slow_client(server: Tree) -> socket.socket:
    host, _, port = server.metrics.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=10)
    sock.sendall(b"GET /metrics HT")
    return sock
