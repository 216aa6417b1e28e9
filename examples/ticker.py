"""A live ticker: prices that walk at random, pushed over WebSocket to whoever asks for them.

Run it:   python examples/ticker.py [--port 1833] [--workers 1] [--interval 0.1]

Say {"subscribe": ["ACME", "DUCK"]} or {"unsubscribe": ["DUCK"]}; get {"symbol": "ACME", "price": 100.21, "beat": 7}.
Who reads too slowly loses the oldest prices, never the newest: with prices, only those count.
"""

from __future__ import annotations

import argparse
import json
import random
from typing import TYPE_CHECKING

import gevpy
from gevpy.websocket import Opcode, WebSocketProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

SYMBOLS = ("ACME", "BOLT", "DUCK", "GEVP", "MOON", "TOAD")
LIMITS = gevpy.Limits(slow_consumer="drop_oldest", max_write_buffer_bytes=64 * 1024)  # for each client


class Ticker(gevpy.Handler):
    """Knows nothing of prices, only who wants which: a topic is a symbol."""

    def on_message(self, conn: gevpy.Connection, ctx: Opcode, data: str | bytes) -> str:
        """Take an order, and say what is ordered now."""
        try:
            order = json.loads(data)
            known = {action: [each for each in SYMBOLS if each in symbols] for action, symbols in order.items()}
        except (ValueError, AttributeError, TypeError, RecursionError):
            return '{"error": "say, for example, {\\"subscribe\\": [\\"ACME\\"]}"}'
        for symbol in known.get("subscribe", ()):
            conn.subscribe(symbol)
        for symbol in known.get("unsubscribe", ()):
            conn.unsubscribe(symbol)
        return json.dumps(known)


class Market:
    """Where the prices are made: once, for all workers."""

    def __init__(self, publish: Callable[[str, str], None]) -> None:
        self.publish = publish
        self.prices = dict.fromkeys(SYMBOLS, 100.0)
        self.beat = 0

    def move(self) -> None:
        """Let every price take a step; each worker makes one frame of it for all who want it."""
        self.beat += 1
        for symbol in SYMBOLS:
            self.prices[symbol] *= random.lognormvariate(0, 0.002)
            price = {"symbol": symbol, "price": round(self.prices[symbol], 2), "beat": self.beat}
            self.publish(symbol, json.dumps(price))


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Pushes prices to those who asked for them.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    parser.add_argument("--workers", type=int, default=1, help="processes; default %(default)s")
    parser.add_argument("--interval", type=float, default=0.1, metavar="SECONDS", help="default %(default)s")
    options = parser.parse_args()
    protocol = WebSocketProtocol(max_message_bytes=4096)
    serving = gevpy.serve(Ticker(), port=options.port, protocol=protocol, workers=options.workers, limits=LIMITS)
    async with serving as server:
        server.run_every(options.interval, Market(server.publish).move)
        port = server.addresses[0][1]
        print(f"try:  python -m websockets ws://127.0.0.1:{port}/    (pip install websockets)", flush=True)
        print('then: {"subscribe": ["ACME", "DUCK"]}', flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    gevpy.run(main())
