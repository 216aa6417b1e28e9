"""A server with workers, in a process of its own: ``tree_server.py '{"workers": 2, ...}'``.

Prints one line of JSON when it serves: its port and the metrics address. It is stopped by signals, like any other.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gevpy
from gevpy.websocket import WebSocketProtocol
from tests.integration.tree_app import Tell, TextLines

PROTOCOLS: dict[str, type[gevpy.Protocol]] = {"lines": TextLines, "websocket": WebSocketProtocol}


async def serve(config: dict[str, Any]) -> None:
    """Serve as ``config`` says."""
    handler = Tell(**config.pop("handler", {}))
    groups = {"limits": gevpy.Limits, "timeouts": gevpy.Timeouts}
    options = {name: groups[name](**value) if name in groups else value for name, value in config.items()}
    options["protocol"] = PROTOCOLS[config.get("protocol", "lines")]()
    async with gevpy.serve(handler, port=0, metrics="127.0.0.1:0", **options) as server:
        said = json.dumps({"port": server.addresses[0][1], "metrics": server.metrics_address})
        # Not before the loop turns again: by then serve_forever listens to signals, and the test may send some.
        asyncio.get_running_loop().call_soon(partial(print, said, flush=True))
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    with asyncio.Runner(loop_factory=gevpy.new_event_loop) as runner:
        runner.run(serve(json.loads(sys.argv[1])))
