"""One loop that serves, step by step: start, accept, stop accepting, drain, finish, close, in any state."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import loop_service as module
from gevpy.loop_service import LoopService
from gevpy.options import ServeOptions
from tests.serving import Client, Recorder, recording, soon, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def listening() -> socket.socket:
    """Make a listening socket."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def made(handler: gevpy.Handler, worker_id: int = 0, **options: Any) -> LoopService:
    """Make a service that doesn't run yet."""
    given = ServeOptions(**{"protocol": gevpy.RawProtocol(), **options})
    return LoopService(asyncio.get_running_loop(), handler, given, worker_id)


@asynccontextmanager
async def running(handler: gevpy.Handler, **options: Any) -> AsyncIterator[tuple[LoopService, socket.socket]]:
    """Give one that accepts."""
    service = made(handler, **options)
    with listening() as sock:
        await service.start()
        service.accept_on([sock])
        try:
            yield service, sock
        finally:
            await soon(service.close())


async def test_the_handler_is_greeted_with_its_worker() -> None:
    """By the number that it was given, before anybody is let in."""
    greeted: list[gevpy.Worker] = []
    service = made(recording(on_start=greeted.append), worker_id=7)
    await service.start()
    assert greeted == [service.worker]
    assert service.worker.id == 7
    await soon(service.close())


async def test_what_the_greeting_raises_is_the_caller_s() -> None:
    """Plain and asynchronous; closing afterwards is fine."""

    async def later(worker: gevpy.Worker) -> None:
        await asyncio.sleep(0)
        raise OSError("no database")

    def at_once(worker: gevpy.Worker) -> None:
        raise OSError("no database")

    for hook in (at_once, later):
        service = made(recording(on_start=hook))
        with pytest.raises(OSError, match="no database"):
            await service.start()
        await soon(service.close())


async def test_listeners_come_and_go_one_by_one() -> None:
    """A worker adopts and gives back; those of its own aren't touched, and the sockets stay the caller's."""
    handler = Recorder()
    async with running(handler) as (service, own):
        with listening() as other:
            (listener,) = service.accept_on([other])
            for sock in (own, other):
                async with await Client.connect(sock.getsockname()) as client:
                    await client.send(b"hello")
                    assert await handler.message() == b"hello"
            listener.stop()
            async with (
                await Client.connect(other.getsockname()) as waiting,
                await Client.connect(own.getsockname()) as served,
            ):
                await waiting.send(b"waiting")
                await served.send(b"served")
                assert await handler.message() == b"served"
                await turns(10)
                assert handler.messages.empty()
                service.accept_on([other])
                assert await handler.message() == b"waiting"


async def test_nobody_is_let_in_after_the_stop() -> None:
    """Those who come wait in the queue, which is the caller's; those who are in stay."""
    handler = Recorder()
    async with running(handler) as (service, sock), await Client.connect(sock.getsockname()) as inside:
        await handler.conn()
        service.stop_accepting()
        service.stop_accepting()
        async with await Client.connect(sock.getsockname()) as outside:
            await outside.send(b"outside")
            await inside.send(b"inside")
            assert await handler.message() == b"inside"
            await turns(10)
            assert handler.messages.empty()


async def test_a_drain_tells_how_many_it_aborted() -> None:
    """Those that had not ended at the deadline; none if all went by themselves."""
    never = asyncio.get_running_loop().create_future()
    handler = recording(on_message=lambda conn, ctx, data: never)
    async with running(handler) as (service, sock), await Client.connect(sock.getsockname()) as client:
        await client.send(b"work")
        await until(lambda: service.reactor.stats.received_messages)
        assert await soon(service.drain(0.05)) == 1
    async with running(Recorder()) as (service, sock), await Client.connect(sock.getsockname()) as client:
        await until(lambda: service.worker.connections)
        assert await soon(service.drain(5.0)) == 0
        assert await client.read_to_end() == b""


async def test_the_last_hook_has_its_time(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cancelled at the deadline, or when somebody is in a hurry; left behind if it doesn't care."""
    monkeypatch.setattr(module, "STOP_GRACE_S", 0.05)
    ended: list[str] = []

    async def slow(worker: gevpy.Worker) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    for hurried in (False, True):
        async with running(recording(on_stop=slow)) as (service, _):
            finishing = asyncio.ensure_future(service.finish(60.0 if hurried else 0.05))
            await turns(3)
            if hurried:
                assert not finishing.done()
                service.reactor.hurry()
            await soon(finishing)
    assert ended == ["cancelled"] * 2
    assert caplog.text.count("on_stop had not ended in time") == 2


async def test_a_last_hook_that_refuses_to_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends all the same."""
    monkeypatch.setattr(module, "STOP_GRACE_S", 0.05)
    release = asyncio.Event()

    async def stubborn(worker: gevpy.Worker) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with running(recording(on_stop=stubborn)) as (service, _):
        await soon(service.finish(0.01))
    release.set()
    await turns(3)


async def test_a_last_hook_that_fails_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """And hinders nobody."""

    def fail(worker: gevpy.Worker) -> None:
        raise OSError("disk full")

    async with running(recording(on_stop=fail)) as (service, _):
        await soon(service.finish(1.0))
    assert "on_stop failed" in caplog.text
    assert "disk full" in caplog.text


async def test_a_timer_that_refuses_to_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback that swallows its cancellation costs a grace and no more."""
    monkeypatch.setattr(module, "STOP_GRACE_S", 0.05)
    release, began = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        began.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    service = made(Recorder())
    await service.start()
    service.worker.run_after(0.0, stubborn)
    await soon(began.wait())
    await soon(service.close())
    release.set()
    await turns(3)


async def test_close_is_fine_in_any_state() -> None:
    """Before the start, twice, and with connections open."""
    await soon(made(Recorder()).close())
    service = made(Recorder())
    await service.start()
    await soon(service.close())
    await soon(service.close())
