"""gevpy itself, with every limit and deadline at its default but the ones a benchmark must lift.

Loop and build are chosen as any user would: by `GEVPY_LOOP` and `GEVPY_PURE_PYTHON`. Lifted: the number of
connections (all that the descriptor limit allows) and the frame size (4 MiB).
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import os
import resource
from typing import Any

from bench.system.serving import HOST, MAX_MESSAGE_BYTES, announce, arguments, unsupported

try:
    import gevpy
except ImportError as error:
    unsupported(f"gevpy does not import: {error}")

DESCRIPTORS_SPARE = 300


class Echo(gevpy.Handler):
    """Echo."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> bytes:
        """Return the message: the reply."""
        return data


def make_protocol(name: str, *, deflate: bool) -> gevpy.Protocol:
    """Make the protocol called `name`."""
    if name == "raw":
        return gevpy.RawProtocol()
    if name == "length_prefix":
        return gevpy.LengthPrefixedProtocol(max_frame_bytes=MAX_MESSAGE_BYTES)
    if name == "line":
        return gevpy.LineProtocol(max_frame_bytes=MAX_MESSAGE_BYTES)
    return make_websocket(deflate=deflate)


def make_websocket(*, deflate: bool) -> gevpy.Protocol:
    """Make the WebSocket protocol, where this gevpy has it."""
    try:
        websocket: Any = importlib.import_module("gevpy.websocket")
    except ImportError as error:
        unsupported(f"no WebSocket in this gevpy: {error}")
    options = {"deflate": True} if deflate else {}
    protocol: gevpy.Protocol = websocket.WebSocketProtocol(**options)
    return protocol


def build() -> dict[str, Any]:
    """Return `gevpy.build_info()` as plain data."""
    info: Any = gevpy.build_info()
    if dataclasses.is_dataclass(info) and not isinstance(info, type):
        return dataclasses.asdict(info)
    return dict(info)


async def main() -> None:
    """Serve until killed."""
    max_connections = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_SPARE
    options = arguments("raw", "length_prefix", "line", "websocket")
    extra: dict[str, Any] = {}
    if options.idle_timeout_s is not None:
        extra["idle_timeout_s"] = options.idle_timeout_s
    async with gevpy.serve(
        Echo(),
        HOST,
        options.port,
        protocol=make_protocol(options.protocol, deflate=options.deflate),
        limits=gevpy.Limits(max_connections=max_connections),
        **extra,
    ) as server:
        packages = ["uvloop"] if os.environ.get("GEVPY_LOOP") != "asyncio" else []
        address = server.addresses[0]
        assert isinstance(address, tuple), "it listens on TCP"
        announce(address[1], *packages, build=build())
        await asyncio.Event().wait()


if __name__ == "__main__":
    gevpy.run(main())
