"""Push: every second, "hello" goes to everyone who is connected.

Run it:   python examples/pushmessage.py [--port 1833] [--interval 1]

No list of connections and no lock: the worker knows its connections, and everything runs on its loop.
"""

from __future__ import annotations

import argparse
import logging

import gevpy

log = logging.getLogger("pushmessage")


class Push(gevpy.Handler):
    """Says hello again and again."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s

    def on_start(self, worker: gevpy.Worker) -> None:
        """Start the clock."""
        worker.run_every(self.interval_s, worker.broadcast, b"hello\n")

    def on_connect(self, conn: gevpy.Connection) -> None:
        """Note who came."""
        log.info("%s came: %d connected", conn.peer_addr, conn.worker.connections)

    def on_message(self, conn: gevpy.Connection, ctx: object, data: bytes) -> None:
        """Let them talk: this server doesn't listen."""

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        """Note who left, and why."""
        log.info("%s left (%s): %d connected", conn.peer_addr, reason, conn.worker.connections)


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Pushes a greeting to everyone.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="default %(default)s")
    options = parser.parse_args()
    async with gevpy.serve(Push(options.interval), port=options.port) as server:
        print(f"try:  nc 127.0.0.1 {server.addresses[0][1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    gevpy.run(main())
