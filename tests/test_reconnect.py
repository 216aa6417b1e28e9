"""Connecting again: the back-off by itself, without a clock, and the iterator that uses it."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import connecting, reconnect
from gevpy.connecting import Connecting, connect
from gevpy.log_limit import LimitedLog
from gevpy.reconnect import FIRST_S, LASTED_S, LONGEST_S, Backoff
from tests.peers import black_hole, listening, refusing_port
from tests.serving import soon, turns, until

if TYPE_CHECKING:
    from gevpy.client import Client

LINES = gevpy.LineProtocol()


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Record the windows that waits are drawn from; every draw gives the end of its window."""
    drawn: list[tuple[float, float]] = []

    def uniform(least: float, most: float) -> float:
        drawn.append((least, most))
        return most

    monkeypatch.setattr(random, "uniform", uniform)
    return drawn


def waits(backoff: Backoff, count: int) -> list[float]:
    """Draw so many waits."""
    return [backoff.next_wait_s() for _ in range(count)]


def test_window_doubles_up_to_its_bound(windows: list[tuple[float, float]]) -> None:
    """The window begins at 0.1 s, doubles, and stays at 30 s."""
    assert waits(Backoff(None), 11) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, LONGEST_S, LONGEST_S]
    assert {least for least, _ in windows} == {0.0}


def test_jitter_is_full() -> None:
    """Waits are spread over the whole window, down to nothing: many clients don't come back in one moment."""
    firsts = [Backoff(None).next_wait_s() for _ in range(1000)]
    assert min(firsts) < FIRST_S / 10
    assert max(firsts) > FIRST_S * 9 / 10
    assert all(0 <= wait <= FIRST_S for wait in firsts)


@pytest.mark.usefixtures("windows")
def test_window_is_small_again_after_a_connection_that_lasted() -> None:
    """A connection that lasted begins anew; one that was dropped soon doesn't, so that a server isn't hammered."""
    backoff = Backoff(None)
    assert waits(backoff, 3) == [0.1, 0.2, 0.4]
    backoff.ended(LASTED_S - 0.1)
    assert waits(backoff, 1) == [0.8]
    backoff.ended(LASTED_S)
    assert waits(backoff, 2) == [0.1, 0.2]


def test_gives_up_after_failures_in_a_row() -> None:
    """So many failures in a row are the end; a connection in between, however short, begins a new row."""
    backoff = Backoff(2)
    backoff.failed()
    backoff.ended(0.0)
    assert not backoff.exhausted
    backoff.failed()
    assert not backoff.exhausted
    backoff.failed()
    assert backoff.exhausted


def test_never_gives_up_by_default() -> None:
    """Without a number there is no end, and the waits stay bounded."""
    backoff = Backoff(None)
    for _ in range(5000):
        backoff.failed()
        assert backoff.next_wait_s() <= LONGEST_S
    assert not backoff.exhausted


# -- the iterator ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing logged yet."""
    monkeypatch.setattr(connecting, "log", LimitedLog(logging.getLogger("gevpy.client")))


async def first(attempts: Connecting) -> Client:
    """Give the first client of an iteration."""
    return await soon(anext(aiter(attempts)))


@pytest.fixture
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the windows begin and end at a millisecond."""
    monkeypatch.setattr(reconnect, "FIRST_S", 0.001)
    monkeypatch.setattr(reconnect, "LONGEST_S", 0.001)


@pytest.mark.usefixtures("soon_again")
async def test_connects_again_and_again() -> None:
    """Each turn gives another client, connected; the one before is closed by then."""
    clients: list[Any] = []
    async with listening() as peers:
        async for client in connect(peers.url, protocol=LINES):
            peer = await peers.take()
            await peer.send(b"%d\n" % len(clients))
            assert await soon(client.recv()) == b"%d" % len(clients)
            assert all(one.closed for one in clients)
            clients.append(client)
            if len(clients) == 3:
                break
    await until(lambda: all(client.closed for client in clients))
    await until(lambda: len(asyncio.all_tasks()) == 1)


@pytest.mark.usefixtures("soon_again")
async def test_comes_back_when_the_server_does() -> None:
    """A server that closes, is away for some attempts, and listens again, is found again."""
    with refusing_port() as port:
        async with listening(port) as peers:
            clients = aiter(connect(peers.url, protocol=LINES))
            client = await soon(anext(clients))
            (await peers.take()).close()
            assert [line async for line in client] == []
        coming = asyncio.ensure_future(anext(clients))
        await turns(20)
        assert not coming.done()
        async with listening(port) as peers:
            client = await soon(coming)
            peer = await peers.take()
            await peer.send(b"back\n")
            assert await soon(client.recv()) == b"back"
            await soon(clients.aclose())
            assert client.closed


@pytest.mark.usefixtures("soon_again")
async def test_gives_up_with_the_last_error(caplog: pytest.LogCaptureFixture) -> None:
    """After ``attempts`` failures in a row the last error is raised; those before are logged, at most one a while."""
    with refusing_port() as port, caplog.at_level(logging.WARNING):
        url = f"tcp://127.0.0.1:{port}"
        with pytest.raises(ConnectionRefusedError, match=url):
            await first(connect(url, attempts=5))
    (record,) = caplog.records
    assert record.name == "gevpy.client"
    text = f"cannot connect to {url}: Connection refused; the next attempt (2) follows in 0.0 s"
    assert record.getMessage() == text


@pytest.mark.usefixtures("soon_again")
async def test_timeouts_are_failures_too() -> None:
    """A server that leads nowhere counts like one that refuses."""
    with black_hole() as port, pytest.raises(TimeoutError):
        await first(connect(f"tcp://127.0.0.1:{port}", connect_timeout_s=0.02, attempts=2))


@pytest.mark.usefixtures("soon_again")
async def test_handshakes_that_fail_are_failures_too() -> None:
    """A TLS handshake that fails is tried again, and is the error in the end."""
    async with listening() as peers:

        async def hang_up() -> None:
            for _ in range(2):
                (await peers.take()).close()

        hanging_up = asyncio.ensure_future(hang_up())
        with pytest.raises(gevpy.HandshakeError):
            await first(connect(peers.url.replace("tcp", "tls"), attempts=2))
        await soon(hanging_up)


def answer(status: int) -> bytes:
    """Write an HTTP answer that refuses."""
    return f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nRetry-After: 5\r\n\r\n".encode()


@pytest.mark.usefixtures("soon_again")
@pytest.mark.parametrize(("statuses", "raised"), [([401], 401), ([503, 429, 403], 403), ([302], 302)])
async def test_a_refusal_that_lasts_is_raised(statuses: list[int], raised: int) -> None:
    """Who isn't let in needn't ask again; a server that is busy is asked once more. The error names the server."""
    async with listening() as peers:

        async def refuse() -> None:
            for status in statuses:
                peer = await peers.take()
                await peer.recv()  # the request
                await peer.send(answer(status))
                peer.close()

        refusing = asyncio.ensure_future(refuse())
        url = peers.url.replace("tcp", "ws")
        with pytest.raises(gevpy.HandshakeError, match=f"cannot connect to {url}/?: .*{raised}") as caught:
            await first(connect(url))
        assert caught.value.status == raised
        assert caught.value.headers["retry-after"] == "5"
        await soon(refusing)


async def test_errors_of_the_body_are_its_own() -> None:
    """What the body raises isn't caught, nor a reason to connect again; and the client is closed."""
    kept: list[Any] = []
    async with listening() as peers:

        async def use() -> None:
            async for client in connect(peers.url):
                kept.append(client)
                client.send("no bytes")

        with pytest.raises(TypeError):
            await soon(use())
        await until(lambda: kept[0].closed)
        assert len(kept) == 1


@pytest.mark.parametrize("steps", range(12))
async def test_iterating_can_be_cancelled_anywhere(steps: int) -> None:
    """While it connects, waits, or closes: cancelled, it leaves no client and no task."""
    async with listening() as peers:

        async def forever() -> None:
            async for client in connect(peers.url, protocol=LINES):
                async with client:
                    client.abort()

        task = asyncio.ensure_future(forever())
        await turns(steps)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await soon(task)
        await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_cancelled_wait_is_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait between two attempts can be cancelled, however long it is."""
    monkeypatch.setattr(reconnect, "FIRST_S", 10_000.0)

    async def forever() -> None:
        async for _ in connect(f"tcp://127.0.0.1:{port}"):
            pytest.fail("nobody is there")

    with refusing_port() as port:
        task = asyncio.ensure_future(forever())
        await until(lambda: connecting.log._last)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
