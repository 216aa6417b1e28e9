"""The `websockets` library, on uvloop, compression off unless `--deflate` is given."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from bench.system.serving import BACKLOG, HOST, MAX_MESSAGE_BYTES, announce, arguments, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def echo(connection: ServerConnection) -> None:
    """Echo every message."""
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        return


AUDIENCE: set[ServerConnection] = set()


async def spread(connection: ServerConnection) -> None:
    """Send each message to everybody, as often as its first byte says."""
    AUDIENCE.add(connection)
    try:
        async for message in connection:
            assert isinstance(message, bytes), "it is sent as binary"
            for _ in range(message[0]):
                broadcast(AUDIENCE, message)
    except ConnectionClosed:
        return
    finally:
        AUDIENCE.discard(connection)


async def main(port: int, handler: Callable[[ServerConnection], Awaitable[None]], *, deflate: bool) -> None:
    """Serve until killed."""
    async with serve(
        handler,
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
    options = arguments("websocket", "broadcast")
    handler = spread if options.protocol == "broadcast" else echo
    run(main(options.port, handler, deflate=options.deflate), "uvloop")
