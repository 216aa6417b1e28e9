"""Idle connections: who is silent for 5 seconds is closed.

Run it:   python examples/idleconnection.py [--port 1833] [--idle 5]

One wheel turns for all connections, not a timer for each. What is sent to a peer counts as life, too, unless
idle_refresh="read" says otherwise.
"""

from __future__ import annotations

import argparse
import logging

import gevpy

log = logging.getLogger("idleconnection")


class Echo(gevpy.Handler):
    """Echoes, and tells how connections end."""

    def on_connect(self, conn: gevpy.Connection) -> None:
        """Note who came."""
        log.info("%s came", conn.peer_addr)

    def on_message(self, conn: gevpy.Connection, ctx: object, data: bytes) -> bytes:
        """Reply with the same bytes, which begins a new 5 seconds."""
        return data

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        """Say why: ``idle``, or ``peer_closed`` where the peer left by itself."""
        log.info("%s closed: %s", conn.peer_addr, reason)


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Closes connections on which nothing moves.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    parser.add_argument("--idle", type=float, default=5.0, metavar="SECONDS", help="default %(default)s")
    options = parser.parse_args()
    async with gevpy.serve(Echo(), port=options.port, idle_timeout_s=options.idle) as server:
        print(f"try, and then wait:  nc 127.0.0.1 {server.addresses[0][1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    gevpy.run(main())
