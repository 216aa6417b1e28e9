"""Idle eviction: between T and T plus one tick, never early, and only for want of what the option says."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gevpy import CloseKind
from tests.serving import (
    MORE_THAN_THE_KERNEL_TAKES,
    Client,
    Recorder,
    connected,
    recording,
    serving,
    soon,
    stalled,
    turns,
)

if TYPE_CHECKING:
    from gevpy import CloseReason, Connection

TICK_S = 0.1
GRACE_S = 0.03  # of the clocks, and of one turn of the loop


class Delay:
    """Measures how late the loop's timers come, in all: the "loop delay" of the contract."""

    STEP_S = 0.01

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.total_s = 0.0
        self._due = self._loop.time() + self.STEP_S
        self._handle = self._loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        now = self._loop.time()
        self.total_s += now - self._due
        self._due = now + self.STEP_S
        self._handle = self._loop.call_at(self._due, self._beat)

    def stop(self) -> None:
        self._handle.cancel()


@pytest.fixture
async def delay() -> Any:
    """Measure while the test runs."""
    measured = Delay()
    yield measured
    measured.stop()


def block(seconds: float) -> None:
    """Block the loop, as a handler does that computes for too long."""
    time.sleep(seconds)


def _timed(**hooks: Any) -> tuple[Recorder, asyncio.Queue[tuple[float, CloseReason]]]:
    """Give a handler, and a queue of when and why its connections closed."""
    ends: asyncio.Queue[tuple[float, CloseReason]] = asyncio.Queue()

    def on_close(conn: Connection, reason: CloseReason) -> None:
        ends.put_nowait((asyncio.get_running_loop().time(), reason))

    return recording(on_close=on_close, **hooks), ends


@pytest.mark.parametrize("idle_s", [0.1, 0.25, 0.3])
async def test_a_silent_connection_is_evicted_in_time(idle_s: float, delay: Delay) -> None:
    """Between T (rounded up to whole ticks) and T + one tick, plus loop delay; the peer sees a FIN."""
    handler, ends = _timed()
    whole = round(-(-idle_s // TICK_S) * TICK_S, 1)
    async with serving(handler, idle_timeout_s=idle_s) as server:
        begun = asyncio.get_running_loop().time()
        async with await Client.connect(server.addresses[0]) as client:
            assert await client.read_to_end() == b""
            ended, reason = await soon(ends.get())
            assert reason.kind is CloseKind.IDLE
            assert reason.error is None
            late = delay.total_s + GRACE_S
            assert idle_s <= ended - begun <= whole + TICK_S + late


@pytest.mark.parametrize(
    ("refresh", "moving", "lives"),
    [
        ("both", "read", True),
        ("both", "write", True),
        ("read", "read", True),
        ("read", "write", False),
        ("write", "read", False),
        ("write", "write", True),
    ],
)
async def test_what_refreshes_is_what_the_option_says(*, refresh: str, moving: str, lives: bool) -> None:
    """Bytes that come, bytes that leave, or either."""
    handler, ends = _timed()
    async with connected(handler, idle_timeout_s=0.2, idle_refresh=refresh) as (_, client):
        conn = await handler.conn()

        def move() -> None:
            if not conn.connected:
                return
            if moving == "read":
                client.sock.send(b"x")
            else:
                conn.send(b"x")

        timer = conn.worker.run_every(0.05, move)
        if lives:
            over = asyncio.Event()
            conn.worker.run_after(0.5, over.set)
            await soon(over.wait())
            assert conn.connected
            assert ends.empty()
            timer.stop()  # else it goes on, and puts nothing off
        assert (await soon(ends.get()))[1].kind is CloseKind.IDLE


async def test_a_part_frame_is_no_idleness_until_it_stops(delay: Delay) -> None:
    """Time counts from the last byte, not from the last message or the first."""
    handler, ends = _timed()
    async with connected(handler, idle_timeout_s=0.2) as (_, client):
        conn = await handler.conn()
        last = 0.0
        beats = asyncio.Semaphore(0)
        timer = conn.worker.run_every(0.05, beats.release)
        for _ in range(8):
            await soon(beats.acquire())
            last = asyncio.get_running_loop().time()
            await client.send(b"x")
        timer.stop()
        ended, _ = await soon(ends.get())
        assert 0.2 - 0.001 <= ended - last <= 0.2 + TICK_S + delay.total_s + GRACE_S


async def test_none_turns_it_off() -> None:
    """A silent connection is left alone; one of a server beside it is evicted meanwhile."""
    patient, ends = _timed()
    impatient, impatient_ends = _timed()
    async with connected(patient, idle_timeout_s=None), connected(impatient, idle_timeout_s=0.2):
        conn = await patient.conn()
        await soon(impatient_ends.get())
        await turns(20)
        assert conn.connected
        assert ends.empty()


async def test_a_blocked_loop_never_evicts_early() -> None:
    """However long the loop was blocked, it counts as one tick of idle time."""
    handler, ends = _timed()
    async with connected(handler, idle_timeout_s=0.3) as (_, client):
        conn = await handler.conn()
        await client.send(b"x")
        await handler.message()
        block(0.7)  # more than two timeouts long
        freed = asyncio.get_running_loop().time()
        await turns(5)
        assert conn.connected
        ended, reason = await soon(ends.get())
        assert reason.kind is CloseKind.IDLE
        assert ended - freed >= 0.3 - TICK_S - 0.001


async def test_a_loop_blocked_again_and_again_never_evicts_a_busy_peer() -> None:
    """The peer talks every 50 ms; that we don't listen for 400 ms at a time is not its fault."""
    handler, ends = _timed()
    async with connected(handler, idle_timeout_s=0.2) as (_, client):
        conn = await handler.conn()
        stop = threading.Event()

        def talk() -> None:
            while not stop.wait(0.05):
                client.sock.send(b"x")

        thread = threading.Thread(target=talk)
        thread.start()
        try:
            for _ in range(3):
                block(0.4)
                await turns(3)
            await handler.message()
            assert conn.connected
            assert ends.empty()
        finally:
            stop.set()
            thread.join()


async def test_a_message_that_came_while_the_loop_was_blocked_is_handled() -> None:
    """Bytes that wait in the kernel count: the sockets are looked at before the wheel."""
    handler, ends = _timed()
    async with connected(handler, idle_timeout_s=0.1) as (_, client):
        conn = await handler.conn()
        for _ in range(3):
            client.sock.send(b"x")
            block(0.25)
            assert await handler.message() == b"x"
            assert conn.connected
        assert ends.empty()


async def test_an_idle_peer_that_does_not_read_is_aborted() -> None:
    """Output that doesn't leave is no activity, and no reason to wait for a flush."""
    handler, ends = _timed()
    async with stalled(handler, idle_timeout_s=0.2) as (_, _client, conn):
        conn.send(bytes(MORE_THAN_THE_KERNEL_TAKES))
        _, reason = await soon(ends.get())
        assert reason.kind is CloseKind.IDLE
