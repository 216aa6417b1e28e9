"""What a server with workers serves with: sockets for each slot, acceptors, the kernel's choice, signals, messages."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import tree as module
from gevpy.control_messages import Deliver, Message
from gevpy.errors import BindError, ConfigError
from gevpy.log_limit import LimitedLog
from gevpy.options import ServeOptions
from gevpy.placement import WorkerLoad
from gevpy.signals import LoopSignals
from gevpy.tree import WorkerTree
from tests.serving import Client, soon, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

CHANGES = {signal.SIGHUP: "reload", signal.SIGTTIN: "add", signal.SIGTTOU: "remove", signal.SIGUSR1: "stacks"}


class Supervisor:
    """A supervisor without workers: it notes what it is told.

    Attributes:
        calls: in order.
        slots: of workers that serve.
    """

    made: Supervisor

    def __init__(self, loop: object, application: object, options: object) -> None:
        Supervisor.made = self
        self.calls: list[Any] = []
        self.slots: dict[int, Any] = {}
        self.on_change: Callable[[], None] = lambda: None
        self.log = LimitedLog(logging.getLogger("gevpy.supervisor"))
        self.rolling = SimpleNamespace(reload=lambda: self.calls.append("reload"))
        self.delivered: list[tuple[Message, bytes]] = []
        self.listeners: list[Any] = []
        self.handed: list[int] = []
        self.on_untaken: Callable[[int], object] = os.close
        self.connections = 0

    async def start(self, listeners: Sequence[Any]) -> None:
        self.listeners = list(listeners)
        for number in range(len(listeners)):
            self.add(number)

    def add(self, number: int) -> None:
        """Have a worker serve a slot."""
        child = SimpleNamespace(ready=True, leaving=False, load=WorkerLoad(number, 100 + number))
        child.signal = lambda number: self.calls.append(("stacks", number))
        child.hand_over = lambda fd: self.hand_over(number)
        self.slots[number] = SimpleNamespace(id=number, child=child, is_served=True)

    @property
    def live(self) -> list[Any]:
        return [slot.child for slot in self.slots.values() if slot.child is not None]

    children = live

    def accept(self) -> None:
        self.calls.append("accept")

    def free_slot(self) -> int:
        return len(self.slots)

    def add_worker(self, listeners: Sequence[Any]) -> None:
        self.calls.append("add")
        self.listeners.append(listeners)
        self.add(len(self.slots))

    def remove_worker(self) -> None:
        self.calls.append("remove")

    def deliver(self, message: Message, payload: bytes) -> None:
        self.delivered.append((message, payload))

    def hand_over(self, number: int) -> bool:
        self.handed.append(number)
        return True

    def hurry(self) -> None:
        self.calls.append("hurry")

    async def stop(self, timeout_s: float | None) -> None:
        self.calls.append(("stop", timeout_s))

    async def close(self) -> None:
        self.calls.append("close")


def made(**options: Any) -> WorkerTree:
    """Make a tree that isn't bound."""
    given = {"protocol": gevpy.RawProtocol(), "port": 0, "workers": 3, **options}
    return WorkerTree(gevpy.Handler(), ServeOptions(**given))


@pytest.fixture
async def trees(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[WorkerTree]]:
    """Close what a test has bound."""
    monkeypatch.setattr(module, "Supervisor", Supervisor)
    found: list[WorkerTree] = []
    yield found
    for tree in found:
        await soon(tree.close())


async def bound(trees: list[WorkerTree], **options: Any) -> WorkerTree:
    """Make a tree that serves."""
    trees.append(made(**options))
    trees[-1].bind()
    await trees[-1].start()
    return trees[-1]


def port_of(tree: WorkerTree) -> int:
    """Give the port of a tree's one address."""
    (address,) = tree.addresses
    assert isinstance(address, tuple)
    return address[1]


# -- before it runs --------------------------------------------------------------------------------------


async def test_before_it_is_bound_there_is_nothing() -> None:
    """No address, nobody connected, nothing to hurry, stop or close."""
    tree = made()
    assert (tree.addresses, tree.connections) == ([], 0)
    assert not tree.runs_current_task()
    tree.hurry()
    for name in ("supervisor", "timers"):
        with pytest.raises(RuntimeError, match="not running"):
            getattr(tree, name)
    await soon(tree.stop(1.0))
    await soon(tree.close())


async def test_a_worker_that_serves_itself_is_told_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import the main script; one without the usual guard would spawn without end."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(ConfigError, match=r"put what serves under \"if __name__ == '__main__':\""):
        made().bind()


async def test_a_taken_port_is_one_error(trees: list[WorkerTree]) -> None:
    """Also when who has it would share: another server's workers are no workers of ours."""
    first = await bound(trees)
    port = port_of(first)
    with pytest.raises(BindError, match=str(port)):
        made(port=port).bind()


# -- sockets -----------------------------------------------------------------------------------------------


async def test_each_slot_has_a_socket_of_its_own(trees: list[WorkerTree]) -> None:
    """All on one port; a slot that is added gets one, too, and the same again when it comes back."""
    tree = await bound(trees)
    listeners = Supervisor.made.listeners
    assert len({sock.fileno() for (sock,) in listeners}) == 3
    assert {sock.getsockname() for (sock,) in listeners} == set(map(tuple, tree.addresses))
    assert tree._listeners_of(3) == tree._listeners_of(3)
    assert len({tree._listeners_of(number)[0].fileno() for number in range(4)}) == 4


async def test_closing_frees_the_port(trees: list[WorkerTree]) -> None:
    """The sockets of all slots, also of those that were added."""
    tree = await bound(trees)
    tree._listeners_of(5)
    port = port_of(tree)
    await soon(tree.close())
    assert tree.addresses == []
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("kernel", [True, False], ids=["the kernel could", "another system"])
async def test_without_the_kernel_an_acceptor_places(
    trees: list[WorkerTree], monkeypatch: pytest.MonkeyPatch, *, kernel: bool
) -> None:
    """Workers then have no sockets; where the kernel can't spread, the least busy worker gets the next one."""
    monkeypatch.setattr(module, "kernel_spreads", lambda: kernel)
    tree = await bound(trees, placement="round_robin" if kernel else "reuseport")
    assert Supervisor.made.listeners == [[], [], []]
    async with await Client.connect(tree.addresses[0]):
        assert Supervisor.made.handed == []
        tree.accept()
        await until(lambda: len(Supervisor.made.handed) == 1)
    for _ in range(3):
        count = len(Supervisor.made.handed)
        async with await Client.connect(tree.addresses[0]):
            await until(lambda: len(Supervisor.made.handed) > count)  # noqa: B023 - called at once
    assert set(Supervisor.made.handed) == {0, 1, 2}
    address = tree.addresses[0]
    await soon(tree.stop(1.0))
    assert tree.addresses == []
    with pytest.raises(ConnectionRefusedError):
        await Client.connect(address)
    assert len(Supervisor.made.handed) == 4


async def test_the_kernel_is_told_who_serves(trees: list[WorkerTree], monkeypatch: pytest.MonkeyPatch) -> None:
    """At each change, the slots whose worker takes connections; with none, it is left as it was."""
    told: list[list[int]] = []

    def steer(sock: socket.socket, slots: list[int]) -> bool:
        told.append(list(slots))
        return True

    monkeypatch.setattr(module, "steer", steer)
    await bound(trees)
    Supervisor.made.on_change()
    Supervisor.made.slots[1].child.ready = False
    Supervisor.made.on_change()
    Supervisor.made.slots[0].child = None
    Supervisor.made.on_change()
    Supervisor.made.slots[2].child = None
    Supervisor.made.on_change()
    assert told == [[0, 1, 2], [0, 2], [2]]


async def test_a_kernel_that_refuses_is_told_of_once(
    trees: list[WorkerTree], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else depends on it."""
    monkeypatch.setattr(module, "steer", lambda sock, slots: False)
    await bound(trees)
    with caplog.at_level(logging.INFO):
        for _ in range(20):
            Supervisor.made.on_change()
    assert len([record for record in caplog.records if "can't be steered" in record.getMessage()]) == 1


# -- signals -----------------------------------------------------------------------------------------------


async def test_signals_change_the_tree(trees: list[WorkerTree]) -> None:
    """Each does what the docs say, and afterwards they are what they were."""
    before = {number: signal.getsignal(number) for number in CHANGES}
    tree = await bound(trees)
    with LoopSignals(asyncio.get_running_loop(), tree.signals):
        for number, what in CHANGES.items():
            os.kill(os.getpid(), number)
            await until(lambda: [call for call in Supervisor.made.calls if what in (call, *call[:1])])  # noqa: B023 - at once
        assert Supervisor.made.calls[:3] == ["reload", "add", "remove"]
        await until(lambda: Supervisor.made.calls[3:] == [("stacks", signal.SIGUSR1)] * 4)
    assert len({sock.fileno() for (sock,) in Supervisor.made.listeners}) == 4
    assert {number: signal.getsignal(number) for number in CHANGES} == before


async def test_signals_before_the_start_are_nothing() -> None:
    """They are listened to from the first moment on, so that none ends the process."""
    tree = made()
    assert set(tree.signals) == set(CHANGES)
    for act in tree.signals.values():
        act()


# -- messages, timers --------------------------------------------------------------------------------------


async def test_text_and_bytes_are_delivered(trees: list[WorkerTree]) -> None:
    """As what they are; nothing else crosses processes, and a topic is checked here already."""
    tree = await bound(trees)
    tree.broadcast("snow \N{SNOWMAN}")
    tree.broadcast(bytearray(b"bytes"))
    tree.publish("news", memoryview(b"view")[1:])
    assert Supervisor.made.delivered == [
        (Deliver(None, is_text=True), "snow \N{SNOWMAN}".encode()),
        (Deliver(None, is_text=False), b"bytes"),
        (Deliver("news", is_text=False), b"iew"),
    ]
    for wrong in (7, None, {"a": 1}, ["a"]):
        with pytest.raises(TypeError):
            tree.broadcast(wrong)
    with pytest.raises((TypeError, ValueError)):
        tree.publish(7, b"x")  # type: ignore[arg-type]  # that is the point
    assert len(Supervisor.made.delivered) == 3


async def test_timers_run_until_the_end(trees: list[WorkerTree], caplog: pytest.LogCaptureFixture) -> None:
    """In this process; one that fails is told of and goes on; none fires after the close."""
    tree = await bound(trees)
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise OSError("no sensor")

    tree.timers.run_every(0.001, fail)
    await until(lambda: len(calls) > 3)
    await soon(tree.close())
    seen = len(calls)
    await asyncio.sleep(0.02)
    assert len(calls) == seen
    assert "no sensor" in caplog.text


async def test_the_end_reaches_the_workers(trees: list[WorkerTree]) -> None:
    """With the deadline that was asked for, and haste when there is some; closing twice is fine."""
    tree = await bound(trees)
    tree.accept()
    await soon(tree.stop(7.5))
    tree.hurry()
    await soon(tree.close())
    assert Supervisor.made.calls == ["accept", ("stop", 7.5), "hurry", "close"]
    await soon(tree.close())
