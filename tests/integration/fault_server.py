"""The server under test, as a program of its own: it can run out of descriptors, or die, without the tests doing so.

    python fault_server.py CONFIG        CONFIG is a JSON object, see `Config`

It writes one JSON line to stdout when it listens, then answers commands: one JSON object a line on
stdin, one JSON value a line on stdout. Its log goes to stderr. The end of stdin stops it. Of gevpy
it uses what an application would; only `Control.report` looks into the reactor, because it tells
what must not be left behind.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevpy
from gevpy.single import SingleLoop
from gevpy.websocket import Response, WebSocketProtocol

if TYPE_CHECKING:
    from gevpy.websocket import Request

__all__ = ["HANDLERS", "Control", "main"]

BEAT_S = 0.005
Config = dict[str, Any]


class Counting(gevpy.Handler):
    """Counts what must come in pairs, and echoes."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.connects = 0
        self.closes = 0
        self.out_of_order = 0
        self.strange_addresses = 0
        self.worker: gevpy.Worker | None = None

    def on_start(self, worker: gevpy.Worker) -> None:
        self.worker = worker

    def on_connect(self, conn: gevpy.Connection) -> None:
        self.connects += 1
        host, _, port = conn.peer_addr.rpartition(":")
        if conn.peer_addr and not (host.startswith("127.") and port.isdigit()):
            self.strange_addresses += 1

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> Any:
        self.out_of_order += not conn.connected
        return data

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        self.closes += 1
        self.out_of_order += conn.connected


class Amplifying(Counting):
    """Answers each byte with 2,000."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> Any:
        return data * 2000


class Summing(Counting):
    """Adds up what each connection sent, and keeps the sums of those that closed."""

    def __init__(self, *, echo_below: int = 0) -> None:
        """Echo messages shorter than ``echo_below`` bytes: those of clients that measure."""
        super().__init__()
        self.echo_below = echo_below
        self.sums: Counter[int] = Counter()

    def on_connect(self, conn: gevpy.Connection) -> None:
        super().on_connect(conn)
        conn.context = 0

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> Any:
        super().on_message(conn, ctx, data)
        conn.context += len(data)
        return data if len(data) < self.echo_below else None

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        super().on_close(conn, reason)
        self.sums[conn.context] += 1

    def do_sums(self) -> list[tuple[int, int]]:
        """Tell how many connections sent how much."""
        return list(self.sums.items())


class Quoting(Counting):
    """Fails on every message, and quotes it in the error, as applications do."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> Any:
        msg = f"cannot handle {data.decode()}"
        raise ValueError(msg)


class Working(Counting):
    """Answers what isn't empty; works a while on empty messages, as a flood of tiny frames would have it."""

    def __init__(self, *, work_s: float = 0.0) -> None:
        """Spend ``work_s`` seconds of CPU on each empty message."""
        super().__init__()
        self.work_s = work_s

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> Any:
        if data:
            return data
        end = time.thread_time() + self.work_s
        while time.thread_time() < end:
            pass
        return None

    def do_rest(self) -> None:
        """Work no more: what the flood has left in the kernel is to pass quickly."""
        self.work_s = 0.0


class Pushing(Counting):
    """Sends numbered frames, without asking, to connections that said ``stuck``; echoes to the others."""

    def __init__(self, *, size: int = 4096) -> None:
        """Push frames of ``size`` bytes."""
        super().__init__()
        self.size = size
        self.stuck: list[gevpy.Connection] = []
        self.turn = 0
        self.pushed = 0
        self.refused = 0
        self.closed = 0
        self.timer: gevpy.Timer | None = None

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> Any:
        if data == b"stuck":
            self.stuck.append(conn)
        return data

    def do_push(self, each: int) -> None:
        """Push one frame to ``each`` of them in turn, every millisecond."""
        assert self.worker is not None, "the server has started"
        if self.timer is not None:
            self.timer.stop()
        self.timer = self.worker.run_every(0.001, self.push, each)

    def do_end_push(self) -> dict[str, int]:
        """Push no more; tell what became of the frames."""
        assert self.timer is not None, "do_push came first"
        self.timer.stop()
        return self.do_pushes()

    def do_pushes(self) -> dict[str, int]:
        """Tell what has become of the frames so far."""
        return {"pushed": self.pushed, "refused": self.refused, "closed": self.closed}

    def do_waiting(self) -> list[int]:
        """Tell how much waits to be sent to each."""
        return [conn.write_buffer_length for conn in self.stuck]

    def push(self, each: int) -> None:
        """Push one frame to ``each``, and have the others come first next time."""
        for _ in range(each):
            conn = self.stuck[self.turn % len(self.stuck)]
            self.turn += 1
            if not conn.connected:
                self.closed += 1
                continue
            self.pushed += 1
            try:
                conn.send(self.pushed.to_bytes(8, "big") + bytes(self.size - 8))
            except gevpy.WriteBufferFull:
                self.refused += 1
            except gevpy.ConnectionClosed:
                self.closed += 1


class Replying(Counting):
    """Does what it is told: ``SIZE`` or ``SIZE close`` sends so many patterned bytes, and closes."""

    def __init__(self) -> None:
        """Begin with nothing timed."""
        super().__init__()
        self.times: list[tuple[float, str]] = []

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> Any:
        words = data.decode().split()
        if not words[0].isdigit():
            return data
        conn.context = time.monotonic()
        conn.send(pattern(int(words[0])))
        if "close" in words:
            conn.close()
        return None

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        super().on_close(conn, reason)
        if conn.context is not None:
            self.times.append((time.monotonic() - conn.context, reason.kind.value))

    def do_times(self) -> list[tuple[float, str]]:
        """Tell how long each connection lived after its send, and why it closed."""
        return self.times


class Guarding(Counting):
    """Asks a slow authority whom to let in by ``/guarded``: an HTTP status that ``do_decide`` gives, 0 for welcome."""

    def __init__(self) -> None:
        """Begin undecided."""
        super().__init__()
        self.asked = 0
        self.verdict: asyncio.Future[int] | None = None

    def on_start(self, worker: gevpy.Worker) -> None:
        super().on_start(worker)
        self.verdict = asyncio.get_running_loop().create_future()

    async def on_request(self, conn: gevpy.Connection, request: Request) -> Response | None:
        """Wait for the verdict; where the query tells a header, answer with that, as applications do."""
        if "header" in request.query:
            return Response(200, "page", headers={"X-Told": request.query["header"]})
        if request.path != "/guarded":
            return None
        assert self.verdict is not None, "the server has started"
        self.asked += 1
        status = await self.verdict
        return Response(status, "refused") if status else None

    def do_asked(self) -> int:
        """Tell how many have asked."""
        return self.asked

    def do_decide(self, status: int) -> None:
        """Decide for all."""
        assert self.verdict is not None, "the server has started"
        self.verdict.set_result(status)


class FirstByteProtocol(gevpy.LengthPrefixedProtocol):
    """Notes when the first byte of a frame was seen."""

    def unpacket(self, conn: Any, buffer: gevpy.RingBuffer) -> tuple[Any, Any] | None:
        if conn.context is None:
            conn.context = time.monotonic()
        message = super().unpacket(conn, buffer)
        if message is not None:
            conn.context = None
        return message


class Timing(Counting):
    """Keeps how long connections lived after what `FirstByteProtocol` noted, or after their last message."""

    def __init__(self, *, by_message: bool = False) -> None:
        """Time from the last message if ``by_message``, else from the first byte of the last frame."""
        super().__init__()
        self.by_message = by_message
        self.lived: list[tuple[float, str]] = []

    def on_connect(self, conn: gevpy.Connection) -> None:
        super().on_connect(conn)
        if self.by_message:
            conn.context = time.monotonic()

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> Any:
        super().on_message(conn, ctx, data)
        if self.by_message:
            conn.context = time.monotonic()
        return data

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        super().on_close(conn, reason)
        if conn.context is not None:
            self.lived.append((time.monotonic() - conn.context, reason.kind.value))

    def do_lived(self) -> list[tuple[float, str]]:
        """Tell how long each lived, and why it closed."""
        return self.lived


class Meddling(Counting):
    """Pauses, resumes, closes or aborts inside whatever callback it is told."""

    def __init__(self) -> None:
        """Begin unarmed."""
        super().__init__()
        self.place = ""
        self.action = ""
        self.acted = 0

    def do_arm(self, place: str, action: str) -> None:
        """Act at ``place`` from now on."""
        self.place = place
        self.action = action

    def do_acted(self) -> int:
        """Tell how often it acted."""
        return self.acted

    def meddle(self, place: str, conn: gevpy.Connection) -> None:
        """Act, if this is the place."""
        if place != self.place:
            return
        self.acted += 1
        for name in self.action.split("+"):
            getattr(conn, name)()

    def on_connect(self, conn: gevpy.Connection) -> None:
        super().on_connect(conn)
        self.meddle("on_connect", conn)

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> Any:
        assert self.worker is not None, "the server has started"
        self.meddle("on_message", conn)
        self.worker.run_after(0, self.meddle, "timer", conn)
        with suppress(gevpy.ConnectionClosed):  # after a close or a shutdown_write just now
            conn.send(data, on_written=lambda sent, error: self.meddle("on_written", conn))
        return data if data == b"x" else bytes(8 * 1024 * 1024)

    def on_writable(self, conn: gevpy.Connection) -> None:
        self.meddle("on_writable", conn)

    def on_drain(self, conn: gevpy.Connection) -> None:
        self.meddle("on_drain", conn)

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        super().on_close(conn, reason)
        self.meddle("on_close", conn)


class MeddlingProtocol(gevpy.RawProtocol):
    """Meddles inside ``unpacket`` and ``packet``."""

    handler: Meddling

    def unpacket(self, conn: Any, buffer: gevpy.RingBuffer) -> tuple[Any, Any] | None:
        self.handler.meddle("unpacket", conn)
        return super().unpacket(conn, buffer)

    def packet(self, conn: Any, data: Any) -> bytes:
        self.handler.meddle("packet", conn)
        return super().packet(conn, data)


HANDLERS: dict[str, type[Counting]] = {
    "amplify": Amplifying,
    "echo": Counting,
    "guard": Guarding,
    "meddle": Meddling,
    "push": Pushing,
    "quote": Quoting,
    "reply": Replying,
    "sum": Summing,
    "time": Timing,
    "work": Working,
}

PROTOCOLS: dict[str, type[gevpy.Protocol]] = {
    "first_byte": FirstByteProtocol,
    "length": gevpy.LengthPrefixedProtocol,
    "line": gevpy.LineProtocol,
    "meddle": MeddlingProtocol,
    "raw": gevpy.RawProtocol,
    "websocket": WebSocketProtocol,
}


def pattern(size: int) -> bytes:
    """Give bytes in which a hole, or a wrong order, shows."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]  # a prime period: nothing is lost or doubled in steps of it


class LagMeter:
    """How late the loop calls a timer, and how much of that was the machine's doing, not the loop's.

    What the scheduler kept this process waiting is taken off: on a busy machine only the rest is the server's own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to beat."""
        self._loop = loop
        self._waited = waited_for_cpu_s()
        self.own: list[float] = []
        self.wall: list[float] = []
        self._beat(loop.time())

    def _beat(self, due: float) -> None:
        now = self._loop.time()
        waited = waited_for_cpu_s()
        self.wall.append(now - due)
        self.own.append(max(0.0, now - due - (waited - self._waited)))
        self._waited = waited
        self._loop.call_at(now + BEAT_S, self._beat, now + BEAT_S)

    def take(self) -> dict[str, list[float]]:
        """Give what was measured since the last time."""
        taken = {"own": self.own, "wall": self.wall}
        self.own, self.wall = [], []
        return taken


def waited_for_cpu_s() -> float:
    """Tell how long this process was ready to run and did not; 0 where the system doesn't say."""
    try:
        return int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def reactor_of(server: gevpy.Server) -> Any:
    """Give what the server runs on."""
    assert isinstance(server._site, SingleLoop)
    return server._site.service.reactor


class Control:
    """Answers the commands of the test."""

    def __init__(self, server: gevpy.Server, handler: Counting) -> None:
        """Answer for ``server`` and ``handler``."""
        self._server = server
        self._handler = handler
        self._buffer = b""
        self._eaten: list[int] = []
        self._lag: LagMeter | None = None
        self.done = asyncio.Event()

    def readable(self) -> None:
        """Take commands from stdin."""
        got = os.read(0, 65536)
        if not got:
            asyncio.get_running_loop().remove_reader(0)
            self.done.set()
        *lines, self._buffer = (self._buffer + got).split(b"\n")
        for line in lines:
            command = json.loads(line)
            say(self.answer(command.pop("do"), command))

    def answer(self, name: str, args: dict[str, Any]) -> object:
        """Carry out one command: one of ours, or the handler's ``do_`` method."""
        own = getattr(self, name, None)
        result: object = (own or getattr(self._handler, f"do_{name}"))(**args)
        return result

    def report(self) -> dict[str, Any]:
        """Tell what is there now, and what was counted."""
        reactor = reactor_of(self._server)
        stats = reactor.stats
        return {
            "gauge": self._server.connections,
            "admitted": reactor.admission.count,
            "networks": len(reactor.admission._networks),
            "armed": len(reactor.wheel),
            "tasks": len(reactor._tasks),
            "unfinished": reactor._unfinished,
            "tick": reactor.tick,
            "opened": stats.opened,
            "closed": {kind.value: count for kind, count in stats.closed.items()},
            "rejected": {reason.value: count for reason, count in stats.rejected.items()},
            "dropped": {reason.value: count for reason, count in stats.dropped.items()},
            "handler_errors": stats.handler_errors,
            "received_bytes": stats.received_bytes,
            "received_messages": stats.received_messages,
            "sent_messages": stats.sent_messages,
            "connects": self._handler.connects,
            "closes": self._handler.closes,
            "out_of_order": self._handler.out_of_order,
            "strange_addresses": self._handler.strange_addresses,
            "cpu_s": time.process_time(),
        }

    def eat(self, leave: int = 0) -> int:
        """Be the other user of descriptors: take all but ``leave``."""
        try:
            while True:
                self._eaten.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            for _ in range(leave):
                os.close(self._eaten.pop())
        return len(self._eaten)

    def give(self) -> None:
        """Give the descriptors back."""
        for fd in self._eaten:
            os.close(fd)
        self._eaten.clear()

    def lag(self) -> dict[str, list[float]]:
        """Tell how late the loop was since the last time; the first time begins to measure."""
        if self._lag is None:
            self._lag = LagMeter(asyncio.get_running_loop())
        return self._lag.take()

    def drain(self) -> None:
        """Drain the connections, as a stop does."""
        reactor = reactor_of(self._server)
        for conn in tuple(reactor.connections):
            conn.begin_drain("stop")

    def stop(self) -> None:
        """Stop the server and end the program."""
        self.done.set()


def say(value: object) -> None:
    """Write one line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def options_of(config: Config, handler: Counting) -> dict[str, Any]:
    """Make the arguments of ``serve`` from the configuration."""
    options = dict(config.get("serve", {}))
    for name, group in (("limits", gevpy.Limits), ("timeouts", gevpy.Timeouts), ("watermarks", gevpy.Watermarks)):
        if name in options:
            options[name] = group(**options[name])
    protocol = PROTOCOLS[config.get("protocol", "raw")](**config.get("protocol_args", {}))
    if isinstance(protocol, MeddlingProtocol) and isinstance(handler, Meddling):
        protocol.handler = handler
    return {"port": 0, "protocol": protocol, **options}


async def main(config: Config) -> None:
    """Serve until told to stop."""
    handler = HANDLERS[config["handler"]](**config.get("handler_args", {}))
    async with gevpy.serve(handler, **options_of(config, handler)) as server:
        control = Control(server, handler)
        loop = asyncio.get_running_loop()
        loop.add_reader(0, control.readable)
        loop.call_soon(partial(say, {"port": server.addresses[0][1]}))
        await control.done.wait()
        loop.remove_reader(0)


if __name__ == "__main__":
    settings: Config = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    if settings.get("descriptors"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (settings["descriptors"], settings["descriptors"]))
    gevpy.run(main(settings), debug=settings.get("debug"))
