"""Stopping by signal: only while a server serves, only in the main thread, restored afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind
from tests.serving import (
    DEADLINE_S,
    MORE_THAN_THE_KERNEL_TAKES,
    Client,
    Recorder,
    recording,
    serving,
    short_path,
    soon,
    stalled,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gevpy import Worker

STOPPING = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def caught() -> Iterator[list[int]]:
    """Handle both signals in a way that can be told from every default."""
    numbers: list[int] = []

    def handle(number: int, frame: Any) -> None:
        numbers.append(number)

    before = {number: signal.signal(number, handle) for number in STOPPING}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@asynccontextmanager
async def awaited(handler: Recorder, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run ``await gevpy.serve(...)`` beside the test, once it serves."""
    started = asyncio.Event()

    def on_start(worker: Worker) -> None:
        started.set()

    type(handler).on_start = staticmethod(on_start)  # type: ignore[method-assign,assignment]

    async def run() -> None:
        await gevpy.serve(handler, **options)

    task = asyncio.create_task(run())
    await soon(started.wait())
    await turns(5)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=DEADLINE_S)


@pytest.mark.parametrize("number", STOPPING)
async def test_a_signal_stops_serve_which_returns_after_the_drain(caught: list[int], number: int) -> None:
    """SIGINT and SIGTERM alike; what handled them before does so again afterwards."""
    before = [signal.getsignal(number) for number in STOPPING]
    handler = recording()
    with short_path() as path:
        async with awaited(handler, path=path) as task, await Client.connect(str(path)) as client:
            (await handler.conn()).send(b"last words")
            os.kill(os.getpid(), number)
            assert await client.read_to_end() == b"last words"
            await soon(task)
            assert not path.exists()
    assert (await handler.reason()).kind is CloseKind.DRAINED
    assert caught == []
    assert [signal.getsignal(number) for number in STOPPING] == before
    os.kill(os.getpid(), number)
    await turns(3)
    assert caught == [number]


async def test_a_second_signal_stops_at_once(caught: list[int]) -> None:
    """The drain's patience has ended: what doesn't flush is aborted."""
    handler = recording()
    async with stalled(handler, timeouts=gevpy.Timeouts(drain_s=30)) as (server, _client, conn):
        conn.send(bytes(MORE_THAN_THE_KERNEL_TAKES))
        task = asyncio.create_task(server.serve_forever())
        await turns(3)
        os.kill(os.getpid(), signal.SIGTERM)
        await turns(100)
        assert not task.done()
        os.kill(os.getpid(), signal.SIGINT)
        await soon(task)
        reason = await handler.reason()
        assert reason.kind is CloseKind.DRAINED
        assert reason.error is not None
    assert caught == []


async def test_a_running_server_alone_installs_nothing(caught: list[int]) -> None:
    """``async with serve()`` leaves the signals alone; only serve_forever takes them, and gives them back."""
    before = [signal.getsignal(number) for number in STOPPING]
    async with serving(recording()) as server:
        assert [signal.getsignal(number) for number in STOPPING] == before
        task = asyncio.create_task(server.serve_forever())
        await turns(3)
        assert all(now != then for now, then in zip(map(signal.getsignal, STOPPING), before, strict=True))
        await server.stop()
        await soon(task)
        assert [signal.getsignal(number) for number in STOPPING] == before


async def test_cancelling_restores_the_signals(caught: list[int]) -> None:
    """However serve ends."""
    before = [signal.getsignal(number) for number in STOPPING]
    async with awaited(recording(), port=0) as task:
        task.cancel()
        await asyncio.wait([task])
        assert [signal.getsignal(number) for number in STOPPING] == before


async def test_a_start_that_fails_installs_nothing(caught: list[int]) -> None:
    """A BindError leaves the signals as they were."""
    before = [signal.getsignal(number) for number in STOPPING]
    with socket.create_server(("127.0.0.1", 0)) as busy, pytest.raises(gevpy.BindError):
        await gevpy.serve(Recorder(), port=busy.getsockname()[1])
    assert [signal.getsignal(number) for number in STOPPING] == before


@pytest.mark.parametrize("first_to_end", [0, 1])
async def test_a_signal_reaches_every_server_of_the_loop(caught: list[int], first_to_end: int) -> None:
    """Several served side by side: one SIGTERM stops them all; one that ends earlier leaves it to the others."""
    before = [signal.getsignal(number) for number in STOPPING]
    async with serving(recording()) as one, serving(recording()) as two, serving(recording()) as three:
        servers = [one, two]
        tasks = [asyncio.create_task(server.serve_forever()) for server in (*servers, three)]
        await turns(3)
        await servers[first_to_end].stop()
        await soon(tasks[first_to_end])
        os.kill(os.getpid(), signal.SIGTERM)
        await soon(asyncio.gather(*tasks))
        assert one.addresses == two.addresses == three.addresses == []
    assert caught == []
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_outside_the_main_thread_no_signal_is_touched(caught: list[int]) -> None:
    """serve() in another thread serves, without signals."""
    before = [signal.getsignal(number) for number in STOPPING]
    seen: list[Any] = []

    async def main() -> None:
        async with awaited(recording(), port=0) as task:
            seen.extend(signal.getsignal(number) for number in STOPPING)
            task.cancel()
            await asyncio.wait([task])

    thread = threading.Thread(target=lambda: gevpy.run(main()))
    thread.start()
    thread.join(10)
    assert seen == before


async def test_a_signal_handler_of_the_loop_comes_back() -> None:
    """One that the application installed with loop.add_signal_handler works again after serve."""
    loop = asyncio.get_running_loop()
    received = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, received.set)
    try:
        async with serving(recording()) as server:
            task = asyncio.create_task(server.serve_forever())
            await turns(3)
            os.kill(os.getpid(), signal.SIGTERM)
            await soon(task)
        received.clear()  # it may be told as well while a server serves
        os.kill(os.getpid(), signal.SIGTERM)
        await soon(received.wait())
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
