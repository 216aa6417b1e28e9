"""What the tests of the metrics port share: a client that asks as scrapers and browsers do, and takes answers apart."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily

import gevpy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from gevpy.connection import Connection
    from gevpy.metrics.endpoint import MetricsEndpoint
    from gevpy.server import Server

__all__ = [
    "Answer",
    "Echo",
    "HeldSource",
    "Streams",
    "connect",
    "connect_to",
    "endpoint_of",
    "exchange",
    "fetch",
    "hang_up",
]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo(gevpy.Handler):
    """Echoes."""

    def on_message(self, conn: Connection, ctx: Any, data: bytes) -> bytes:
        return data


def endpoint_of(server: Server) -> MetricsEndpoint:
    """Give the metrics port of a server."""
    assert server._endpoint is not None
    return server._endpoint


class HeldSource:
    """A source of numbers that takes as long to refresh as the test wants, and then shows how often it was.

    Attributes:
        asked: set when a refresh has begun.
        go_on: lets refreshes end; clear at first.
        refreshes: how many have begun.
        ended: how many have ended well: the number that is shown.
        failure: what a refresh raises instead.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.refreshes = 0
        self.ended = 0
        self.failure: Exception | None = None

    async def refresh(self) -> None:
        """Wait until the test lets it go on."""
        self.refreshes += 1
        self.asked.set()
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        self.ended += 1

    def collect(self) -> Iterator[Metric]:
        """Give one gauge."""
        yield GaugeMetricFamily("refreshes", "How many have ended.", value=self.ended)

    def stats(self) -> dict[str, Any]:
        """Give the same number."""
        return {"refreshes": self.ended}

    def trouble(self) -> str:
        """Know of none."""
        return ""


class Answer:
    """An HTTP answer, taken apart."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        self.version, status, self.phrase = line.split(" ", 2)
        self.status = int(status)
        self.headers = {name.lower(): text for name, text in (field.split(": ", 1) for field in fields)}

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


async def connect(address: str) -> Streams:
    """Connect to ``"host:port"``."""
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))


async def connect_to(server: Server) -> Streams:
    """Connect to the server itself."""
    (address,) = server.addresses
    assert not isinstance(address, str)
    return await asyncio.open_connection(*address)


async def hang_up(streams: Streams) -> None:
    """Close a client's side; whether the other was first doesn't matter."""
    streams[1].close()
    with contextlib.suppress(ConnectionError):
        await streams[1].wait_closed()


async def exchange(address: str, request: bytes) -> Answer:
    """Send ``request``, and give what comes until the end."""
    client = await connect(address)
    try:
        client[1].write(request)
        return Answer(await client[0].read())
    finally:
        await hang_up(client)


async def fetch(address: str, path: str, *fields: str, method: str = "GET", host: str | None = None) -> Answer:
    """Ask for ``path`` as a well-behaved client does."""
    head = [f"{method} {path} HTTP/1.1", f"Host: {host if host is not None else address}", *fields, "", ""]
    return await exchange(address, "\r\n".join(head).encode())
