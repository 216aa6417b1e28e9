"""The client that Autobahn|Testsuite is let loose on: ``echo_client.py ws://127.0.0.1:PORT``, its fuzzing server.

Each case is a connection. What comes in it is sent back; the server ends it, or we do where it breaks the protocol.
"""

from __future__ import annotations

import sys

import gevpy

MAX_MESSAGE_BYTES = 16 << 20
AGENT = "gevpy"


async def run_case(url: str) -> None:
    """Echo until the connection ends, in whatever way."""
    try:
        async with gevpy.connect(url, compression=True, max_message_bytes=MAX_MESSAGE_BYTES) as client:
            async for message in client:
                client.send(message)
    except (gevpy.ConnectionClosed, gevpy.ProtocolError):
        pass  # that is what many cases are about; the suite judges how it ended


async def main(server: str) -> None:
    """Run all the cases that the server has, and let it write its report."""
    async with gevpy.connect(f"{server}/getCaseCount") as client:
        count = int(await client.recv())
    for case in range(1, count + 1):
        await run_case(f"{server}/runCase?case={case}&agent={AGENT}")
    async with gevpy.connect(f"{server}/updateReports?agent={AGENT}") as client:
        async for message in client:
            raise RuntimeError(f"the report needs no words, but there came {message!r}")


if __name__ == "__main__":
    gevpy.run(main(sys.argv[1]))
