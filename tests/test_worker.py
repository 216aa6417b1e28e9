"""The worker that a handler sees: its connections, timers, broadcast, topics."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import Limits
from tests.serving import (
    MORE_THAN_THE_KERNEL_TAKES,
    Client,
    Recorder,
    connected,
    recording,
    serving,
    short_path,
    soon,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gevpy import Connection, Worker


@asynccontextmanager
async def three(handler: Recorder, **options: Any) -> AsyncIterator[tuple[list[Client], list[Connection]]]:
    """Serve three clients, and give them with their connections, in the same order."""
    async with serving(handler, **options) as server:
        clients: list[Client] = []
        conns: list[Connection] = []
        try:
            for _ in range(3):
                clients.append(await Client.connect(server.addresses[0]))
                conns.append(await handler.conn())
            yield clients, conns
        finally:
            for client in clients:
                client.close()


async def _all_read(clients: list[Client], conns: list[Connection]) -> list[bytes]:
    """Close all connections and give what each client has got."""
    for conn in conns:
        conn.close()
    return [await client.read_to_end() for client in clients]


async def test_every_connection_has_its_worker() -> None:
    """The same one that on_start and on_stop are told, with one worker too."""
    workers: list[Worker] = []
    handler = recording(on_start=workers.append, on_stop=workers.append)
    async with connected(handler) as (server, client):
        conn = await handler.conn()
        assert conn.worker is workers[0]
        assert (conn.worker.id, conn.worker.connections, server.connections) == (0, 1, 1)
        assert repr(conn.worker) == "<Worker 0: 1 connections>"
        client.close()
        await handler.reason()
        assert conn.worker.connections == 0
    assert workers[0] is workers[1]


async def test_broadcast_sends_to_all_or_where() -> None:
    """In program order with other sends; ``where`` sees each connection."""
    handler = Recorder()
    async with three(handler) as (clients, conns):
        worker = conns[0].worker
        conns[1].context = "member"
        worker.broadcast(b"all ")
        worker.broadcast(b"some", where=lambda conn: conn.context == "member")
        assert await _all_read(clients, conns) == [b"all ", b"all some", b"all "]


async def test_a_where_that_raises_reaches_the_caller() -> None:
    """And nothing was sent to anybody."""
    handler = Recorder()

    def fail(conn: Connection) -> bool:
        if conn is conns[2]:
            raise ZeroDivisionError
        return True

    async with three(handler) as (clients, conns):
        with pytest.raises(ZeroDivisionError):
            conns[0].worker.broadcast(b"x", where=fail)
        assert await _all_read(clients, conns) == [b""] * 3


async def test_broadcast_passes_over_those_that_are_ending_or_slow() -> None:
    """One that refuses keeps nobody else from the message, and the caller from no exception."""
    handler = Recorder()
    with short_path() as path:
        limits = Limits(max_write_buffer_bytes=1000, slow_consumer="block")
        async with (
            gevpy.serve(handler, path=path, limits=limits, timeouts=gevpy.Timeouts(drain_s=1)),
            await Client.connect(str(path)) as slow,
            await Client.connect(str(path)) as ending,
            await Client.connect(str(path)) as shut,
            await Client.connect(str(path)) as good,
        ):
            conns = [await handler.conn() for _ in range(4)]
            conns[0].send(bytes(MORE_THAN_THE_KERNEL_TAKES))
            conns[1].close()
            conns[2].shutdown_write()
            conns[0].worker.broadcast(b"news")
            assert await good.read(4) == b"news"
            assert await ending.read_to_end() == await shut.read_to_end() == b""
            conns[0].close()
            assert len(await slow.read_to_end()) == MORE_THAN_THE_KERNEL_TAKES


async def test_broadcast_while_connections_come_and_go() -> None:
    """Whatever hooks do meanwhile, the walk over the connections holds."""

    def on_close(conn: Connection, reason: Any) -> None:
        conn.worker.broadcast(b"%d left" % conn.id)
        handler.closed.put_nowait((conn, reason))

    handler = recording(on_close=on_close)
    async with three(handler) as (clients, conns):
        first = conns[0].id
        conns[0].abort()
        await handler.reason()
        assert await clients[1].read(6) == await clients[2].read(6) == b"%d left" % first


async def test_publish_reaches_subscribers_once_each() -> None:
    """Not others, not those that unsubscribed, and not the one that is excluded."""
    handler = Recorder()
    async with three(handler) as (clients, conns):
        worker = conns[0].worker
        for conn in conns[:2]:
            conn.subscribe("news")
            conn.subscribe("news")
        assert await worker.presence("news") == 2
        assert await worker.presence("other") == 0
        worker.publish("news", b"1")
        worker.publish("news", b"2", exclude=conns[0])
        worker.publish("other", b"3")
        conns[1].unsubscribe("news")
        conns[1].unsubscribe("news")
        worker.publish("news", b"4")
        assert await worker.presence("news") == 1
        assert await _all_read(clients, conns) == [b"14", b"12", b""]


async def test_a_connection_that_ends_leaves_its_topics() -> None:
    """Inside on_close already; its end is nobody's error."""
    counts: list[int] = []

    async def on_close(conn: Connection, reason: Any) -> None:
        counts.append(await conn.worker.presence("news"))
        handler.closed.put_nowait((conn, reason))

    handler = recording(on_close=on_close)
    async with three(handler) as (clients, conns):
        for conn in conns:
            conn.subscribe("news")
        clients[0].close()
        await handler.reason()
        conns[0].worker.publish("news", b"x")
        assert counts == [2]


async def test_publishing_skips_a_subscriber_that_is_closing() -> None:
    """It has not left yet, but takes no more output."""
    handler = Recorder()
    async with three(handler) as (clients, conns):
        for conn in conns:
            conn.subscribe("news")
        conns[0].close()
        conns[1].worker.publish("news", b"x")
        assert await _all_read(clients, conns) == [b"", b"x", b"x"]


@pytest.mark.parametrize("topic", ["", "a\nb", "x" * 256])
async def test_a_topic_that_cannot_be_is_refused(topic: str) -> None:
    """By subscribe, as a ConfigError; the connection lives."""
    handler = Recorder()
    async with connected(handler):
        conn = await handler.conn()
        with pytest.raises(gevpy.ConfigError):
            conn.subscribe(topic)
        with pytest.raises(gevpy.ConfigError):
            conn.worker.publish(topic, b"x")
        with pytest.raises(gevpy.ConfigError):
            await conn.worker.presence(topic)
        conn.unsubscribe(topic)
        assert conn.connected


async def test_timers_of_the_worker() -> None:
    """run_after once, run_every until stopped; async callbacks; a bad interval is refused."""
    told: asyncio.Queue[str] = asyncio.Queue()
    handler = Recorder()

    async def tell(word: str) -> None:
        await told.put(word)

    async with connected(handler):
        worker = (await handler.conn()).worker
        assert worker.run_after(10, tell, "never").stop() is True
        worker.run_after(0, tell, "soon")
        assert await soon(told.get()) == "soon"
        timer = worker.run_every(0.01, tell, "again")
        assert await soon(told.get()) == await soon(told.get()) == "again"
        assert timer.stop() is True
        assert timer.stop() is False
        for interval in (0, -1, float("inf"), float("nan")):
            with pytest.raises(gevpy.ConfigError):
                worker.run_every(interval, tell, "never")


async def test_a_timer_that_raises_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Logged with its traceback; connections don't notice."""
    beats = asyncio.Semaphore(0)
    handler = recording(on_message=lambda conn, ctx, data: data)

    def fail() -> None:
        beats.release()
        raise ZeroDivisionError

    async with connected(handler) as (_, client):
        timer = (await handler.conn()).worker.run_every(0.01, fail)
        for _ in range(3):
            await soon(beats.acquire())
        timer.stop()
        await client.send(b"x")
        assert await client.read(1) == b"x"
        await turns(1)
    assert any(record.exc_info for record in caplog.records)
