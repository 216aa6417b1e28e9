"""Tornado's `TCPServer` and `IOStream`, its asyncio loop being uvloop."""

from __future__ import annotations

import asyncio
import contextlib

from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpserver import TCPServer

from bench.system.serving import BACKLOG, HOST, MAX_MESSAGE_BYTES, announce, arguments, run

READ_BYTES = 1 << 18
HEADER_BYTES = 4


async def echo_raw(stream: IOStream) -> None:
    """Echo what there is."""
    while True:
        await stream.write(await stream.read_bytes(READ_BYTES, partial=True))


async def echo_length_prefix(stream: IOStream) -> None:
    """Echo frames of a 4-byte big-endian length and a payload."""
    while True:
        header = await stream.read_bytes(HEADER_BYTES)
        payload = await stream.read_bytes(int.from_bytes(header, "big"))
        await stream.write(header + payload)


async def echo_line(stream: IOStream) -> None:
    """Echo lines."""
    while True:
        await stream.write(await stream.read_until(b"\n", max_bytes=MAX_MESSAGE_BYTES))


ECHOES = {"raw": echo_raw, "length_prefix": echo_length_prefix, "line": echo_line}


class Server(TCPServer):
    """Run one of the echoes on every connection."""

    protocol = "raw"

    async def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        """Echo until the peer closes."""
        stream.set_nodelay(True)
        with contextlib.suppress(StreamClosedError):
            await ECHOES[self.protocol](stream)


async def main(port: int, protocol: str) -> None:
    """Serve until killed."""
    server = Server(max_buffer_size=2 * MAX_MESSAGE_BYTES)
    server.protocol = protocol
    server.listen(port, HOST, backlog=BACKLOG)
    sockets = list(server._sockets.values())  # no public way to learn port 0's port
    announce(sockets[0].getsockname()[1], "tornado", "uvloop")
    await asyncio.Event().wait()


if __name__ == "__main__":
    options = arguments(*ECHOES)
    run(main(options.port, options.protocol), "uvloop")
