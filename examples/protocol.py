"""A protocol of your own, by hand: 4 bytes of length, big-endian, then so many bytes. Each frame is sent back.

Run it:   python examples/protocol.py [--port 1833]
Talk:     python examples/protocol_client.py hello world
"""

from __future__ import annotations

import argparse
import logging

import gevpy

HEADER, MAX = 4, 4096  # bytes


class LengthProtocol(gevpy.Protocol):
    """What gevpy.LengthPrefixedProtocol does, too: bytes to a message, a message to bytes."""

    def unpacket(self, conn: gevpy.Connection, buffer: gevpy.RingBuffer) -> tuple[None, bytes] | None:
        """Take one frame, or say None: "call me again when more has come"."""
        if len(buffer) < HEADER:
            return None
        length = buffer.peek_uint32()  # looks, and takes nothing
        if length > MAX:  # never wait for as much as a stranger likes
            raise gevpy.FrameTooLarge("frame too long", limit=MAX, actual=length)
        if len(buffer) < HEADER + length:
            return None
        buffer.skip(HEADER)
        return None, buffer.read(length)  # of length 0, too: an empty frame is a message

    def packet(self, conn: gevpy.Connection, data: bytes) -> bytes:
        """Put the header before a reply."""
        return len(data).to_bytes(HEADER, "big") + data


class Echo(gevpy.Handler):
    """Gets whole messages, however their bytes came."""

    def on_message(self, conn: gevpy.Connection, ctx: object, data: bytes) -> bytes:
        """Show it and send it back."""
        print(conn.peer_addr, "says", data, flush=True)
        return data


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Echoes length-prefixed frames.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    async with gevpy.serve(Echo(), port=parser.parse_args().port, protocol=LengthProtocol()) as server:
        print(f"try:  python3 examples/protocol_client.py --port {server.addresses[0][1]} hello world", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    gevpy.run(main())
