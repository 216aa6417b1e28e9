"""Talks to protocol.py: sends each word as a frame (4 bytes of length, then the word), and prints the replies.

Run it:   python examples/protocol_client.py [--port 1833] hello world
"""

from __future__ import annotations

import argparse
import asyncio
import sys

HEADER = 4


def frame(text: str) -> bytes:
    """Put the length before the text."""
    data = text.encode()
    return len(data).to_bytes(HEADER, "big") + data


async def read_frame(reader: asyncio.StreamReader) -> str:
    """Read the length, then so many bytes."""
    length = int.from_bytes(await reader.readexactly(HEADER), "big")
    return (await reader.readexactly(length)).decode()


async def main() -> None:
    """Send all words at once, then read one reply for each."""
    parser = argparse.ArgumentParser(description="Sends words as frames and prints the replies.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s")
    parser.add_argument("words", nargs="*", default=["hello", "", "gevpy"])
    options = parser.parse_args()
    reader, writer = await asyncio.open_connection("127.0.0.1", options.port)
    writer.writelines(map(frame, options.words))
    for word in options.words:
        print(f"sent {word!r}, got {await read_frame(reader)!r}")
    writer.close()
    await writer.wait_closed()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (OSError, EOFError) as error:
        sys.exit(f"{error}: is examples/protocol.py running on that port?")
