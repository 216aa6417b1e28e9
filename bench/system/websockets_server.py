"""The `websockets` library, on uvloop, compression off unless `--deflate` is given."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bench.system.serving import BACKLOG, HOST, MAX_MESSAGE_BYTES, announce, arguments, run


async def echo(connection: ServerConnection) -> None:
    """Echo every message."""
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        return


async def main(port: int, *, deflate: bool) -> None:
    """Serve until killed."""
    async with serve(
        echo,
        HOST,
        port,
        compression="deflate" if deflate else None,
        max_size=MAX_MESSAGE_BYTES,
        ping_interval=None,
        backlog=BACKLOG,
    ) as server:
        announce(next(iter(server.sockets)).getsockname()[1], "websockets", "uvloop")
        await asyncio.Event().wait()


if __name__ == "__main__":
    options = arguments("websocket")
    run(main(options.port, deflate=options.deflate), "uvloop")
