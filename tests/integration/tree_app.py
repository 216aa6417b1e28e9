"""The application of the worker tests: it says who answers, and misbehaves when it is told to."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevpy


class Tell(gevpy.Handler):
    """Answers every line; commands are lines, too.

    Args:
        bad_slots: whose workers fail in ``on_start``.
        mark: a file in whose presence a bad slot's worker starts well.
    """

    def __init__(self, bad_slots: tuple[int, ...] = (), mark: str = "") -> None:
        self.bad_slots = bad_slots
        self.mark = mark
        self.worker: gevpy.Worker | None = None

    def on_start(self, worker: gevpy.Worker) -> None:
        """Fail where it is told to."""
        self.worker = worker
        if worker.id in self.bad_slots and not (self.mark and Path(self.mark).exists()):
            msg = f"worker {worker.id} can't start today"
            raise RuntimeError(msg)

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> Any:
        """Obey."""
        command, _, rest = data.decode().partition(" ")
        match command:
            case "who":
                return json.dumps({"pid": os.getpid(), "slot": conn.worker.id})
            case "sleep":
                time.sleep(float(rest))  # blocks the loop: that is the point
            case "spin":
                while True:
                    pass
            case "die":
                os._exit(int(rest or 7))
            case "sub":
                conn.subscribe(rest)
            case "pub":
                topic, _, text = rest.partition(" ")
                conn.worker.publish(topic, text)
            case "presence":
                return self.presence(conn, rest)
            case "fds":
                return json.dumps(_descriptors())
        return "ok"

    async def presence(self, conn: gevpy.Connection, topic: str) -> str:
        """Count subscribers everywhere."""
        return str(await conn.worker.presence(topic))


def _descriptors() -> list[str]:
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(str(path.readlink()))
    return sorted(found)


class TextLines(gevpy.LineProtocol):
    """Lines of bytes in, text out."""

    def packet(self, conn: Any, data: Any) -> bytes:
        """Take text, too."""
        return super().packet(conn, data.encode() if isinstance(data, str) else data)
