"""The application of the worker tests: it says who answers, and misbehaves when it is told to."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import gevpy
from gevpy.control import encode
from gevpy.control_messages import Beat
from tests.integration.tree_procs import descriptors_of

BLOCK = b"s" * 16 * 1024
BLOCKS = 16
DESCRIPTORS = 250  # what the kernel passes at once, nearly
ABUSES = {
    "garbage": b"\xff" * 4096,
    "length": (1 << 30).to_bytes(4, "big") + bytes(6),
    "text": b"\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00hello",
    "depth": (60_000).to_bytes(4, "big") + bytes(6) + b"[" * 60_000,
}
LIES = {"text": b"hello", "wrong": b'{"worker":0,"counters":5,"tables":[]}', "deep": b"[" * 100_000}


class Tell(gevpy.Handler):
    """Answers every line; commands are lines, too: their methods' names begin with ``do_``.

    Args:
        bad_slots: whose workers fail in ``on_start``.
        mark: a file in whose presence a bad slot's worker starts well.
        hold: a file in whose presence no worker gets through ``on_start``.
    """

    def __init__(self, bad_slots: tuple[int, ...] = (), mark: str = "", hold: str = "") -> None:
        self.bad_slots = bad_slots
        self.mark = mark
        self.hold = hold
        self.worker: gevpy.Worker | None = None
        self.draining: asyncio.Event | None = None
        self.leaked: list[bytes] = []

    def on_start(self, worker: gevpy.Worker) -> None:
        """Fail where it is told to."""
        self.worker = worker
        self.draining = asyncio.Event()
        while self.hold and Path(self.hold).exists():
            time.sleep(0.01)  # as an import does that takes long: nothing else runs
        if worker.id in self.bad_slots and not (self.mark and Path(self.mark).exists()):
            msg = f"worker {worker.id} can't start today"
            raise RuntimeError(msg)

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> Any:
        """Obey."""
        command, _, rest = data.decode().partition(" ")
        obey = getattr(self, f"do_{command}", None)
        answer = None if obey is None else obey(conn, rest)
        return "ok" if answer is None else answer

    def on_drain(self, conn: gevpy.Connection) -> None:
        """Let streams go on to their ends."""
        if self.draining is not None:
            self.draining.set()

    # -- commands ------------------------------------------------------------------------------------

    def do_who(self, conn: gevpy.Connection, rest: str) -> str:
        return json.dumps({"pid": os.getpid(), "slot": conn.worker.id})

    def do_fds(self, conn: gevpy.Connection, rest: str) -> str:
        return json.dumps(sorted(descriptors_of(os.getpid()).values()))

    def do_big(self, conn: gevpy.Connection, rest: str) -> str:
        return "b" * int(rest)

    async def do_stream(self, conn: gevpy.Connection, rest: str) -> str:
        """Send one half at once, the other one when the server drains."""
        for _ in range(BLOCKS):
            conn.send(BLOCK)
        assert self.draining is not None
        await self.draining.wait()
        for _ in range(BLOCKS):
            conn.send(BLOCK)
            await conn.drain()
        return "end"

    def do_sub(self, conn: gevpy.Connection, rest: str) -> None:
        conn.subscribe(rest)

    def do_pub(self, conn: gevpy.Connection, rest: str) -> None:
        topic, _, text = rest.partition(" ")
        conn.worker.publish(topic, text)

    async def do_presence(self, conn: gevpy.Connection, rest: str) -> str:
        return str(await conn.worker.presence(rest))

    # -- misdeeds ------------------------------------------------------------------------------------

    def do_sleep(self, conn: gevpy.Connection, rest: str) -> None:
        time.sleep(float(rest))  # blocks the loop: that is the point

    def do_spin(self, conn: gevpy.Connection, rest: str) -> None:
        while True:
            pass

    def do_deadlock(self, conn: gevpy.Connection, rest: str) -> None:
        """Wait for ever, in C, and never let go of the interpreter."""
        libc = ctypes.PyDLL(None)
        mutex = ctypes.create_string_buffer(256)  # all zero: unlocked
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)

    async def do_wait(self, conn: gevpy.Connection, rest: str) -> None:
        """Wait for ever, as well-behaved as one can."""
        await asyncio.Event().wait()

    def do_fail(self, conn: gevpy.Connection, rest: str) -> None:
        raise ValueError(bytes.fromhex(rest).decode())

    def do_leak(self, conn: gevpy.Connection, rest: str) -> None:
        self.leaked.append(os.urandom(1024) * (int(rest) // 1024))

    def do_spawn(self, conn: gevpy.Connection, rest: str) -> str:
        """Start a program that inherits all that can be: what stays with the worker must have been marked so."""
        return str(subprocess.Popen(["sleep", "60"], close_fds=False).pid)  # noqa: S607

    def do_abuse(self, conn: gevpy.Connection, rest: str) -> None:
        """Write to the control channel what no worker writes."""
        if rest == "descriptors":
            with Path(os.devnull).open("rb") as null:
                socket.send_fds(_control(conn.worker), [b"\x00"], [null.fileno()] * DESCRIPTORS)
        else:
            _control(conn.worker).sendall(ABUSES[rest])

    def do_lie(self, conn: gevpy.Connection, rest: str) -> None:
        """Send a beat with figures that are none."""
        _control(conn.worker).sendall(encode(Beat(0, time.monotonic()), LIES[rest]))


def _control(worker: gevpy.Worker) -> socket.socket:
    """Give a worker's end of the control channel."""
    others: Any = worker._others
    sock: socket.socket = others._channel._sock
    return sock


class TextLines(gevpy.LineProtocol):
    """Lines of bytes in, text out."""

    def packet(self, conn: Any, data: Any) -> bytes:
        """Take text, too."""
        return super().packet(conn, data.encode() if isinstance(data, str) else data)
