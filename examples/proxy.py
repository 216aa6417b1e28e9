"""A TCP proxy: client and server on one loop, each side slowed down to the speed of the other; both end together.

A client that ends its side only, and waits for the answer, gets none: an end is an end here.

Run it:   python examples/proxy.py --to tcp://127.0.0.1:1834 [--port 1833]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

import gevpy


class Proxy(gevpy.Handler):
    """Connects to the target for everyone who comes, and passes bytes both ways."""

    def __init__(self, target: str) -> None:
        """Remember the target's URL."""
        self.target = target

    async def on_connect(self, conn: gevpy.Connection) -> None:
        """Connect to the target; nothing is read from the client before that."""
        try:
            conn.context = await gevpy.connect(self.target)
        except OSError as error:
            print(error, flush=True)
            conn.close()
            return
        conn.set("back", asyncio.create_task(self.pass_back(conn, conn.context)))

    async def on_message(self, conn: gevpy.Connection, ctx: object, data: bytes) -> None:
        """Pass on to the target; while that is behind, the client isn't read."""
        conn.context.send(data)
        await conn.context.drain()

    async def pass_back(self, conn: gevpy.Connection, target: gevpy.Client) -> None:
        """Pass back to the client; while that is behind, the target isn't read."""
        with contextlib.suppress(gevpy.ConnectionClosed):
            async for data in target:
                conn.send(data)
                await conn.drain()
        conn.close()

    async def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        """Close the target's side, too."""
        if conn.context is not None:
            await conn.context.close()


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Passes bytes to a target and back.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    parser.add_argument("--to", default="tcp://127.0.0.1:1834", metavar="URL", help="default %(default)s")
    options = parser.parse_args()
    async with gevpy.serve(Proxy(options.to), port=options.port) as server:
        print(f"try:  nc 127.0.0.1 {server.addresses[0][1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    gevpy.run(main())
