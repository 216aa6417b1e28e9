"""Echo: sends back whatever comes, and says every 2 seconds how many are connected, if that has changed.

Run it:   python examples/echo.py [--port 1833] [--metrics]
"""

from __future__ import annotations

import argparse
import logging
import sys

import gevpy

log = logging.getLogger("echo")


class Echo(gevpy.Handler):
    """Returns what it gets, and says how many are there."""

    reported = 0

    def on_start(self, worker: gevpy.Worker) -> None:
        """Look every 2 seconds."""
        worker.run_every(2, self.report, worker)

    def on_message(self, conn: gevpy.Connection, ctx: object, data: bytes) -> bytes:
        """Reply with the same bytes."""
        return data

    def report(self, worker: gevpy.Worker) -> None:
        """Log the count when it is news."""
        if worker.connections != self.reported:
            self.reported = worker.connections
            log.info("connections: %d", self.reported)


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Sends back whatever comes.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    parser.add_argument("--metrics", nargs="?", const="127.0.0.1:9091", metavar="HOST:PORT", help="default %(const)s")
    options = parser.parse_args()
    async with gevpy.serve(Echo(), port=options.port, metrics=options.metrics) as server:
        port = server.addresses[0][1]
        talk = (
            f"import socket as s; c = s.create_connection(('127.0.0.1', {port})); c.send(b'hello'); print(c.recv(99))"
        )
        print(f"\n  try:  nc 127.0.0.1 {port}    (in another terminal; type something)", flush=True)
        print(f'  or:   python3 -c "{talk}"\n  stop: Ctrl-C\n', flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        gevpy.run(main())
    except gevpy.BindError as error:
        sys.exit(f"{error}; choose another with --port (or --metrics)")
