"""asyncio streams, on uvloop or asyncio: `read`, `readexactly` or `readline`, then `write` and `drain`."""

from __future__ import annotations

import asyncio
import contextlib

from bench.system.serving import BACKLOG, HOST, MAX_MESSAGE_BYTES, announce, arguments, run

READ_BYTES = 1 << 18
HEADER_BYTES = 4


async def echo_raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo what there is."""
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()


async def echo_length_prefix(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo frames of a 4-byte big-endian length and a payload."""
    while True:
        header = await reader.readexactly(HEADER_BYTES)
        payload = await reader.readexactly(int.from_bytes(header, "big"))
        writer.writelines((header, payload))
        await writer.drain()


async def echo_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo lines."""
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()


ECHOES = {"raw": echo_raw, "length_prefix": echo_length_prefix, "line": echo_line}


async def main(port: int, protocol: str, loop_name: str) -> None:
    """Serve until killed."""
    echo = ECHOES[protocol]

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await echo(reader, writer)
        writer.close()

    server = await asyncio.start_server(on_connection, HOST, port, backlog=BACKLOG, limit=MAX_MESSAGE_BYTES)
    announce(server.sockets[0].getsockname()[1], *(["uvloop"] if loop_name == "uvloop" else []))
    await server.serve_forever()


if __name__ == "__main__":
    options = arguments(*ECHOES, loops=("uvloop", "asyncio"))
    run(main(options.port, options.protocol, options.loop), options.loop)
