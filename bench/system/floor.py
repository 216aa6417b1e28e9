"""The floor: a raw `asyncio.Protocol` that writes back what it got, on uvloop or asyncio.

Nothing in Python that frames, limits, counts or times messages can cost less, so gevpy's figures are
ratios to it. It has no framing: it echoes length-prefixed messages and lines as the bytes they are.
"""

from __future__ import annotations

import asyncio
from typing import cast

from bench.system.serving import BACKLOG, HOST, announce, arguments, run


class Echo(asyncio.Protocol):
    """Write back whatever arrives, at once."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Echo."""
        self.transport.write(data)


async def main(port: int, loop_name: str) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, HOST, port, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1], *(["uvloop"] if loop_name == "uvloop" else []))
    await server.serve_forever()


if __name__ == "__main__":
    options = arguments("raw", "length_prefix", "line", loops=("uvloop", "asyncio"))
    run(main(options.port, options.loop), options.loop)
