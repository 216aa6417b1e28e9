"""Who is charged for a late loop, for how long, and what of it is told.

The loop is a thread that stands at a gate inside the application's code; stamps and times are the test's. Only the
last section runs the watchdog's own thread, and servers on real loops.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy.blocked import Blocked, BlockedSeconds
from gevpy.culprit import PLACES
from gevpy.timers import run_after, run_every
from gevpy.watchdog import Watchdog
from tests.serving import DEADLINE_S, connected, soon, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.serving import Client

START = 1000.0
LATE_S = 0.25


class Gate:
    """Where the application's code stands until the test has seen enough.

    Attributes:
        reached: set once somebody stands here.
        opened: set to let everybody pass.
    """

    def __init__(self) -> None:
        self.close()

    def close(self) -> None:
        """Begin anew: nobody stands here, and nobody passes."""
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        """Stand here until it is opened."""
        self.reached.set()
        assert self.opened.wait(DEADLINE_S)


gate = Gate()


@pytest.fixture(autouse=True)
def _fresh_gate() -> Iterator[None]:
    gate.close()
    yield
    gate.opened.set()


class Stamp:
    """A loop's stamp, set by hand.

    Attributes:
        at: what it says.
        asked: called whenever somebody asks.
    """

    def __init__(self, at: float = START) -> None:
        self.at = at
        self.asked: Callable[[], object] = int

    def __call__(self) -> float:
        """Give the stamp."""
        self.asked()
        return self.at


class Watched:
    """A watchdog whose looks are taken by the test, at the test's times.

    Attributes:
        told: what was reported.
    """

    def __init__(self, handler: object = None, thread_id: int | None = None) -> None:
        self.stamp = Stamp()
        self.told: list[Blocked] = []
        self.dog = Watchdog(
            handler,
            stamp=self.stamp,
            thread_id=threading.get_ident() if thread_id is None else thread_id,
            on_blocked=self.told.append,
        )
        self.dog._begin(START)

    def look(self, at: float, *, stamp: float | None = None, stood: float = 0.0) -> float:
        """Look so many seconds after the start, the loop having turned at ``stamp`` if that is given."""
        if stamp is not None:
            self.stamp.at = START + stamp
        return self.dog._look(START + at, stood)

    def current(self) -> Blocked:
        """Give what is going on."""
        blocked = self.dog.current()
        assert blocked is not None
        return blocked


@contextmanager
def standing(code: Callable[[], object]) -> Iterator[int]:
    """Run ``code`` in a thread of its own until it stands at the gate, and give the thread's number."""
    thread = threading.Thread(target=code)
    thread.start()
    try:
        assert gate.reached.wait(DEADLINE_S)
        assert thread.ident is not None
        yield thread.ident
    finally:
        gate.opened.set()
        thread.join(DEADLINE_S)


def sampled(handler: object, code: Callable[[], object]) -> Blocked:
    """Give what a watchdog finds while ``code`` stands at the gate."""
    with standing(code) as thread_id:
        watched = Watched(handler, thread_id)
        watched.look(10.0)
        return watched.current()


def blame(handler: object, code: Callable[[], object]) -> tuple[str, str]:
    """Give whom a watchdog charges while ``code`` stands at the gate."""
    blocked = sampled(handler, code)
    return blocked.where, blocked.kind


# -- handlers --------------------------------------------------------------------------------------


class Blocking:
    """Stands at the gate in every method; a handler need not inherit from gevpy's."""

    def on_start(self, worker: Any) -> None:
        gate()

    def on_stop(self, worker: Any) -> None:
        gate()

    def on_connect(self, conn: Any) -> None:
        gate()

    def on_message(self, conn: Any, ctx: Any, data: Any) -> None:
        gate()

    def on_close(self, conn: Any, reason: Any) -> None:
        gate()

    def on_writable(self, conn: Any) -> None:
        gate()

    def on_drain(self, conn: Any) -> None:
        gate()


class Asynchronous(Blocking):
    """Has coroutines for methods, and blocks in what they call."""

    async def on_connect(self, conn: Any) -> None:  # type: ignore[override]
        await self._work()

    async def on_message(self, conn: Any, ctx: Any, data: Any) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        await self._work()

    async def _work(self) -> None:
        gate()


def traced(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method, as a decorator should; what is called "slow" waits in the wrapper."""

    @functools.wraps(method)
    def wrapper(*args: Any) -> Any:
        if "slow" in args:
            gate()
        return method(*args)

    return wrapper


def careless(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method without a trace of what is inside."""

    def wrapper(*args: Any) -> Any:
        return method(*args)

    return wrapper


class Decorated:
    """Has methods that were wrapped in all the ways."""

    @traced
    @traced
    def on_connect(self, conn: Any) -> None:
        gate()

    @traced
    def on_message(self, conn: Any, ctx: Any, data: Any) -> None:
        gate()

    @staticmethod
    def on_close(conn: Any, reason: Any) -> None:
        gate()

    @classmethod
    def on_drain(cls, conn: Any) -> None:
        gate()

    def _any(self, what: str, conn: Any) -> None:
        gate()

    on_writable = functools.partialmethod(_any, "writable")

    @careless
    def on_stop(self, worker: Any) -> None:
        gate()


HOOK_ARGUMENTS = {
    "on_start": 1,
    "on_stop": 1,
    "on_connect": 1,
    "on_close": 2,
    "on_writable": 1,
    "on_drain": 1,
}


@pytest.mark.parametrize("hook", HOOK_ARGUMENTS)
def test_each_method_is_charged_by_name(hook: str) -> None:
    """No message is handled there, so there is no kind."""
    handler = Blocking()
    code = functools.partial(getattr(handler, hook), *[None] * HOOK_ARGUMENTS[hook])
    assert blame(handler, code) == (hook, "")
    assert hook in PLACES


def test_a_message_is_charged_with_its_kind() -> None:
    """Without a ctx it is the type of the data."""
    handler = Blocking()
    assert blame(handler, lambda: handler.on_message(None, None, b"x")) == ("on_message", "bytes")


@pytest.mark.parametrize(("hook", "kind"), [("on_connect", ""), ("on_message", "ping")])
def test_coroutines_are_found(hook: str, kind: str) -> None:
    """Also after they have awaited, and inside of what they await."""
    handler = Asynchronous()
    arguments = (None, "ping", b"") if hook == "on_message" else (None,)
    assert blame(handler, lambda: asyncio.run(getattr(handler, hook)(*arguments))) == (hook, kind)


def test_inherited_methods_are_found() -> None:
    """Those of a base, and those that an override calls."""

    class Child(Blocking):
        def on_message(self, conn: Any, ctx: Any, data: Any) -> None:
            super().on_message(conn, f"child's {ctx}", data)

    handler = Child()
    assert blame(handler, lambda: handler.on_drain(None)) == ("on_drain", "")
    gate.close()
    assert blame(handler, lambda: handler.on_message(None, "ctx", b"")) == ("on_message", "child's ctx")


@pytest.mark.parametrize("hook", ["on_connect", "on_close", "on_drain", "on_writable", "on_stop"])
def test_decorated_methods_are_found(hook: str) -> None:
    """Wrapped once or twice, static, of the class, partial, or by a wrapper that hides them but is theirs alone."""
    handler = Decorated()
    arguments = [None] * HOOK_ARGUMENTS[hook]
    assert blame(handler, lambda: getattr(handler, hook)(*arguments)) == (hook, "")


@pytest.mark.parametrize(("hook", "arguments"), [("on_connect", ("slow",)), ("on_message", (None, "slow", b""))])
def test_a_wrapper_that_several_methods_share_is_told_apart(hook: str, arguments: tuple[Any, ...]) -> None:
    """All wrappers of one decorator have the same code; whom they hold tells which they are."""
    handler = Decorated()
    kind = "slow" if hook == "on_message" else ""
    assert blame(handler, lambda: getattr(handler, hook)(*arguments)) == (hook, kind)


def test_a_shared_wrapper_that_hides_its_method_is_other() -> None:
    """Nobody can be told, so nobody is charged by name."""

    class Hidden:
        @careless
        def on_connect(self, conn: Any) -> None:
            gate()

        @careless
        def on_message(self, conn: Any, ctx: Any, data: Any) -> None:
            gate()

    handler = Hidden()
    assert blame(handler, lambda: handler.on_connect(None)) == ("other", "")


def test_a_method_of_the_object_alone_is_found() -> None:
    """Assigned to the handler, not to its class."""
    handler = Blocking()
    handler.on_message = lambda conn, ctx, data: gate()  # type: ignore[method-assign]
    assert blame(handler, lambda: handler.on_message(None, 7, b"")) == ("on_message", "7")


def test_what_is_not_the_applications_is_other() -> None:
    """A task, a library, the loop itself, another handler."""
    assert blame(Decorated(), gate) == ("other", "")
    gate.close()
    assert blame(Decorated(), lambda: Blocking().on_connect(None)) == ("other", "")


def test_a_thread_that_has_ended_is_other() -> None:
    """There is no stack to look at."""
    watched = Watched(Blocking(), thread_id=0)
    watched.look(1.0)
    assert (watched.current().where, watched.current().stack) == ("other", "")


# -- protocols and timers --------------------------------------------------------------------------


class Codec(gevpy.LineProtocol):
    """Stands at the gate both ways."""

    def unpacket(self, conn: Any, buffer: Any) -> Any:
        gate()

    def packet(self, conn: Any, data: Any) -> bytes:
        gate()
        return b""


def test_a_protocol_is_charged_for_its_own() -> None:
    """Taking frames apart, there is no message yet."""
    assert blame(Blocking(), lambda: Codec().unpacket(None, None)) == ("unpacket", "")


def test_packing_inside_of_a_handler_is_the_protocols() -> None:
    """The innermost place counts, and the message that is handled is the one that waits."""

    class Sending(Blocking):
        def on_message(self, conn: Any, ctx: Any, data: Any) -> None:
            Codec().packet(conn, data)

    handler = Sending()
    assert blame(handler, lambda: handler.on_message(None, "chat", b"")) == ("packet", "chat")


def test_other_functions_of_those_names_are_no_protocols() -> None:
    """A helper that is called packet belongs to whoever calls it."""

    def packet(data: bytes) -> None:
        gate()

    def unpacket() -> None:
        packet(b"")

    class Helped(Blocking):
        def on_message(self, conn: Any, ctx: Any, data: Any) -> None:
            unpacket()

    handler = Helped()
    assert blame(handler, lambda: handler.on_message(None, None, "text")) == ("on_message", "str")


async def _late_callback() -> None:
    await asyncio.sleep(0)
    gate()


@pytest.mark.parametrize("callback", [gate, _late_callback], ids=["sync", "async"])
def test_timer_callbacks_are_charged_as_timers(callback: Callable[[], object]) -> None:
    """Plain ones and coroutines, these also after they have awaited."""

    async def main() -> None:
        ended = asyncio.Event()
        run_after(asyncio.get_running_loop(), 0, callback)
        run_after(asyncio.get_running_loop(), 0, asyncio.get_running_loop().create_future)
        run_after(asyncio.get_running_loop(), 0.001, ended.set)
        async with asyncio.timeout(DEADLINE_S):
            await ended.wait()

    assert blame(Blocking(), lambda: asyncio.run(main())) == ("timer", "")


def test_a_task_of_the_application_is_other() -> None:
    """It is neither a message nor a timer."""
    assert blame(Blocking(), lambda: asyncio.run(_late_callback())) == ("other", "")


# -- kinds -----------------------------------------------------------------------------------------


class Opcode(enum.IntEnum):
    """A codec's names for its messages."""

    LOGIN = 7


class Word(str):
    """A string that lies about itself."""

    __slots__ = ()

    def __str__(self) -> str:
        raise AssertionError


@pytest.mark.parametrize(
    ("ctx", "data", "kind"),
    [
        ("move", b"", "move"),
        pytest.param(Word("move"), b"", "move", id="liar"),
        (7, b"", "7"),
        (-1, b"", "-1"),
        (True, b"", "1"),
        (Opcode.LOGIN, b"", "LOGIN"),
        (gevpy.CloseKind.IDLE, b"", "IDLE"),
        pytest.param(1 << 100_000, b"", "int", id="huge"),
        ("", b"", "bytes"),
        (None, {"a": 1}, "dict"),
        ((1, 2), Opcode.LOGIN, "Opcode"),
        (1.5, None, "NoneType"),
        ("x" * 1000, b"", "x" * 64),
        ("a\r\n\x1b[31m\u202e", b"", "a\\r\\n\\x1b[31m\\u202e"),
        ("\0" * 1000, b"", ("\\x00" * 16)),
        ("\ud800", b"", "\\ud800"),
    ],
)
def test_the_kind_of_a_message(ctx: Any, data: Any, kind: str) -> None:
    """Strings, numbers and members by name, else the type of the data; short and printable, whoever chose it."""
    handler = Blocking()
    assert blame(handler, lambda: handler.on_message(None, ctx, data)) == ("on_message", kind)
    assert len(kind) <= 64
    assert kind.isprintable()


def _renamed(self: object, c: Any, what: Any, body: Any) -> None:
    gate()


def _gathered(self: object, *args: Any) -> None:
    gate()


def _half_gathered(self: object, conn: Any, *rest: Any, flag: bool = False) -> None:
    gate()


def _extended(self: object, conn: Any, ctx: Any, data: Any, extra: str = "mine") -> None:
    gate()


def _captured(self: object, conn: Any, ctx: Any, data: Any) -> None:
    def inner() -> Any:
        return ctx, data

    gate()
    inner()


@pytest.mark.parametrize("method", [_renamed, _gathered, _half_gathered, _extended, _captured])
def test_the_arguments_may_have_any_name(method: Callable[..., Any]) -> None:
    """The kind is found by name, or else by position."""
    handler = type("Named", (), {"on_message": method})()
    assert blame(handler, lambda: handler.on_message(None, "kind", b"")) == ("on_message", "kind")


def _bare() -> None:
    gate()


def test_arguments_that_are_gone_are_no_matter() -> None:
    """A method may have deleted them, or never had any."""

    class Deleting:
        def on_message(self, conn: Any, ctx: Any, data: Any) -> None:
            del ctx, data
            gate()

    handler = Deleting()
    assert blame(handler, lambda: handler.on_message(None, "kind", b"")) == ("on_message", "NoneType")
    gate.close()
    bare = type("Bare", (), {"on_message": staticmethod(_bare)})()
    assert blame(bare, bare.on_message) == ("on_message", "NoneType")


def test_a_type_that_fails_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    """It is looked at from another thread, and may do anything."""

    class Odd:
        @property  # type: ignore[misc]  # odd it is
        def __class__(self) -> Any:
            raise LookupError

    handler = Blocking()
    blocked = sampled(handler, lambda: handler.on_message(None, Odd(), b""))
    assert blocked.where == "other"
    assert "on_message" in blocked.stack
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


# -- the stack -------------------------------------------------------------------------------------


def test_the_stack_shows_the_blocking_line_and_no_values() -> None:
    """The innermost call comes last; what variables hold stays private."""
    handler = Blocking()
    blocked = sampled(handler, lambda: handler.on_message(None, None, b"very secret"))
    assert "in on_message\n    gate()" in blocked.stack
    assert blocked.stack.index("in on_message") < blocked.stack.index("in __call__")
    assert "very secret" not in blocked.stack.replace('b"very secret"', "")


@pytest.mark.parametrize("name", ["plain", "n" * 1000])
def test_a_deep_stack_is_cut(name: str) -> None:
    """At most 20 frames and 4 KiB are kept, those where it is blocked; the method is found beyond them."""
    names: dict[str, Any] = {"gate": gate}
    source = (
        f"def {name}(depth):\n    {name}_(depth)\ndef {name}_(depth):\n    {name}(depth - 1) if depth else gate()\n"
    )
    exec(compile(source, "nowhere", "exec"), names)  # noqa: S102 - the names are the test's

    class Deep(Blocking):
        def on_message(self, conn: Any, ctx: Any, data: Any) -> None:
            names[name](50)

    handler = Deep()
    blocked = sampled(handler, lambda: handler.on_message(None, "deep", b""))
    assert (blocked.where, blocked.kind) == ("on_message", "deep")
    assert blocked.stack.count("  File ") <= 20
    assert len(blocked.stack.encode()) <= 4096
    assert "in wait\n" in blocked.stack


# -- late or not -----------------------------------------------------------------------------------


def test_a_loop_that_turns_is_left_alone() -> None:
    """Up to the limit it isn't late; the next look comes in half of it, sooner if it would be late before."""
    watched = Watched()
    assert watched.look(0.05) == pytest.approx(0.125)
    assert watched.look(0.10, stamp=0.05) == pytest.approx(0.125)
    assert watched.look(0.27) == pytest.approx(0.03)
    assert watched.look(0.299) == pytest.approx(0.001)
    assert watched.dog.current() is None
    watched.look(0.35, stamp=0.3)
    assert watched.told == []
    assert watched.dog.seconds.totals() == {}


def test_a_block_is_reported_once_when_it_is_over() -> None:
    """With the seconds between the two turns, however late the look; the first sample decides."""
    handler = Blocking()
    with standing(lambda: handler.on_message(None, "first", b"")) as thread_id:
        watched = Watched(handler, thread_id)
        watched.look(0.05, stamp=0.04)
        assert watched.look(0.30) == pytest.approx(0.05)
        assert watched.current().where == "on_message"
    for at in (0.4, 0.9, 1.4):
        watched.look(at)  # the thread has ended: a second sample would show nothing
    assert watched.told == []
    watched.look(1.49, stamp=1.44)
    assert watched.dog.current() is None
    watched.look(1.60, stamp=1.55)
    (blocked,) = watched.told
    assert (blocked.where, blocked.kind, blocked.charged) == ("on_message", "first", True)
    assert blocked.seconds == pytest.approx(1.40)
    assert "in on_message" in blocked.stack
    assert watched.dog.seconds.totals() == {("on_message", "first"): pytest.approx(1.40)}


def test_blocks_in_a_row_are_reported_each() -> None:
    """Between them the loop turned once, and may be late again already at the next look."""
    watched = Watched()
    watched.look(1.0)
    watched.look(2.0, stamp=1.5)
    watched.look(2.1)
    assert len(watched.told) == 1
    watched.look(3.0, stamp=2.75)
    assert [blocked.seconds for blocked in watched.told] == [pytest.approx(1.5), pytest.approx(1.25)]
    assert watched.dog.seconds.totals() == {("other", ""): pytest.approx(2.75)}


def test_a_loop_that_never_turned_counts_from_the_start() -> None:
    """A stamp of long ago, or none yet, doesn't make it late; a long on_start does."""
    watched = Watched()
    watched.stamp.at = 0.0
    watched.dog._begin(START)
    watched.look(0.2)
    assert watched.dog.current() is None
    watched.look(0.3)
    assert watched.dog.current() is not None
    watched.look(2.1, stamp=2.0)
    assert watched.told[0].seconds == pytest.approx(2.0)


def test_a_loop_that_is_back_while_it_is_sampled_is_not_charged() -> None:
    """The sample shows what it does by then, not what made it late."""
    watched = Watched()
    asked: list[None] = []

    def turn_at_second_question() -> None:
        asked.append(None)
        if len(asked) == 2:
            watched.stamp.at = START + 0.31

    watched.stamp.asked = turn_at_second_question
    watched.look(0.3)
    assert watched.dog.current() is None
    watched.look(0.35)
    assert watched.told == []


def test_current_counts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on is told with its seconds so far, to any thread."""
    watched = Watched()
    watched.look(0.3)
    for after in (0.3, 31.0):
        monkeypatch.setattr("gevpy.watchdog.monotonic", lambda after=after: START + after)
        assert watched.current().seconds == pytest.approx(after)
    assert "test_current_counts_on" in watched.current().stack


# -- a process that does not run -------------------------------------------------------------------


def test_a_stopped_process_is_nobodys_fault() -> None:
    """It is reported with a note, and not charged; the loop gets its time to turn before it is late."""
    watched = Watched()
    watched.look(0.05, stamp=0.04)
    watched.look(60.05, stood=59.95)
    (blocked,) = watched.told
    assert (blocked.where, blocked.kind, blocked.charged) == ("other", "", False)
    assert blocked.seconds == pytest.approx(59.95)
    assert "the process itself was not running" in blocked.stack
    assert watched.dog.current() is None
    watched.look(60.10, stamp=60.06)
    watched.look(60.15, stamp=60.11)
    assert len(watched.told) == 1
    assert watched.dog.seconds.totals() == {}


def test_a_stopped_process_whose_loop_turned_first_is_nobodys_fault() -> None:
    """The loop may stamp between the last look and the stop, or be back before the watchdog is."""
    for stamp in (0.06, 60.01):
        watched = Watched()
        watched.look(0.05, stamp=0.04)
        watched.look(60.02, stamp=stamp, stood=59.9)
        assert [blocked.charged for blocked in watched.told] == [False]
        assert watched.dog.current() is None


def test_a_short_stop_is_not_worth_a_word() -> None:
    """It only isn't charged."""
    watched = Watched()
    watched.look(0.35, stood=0.2)
    assert watched.dog.current() is None
    assert watched.told == []


def test_a_block_is_sampled_before_a_stop_is_told_of() -> None:
    """Telling takes time, in which the loop may go on: who blocked it besides would get away."""
    watched = Watched()
    seen: list[Blocked | None] = []
    watched.dog._on_blocked = lambda blocked: seen.append(watched.dog.current())
    watched.look(61.0, stood=59.0)
    (blocked,) = seen
    assert blocked is not None
    watched.look(61.5, stamp=61.4)
    assert watched.dog.seconds.totals() == {("other", ""): pytest.approx(2.4)}


@pytest.mark.parametrize("back", [False, True], ids=["then_goes_on", "then_is_over"])
def test_a_stop_inside_of_a_block_is_taken_off(back: bool) -> None:
    """The method is charged for its own seconds only, in one report."""
    watched = Watched()
    watched.look(0.5)
    if not back:
        watched.look(60.5, stood=59.95)
        watched.look(61.0)
    watched.look(61.05, stamp=61.0, stood=59.95 if back else 0.0)
    (blocked,) = watched.told
    assert blocked.charged
    assert blocked.seconds == pytest.approx(1.05)


class Waits:
    """Stands in for the Event the watchdog waits on: each wait takes as long as it is told.

    Attributes:
        now, cpu: the clocks.
    """

    def __init__(self, *steps: tuple[float, float]) -> None:
        """Take, for each wait, how much too long it is and what the process computes meanwhile."""
        self.now = START
        self.cpu = 5.0
        self._steps = list(steps)

    def wait(self, timeout: float) -> bool:
        """Let the time of one wait pass; True, the end, after the last."""
        if not self._steps:
            return True
        late, cpu = self._steps.pop(0)
        self.now += timeout + late
        self.cpu += cpu
        return False


def watch(monkeypatch: pytest.MonkeyPatch, *steps: tuple[float, float]) -> list[Blocked]:
    """Run a watchdog's thread function over such waits, beside a loop that never turns, and give what it tells."""
    waits = Waits(*steps)
    monkeypatch.setattr("gevpy.watchdog.monotonic", lambda: waits.now)
    monkeypatch.setattr("gevpy.watchdog.process_time", lambda: waits.cpu)
    watched = Watched()
    monkeypatch.setattr(watched.dog, "_done", waits)
    watched.dog._watch()
    return watched.told


def test_a_wait_that_is_late_while_nobody_computes_was_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such is a SIGSTOP, seen from inside."""
    (blocked,) = watch(monkeypatch, (7.0, 0.12))
    assert not blocked.charged
    assert blocked.seconds == pytest.approx(7.0)


def test_a_wait_that_is_late_while_the_process_computes_was_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such is C code that never lets go of the interpreter."""
    (blocked,) = watch(monkeypatch, (0.0, 0.0), (7.0, 7.125))
    assert blocked.charged
    assert blocked.seconds == pytest.approx(7.25)


def test_waits_that_end_a_little_late_cost_nobody_a_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler is never quite in time: the block is charged in full."""
    (blocked,) = watch(monkeypatch, *[(0.002, 0.0)] * 100)
    assert blocked.charged
    assert blocked.seconds == pytest.approx(0.252 + 98 * 0.052)


# -- what is logged --------------------------------------------------------------------------------


def test_one_warning_tells_it_all(caplog: pytest.LogCaptureFixture) -> None:
    """The seconds, the method, the kind and the stack; of one place, one line in 5 s."""
    handler = Blocking()
    with standing(lambda: handler.on_message(None, "a\nb", b"")) as thread_id:
        watched = Watched(handler, thread_id)
        for turn in range(3):
            watched.look(2.0 * turn + 1.0)
            watched.look(2.0 * turn + 2.0, stamp=2.0 * turn + 1.2)
            watched.look(2.0 * turn + 2.0, stamp=2.0 * turn + 2.0)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("gevpy.watchdog", logging.WARNING)
    first, _, rest = record.getMessage().partition("\n")
    assert first == "the loop was blocked for 1.2 s in Blocking.on_message (kind a\\nb)"
    assert "in on_message\n    gate()" in rest


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (lambda: Codec().unpacket(None, None), "in the protocol's unpacket"),
        (gate, "outside of the handler's methods"),
    ],
    ids=["protocol", "other"],
)
def test_other_places_have_words_too(caplog: pytest.LogCaptureFixture, code: Callable[[], object], text: str) -> None:
    """Each place has a line of its own."""
    with standing(code) as thread_id:
        watched = Watched(Blocking(), thread_id)
        watched.look(1.0)
    watched.look(1.1, stamp=1.0)
    assert caplog.messages[0].startswith(f"the loop was blocked for 1.0 s {text}\n  File ")


def test_a_loop_that_hangs_is_logged_before_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    """Without a supervisor nobody else would tell; once, after 5 s, and again when it is over."""
    handler = Blocking()
    with standing(lambda: handler.on_connect(None)) as thread_id:
        watched = Watched(handler, thread_id)
        for tenth in range(3, 80):
            watched.look(tenth / 10)
    (text,) = caplog.messages
    assert text.startswith("the loop is blocked, for 5.0 s so far, in Blocking.on_connect\n  File ")
    watched.look(8.1, stamp=8.0)
    assert caplog.messages[1].startswith("the loop was blocked for 8.0 s in Blocking.on_connect\n  File ")


def test_a_stop_of_the_process_is_logged_as_such(caplog: pytest.LogCaptureFixture) -> None:
    """So that nobody looks for a culprit."""
    Watched().look(9.1, stood=9.0)
    (text,) = caplog.messages
    assert text.startswith("the loop stood still for 9.0 s: the process itself was not running")


def test_who_is_told_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """The watch goes on, and the error is in the log."""

    def fail(blocked: Blocked) -> None:
        raise LookupError

    watched = Watched()
    watched.dog._on_blocked = fail
    watched.look(1.0)
    watched.look(1.1, stamp=1.0)
    assert caplog.records[0].levelno == logging.ERROR
    assert watched.dog.seconds.totals() == {("other", ""): pytest.approx(1.0)}


# -- what is charged -------------------------------------------------------------------------------


def test_seconds_add_up() -> None:
    """By place and kind; the totals are a copy."""
    seconds = BlockedSeconds()
    seconds.add("on_message", "a", 1.0)
    seconds.add("on_message", "a", 0.5)
    seconds.add("on_close", "", 0.25)
    totals = seconds.totals()
    assert totals == {("on_message", "a"): 1.5, ("on_close", ""): 0.25}
    totals.clear()
    assert seconds.totals()


def test_kinds_are_few() -> None:
    """After 32, every new one is "other", whatever peers invent; those known keep their name."""
    seconds = BlockedSeconds()
    for number in range(1000):
        seconds.add("on_message", f"kind {number}", 1.0)
    seconds.add("packet", "kind 31", 1.0)
    seconds.add("timer", "", 1.0)
    totals = seconds.totals()
    assert len({kind for _, kind in totals}) == 34
    assert totals["on_message", "kind 31"] == 1.0
    assert totals["on_message", "other"] == 968.0
    assert totals["packet", "kind 31"] == 1.0
    assert totals["timer", ""] == 1.0


def test_reports_have_the_bounded_kind() -> None:
    """What is told and what is charged bear the same labels."""
    handler = Blocking()
    with standing(lambda: handler.on_message(None, "late", b"")) as thread_id:
        watched = Watched(handler, thread_id)
        for number in range(32):
            watched.dog.seconds.admit(str(number))
        watched.look(1.0)
    assert watched.current().kind == "other"


def test_any_thread_may_read() -> None:
    """While others add: nothing is lost, and no reader fails."""
    seconds = BlockedSeconds()

    def add(place: str) -> None:
        for number in range(2000):
            seconds.add(place, str(number % 40), 1.0)

    writers = [threading.Thread(target=add, args=(place,)) for place in PLACES[:4]]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        sum(seconds.totals().values())
    assert sum(seconds.totals().values()) == 8000.0


# -- the thread ------------------------------------------------------------------------------------


class Reports:
    """Collects what is told, for a test to wait for.

    Attributes:
        told: what was told.
        came: set by each report.
    """

    def __init__(self) -> None:
        self.told: list[Blocked] = []
        self.came = threading.Event()

    def __call__(self, blocked: Blocked) -> None:
        """Take a report."""
        if blocked.charged:  # a busy machine may really have had no time for us
            self.told.append(blocked)
            self.came.set()


def seen_by(watchdog: Watchdog) -> Blocked:
    """Wait until the watchdog sees the loop blocked."""
    pause = threading.Event()
    deadline = time.monotonic() + DEADLINE_S
    while (blocked := watchdog.current()) is None and time.monotonic() < deadline:
        pause.wait(0.002)  # what is waited for is state, which signals no event
    assert blocked is not None
    return blocked


def test_the_thread_reports_a_block() -> None:
    """From the stamp's standing still to its moving on."""
    handler, stamp, reports = Blocking(), Stamp(time.monotonic()), Reports()
    with standing(lambda: handler.on_message(None, "real", b"")) as thread_id:
        dog = Watchdog(handler, stamp=stamp, thread_id=thread_id, late_s=0.05, on_blocked=reports)
        dog.start()
        assert (seen_by(dog).where, seen_by(dog).kind) == ("on_message", "real")
        stamp.at = time.monotonic()
        assert reports.came.wait(DEADLINE_S)
        dog.stop()
    assert reports.told[0].where == "on_message"
    assert reports.told[0].seconds >= 0.05


def test_a_watchdog_stops_at_once_and_for_good() -> None:
    """Its thread is a daemon, has ended when stop returns, and stop may come again, or alone."""
    dog = Watchdog(None, stamp=time.monotonic, thread_id=0, on_blocked=print)
    dog.stop()
    dog = Watchdog(None, stamp=time.monotonic, thread_id=0, on_blocked=print)
    before = set(threading.enumerate())
    dog.start()
    (thread,) = (each for each in threading.enumerate() if each not in before)
    assert (thread.name, thread.daemon) == ("gevpy watchdog", True)
    with pytest.raises(RuntimeError):
        dog.start()
    dog.stop()
    dog.stop()
    assert not thread.is_alive()


def test_a_block_that_goes_on_at_the_stop_is_reported() -> None:
    """A loop that ends right after it was blocked never turns again, and nothing is lost by that."""
    stamp, reports = Stamp(time.monotonic()), Reports()
    dog = Watchdog(None, stamp=stamp, thread_id=threading.get_ident(), late_s=0.05, on_blocked=reports)
    dog.start()
    seen_by(dog)
    dog.stop()
    assert len(reports.told) == 1
    assert dog.current() is None


def test_who_is_told_may_stop_the_watchdog() -> None:
    """It is in the watchdog's thread then, which can't wait for itself."""
    stamp, ended = Stamp(time.monotonic()), threading.Event()

    def stop(blocked: Blocked) -> None:
        dog.stop()
        ended.set()

    dog = Watchdog(None, stamp=stamp, thread_id=threading.get_ident(), late_s=0.05, on_blocked=stop)
    dog.start()
    seen_by(dog)
    stamp.at = time.monotonic()
    assert ended.wait(DEADLINE_S)
    dog.stop()
    assert not dog._thread.is_alive()


# -- real loops ------------------------------------------------------------------------------------


class Serving(gevpy.Handler):
    """Blocks the loop while it handles ``wait``."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> bytes:
        if data == b"wait":
            gate()
        return data


class ServingLater(gevpy.Handler):
    """Does the same in a coroutine, after it was suspended."""

    async def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> bytes:
        await asyncio.sleep(0)
        if data == b"wait":
            gate()
        return data


class Slow(gevpy.LineProtocol):
    """Blocks the loop while it packs ``pack``."""

    def packet(self, conn: Any, data: Any) -> bytes:
        if data == b"pack":
            gate()
        return bytes(super().packet(conn, data))


@contextmanager
def watching(handler: object, reports: Reports) -> Iterator[Watchdog]:
    """Watch the running loop, which stamps as the reactor does."""
    stamp = Stamp(time.monotonic())

    def turn() -> None:
        stamp.at = time.monotonic()

    turning = run_every(asyncio.get_running_loop(), 0.05, turn)
    dog = Watchdog(handler, stamp=stamp, thread_id=threading.get_ident(), on_blocked=reports)
    dog.start()
    try:
        yield dog
    finally:
        turning.stop()
        dog.stop()


def release_once_seen(dog: Watchdog) -> Blocked:
    """Open the gate as soon as the watchdog has seen the loop blocked, and give what it saw."""
    try:
        assert gate.reached.wait(DEADLINE_S)
        return seen_by(dog)
    finally:
        gate.opened.set()


async def blocked_by(dog: Watchdog, client: Client, message: bytes) -> Blocked:
    """Let a message block the loop, and give what the watchdog sees; again, where a busy machine made it late first."""
    for _ in range(5):
        gate.close()
        seen = asyncio.get_running_loop().run_in_executor(None, release_once_seen, dog)
        await client.send(b"hello\n" + message + b"\n")
        assert await client.read(len(message) + 7) == b"hello\n" + message + b"\n"
        blocked = await soon(seen)
        if blocked.where != "other":
            break
        await until(lambda: dog.current() is None)
    return blocked


@pytest.mark.parametrize(
    ("handler", "message", "where"),
    [(Serving(), b"wait", "on_message"), (ServingLater(), b"wait", "on_message"), (Serving(), b"pack", "packet")],
    ids=["sync", "async", "packet"],
)
async def test_a_served_message_is_charged(handler: gevpy.Handler, message: bytes, where: str) -> None:
    """In a running server, compiled or pure, on either loop."""
    reports = Reports()
    async with connected(handler, protocol=Slow()) as (_, client):
        with watching(handler, reports) as dog:
            seen = await blocked_by(dog, client, message)
            await until(lambda: any(told.where == where for told in reports.told))
    assert seen.where == where
    assert "in __call__" in seen.stack
    assert dog.seconds.totals()[where, seen.kind] >= LATE_S
