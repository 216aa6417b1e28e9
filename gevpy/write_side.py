"""The sending half of a connection: what waits, what is handed over, what is refused.

Output goes through three places, oldest last:

    send() ──▶ batch      inside this connection's own read: gathered in the host's `WriteBatch`, one write at its end
           └─▶ pending    otherwise: a list of whole messages, handed over at the end of the loop's turn
                   └────▶ transport    takes what it is given; its limits are 0, so that it says at once when it
                                       could not write everything (``pause_writing``), and when all has left

While the transport is busy, whole messages wait in ``pending``, where the slow-consumer policy can still drop them.
Because the transport's own limits are 0, ``pause_writing`` and ``resume_writing`` tell exactly when nothing is unsent,
and ``on_written`` needs no polling.
"""

from __future__ import annotations

from collections import deque
from threading import get_ident
from typing import TYPE_CHECKING, Any

from gevpy.closing import CloseKind, CloseReason
from gevpy.errors import ConnectionClosed, WriteBufferFull
from gevpy.host import FAILURES
from gevpy.kernel_queues import reset_on_close
from gevpy.stats import DropReason
from gevpy.write_batch import as_bytes

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gevpy.host import Host
    from gevpy.protocol.base import Protocol
    from gevpy.timing_wheel import WheelEntry

__all__ = ["WriteSide"]

Told = tuple[int, Any, "Callable[[Any, BaseException | None], object]"]
"""A number, the message, and the ``on_written`` it was sent with."""

JOIN_BYTES = 256 * 1024  # pending messages are joined into writes of about this size


class WriteSide:
    """What a connection knows of its output. Used only as the base of `ReadSide`, and so of `Connection`."""

    __slots__ = (
        "_busy",
        "_closing",
        "_congested",
        "_connected",
        "_corked",
        "_foreign_bytes",
        "_handed",
        "_host",
        "_lost",
        "_numbered",
        "_pending",
        "_pending_bytes",
        "_protocol",
        "_reason",
        "_said_farewell",
        "_stall_sent",
        "_stall_tick",
        "_transport",
        "_unwritten",
        "_waiters",
        "_write_shut",
        "_written",
        "active_tick",
        "wheel_entry",
    )

    def __init__(self, host: Host) -> None:
        """Begin unconnected."""
        self._host = host
        self._protocol: Protocol = host.protocol
        self._transport: Any = None
        self._reason: CloseReason | None = None
        self._connected = False
        self._closing = False  # a graceful close has begun: flush, then close
        self._lost = False  # the transport is gone, or aborted: nothing leaves any more
        self._said_farewell = False
        self._write_shut = False
        self._corked = False  # inside our own read: gather in host.batch
        self._busy = False  # the transport holds unsent bytes
        self._congested = False  # output passed high_bytes and is not yet at low_bytes again
        self._pending: bytes | deque[bytes] | None = None  # a frame that is alone has no queue
        self._numbered = 0  # frames ever queued in _pending: the last one's number
        self._unwritten: deque[Told] | None = None  # who is to be told of frames in _pending, by the frame's number
        self._pending_bytes = 0
        self._foreign_bytes = 0  # sent by other threads and not yet packed
        self._handed = 0  # bytes ever handed to the transport
        self._stall_sent = 0
        self._stall_tick = 0
        self._written: deque[Told] | None = None  # and of frames handed over, by where they end in the stream
        self._waiters: list[asyncio.Future[None]] | None = None
        self.active_tick = host.tick
        self.wheel_entry: WheelEntry | None = None

    # -- what an application calls -----------------------------------------------------------------

    def send(self, data: Any, *, on_written: Callable[[Any, BaseException | None], object] | None = None) -> None:
        """Send one message: ``protocol.packet`` makes its frame, which leaves as soon as the socket takes it.

        Never blocks. Inside ``on_message`` it precedes the reply that is then returned, and leaves in the same write;
        elsewhere all sends of one turn of the loop leave in one write. Safe from any thread: there it keeps that
        thread's order, and ``packet`` runs later, on the loop.

        Args:
            data: what the protocol's ``packet`` takes; bytes-like for the byte protocols.
            on_written: called once, on the loop, as ``on_written(data, error)``: error is None once the transport's
                unsent bytes no longer include the message, else `ConnectionClosed` (or `WriteBufferFull` if the
                slow-consumer policy dropped it). That is the moment to reuse a pooled buffer.

        Raises:
            ConnectionClosed: the connection is known to be closed or closing, or ``"close"`` is the slow-consumer
                policy and just acted.
            WriteBufferFull: more than ``max_write_buffer_bytes`` wait, and the policy is ``"block"``.
            Exception: whatever ``packet`` raises; the connection lives on.

        Source: gev's ``Connection.Send`` and ``SendInLoop``, which called back before anything had been sent.

        Example:
            ``conn.send(b"hello")``
        """
        if not self._connected or self._write_shut:
            raise self._closed_error()
        if get_ident() != self._host.thread_id:
            self._send_from_thread(data, on_written)
            return
        if on_written is None and self._corked:
            self._emit(data, False)  # noqa: FBT003 - internal, hot
        else:
            self._enqueue(as_bytes(self._protocol.packet(self, data)), data, on_written, False)  # noqa: FBT003 - the same

    async def drain(self) -> None:
        """Wait until output is not congested.

        Returns at once unless more than ``high_bytes`` wait; else when at most ``low_bytes`` do.

        On the loop only.

        Raises:
            ConnectionClosed: the connection is closed, or closes while waiting.

        Source: asyncio's ``StreamWriter.drain``.
        """
        if not self._connected:
            raise self._closed_error()
        if not self._corked:
            self.flush()
        if not self._congested:
            return
        waiter: asyncio.Future[None] = self._host.loop.create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        await waiter

    @property
    def write_buffer_length(self) -> int:
        """Bytes that wait to be sent, at this moment: gathered, queued, and in the transport."""
        return self._queued()

    @property
    def is_sending(self) -> bool:
        """Whether output waits that the socket did not take."""
        return self._busy or self._pending is not None

    @property
    def congested(self) -> bool:
        """Whether output passed ``high_bytes`` and is not yet down to ``low_bytes``."""
        return self._congested

    async def all_sent(self) -> None:
        """Wait until everything that waits has left, or never will."""
        while self._connected and self._queued():
            sent: asyncio.Future[None] = self._host.loop.create_future()
            if self._written is None:
                self._written = deque()
            self._written.append((self._handed + self._pending_bytes, sent, _wake))
            await sent

    # -- the asyncio protocol's flow control -------------------------------------------------------

    def pause_writing(self) -> None:
        """Learn from the transport that it could not write everything."""
        self._busy = True
        self._stall_tick = self._host.tick
        self._stall_sent = self._handed - self._transport.get_write_buffer_size()
        if self._host.stall_ticks:
            self._host.arm(self, self._host.tick + 1)

    def resume_writing(self) -> None:
        """Learn from the transport that everything it had has left."""
        self._busy = False
        if self._host.refresh_on_write:
            self.active_tick = self._host.tick
        self._host.mark_dirty(self)  # not now: asyncio's transport still looks at its own state after this call

    # -- queueing ----------------------------------------------------------------------------------

    def _emit(self, data: Any, is_reply: bool) -> None:  # noqa: FBT001 - internal, hot
        """Queue what our own read produced: into the batch, unless something older waits."""
        host = self._host
        batch = host.batch
        if batch.length > host.max_write_buffer_bytes:
            self._hand_over()
        if self._busy or self._pending is not None:
            self._enqueue(as_bytes(self._protocol.packet(self, data)), data, None, is_reply)
            return
        self._protocol.packet_into(self, data, batch)
        host.stats.sent_messages += 1

    def send_frame(self, frame: bytes) -> None:
        """Queue what a protocol says on its own: it is no message, and the slow-consumer policy isn't asked."""
        if self._lost or self._write_shut or not frame:
            return
        if self._corked and not self._busy and self._pending is None:
            self._host.batch.append(frame)
        else:
            self._queue_last(frame)

    def send_ahead(self, frame: bytes) -> None:
        """Send what may overtake waiting messages: it leaves as soon as it can, and no policy ever drops it."""
        if self._lost or self._write_shut:
            return
        if self._corked and not self._busy and self._pending is None:
            self._host.batch.append(frame)
            return
        if not self._busy:
            self._hand_over()  # may make it busy
        self._write(frame, len(frame))
        if self._busy:
            self._note_congestion()

    def send_shared(self, data: Any, made: dict[Any, bytes]) -> None:
        """Send one message that goes to many; ``made`` keeps frames that serve several. Raises as `send` does."""
        if not self._connected or self._write_shut:
            raise self._closed_error()
        self._enqueue(self._protocol.packet_shared(self, data, made), data, None, False)  # noqa: FBT003 - the same

    def reply(self, data: Any) -> None:
        """Queue what an asynchronous ``on_message`` returned."""
        self._reply(data)

    def _reply(self, data: Any) -> None:
        """Queue what ``on_message`` returned; ``"block"`` doesn't refuse it, for its message was taken."""
        if self._lost or self._write_shut:
            reason = DropReason.CONNECTION_CLOSED if self._lost else DropReason.WRITE_SHUT_DOWN
            self._host.stats.count_dropped(reason)
        elif self._corked:
            self._emit(data, True)  # noqa: FBT003 - internal, hot
        else:
            self._enqueue(as_bytes(self._protocol.packet(self, data)), data, None, True)  # noqa: FBT003 - the same

    def _enqueue(
        self,
        frame: bytes,
        data: Any,
        on_written: Callable[[Any, BaseException | None], object] | None,
        is_reply: bool,  # noqa: FBT001 - internal, hot
    ) -> None:
        """Queue one frame as a message of its own, if the limit and the policy allow."""
        if not self._may_queue(data, on_written, is_reply):
            return
        self._queue_last(frame)
        self._host.stats.sent_messages += 1
        if on_written is not None:
            if self._unwritten is None:
                self._unwritten = deque()
            self._unwritten.append((self._numbered, data, on_written))
        if self._busy or self._pending_bytes > self._host.high_bytes:
            self._note_congestion()

    def _may_queue(
        self,
        data: Any,
        on_written: Callable[[Any, BaseException | None], object] | None,
        is_reply: bool,  # noqa: FBT001 - the same
    ) -> bool:
        host = self._host
        if self._lost or self._write_shut:  # packet() itself may have ended the connection
            if not is_reply:
                raise self._closed_error()
            host.stats.count_dropped(DropReason.CONNECTION_CLOSED)
            return False
        if (is_reply and host.slow_consumer == "block") or self._queued() <= host.max_write_buffer_bytes:
            return True
        self._hand_over()
        return self._queued() <= host.max_write_buffer_bytes or self._make_room(data, on_written)

    def _make_room(self, data: Any, on_written: Callable[[Any, BaseException | None], object] | None) -> bool:
        """Act by the slow-consumer policy; tell whether the new message may be queued."""
        host = self._host
        limit = host.max_write_buffer_bytes
        full = WriteBufferFull("output queue full", limit=limit, actual=self._queued())
        if host.slow_consumer == "close":
            self._abort_with(CloseKind.SLOW_CONSUMER, full)
            raise self._closed_error()
        if host.slow_consumer == "block":
            raise full
        if host.slow_consumer == "drop_oldest":
            while self._pending and self._queued() > limit:
                self._drop_oldest(full)
            if self._queued() <= limit:
                return True
        host.stats.count_dropped(DropReason.DROP_NEWEST)
        if on_written is not None:
            host.loop.call_soon(self._tell_written, on_written, data, full)
        return False

    def _queue_last(self, frame: bytes) -> None:
        """Queue a frame behind all that there is, and have it handed over at the end of the read or the turn."""
        if self._corked and self._host.batch.length:
            self._spill()
        if self._pending is None and not self._corked and not self._busy:
            self._host.mark_dirty(self)
        self._queue_frame(frame)

    def _queue_frame(self, frame: bytes) -> None:
        pending = self._pending
        if pending is None:
            self._pending = frame  # mostly it stays alone, and a deque has 600 bytes
        elif isinstance(pending, bytes):
            self._pending = deque((pending, frame))
        else:
            pending.append(frame)
        self._pending_bytes += len(frame)
        self._numbered += 1

    def _drop_oldest(self, full: WriteBufferFull) -> None:
        if not self._pending:
            return
        if isinstance(self._pending, bytes):
            self._pending = deque((self._pending,))
        number = self._numbered - len(self._pending) + 1
        self._pending_bytes -= len(self._pending.popleft())
        self._host.stats.count_dropped(DropReason.DROP_OLDEST)
        if self._unwritten and self._unwritten[0][0] == number:
            _, data, callback = self._unwritten.popleft()
            self._host.loop.call_soon(self._tell_written, callback, data, full)

    def _spill(self) -> None:
        """Move what was gathered to the queue, so that what comes next keeps its place behind it.

        It becomes one frame, the queue's first, which no policy drops: before one acts, the first is handed over.
        """
        out = self._host.batch.take()
        self._queue_frame(b"".join(out) if isinstance(out, list) else out)

    def _queued(self) -> int:
        queued = self._pending_bytes + self._foreign_bytes
        if self._corked:
            queued += self._host.batch.length
        if self._busy and not self._lost:
            queued += self._transport.get_write_buffer_size()
        return queued

    # -- handing over ------------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand over what waits, as far as the transport takes it, and act on what has become of it."""
        if self._lost:
            return
        self._hand_over()
        if self._written is not None:
            self._settle_written()
        if self._congested and self._queued() <= self._host.low_bytes:
            self._relieve()
        if self._write_shut and self._pending is None:
            self._transport.write_eof()  # idempotent; waits for the transport's own buffer
        if self._closing:
            self._settle_close()

    def _hand_over(self) -> None:
        batch = self._host.batch
        if self._corked and batch.length:
            if self._pending is None and not self._busy:
                size = batch.length
                self._write(batch.take(), size)
            else:
                self._spill()
        if self._pending is not None:
            self._hand_over_pending()
        if self._busy:
            self._note_congestion()

    def _hand_over_pending(self) -> None:
        pending = self._pending
        if isinstance(pending, bytes):
            if not self._busy and not self._lost:
                self._hand_over_one(pending)
            return
        while pending and not self._busy and not self._lost:
            chunk = [pending.popleft()]
            size = len(chunk[0])
            while pending and size + len(pending[0]) <= JOIN_BYTES:
                size += len(pending[0])
                chunk.append(pending.popleft())
            self._pending_bytes -= size
            if self._unwritten is not None:
                self._expect_written(self._numbered - len(pending), self._handed + size)
            self._write(chunk[0] if len(chunk) == 1 else b"".join(chunk), size)
        if not pending:
            self._pending = None

    def _hand_over_one(self, frame: bytes) -> None:
        """Hand over the only frame that waits."""
        size = len(frame)
        self._pending = None
        self._pending_bytes -= size
        if self._unwritten is not None:
            self._expect_written(self._numbered, self._handed + size)
        self._write(frame, size)

    def _expect_written(self, last: int, end: int) -> None:
        """Have those told whose frames, up to number ``last``, are handed over, once all up to ``end`` has left."""
        unwritten = self._unwritten
        while unwritten and unwritten[0][0] <= last:
            if self._written is None:
                self._written = deque()
            _, data, callback = unwritten.popleft()
            self._written.append((end, data, callback))
        if not unwritten:
            self._unwritten = None

    def _write(self, out: bytes | list[bytes], size: int) -> None:
        """Give bytes to the transport: the only place that does."""
        host = self._host
        if size == 0:
            return
        self._handed += size
        host.stats.sent_bytes += size
        if host.refresh_on_write:
            self.active_tick = host.tick
        if type(out) is not list:
            self._transport.write(out)
        elif host.can_writelines:
            self._transport.writelines(out)
        else:
            self._transport.write(b"".join(out))

    def _note_congestion(self) -> None:
        if not self._congested and self._queued() > self._host.high_bytes:
            self._congested = True
            self._pause_for_output()

    def _relieve(self) -> None:
        """Output is at the low watermark again: read on, wake who waits, tell the handler."""
        self._congested = False
        waiters = self._waiters
        self._waiters = None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
        self._resume_after_output()

    def _settle_written(self) -> None:
        """Tell the senders of what has left."""
        written = self._written
        sent = self._handed - (self._transport.get_write_buffer_size() if self._busy else 0)
        while written and written[0][0] <= sent:
            _, data, callback = written.popleft()
            self._host.loop.call_soon(self._tell_written, callback, data, None)
        if not written:
            self._written = None

    def _tell_written(
        self, callback: Callable[[Any, BaseException | None], object], data: Any, error: Exception | None
    ) -> None:
        try:
            callback(data, error)
        except FAILURES as failure:
            self._fail("on_written", failure)

    def _discard_output(self) -> None:
        """Forget what waits; its senders are told that the connection is closed."""
        if self._pending:
            waiting = 1 if isinstance(self._pending, bytes) else len(self._pending)
            self._host.stats.count_dropped(DropReason.CONNECTION_CLOSED, waiting)
        self._pending = None
        self._pending_bytes = 0
        if self._corked:
            self._host.batch.clear()
        told = [*(self._written or ()), *(self._unwritten or ())]
        self._written = self._unwritten = None
        for _, data, callback in told:
            self._host.loop.call_soon(self._tell_written, callback, data, self._closed_error())
        waiters = self._waiters
        self._waiters = None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_exception(self._closed_error())

    # -- ending ------------------------------------------------------------------------------------

    def _closed_error(self) -> ConnectionClosed:
        if self._write_shut and self._connected:
            return ConnectionClosed(None, "the sending side was shut down")
        return ConnectionClosed(self._reason)

    def _abort_with(self, kind: CloseKind, error: BaseException | None) -> None:
        """End at once, by a reset: output is discarded, ``connected`` is False, ``on_close`` comes in the next turn."""
        if self._lost:
            return
        if self._reason is None:
            self._reason = CloseReason(kind, error)
        elif error is not None and self._reason.error is None:
            self._reason = CloseReason(self._reason.kind, error, self._reason.code, self._reason.text)
        self._connected = False
        self._lost = True
        self._discard_output()
        reset_on_close(self._transport.get_extra_info("socket"))
        self._transport.abort()

    # -- what the other half and the connection add ------------------------------------------------

    def _send_from_thread(self, data: Any, on_written: Callable[[Any, BaseException | None], object] | None) -> None:
        raise NotImplementedError

    def _pause_for_output(self) -> None:
        raise NotImplementedError

    def _resume_after_output(self) -> None:
        raise NotImplementedError

    def _settle_close(self) -> None:
        raise NotImplementedError

    def _fail(self, where: str, error: BaseException) -> None:
        raise NotImplementedError


def _wake(waiter: asyncio.Future[None], _error: BaseException | None) -> None:
    if not waiter.done():
        waiter.set_result(None)
