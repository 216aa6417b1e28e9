"""Every metric of a server, moved by real clients and read as a scrape would."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import random
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest
from prometheus_client import REGISTRY

import gevpy
from gevpy.closing import CloseKind
from gevpy.metrics.collector import ServerCollector
from gevpy.stats import DropReason, RejectReason
from tests.serving import reactor_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gevpy.closing import CloseReason
    from gevpy.connection import Connection
    from gevpy.server import Server

Series = tuple[str, frozenset[tuple[str, str]]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo(gevpy.Handler):
    """Echoes, does what a few words ask for, and lets the test wait for the end of a connection."""

    def __init__(self) -> None:
        self.closed: asyncio.Queue[CloseKind] = asyncio.Queue()
        self.connected: asyncio.Queue[Connection] = asyncio.Queue()

    def on_connect(self, conn: Connection) -> None:
        self.connected.put_nowait(conn)

    def on_message(self, conn: Connection, ctx: Any, data: bytes) -> bytes | None:
        if data == b"close":
            conn.close()
            return None
        if data == b"abort":
            conn.abort()
            return None
        if data == b"raise":
            raise RuntimeError("asked to")
        return data

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.closed.put_nowait(reason.kind)


def scrape(server: Server) -> dict[Series, float]:
    """Give every sample of a server by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in ServerCollector([reactor_of(server)]).collect()
        for sample in metric.samples
    }


def value(server: Server, name: str, **labels: str) -> float:
    """Give one sample of a server."""
    return scrape(server)[name, frozenset(labels.items())]


def closed(server: Server) -> dict[str, float]:
    """Give the close reasons that were counted."""
    return by_reason(server, "gevpy_connections_closed_total")


def by_reason(server: Server, name: str) -> dict[str, float]:
    """Give a counter's reasons that are not 0."""
    samples = scrape(server).items()
    return {dict(labels)["reason"]: amount for (each, labels), amount in samples if each == name and amount}


async def connect(server: Server) -> Streams:
    """Connect to a server."""
    (address,) = server.addresses
    assert not isinstance(address, str)
    return await asyncio.open_connection(*address)


async def hang_up(streams: Streams) -> None:
    """Close a client's side; whether the server was first doesn't matter."""
    streams[1].close()
    with contextlib.suppress(ConnectionError):
        await streams[1].wait_closed()


async def test_a_new_server_counts_from_zero() -> None:
    """Every counter and gauge is there at once and is 0, but for the limit and the info."""
    async with asyncio.timeout(10), gevpy.serve(Echo(), port=0) as server:
        samples = scrape(server)
        elsewhere = {"gevpy_loop_lag_seconds", "gevpy_listen_overflows_total"}  # told of the machine, not of the server
        moved = {name for (name, _), amount in samples.items() if amount} - elsewhere
        assert moved == {"gevpy_info", "gevpy_connections_limit", "gevpy_workers", "gevpy_worker_resident_bytes"}


async def test_an_echo_moves_connections_bytes_and_messages() -> None:
    """One client, one message: each counter says so, and the gauge falls when the client goes."""
    handler = Echo()
    async with asyncio.timeout(10), gevpy.serve(handler, port=0) as server:
        client = await connect(server)
        client[1].write(b"hello")
        assert await client[0].readexactly(5) == b"hello"
        assert value(server, "gevpy_connections", worker="0") == 1
        assert value(server, "gevpy_connections_opened_total") == 1
        assert value(server, "gevpy_received_bytes_total") == 5
        assert value(server, "gevpy_sent_bytes_total") == 5
        assert value(server, "gevpy_received_messages_total") == 1
        assert value(server, "gevpy_sent_messages_total") == 1
        assert closed(server) == {}
        await hang_up(client)
        assert await handler.closed.get() is CloseKind.PEER_CLOSED
        assert value(server, "gevpy_connections", worker="0") == 0
        assert value(server, "gevpy_connections_opened_total") == 1
        assert closed(server) == {"peer_closed": 1}


async def test_handler_seconds_count_batches() -> None:
    """Three messages that come in one read are three messages and one batch; its time adds to the sum."""
    server_options: dict[str, Any] = {"port": 0, "protocol": gevpy.LineProtocol()}
    async with asyncio.timeout(10), gevpy.serve(Echo(), **server_options) as server:
        client = await connect(server)
        client[1].write(b"a\nb\nc\n")
        assert await client[0].readexactly(6) == b"a\nb\nc\n"
        assert value(server, "gevpy_received_messages_total") == 3
        assert value(server, "gevpy_handler_seconds_count") == 1
        first = value(server, "gevpy_handler_seconds_sum")
        assert first > 0
        client[1].write(b"d\n")
        await client[0].readexactly(2)
        assert value(server, "gevpy_handler_seconds_count") == 2
        assert value(server, "gevpy_handler_seconds_sum") > first
        await hang_up(client)


async def test_handler_seconds_count_asynchronous_messages() -> None:
    """An ``async def`` handler counts one for each message."""

    class Later(gevpy.Handler):
        async def on_message(self, conn: Connection, ctx: Any, data: bytes) -> bytes:
            await asyncio.sleep(0)
            return data

    async with asyncio.timeout(10), gevpy.serve(Later(), port=0, protocol=gevpy.LineProtocol()) as server:
        client = await connect(server)
        client[1].write(b"a\nb\nc\n")
        assert await client[0].readexactly(6) == b"a\nb\nc\n"
        count = value(server, "gevpy_handler_seconds_count")
        assert count >= 3
        await hang_up(client)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        (b"close", CloseKind.CLOSED_LOCALLY),
        (b"abort", CloseKind.ABORTED),
        (b"raise", CloseKind.HANDLER_ERROR),
        (b"x" * 100, CloseKind.FRAME_TOO_LARGE),
    ],
)
async def test_every_close_counts_under_its_reason(word: bytes, kind: CloseKind) -> None:
    """The label is the kind of the reason that ``on_close`` gets; a handler's exception is an error, too."""
    handler = Echo()
    protocol = gevpy.LineProtocol(max_frame_bytes=50)
    async with asyncio.timeout(10), gevpy.serve(handler, port=0, protocol=protocol) as server:
        client = await connect(server)
        client[1].write(word + b"\n")
        assert await handler.closed.get() is kind
        assert closed(server) == {kind.value: 1}
        assert value(server, "gevpy_handler_errors_total") == (kind is CloseKind.HANDLER_ERROR)
        await hang_up(client)


async def test_a_drain_counts_what_it_ends() -> None:
    """Connections that the stop ends are closed as drained."""
    handler = Echo()
    async with asyncio.timeout(10), gevpy.serve(handler, port=0) as server:
        client = await connect(server)
        await handler.connected.get()
        reactor = reactor_of(server)
        await server.stop()
        samples = {
            tuple(sample.labels.values()): sample.value
            for metric in ServerCollector([reactor]).collect()
            for sample in metric.samples
            if sample.name == "gevpy_connections_closed_total"
        }
        assert samples["drained",] == 1
        await hang_up(client)


async def test_a_refusal_counts_as_rejected_and_not_as_closed() -> None:
    """One connection over the limit is rejected with its reason; the limit itself is shown."""
    handler = Echo()
    limits = gevpy.Limits(max_connections=1)
    async with asyncio.timeout(10), gevpy.serve(handler, port=0, limits=limits) as server:
        first = await connect(server)
        await handler.connected.get()
        with contextlib.suppress(ConnectionError):  # the reset may come before the connect is over, or after
            second = await connect(server)
            await hang_up(second)
        assert value(server, "gevpy_connections_limit") == 1
        assert by_reason(server, "gevpy_connections_rejected_total") == {"max_connections": 1}
        assert closed(server) == {}
        assert value(server, "gevpy_connections_opened_total") == 1
        await hang_up(first)


async def test_a_dropped_message_counts_with_its_reason() -> None:
    """A message refused by the policy ``"drop_newest"`` is counted as dropped."""
    handler = Echo()
    limits = gevpy.Limits(max_write_buffer_bytes=65536, slow_consumer="drop_newest")
    async with asyncio.timeout(10), gevpy.serve(handler, port=0, limits=limits) as server:
        client = await connect(server)
        conn = await handler.connected.get()
        conn.send(bytes(16 * 1024 * 1024))
        assert by_reason(server, "gevpy_dropped_messages_total") == {}
        conn.send(b"one too many")
        assert by_reason(server, "gevpy_dropped_messages_total") == {"drop_newest": 1}
        conn.abort()
        await hang_up(client)


async def test_buffer_bytes_are_those_that_wait_now() -> None:
    """Half a line waits to be read, and output that nobody takes waits to be written; both go with the connection."""
    handler = Echo()
    async with asyncio.timeout(10), gevpy.serve(handler, port=0, protocol=gevpy.LineProtocol()) as server:
        client = await connect(server)
        conn = await handler.connected.get()
        client[1].write(b"whole\nabc")
        assert await client[0].readexactly(6) == b"whole\n"
        assert value(server, "gevpy_buffer_bytes", worker="0", direction="read") == 3
        assert value(server, "gevpy_buffer_bytes", worker="0", direction="write") == 0
        cast("asyncio.Transport", client[1].transport).pause_reading()
        conn.send(bytes(16 * 1024 * 1024))
        waiting = value(server, "gevpy_buffer_bytes", worker="0", direction="write")
        assert waiting == conn.write_buffer_length > 0
        conn.abort()
        assert await handler.closed.get() is CloseKind.ABORTED
        assert value(server, "gevpy_buffer_bytes", worker="0", direction="read") == 0
        assert value(server, "gevpy_buffer_bytes", worker="0", direction="write") == 0
        await hang_up(client)


async def test_loop_lag_is_the_last_tick_s() -> None:
    """The gauge gives what the tick noted."""
    async with asyncio.timeout(10), gevpy.serve(Echo(), port=0) as server:
        reactor_of(server).stats.lag_seconds = 0.25
        assert value(server, "gevpy_loop_lag_seconds", worker="0") == 0.25


async def test_info_says_what_runs(loop_kind: str, compiled: bool) -> None:
    """The labels of ``gevpy_info`` are the facts of ``build_info()``."""
    async with asyncio.timeout(10), gevpy.serve(Echo(), port=0) as server:
        (labels,) = (dict(labels) for name, labels in scrape(server) if name == "gevpy_info")
        assert labels["version"] == gevpy.build_info().version
        assert labels["build"] == ("compiled" if compiled else "pure")
        assert labels["loop"].startswith(loop_kind)
        assert labels["python"].endswith(platform.python_version())


async def test_servers_in_one_process_count_apart() -> None:
    """What a client does to one server doesn't show at the other, and a new server begins at 0 again."""
    async with asyncio.timeout(10), gevpy.serve(Echo(), port=0) as one, gevpy.serve(Echo(), port=0) as other:
        client = await connect(one)
        client[1].write(b"hello")
        await client[0].readexactly(5)
        assert value(one, "gevpy_received_bytes_total") == 5
        assert value(other, "gevpy_received_bytes_total") == 0
        assert value(other, "gevpy_connections_opened_total") == 0
        await hang_up(client)


async def test_several_reactors_add_up_and_keep_their_own_gauges() -> None:
    """Counters and the limit are sums over the workers; gauges of a loop carry its number."""
    async with asyncio.timeout(10), gevpy.serve(Echo(), port=0) as one, gevpy.serve(Echo(), port=0) as other:
        reactors = [reactor_of(one), reactor_of(other)]
        reactors[1].worker.id = 1
        for reactor, amount in zip(reactors, (3, 4), strict=True):
            reactor.stats.received_bytes = amount
            reactor.stats.count_closed(CloseKind.IDLE)
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for metric in ServerCollector(reactors).collect()
            for sample in metric.samples
        }
        assert samples["gevpy_received_bytes_total",] == 7
        assert samples["gevpy_connections_closed_total", "idle"] == 2
        assert samples["gevpy_connections", "0"] == samples["gevpy_connections", "1"] == 0
        assert samples["gevpy_connections_limit",] == sum(each.admission.max_connections for each in reactors)


async def test_nothing_is_registered_globally() -> None:
    """A running server leaves ``prometheus_client.REGISTRY`` as it was."""
    async with asyncio.timeout(10), gevpy.serve(Echo(), port=0) as server:
        scrape(server)
        assert [metric.name for metric in REGISTRY.collect() if metric.name.startswith("gevpy")] == []


def labels_of(samples: dict[Series, float], name: str) -> set[str]:
    """Give the reasons a metric shows."""
    return {dict(labels)["reason"] for each, labels in samples if each == name}


async def test_the_series_are_the_same_whatever_clients_do() -> None:
    """F6: many clients, each with its own bytes and its own way to leave: not one series more, and few of them."""
    handler = Echo()
    seeded = random.Random(20)
    protocol = gevpy.LineProtocol(max_frame_bytes=64)
    async with asyncio.timeout(30), gevpy.serve(handler, port=0, protocol=protocol) as server:
        before = scrape(server)
        for ways in range(300):
            client = await connect(server)
            word = (b"close", b"abort", b"raise", seeded.randbytes(seeded.randrange(1, 200)))[ways % 4]
            client[1].write(word + b"\n")
            if ways % 3 == 0:
                reset_on_close(client)
            await hang_up(client)
            await handler.closed.get()
        after = scrape(server)
        assert after["gevpy_connections_opened_total", frozenset()] == 300
        assert sum(closed(server).values()) == 300
        assert set(after) == set(before)
        assert len(after) <= 300


def reset_on_close(client: Streams) -> None:
    """Make a client leave with a reset."""
    sock = client[1].get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


async def test_every_member_of_the_closed_lists_is_shown() -> None:
    """A reason that never happened is there as 0, so that its first time is an increase."""
    async with asyncio.timeout(10), gevpy.serve(Echo(), port=0) as server:
        samples = scrape(server)
        assert labels_of(samples, "gevpy_connections_closed_total") == set(CloseKind)
        assert labels_of(samples, "gevpy_connections_rejected_total") == set(RejectReason)
        assert labels_of(samples, "gevpy_dropped_messages_total") == set(DropReason)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Keep what handlers raise on purpose out of the report."""
    with caplog.at_level("CRITICAL", "gevpy"):
        yield
