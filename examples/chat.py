"""A chat of lines, server and client: everyone hears what the others say.

Run it:   python examples/chat.py [--port 1833]    and, in other terminals:    python examples/chat.py --join YOUR_NAME
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os

import gevpy


class Chat(gevpy.Handler):
    """One room for all."""

    def on_message(self, conn: gevpy.Connection, ctx: object, data: bytes) -> None:
        """Tell everybody else."""
        conn.worker.broadcast(data, where=lambda other: other is not conn)


def say(client: gevpy.Client, name: str) -> None:
    """Send what was typed, and leave at its end."""
    if typed := os.read(0, 4096):
        client.send(f"{name}: ".encode() + typed.rstrip())
    else:
        client.connection.close()


async def join(url: str, name: str) -> None:
    """Show what others say, until we leave; come back if the server was away."""
    async for client in gevpy.connect(url, protocol=gevpy.LineProtocol()):
        asyncio.get_running_loop().add_reader(0, say, client, name)
        with contextlib.suppress(gevpy.ConnectionClosed):
            async for line in client:
                print(line.decode(errors="replace"), flush=True)
        asyncio.get_running_loop().remove_reader(0)
        if client.close_reason == gevpy.CloseReason(gevpy.CloseKind.CLOSED_LOCALLY):
            break


async def main() -> None:
    """Serve, or join."""
    parser = argparse.ArgumentParser(description="Passes lines on to all others.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    parser.add_argument("--join", metavar="NAME", help="join as a client instead of serving")
    options = parser.parse_args()
    if options.join:
        await join(f"tcp://127.0.0.1:{options.port}", options.join)
        return
    async with gevpy.serve(Chat(), port=options.port, protocol=gevpy.LineProtocol()) as server:
        print(f"try:  python examples/chat.py --join YOU --port {server.addresses[0][1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    gevpy.run(main())
