"""A broadcast's way through the connections of a worker: one frame, many queues, one write for each connection."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

import gevpy
from bench.harness import Case
from bench.protocol.cycle import HANDSHAKE, Echo, MockTransport, feed
from gevpy.admission import Admission
from gevpy.connection import Connection
from gevpy.reactor import Reactor
from gevpy.websocket import WebSocketProtocol
from gevpy.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CASES"]

CONNECTIONS = 32
MESSAGE = b"m" * 128
FRAME_BYTES = 4 + len(MESSAGE)


def broadcast(times: int) -> Callable[[int], None]:
    """Send to everybody so often, and end the turn: what waits is flushed by us, not by a loop."""
    options = gevpy.ServeOptions(protocol=WebSocketProtocol())
    reactor = Reactor(asyncio.new_event_loop(), Echo(), options, Admission(CONNECTIONS, None))
    worker = Worker(reactor, 0)
    transport = MockTransport()
    for _ in range(CONNECTIONS):
        conn = Connection(reactor, "", "")
        conn.connection_made(transport)
        feed(conn, HANDSHAKE)

    def run(count: int) -> None:
        before = transport.written
        for _ in range(count):
            for _ in range(times):
                worker.broadcast(MESSAGE)
            reactor.flush_dirty()
        assert transport.written - before == count * times * CONNECTIONS * FRAME_BYTES, "somebody got too little"

    return run


def _case(times: int) -> Case:
    name = f"broadcast: WebSocket 128 B, {times} in a turn"
    return Case(name, functools.partial(broadcast, times), scale=times * CONNECTIONS)


CASES = (_case(1), _case(10))
