"""The example that speaks Redis's protocol, as its file is, with every limit and deadline at its default."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import gevpy
from bench.system.gevpy_server import build
from bench.system.serving import HOST, announce, arguments

EXAMPLE = Path(__file__).parents[2] / "examples" / "redis_server.py"


def load_example() -> Any:
    """Import it: it's no part of a package."""
    spec = importlib.util.spec_from_file_location("redis_server", EXAMPLE)
    assert spec is not None, "the file is named as a module"
    assert spec.loader is not None, "and has a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def main() -> None:
    """Serve until killed."""
    options = arguments("redis")
    example = load_example()
    async with gevpy.serve(example.Store(), HOST, options.port, protocol=example.RESP2, idle_timeout_s=None) as server:
        address = server.addresses[0]
        assert isinstance(address, tuple), "it listens on TCP"
        announce(address[1], "uvloop", build=build())
        await asyncio.Event().wait()


if __name__ == "__main__":
    gevpy.run(main())
