"""The floor: a raw `asyncio.Protocol` that writes back what it got, or to everybody, on uvloop or asyncio.

Nothing in Python that frames, limits, counts or times messages can cost less, so gevpy's figures are
ratios to it. It has no framing: it echoes length-prefixed messages and lines as the bytes they are, and stands beside
WebSocket servers by echoing TCP messages of the same size. What it broadcasts are WebSocket frames.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from typing import TYPE_CHECKING, ClassVar, cast

from bench.system.certificate import server_context
from bench.system.serving import BACKLOG, HOST, announce, arguments, run

if TYPE_CHECKING:
    import argparse
    import ssl


class Echo(asyncio.Protocol):
    """Write back whatever arrives, at once."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Echo."""
        self.transport.write(data)


class Broadcaster(asyncio.Protocol):
    """Write each message to everybody, as often as its first byte says.

    It knows no more of WebSocket than the load generator needs: a handshake that comes in one piece, and a binary
    frame of 126 to 65,535 bytes that does, too. What a message costs is one call of `write` for each connection.
    """

    audience: ClassVar[list[asyncio.Transport]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Shake hands, or send."""
        if data.startswith(b"GET "):
            self.transport.write(_shaken(data))
            self.audience.append(self.transport)
            return
        key = data[4:8] * (len(data) // 4)
        payload = bytes(byte ^ mask for byte, mask in zip(data[8:], key, strict=False))
        frame = data[:1] + bytes([126]) + len(payload).to_bytes(2, "big") + payload
        for _ in range(payload[0]):
            for transport in self.audience:
                transport.write(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it out."""
        with contextlib.suppress(ValueError):
            self.audience.remove(self.transport)


def _shaken(request: bytes) -> bytes:
    """Answer a WebSocket handshake (RFC 6455, section 1.3)."""
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324
    fields = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept
    return b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\n\r\n"


async def main(options: argparse.Namespace, context: ssl.SSLContext | None) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    kind = Broadcaster if options.protocol == "broadcast" else Echo
    server = await loop.create_server(kind, HOST, options.port, backlog=BACKLOG, ssl=context)
    announce(server.sockets[0].getsockname()[1], *(["uvloop"] if options.loop == "uvloop" else []))
    await server.serve_forever()


if __name__ == "__main__":
    given = arguments("raw", "length_prefix", "line", "broadcast", "tls", loops=("uvloop", "asyncio"))
    run(main(given, server_context() if given.protocol == "tls" else None), given.loop)
