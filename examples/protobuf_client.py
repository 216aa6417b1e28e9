"""Talks to protobuf_server.py: sends each name as a msg1, and prints the msg2 that answers it.

Run it:   python examples/protobuf_client.py [--port 1833] alice bob     (pip install gevpy[protobuf])
"""

from __future__ import annotations

import argparse
import sys

from protobuf_server import PROTOCOL, Msg1  # type: ignore[import-not-found]  # the script beside this one

import gevpy

PATIENCE_S = 5.0


async def main() -> None:
    """Send all names at once, then read one answer for each."""
    parser = argparse.ArgumentParser(description="Sends names as protobuf messages and prints the answers.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s")
    parser.add_argument("names", nargs="*", default=["gev", "gevpy"])
    options = parser.parse_args()
    async with gevpy.connect(f"tcp://127.0.0.1:{options.port}", protocol=PROTOCOL) as client:
        for number, name in enumerate(options.names):
            client.send(Msg1(name=name, id=number))
        for _ in options.names:
            kind, answer = await client.recv_message(PATIENCE_S)
            print(f"{kind}: {answer.name} is {answer.alias}, number {answer.id}")


if __name__ == "__main__":
    try:
        gevpy.run(main())
    except (OSError, gevpy.ConnectionClosed) as error:
        sys.exit(f"{error}: is examples/protobuf_server.py running on that port?")
