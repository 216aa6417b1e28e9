"""One loop: its connections, its tick, its tasks, and what happens when something in them fails.

The tick is the only clock of idle time. The wheel turns every 50 ms, half a tick of 100 ms: a timeout of n ticks is
over 2n + 2 turns after the turn it began in, which is never less than the timeout and at most one tick more, even where
turns come late by up to one turn. Later than that means that the loop was blocked: then the sockets are looked at
first, and the whole time counts as one turn, so that a connection whose bytes wait in the kernel is never evicted for
our own slowness.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import math
import random
from collections import deque
from functools import partial
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevpy.addresses import format_address
from gevpy.closing import CloseKind
from gevpy.concurrent_inbox import ConcurrentInbox
from gevpy.errors import ConnectionClosed, WriteBufferFull
from gevpy.hooks import hooks_of
from gevpy.host import FAILURES, Host
from gevpy.log_limit import LimitedLog, printable
from gevpy.proxy_gate import TrustedProxies
from gevpy.stats import DropReason, RejectReason
from gevpy.ticks import TURN_S, ticks_for
from gevpy.timers import TimerGroup
from gevpy.tls import LiveContext
from gevpy.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gevpy.admission import Admission
    from gevpy.handler import Handler
    from gevpy.lifecycle import Lifecycle
    from gevpy.options import ServeOptions
    from gevpy.worker import Worker

__all__ = ["Reactor", "ticks_for"]

LOGGED_KINDS = (CloseKind.SLOW_CONSUMER, CloseKind.WRITE_STALL, CloseKind.PING_TIMEOUT)  # no error was reported
GOODBYES_S = 5.0  # over which the goodbyes of a patient drain are spread
NEVER_S = 1e9
ABORT_WAIT_S = 1.0  # for handlers that were cancelled to end

logger = logging.getLogger("gevpy.connection")


class Reactor(Host):
    """The connections of one loop, and what they share.

    Attributes:
        connections: those that are open.
        hooks: the handler's methods other than ``on_message``, where it has them.
        topics: who subscribes to what.
        timers: the worker's timers.
        worker: who shows this reactor to the application.
        hurried: done when a second signal has ended a drain's patience.
        blocked_seconds: gives how long the loop was blocked, by place and kind of message.
        turned_s: when the wheel last turned, by the monotonic clock of all processes.
        impatient: done when a patient drain has become a plain one.
        tls: the context of new connections, or None.
        proxies: whose PROXY headers are believed, or None if none are expected.
        pending: by its socket, how to give up what is accepted and not a connection yet: in a handshake.
        handshake_s, proxy_header_s, tls_shutdown_s: the limits in seconds, for the loop.
        aborted_peers: those who had not ended when a drain's deadline passed.

    Args:
        loop: the loop everything runs on.
        handler: the application.
        options: the server's.
        admission: who may come in.
    """

    worker: Worker

    def __init__(
        self, loop: asyncio.AbstractEventLoop, handler: Handler, options: ServeOptions, admission: Admission
    ) -> None:
        """Set up; nothing runs before `start`."""
        handler = options.protocol.handler_for(handler)
        super().__init__(loop, options.protocol, handler.on_message)
        self.is_async = inspect.iscoroutinefunction(handler.on_message)
        self.hooks = hooks_of(handler)
        self.options = options
        self.admission = admission
        self.next_id = itertools.count(1).__next__
        self.connections: dict[Lifecycle, None] = {}  # in the order in which they came
        self.topics: Topics[Lifecycle] = Topics()
        self.timers = TimerGroup(loop, self._timer_failed)
        self.log = LimitedLog(logger)
        self._apply(options)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.leaving = ""  # why, once a patient drain has begun
        self.draining = False  # what is accepted now is turned away
        self.aborted_peers: list[str] = []
        self._unfinished = 0  # connections accepted whose on_close has not ended
        self._all_gone: asyncio.Future[None] | None = None
        self.hurried: asyncio.Future[None] = loop.create_future()  # done: a drain's patience has ended
        self.impatient: asyncio.Future[None] = loop.create_future()
        self._tick_handle: asyncio.TimerHandle | None = None
        self._next_turn = 0.0
        self.turned_s = monotonic()
        self.blocked_seconds: Callable[[], dict[tuple[str, str], float]] = dict
        self._was_late = False
        self.tls = None if options.ssl is None else LiveContext(options.ssl)
        self.proxies = None if options.trusted_proxies is None else TrustedProxies(options.trusted_proxies)
        self.pending: dict[Any, Callable[[], object]] = {}
        self._foreign: deque[tuple[Lifecycle, Any, Any, int]] = deque()
        self._foreign_lock = Lock()

    def _apply(self, options: ServeOptions) -> None:
        """Copy the numbers that the hot path needs."""
        self.max_write_buffer_bytes = options.limits.max_write_buffer_bytes
        self.slow_consumer = options.limits.slow_consumer
        self.high_bytes = options.watermarks.high_bytes
        self.low_bytes = options.watermarks.low_bytes
        self.idle_ticks = ticks_for(options.idle_timeout_s)
        self.refresh_on_read = options.idle_refresh in ("read", "both")
        self.refresh_on_write = options.idle_refresh in ("write", "both")
        self.frame_ticks = ticks_for(options.timeouts.frame_s)
        self.stall_ticks = ticks_for(options.timeouts.write_stall_s)
        self.close_ticks = ticks_for(options.timeouts.close_s)
        self.half_close = options.half_close
        if options.ordering == "keyed":
            self.is_async = True  # a plain handler may return an awaitable: the key of its message must be known before
        if options.ordering != "serial":
            self.make_inbox = partial(ConcurrentInbox, limit=options.limits.max_concurrent, key=options.ordering_key)
        self.handshake_s = options.timeouts.handshake_s or NEVER_S
        self.proxy_header_s = options.timeouts.proxy_header_s or NEVER_S
        self.tls_shutdown_s = options.timeouts.tls_shutdown_s or NEVER_S
        # asyncio's writelines joins on 3.11, and ignored flow control in 3.12.0-8 and 3.13.0-1 (CVE-2024-12254)
        self.can_writelines = type(self.loop).__module__.partition(".")[0] == "uvloop"

    # -- the tick ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to turn the wheel."""
        self._arm_turn(self.loop.time() + TURN_S)

    def stop(self) -> None:
        """Turn no more, stop all timers, and cancel what tasks are left."""
        if self._tick_handle is not None:
            self._tick_handle.cancel()
            self._tick_handle = None
        self.timers.stop()
        for task in tuple(self._tasks):
            task.cancel()

    def _arm_turn(self, when: float) -> None:
        self._next_turn = when
        self._tick_handle = self.loop.call_at(when, self._turn)

    def _turn(self) -> None:
        self.turned_s = monotonic()
        now = self.loop.time()
        late = max(0.0, now - self._next_turn)
        if late > TURN_S and not self._was_late:
            self.stats.lag_seconds = late
            self._was_late = True
            self._arm_turn(now + 0.001)  # after the sockets were looked at
            return
        if not self._was_late:
            self.stats.lag_seconds = late
        self._was_late = False
        self.tick += 1
        for conn in self.wheel.advance(self.tick):
            conn.check_deadlines(self.tick)  # type: ignore[attr-defined]  # the wheel holds connections
        self._arm_turn((self._next_turn if late <= TURN_S else now) + TURN_S)

    # -- the life of connections -------------------------------------------------------------------

    def expect(self) -> None:
        """Count a connection that was accepted and whose transport is being made."""
        self._unfinished += 1

    def turned_away(self, conn: Lifecycle) -> None:
        """Let go of a connection that was expected and never opened."""
        self.pending.pop(conn, None)
        self.admission.leave(conn.network)
        if conn.close_reason is not None and conn.close_reason.kind is CloseKind.HANDSHAKE_FAILED:
            self.stats.count_rejected(RejectReason.HANDSHAKE_FAILED)
        self._finished()

    def opening(self, conn: Lifecycle) -> None:
        """Wait for a connection whose protocol has an opening handshake; a drain ends it."""
        self.pending[conn] = partial(conn.begin_close, CloseKind.DRAINED)

    def opened(self, conn: Lifecycle) -> None:
        """Take in a connection that can carry messages."""
        self.pending.pop(conn, None)
        self.connections[conn] = None
        self.stats.opened += 1
        if self.idle_ticks:
            self.arm(conn, self.tick + self.idle_ticks)
        if self.leaving:
            self.loop.call_soon(conn.announce_drain, self.leaving)

    def lost(self, conn: Lifecycle) -> None:
        """Let go of a connection whose transport is gone; the counters move before ``on_close``."""
        self.connections.pop(conn, None)
        self.topics.leave(conn)
        self.admission.leave(conn.network)
        reason = conn.close_reason
        if reason is not None:
            self.stats.count_closed(reason.kind)
            if reason.kind in LOGGED_KINDS:
                text = f"closed connection {conn.id} from {conn.peer_addr or 'unknown peer'}: {reason}"
                self.log.log(("closed", reason.kind), logging.WARNING, printable(text))
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("closed %s", printable(repr(conn)))

    def finish(self, conn: Lifecycle) -> None:
        """Tell the handler that a connection closed: the last call for it."""
        hook = self.hooks.get("on_close")
        if hook is None:
            self._finished()
            return
        try:
            result = hook(conn, conn.close_reason)
        except FAILURES as error:
            self.report(conn, "on_close", error)
            self._finished()
            return
        if result is not None and hasattr(result, "__await__"):
            self.spawn(self._await_close(conn, result))
        else:
            self._finished()

    async def _await_close(self, conn: Lifecycle, awaitable: Any) -> None:
        try:
            await awaitable
        except Exception as error:  # noqa: BLE001 - whatever the application raised is its own
            self.report(conn, "on_close", error)
        finally:
            self._finished()

    def _finished(self) -> None:
        self._unfinished -= 1
        if not self._unfinished and self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task and keep it until it ends."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def runs_current_task(self) -> bool:
        """Tell whether the running task is a handler of one of our connections."""
        return asyncio.current_task(self.loop) in self._tasks

    def local_address_of(self, transport: Any) -> str:
        """Write the address that a transport is bound to."""
        return format_address(transport.get_extra_info("sockname")) if transport is not None else ""

    # -- draining ----------------------------------------------------------------------------------

    async def drain(self, timeout_s: float | None, *, why: str = "stop", patient: bool = False) -> int:
        """End all connections gently; abort those that have not ended after ``timeout_s``.

        Args:
            timeout_s: the deadline in seconds, or None for no end of patience.
            why: what the protocol's ``goodbye`` is told.
            patient: connections live on until they close by themselves, and are ended gently at the deadline only.

        Returns:
            How many had to be aborted; who they were is in ``aborted_peers``.
        """
        if patient:
            if await self._drain_patiently(timeout_s, why):
                return 0
            timeout_s = timeout_s if self.impatient.done() else ABORT_WAIT_S
        self.draining = True
        for give_up in tuple(self.pending.values()):
            give_up()
        for conn in tuple(self.connections):
            conn.begin_drain(why)
        if await self._wait_all_gone(timeout_s, self.hurried):
            return 0
        left = tuple(self.connections)
        self.aborted_peers = [f"connection {conn.id} from {conn.peer_addr or 'unknown peer'}" for conn in left]
        for conn in left:
            conn.end_drain()
        await self._wait_all_gone(ABORT_WAIT_S)
        return len(left)

    async def _drain_patiently(self, timeout_s: float | None, why: str) -> bool:
        """Announce the end, spread so that not all peers come back in one moment; tell whether all have gone."""
        spread = min(GOODBYES_S, (timeout_s if timeout_s is not None else math.inf) / 4)
        self.leaving = why
        for conn in tuple(self.connections):
            self.loop.call_later(random.uniform(0.0, spread), conn.announce_drain, why)  # noqa: S311 - jitter
        return await self._wait_all_gone(timeout_s, self.hurried, self.impatient)

    def lose_patience(self) -> None:
        """Turn a patient drain into a plain one, with its whole time."""
        if not self.impatient.done():
            self.impatient.set_result(None)

    def hurry(self) -> None:
        """End a drain's patience now."""
        if not self.hurried.done():
            self.hurried.set_result(None)

    async def _wait_all_gone(self, timeout_s: float | None, *or_else: asyncio.Future[None]) -> bool:
        if not self._unfinished:
            return True
        self._all_gone = self.loop.create_future()
        await asyncio.wait((self._all_gone, *or_else), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return self._all_gone.done()

    # -- failures ----------------------------------------------------------------------------------

    def report(self, conn: Lifecycle, where: str, error: BaseException, *, expected: bool = False) -> None:
        """Log what went wrong on a connection, at most one line per class and five seconds.

        Args:
            conn: where it happened.
            where: the method or step at fault, from a closed list.
            error: what was raised.
            expected: it is the peer's fault: a warning without a traceback, and no error of ours.
        """
        who = printable(conn.peer_addr or "unknown peer")
        what = printable(f"{type(error).__name__}: {error}")
        if expected:
            self.log.log((where, type(error)), logging.WARNING, f"closing connection {conn.id} from {who}: {what}")
            return
        self.stats.handler_errors += 1
        message = f"error in {where}, connection {conn.id} from {who}: {what}"
        self.log.log((where, type(error)), logging.ERROR, message, error)

    def _timer_failed(self, name: str, error: BaseException) -> None:
        self.stats.handler_errors += 1
        message = printable(f"timer callback {name} failed: {type(error).__name__}: {error}")
        self.log.log(("timer", type(error)), logging.ERROR, message, error)

    # -- other threads -----------------------------------------------------------------------------

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` on the loop; nothing, if the loop is closed already."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(callback)

    def send_from_thread(self, conn: Lifecycle, data: Any, on_written: Any) -> None:
        """Queue a send of another thread; it is packed and sent on the loop.

        Raises:
            ConnectionClosed: so much is queued already that the policy ``"close"`` acted.
            WriteBufferFull: so much is queued already, and the policy is ``"block"``.
        """
        size = len(data) if isinstance(data, bytes | bytearray | memoryview | str) else 1
        wake = False
        with self._foreign_lock:
            queued = conn._foreign_bytes
            full = queued > self.max_write_buffer_bytes
            wake = not full and not self._foreign
            if not full:
                conn._foreign_bytes = queued + size
                self._foreign.append((conn, data, on_written, size))
        if wake:
            self.call_from_thread(self._send_foreign)
        if full:
            self._refuse_foreign(conn, data, on_written, queued)

    def _refuse_foreign(self, conn: Lifecycle, data: Any, on_written: Any, queued: int) -> None:
        error = WriteBufferFull("output queue full", limit=self.max_write_buffer_bytes, actual=queued)
        if self.slow_consumer == "block":
            raise error
        if self.slow_consumer == "close":
            self.call_from_thread(lambda: conn._abort_with(CloseKind.SLOW_CONSUMER, error))
            raise ConnectionClosed(None, "output queue full") from error
        self.call_from_thread(lambda: self._drop_foreign(conn, data, on_written, error, DropReason.DROP_NEWEST))

    def _send_foreign(self) -> None:
        with self._foreign_lock:
            queue = self._foreign
            self._foreign = deque()
            for conn, _, _, size in queue:
                conn._foreign_bytes -= size
        for conn, data, on_written, _ in queue:
            try:
                conn.send(data, on_written=on_written)
            except ConnectionClosed as error:
                self._drop_foreign(conn, data, on_written, error, DropReason.CONNECTION_CLOSED)
            except WriteBufferFull as error:
                self._drop_foreign(conn, data, on_written, error, DropReason.DROP_NEWEST)
            except Exception as error:  # noqa: BLE001 - packet() raised, and its caller is in another thread
                self.report(conn, "packet", error)
                self._drop_foreign(conn, data, on_written, error, DropReason.PACKET_FAILED)

    def _drop_foreign(self, conn: Lifecycle, data: Any, on_written: Any, error: Exception, reason: DropReason) -> None:
        self.stats.count_dropped(reason)
        if on_written is not None:
            conn._tell_written(on_written, data, error)
