"""What every echo server here shares: its arguments, its loop, and how it says that it is ready.

A server prints one JSON line, `{"port": ..., "versions": {...}}`, when it accepts connections, and runs
until it gets SIGTERM. It listens on 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["BACKLOG", "HOST", "MAX_MESSAGE_BYTES", "announce", "arguments", "run", "unsupported"]

HOST = "127.0.0.1"
BACKLOG = 4096
"""Long enough for 8,000 connections arriving at once; the kernel's usual somaxconn."""

MAX_MESSAGE_BYTES = 4 << 20
"""Every peer's message limit: above the largest message measured (1 MiB)."""


def arguments(*protocols: str, loops: tuple[str, ...] = ()) -> argparse.Namespace:
    """Parse `--port`, and `--protocol` and `--loop` where the peer has a choice of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--protocol", choices=protocols, default=protocols[0])
    parser.add_argument("--idle-timeout-s", type=float, default=None, help="gevpy only")
    parser.add_argument("--deflate", action="store_true", help="offer permessage-deflate")
    parser.add_argument("--workers", type=int, default=1, help="gevpy only")
    parser.add_argument("--placement", default="reuseport", help="gevpy only")
    if loops:
        parser.add_argument("--loop", choices=loops, default=loops[0])
    return parser.parse_args()


def announce(port: int, *packages: str, **facts: Any) -> None:
    """Tell the runner the port, and what exactly it is measuring."""
    versions = {package: importlib.metadata.version(package) for package in packages}
    versions["python"] = sys.version.split()[0]
    print(json.dumps({"port": port, "versions": versions, **facts}), flush=True)


def unsupported(reason: str) -> NoReturn:
    """Tell the runner why this peer cannot do what was asked, and leave."""
    print(json.dumps({"unsupported": reason}), flush=True)
    raise SystemExit(0)


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    """Run `main` on the loop called `loop`: `uvloop` or `asyncio`."""
    if loop == "uvloop":
        import uvloop  # noqa: PLC0415 - not for the stdlib loop's memory

        uvloop.run(main)
    else:
        asyncio.run(main)
