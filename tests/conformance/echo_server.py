"""The server that Autobahn|Testsuite is let loose on: it echoes, compressed where the client can do that.

It says its port in a line, and serves until SIGTERM. Its limits are the suite's: messages are up to 16 MiB.
"""

from __future__ import annotations

from typing import Any

import gevpy
from gevpy.websocket import WebSocketProtocol

MAX_MESSAGE_BYTES = 16 << 20


class Echo(gevpy.Handler):
    """Sends back what comes."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: Any) -> Any:
        """Echo."""
        return data


async def main() -> None:
    """Serve."""
    protocol = WebSocketProtocol(compression=True, max_message_bytes=MAX_MESSAGE_BYTES)
    async with gevpy.serve(Echo(), port=0, protocol=protocol) as server:
        (address,) = server.addresses
        print("port", address[1], flush=True)  # noqa: T201 - who started us waits for it
        await server.serve_forever()


if __name__ == "__main__":
    gevpy.run(main())
