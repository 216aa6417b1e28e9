"""Send from a thread, out of a pool of buffers: each goes back when its bytes have really left.

Run it:   python examples/sendasync.py [--port 1833]
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from queue import SimpleQueue

import gevpy

BUFFERS = 4


class Shout(gevpy.Handler):
    """Replies in capitals, worked out in a thread."""

    def __init__(self) -> None:
        self.pool: SimpleQueue[bytearray] = SimpleQueue()  # a thread that finds it empty waits
        for _ in range(BUFFERS):
            self.pool.put(bytearray())

    async def on_message(self, conn: gevpy.Connection, ctx: object, data: bytes) -> None:
        """Hand over to a thread; awaiting it keeps the order, and reads no more than can be worked off."""
        await asyncio.to_thread(self.work, conn, data)

    def work(self, conn: gevpy.Connection, data: bytes) -> None:
        """Do what blocks (here: nothing), and send from this thread."""
        buffer = self.pool.get()
        buffer[:] = data.upper()
        try:
            conn.send(buffer, on_written=self.give_back)
        except gevpy.ConnectionClosed:  # not accepted: nobody will call give_back
            self.pool.put(buffer)

    def give_back(self, buffer: bytearray, error: BaseException | None) -> None:
        """Put the buffer back: called once for each accepted send, on the loop; error None means that it left."""
        self.pool.put(buffer)

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        """Show that none is lost."""
        print(f"{conn.peer_addr} closed: {reason}; {self.pool.qsize()} of {BUFFERS} buffers free", flush=True)


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Replies in capitals, from a thread.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    async with gevpy.serve(Shout(), port=parser.parse_args().port) as server:
        print(f"try:  nc 127.0.0.1 {server.addresses[0][1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    gevpy.run(main())
