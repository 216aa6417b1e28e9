"""Rows C7 to C9: streams that end on one side first, and that end with bytes still on their way."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from tests.integration.fault_server import pattern
from tests.integration.harness import SOAK, Crowd, FaultServer, receive_all, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

WRITERS = 10_000 if SOAK else 2_000
WRITTEN = 64 * 1024
MUCH = 4 * 1024 * 1024
DEADLINE_S = 15


class LateEcho(gevpy.Handler):
    """Answers when it is told to: after the peer's FIN has come."""

    def __init__(self) -> None:
        """Hold replies back."""
        self.may_reply = asyncio.Event()
        self.reason: asyncio.Future[gevpy.CloseReason] = asyncio.get_running_loop().create_future()

    async def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> bytes:
        await self.may_reply.wait()
        return data

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        self.reason.set_result(reason)


class Lingering(gevpy.Handler):
    """Sends a while after the peer's FIN, and closes then."""

    def __init__(self, after_s: float) -> None:
        """Take ``after_s`` seconds."""
        self.after_s = after_s

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> None:
        conn.worker.run_after(self.after_s, self.finish, conn, data)

    def finish(self, conn: gevpy.Connection, data: bytes) -> None:
        """Say the last word."""
        conn.send(data * 1000)
        conn.close()


async def half_closed(port: int, data: bytes) -> asyncio.StreamReader:
    """Send ``data`` and the end of the stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    await writer.drain()
    return reader


async def test_replies_are_flushed_after_the_peers_fin() -> None:
    """C7: ``printf x; shutdown; read`` gets its reply, also one that is ready after the FIN; then we close."""
    handler = LateEcho()
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][1])
        writer.write(b"x")
        writer.write_eof()
        await writer.drain()
        asyncio.get_running_loop().call_later(0.02, handler.may_reply.set)
        assert await reader.read() == b"x"
        assert (await handler.reason).kind is gevpy.CloseKind.PEER_CLOSED
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("half_close", [False, True])
async def test_half_close_is_an_option(*, half_close: bool) -> None:
    """C7: only with ``half_close`` our side stays open after the peer's FIN, until the handler closes."""
    handler = Lingering(0.05 if half_close else 5.0)  # uvloop's timers overtake a FIN that has come
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0, half_close=half_close) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][1])
        writer.write(b"x")
        writer.write_eof()
        await writer.drain()
        assert await reader.read() == (b"x" * 1000 if half_close else b"")
        writer.close()
        await writer.wait_closed()


def test_every_byte_before_the_fin_is_delivered(fault_server: Callable[..., FaultServer]) -> None:
    """C8: of 2,000 peers that write 64 KiB and close at once, every byte is handled before ``on_close``."""
    with fault_server("sum") as server:
        payload = bytes(WRITTEN)
        for _ in range(WRITERS):
            with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as sock:
                sock.sendall(payload)
        wait_until(lambda: server.report()["closes"] == WRITERS + 1, "every writer's on_close")  # and the first of all
        assert dict(server.ask("sums")) == {WRITTEN: WRITERS, 0: 1}
        assert server.report()["closed"] == {"peer_closed": WRITERS + 1}


@pytest.mark.parametrize("unread", [0, 3_000_000])
def test_close_flushes_what_waits(fault_server: Callable[..., FaultServer], unread: int) -> None:
    """C9: after a send of 4 MB and ``close()`` the client gets it all, then a FIN, also with input left unread."""
    with fault_server("reply") as server, Crowd(server.port) as crowd:
        sock = crowd.join(receive_buffer=64 * 1024)
        sock.sendall(f"{MUCH} close".encode())
        wait_until(lambda: server.report()["sent_messages"], "the handler has closed")
        sock.setblocking(False)
        sent = 0
        while sent < unread:  # as much of it as the kernels take
            try:
                sent += sock.send(bytes(unread - sent))
            except BlockingIOError:
                break
        sock.settimeout(DEADLINE_S)
        assert receive_all(sock) == pattern(MUCH)
        server.wait_for(0)
        assert server.report()["closed"].get("closed_locally") == 1
