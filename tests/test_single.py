"""A server in the calling loop, by itself: what it says before, while and after it runs, and what it leaves."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

import gevpy
from gevpy.errors import BindError
from gevpy.options import ServeOptions
from gevpy.single import SingleLoop
from tests.serving import Client, Recorder, recording, soon, until


def options(**given: Any) -> ServeOptions:
    """Give options that suit a test."""
    return ServeOptions(**{"protocol": gevpy.RawProtocol(), "port": 0, **given})


async def test_before_it_is_bound_there_is_nothing() -> None:
    """No address, nobody connected, nothing to drain, nothing to close; what needs more says so."""
    site = SingleLoop(Recorder(), options())
    assert (site.addresses, site.connections) == ([], 0)
    assert not site.runs_current_task()
    site.hurry()
    with pytest.raises(RuntimeError, match="not running"):
        _ = site.timers
    with pytest.raises(RuntimeError, match="not running"):
        site.broadcast(b"x")
    await soon(site.stop(None))
    await soon(site.close())


async def test_it_listens_from_bind_and_serves_from_accept() -> None:
    """Who comes in between waits, and is served then."""
    handler = Recorder()
    site = SingleLoop(handler, options())
    site.bind()
    async with await Client.connect(site.addresses[0]) as client:
        await client.send(b"early")
        await site.start()
        for _ in range(20):
            await asyncio.sleep(0)
        assert site.connections == 0
        site.accept()
        assert await handler.message() == b"early"
        assert site.connections == 1
        site.broadcast(b"to all")
        assert await client.read(6) == b"to all"
        await soon(site.stop(1.0))
        assert await client.read_to_end() == b""
    await soon(site.close())
    assert (site.addresses, site.connections) == ([], 0)


async def test_an_address_that_is_taken_leaves_nothing() -> None:
    """The error names it, and closing afterwards is fine."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        site = SingleLoop(Recorder(), options(port=port))
        with pytest.raises(BindError, match=str(port)):
            site.bind()
        assert site.addresses == []
        await soon(site.close())


async def test_a_greeting_that_fails_can_be_closed() -> None:
    """The error is the application's own."""

    def fail(worker: gevpy.Worker) -> None:
        raise OSError("no database")

    site = SingleLoop(recording(on_start=fail), options())
    site.bind()
    with pytest.raises(OSError, match="no database"):
        await site.start()
    (address,) = site.addresses
    await soon(site.close())
    with pytest.raises(ConnectionRefusedError):
        await Client.connect(address)


async def test_closing_twice_is_closing_once() -> None:
    """In whatever state it is."""
    site = SingleLoop(Recorder(), options())
    site.bind()
    await site.start()
    site.accept()
    await soon(site.stop(0.0))
    await soon(site.stop(0.0))
    await soon(site.close())
    await soon(site.close())


async def test_publish_reaches_subscribers() -> None:
    """The server's own publish, from outside of a handler."""
    handler = recording(on_connect=lambda conn: conn.subscribe("news") if conn.worker.connections == 1 else None)
    site = SingleLoop(handler, options())
    site.bind()
    await site.start()
    site.accept()
    async with await Client.connect(site.addresses[0]) as first:
        await until(lambda: site.connections == 1)
        async with await Client.connect(site.addresses[0]) as second:
            await until(lambda: site.connections == 2)
            site.publish("news", b"hot")
            site.broadcast(b"all")
            assert await first.read(6) == b"hotall"
            assert await second.read(3) == b"all"
    await soon(site.stop(1.0))
    await soon(site.close())


async def test_the_figures_are_there_without_a_metrics_port() -> None:
    """`Server.stats` is the document of ``/stats.json``; before the start there is none."""
    serving = gevpy.serve(Recorder(), port=0)
    server = gevpy.server.Server(serving._handler, serving._options)
    with pytest.raises(RuntimeError, match="has not started"):
        server.stats()
    async with gevpy.serve(Recorder(), port=0) as running, await Client.connect(running.addresses[0]) as client:
        await client.send(b"hello")
        await until(lambda: running.stats()["total"]["received_messages"] == 1)
        found = running.stats()
        assert (found["state"], found["total"]["connections"], len(found["workers"])) == ("ready", 1, 1)
    assert running.stats()["total"]["opened"] == 1
