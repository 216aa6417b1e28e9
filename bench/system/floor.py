"""The floor: a raw `asyncio.Protocol` that writes back what it got, on uvloop or asyncio.

Nothing in Python that frames, limits, counts or times messages can cost less, so gevpy's figures are
ratios to it. It has no framing: it echoes length-prefixed messages and lines as the bytes they are.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from bench.system.certificate import server_context
from bench.system.serving import BACKLOG, HOST, announce, arguments, run

if TYPE_CHECKING:
    import ssl


class Echo(asyncio.Protocol):
    """Write back whatever arrives, at once."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Echo."""
        self.transport.write(data)


async def main(port: int, loop_name: str, context: ssl.SSLContext | None) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, HOST, port, backlog=BACKLOG, ssl=context)
    announce(server.sockets[0].getsockname()[1], *(["uvloop"] if loop_name == "uvloop" else []))
    await server.serve_forever()


if __name__ == "__main__":
    options = arguments("raw", "length_prefix", "line", "tls", loops=("uvloop", "asyncio"))
    run(main(options.port, options.loop, server_context() if options.protocol == "tls" else None), options.loop)
