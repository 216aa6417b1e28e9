"""A worker process from inside: what it does with each message, and what it says of itself.

It runs in this process here, on the loop under test; at the other end of its channel is the test.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from prometheus_client import REGISTRY, Counter

import gevpy
from gevpy import worker_process as module
from gevpy.application import Application
from gevpy.control import Channel
from gevpy.control_messages import (
    Accept,
    Adopt,
    Ask,
    Beat,
    Count,
    Counted,
    Deliver,
    Drain,
    Drained,
    Failed,
    Hurry,
    Logged,
    Message,
    Open,
    Ready,
    Release,
    Take,
    Taken,
)
from gevpy.metrics.snapshot import Snapshot
from gevpy.options import ServeOptions
from gevpy.worker_process import Assignment
from tests.integration.harness import open_descriptors
from tests.serving import Client, Recorder, recording, soon, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

M = TypeVar("M", bound=Message)

WIDE = "\N{GRINNING FACE}"  # four bytes in UTF-8, twelve in ASCII JSON


class Site:
    """A worker, and the supervisor's end of its channels.

    Attributes:
        told: all it has said, with the payloads.
        sock: its listening socket.
    """

    def __init__(self, handler: gevpy.Handler, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        ours, its = socket.socketpair()
        our_alarm, its_alarm = socket.socketpair()
        self.sock = _listening()
        self.told: list[tuple[Message, bytes]] = []
        self._spoke = asyncio.Event()
        self.ended: asyncio.Future[Exception | None] = loop.create_future()
        self.channel = Channel(loop, ours, self._hear, self._end)
        self._alarm = Channel(loop, our_alarm, self._hear, lambda _: None)
        serve_options = ServeOptions(**{"protocol": gevpy.RawProtocol(), "workers": 2, **options})
        assignment = Assignment(4, Application(handler, serve_options), [self.sock], its, its_alarm, {"": 30}, None)
        self._its_alarm = its_alarm
        self.worker = module._Worker(assignment)
        self.serving = asyncio.ensure_future(self.worker.serve())

    def _hear(self, message: Message, payload: bytes, descriptors: list[int]) -> None:
        assert not descriptors
        self.told.append((message, payload))
        self._spoke.set()

    def _end(self, error: Exception | None) -> None:
        self.ended.set_result(error)
        self._spoke.set()

    def said(self, kind: type[M]) -> list[M]:
        """Give all messages of a kind."""
        return [message for message, _ in self.told if isinstance(message, kind)]

    async def wait(self, kind: type[M], count: int = 1) -> M:
        """Wait until so many messages of a kind have come, and give the last one."""
        while len(self.said(kind)) < count:
            assert not self.ended.done(), f"it ended, and said only {self.told}"
            self._spoke.clear()
            await soon(self._spoke.wait())
        return self.said(kind)[count - 1]

    async def logged(self, text: str) -> Logged:
        """Wait for a log record."""
        await until(lambda: [message for message in self.said(Logged) if text in message.text])
        return next(message for message in self.said(Logged) if text in message.text)

    async def snapshot(self, ticket: int) -> Snapshot:
        """Ask for figures."""
        self.channel.send(Ask(ticket))
        await until(lambda: [beat for beat in self.said(Beat) if beat.ticket == ticket])
        return next(
            Snapshot.from_json(data) for beat, data in self.told if isinstance(beat, Beat) and beat.ticket == ticket
        )

    async def end(self) -> None:
        """Have it end, if it still runs, and close everything."""
        self.channel.send(Drain("stop", 0.0, patient=False))
        await soon(asyncio.wait((self.serving,)))
        self.channel.close()
        self._alarm.close()
        self._its_alarm.close()
        self.sock.close()
        self.serving.result()


def _listening() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


@contextmanager
def logging_kept() -> Iterator[None]:
    """Give all loggers back what they had: a worker takes over all of them."""
    known = [one for one in logging.Logger.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    kept = [(one, one.level, one.propagate, one.handlers[:]) for one in (logging.getLogger(), *known)]
    try:
        yield
    finally:
        for one, level, propagate, handlers in kept:
            one.setLevel(level)
            one.propagate = propagate
            one.handlers[:] = handlers


@asynccontextmanager
async def working(handler: gevpy.Handler | None = None, **options: Any) -> AsyncIterator[Site]:
    """Give a worker that is ready, and have it end."""
    with logging_kept():
        site = Site(handler or Recorder(), **options)
        try:
            await site.wait(Ready)
            yield site
        finally:
            await site.end()
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


async def visit(sock: socket.socket) -> Client:
    """Connect to a listening socket."""
    return await Client.connect(sock.getsockname())


# -- starting --------------------------------------------------------------------------------------------


async def test_it_accepts_when_it_is_told() -> None:
    """Ready after on_start, with its number; who comes before waits in its queue."""
    greeted: list[int] = []
    handler = recording(on_start=lambda worker: greeted.append(worker.id))
    async with working(handler) as site:
        assert greeted == [4]
        async with await visit(site.sock) as client:
            await client.send(b"early")
            await site.snapshot(1)
            assert handler.opened.empty()
            site.channel.send(Accept())
            assert await handler.message() == b"early"
            assert (await site.wait(Open)) == Open(1, 0)


@pytest.mark.parametrize("text", ["no database", WIDE * 20_000], ids=["short", "long"])
async def test_a_start_that_fails_is_explained(text: str) -> None:
    """In a line and with a traceback, both bounded; then the worker ends, and has never said that it is ready."""

    def fail(worker: gevpy.Worker) -> None:
        raise OSError(text)

    with logging_kept():
        site = Site(recording(on_start=fail))
        failed = await site.wait(Failed)
        await soon(site.ended)
        assert failed.error.startswith(f"OSError: {text[:100]}")
        assert len(failed.error) <= 1000
        assert text[:100] in failed.trace
        await soon(site.serving)
        assert not site.said(Ready)
        await site.end()
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


# -- listeners of others -----------------------------------------------------------------------------------


async def test_it_adopts_and_gives_back() -> None:
    """The socket is the other slot's: it is served and released, and no descriptor stays."""
    handler = Recorder()
    async with working(handler) as site:
        site.channel.send(Accept())
        open_after: list[int] = []
        with _listening() as orphan:
            for number in range(4):
                site.channel.send(Adopt(7), descriptors=[orphan.fileno()])
                async with await visit(orphan) as client:
                    await client.send(b"who is there?")
                    assert await handler.message() == b"who is there?"
                await handler.reason()
                site.channel.send(Release(7))
                await site.snapshot(2 + number)
                open_after.append(open_descriptors(os.getpid()))
            async with await visit(orphan) as client:
                await client.send(b"nobody")
                await site.snapshot(10)
                assert handler.messages.empty()
        assert open_after[-1] <= open_after[0]
        site.channel.send(Release(99))  # of nothing
        site.channel.send(Adopt(8))  # with nothing
        await site.snapshot(11)


async def test_an_orphan_adopted_twice_is_held_once() -> None:
    """The second replaces the first."""
    handler = Recorder()
    async with working(handler) as site:
        with _listening() as first, _listening() as second:
            site.channel.send(Adopt(7), descriptors=[first.fileno()])
            site.channel.send(Adopt(7), descriptors=[second.fileno()])
            async with await visit(second) as client:
                await client.send(b"second")
                assert await handler.message() == b"second"
            async with await visit(first) as client:
                await client.send(b"first")
                await site.snapshot(1)
                assert handler.messages.empty()


# -- connections that are handed over ----------------------------------------------------------------------


async def hand_over(site: Site) -> Client:
    """Accept a connection, as a supervisor does, and hand it over."""
    with _listening() as door:
        client = await visit(door)
        accepted, _ = await soon(asyncio.get_running_loop().sock_accept(door))
        with accepted:
            assert site.channel.send(Take(), descriptors=[accepted.fileno()])
    return client


async def test_it_serves_what_is_handed_over_and_tells_when_it_is_gone() -> None:
    """Each that was taken is told of as gone once, so that the supervisor's count comes back to zero."""
    handler = Recorder()
    async with working(handler) as site:
        clients = [await hand_over(site) for _ in range(5)]
        conns = [await handler.conn() for _ in clients]
        await site.wait(Taken, 5)
        assert len(site.said(Taken)) == 5
        assert {conn.peer_addr for conn in conns} == {client.address for client in clients}
        await until(lambda: site.said(Open) and site.said(Open)[-1].connections == 5)
        assert sum(message.gone for message in site.said(Open)) == 0
        for client in clients[:3]:
            client.close()
        await until(lambda: site.said(Open)[-1].connections == 2)
        for client in clients[3:]:
            client.reset()
        await until(lambda: sum(message.gone for message in site.said(Open)) == 5)
        assert site.said(Open)[-1].connections == 0


async def test_what_it_refuses_is_gone_at_once() -> None:
    """It has no room: the peer is reset, and the count is right all the same."""
    handler = Recorder()
    async with working(handler, limits=gevpy.Limits(max_connections=1)) as site:
        first = await hand_over(site)
        await handler.conn()
        async with await hand_over(site) as second:
            await second.until_gone()
        await until(lambda: sum(message.gone for message in site.said(Open)) == 1)
        assert site.said(Open)[-1].connections == 1
        first.close()
        await until(lambda: sum(message.gone for message in site.said(Open)) == 2)


# -- between workers -----------------------------------------------------------------------------------------


@asynccontextmanager
async def subscribed(handler: Recorder, site: Site) -> AsyncIterator[Client]:
    """Give a client that has subscribed to news."""
    site.channel.send(Accept())
    async with await visit(site.sock) as client:
        (await handler.conn()).subscribe("news")
        yield client


async def test_it_delivers_to_its_own_connections() -> None:
    """To the subscribers of a topic, or to all; what nobody subscribes to goes nowhere."""
    handler = Recorder()
    async with working(handler) as site, subscribed(handler, site) as client:
        site.channel.send(Deliver("weather", is_text=False), b"cold")
        site.channel.send(Deliver("news", is_text=False), b"hot")
        site.channel.send(Deliver(None, is_text=False), b"all")
        assert await client.read(6) == b"hotall"


@pytest.mark.parametrize("topic", ["news", None])
async def test_what_can_t_be_delivered_is_logged(topic: str | None) -> None:
    """A14: text that is none, or that the protocol can't pack: the channel and the worker go on."""
    handler = Recorder()
    async with working(handler) as site, subscribed(handler, site) as client:
        site.channel.send(Deliver(topic, is_text=True), b"\xff\xfe")
        site.channel.send(Deliver(topic, is_text=True), b"text for a protocol of bytes")
        site.channel.send(Deliver(topic, is_text=False), b"fine")
        assert await client.read(4) == b"fine"
        await site.logged("could not be packed")


async def test_it_counts_subscribers_when_asked() -> None:
    """Under the ticket of the question."""
    handler = Recorder()
    async with working(handler) as site, subscribed(handler, site):
        site.channel.send(Count(5, "news"))
        site.channel.send(Count(6, "weather"))
        await site.wait(Counted, 2)
        assert site.said(Counted) == [Counted(5, 1), Counted(6, 0)]


async def test_presence_asks_the_others() -> None:
    """Its own and theirs; two questions at once don't mix, and answers that nobody asked for are dropped."""
    handler = Recorder()
    async with working(handler) as site, subscribed(handler, site):
        worker = site.worker._running().worker
        questions = [asyncio.ensure_future(worker.presence(topic)) for topic in ("news", "weather")]
        await site.wait(Count, 2)
        tickets = {message.topic: message.ticket for message in site.said(Count)}
        assert len(set(tickets.values())) == 2
        site.channel.send(Counted(4711, 1000))
        site.channel.send(Counted(tickets["weather"], 20))
        site.channel.send(Counted(tickets["weather"], 1000))
        site.channel.send(Counted(tickets["news"], 10))
        assert [await soon(question) for question in questions] == [11, 20]


async def test_presence_ends_with_the_channel() -> None:
    """The supervisor is gone: nobody will answer, and no handler waits for ever."""
    handler = Recorder()
    async with working(handler) as site, subscribed(handler, site):
        worker = site.worker._running().worker
        asked = asyncio.ensure_future(worker.presence("news"))
        await site.wait(Count)
        site.channel.close()
        assert await soon(asked) == 1
        assert await soon(worker.presence("news")) == 1


async def test_it_publishes_to_the_others() -> None:
    """Bytes as they are, text as text."""
    async with working() as site:
        worker = site.worker._running().worker
        worker.publish("news", b"bytes")
        worker.publish("news", "text \N{SNOWMAN}")
        await site.wait(Deliver, 2)
        sent = [(message, data) for message, data in site.told if isinstance(message, Deliver)]
        assert sent == [
            (Deliver("news", is_text=False), b"bytes"),
            (Deliver("news", is_text=True), "text \N{SNOWMAN}".encode()),
        ]


# -- what it says of itself ------------------------------------------------------------------------------------


async def test_it_beats() -> None:
    """Again and again, with its number and what it has counted; a question is answered under its ticket."""
    handler = Recorder()
    async with working(handler) as site, subscribed(handler, site) as client:
        await client.send(b"hello")
        await handler.message()
        found = await site.snapshot(9)
        assert (found.worker, found.connections, found.counters["received_messages"]) == (4, 1, 1)
        count = len([beat for beat in site.said(Beat) if not beat.ticket])
        await until(lambda: len([beat for beat in site.said(Beat) if not beat.ticket]) > count)
        assert site.said(Beat)[-1].turned_s <= asyncio.get_running_loop().time() + 1.0


async def test_the_application_s_metrics_come_when_asked_for() -> None:
    """A collector that fails, or gives too much for a message, costs them and not the beat."""
    counter = Counter("worker_process_test_jobs", "Jobs.", ["how"])

    class Broken:
        def describe(self) -> list[Any]:
            return []

        def collect(self) -> list[Any]:
            raise OSError("no sensor")

    broken: Any = Broken()
    try:
        async with working() as site:
            counter.labels("quick").inc(3)
            found = {family[0]: family for family in (await site.snapshot(1)).families}
            assert found["worker_process_test_jobs"][4][0] == ["worker_process_test_jobs_total", {"how": "quick"}, 3.0]
            REGISTRY.register(broken)
            assert (await site.snapshot(2)).families == []
            await site.logged("a metrics collector failed")
            REGISTRY.unregister(broken)
            for number in range(300):
                counter.labels(f"{number:0>60000}").inc()
            assert (await site.snapshot(3)).families == []
            await site.logged("too many")
    finally:
        REGISTRY.unregister(counter)


async def test_its_log_is_the_supervisor_s() -> None:
    """By the levels that are set there; other threads' records come, too."""
    async with working() as site:
        log = logging.getLogger("their.application")
        log.info("not asked for")
        log.warning("a %s", "warning")
        thread = threading.Thread(target=log.error, args=("from a thread",))
        thread.start()
        thread.join()
        assert await site.logged("a warning") == Logged("their.application", logging.WARNING, "a warning")
        assert await site.logged("from a thread") == Logged("their.application", logging.ERROR, "from a thread")
        assert not [message for message in site.said(Logged) if "not asked for" in message.text]


@pytest.mark.parametrize("in_thread", [False, True], ids=["loop", "thread"])
async def test_no_record_can_hurt_the_application(capsys: pytest.CaptureFixture[str], *, in_thread: bool) -> None:
    """One that can't be formatted, or is longer than a message may be: nothing is raised, as in any logging handler."""
    raised: list[Exception] = []

    def log_all() -> None:
        for message, arguments in (("%d", ("no number",)), (WIDE * 100_000, ()), ("\0" * 100_000, ())):
            try:
                logging.getLogger("their.application").warning(message, *arguments)
            except Exception as error:  # noqa: BLE001 - that there is none is the point
                raised.append(error)

    async with working() as site:
        if in_thread:
            await asyncio.to_thread(log_all)
        else:
            log_all()
        logging.getLogger("their.application").warning("the end")
        await site.logged("the end")
    assert raised == []
    assert "no number" in capsys.readouterr().err  # where logging tells of its own errors


# -- going -----------------------------------------------------------------------------------------------------


async def test_a_drain_ends_it() -> None:
    """Its connections, then on_stop, the last figures, the report, and the process."""
    order: list[str] = []
    handler = recording(on_stop=lambda worker: order.append("stop"), on_drain=lambda conn: conn.send(b"bye"))
    async with working(handler) as site, subscribed(handler, site) as client:
        site.channel.send(Drain("stop", 5.0, patient=False))
        assert await client.read_to_end() == b"bye"
        assert await site.wait(Drained) == Drained(0)
        await soon(site.serving)
        await soon(site.ended)
        assert order == ["stop"]
        last = [(beat, Snapshot.from_json(data)) for beat, data in site.told if isinstance(beat, Beat)][-1]
        assert (last[0].ticket, sum(last[1].tables["closed"].values())) == (module.LAST_TICKET, 1)


async def test_who_is_aborted_is_named() -> None:
    """At the deadline, and when the supervisor loses its patience."""
    for ends in (Drain("stop", 0.05, patient=False), Hurry()):
        never = asyncio.get_running_loop().create_future()
        handler = recording(on_message=lambda conn, ctx, data, until=never: until)
        async with working(handler, timeouts=gevpy.Timeouts(drain_s=60.0)) as site, subscribed(handler, site) as client:
            await client.send(b"work")
            await until(lambda: site.worker._running().reactor.stats.received_messages)
            if isinstance(ends, Hurry):
                site.channel.send(Drain("stop", 60.0, patient=False))
            site.channel.send(ends)
            assert await site.wait(Drained) == Drained(1)
            ((_, report),) = [pair for pair in site.told if isinstance(pair[0], Drained)]
            assert client.address in report.decode()


async def test_a_patient_drain_lets_connections_live() -> None:
    """Until they close by themselves; a further, impatient one ends them."""
    handler = recording(on_drain=lambda conn: conn.send(b"moving"), on_message=lambda conn, ctx, data: data)
    for impatient in (False, True):
        async with working(handler) as site, subscribed(handler, site) as client:
            site.channel.send(Drain("reload", 8.0, patient=True))
            assert await client.read(6) == b"moving"
            await client.send(b"still here")
            assert await client.read(10) == b"still here"
            assert not site.said(Drained)
            if impatient:
                site.channel.send(Drain("stop", 5.0, patient=False))
                assert await client.read_to_end() == b""
            else:
                client.close()
            assert await site.wait(Drained) == Drained(0)


async def test_without_a_supervisor_it_goes() -> None:
    """A8: the channel has ended: it accepts no more, drains by the options' deadline, and exits."""
    handler = Recorder()
    async with working(handler, timeouts=gevpy.Timeouts(drain_s=1.0)) as site, subscribed(handler, site) as client:
        site.channel.close()
        assert await client.read_to_end() == b""
        await soon(site.serving)


async def test_sigterm_is_a_drain() -> None:
    """Sent to a worker alone, by whoever manages processes."""
    async with working() as site:
        os.kill(os.getpid(), signal.SIGTERM)
        assert await site.wait(Drained) == Drained(0)
        await soon(site.serving)


async def test_an_order_that_is_none_is_logged() -> None:
    """A14: messages that go the other way: the worker serves on."""
    async with working() as site:
        site.channel.send(Ready())
        site.channel.send(Logged("x", 30, "y"))
        await site.logged("the supervisor sent a ready message")
        await site.logged("the supervisor sent a logged message")
        await site.snapshot(1)


def test_the_beat_fits_the_limit_on_blocked_loops() -> None:
    """Some beats within it, however small; never faster than can be."""
    for blocked_s in (0.2, 0.5, 1.0, 2.0, 30.0):
        assert module.beat_s(blocked_s) <= blocked_s / 4 + 1e-9
    assert module.beat_s(None) == module.beat_s(30.0) == module.BEAT_S
    assert module.beat_s(0.001) == module.LEAST_BEAT_S


def test_a_snapshot_is_small() -> None:
    """A plain beat costs little, however long it has counted."""
    full = Snapshot.empty(127)
    full.counters = dict.fromkeys(full.counters, 2**53)
    assert len(full.to_json()) < 1000
    assert json.loads(full.to_json())["worker"] == 127
