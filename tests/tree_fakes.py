"""A tree without processes: children that do what a test says, on a loop whose time the test moves."""

from __future__ import annotations

from signal import SIGKILL, Signals
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gevpy
from gevpy.application import Application
from gevpy.child import Child
from gevpy.control_messages import Beat, Failed, Message, Open, Ready
from gevpy.metrics.snapshot import Snapshot
from gevpy.options import ServeOptions
from gevpy.placement import WorkerLoad
from gevpy.supervisor import Supervisor
from tests.test_timers import ManualLoop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    import pytest

__all__ = ["Grove", "ManualLoop", "Sapling"]

FIRST_PID = 4_000_000  # beyond what a system gives: a signal that is really sent fails


class Sapling(Child):
    """A child without a process: it notes what it is told, and says and does what the test wants.

    Attributes:
        sent: messages it was sent, with their descriptors.
        signals: what it was sent, and whether that killed it is the test's to say.
        deaf: it takes no messages.
        born_s: when it was spawned.
    """

    grove: Grove

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        slot: int,
        on_message: Callable[[Child, Message, bytes], None],
        on_exit: Callable[[Child], None],
    ) -> None:
        super().__init__(loop, slot, on_message, on_exit)
        self.sent: list[tuple[Message, list[int]]] = []
        self.payloads: list[bytes] = []
        self.signals: list[Signals] = []
        self.deaf = False
        self.born_s = loop.time()
        self.grove.saplings.append(self)

    async def spawn(self, application: Application, listeners: Sequence[Any], cpus: tuple[int, ...] | None) -> None:
        """Take a pid, or fail as the grove's next spawn shall."""
        if self.grove.spawn_errors:
            raise self.grove.spawn_errors.pop()
        self.cpus = cpus
        self.load = WorkerLoad(self.slot, FIRST_PID + len(self.grove.saplings))

    def send(self, message: Message, payload: bytes = b"", descriptors: Sequence[int] = ()) -> bool:
        """Note it."""
        if self.deaf or self.gone.done():
            return False
        self.sent.append((message, list(descriptors)))
        self.payloads.append(payload)
        return True

    def signal(self, number: Signals) -> None:
        """Note it, if there is a process to signal."""
        if not self.gone.done():
            self.signals.append(number)

    # -- what the test has it do -------------------------------------------------------------------------

    def say(self, message: Message, payload: bytes = b"", descriptors: Sequence[int] = ()) -> None:
        """Say something to the supervisor."""
        self._received(message, payload, list(descriptors))

    def get_ready(self) -> Sapling:
        """Say that it is ready."""
        self.say(Ready())
        return self

    def fail(self, error: str, trace: str = "") -> None:
        """Say that it can't start, and exit."""
        self.say(Failed(error, trace))
        self.die(0)

    def beat(self, ticket: int = 0, turned_s: float | None = None, **fields: Any) -> None:
        """Say what it has counted."""
        snapshot = Snapshot.empty(self.slot)
        for name, value in fields.items():
            if name in snapshot.counters:
                snapshot.counters[name] = value
            else:
                setattr(snapshot, name, value)
        now = self.grove.loop.time()
        self.say(Beat(ticket, now if turned_s is None else turned_s), snapshot.to_json())

    def tell_open(self, connections: int, gone: int = 0) -> None:
        """Say how many connections are open."""
        self.say(Open(connections, gone))

    def hang_up(self) -> None:
        """End the channel, as a worker does that exits."""
        self.deaf = True
        self._channel_ended(None)

    def die(self, code: int = -SIGKILL) -> None:
        """Be gone."""
        self._reaped = True
        self.exit_code = int(code)
        if self._killing is not None:
            self._killing.cancel()
        self.gone.set_result(None)
        self._on_exit(self)

    # -- what the test asks of it --------------------------------------------------------------------------

    def told(self, kind: type[Message]) -> list[Any]:
        """Give the messages of a kind that it was sent."""
        return [message for message, _ in self.sent if isinstance(message, kind)]

    @property
    def is_killed(self) -> bool:
        """Whether it was sent SIGKILL."""
        return SIGKILL in self.signals


class Grove:
    """A supervisor of saplings on a manual loop.

    Attributes:
        saplings: all that were ever spawned, in order.
        spawn_errors: what the next spawns raise, the last one first.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.loop = ManualLoop()
        self.saplings: list[Sapling] = []
        self.spawn_errors: list[Exception] = []
        clock = SimpleNamespace(monotonic=self.loop.time, time=self.loop.time)
        kind = type("GroveSapling", (Sapling,), {"grove": self})
        for module in ("supervisor", "child", "tree_source"):
            monkeypatch.setattr(f"gevpy.{module}.time", clock)
        monkeypatch.setattr("gevpy.supervisor.Child", kind)
        options.setdefault("protocol", gevpy.RawProtocol())
        self.options = ServeOptions(workers=2, **options)
        self.changes = 0
        self._starting: asyncio.Task[None] | None = None
        self.supervisor = self.run(self._make())
        self.supervisor.on_change = self._count_change

    async def _make(self) -> Supervisor:
        return Supervisor(self.loop, Application(gevpy.Handler(), self.options), self.options)

    def _count_change(self) -> None:
        self.changes += 1

    def run(self, work: Awaitable[Any]) -> Any:
        """Run something to its end."""
        return self.loop.run_until_complete(work)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call something on the loop, as a signal handler or a timer is, and let it have its turns."""
        self.loop.call_soon(function, *arguments)
        self.loop.settle()

    def advance(self, seconds: float, step: float = 0.125) -> None:
        """Let time pass in small steps, so that what is due is done when it is due."""
        end = self.loop.now + seconds
        while self.loop.now < end:
            self.loop.advance(min(step, end - self.loop.now))

    def start(self, listeners: Sequence[Sequence[Any]] = ((), ()), *, ready: bool = True) -> list[Sapling]:
        """Start the workers, have them ready and accepting, and give them."""
        self._starting = self.loop.create_task(self.supervisor.start(listeners))
        self.loop.settle()
        if ready:
            for sapling in self.saplings:
                sapling.get_ready()
            self.run_start()
        return self.saplings[:]

    @property
    def starting(self) -> asyncio.Task[None]:
        """The start, under way or over."""
        assert self._starting is not None, "nothing was started"
        return self._starting

    def run_start(self) -> None:
        """See the start through, and have the workers accept."""
        self.run(self.starting)
        self.call(self.supervisor.accept)

    @property
    def states(self) -> list[str]:
        """Give the states of the slots."""
        return [slot.state for slot in self.supervisor.slots.values()]

    @property
    def newest(self) -> Sapling:
        """Give the one that was spawned last."""
        return self.saplings[-1]

    def close(self) -> None:
        """End everything, as a server that is closed does."""
        closing = self.loop.create_task(self.supervisor.close())
        if self._starting is not None:
            self._starting.cancel()  # a test that didn't wait for its end doesn't ask how it ended
        while not closing.done():
            self.loop.settle()
            for sapling in self.saplings:
                if sapling.is_killed and not sapling.gone.done():
                    sapling.die()
        self.loop.settle()
        self.loop.close()
