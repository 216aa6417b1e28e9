"""WebSocket as a protocol of gevpy: what turns frames into messages for any handler, and messages into frames.

One object serves every connection of a worker; each connection's `Session` is its ``protocol_state``. The opening
handshake comes before ``on_connect``, the closing one before the connection ends; pings and pongs go by unseen.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from gevpy import _cython_shim as cython

from gevpy.closing import CloseKind, CloseReason
from gevpy.errors import ConfigError, ConnectionClosed, HandshakeError
from gevpy.protocol.base import MOST_BYTES, Protocol, require_size
from gevpy.ticks import TURNS_PER_S, ticks_for
from gevpy.websocket.codes import ABNORMAL, NO_CODE, RESTART, require_words, words_for
from gevpy.websocket.frames import FIN, KEY_BYTES, RSV1, SHORT, Opcode, append_frame, frame
from gevpy.websocket.gate import Gate
from gevpy.websocket.http import HeadLimits, Response
from gevpy.websocket.pings import Pings
from gevpy.websocket.routes import RoutedHandler, Routes
from gevpy.websocket.session import Event, Session, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gevpy.handler import Handler
    from gevpy.read_side import ReadSide  # noqa: TC004 - the .pxd brings it where it is more than a hint
    from gevpy.ring_buffer import RingBuffer
    from gevpy.websocket.handshake import Accepted
    from gevpy.write_batch import WriteBatch

__all__ = ["WebSocketProtocol"]

FIN_TEXT = FIN | Opcode.TEXT
FIN_BINARY = FIN | Opcode.BINARY
FIN_CLOSE = FIN | Opcode.CLOSE
FIN_PONG = FIN | Opcode.PONG
OPENING = int(State.OPENING)
OPEN = int(State.OPEN)
CLOSE_RECEIVED = int(State.CLOSE_RECEIVED)

WORK_PER_TURN = 1024  # of `Session.work`
MOST_WORK_CLOSING = 16 * WORK_PER_TURN  # frames that are dropped while the peer's close frame is waited for
OWED_TICKS = ticks_for(5)  # a pong waits so long for output to leave: peers give up after ten seconds or twenty
LEAST_DEFLATED = 64  # bytes; shorter messages hardly become shorter
PATIENT = frozenset({"reload", "recycle", "remove"})
ANSWERED = frozenset({CloseKind.CLOSED_LOCALLY, CloseKind.IDLE})  # ends for which the peer's farewell is waited for

_seen_type: type | None = None  # a type of connections that `_session_of` knows to be a `ReadSide`


class WebSocketProtocol(Protocol):
    """Serves WebSocket: the same handler that echoes raw TCP echoes messages.

    ``ctx`` is `Opcode.TEXT` or `Opcode.BINARY`; ``data`` is ``str`` or ``bytes``, whole, and may be kept. Replying with
    ``str`` sends text, with bytes-like data binary. ``on_connect`` comes when the opening handshake is done, with
    ``conn.request`` and ``conn.subprotocol``; a handler's ``on_request`` may answer or refuse before. ``on_close`` gets
    the close code and text; the kind says who began: ``PEER_CLOSED`` for the peer.

    The time for the whole handshake is ``timeouts.handshake_s``, that for the peer to answer our close
    ``timeouts.close_s``, both of the server and 10 s by default.

    Args:
        compression: whether to agree to permessage-deflate. Default False: it costs CPU. No context is kept between
            messages, so idle connections stay small; the window is 12 bits. Messages under 64 bytes go as they are.
        max_message_bytes: the bound on one message, inflated; a longer one closes with code 1009. Default 1 MiB. A
            message may come in ``max(1024, max_message_bytes // 64)`` fragments, of which 1024 may be empty.
        origins: whom browsers may connect for. Default None: pages of this very host. Else a list of origins such as
            ``"https://example.com"``, ``"https://*.example.com"`` for its subdomains, or ``"*"`` for all.
        require_origin: whether to refuse requests without an ``Origin``, which come from programs. Default False.
        subprotocols: those that are spoken here, the best first. Default: none.
        routes: handlers by path: ``{"/chat": Chat(), "/feed/*": Feed()}``; ``/*`` at the end stands for all below.
            Other paths go to the handler that was given to ``serve``. Default None: all do.
        ping_interval_s: a ping is sent so often, give or take a tenth. Default 20; None: never.
        ping_timeout_s: a ping unanswered for so long closes with code 1011. Default 20; None: never. The time stands
            while we don't read, or output waits.
        inflate_bytes_per_s: what one connection may have inflated; beyond it isn't read for a while. Default 8 MiB.
        max_controls_per_s: how many pings and pongs a peer may send, twice as many in a burst; more close with code
            1008. Default 100.
        max_line_bytes: the bound on the request line, and on each header field. Default 8192.
        max_fields: the bound on the number of header fields. Default 100.
        max_head_bytes: the bound on all of the request. Default 32 KiB.

    Raises:
        ConfigError: an option that can't work.

    Source: RFC 6455, RFC 7692; gev's ``plugins/websocket``.

    Example:
        >>> import gevpy
        >>> from gevpy.websocket import WebSocketProtocol
        >>> class Echo(gevpy.Handler):
        ...     def on_message(self, conn, ctx, data):
        ...         return data
        >>> async def main():
        ...     await gevpy.serve(Echo(), port=1833, protocol=WebSocketProtocol())
    """

    ends_both_sides = True
    is_client = False

    def __init__(  # noqa: PLR0913 - what a server may want to choose, all optional
        self,
        *,
        compression: bool = False,
        max_message_bytes: int = 1 << 20,
        origins: Sequence[str] | None = None,
        require_origin: bool = False,
        subprotocols: Sequence[str] = (),
        routes: Mapping[str, Handler] | None = None,
        ping_interval_s: float | None = 20.0,
        ping_timeout_s: float | None = 20.0,
        inflate_bytes_per_s: int = 8 << 20,
        max_controls_per_s: int = 100,
        max_line_bytes: int = 8192,
        max_fields: int = 100,
        max_head_bytes: int = 32768,
    ) -> None:
        """Speak WebSocket as a server."""
        self.max_message_bytes = require_size("max_message_bytes", max_message_bytes)
        self.max_frame_bytes = self.max_message_bytes
        self.inflate_bytes_per_s = require_size("inflate_bytes_per_s", inflate_bytes_per_s)
        self.max_controls_per_s = require_size("max_controls_per_s", max_controls_per_s)
        for name, value in (("compression", compression), ("require_origin", require_origin)):
            if not isinstance(value, bool):
                msg = f"{name} must be True or False, not {value!r}"
                raise ConfigError(msg)
        self.pings = Pings(ping_interval_s, ping_timeout_s)
        limits = HeadLimits(
            require_size("max_line_bytes", max_line_bytes),
            require_size("max_fields", max_fields),
            require_size("max_head_bytes", max_head_bytes),
        )
        self.gate = Gate(
            limits,
            origins=origins,
            require_origin=require_origin,
            subprotocols=subprotocols,
            compression=compression,
        )
        self._routes = None if routes is None else Routes(routes)
        ours = WebSocketProtocol
        self._is_plain = all(getattr(type(self), name) is getattr(ours, name) for name in ("unpacket", "packet"))
        self._masks = self.is_client
        self.bytes_ctx = Opcode.BINARY
        self.text_ctx = Opcode.TEXT

    # -- receiving ---------------------------------------------------------------------------------

    def next_message(self, conn: Any, buffer: RingBuffer) -> Any:
        """Take one message; one whole plain frame of an open session by the shortest way."""
        if not self._is_plain:
            return self.decode(conn, buffer)
        session = _session_of(conn) if cython.compiled else conn.protocol_state
        if session is None or session.state != OPEN:
            return self._take(conn, buffer)
        message = session.receive_short(buffer)
        if message is not None:
            return message
        message = session.receive(buffer)
        return self._follow_up(conn, session, buffer, message) if session.is_control or session.work else message

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:
        """Take one message, if it is all there; before the session is open, the opening handshake."""
        message: tuple[Any, Any] | None = self._take(conn, buffer)
        return message

    def _take(self, conn: Any, buffer: RingBuffer) -> Any:
        session = conn.protocol_state
        if session is None or session.state == OPENING:
            session = self._go_on_opening(conn, session, buffer)
            if conn.is_held or not conn.is_live:
                return None  # on_connect still runs, or has closed
        if session.state != OPEN:
            return None
        return self._follow_up(conn, session, buffer, session.receive(buffer))

    def _follow_up(self, conn: Any, session: Session, buffer: RingBuffer, message: Any) -> Any:
        """Act on control frames, up to the next message; count what that message cost."""
        while session.is_control:
            self._take_control(conn, session, message[0], message[1])
            if session.state != OPEN:
                return None
            message = session.receive(buffer)
        if session.work:
            self._charge(conn, session)
        return message

    def _take_control(self, conn: Any, session: Session, opcode: Opcode, payload: bytes) -> None:
        if opcode is Opcode.CLOSE:
            reason = CloseReason(CloseKind.PEER_CLOSED, None, session.close_code, session.close_text)
            self.pings.end(session, ConnectionClosed(reason))  # no pong comes any more
            conn.end_with(CloseKind.PEER_CLOSED)
            return
        session.count_control(conn.reactor.tick, self.max_controls_per_s)
        if opcode is Opcode.PONG:
            self.pings.take_pong(session, payload)
        elif conn.is_sending:
            if session.owed is None:
                session.owed_tick = conn.reactor.tick + OWED_TICKS
            session.owed = payload  # the latest is answered when all has left that waits, or it waits too long
            conn.wake_protocol(conn.reactor.tick + 1)
        else:
            conn.send_ahead(self._frame(FIN_PONG, payload))

    def _charge(self, conn: Any, session: Session) -> None:
        """Give the turn away after much work; rest when more was inflated than the time that passed allows."""
        if session.work >= WORK_PER_TURN:
            session.work = 0
            conn.yield_turn()
        now = conn.reactor.tick
        earned = (now - session.inflated_tick) * self.inflate_bytes_per_s // TURNS_PER_S
        session.inflated -= min(session.inflated, earned)
        session.inflated_tick = now
        beyond = session.inflated - self.inflate_bytes_per_s
        if beyond > 0:
            conn.rest(beyond / self.inflate_bytes_per_s)

    def max_buffered_bytes(self) -> int:
        """Give no bound on what waits: each frame is held to one by its header, the request by its lines."""
        return MOST_BYTES

    # -- sending -----------------------------------------------------------------------------------

    def packet(self, conn: Any, data: Any) -> bytes:
        """Frame one message: ``str`` as text, bytes-like data as binary.

        Raises:
            ConnectionClosed: the opening handshake hasn't ended.
            TypeError: it is neither.
        """
        codec = None
        if conn is not None:
            session = conn.protocol_state
            if session is None or session.state == OPENING:
                raise ConnectionClosed(None, "nothing can be sent before the opening handshake has ended")
            codec = session.codec
        return self._message(data, codec)

    def packet_into(self, conn: Any, data: Any, batch: WriteBatch) -> None:
        """Add the frame of one message, without joining header and payload first."""
        session = _session_of(conn) if cython.compiled else conn.protocol_state
        if not self._is_plain or self._masks or session is None or session.state == OPENING or session.codec:
            batch.append(self.packet(conn, data))
        else:
            first = FIN_TEXT if type(data) is str else FIN_BINARY
            payload = data.encode() if type(data) is str else data if type(data) is bytes else _bytes_of(data)
            size = len(payload)
            if size < SHORT:
                batch.append_prefixed((first << 8) | size, 2, False, payload)  # noqa: FBT003 - internal, hot
            else:
                append_frame(batch, first, payload)

    def packet_shared(self, conn: Any, data: Any, made: dict[Any, bytes]) -> bytes:
        """Frame a message that goes to many: once for all that have no compression, once for all that have the same."""
        if not self._is_plain or self.is_client:
            return super().packet_shared(conn, data, made)
        session = conn.protocol_state
        codec = None if session is None else session.codec
        key: Any = self if codec is None else (self, codec)
        shared = made.get(key)
        if shared is None or session is None or session.state != OPEN:
            shared = made[key] = self.packet(conn, data)
        return shared

    def _message(self, data: Any, codec: Any) -> bytes:
        first = FIN_BINARY
        if isinstance(data, str):
            first = FIN_TEXT
            data = data.encode()
        payload = _bytes_of(data)
        if codec is not None and len(payload) >= LEAST_DEFLATED:
            deflated = codec.deflate(payload)
            if len(deflated) < len(payload):
                return self._frame(first | RSV1, deflated)
        return self._frame(first, payload)

    def _frame(self, first: int, payload: bytes) -> bytes:
        return frame(first, payload, os.urandom(KEY_BYTES) if self.is_client else b"")

    # -- the opening handshake ---------------------------------------------------------------------

    def handler_for(self, handler: Handler) -> Handler:
        """Give what sends messages by their path to several handlers, where there are routes."""
        return handler if self._routes is None else RoutedHandler(self._routes, handler)

    def begin(self, conn: Any) -> bool:
        """Begin with the opening handshake."""
        conn.protocol_state = Session(self.is_client, self.max_message_bytes)
        conn.wake_protocol(conn.reactor.tick + ticks_for(conn.reactor.handshake_s))
        return False

    def _go_on_opening(self, conn: Any, session: Session | None, buffer: RingBuffer) -> Session:
        if session is None:  # this protocol took over from another one
            self.begin(conn)
            session = conn.protocol_state
        if session.request is None:
            session.request = self.gate.take_request(buffer)
            if session.request is not None:
                conn.ask("on_request", lambda answer: self._answer(conn, session, answer), session.request)
        return session

    def _answer(self, conn: Any, session: Session, answer: Any) -> None:
        """Go on with what the handler said to the request."""
        if session.state != OPENING or not conn.is_live:
            return
        if answer is None:
            self._open(conn, session, self.gate.accept(session.request))
        elif isinstance(answer, Response):
            session.step(Event.REFUSED)
            conn.send_frame(answer.encode(is_head=session.request.method == "HEAD"))
            conn.begin_close(CloseKind.CLOSED_LOCALLY)
        else:
            msg = f"on_request must give None or a gevpy.websocket.Response, not {type(answer).__name__}"
            raise TypeError(msg)

    def _open(self, conn: Any, session: Session, accepted: Accepted) -> None:
        session.subprotocol = accepted.subprotocol
        session.codec = accepted.codec
        session.step(Event.ACCEPTED)
        if accepted.response:
            conn.send_frame(accepted.response)
        self.pings.begin(session, conn.reactor.tick)
        conn.wake_protocol(self.pings.next_tick(session))
        conn.opening_done()

    # -- time --------------------------------------------------------------------------------------

    def due(self, conn: Any, now: int) -> None:
        """Send a ping, miss a pong, or give a handshake up."""
        session = conn.protocol_state
        if session is None:
            return
        if session.state == OPENING:
            conn.begin_close(CloseKind.HANDSHAKE_FAILED, HandshakeError("the opening handshake took too long"))
        elif session.state == OPEN:
            if session.owed is not None and (now >= session.owed_tick or not conn.is_sending):
                conn.send_ahead(self._frame(FIN_PONG, session.owed))
                session.owed = None
            self.pings.due(conn, session, now, self._frame)
            conn.wake_protocol(self.pings.next_tick(session) if session.owed is None else now + 1)

    async def ping(self, conn: Any) -> float:
        """Ask the peer for a sign of life; give the seconds it took. Raises `ConnectionClosed`."""
        session = conn.protocol_state
        if session is None or session.state != OPEN:
            raise ConnectionClosed(conn.close_reason, "no ping can be sent")
        return await self.pings.ask(conn, session, self._frame)

    # -- the closing handshake ---------------------------------------------------------------------

    def close_words(self, conn: Any, code: int | None, text: str) -> None:
        """Note code and text for the close frame; the first that are given count."""
        words = require_words(code, text)
        session = conn.protocol_state
        if session is not None and session.words is None:
            session.words = words

    def goodbye(self, conn: Any, why: str) -> None:
        """Where only this worker goes, close with 1012, which tells clients to come again; at a stop, close follows."""
        session = conn.protocol_state
        if why in PATIENT and session is not None and session.words is None:
            session.words = RESTART, ""
            conn.end_with(CloseKind.DRAINED)

    def expects_farewell(self, conn: Any, kind: CloseKind) -> bool:
        """Wait for the peer's close frame where we began, without haste."""
        session = conn.protocol_state
        if session is None:
            return False
        if kind is CloseKind.DRAINED:
            return session.state == OPEN and session.words is not None  # who leaves has time; a stop waits for nobody
        return bool(session.state == OPEN and kind in ANSWERED)

    def farewell(self, conn: Any, reason: CloseReason) -> CloseReason:
        """Send the close frame: our own words, or the peer's; before the session is open, an HTTP answer."""
        session = conn.protocol_state
        if session is None:
            return reason
        if session.state == OPENING:
            session.step(Event.REFUSED)
            conn.send_frame(self._last_words(session, reason))
        elif session.state == CLOSE_RECEIVED:
            code = session.close_code
            conn.send_frame(self._frame(FIN_CLOSE, b"" if code == NO_CODE else code.to_bytes(2, "big")))
            session.step(Event.CLOSE_SENT)
            return CloseReason(CloseKind.PEER_CLOSED, None, code, session.close_text)
        elif session.state == OPEN and reason.kind is not CloseKind.PEER_CLOSED:
            code, text = session.words or words_for(reason)
            conn.send_frame(self._frame(FIN_CLOSE, code.to_bytes(2, "big") + text.encode()))
            session.step(Event.CLOSE_SENT)
            return CloseReason(reason.kind, reason.error, code, text)
        return reason

    def _last_words(self, session: Session, reason: CloseReason) -> bytes:
        is_head = session.request is not None and session.request.method == "HEAD"
        return self.gate.last_words(reason, is_head=is_head)

    def hear_farewell(self, conn: Any, buffer: RingBuffer) -> bool:
        """Drop all but the peer's close frame. As a client, go on until the stream ends: servers end it first."""
        session = conn.protocol_state
        while session.close_code is None and session.work < MOST_WORK_CLOSING:
            if session.receive(buffer) is None and not session.is_control and session.close_code is None:
                return False
        buffer.clear()
        return not self.is_client

    def ended(self, conn: Any, reason: CloseReason) -> CloseReason:
        """Fail who waits for pongs; a session that ended without a close frame has code 1006."""
        session = conn.protocol_state
        if session is None:
            return reason
        if reason.code is None:
            reason = CloseReason(reason.kind, reason.error, ABNORMAL)
        self.pings.end(session, ConnectionClosed(reason))
        return reason


def _session_of(conn: Any) -> Session | None:
    """Give the session of a connection without an attribute look-up; the compiled build's only."""
    global _seen_type  # noqa: PLW0603 - an inline cache: a type's ancestors are looked through once, not for each message
    session: Session | None
    if cython.compiled and type(conn) is _seen_type:
        session = cython.cast(ReadSide, conn).protocol_state
    else:
        if cython.compiled and isinstance(conn, ReadSide):
            _seen_type = type(conn)
        session = conn.protocol_state
    return session


def _bytes_of(data: Any) -> bytes:
    if type(data) is bytes:
        return data
    try:
        return bytes(memoryview(data))
    except TypeError:
        msg = f"WebSocket sends str or bytes-like data, not {type(data).__name__}"
        raise TypeError(msg) from None
