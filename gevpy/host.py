"""What the connections of one loop share: buffers, counters, the tick, and the numbers of the options.

A connection holds one reference, to its host, and no buffer of its own while it is idle. The reactor is the host that
really runs; here is only what the hot path touches, so that it can be reached without an attribute look-up.
"""

from __future__ import annotations

import threading
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any

from gevpy.inbox import Inbox
from gevpy.ring_buffer import RingBuffer
from gevpy.stats import Stats
from gevpy.timing_wheel import TimingWheel
from gevpy.write_batch import WriteBatch

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gevpy.concurrent_inbox import ConcurrentInbox
    from gevpy.protocol.base import Protocol
    from gevpy.read_side import ReadSide
    from gevpy.write_side import WriteSide

__all__ = ["FAILURES", "Host"]

FAILURES = (Exception, CancelledError)
"""What an application's code may raise and gevpy catches; a plain handler can meet a future's CancelledError, too."""

READ_BUFFER_BYTES = 256 * 1024  # 64 KiB costs 1.6 times the floor on 1 MiB messages (measured)
FLUSHES_PER_TURN = 512  # a broadcast to many takes 3 to 4 ms for so many: then others get their turn
RING_BYTES = 4 * 1024  # a part frame's ring to begin with
POOL_BYTES = 4 * 1024 * 1024  # rings kept for reuse, all together


class Host:
    """The shared state of one loop's connections.

    Attributes:
        loop: the event loop.
        on_message: the handler's method.
        is_async: whether ``on_message`` is a coroutine function.
        make_inbox: makes what a connection's messages wait in for asynchronous handlers.
        protocol: the server's protocol.
        stats: the counters.
        wheel: the deadlines of the connections; its ``now`` is the idle clock.
        read_ring: the buffer all reads go into that belong to no part frame.
        read_view: the whole of it, as it is lent to the transport.
        batch: what the connection that is inside its read has produced.
        max_write_buffer_bytes, high_bytes, low_bytes: see `Limits` and `Watermarks`.
        idle_ticks, frame_ticks, stall_ticks, close_ticks: the ticks after which a timeout is surely over; 0 is off.
        refresh_on_read, refresh_on_write: what counts against idleness.
        half_close: whether our side stays open after the peer's EOF.
        can_writelines: whether the transports' ``writelines`` is worth calling, and right.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: Protocol, on_message: Callable[..., Any]) -> None:
        """Begin with empty buffers and no limits; the reactor sets those."""
        self.loop = loop
        self.protocol = protocol
        self.on_message = on_message
        self.is_async = False
        self.make_inbox: Callable[[ReadSide], Inbox | ConcurrentInbox] = Inbox
        self.thread_id = threading.get_ident()
        self.stats = Stats()
        self.wheel = TimingWheel()
        self.tick = 0
        self.read_ring = RingBuffer(READ_BUFFER_BYTES, None)  # lent whole, so it never grows itself
        self.read_view = self.read_ring.writable(READ_BUFFER_BYTES)
        self.batch = WriteBatch()
        self.max_write_buffer_bytes = 0
        self.high_bytes = 0
        self.low_bytes = 0
        self.slow_consumer = "close"
        self.idle_ticks = 0
        self.frame_ticks = 0
        self.stall_ticks = 0
        self.close_ticks = 0
        self.refresh_on_read = True
        self.refresh_on_write = True
        self.half_close = False
        self.can_writelines = False
        self._rings: list[RingBuffer] = []
        self._rings_bytes = 0
        self._dirty: list[WriteSide] = []

    def take_ring(self) -> RingBuffer:
        """Lend an empty ring for a part frame."""
        if not self._rings:
            ring = RingBuffer(RING_BYTES, None)
            ring.pooled = True
            return ring
        ring = self._rings.pop()
        self._rings_bytes -= ring._capacity
        return ring

    def give_ring(self, ring: RingBuffer) -> None:
        """Take a ring back; keep it, if the pool has room."""
        ring.clear()
        if self._rings_bytes + ring._capacity <= POOL_BYTES:
            self._rings_bytes += ring._capacity
            self._rings.append(ring)

    def mark_dirty(self, conn: WriteSide) -> None:
        """Flush ``conn`` at the end of this turn of the loop, once however often it is marked."""
        if not self._dirty:
            self.loop.call_soon(self.flush_dirty)
        self._dirty.append(conn)

    def flush_dirty(self) -> None:
        """Flush those that were marked in this turn; of very many, some now and the rest in the turns that follow."""
        dirty = self._dirty
        self._dirty = dirty[FLUSHES_PER_TURN:]
        if self._dirty:
            self.loop.call_soon(self.flush_dirty)
        for conn in dirty[:FLUSHES_PER_TURN] if self._dirty else dirty:
            conn.flush()

    def arm(self, conn: WriteSide, tick: int) -> None:
        """Have the deadlines of ``conn`` looked at no later than at ``tick``."""
        entry = conn.wheel_entry
        if entry is None:
            conn.wheel_entry = self.wheel.add(conn, tick)
        elif not entry.active or tick < entry.tick:
            self.wheel.move(entry, tick)
