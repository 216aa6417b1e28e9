"""What a connection must not be late with: closing, sending, ending a frame, saying anything at all.

Each connection has one entry in the wheel, for whatever is due first, and it is moved lazily: traffic only stamps a
tick, and when the entry comes up, what is really overdue is found out here, and the entry armed again for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gevpy.closing import CloseKind
from gevpy.errors import FrameTimeout, WriteBufferFull
from gevpy.kernel_queues import unacknowledged_bytes, was_reset

if TYPE_CHECKING:
    from gevpy.lifecycle import Lifecycle
    from gevpy.reactor import Reactor

__all__ = ["check_deadlines"]

LOOK_TICKS = 10  # how often output that waits is looked at: it has no event for every byte that leaves


def check_deadlines(conn: Lifecycle, reactor: Reactor, now: int) -> None:
    """Act on the first thing that is overdue at tick ``now``, and have the rest looked at in time."""
    if conn.is_held and was_reset(conn.fileno()):
        conn._abort_with(CloseKind.PEER_RESET, ConnectionResetError("the peer has reset the connection"))
    elif conn._closing and 0 <= conn.close_tick <= now:
        conn._abort_with(CloseKind.CLOSED_LOCALLY, _why_not_closed(conn))
    elif conn._busy and reactor.stall_ticks and _stalled(conn, reactor, now):
        error = WriteBufferFull("output does not leave", actual=conn.write_buffer_length)
        conn._abort_with(CloseKind.WRITE_STALL, error)
    elif 0 <= conn.frame_due_tick() <= now:
        late = FrameTimeout("frame not whole in time", actual=conn.read_buffer_length)
        reactor.report(conn, "frame", late, expected=True)
        conn.begin_close(CloseKind.FRAME_TIMEOUT, late)
    elif conn._connected and 0 <= conn.protocol_tick <= now:
        conn.protocol_tick = -1
        conn.call_due(now)
    elif conn._opened and conn._connected and reactor.idle_ticks and now >= conn.active_tick + reactor.idle_ticks:
        _evict(conn, now)
    if conn.still_lingers():
        reactor.arm(conn, now + 1)
    elif not conn._lost:
        _rearm(conn, reactor, now)


def _why_not_closed(conn: Lifecycle) -> Exception:
    if conn._expects_farewell and not conn.write_buffer_length:
        return TimeoutError("the peer did not answer the close in time")
    return WriteBufferFull("output not flushed in time", actual=conn.write_buffer_length)


def _stalled(conn: Lifecycle, reactor: Reactor, now: int) -> bool:
    if conn._tls and conn._transport.get_extra_info("ssl_object") is None:
        conn._stall_tick = now  # we hold output back for the handshake, which has a limit of its own
        return False
    sent = conn._handed - conn._transport.get_write_buffer_size() - unacknowledged_bytes(conn.fileno())
    if sent != conn._stall_sent:
        conn._stall_sent = sent
        conn._stall_tick = now
    return now >= conn._stall_tick + reactor.stall_ticks


def _evict(conn: Lifecycle, now: int) -> None:
    if conn._inbox is not None:
        conn.active_tick = now  # our own handler is at work: that is not idle
    elif conn._busy:
        conn._abort_with(CloseKind.IDLE, None)  # its output doesn't leave: a graceful close would wait for it
    else:
        conn.begin_close(CloseKind.IDLE)


def _rearm(conn: Lifecycle, reactor: Reactor, now: int) -> None:
    due = []
    if conn._closing and conn.close_tick >= 0:
        due.append(conn.close_tick)
    if conn._busy and reactor.stall_ticks:
        due.append(min(conn._stall_tick + reactor.stall_ticks, now + LOOK_TICKS))
    if conn.is_held:
        due.append(now + LOOK_TICKS)
    if conn.frame_due_tick() >= 0:
        due.append(conn.frame_due_tick())
    if conn._connected and conn.protocol_tick >= 0:
        due.append(conn.protocol_tick)
    if conn._connected and reactor.idle_ticks:
        due.append(conn.active_tick + reactor.idle_ticks)
    if due:
        reactor.arm(conn, max(min(due), now + 1))
