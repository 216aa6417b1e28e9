"""Pings: when they are sent, what answers them, and when nobody answered; by a connection that only notes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gevpy import CloseKind, ConfigError, ConnectionClosed
from gevpy.closing import CloseReason
from gevpy.testing import ManualLoop
from gevpy.ticks import ticks_for
from gevpy.websocket.frames import frame
from gevpy.websocket.pings import Pings
from gevpy.websocket.session import Session
from tests.websocket.wire import parse

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

INTERVAL, TIMEOUT = ticks_for(20.0), ticks_for(10.0)


class NotingConnection:
    """Stands for a connection: notes the pings' payloads, and why it is closed."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed: list[tuple[CloseKind, BaseException | None]] = []
        self.is_held = False
        self.is_sending = False
        self.reactor = self
        self.loop = ManualLoop()

    def send_ahead(self, data: bytes) -> None:
        (seen,) = parse(data)
        assert seen.first == 0x89
        self.sent.append(seen.payload)

    def begin_close(self, kind: CloseKind, error: BaseException | None = None) -> None:
        self.closed.append((kind, error))


def begun(interval_s: float | None = 20.0, timeout_s: float | None = 10.0) -> tuple[Pings, NotingConnection, Session]:
    """Give pings of a connection that opened at tick 100."""
    pings, session = Pings(interval_s, timeout_s), Session(False, 1000)
    pings.begin(session, 100)
    return pings, NotingConnection(), session


def run(loop: ManualLoop, work: Coroutine[Any, Any, float]) -> asyncio.Task[float]:
    """Begin, and let it come as far as it can."""
    task = loop.create_task(work)
    loop.settle()
    return task


def test_jitter() -> None:
    """Who connected in one moment doesn't ping in one moment: a tenth either way, and all of that."""
    pings = Pings(20.0, 10.0)
    ticks = []
    for _ in range(1000):
        session = Session(False, 1000)
        pings.begin(session, 100)
        ticks.append(session.ping_tick - 100)
    assert ticks_for(18.0) <= min(ticks) < ticks_for(18.5)
    assert ticks_for(21.5) < max(ticks) <= ticks_for(22.0)
    assert len(set(ticks)) > 20


def test_a_ping_when_it_is_due() -> None:
    """Not before; then the next one is planned, and the answer expected."""
    pings, conn, session = begun()
    first = session.ping_tick
    assert pings.next_tick(session) == first
    pings.due(conn, session, first - 1, frame)
    assert conn.sent == []
    pings.due(conn, session, first, frame)
    assert [len(payload) for payload in conn.sent] == [8]
    assert session.pong_tick == first + TIMEOUT
    assert session.ping_tick > first
    assert pings.next_tick(session) == min(session.ping_tick, session.pong_tick)


def test_payloads_cannot_be_guessed() -> None:
    """A pong without its ping counts for nothing."""
    pings, conn, session = begun()
    for _ in range(100):
        pings.due(conn, session, session.ping_tick, frame)
        Pings.take_pong(session, conn.sent[-1])
    assert len(set(conn.sent)) == 100
    assert session.pings is None


def test_a_pong_in_time() -> None:
    """Nothing is expected until the next ping."""
    pings, conn, session = begun()
    pings.due(conn, session, session.ping_tick, frame)
    Pings.take_pong(session, conn.sent[0])
    assert session.pong_tick == -1
    assert session.pings is None
    assert pings.next_tick(session) == session.ping_tick


@pytest.mark.parametrize("payload", [b"", b"unasked", bytes(8)])
def test_a_pong_nobody_waits_for(payload: bytes) -> None:
    """RFC 6455 section 5.5.3 allows it; it answers nothing."""
    pings, conn, session = begun()
    Pings.take_pong(session, payload)
    pings.due(conn, session, session.ping_tick, frame)
    Pings.take_pong(session, payload)
    assert session.pong_tick >= 0
    assert session.pings is not None
    assert conn.closed == []


def test_no_pong_in_time() -> None:
    """The connection ends, with an error that says so."""
    pings, conn, session = begun()
    pings.due(conn, session, session.ping_tick, frame)
    due = session.pong_tick
    pings.due(conn, session, due - 1, frame)
    assert conn.closed == []
    pings.due(conn, session, due, frame)
    ((kind, error),) = conn.closed
    assert kind is CloseKind.PING_TIMEOUT
    assert isinstance(error, TimeoutError)
    assert "10" in str(error)


@pytest.mark.parametrize("cause", ["is_held", "is_sending"])
def test_our_own_slowness_is_not_the_peers(cause: str) -> None:
    """While we don't read, or output waits before the ping, the time stands; then it begins anew."""
    pings, conn, session = begun()
    pings.due(conn, session, session.ping_tick, frame)
    setattr(conn, cause, True)
    for _ in range(5):
        now = session.pong_tick
        pings.due(conn, session, now, frame)
        assert conn.closed == []
        assert session.pong_tick == now + TIMEOUT
    setattr(conn, cause, False)
    pings.due(conn, session, session.pong_tick - 1, frame)
    assert conn.closed == []
    pings.due(conn, session, session.pong_tick, frame)
    assert [kind for kind, _ in conn.closed] == [CloseKind.PING_TIMEOUT]


def test_further_pings_give_no_more_time() -> None:
    """With a timeout longer than the interval, the first answer that is missing counts."""
    pings, conn, session = begun(interval_s=1.0, timeout_s=10.0)
    first = session.ping_tick
    pings.due(conn, session, first, frame)
    for _ in range(5):
        pings.due(conn, session, session.ping_tick, frame)
    assert len(conn.sent) == 6
    assert session.pong_tick == first + TIMEOUT
    Pings.take_pong(session, conn.sent[-1])
    assert session.pings is None, "a pong answers the pings before it, too"
    assert session.pong_tick == -1


def test_none_turns_them_off() -> None:
    """No pings, or no end of patience."""
    pings, conn, session = begun(interval_s=None)
    assert (session.ping_tick, pings.next_tick(session)) == (-1, -1)
    pings.due(conn, session, 10**6, frame)
    assert conn.sent == []
    pings, conn, session = begun(timeout_s=None)
    for _ in range(3):
        pings.due(conn, session, session.ping_tick, frame)
    assert len(conn.sent) == 3
    assert session.pong_tick == -1
    assert conn.closed == []


def test_pings_that_nobody_answers_are_not_kept_for_ever() -> None:
    """Without a timeout, too: what is kept of each connection is bounded."""
    pings, conn, session = begun(timeout_s=None)
    for _ in range(10_000):
        pings.due(conn, session, session.ping_tick, frame)
    assert len(session.pings or ()) <= 100


@pytest.mark.parametrize("name", ["ping_interval_s", "ping_timeout_s"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), "20", True])
def test_times_that_cannot_be(name: str, value: Any) -> None:
    """The error names the option."""
    times = {"interval_s": 1.0, "timeout_s": 1.0} | {name.removeprefix("ping_"): value}
    with pytest.raises(ConfigError, match=name):
        Pings(**times)


# -- asking ----------------------------------------------------------------------------------------


def test_the_seconds_until_the_pong() -> None:
    """Who asks learns them; several may ask at once, and a pong answers those before it."""
    pings, conn, session = begun()
    one, two, three = (run(conn.loop, pings.ask(conn, session, frame)) for _ in range(3))
    assert len(set(conn.sent)) == 3
    Pings.take_pong(session, conn.sent[1])
    conn.loop.settle()
    assert one.done()
    assert two.done()
    assert not three.done()
    assert 0 <= two.result() <= one.result() < 60
    Pings.take_pong(session, conn.sent[2])
    conn.loop.settle()
    assert three.done()
    assert session.pings is None


def test_asking_is_not_a_sign_of_life_expected() -> None:
    """A ping of the application's has no timeout of ours, and its pong ends no other wait."""
    pings, conn, session = begun()
    task = run(conn.loop, pings.ask(conn, session, frame))
    assert session.pong_tick == -1
    pings.due(conn, session, session.ping_tick, frame)
    expected = session.pong_tick
    Pings.take_pong(session, conn.sent[0])
    conn.loop.settle()
    assert task.done()
    assert session.pong_tick == expected


def test_who_stops_waiting_leaves_nothing_behind() -> None:
    """Cancelled, by a timeout of the application's for example; the pong may still come."""
    pings, conn, session = begun()
    task = run(conn.loop, pings.ask(conn, session, frame))
    task.cancel()
    conn.loop.settle()
    assert task.cancelled()
    assert not session.pings
    Pings.take_pong(session, conn.sent[0])


def test_the_end_fails_who_waits() -> None:
    """With the reason; and once more does nothing."""
    pings, conn, session = begun()
    pings.due(conn, session, session.ping_tick, frame)
    task = run(conn.loop, pings.ask(conn, session, frame))
    error = ConnectionClosed(CloseReason(CloseKind.PEER_RESET))
    Pings.end(session, error)
    conn.loop.settle()
    assert task.exception() is error
    assert session.pings is None
    Pings.end(session, error)
