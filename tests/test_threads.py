"""What is safe from other threads: send, close, abort, connected and id."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind, Limits
from tests.serving import (
    MORE_THAN_THE_KERNEL_TAKES,
    Client,
    Recorder,
    connected,
    drops,
    serving,
    soon,
    stalled,
    stats_of,
    turns,
    until,
)

if TYPE_CHECKING:
    from gevpy import Connection

FILL = bytes(MORE_THAN_THE_KERNEL_TAKES)


class Spying(gevpy.LineProtocol):
    """Remembers the threads it packs in; fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def packet(self, conn: Connection, data: Any) -> bytes:
        self.threads.add(threading.get_ident())
        if data == b"unpackable":
            raise LookupError
        return bytes(super().packet(conn, data))


class Written:
    """Collects what ``on_written`` is told, and where."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, BaseException | None]] = []
        self.threads: set[int] = set()

    def __call__(self, data: Any, error: BaseException | None) -> None:
        self.told.append((data, error))
        self.threads.add(threading.get_ident())


async def test_sends_of_a_thread_keep_its_order_and_are_packed_on_the_loop() -> None:
    """Each thread's messages come in its order; packet and on_written run on the loop."""
    handler = Recorder()
    protocol = Spying()
    written = Written()
    async with connected(handler, protocol=protocol) as (_, client):
        conn = await handler.conn()

        def work(name: str) -> None:
            for index in range(200):
                assert conn.connected
                conn.send(f"{name}{index}".encode(), on_written=written)

        sending = asyncio.gather(*(asyncio.to_thread(work, name) for name in "abc"))
        size = 3 * (10 * 3 + 90 * 4 + 100 * 5)
        received = (await client.read(size)).split()
        await soon(sending)
        for name in "abc":
            mine = [line for line in received if line.startswith(name.encode())]
            assert mine == [f"{name}{index}".encode() for index in range(200)]
        await until(lambda: len(written.told) == 600)
        assert {error for _, error in written.told} == {None}
        assert protocol.threads == written.threads == {threading.get_ident()}


async def test_a_send_then_a_close_of_a_thread_keep_their_order() -> None:
    """The message leaves, then the stream ends."""
    handler = Recorder()
    async with serving(handler) as server:
        for _ in range(10):
            async with await Client.connect(server.addresses[0]) as client:
                conn = await handler.conn()

                def work(conn: Connection = conn) -> None:
                    conn.send(b"last ")
                    conn.send(b"words")
                    conn.close()
                    conn.close()

                await soon(asyncio.to_thread(work))
                assert await client.read_to_end() == b"last words"
                assert (await handler.reason()).kind is CloseKind.CLOSED_LOCALLY


async def test_abort_from_a_thread() -> None:
    """It ends the connection on the loop."""
    handler = Recorder()
    async with stalled(handler) as (_, _client, conn):
        conn.send(FILL)
        await soon(asyncio.to_thread(conn.abort))
        assert (await handler.reason()).kind is CloseKind.ABORTED


async def test_a_send_from_a_thread_to_a_closed_connection_raises_there() -> None:
    """A connection known to be closed says so in any thread; close and abort are harmless."""
    handler = Recorder()
    async with connected(handler):
        conn = await handler.conn()
        conn.close()
        with pytest.raises(gevpy.ConnectionClosed):
            await soon(asyncio.to_thread(conn.send, b"x"))
        await handler.reason()
        await soon(asyncio.to_thread(conn.close))
        await soon(asyncio.to_thread(conn.abort))
        assert isinstance(await soon(asyncio.to_thread(lambda: conn.id)), int)


async def test_what_a_thread_has_queued_counts() -> None:
    """Not yet packed it is in write_buffer_length already, and towards the limit of the loop's own sends."""
    handler = Recorder()
    limits = Limits(max_write_buffer_bytes=1000, slow_consumer="block")
    async with connected(handler, limits=limits) as (_, client):
        conn = await handler.conn()
        thread = threading.Thread(target=conn.send, args=(bytes(5000),))
        thread.start()
        thread.join()  # blocks the loop: the message cannot have been packed
        assert conn.write_buffer_length == 5000
        with pytest.raises(gevpy.WriteBufferFull):
            conn.send(b"x")
        assert len(await client.read(5000)) == 5000
        assert conn.write_buffer_length == 0


async def test_a_thread_cannot_queue_without_bound() -> None:
    """Beyond the limit a thread's own send raises: the loop, blocked meanwhile, is not needed for that."""
    handler = Recorder()
    limits = Limits(max_write_buffer_bytes=1000, slow_consumer="block")
    refused: list[BaseException] = []
    async with connected(handler, limits=limits) as (_, client):
        conn = await handler.conn()

        def work() -> None:
            try:
                for _ in range(1000):
                    conn.send(bytes(100))
            except gevpy.WriteBufferFull as error:
                refused.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert len(refused) == 1
        assert conn.write_buffer_length <= 1100
        await client.read(conn.write_buffer_length)
        assert conn.connected


async def test_the_slow_consumer_policy_acts_for_threads_too() -> None:
    """With "close" a flooding thread ends the connection, and learns of it."""
    handler = Recorder()
    async with stalled(handler, limits=Limits(max_write_buffer_bytes=1000)) as (_, _client, conn):

        def work() -> None:
            while True:
                conn.send(bytes(10_000))

        with pytest.raises(gevpy.ConnectionClosed):
            await soon(asyncio.to_thread(work))
        assert (await handler.reason()).kind is CloseKind.SLOW_CONSUMER


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
async def test_every_send_of_a_thread_is_told_once(policy: Any) -> None:
    """Sent, dropped or cut off by the end: on_written comes exactly once for each, on the loop."""
    handler = Recorder()
    written = Written()
    limits = Limits(max_write_buffer_bytes=200_000, slow_consumer=policy)
    async with stalled(handler, limits=limits) as (_, client, conn):

        def work() -> None:
            for index in range(100):
                conn.send(b"%03d" % index * 10_000, on_written=written)

        await soon(asyncio.to_thread(work))
        await until(lambda: drops(conn))
        conn.abort()
        await until(lambda: len(written.told) == 100)
        await turns(10)
        assert len({data[:3] for data, _ in written.told}) == len(written.told) == 100
        assert all(error is None or isinstance(error, gevpy.GevError) for _, error in written.told)
        assert written.threads == {threading.get_ident()}
        await client.until_gone()


async def test_what_a_thread_sent_before_the_end_is_told_as_closed() -> None:
    """A message that a thread queued, and that the end overtook, is reported and counted."""
    handler = Recorder()
    written = Written()
    async with connected(handler) as (_, client):
        conn = await handler.conn()
        thread = threading.Thread(target=conn.send, args=(b"x",), kwargs={"on_written": written})
        thread.start()
        thread.join()
        conn.abort()
        await until(lambda: written.told)
        ((data, error),) = written.told
        assert data == b"x"
        assert isinstance(error, gevpy.ConnectionClosed)
        assert drops(conn) == {"connection_closed": 1}
        await client.until_gone()


async def test_a_message_of_a_thread_that_cannot_be_packed_harms_nobody() -> None:
    """It is logged and counted; the others are sent, the connection lives."""
    handler = Recorder()
    async with connected(handler, protocol=Spying()) as (_, client):
        conn = await handler.conn()

        def work() -> None:
            for data in (b"one", b"unpackable", b"two"):
                conn.send(data)

        await soon(asyncio.to_thread(work))
        assert await client.read(8) == b"one\ntwo\n"
        assert conn.connected
        assert drops(conn) == {"packet_failed": 1}
        assert stats_of(conn).handler_errors == 1


async def test_a_thread_that_outlives_the_server_gets_a_clear_error() -> None:
    """Sends after the stop raise ConnectionClosed; close and abort do nothing."""
    handler = Recorder()
    async with connected(handler) as (server, _):
        conn = await handler.conn()
        await soon(server.stop())

    def work() -> None:
        conn.close()
        conn.abort()
        conn.send(b"x")

    with pytest.raises(gevpy.ConnectionClosed):
        await soon(asyncio.to_thread(work))


def test_a_thread_may_use_a_connection_whose_loop_is_closed() -> None:
    """Even after the loop is gone: nothing but ConnectionClosed."""
    kept: list[Connection] = []

    async def main() -> None:
        handler = Recorder()
        async with connected(handler):
            kept.append(await handler.conn())

    gevpy.run(main())
    kept[0].close()
    kept[0].abort()
    with pytest.raises(gevpy.ConnectionClosed):
        kept[0].send(b"x")
