"""Pings: to see that the peer is there, and to measure how far it is.

A ping is sent every so often, and the connection ends when one is not answered in time. Nothing ends for our own
slowness: while we don't read, or output waits before the ping, nobody can say that the peer is late. Source: RFC 6455
section 5.5.2; gev has none.
"""

from __future__ import annotations

import os
import random
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gevpy.closing import CloseKind
from gevpy.options import require_seconds
from gevpy.ticks import ticks_for
from gevpy.websocket.frames import FIN, Opcode

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy.websocket.session import Session

__all__ = ["Pings"]

FIN_PING = FIN | Opcode.PING
PAYLOAD_BYTES = 8
JITTER = 0.1  # of the interval, either way: those who came in one moment don't stay together


class Pings:
    """The pings of one protocol's connections; what is under way is in their sessions.

    Args:
        interval_s: between two pings; None for none.
        timeout_s: until an answer must be there; None for no end of patience.

    Raises:
        ConfigError: one of them is no number of seconds above 0.
    """

    def __init__(self, interval_s: float | None, timeout_s: float | None) -> None:
        """Ping so often."""
        if interval_s is not None:
            require_seconds("ping_interval_s", interval_s)
        if timeout_s is not None:
            require_seconds("ping_timeout_s", timeout_s)
        self.interval_s = interval_s
        self.timeout_s = timeout_s

    def begin(self, session: Session, now: int) -> None:
        """Begin to ping, a connection that opened at tick ``now``."""
        session.pong_tick = -1
        session.ping_tick = -1
        if self.interval_s is not None:
            spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - jitter, not a secret
            session.ping_tick = now + ticks_for(spread * self.interval_s)

    def due(self, conn: Any, session: Session, now: int, frame: Callable[[int, bytes], bytes]) -> None:
        """Send the next ping, or end for want of an answer to the last."""
        if 0 <= session.pong_tick <= now:
            if not (conn.is_held or conn.is_sending):
                late = TimeoutError(f"no pong within {self.timeout_s} s")
                conn.begin_close(CloseKind.PING_TIMEOUT, late)
                return
            session.pong_tick = now + ticks_for(self.timeout_s)
        if 0 <= session.ping_tick <= now:
            self.begin_next(session, now)
            self.send(conn, session, None, frame)

    def begin_next(self, session: Session, now: int) -> None:
        """Set when the next ping is due, and the answer to this one."""
        due = session.pong_tick
        self.begin(session, now)
        session.pong_tick = now + ticks_for(self.timeout_s) if due < 0 and self.timeout_s is not None else due

    @staticmethod
    def next_tick(session: Session) -> int:
        """Give the tick at which `due` has something to do, or -1."""
        known = [tick for tick in (session.ping_tick, session.pong_tick) if tick >= 0]
        return min(known, default=-1)

    def send(self, conn: Any, session: Session, waiter: Any, frame: Callable[[int, bytes], bytes]) -> bytes:
        """Send a ping whose pong sets ``waiter``, if there is one; give its payload."""
        payload = os.urandom(PAYLOAD_BYTES)
        if waiter is not None or self.timeout_s is not None:  # else nobody wants to know of the answer
            if session.pings is None:
                session.pings = {}
            session.pings[payload] = perf_counter(), waiter
        conn.send_ahead(frame(FIN_PING, payload))
        return payload

    async def ask(self, conn: Any, session: Session, frame: Callable[[int, bytes], bytes]) -> float:
        """Send a ping, and give the seconds until its pong came."""
        waiter = conn.reactor.loop.create_future()
        payload = self.send(conn, session, waiter, frame)
        try:
            seconds: float = await waiter
        finally:
            if session.pings is not None:
                session.pings.pop(payload, None)
        return seconds

    @staticmethod
    def take_pong(session: Session, payload: bytes) -> None:
        """Count a pong for its ping and those before it (RFC 6455 section 5.5.3); ignore one nobody waits for."""
        pings = session.pings
        if pings is None or payload not in pings:
            return
        for sent in list(pings):
            began, waiter = pings.pop(sent)
            if waiter is None:
                session.pong_tick = -1
            elif not waiter.done():
                waiter.set_result(perf_counter() - began)
            if sent == payload:
                break
        if not pings:
            session.pings = None

    @staticmethod
    def end(session: Session, error: BaseException) -> None:
        """Tell all who wait that there will be no answer."""
        pings, session.pings = session.pings, None
        for _, waiter in (pings or {}).values():
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
