"""A connection's life, from the transport's ``connection_made`` to the handler's ``on_close``.

    opening ──▶ open ──close(), idle, error, EOF, drain──▶ closing ──all output left, or close_s passed──▶ closed
                  └────────────abort(), slow consumer, stall, reset────────────────────────────────────────┘

``connected`` is True in the second state only. The first cause to end a connection is its `CloseReason`.
"""

from __future__ import annotations

import asyncio
from threading import get_ident
from typing import TYPE_CHECKING, Any

from gevpy.addresses import format_address
from gevpy.closing import CloseKind, CloseReason, close_reason
from gevpy.deadlines import check_deadlines
from gevpy.errors import GevError, TruncatedFrame
from gevpy.handler_side import HandlerSide
from gevpy.host import FAILURES
from gevpy.kernel_queues import discard_input, reset_on_close, unacknowledged_bytes, unread_bytes

if TYPE_CHECKING:
    from gevpy.reactor import Reactor

__all__ = ["Lifecycle"]


class Lifecycle(HandlerSide):
    """How a connection begins, and how it ends: by whom, in which order, by when. Used only as `Connection`'s base."""

    __slots__ = (
        "_ending",
        "_gone",
        "_leaving",
        "_lingering",
        "_local_addr",
        "_opened",
        "_parting",
        "_peer",
        "_tls",
        "_wait_for_handler",
        "close_tick",
        "id",
        "network",
        "protocol_tick",
    )

    def __init__(self, reactor: Reactor, peer: Any, network: str) -> None:
        """Begin before the transport is there."""
        super().__init__(reactor)
        self.id = reactor.next_id()
        self.network = network  # what the per-IP limit counts it by
        self._local_addr: str | None = None
        self._peer = peer  # the address that accept gave, until a transport is there that knows it, too
        self.close_tick = -1
        self.protocol_tick = -1  # when the protocol wants to be woken
        self._wait_for_handler = False  # close() was called by our own handler, whose reply still leaves
        self._ending: CloseKind | None = None  # what to close for when handlers and hooks have ended
        self._leaving = False  # handler and protocol know that the server goes away
        self._gone = False  # connection_lost has come
        self._lingering = False  # our side is ended; input is read and forgotten until the peer has all
        self._opened = False  # the handler knows of it
        self._parting = False  # TLS says goodbye: the transport is closing, and waits for the peer's answer
        self._tls = False  # the transport encrypts: its streams end both at once

    # -- state -------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether messages can be sent. False from the moment the connection is known to be ending."""
        return self._connected and self._opened

    @property
    def close_reason(self) -> CloseReason | None:
        """Why it ends or ended; None as long as it is connected."""
        return self._reason

    @property
    def is_live(self) -> bool:
        """Whether it is neither closing nor closed; also during the protocol's opening handshake."""
        return self._connected

    @property
    def was_made(self) -> bool:
        """Whether the transport has ever been there."""
        return self._transport is not None

    # -- who it is ---------------------------------------------------------------------------------

    @property
    def peer_addr(self) -> str:
        """The peer's address: ``"ip:port"``, ``"[::1]:80"``, or ``""`` where it isn't known (Unix sockets)."""
        return format_address(self._peer or self._transport.get_extra_info("peername"))

    @property
    def local_addr(self) -> str:
        """Our own address, written like `peer_addr`; ``""`` where it isn't known."""
        if self._local_addr is None:
            self._local_addr = self._reactor.local_address_of(self._transport)
        return self._local_addr

    # -- beginning ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: take the transport, tell the reactor, greet the handler."""
        self._take_transport(transport, is_tls=self._reactor.tls is not None)
        if self._transport.get_extra_info("peername") == self._peer:
            self._peer = None  # uvloop does not know it of a peer that was gone at once; behind a proxy it is another's
        if self._reactor.draining:
            self._lost = True
            self._transport.abort()
            return
        self._connected = True
        if self._protocol.begin(self):
            self.opening_done()
        else:
            self._reactor.opening(self)
        self.hold_pause()

    def _take_transport(self, transport: asyncio.BaseTransport, *, is_tls: bool) -> None:
        """Send and receive by this transport from now on."""
        self._transport = transport
        self._tls = is_tls
        if is_tls:
            self._transport.writelines(())  # session tickets leave; else they'd be congestion, unsent while we pause
        self._transport.set_write_buffer_limits(1 if is_tls else 0)  # with 0 the loops' TLS calls nothing a congestion

    def opening_done(self) -> None:
        """Greet the handler: messages can be sent from now on. Does nothing the second time."""
        if self._opened or not self._connected:
            return
        self._opened = True
        self._reactor.opened(self)
        self.call_hook("on_connect")
        if self._hook_tasks:
            self.wait_for_connect()

    # -- ending ------------------------------------------------------------------------------------

    def close(self, code: int | None = None, reason: str = "") -> None:
        """End the connection: read no more, send what waits (for at most ``timeouts.close_s``), then close.

        The peer sees all that was sent and then the end of the stream: a FIN, not a reset. Where it is still sending,
        its input is read and forgotten until it pauses; its own FIN is not waited for. Called inside ``on_message``,
        the replies of this read, the one being made included, still leave. Idempotent, and safe from any thread.

        Args:
            code: of the close frame, on WebSocket: 1000 to 1003, 1007 to 1014, or 3000 to 4999. Default: 1000. The
                peer's own close frame is then waited for, at most ``timeouts.close_s``.
            reason: its text, at most 123 bytes in UTF-8.

        Raises:
            ConfigError: a code or reason that can't be sent, or a protocol that has none.

        Source: gev's ``Connection.Close``; RFC 6455 section 7.
        """
        if code is not None or reason:
            self._protocol.close_words(self, code, reason)
        if get_ident() != self._reactor.thread_id:
            self._reactor.call_from_thread(self.close)
            return
        inbox = self._inbox
        if inbox is not None and inbox.runs(asyncio.current_task(self._reactor.loop)):
            self._wait_for_handler = True
            inbox.drop_waiting()
        self.begin_close(CloseKind.CLOSED_LOCALLY)

    def abort(self) -> None:
        """End the connection at once: what waits is discarded, and TCP sends a reset. From any thread."""
        if get_ident() != self._reactor.thread_id:
            self._reactor.call_from_thread(self.abort)
            return
        self._abort_with(CloseKind.ABORTED, None)

    def shutdown_write(self) -> None:
        """End our side of the stream once what waits has left; input still arrives. Idempotent.

        From then on ``send`` raises `ConnectionClosed`, and a reply that a handler returns is dropped and counted.

        Raises:
            GevError: the connection uses TLS, whose two sides the event loops end together, or WebSocket, whose end is
                said by both sides: use `close`.

        Source: gev's ``Connection.ShutdownWrite``, which lost what waited.
        """
        if not self._connected or self._write_shut:
            return
        if self._tls:
            raise GevError("a TLS connection can't be shut down on one side: use close()")
        if self._protocol.ends_both_sides:
            raise GevError("this protocol's connections can't be shut down on one side: use close()")
        self._write_shut = True
        if self._eof and self._inbox is None:
            self._finish_input()
        elif not self._corked:
            self.flush()

    def begin_close(self, kind: CloseKind, error: BaseException | None = None) -> None:
        """Begin a graceful close for the reason given; the first reason stays."""
        if not self._connected:
            return
        self._expects_farewell = self._protocol.expects_farewell(self, kind) and not self._eof
        self._connected = False
        self._closing = True
        self._reason = close_reason(kind, error)
        self.stop_reading()
        if not self._corked:
            self.flush()
        reactor = self._reactor
        if reactor.close_ticks and (self._parting or not self._lost):
            self.close_tick = reactor.tick + reactor.close_ticks
            reactor.arm(self, self.close_tick)

    def announce_drain(self, why: str) -> None:
        """Tell handler and protocol, once, that the server goes away; the connection lives on."""
        if not self._connected or self._leaving:
            return
        self._leaving = True
        self.call_hook("on_drain")
        try:
            self._protocol.goodbye(self, why)
        except FAILURES as error:
            self._fail("goodbye", error)

    def begin_drain(self, why: str) -> None:
        """Close because the server goes away, as soon as running handlers have ended and output has left."""
        if not self._connected or self._ending is CloseKind.DRAINED:
            return
        self._ending = CloseKind.DRAINED
        self.stop_reading()
        self.announce_drain(why)
        self._settle_ending()

    def end_with(self, kind: CloseKind) -> None:
        """Read no more, and close for the reason given as soon as running handlers have ended."""
        if self._connected and self._ending is None:
            self._ending = kind
            self.stop_reading()
            self._settle_ending()

    def _settle_ending(self) -> None:
        if self._ending is not None and self._inbox is None and (not self._hook_tasks or not self._opened):
            self.begin_close(self._ending)

    def end_drain(self) -> None:
        """Abort, because the drain's deadline has passed."""
        self._abort_with(CloseKind.DRAINED, TimeoutError("the drain's deadline passed"))

    def _settle_close(self) -> None:
        """Say farewell behind the last reply, and close the transport, if nothing is left to wait for."""
        if self._lost or (self._wait_for_handler and self._inbox is not None):
            return
        if not self._said_farewell:
            self._say_farewell()
        if self._lost or self._queued() or self._expects_farewell or self._lingering:
            return
        if not self._eof and (unread_bytes(self.fileno()) or (self._tls and self.is_held)):
            self._linger()  # under TLS input may wait in the transport, too, where reading was paused
        else:
            self._close_transport()

    def _say_farewell(self) -> None:
        self._said_farewell = True
        assert self._reason is not None, "closing begins with a reason"
        try:
            self._reason = self._protocol.farewell(self, self._reason)
        except FAILURES as error:
            self._expects_farewell = False
            self._reactor.report(self, "farewell", error)
        self._hand_over()
        if self._expects_farewell:
            self.read_farewell()

    def _close_transport(self) -> None:
        self._lost = True
        self._parting = self._tls
        self._transport.close()

    def _abort_with(self, kind: CloseKind, error: BaseException | None) -> None:
        """End at once, the wait for the peer's end of TLS included."""
        if self._parting:
            self._parting = False
            reset_on_close(self._transport.get_extra_info("socket"))
            self._transport.abort()
        else:
            HandlerSide._abort_with(self, kind, error)  # not super(): compiled, that would come back here

    def _linger(self) -> None:
        """End our side, and read on without looking: closing a socket that has unread input would send a reset."""
        self._lingering = True
        self._heard = True
        if not self._tls:
            self._transport.write_eof()
        self.read_to_discard()
        self._reactor.arm(self, self._reactor.tick + 1)

    def still_lingers(self) -> bool:
        """Close, if nothing came for a turn and the peer has acknowledged everything; tell whether to go on."""
        if self._lingering and not self._lost:
            fd = self.fileno()
            if not self._heard and not unread_bytes(fd) and not unacknowledged_bytes(fd):
                self._close_transport()
            self._heard = False
        return self._lingering and not self._lost

    def fileno(self) -> int:
        """Give the socket's descriptor, or -1."""
        sock = self._transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    # -- the peer's end ----------------------------------------------------------------------------

    def eof_received(self) -> bool:
        """Learn that the peer ended its side: handle what came, then close, unless half-open is wanted."""
        self._eof = True
        if self._tls:
            self._end_with_peer()
            return False
        if self._lingering:
            self._close_transport()
        elif self._expects_farewell:
            self.farewell_heard()
        elif self._inbox is None and self._connected:
            self._finish_input()
        return True

    def _end_with_peer(self) -> None:
        """End, as TLS does when the peer ends its side: what came is handled, and its replies are the last to leave."""
        self.handle_rest()
        if self._connected:
            waiting = self.read_buffer_length
            cut = TruncatedFrame("the stream ended inside a frame", actual=waiting) if waiting else None
            self.begin_close(CloseKind.PEER_CLOSED, cut)
        if not self._lost:
            self._discard_output()
            self._close_transport()

    def _finish_input(self) -> None:
        """Act on the peer's EOF, now that all it sent was handled."""
        waiting = self.read_buffer_length
        if waiting:
            self.begin_close(CloseKind.PEER_CLOSED, TruncatedFrame("the stream ended inside a frame", actual=waiting))
        elif not self._reactor.half_close or self._write_shut or self._protocol.ends_both_sides or not self._opened:
            self.begin_close(CloseKind.PEER_CLOSED)

    def connection_lost(self, exc: Exception | None) -> None:
        """End: whatever the cause, this comes exactly once."""
        self._connected = False
        if self._closing and not self._eof:
            discard_input(self.fileno())
        self._lost = True
        self._parting = False
        self._gone = True
        if self._reason is None:
            self._reason = close_reason(self._kind_of_loss(exc), exc)
        if self._opened:
            self._reason = self._protocol.ended(self, self._reason)
        self._discard_output()
        self.release()
        if self._opened:
            self._reactor.lost(self)
        else:
            self._reactor.turned_away(self)
        if self._inbox is not None:
            self._inbox.cancel()
        for task in self._hook_tasks or ():
            task.cancel()
        self._settle_gone()

    def _settle_gone(self) -> None:
        """Tell the handler of the end, once what it still had running has ended."""
        if self._gone and self._opened and self._inbox is None and not self._hook_tasks:
            self._reactor.finish(self)

    @staticmethod
    def _kind_of_loss(exc: Exception | None) -> CloseKind:
        if exc is None:
            return CloseKind.PEER_CLOSED
        return CloseKind.PEER_RESET if isinstance(exc, OSError) else CloseKind.INTERNAL_ERROR

    # -- deadlines ---------------------------------------------------------------------------------

    def check_deadlines(self, now: int) -> None:
        """Act on what is overdue at tick ``now``; the reactor calls this when the wheel says so."""
        if not self._lost:
            check_deadlines(self, self._reactor, now)
        elif self._parting and self.close_tick >= 0:
            if now >= self.close_tick:
                self._abort_with(CloseKind.CLOSED_LOCALLY, None)
            else:
                self._reactor.arm(self, self.close_tick)

    def wake_protocol(self, tick: int) -> None:
        """Have the protocol's ``due`` called at a tick, in place of the one it asked for before; -1: never."""
        self.protocol_tick = tick
        if tick >= 0:
            self._reactor.arm(self, tick)

    def call_due(self, now: int) -> None:
        """Have the protocol do what it asked to be woken for."""
        try:
            self._protocol.due(self, now)
        except FAILURES as error:
            self._fail("due", error)
