"""Clients of the worker tests, in a process of their own: ``tree_client.py '{"port": 1833, ...}'``; see `Config`.

They say ``begun`` once the first of them is through. They go on until stdin ends, and at least as often as they were
told to; then one line of JSON says what they saw.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import socket
import sys
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

BIND_ADDRESS_NO_PORT = 24  # of <linux/in.h>: the port is chosen at connect, and may be in use towards others
MAX_FAILURES = 1000  # that are told in full
BLOCK = b"x" * 63 + b"\n"
BLOCKS = 32  # in flight on each socket
READ_BYTES = 1 << 18


@dataclass(frozen=True)
class Config:
    """What to do.

    Attributes:
        port: of the server.
        busy: so many sockets that send without a pause, and read the answers, instead of visits.
        least: visits in all.
        at_once: how many visits go on at the same time.
        source: the address they come from.
        line: what each says; ``{}`` becomes a number of its own.
        rejected: the server is expected to end the connection instead of answering.
        keep: connections that each visitor keeps open before it closes the oldest.
        patience_s: for a connect, and for an answer.
    """

    port: int
    busy: int = 0
    least: int = 0
    at_once: int = 4
    source: str = "127.0.0.1"
    line: str = "who"
    rejected: bool = False
    keep: int = 0
    patience_s: float = 10.0


@dataclass
class Seen:
    """What visitors saw."""

    times: list[float] = field(default_factory=list)
    pids: Counter[int] = field(default_factory=Counter)
    failed: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Give it as plain data."""
        ordered = sorted(self.times) or [math.inf]
        return {
            "served": len(self.times),
            "p50_s": ordered[len(ordered) // 2],
            "p99_s": ordered[len(ordered) * 99 // 100],
            "slowest_s": ordered[-1],
            "pids": dict(self.pids),
            "failed": self.failed,
            "failures": self.failures,
        }


class Visitors:
    """Threads that connect, ask, and leave."""

    def __init__(self, config: Config, over: threading.Event) -> None:
        """Begin with nothing seen."""
        self._config = config
        self._over = over
        self._lock = threading.Lock()
        self._begun = 0
        self._seen = Seen()

    def run(self) -> dict[str, Any]:
        """Visit, and say how that went."""
        threads = [threading.Thread(target=self._visit_all) for _ in range(self._config.at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self._seen.report()

    def _visit_all(self) -> None:
        kept: deque[socket.socket] = deque()
        while True:
            with self._lock:
                number = self._begun
                if number >= self._config.least and self._over.is_set():
                    break
                self._begun += 1
            sock = self._visit(number)
            if sock is not None:
                kept.append(sock)
            while len(kept) > self._config.keep:
                kept.popleft().close()
        for sock in kept:
            sock.close()

    def _visit(self, number: int) -> socket.socket | None:
        """Visit once; give the connection, unless it has failed."""
        config = self._config
        sock = socket.socket()
        stage, port = "connect", 0
        started = time.monotonic()
        try:
            sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
            sock.bind((config.source, 0))
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", config.port))
            port = sock.getsockname()[1]  # while it has one: a connection that was reset forgets it
            sock.settimeout(config.patience_s)
            _wait_connected(sock)
            stage = "ask"
            sock.sendall(config.line.format(number).encode() + b"\n")
            stage = "answer"
            answer = _answer(sock, rejected=config.rejected)
        except OSError as error:
            sock.close()
            self._note_failure({"stage": stage, "port": port, "error": repr(error)})
            return None
        self._note(time.monotonic() - started, answer)
        return sock

    def _tell_begun(self) -> None:
        if not self._seen.times and not self._seen.failed:
            say("begun")

    def _note(self, seconds: float, answer: bytes) -> None:
        pid = json.loads(answer)["pid"] if answer.startswith(b"{") else 0
        with self._lock:
            self._tell_begun()
            self._seen.times.append(seconds)
            self._seen.pids[pid] += 1

    def _note_failure(self, failure: dict[str, Any]) -> None:
        with self._lock:
            self._tell_begun()
            self._seen.failed += 1
            if self._seen.failed <= MAX_FAILURES:
                self._seen.failures.append(failure)


def _wait_connected(sock: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        if not selector.select(sock.gettimeout()):
            raise TimeoutError("no connection")
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _answer(sock: socket.socket, *, rejected: bool) -> bytes:
    got = b""
    while not got.endswith(b"\n"):
        try:
            piece = sock.recv(65536)
        except ConnectionResetError:
            if rejected:
                return got
            raise
        if not piece:
            if rejected:
                return got
            raise ConnectionAbortedError("closed without an answer")
        got += piece
    return got


def keep_busy(config: Config, over: threading.Event) -> dict[str, Any]:
    """Send lines on many sockets as fast as their answers come, and count what came."""
    received = 0
    with selectors.DefaultSelector() as selector:
        for _ in range(config.busy):
            sock = socket.create_connection(("127.0.0.1", config.port))
            sock.sendall(BLOCK * BLOCKS)
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        say("begun")
        while not over.is_set():
            for key, _ in selector.select(0.1):
                sock = key.fileobj  # type: ignore[assignment]  # what was registered
                got = sock.recv(READ_BYTES)
                received += len(got)
                sock.send(BLOCK * (got.count(b"\n") or 1))
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # the same
    return {"received": received}


def say(line: str) -> None:
    """Tell the parent."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _wait_for_the_end(over: threading.Event) -> None:
    sys.stdin.buffer.read()
    over.set()


def main() -> None:
    """Do what the argument says."""
    config = Config(**json.loads(sys.argv[1]))
    over = threading.Event()
    threading.Thread(target=_wait_for_the_end, args=(over,), daemon=True).start()
    report = keep_busy(config, over) if config.busy else Visitors(config, over).run()
    say(json.dumps(report))


if __name__ == "__main__":
    main()
