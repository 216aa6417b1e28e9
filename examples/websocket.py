"""WebSocket: a look at who comes, three ways to reply, picked at random, and news for everybody every 200 ms.

Run it:   python examples/websocket.py [--port 1833] [--workers 1] [--interval 0.2]
"""

from __future__ import annotations

import argparse
import logging
import random

import gevpy
from gevpy.websocket import Opcode, Request, Response, WebSocketProtocol

log = logging.getLogger("websocket")


class Surprise(gevpy.Handler):
    """Replies now, replies later, or says good-bye."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s

    def on_start(self, worker: gevpy.Worker) -> None:
        """Start the clock; all who are on this worker get the very same frame."""
        worker.run_every(self.interval_s, worker.broadcast, "news for everybody")

    def on_request(self, conn: gevpy.Connection, request: Request) -> Response | None:
        """Look at the request; a Response refuses it, or is a page for whoever asked for one."""
        log.info("%s wants %a, from %s", conn.peer_addr, request.path, request.headers.get("origin", "a program"))
        if request.path == "/staff":
            return Response(403, "staff only")
        return None if request.wants_upgrade else Response(200, "this is a WebSocket server")

    def on_connect(self, conn: gevpy.Connection) -> None:
        """Greet; the handshake is done, and the request stays at hand."""
        conn.send(f"welcome to {conn.request.path if conn.request else '/'}, speaking {conn.subprotocol}")

    def on_message(self, conn: gevpy.Connection, ctx: Opcode, data: str | bytes) -> str | bytes | None:
        """Reply with the same text or bytes, in half a second, or for the last time."""
        match random.choice(("now", "later", "never again")):  # noqa: S311 - a game
            case "now":
                return data  # str goes as text, bytes as binary
            case "later":
                conn.worker.run_after(0.5, self.push, conn, data)
            case _:
                conn.close(1000, "enough for today")
        return None

    def push(self, conn: gevpy.Connection, data: str | bytes) -> None:
        """Send, unless the peer has left meanwhile."""
        if conn.connected:
            conn.send("half a second ago you said:")
            conn.send(data)

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        """Note who left; the kind says who began, code and text are those of the close frame."""
        log.info("%s left: %s", conn.peer_addr, reason)


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Surprises its WebSocket clients.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    parser.add_argument("--workers", type=int, default=1, help="processes; default %(default)s")
    parser.add_argument("--interval", type=float, default=0.2, metavar="SECONDS", help="default %(default)s")
    options = parser.parse_args()
    protocol = WebSocketProtocol(subprotocols=["surprise.v1"])
    app = Surprise(options.interval)
    async with gevpy.serve(app, port=options.port, protocol=protocol, workers=options.workers) as server:
        port = server.addresses[0][1]
        print(f"try:  python -m websockets ws://127.0.0.1:{port}/lobby    (pip install websockets)", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    gevpy.run(main())
