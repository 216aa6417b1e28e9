"""No more than so many: the second peer is refused as long as the first is there. Two ways to do it.

Run it:   python examples/maxconnection.py [--port 1833] [--limit 1] [--by handler]
--by handler   the application decides: one too many is told so and closed, and takes no place while it goes away
--by limits    gevpy decides, before the handler hears of it: cheapest, for protection; counted in the metrics
"""

from __future__ import annotations

import argparse
import logging

import gevpy

log = logging.getLogger("maxconnection")


class Guests(gevpy.Handler):
    """Echoes for a few guests."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.guests: set[int] = set()

    def on_connect(self, conn: gevpy.Connection) -> None:
        """Let in, or refuse: what is sent before close() still leaves."""
        if len(self.guests) < self.limit:
            self.guests.add(conn.id)
            return
        log.info("refused %s: %d are here", conn.peer_addr, len(self.guests))
        conn.send(b"full\n")
        conn.close()

    def on_message(self, conn: gevpy.Connection, ctx: object, data: bytes) -> bytes:
        """Reply with the same bytes."""
        return data

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        """Free the place, if it had one."""
        self.guests.discard(conn.id)


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serves only so many at once.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    parser.add_argument("--limit", type=int, default=1, help="default %(default)s")
    parser.add_argument("--by", choices=("handler", "limits"), default="handler", help="who decides")
    options = parser.parse_args()
    limits = gevpy.Limits(max_connections=options.limit if options.by == "limits" else None)
    async with gevpy.serve(Guests(options.limit), port=options.port, limits=limits) as server:
        print(f"try, in two terminals:  nc 127.0.0.1 {server.addresses[0][1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    gevpy.run(main())
