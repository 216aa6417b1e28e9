"""`python -m bench.visits --port N --at-least N`: clients that connect, get an echo, close, and tell of each failure.

A load generator ends at the first echo that is missing; these go on, because the server under them is being killed or
reloaded and the question is who notices. Many threads, so that many connections wait at once wherever one gets stuck.
They visit until standard input ends, and then until there were as many visits as asked for.

Two JSON lines go to standard output: `{"visiting": true}` when visits succeed, and a `Report` at the end. A visit that
failed tells from where it came and when it began and ended, by the monotonic clock, which all processes share: whoever
has killed a worker can tell whether this one was lost with it.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

__all__ = ["Failure", "Report", "Visitors"]

HOST = "127.0.0.1"
THREADS = 32
SOURCES = 128
"""Loopback addresses to come from: a closed connection keeps its port for a minute."""

ANSWER_LIMIT_S = 10.0
LIFE_LIMIT_S = 180.0
WARM_UP_VISITS = 100

# The socket module has it from Python 3.12 on. Without it, binding the address would choose the port, too, out of
# those that no connection of this address uses, whoever it goes to.
IP_BIND_ADDRESS_NO_PORT = 24


@dataclass(frozen=True, slots=True)
class Failure:
    """One visit that got no echo."""

    peer: str
    """Where it came from, `ip:port`; empty if it did not get that far."""

    began_s: float
    ended_s: float
    error: str


@dataclass(slots=True)
class Report:
    """What the visitors saw."""

    visits: int = 0
    """Those that failed included."""

    slowest_s: float = 0.0
    """Of those that got their echo."""

    cut_short: bool = False
    """Whether their time was over before they were told to end: what came later was not under load."""

    failures: list[Failure] = field(default_factory=list)


class Visitors:
    """Threads that visit a port of this machine.

    Args:
        port: where to.
        at_least: so many visits even if `finish` is called early.
    """

    def __init__(self, port: int, at_least: int) -> None:
        """Begin at once."""
        self._port = port
        self._at_least = at_least
        self._began = 0
        self._finishing = False
        self._deadline = time.monotonic() + LIFE_LIMIT_S
        self._lock = threading.Lock()
        self._warm = threading.Event()
        self._report = Report()
        self._threads = [threading.Thread(target=self._visit_again_and_again) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def wait_warm(self) -> bool:
        """Wait until visits succeed; tell whether they do."""
        return self._warm.wait(ANSWER_LIMIT_S)

    def finish(self) -> Report:
        """Have them end; return what they saw."""
        self._finishing = True
        for thread in self._threads:
            thread.join()
        return self._report

    def _visit_again_and_again(self) -> None:
        while (number := self._next()) is not None:
            self._visit(number)

    def _next(self) -> int | None:
        """Number the next visit; None: enough."""
        with self._lock:
            if self._finishing and self._began >= self._at_least:
                return None
            if time.monotonic() > self._deadline:
                self._report.cut_short = True
                return None
            self._began += 1
            return self._began

    def _visit(self, number: int) -> None:
        began = time.monotonic()
        peer = error = ""
        with socket.socket() as sock:
            sock.settimeout(ANSWER_LIMIT_S)
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            try:
                sock.bind((f"127.0.0.{1 + number % SOURCES}", 0))
                sock.connect((HOST, self._port))
                peer = "{}:{}".format(*sock.getsockname())
                error = _ask(sock, b"visit %d" % number)
            except OSError as reason:
                error = repr(reason)
        self._note(began, peer, error)

    def _note(self, began: float, peer: str, error: str) -> None:
        ended = time.monotonic()
        report = self._report
        with self._lock:
            report.visits += 1
            if error:
                report.failures.append(Failure(peer, began, ended, error))
                return
            report.slowest_s = max(report.slowest_s, ended - began)
            if report.visits >= WARM_UP_VISITS:
                self._warm.set()


def _ask(sock: socket.socket, message: bytes) -> str:
    """Send a message and await its echo; return what is wrong with that."""
    sock.sendall(message)
    echo = b""
    while len(echo) < len(message):
        piece = sock.recv(len(message))
        if not piece:
            return "closed by the server"
        echo += piece
    return "" if echo == message else f"wrong echo: {echo!r}"


def main() -> None:
    """Visit until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m bench.visits", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--at-least", type=int, required=True)
    options = parser.parse_args()
    visitors = Visitors(options.port, options.at_least)
    if visitors.wait_warm():
        print(json.dumps({"visiting": True}), flush=True)
        sys.stdin.read()
    print(json.dumps(asdict(visitors.finish())), flush=True)


if __name__ == "__main__":
    main()
