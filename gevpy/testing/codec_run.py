"""One run of a protocol: a stream, cut into reads, and what comes of it.

`conn` is a real connection, so that a codec finds everything on it that it finds in production; no loop runs. What the
decode contract says about one call (see `gevpy.protocol.base`) is held by `Protocol.decode` itself; what it says about
several is looked at here: after None, a second call without new bytes must find nothing new.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gevpy.admission import Admission
from gevpy.connection import Connection
from gevpy.handler import Handler
from gevpy.options import ServeOptions
from gevpy.reactor import Reactor
from gevpy.ring_buffer import RingBuffer
from gevpy.testing.manual_loop import ManualLoop
from gevpy.testing.memory_transport import MemoryTransport
from gevpy.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gevpy.protocol.base import Protocol

__all__ = ["CodecRun", "CodecSite", "wrapping_ring"]

PEER_ADDR = ("127.0.0.1", 50_000)


def wrapping_ring(size: int, first: int) -> RingBuffer:
    """Give an empty ring in which a stream of ``size`` bytes wraps after its first ``first`` bytes.

    A byte is left in it, since an empty ring may begin anew: `CodecRun.read` takes it off.
    """
    ring = RingBuffer(size + 1, None)
    ring.write(b"\xee" * (size + 1 - first))
    ring.skip(size - first)
    return ring


def _kept(message: tuple[Any, Any]) -> tuple[Any, Any]:
    ctx, data = message
    return ctx, bytes(data) if isinstance(data, memoryview | bytearray) else data


@dataclass(slots=True)
class CodecRun:
    """A run, as far as it has come.

    Attributes:
        conn: what ``unpacket`` is given.
        ring: where the reads go.
        reads: the reads so far.
        messages: what came, as ``(ctx, data)``; lent views are copied.
        counts: how many messages there were after each read.
        error: what ``unpacket`` raised, or None; it ends the run.
        stalled: ``unpacket`` gave None, and then, without a new byte, found more.
        consumed_early: ``unpacket`` gave None and had taken bytes off.
    """

    conn: Any
    ring: RingBuffer
    reads: list[bytes] = field(default_factory=list)
    messages: list[tuple[Any, Any]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    error: Exception | None = None
    stalled: bool = False
    consumed_early: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more is read: as in production, after an error or a close."""
        return self.error is not None or self.stalled or not self.conn.connected

    def read(self, piece: bytes) -> None:
        """Let ``piece`` arrive, and take all messages that are whole."""
        had = len(self.ring) if not self.reads else 0
        self.reads.append(piece)
        self.ring.write(piece)
        self.ring.skip(had)
        self._take_all()
        self.counts.append(len(self.messages))

    def read_unnoted(self, piece: bytes) -> None:
        """Let ``piece`` arrive and take one message, if there is one; keep nothing of the read itself."""
        self.ring.write(piece)
        message = self._decode(self.conn.protocol)
        if message is not None:
            self.messages.append(_kept(message))

    def _take_all(self) -> None:
        while len(self.ring) and not self.over:
            protocol = self.conn.protocol
            before = len(self.ring)
            message = self._decode(protocol)
            if message is not None:
                self.messages.append(_kept(message))
            elif self.error is None and protocol is self.conn.protocol:
                self.consumed_early = self.consumed_early or len(self.ring) < before
                if len(self.ring):
                    self._look_again(protocol)
                return

    def _look_again(self, protocol: Protocol) -> None:
        before = len(self.ring)
        found = self._decode(protocol) is not None
        self.stalled = found or self.error is not None or len(self.ring) != before

    def _decode(self, protocol: Protocol) -> tuple[Any, Any] | None:
        try:
            return protocol.decode(self.conn, self.ring)
        except Exception as error:  # noqa: BLE001 - which one is what the check is about
            self.error = error
            return None


class _Recorder(Handler):
    """Notes the messages."""

    def __init__(self) -> None:
        self.messages: list[tuple[Any, Any]] = []

    def on_message(self, conn: Connection, ctx: Any, data: Any) -> None:  # noqa: ARG002 - the contract
        """Note it."""
        self.messages.append(_kept((ctx, data)))


class CodecSite:
    """Where runs take place: a reactor whose loop never turns.

    Args:
        protocol: the one object that serves all runs, as it serves all connections of a worker.
    """

    def __init__(self, protocol: Protocol) -> None:
        """Set up; nothing runs."""
        self._recorder = _Recorder()
        self._loop = ManualLoop()
        options = ServeOptions(protocol=protocol, idle_timeout_s=None)
        self._reactor = Reactor(self._loop, self._recorder, options, Admission(1, None))
        self._worker = Worker(self._reactor, 0)
        self._transport = MemoryTransport(self._loop, asyncio.Protocol(), extra={"peername": PEER_ADDR})

    def connect(self) -> Connection:
        """Give a new connection."""
        conn = Connection(self._reactor, PEER_ADDR, "")
        conn.connection_made(self._transport)
        return conn

    def begin(self, ring: RingBuffer | None = None) -> CodecRun:
        """Begin a run on a new connection."""
        return CodecRun(self.connect(), RingBuffer(16, None) if ring is None else ring)

    def end(self, run: CodecRun) -> None:
        """Let the connection go."""
        run.conn.connection_lost(None)

    def run(self, reads: Iterable[bytes], ring: RingBuffer | None = None) -> CodecRun:
        """Let all ``reads`` arrive."""
        run = self.begin(ring)
        for piece in reads:
            if run.over:
                break
            run.read(piece)
        self.end(run)
        return run

    def run_connection(self, reads: Sequence[bytes]) -> CodecRun:
        """Let all ``reads`` arrive through the connection's own buffers, as a transport does it."""
        self._recorder.messages = []
        run = self.begin()
        run.messages = self._recorder.messages
        for piece in reads:
            if run.over:
                break
            room = run.conn.get_buffer(-1)
            room[: len(piece)] = piece
            run.conn.buffer_updated(len(piece))
            run.reads.append(piece)
        reason = run.conn.close_reason
        run.error = None if reason is None else reason.error
        self.end(run)
        return run
