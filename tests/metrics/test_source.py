"""The document of one loop's server: every key, moved by real clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy.build import VERSION
from gevpy.metrics.source import LoopSource
from tests.metrics.scraping import Echo, connect_to, endpoint_of, fetch, hang_up

if TYPE_CHECKING:
    from gevpy.connection import Connection
    from gevpy.server import Server

COUNTS = {
    "connections",
    "opened",
    "received_bytes",
    "sent_bytes",
    "received_messages",
    "sent_messages",
    "handler_errors",
    "dropped_messages",
    "rejected",
    "read_buffer_bytes",
    "write_buffer_bytes",
}
OF_A_WORKER = {"id", "pid", "state", "restarts", "uptime_s", "rss_bytes", "lag_s", "blocked_s"}


async def document(server: Server) -> dict[str, Any]:
    """Ask for ``/stats.json``."""
    answer = await fetch(endpoint_of(server).address, "/stats.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = json.loads(answer.text)
    return found


async def test_the_document_has_every_key_and_no_other() -> None:
    """This is the contract with those who read it."""
    began = time.time()
    async with asyncio.timeout(10), gevpy.serve(Echo(), port=0, metrics="127.0.0.1:0") as server:
        found = await document(server)
        (address,) = server.addresses
    assert set(found) == {"version", "started_at", "now", "state", "addresses", "restarts", "total", "workers"}
    assert set(found["total"]) == COUNTS
    (worker,) = found["workers"]
    assert set(worker) == COUNTS | OF_A_WORKER
    assert found["version"] == VERSION
    assert began <= found["started_at"] <= found["now"] <= time.time()
    assert found["addresses"] == [f"{address[0]}:{address[1]}"]
    assert (found["state"], found["restarts"]) == ("ready", 0)
    assert (worker["id"], worker["pid"], worker["state"], worker["restarts"]) == (0, os.getpid(), "ready", 0)
    assert worker["uptime_s"] > 0
    assert worker["blocked_s"] == 0
    assert set(found["total"].values()) == {0}
    assert {key: worker[key] for key in COUNTS} == found["total"]


async def test_the_document_counts_what_clients_do() -> None:
    """One client, a line and a half: connections, messages, bytes and buffers."""
    protocol = gevpy.LineProtocol()
    async with asyncio.timeout(10), gevpy.serve(Echo(), port=0, protocol=protocol, metrics="127.0.0.1:0") as server:
        client = await connect_to(server)
        client[1].write(b"whole\nhalf")
        assert await client[0].readexactly(6) == b"whole\n"
        total = (await document(server))["total"]
        assert (total["connections"], total["opened"]) == (1, 1)
        assert (total["received_messages"], total["sent_messages"]) == (1, 1)
        assert (total["received_bytes"], total["sent_bytes"]) == (10, 6)
        assert (total["read_buffer_bytes"], total["write_buffer_bytes"]) == (4, 0)
        await hang_up(client)


async def test_refusals_and_drops_are_sums_over_their_reasons() -> None:
    """However they were refused or dropped, each counts once."""
    limits = gevpy.Limits(max_connections=1, max_write_buffer_bytes=65536, slow_consumer="drop_newest")
    connected: asyncio.Queue[Connection] = asyncio.Queue()

    class Kept(Echo):
        def on_connect(self, conn: Connection) -> None:
            connected.put_nowait(conn)

    async with asyncio.timeout(10), gevpy.serve(Kept(), port=0, limits=limits, metrics="127.0.0.1:0") as server:
        client = await connect_to(server)
        conn = await connected.get()
        conn.send(bytes(16 * 1024 * 1024))
        conn.send(b"one too many")
        with contextlib.suppress(ConnectionError):
            await hang_up(await connect_to(server))
        total = (await document(server))["total"]
        assert (total["dropped_messages"], total["rejected"]) == (1, 1)
        assert total["write_buffer_bytes"] == conn.write_buffer_length > 0
        conn.abort()
        await hang_up(client)


async def test_the_state_follows_the_server() -> None:
    """Starting until ``on_start`` has ended, then ready, then draining; the worker says the same."""
    states: list[tuple[str, str]] = []

    class Slow(Echo):
        async def on_start(self, worker: object) -> None:
            await self.note()

        async def on_drain(self, conn: Connection) -> None:
            await self.note()

        async def note(self) -> None:
            found = await document(serving)
            states.append((found["state"], found["workers"][0]["state"]))

    handler = Slow()
    options = gevpy.serve(handler, port=0, metrics="127.0.0.1:0")
    serving = gevpy.server.Server(options._handler, options._options)
    async with asyncio.timeout(10):
        await serving.start()
        client = await connect_to(serving)
        client[1].write(b"hello")
        await client[0].readexactly(5)
        await handler.note()
        await serving.stop()
        await hang_up(client)
    assert states == [(state, state) for state in ("starting", "ready", "draining")]


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="this system has no /proc")  # noqa: PTH110
async def test_the_resident_set_is_that_of_the_process() -> None:
    """More than the interpreter's first few MiB, less than the machine could have."""
    async with asyncio.timeout(10), gevpy.serve(Echo(), port=0, metrics="127.0.0.1:0") as server:
        (worker,) = (await document(server))["workers"]
    assert 4 << 20 < worker["rss_bytes"] < 1 << 40


async def test_no_loops_is_a_document_as_well() -> None:
    """Before there is anything to count, all counts are 0."""
    source = LoopSource([])
    await source.refresh()
    found = source.stats()
    assert found["workers"] == []
    assert set(found["total"]) == COUNTS
    assert set(found["total"].values()) == {0}
