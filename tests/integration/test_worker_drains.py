"""Rows A3, A4 and A8: a tree that is told to go, told twice, or loses its supervisor."""

from __future__ import annotations

import re
import selectors
import signal
import socket
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import SOAK, raise_descriptor_limit, receive_all, wait_until
from tests.integration.tree_app import BLOCK, BLOCKS
from tests.integration.tree_procs import has_listener, is_read, is_running, listeners_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.tree_harness import Tree

IDLE = 1_000 if SOAK else 100
STREAMS = 50 if SOAK else 10
DRAIN_S = 5.0
GRACE_S = 1.0 if SOAK else 8.0  # a machine with other work to do may have none for us
AT_ONCE_S = 1.0 if SOAK else 10.0  # else nothing ends it but the drain's deadline, after 30 s
BIG = 16 << 20  # more than the kernel's buffers take
STREAM_BYTES = 2 * BLOCKS * (len(BLOCK) + 1) + len("end\n")


def readable(socks: list[socket.socket], within_s: float) -> bool:
    """Tell whether one of ``socks`` has something to read, be it the end, or gets it in time."""
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(within_s))


def never_reads(server: Tree) -> socket.socket:
    """Give a connection whose answer can't leave."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(10)
    sock.connect(("127.0.0.1", server.port))
    sock.sendall(b"big %d\n" % BIG)
    assert readable([sock], 10.0)
    return sock


def test_a_stop_ends_what_can_be_ended(tree: Callable[..., Tree]) -> None:
    """A3: idle ones get a FIN, streams all their bytes; who never reads is aborted at the deadline, and reported."""
    raise_descriptor_limit(2 * IDLE)
    with tree(timeouts={"drain_s": DRAIN_S}) as server, ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(IDLE)]
        streams = [stack.enter_context(server.connect()) for _ in range(STREAMS)]
        for sock in streams:
            sock.sendall(b"stream\n")
        assert all(readable([sock], 10.0) for sock in streams)
        stuck = stack.enter_context(never_reads(server))
        wait_until(lambda: server.stats()["total"]["connections"] == IDLE + STREAMS + 1, "all are in")

        started = time.monotonic()
        server.signal(signal.SIGTERM)
        assert [len(receive_all(sock)) for sock in streams] == [STREAM_BYTES] * STREAMS
        assert [sock.recv(1) for sock in idle] == [b""] * IDLE
        assert time.monotonic() - started < DRAIN_S, "only the one that never reads is waited for"
        assert server.process.wait(20) == 0
        assert DRAIN_S - 0.1 <= time.monotonic() - started <= DRAIN_S + GRACE_S

        port = stuck.getsockname()[1]
        reports = re.findall(
            r"drained, and aborted (a connection|\d+ connections) that had not ended: (.*)", server.log()
        )
        assert [(count, who.rpartition(" ")[2]) for count, who in reports] == [("a connection", f"127.0.0.1:{port}")]
        with pytest.raises(ConnectionResetError):
            receive_all(stuck)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(tree: Callable[..., Tree], number: signal.Signals) -> None:
    """A4: what will not end in time is ended by a second signal, within a second, be it blocked or waiting."""
    with tree() as server, server.reach(0) as blocked, server.reach(1) as waiting:
        blocked.sendall(b"sleep 50\n")
        waiting.sendall(b"wait\n")
        wait_until(lambda: is_read(blocked) and is_read(waiting), "both are at it")
        server.signal(number)
        server.wait_log("stopping:")
        assert not readable([blocked, waiting], 0.2), "one signal is not enough"
        started = time.monotonic()
        server.signal(number)
        assert server.process.wait(20) == 0
        assert time.monotonic() - started < AT_ONCE_S


def test_workers_go_when_the_supervisor_is_killed(tree: Callable[..., Tree]) -> None:
    """A8: kill -9 of the supervisor: workers drain and exit by the deadline, and the port is free."""
    with tree(timeouts={"drain_s": DRAIN_S}, faults_expected=True) as server:
        pids = [server.pid_of(0), server.pid_of(1)]
        assert all(map(listeners_of, pids))
        with server.reach(1) as idle, never_reads(server) as stuck:
            started = time.monotonic()
            server.signal(signal.SIGKILL)
            server.process.wait(5)
            with suppress(ConnectionError):
                assert idle.recv(1) == b""
            wait_until(lambda: not any(map(is_running, pids)), "the workers are gone", 20.0)
            assert time.monotonic() - started <= DRAIN_S + GRACE_S
            with suppress(ConnectionError):
                assert receive_all(stuck)
        assert not has_listener(server.port)
        server.exit_code = -signal.SIGKILL


def test_patience_ends_at_the_deadline(tree: Callable[..., Tree]) -> None:
    """A3: who outlives a reload's patience is ended gently then; who can't be is aborted, and named in the log."""
    with tree(timeouts={"drain_s": 1}) as server, server.reach(0) as idle, never_reads(server) as stuck:
        pids = [server.pid_of(0), server.pid_of(1)]
        server.signal(signal.SIGHUP)
        assert idle.recv(1) == b""
        wait_until(lambda: not any(map(is_running, pids)), "both old workers have gone", 20.0)
        port = stuck.getsockname()[1]
        report = rf"drained, and aborted a connection that had not ended: connection \d+ from 127.0.0.1:{port}"
        server.wait_log(report)  # the supervisor reads what it said after its end
        assert len(re.findall(report, server.log())) == 1
        assert "killing" not in server.log()
