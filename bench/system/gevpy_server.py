"""gevpy itself, with every limit and deadline at its default but the ones a benchmark must lift.

Loop and build are chosen as any user would: by `GEVPY_LOOP` and `GEVPY_PURE_PYTHON`. Lifted: the number of
connections (all that the descriptor limit allows) and the frame size (4 MiB). With workers it logs, and it drains when
it is stopped.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import logging
import multiprocessing
import os
import resource
from typing import Any

from bench.system.certificate import certificate_files
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


class Broadcaster(gevpy.Handler):
    """Send each message to everybody, as often as its first byte says."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> None:
        """Do so within this turn of the loop."""
        for _ in range(data[0]):
            conn.worker.broadcast(data)


def make_protocol(name: str, *, deflate: bool) -> gevpy.Protocol:
    """Make the protocol called `name`."""
    if name in ("raw", "tls"):
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
    protocol: gevpy.Protocol = websocket.WebSocketProtocol(compression=deflate, max_message_bytes=MAX_MESSAGE_BYTES)
    return protocol


def build() -> dict[str, Any]:
    """Return `gevpy.build_info()` as plain data."""
    info: Any = gevpy.build_info()
    if dataclasses.is_dataclass(info) and not isinstance(info, type):
        return dataclasses.asdict(info)
    return dict(info)


def worker_pids() -> list[int]:
    """Return the workers' process ids, by slot."""
    children = sorted(multiprocessing.active_children(), key=lambda child: child.name)
    return [child.pid for child in children if child.pid is not None]


async def main() -> None:
    """Serve until killed."""
    max_connections = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_SPARE
    options = arguments("raw", "length_prefix", "line", "websocket", "broadcast", "tls")
    extra: dict[str, Any] = {}
    if options.protocol == "tls":
        certificate, key = certificate_files()
        extra["ssl"] = gevpy.TLS(cert=certificate, key=key)
    if options.idle_timeout_s is not None:
        extra["idle_timeout_s"] = options.idle_timeout_s
    if options.workers > 1:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    async with gevpy.serve(
        Broadcaster() if options.protocol == "broadcast" else Echo(),
        HOST,
        options.port,
        protocol=make_protocol(options.protocol, deflate=options.deflate),
        limits=gevpy.Limits(max_connections=max_connections),
        workers=options.workers,
        placement=options.placement,
        **extra,
    ) as server:
        packages = ["uvloop"] if os.environ.get("GEVPY_LOOP") != "asyncio" else []
        address = server.addresses[0]
        assert isinstance(address, tuple), "it listens on TCP"
        announce(address[1], *packages, build=build(), workers=worker_pids())
        await (server.serve_forever() if options.workers > 1 else asyncio.Event().wait())


if __name__ == "__main__":
    gevpy.run(main())
