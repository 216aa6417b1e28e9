"""The acceptor: each connection goes to a worker, whatever the placement, a worker or the system does."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from gevpy import acceptor as module
from gevpy.acceptor import Acceptor
from gevpy.control import Channel
from gevpy.control_messages import Take
from gevpy.errors import WorkerError
from gevpy.log_limit import INTERVAL_S, LimitedLog
from gevpy.placement import WorkerLoad, chooser
from tests.serving import DEADLINE_S, Client, soon, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gevpy.placement import Chooser


class Child:
    """A worker that takes connections, or refuses them."""

    def __init__(self, number: int, tree: Tree) -> None:
        self.load = WorkerLoad(number, 1000 + number)
        self.refuses = False
        self._tree = tree

    def hand_over(self, fd: int) -> bool:
        """Take it, as a worker would, unless it refuses."""
        return self._tree.take(self, fd)


class Tree:
    """What an acceptor asks of a supervisor: it keeps what is handed over.

    Attributes:
        live: the workers.
        taken: which worker has taken how many.
        held: the connections, as a worker holds them.
    """

    def __init__(self) -> None:
        self.live = [Child(number, self) for number in range(3)]
        self.log = LimitedLog(logging.getLogger("gevpy.supervisor"))
        self.held: list[socket.socket] = []
        self.taken: list[int] = []
        self.tried: list[int] = []
        self.came = asyncio.Event()

    def take(self, child: Child, fd: int) -> bool:
        """Note what a worker takes."""
        self.tried.append(child.load.id)
        self.came.set()
        if child.refuses:
            return False
        child.load.connections += 1
        self.held.append(socket.socket(fileno=os.dup(fd)))
        self.taken.append(child.load.id)
        return True

    async def until_taken(self, count: int) -> None:
        """Wait until so many were handed over."""
        while len(self.taken) < count:
            self.came.clear()
            await soon(self.came.wait())


class Listening(socket.socket):
    """A listening socket whose accept() fails as the test wants."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.errors: list[OSError] = []
        self.asked = 0
        self.failed_at: list[float] = []
        self.failed = asyncio.Event()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept, or fail."""
        self.asked += 1
        if self.errors:
            self.failed_at.append(time.monotonic())
            error = self.errors.pop()
            if not self.errors:
                self.failed.set()
            raise error
        return super().accept()


class Site:
    """A tree, a listening socket, and what accepts for the one on the other."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.sock = Listening()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(200)
        self.sock.setblocking(False)
        self.clients: list[Client] = []
        self.acceptor: Acceptor | None = None

    def accept(self, choose: Chooser | None = None) -> Acceptor:
        """Begin to accept."""
        tree: Any = self.tree
        self.acceptor = Acceptor(tree, self.sock, choose or chooser("round_robin"))
        self.acceptor.start()
        return self.acceptor

    async def visit(self, count: int = 1) -> Client:
        """Have clients come; give the last one."""
        for _ in range(count):
            self.clients.append(await Client.connect(self.sock.getsockname()))
        return self.clients[-1]

    def close(self) -> None:
        """Close all."""
        if self.acceptor is not None:
            self.acceptor.stop()
        for sock in (self.sock, *self.tree.held):
            sock.close()
        for client in self.clients:
            client.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """Give one, and close it."""
    found = Site()
    yield found
    found.close()


def errors(number: int, count: int = 1) -> list[OSError]:
    """Make errors of the system."""
    return [OSError(number, os.strerror(number)) for _ in range(count)]


def lines(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    """Give the log lines with a text."""
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


async def test_each_connection_goes_where_the_placement_says(site: Site) -> None:
    """In the order in which they come, and its own descriptor is kept by nobody but the worker."""
    site.accept()
    client = await site.visit(6)
    await site.tree.until_taken(6)
    assert site.tree.taken == [0, 1, 2] * 2
    site.tree.held[-1].sendall(b"hello")
    assert await client.recv() == b"hello"
    site.tree.held.pop().close()
    assert await client.recv() == b""


async def test_the_placement_is_told_who_comes(site: Site) -> None:
    """The peer's address as gevpy writes it, and the workers as they are."""
    seen: list[tuple[list[int], str]] = []

    def choose(workers: Sequence[WorkerLoad], peer: str) -> WorkerLoad:
        seen.append(([worker.connections for worker in workers], peer))
        return workers[1]

    site.accept(choose)
    await site.visit(3)
    await site.tree.until_taken(3)
    assert seen == [([0, count, 0], client.address) for count, client in enumerate(site.clients)]


async def test_without_a_worker_nobody_is_accepted(site: Site) -> None:
    """They wait in the kernel's queue, and are served when a worker is there."""
    workers, site.tree.live = site.tree.live, []
    site.accept()
    await site.visit(5)
    await asyncio.sleep(3 * module.PAUSE_S)
    assert site.sock.asked == 0
    site.tree.live = workers
    await site.tree.until_taken(5)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.get)
async def test_out_of_descriptors_it_pauses(site: Site, caplog: pytest.LogCaptureFixture, number: int) -> None:
    """No spinning, one line, and those who waited are served afterwards."""
    site.sock.errors = errors(number, 3)
    site.accept()
    await site.visit(2)
    await soon(site.sock.failed.wait())
    await site.tree.until_taken(2)
    first, second, third = site.sock.failed_at
    assert min(second - first, third - second) > 0.9 * module.PAUSE_S
    assert lines(caplog, "accepting paused") == [f"accepting paused: {os.strerror(number)}"]


async def test_one_that_is_gone_again_is_passed_over(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """ECONNABORTED and its kin are the peer's affair: no pause and no line."""
    site.sock.errors = errors(errno.ECONNABORTED, 3) + errors(errno.EPROTO, 2)
    site.accept()
    await site.visit(1)
    await site.tree.until_taken(1)
    assert site.sock.asked <= 7
    assert not caplog.records


async def test_a_refusal_goes_to_the_others(site: Site) -> None:
    """A worker that takes nothing any more costs nobody a connection."""
    site.tree.live[0].refuses = site.tree.live[1].refuses = True
    site.accept()
    await site.visit(3)
    await site.tree.until_taken(3)
    assert site.tree.taken == [2, 2, 2]


async def test_when_all_refuse_the_peer_is_told(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """By a reset, and with one line however many come; the next that can be served is."""
    for child in site.tree.live:
        child.refuses = True
    site.accept()
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(ConnectionResetError):  # connecting, or when it waits for an answer
            await (await site.visit()).recv()
    took_s = time.monotonic() - began
    assert 1 <= len(lines(caplog, "no worker takes connections")) <= 1 + took_s / INTERVAL_S
    assert lines(caplog, "refused 127.0.0.1:")
    site.tree.live[1].refuses = False
    await site.visit()
    await site.tree.until_taken(1)


async def test_a_placement_that_fails_falls_back(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """To the least busy one; one line with the cause."""

    def choose(workers: Sequence[WorkerLoad], peer: str) -> WorkerLoad:
        raise WorkerError("the placement failed") from KeyError("room")

    site.tree.live[0].load.connections = 5
    site.accept(choose)
    await site.visit(10)
    await site.tree.until_taken(10)
    assert sorted(site.tree.taken) == [1] * 5 + [2] * 5
    assert len(lines(caplog, "the least busy worker takes it")) == 1
    assert "room" in caplog.text


async def test_a_hand_over_that_fails_costs_no_traceback(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of descriptors at the worst moment, between accepting and duplicating: refused, and the next are served."""
    loop = asyncio.get_running_loop()
    ours, its = socket.socketpair()
    channel = Channel(loop, ours, lambda *_: None, lambda _: None)
    failures = errors(errno.EMFILE, 3 * len(site.tree.live))

    def duplicate(fd: int) -> int:
        if failures:
            raise failures.pop()
        return os.dup(fd)

    def take(child: Child, fd: int) -> bool:
        taken = channel.send(Take(), descriptors=[fd])
        if taken:
            site.tree.taken.append(child.load.id)
        return taken

    monkeypatch.setattr("gevpy.control.dup", duplicate)
    site.tree.take = take  # type: ignore[method-assign]
    failed: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: failed.append(context))
    site.accept()
    async with asyncio.timeout(DEADLINE_S):
        while not site.tree.taken:
            with suppress(ConnectionError):
                await site.visit()
            await asyncio.sleep(0.01)
    channel.close()
    its.close()
    assert not failed


async def test_what_a_dead_worker_had_not_taken_is_placed_again(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """By the placement; reset if nobody is there, dropped if the peer is gone, and no descriptor stays."""
    acceptor = site.accept()
    clients = [await site.visit() for _ in range(3)]
    await site.tree.until_taken(3)
    untaken = [held.detach() for held in site.tree.held]
    site.tree.held.clear()
    acceptor.place_again(untaken[0])
    assert site.tree.taken == [0, 1, 2, 0]
    site.tree.held[0].sendall(b"hello")
    assert await clients[0].recv() == b"hello"
    site.tree.live = []
    acceptor.place_again(untaken[1])
    with pytest.raises(ConnectionResetError):
        await clients[1].recv()
    assert len(lines(caplog, "no worker takes connections")) == 1
    clients[2].reset()
    await asyncio.sleep(0)
    acceptor.place_again(untaken[2])
    for fd in untaken:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


async def test_a_stop_is_a_stop(site: Site) -> None:
    """Also during a pause, and once more; those who wait stay in the queue, for whoever accepts next."""
    site.sock.errors = errors(errno.EMFILE, 1000)
    acceptor = site.accept()
    await site.visit(2)
    await until(lambda: site.sock.asked)
    acceptor.stop()
    acceptor.stop()
    site.sock.errors.clear()
    await asyncio.sleep(2 * module.PAUSE_S)
    assert not site.tree.taken
    site.accept()
    await site.tree.until_taken(2)


async def test_a_stop_before_the_start_is_nothing(site: Site) -> None:
    """A server that fails to start closes what never ran."""
    tree: Any = site.tree
    Acceptor(tree, site.sock, chooser("round_robin")).stop()


async def test_a_flood_leaves_the_loop_its_turns(site: Site) -> None:
    """At most 100 at once: who else lives on the loop isn't starved."""
    await site.visit(150)
    site.accept()
    most, before, turned = 0, 0, 0
    while len(site.tree.taken) < 150:
        await asyncio.sleep(0)
        turned += 1
        most, before = max(most, len(site.tree.taken) - before), len(site.tree.taken)
    assert most <= module.ACCEPTS_PER_WAKE
