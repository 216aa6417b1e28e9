"""The order of asynchronous handlers: all at once up to a limit, or one after the other for each key."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind, ConfigError, Limits, LineProtocol, Timeouts
from tests.serving import DRAIN_S, Client, Recorder, reactor_of, serving, soon, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gevpy import Connection

WAITING = 16  # messages that may wait beside those that run


class Gated(Recorder):
    """Handlers that wait until the test lets them go, by message; ``go-`` ones end at once."""

    def __init__(self) -> None:
        """Begin with nothing running."""
        super().__init__()
        self.gates: dict[bytes, asyncio.Event] = {}
        self.running: list[bytes] = []
        self.begun: list[bytes] = []
        self.ended: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.most = 0

    async def on_message(self, conn: Connection, ctx: Any, data: bytes) -> bytes:
        """Run until let go."""
        self.begun.append(data)
        self.running.append(data)
        self.most = max(self.most, len(self.running))
        try:
            await self.gate(data).wait()
        except asyncio.CancelledError:
            self.cancelled.append(data)
            raise
        finally:
            self.running.remove(data)
        self.ended.append(data)
        return data

    def gate(self, data: bytes) -> asyncio.Event:
        """Give what a message waits for."""
        return self.gates.setdefault(data, asyncio.Event())

    def let_go(self, *messages: bytes) -> None:
        """Let handlers end."""
        for message in messages:
            self.gate(message).set()


def first_letter(_ctx: Any, data: bytes) -> bytes:
    """Give the key of a message: what it begins with."""
    return data[:1]


@asynccontextmanager
async def ordered(
    handler: Recorder, ordering: str = "concurrent", limit: int = 4, **options: Any
) -> AsyncIterator[tuple[gevpy.Server, Client, Connection]]:
    """Serve lines in an order; no task may be left behind."""
    if ordering == "keyed":
        options.setdefault("ordering_key", first_letter)
    options.setdefault("timeouts", Timeouts(drain_s=DRAIN_S))
    options.setdefault("limits", Limits(max_concurrent=limit))
    async with serving(handler, protocol=LineProtocol(), ordering=ordering, **options) as server:
        reactor = reactor_of(server)
        async with await Client.connect(server.addresses[0]) as client:
            yield server, client, await handler.conn()
        await until(lambda: not reactor._tasks and not reactor._unfinished)
    assert handler.calls.count("close") == handler.calls.count("connect")


def lines(*messages: bytes) -> bytes:
    """Write messages as lines."""
    return b"".join(message + b"\n" for message in messages)


# -- what may be said ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"ordering": "random"},
        {"ordering": "keyed"},
        {"ordering": "concurrent", "ordering_key": first_letter},
        {"ordering_key": first_letter},
        {"ordering": "keyed", "ordering_key": "name"},
    ],
)
def test_orders_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    """An unknown order, a key without keyed, keyed without a key."""
    with pytest.raises(ConfigError, match="ordering"):
        gevpy.serve(Gated(), **options)


# -- concurrent ----------------------------------------------------------------------------------------


async def test_concurrent_handlers_answer_as_they_end() -> None:
    """Replies leave in the order in which the handlers end."""
    handler = Gated()
    async with ordered(handler) as (_, client, _conn):
        await client.send(lines(b"a", b"b", b"c"))
        await until(lambda: len(handler.running) == 3)
        handler.let_go(b"c")
        assert await client.read(2) == b"c\n"
        handler.let_go(b"a")
        assert await client.read(2) == b"a\n"
        handler.let_go(b"b")
        assert await client.read(2) == b"b\n"


async def test_no_more_run_than_the_limit() -> None:
    """The rest waits, begins in the order of coming, and all are answered."""
    handler = Gated()
    messages = [b"%d" % number for number in range(12)]
    async with ordered(handler, limit=4) as (_, client, _conn):
        await client.send(lines(*messages))
        await until(lambda: len(handler.running) == 4)
        await turns(5)
        assert handler.begun == messages[:4]
        handler.let_go(b"2")
        await until(lambda: len(handler.begun) == 5)
        assert handler.begun == messages[:5]
        handler.let_go(*messages)
        assert sorted((await client.read(len(lines(*messages)))).split()) == sorted(messages)
        assert handler.begun == messages
        assert handler.most == 4


async def test_reading_pauses_when_too_much_waits() -> None:
    """Limit and 16 more are taken; then TCP slows the peer down, until handlers have ended."""
    handler = Gated()
    piece = b"x" * 1000
    async with ordered(handler, limit=2) as (_, client, conn):
        messages = [b"%05d" % number + piece for number in range(2000)]
        sending = asyncio.ensure_future(client.send(lines(*messages)))
        await until(lambda: len(handler.running) == 2)
        await turns(50)
        assert len(handler.begun) == 2
        inbox = conn._inbox
        assert inbox is not None
        assert inbox.full
        handler.let_go(*messages)
        assert len(await client.read(len(lines(*messages)))) == len(lines(*messages))
        await sending
        assert handler.begun == messages
        assert handler.most == 2


async def test_a_plain_handler_may_return_awaitables() -> None:
    """Plain answers and awaited ones under one order; the limit counts them all."""

    class Cached(Gated):
        def on_message(self, conn: Connection, ctx: Any, data: bytes) -> Any:
            return data if data.startswith(b"go") else super().on_message(conn, ctx, data)

    handler = Cached()
    async with ordered(handler, limit=3) as (_, client, _conn):
        await client.send(lines(b"go1", b"slow", b"go2"))
        assert await client.read(8) == b"go1\ngo2\n"
        handler.let_go(b"slow")
        assert await client.read(5) == b"slow\n"


# -- keyed ---------------------------------------------------------------------------------------------


async def test_messages_of_one_key_keep_their_order() -> None:
    """a1 before a2 before a3; b's run beside them."""
    handler = Gated()
    async with ordered(handler, "keyed") as (_, client, _conn):
        await client.send(lines(b"a1", b"a2", b"b1", b"a3", b"b2"))
        await until(lambda: len(handler.running) == 2)
        assert handler.begun == [b"a1", b"b1"]
        handler.let_go(b"b1")
        assert await client.read(3) == b"b1\n"
        await until(lambda: b"b2" in handler.running)
        handler.let_go(b"a2", b"a3")
        await turns(5)
        assert b"a2" not in handler.begun
        handler.let_go(b"a1", b"b2")
        rest = await client.read(12)
        assert [line for line in rest.split() if line[:1] == b"a"] == [b"a1", b"a2", b"a3"]


@pytest.mark.parametrize("is_plain", [False, True])
async def test_each_key_is_served_in_order_whatever_the_load(*, is_plain: bool) -> None:
    """200 messages of 5 keys, through a limit of 3, by async and by plain handlers that return coroutines."""
    running: Counter[bytes] = Counter()
    seen: dict[bytes, list[int]] = {}

    async def work(data: bytes) -> bytes:
        key = data[:1]
        running[key] += 1
        assert running[key] == 1
        assert sum(running.values()) <= 3
        seen.setdefault(key, []).append(int(data[1:]))
        await asyncio.sleep(0)
        if int(data[1:]) % 3:
            await asyncio.sleep(0)
        running[key] -= 1
        return data

    class Plain(Recorder):
        def on_message(self, conn: Connection, ctx: Any, data: bytes) -> Any:
            return work(data)

    class Async(Recorder):
        async def on_message(self, conn: Connection, ctx: Any, data: bytes) -> Any:
            return await work(data)

    wire = lines(*(b"abcde"[n % 5 : n % 5 + 1] + b"%d" % n for n in range(200)))
    async with ordered(Plain() if is_plain else Async(), "keyed", limit=3) as (_, client, _conn):
        await client.send(wire)
        got = await client.read(len(wire))
        assert sorted(got.split()) == sorted(wire.split())
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sum(map(len, seen.values())) == 200


async def test_the_first_message_of_a_plain_handler_has_its_key_too() -> None:
    """A plain on_message that returns a coroutine: the second of the same key waits for the first."""

    class Plain(Gated):
        def on_message(self, conn: Connection, ctx: Any, data: bytes) -> Any:
            return super().on_message(conn, ctx, data)

    handler = Plain()
    async with ordered(handler, "keyed") as (_, client, _conn):
        await client.send(lines(b"a1", b"a2"))
        await until(lambda: handler.running)
        await turns(5)
        assert handler.running == [b"a1"]
        handler.let_go(b"a1", b"a2")
        assert await client.read(6) == b"a1\na2\n"


@pytest.mark.parametrize("fault", ["raises", "unhashable"])
@pytest.mark.parametrize("at", [0, 2])
async def test_a_key_function_that_fails_ends_the_connection(fault: str, at: int) -> None:
    """An exception in it, or a key that can't be hashed, be it for the first message: handler_error, on_close once."""

    def key(_ctx: Any, data: bytes) -> Any:
        if data != b"bad":
            return data
        return 1 // 0 if fault == "raises" else []

    handler = Gated()
    async with ordered(handler, "keyed", ordering_key=key) as (_, client, _conn):
        await client.send(lines(*[b"x", b"y"][:at], b"bad"))
        assert (await handler.reason()).kind is CloseKind.HANDLER_ERROR
        assert sorted(handler.cancelled) == sorted(handler.begun)


# -- ending --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordering", ["concurrent", "keyed"])
async def test_a_lost_connection_cancels_its_handlers(ordering: str) -> None:
    """A reset: all that run are cancelled, what waits is not begun, on_close comes behind them."""
    handler = Gated()
    async with ordered(handler, ordering) as (_, client, _conn):
        await client.send(lines(*(b"%c" % letter for letter in b"abcdefgh")))
        await until(lambda: len(handler.running) == 4)
        client.reset()
        assert (await handler.reason()).kind is CloseKind.PEER_RESET
        assert sorted(handler.cancelled) == [b"a", b"b", b"c", b"d"]
        assert len(handler.begun) == 4


async def test_abort_before_the_first_step_leaves_no_coroutine() -> None:
    """Handlers whose tasks never ran are closed without a warning."""

    class Aborting(Gated):
        def on_message(self, conn: Connection, ctx: Any, data: bytes) -> Any:
            if data == b"c":
                conn.abort()
            return super().on_message(conn, ctx, data)

    handler = Aborting()
    async with ordered(handler) as (_, client, _conn):
        await client.send(lines(b"a", b"b", b"c", b"d"))
        assert (await handler.reason()).kind is CloseKind.ABORTED


@pytest.mark.parametrize("ordering", ["concurrent", "keyed"])
async def test_the_peers_end_waits_for_all_handlers(ordering: str) -> None:
    """What came before a FIN is handled and answered, all of it."""
    handler = Gated()
    messages = [b"%c" % letter for letter in b"abcdefghijkl"]
    async with ordered(handler, ordering, limit=2) as (_, client, _conn):
        await client.send(lines(*messages))
        client.shut()
        await until(lambda: len(handler.running) == 2)
        handler.let_go(*messages)
        assert sorted((await client.read_to_end()).split()) == messages
        assert (await handler.reason()).kind is CloseKind.PEER_CLOSED


async def test_a_drain_waits_for_all_handlers() -> None:
    """What was taken is handled and answered before the connection closes."""
    handler = Gated()
    messages = [b"%c" % letter for letter in b"abcdef"]
    async with ordered(handler, limit=2) as (server, client, _conn):
        await client.send(lines(*messages))
        await until(lambda: len(handler.running) == 2)
        stopping = asyncio.ensure_future(server.stop(DRAIN_S))
        await turns(5)
        handler.let_go(*messages)
        assert sorted((await client.read_to_end()).split()) == messages
        await soon(stopping)
        assert (await handler.reason()).kind is CloseKind.DRAINED


async def test_one_that_raises_ends_the_connection() -> None:
    """Its fellows are cancelled, what waits is not begun."""

    class Raising(Gated):
        async def on_message(self, conn: Connection, ctx: Any, data: bytes) -> bytes:
            if data == b"bad":
                raise ValueError(data)
            return await super().on_message(conn, ctx, data)

    handler = Raising()
    async with ordered(handler, limit=3) as (_, client, _conn):
        await client.send(lines(b"a", b"b", b"bad", b"c", b"d"))
        reason = await handler.reason()
        assert reason.kind is CloseKind.HANDLER_ERROR
        assert isinstance(reason.error, ValueError)
        assert handler.begun == handler.cancelled == [b"a", b"b"]


async def test_close_in_a_handler_lets_its_fellows_end() -> None:
    """close() by one of them: no new one begins, and the replies of those that run still leave."""

    class Closing(Gated):
        async def on_message(self, conn: Connection, ctx: Any, data: bytes) -> bytes:
            reply = await super().on_message(conn, ctx, data)
            if data == b"b":
                conn.close()
            return reply

    handler = Closing()
    async with ordered(handler, limit=3) as (_, client, _conn):
        await client.send(lines(b"a", b"b", b"c", b"d", b"e"))
        await until(lambda: len(handler.running) == 3)
        handler.let_go(b"b")
        await until(lambda: b"b" in handler.ended)
        handler.let_go(b"a", b"c")
        assert sorted((await client.read_to_end()).split()) == [b"a", b"b", b"c"]
        assert (await handler.reason()).kind is CloseKind.CLOSED_LOCALLY
        assert sorted(handler.begun) == [b"a", b"b", b"c"]


async def test_a_task_that_is_cancelled_from_outside_ends_the_connection() -> None:
    """A message that was not handled does not go unnoticed."""

    class Cancelling(Gated):
        async def on_message(self, conn: Connection, ctx: Any, data: bytes) -> bytes:
            if data == b"bad":
                raise asyncio.CancelledError
            return await super().on_message(conn, ctx, data)

    handler = Cancelling()
    async with ordered(handler) as (_, client, _conn):
        await client.send(lines(b"a", b"bad"))
        assert (await handler.reason()).kind is CloseKind.HANDLER_ERROR
        assert handler.cancelled == [b"a"]


async def test_big_messages_count_by_their_bytes() -> None:
    """1 MiB of messages that wait pauses reading, however few they are."""
    handler = Gated()
    big = b"y" * 300_000
    protocol = LineProtocol(max_frame_bytes=1 << 20)
    async with (
        serving(handler, protocol=protocol, ordering="concurrent", limits=Limits(max_concurrent=1)) as server,
        await Client.connect(server.addresses[0]) as client,
    ):
        conn = await handler.conn()
        messages = [b"%d" % number + big for number in range(10)]
        sending = asyncio.ensure_future(client.send(lines(*messages)))
        await until(lambda: conn._inbox is not None and conn._inbox.full)
        await turns(20)
        handler.let_go(*messages)
        assert len(await client.read(len(lines(*messages)))) == len(lines(*messages))
        await sending
        assert handler.begun == messages
