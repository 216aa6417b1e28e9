"""The receiving half of a connection: one breath from the kernel's bytes to the handler and back.

    get_buffer ──▶ kernel fills it ──▶ buffer_updated ──▶ protocol.decode ──▶ handler.on_message ──▶ one write
                                                              ▲      │
                                                              └──────┘  again, for every frame of this read

The buffer is the host's, shared by all connections, unless a part frame is left over: only then does this connection
hold a ring of its own, until the frame is whole. `_handle_input` is the one loop over frames that there is.

Reading stops for some causes, kept apart as bits so that none undoes another: the application asked, output is
congested, the queue of an asynchronous handler is full, this turn's share of messages is used up, and more. The
transport is paused while any of them holds; never inside ``get_buffer``, where uvloop 0.23 would crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from gevpy import _cython_shim as cython

from gevpy.host import FAILURES
from gevpy.write_side import WriteSide

if cython.compiled:
    from cython.cimports.cpython.time import perf_counter
else:
    from time import perf_counter

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from gevpy.concurrent_inbox import ConcurrentInbox
    from gevpy.host import Host
    from gevpy.inbox import Inbox
    from gevpy.ring_buffer import RingBuffer

__all__ = ["ReadSide"]

BY_APPLICATION = 1
BY_OUTPUT = 2
BY_INBOX = 4
BY_TURN = 8
BY_CONNECT = 16
BY_CLOSE = 32
BY_UPGRADE = 64
BY_PROTOCOL = 128
WATCHED = BY_APPLICATION | BY_INBOX | BY_CONNECT | BY_PROTOCOL  # may last for long

LOOK_TICKS = 10  # between looks at whether the peer of one that isn't read is still there

MESSAGES_PER_TURN = 1024  # then other connections get theirs

UNPACKET, ON_MESSAGE, PACKET = 0, 1, 2
STEPS = ("unpacket", "on_message", "packet")  # whose failure it was


class ReadSide(WriteSide):
    """What a connection knows of its input. Used only as the base of `Connection`."""

    __slots__ = (
        "_eof",
        "_expects_farewell",
        "_frame_tick",
        "_heard",
        "_inbox",
        "_paused",
        "_ring",
        "_step",
        "protocol_state",
    )

    def __init__(self, host: Host) -> None:
        """Begin unconnected, with nothing read."""
        super().__init__(host)
        self.protocol_state: Any = None
        self._ring: RingBuffer | None = None
        self._inbox: Inbox | ConcurrentInbox | None = None
        self._paused = 0
        self._frame_tick = -1  # when the part frame in _ring began, or -1
        self._eof = False
        self._expects_farewell = False  # closing, and the peer is to say that it heard
        self._heard = False  # input came that was not wanted any more
        self._step = UNPACKET  # what `_handle_frames` is at

    # -- the asyncio protocol's reading ------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the two loops disagree on what it means
        """Lend the transport room to read into."""
        if self._ring is None:
            return self._host.read_view
        return self._ring.writable()

    def buffer_updated(self, nbytes: int) -> None:
        """Handle what the transport read."""
        host = self._host
        host.stats.received_bytes += nbytes
        if host.refresh_on_read:
            self.active_tick = host.tick
        ring = self._ring
        if ring is None:
            ring = host.read_ring
            ring.restart(nbytes)
        else:
            ring.commit(nbytes)
        if self._paused and not (self._closing or self._paused & BY_UPGRADE):
            self._transport.pause_reading()  # uvloop begins to read after connection_made, whatever that paused
        self._handle_input(ring)

    def _handle_input(self, ring: RingBuffer) -> None:
        """Take every whole frame out of ``ring``, and keep what is left."""
        host = self._host
        if self._closing:
            self._heard = True
            if self._expects_farewell:
                self._hear_farewell(ring)
            else:
                ring.clear()  # nothing more is handled; what comes while we linger is only to be taken off the wire
            return
        before = ring._length
        started = perf_counter()
        self._corked = True
        try:
            self._handle_frames(ring)
        except FAILURES as error:
            self._fail(STEPS[self._step], error)
        except BaseException:  # SystemExit, KeyboardInterrupt: the loop ends, but nobody else may get what was gathered
            self._corked = False
            host.batch.clear()
            raise
        passed_high = host.batch.length > host.high_bytes
        if host.batch.length or self._pending is not None:
            self._hand_over()
        self._corked = False
        host.stats.handler_calls += 1
        host.stats.handler_seconds += perf_counter() - started
        if ring._length or ring is not host.read_ring:
            self._keep_rest(ring, before)
        else:
            self._frame_tick = -1
        if self._busy or self._written is not None or self._closing or self._congested or self._write_shut:
            self.flush()
        if passed_high and not self._congested:
            self._tell_writable()  # everything left at once; who waits for the low mark must know

    def _hear_farewell(self, ring: RingBuffer) -> None:
        """Look for the peer's farewell, and for nothing else."""
        before = ring._length
        try:
            has_come = self._protocol.hear_farewell(self, ring)
        except FAILURES:  # it breaks the protocol even now
            has_come = True
        if has_come:
            self._expects_farewell = False
            ring.clear()
        if ring._length or ring is not self._host.read_ring:
            self._keep_rest(ring, before)
        if has_come:
            self.flush()

    def _handle_frames(self, ring: RingBuffer) -> None:
        host = self._host
        stats = host.stats
        batch = host.batch
        protocol = self._protocol
        turn_ends = stats.received_messages + MESSAGES_PER_TURN
        while ring._length and not self._paused and not self._lost:
            self._step = UNPACKET
            message = protocol.next_message(self, ring)
            if message is None:
                if protocol is self._protocol:
                    break
                protocol = self._protocol  # swapped inside unpacket: the new one may understand what is left
                continue
            stats.received_messages += 1
            self._step = ON_MESSAGE
            data: Any = message
            if type(message) is bytes:
                ctx = protocol.bytes_ctx
            elif type(message) is str:
                ctx = protocol.text_ctx
            else:
                ctx, data = message
            if self._inbox is not None or host.is_async:
                self._queue_message((ctx, data))
            else:
                reply = host.on_message(self, ctx, data)
                if (
                    (type(reply) is bytes or type(reply) is str)
                    and self._pending is None
                    and not (self._busy or self._lost or self._write_shut)
                    and batch.length <= host.max_write_buffer_bytes
                ):
                    self._step = PACKET
                    self._protocol.packet_into(self, reply, batch)  # as _reply does when nothing is in the way
                    stats.sent_messages += 1
                elif reply is not None:
                    self._take_reply(reply)
            protocol = self._protocol
            if stats.received_messages >= turn_ends:
                self.yield_turn()
                break

    def _take_reply(self, reply: Any) -> None:
        if type(reply) is not bytes and type(reply) is not str and hasattr(reply, "__await__"):
            self._take_inbox().put_running(reply)
            return
        self._step = PACKET
        self._reply(reply)

    def _keep_rest(self, ring: RingBuffer, before: int) -> None:
        """Keep what is no whole frame yet in a ring of our own; give an empty one back."""
        host = self._host
        if ring._length == 0 or (self._closing and not self._expects_farewell) or self._lost:
            if ring is not host.read_ring:
                self._ring = None
                host.give_ring(ring)
            else:
                ring.clear()
            self._frame_tick = -1
            return
        if ring._length != before or ring is host.read_ring:
            self._frame_tick = -1  # what is left began just now
        if ring is host.read_ring:
            self._ring = host.take_ring()
            self._ring.absorb(ring)
        if self._frame_tick < 0 and not self._paused:
            self._begin_frame()

    def _begin_frame(self) -> None:
        host = self._host
        self._frame_tick = host.tick
        if host.frame_ticks:
            host.arm(self, host.tick + host.frame_ticks)

    # -- asynchronous handlers ---------------------------------------------------------------------

    def _take_inbox(self) -> Inbox | ConcurrentInbox:
        if self._inbox is None:
            self._inbox = self._host.make_inbox(self)
        return self._inbox

    def _queue_message(self, message: tuple[Any, Any]) -> None:
        inbox = self._take_inbox()
        inbox.put(message)
        if inbox.full:
            self._pause(BY_INBOX)

    def inbox_has_room(self) -> None:
        """Read on: the inbox calls this when it is full no more."""
        self._resume(BY_INBOX)

    def inbox_empty(self) -> None:
        """Go on without an inbox: it calls this when its last message was handled."""
        self._inbox = None
        self._resume(BY_INBOX)
        if self._eof and self._connected:
            self._finish_input()

    # -- pausing -----------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Read nothing more, and call ``on_message`` no more, until `resume_reading`. Idempotent; on the loop only."""
        self._pause(BY_APPLICATION)

    def resume_reading(self) -> None:
        """Read on after `pause_reading`; what is buffered is handled in the next turn. Idempotent; on the loop only."""
        self._resume(BY_APPLICATION)

    @property
    def read_buffer_length(self) -> int:
        """Bytes read and not yet handled, at this moment."""
        if self._corked and self._ring is None:
            return len(self._host.read_ring)
        return 0 if self._ring is None else len(self._ring)

    def stop_reading(self) -> None:
        """Read nothing more, for good."""
        self._pause(BY_CLOSE)

    def read_to_discard(self) -> None:
        """Read on while closing, without looking, whatever had paused reading."""
        self._paused = 0
        if not self._eof:
            self._transport.resume_reading()

    def read_farewell(self) -> None:
        """Read on while closing, for the peer's farewell only, whatever had paused reading."""
        self._paused = BY_CLOSE
        if self._ring is not None:
            self._hear_farewell(self._ring)
        if not self._eof and not self._lost:
            self._transport.resume_reading()

    def farewell_heard(self) -> None:
        """Wait for it no longer: it has come, or never will."""
        self._expects_farewell = False
        self.flush()

    def rest(self, seconds: float) -> None:
        """Read nothing for so long: the protocol's own limit."""
        self._pause(BY_PROTOCOL)
        self._host.loop.call_later(seconds, self._resume, BY_PROTOCOL)

    def wait_for_connect(self) -> None:
        """Read nothing until `connect_done`."""
        self._pause(BY_CONNECT)

    def hold_pause(self) -> None:
        """Pause again, if reading was paused inside ``connection_made``: uvloop begins to read right after that."""
        if self._paused:
            self._host.loop.call_soon(self._pause_again)

    def _pause_again(self) -> None:
        if self._paused and not self._lost:
            self._transport.pause_reading()

    def wait_for_upgrade(self) -> None:
        """Handle nothing until `upgrade_done`."""
        self._pause(BY_UPGRADE)

    def upgrade_done(self) -> None:
        """Read on: the connection has another transport, or keeps its own."""
        self._resume(BY_UPGRADE)

    def connect_done(self) -> None:
        """Begin to read: the asynchronous ``on_connect`` has ended."""
        self._resume(BY_CONNECT)

    @property
    def is_held(self) -> bool:
        """Whether reading has stopped for another cause than our own close."""
        return bool(self._paused & ~BY_CLOSE)

    def handle_rest(self) -> None:
        """Handle what is buffered to its end, in this very turn: there will be no later one."""
        while self._may_go_on():
            before = self.read_buffer_length
            self._paused = 0
            self._handle_input(self._ring)  # type: ignore[arg-type]  # it is there
            if self.read_buffer_length == before:
                break

    def _may_go_on(self) -> bool:
        held = self._paused & ~(BY_TURN | BY_OUTPUT)
        return self._connected and self._ring is not None and self._inbox is None and not held

    def forget_search(self) -> None:
        """Have the bytes that are buffered searched again: another protocol looks for something else."""
        ring = self._host.read_ring if self._ring is None else self._ring
        ring.scanned = 0

    def frame_due_tick(self) -> int:
        """Give the tick at which the part frame is overdue, or -1 for none."""
        if self._frame_tick < 0 or not self._host.frame_ticks:
            return -1
        return self._frame_tick + self._host.frame_ticks

    def release(self) -> None:
        """Give the ring back, and leave the wheel."""
        if self._ring is not None:
            self._host.give_ring(self._ring)
            self._ring = None
        if self.wheel_entry is not None:
            self._host.wheel.cancel(self.wheel_entry)
            self.wheel_entry = None

    def _pause(self, cause: int) -> None:
        if not self._paused and not self._lost and not self._eof:
            self._transport.pause_reading()
        self._paused |= cause
        if cause & WATCHED and not self._lost:
            self._host.arm(self, self._host.tick + LOOK_TICKS)  # nobody else would notice that the peer is gone
        self._frame_tick = -1  # the clock of a part frame stands while it is we who don't read

    def _resume(self, cause: int) -> None:
        if not self._paused & cause:
            return
        self._paused &= ~cause
        if self._paused or self._lost:
            return
        if self._ring is not None:
            self._host.loop.call_soon(self._continue)
        elif not self._eof:
            self._transport.resume_reading()

    def _continue(self) -> None:
        """Handle what was buffered when reading stopped, then read on."""
        if self._paused or self._lost or self._corked:
            return
        if self._ring is not None:
            self._handle_input(self._ring)
        if self._paused or self._lost:
            return
        if not self._eof:
            self._transport.resume_reading()
        elif self._inbox is None:
            self._finish_input()

    def yield_turn(self) -> None:
        """Handle no more in this turn of the loop; go on in the next."""
        self._pause(BY_TURN)
        self._host.loop.call_soon(self._resume, BY_TURN)

    def _pause_for_output(self) -> None:
        self._pause(BY_OUTPUT)

    def _resume_after_output(self) -> None:
        self._resume(BY_OUTPUT)

    # -- what the connection adds ------------------------------------------------------------------

    def _finish_input(self) -> None:
        raise NotImplementedError

    def _tell_writable(self) -> None:
        raise NotImplementedError

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that is kept until it ends."""
        raise NotImplementedError

    def call_handler(self, ctx: Any, data: Any) -> Any:
        """Call ``on_message`` for the inbox."""
        raise NotImplementedError

    def message_handled(self, reply: Any, seconds: float) -> None:
        """Send the reply of an asynchronous handler."""
        raise NotImplementedError

    def message_failed(self, where: str, error: BaseException) -> None:
        """End the connection because its asynchronous handler raised."""
        raise NotImplementedError
