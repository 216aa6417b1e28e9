"""Look at a connection's output before adding to it: who has more than 10 KiB waiting is skipped.

Run it:   python examples/bufferlength.py [--port 1833] [--interval 0.1]

Every 100 ms everyone gets 256 KiB. A peer that doesn't read fills the kernel's buffers, then its write buffer: from
then on it is skipped, and memory stays flat. If nothing leaves for 30 seconds, it is closed (timeouts.write_stall_s).
"""

from __future__ import annotations

import argparse
import logging

import gevpy

log = logging.getLogger("bufferlength")
LIMIT = 10 * 1024
NEWS = b"x" * (256 * 1024 - 1) + b"\n"


class News(gevpy.Handler):
    """Sends much to everyone who keeps up."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s

    def on_start(self, worker: gevpy.Worker) -> None:
        """Start the clock."""
        worker.run_every(self.interval_s, worker.broadcast, NEWS, self.keeps_up)

    def keeps_up(self, conn: gevpy.Connection) -> bool:
        """Tell whether the peer reads what it gets."""
        waiting = conn.write_buffer_length  # live: what waits at this moment
        if waiting > LIMIT:
            log.info("skipped %s: %d bytes wait", conn.peer_addr, waiting)
        return waiting <= LIMIT

    def on_message(self, conn: gevpy.Connection, ctx: object, data: bytes) -> None:
        """Let them talk: this server doesn't listen."""


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Skips peers that read too slowly.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    parser.add_argument("--interval", type=float, default=0.1, metavar="SECONDS", help="default %(default)s")
    options = parser.parse_args()
    async with gevpy.serve(News(options.interval), port=options.port) as server:
        slow = (
            f"import socket, time; s = socket.create_connection(('127.0.0.1', {server.addresses[0][1]})); time.sleep(9)"
        )
        print(f'try a peer that does not read:  python3 -c "{slow}"', flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    gevpy.run(main())
