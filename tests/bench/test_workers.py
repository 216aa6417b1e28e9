"""What the bench knows of workers that die and start: from their supervisor's log, and from the kernel."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from bench.visits import Failure
from bench.workers import Kill, Start, WorkerTasks, never_accepted, peers_in, starts_in, worker_steps

LOG = """\
INFO worker 1 (pid 4711) is ready after 0.31 s
INFO gevpy serving RawProtocol on 127.0.0.1:1833 by 2 workers
ERROR worker 1 (pid 4711) was ended by SIGKILL: replacing it
INFO worker 1 (pid 4712) is ready after 1.02 s
"""
PEER = "127.0.0.5:40000"


def test_starts_are_read_from_the_log() -> None:
    """Slot, process and time of each worker that became ready, in order."""
    assert starts_in(LOG) == [Start(1, 4711, 0.31), Start(1, 4712, 1.02)]


def test_a_line_being_written_is_no_start() -> None:
    """The log is read while the supervisor writes it."""
    assert starts_in(LOG[:40]) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
def test_the_kernel_tells_accepted_connections_from_waiting_ones() -> None:
    """One was accepted and is known by its socket, the other waits in the queue and belongs to nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        first = socket.create_connection(("127.0.0.1", port))
        accepted, _ = listener.accept()
        second = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.3", 0))
        with first, second, accepted:
            inode = os.fstat(accepted.fileno()).st_ino
            table = Path("/proc/net/tcp").read_text(encoding="ascii")
            assert peers_in(table, port, inodes=[inode]) == ["{}:{}".format(*first.getsockname())]
            assert peers_in(table, port, inodes=[0]) == ["{}:{}".format(*second.getsockname())]


@pytest.mark.parametrize(
    ("failure", "counts"),
    [
        pytest.param(Failure(PEER, 9.0, 11.0, "reset"), False, id="the dead worker had it"),
        pytest.param(Failure("127.0.0.5:40001", 9.0, 11.0, "reset"), True, id="nobody had it"),
        pytest.param(Failure("", 9.0, 11.0, "refused"), True, id="it never connected"),
        pytest.param(Failure(PEER, 10.5, 11.0, "reset"), True, id="a later visit from the same port"),
        pytest.param(Failure(PEER, 9.0, 9.5, "reset"), True, id="an earlier visit from the same port"),
    ],
)
def test_only_a_connection_lost_with_its_worker_is_excused(failure: Failure, counts: bool) -> None:
    """The same peer at the time of the kill, and no other."""
    kills = [Kill(3.0, frozenset(), 0), Kill(10.0, frozenset({PEER}), 7)]
    assert never_accepted([failure], kills) == ([failure] if counts else [])


def test_steps_show_values_that_they_measure() -> None:
    """A suite without workers has none of them."""
    assert worker_steps(None) == []
    assert [step.headline for step in worker_steps(WorkerTasks())] == [
        "kills: failed, never accepted",
        "reloads: failed",
        "start: beyond the import, s",
    ]
