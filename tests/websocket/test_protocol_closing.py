"""The end of a WebSocket: who says what, in which order, with which code, and who waits for whom and how long."""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import TYPE_CHECKING, Any

import pytest

from gevpy import CloseKind, ConfigError, ConnectionClosed, FrameTooLarge, GevError, Limits, ProtocolError, Timeouts
from gevpy.websocket import WebSocketProtocol
from gevpy.websocket.codes import InvalidText, PolicyViolation
from gevpy.websocket.deflate import Codec, DeflateParameters
from tests.websocket.frame_streams import GOOD_CODES
from tests.websocket.heads import opening
from tests.websocket.talking import DEFLATE, Talker, answer_of, connect, reason_of, replies, talking, upgrade
from tests.websocket.wire import Seen, binary, close, parse, ping, text, wire

if TYPE_CHECKING:
    from gevpy import Connection

TEXT, BINARY, CLOSE = 0x81, 0x82, 0x88
CODEC = Codec(DeflateParameters(12, 15), level=6, mem_level=5)


def said(code: int, words: str = "") -> Seen:
    """Give a close frame as it is seen."""
    return Seen(CLOSE, struct.pack("!H", code) + words.encode())


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Let what is provoked here not fill the log."""
    caplog.set_level(logging.CRITICAL, "gevpy.connection")


# -- we begin --------------------------------------------------------------------------------------


def test_close_waits_for_the_peers_close() -> None:
    """The stream ends when the peer has answered, and on_close comes then."""
    handler = Talker()
    conn = upgrade(handler)
    conn.connection.close(4001, "bye")
    assert parse(conn.sent) == [said(4001, "bye")]
    assert not conn.connected
    assert not conn.eof_sent
    assert "close" not in handler.calls
    conn.advance(5.0)
    assert conn.feed(close(4001)) == b""
    assert conn.eof_sent
    assert not conn.aborted
    (reason,) = handler.reasons
    assert (reason.kind, reason.code, reason.text, reason.error) == (CloseKind.CLOSED_LOCALLY, 4001, "bye", None)


def test_close_without_words_is_1000() -> None:
    """The plain ``close()`` of every protocol."""
    conn = upgrade()
    conn.connection.close()
    assert parse(conn.sent) == [said(1000)]
    conn.feed(close(1000))
    assert (reason_of(conn).kind, reason_of(conn).code) == (CloseKind.CLOSED_LOCALLY, 1000)


@pytest.mark.parametrize("close_s", [10.0, 2.0])
def test_a_peer_that_does_not_answer_a_close(close_s: float) -> None:
    """E18: it is waited for that long, and no longer, whatever else it sends; the code stays known."""
    handler = Talker()
    conn = upgrade(handler, timeouts=Timeouts(close_s=close_s))
    conn.connection.close(4001, "bye")
    for _ in range(4):
        conn.advance((close_s - 0.4) / 4)
        conn.feed(text("on and on") + ping(b"x"))
    assert handler.reasons == []
    conn.advance(0.8)
    (reason,) = handler.reasons
    assert (reason.kind, reason.code, reason.text) == (CloseKind.CLOSED_LOCALLY, 4001, "bye")
    assert isinstance(reason.error, TimeoutError)
    assert conn.aborted
    assert parse(conn.sent) == [said(4001, "bye")], "nothing is said after a close"


@pytest.mark.parametrize("end", ["eof", "reset"])
def test_a_peer_that_goes_instead_of_answering(end: str) -> None:
    """The wait ends."""
    handler = Talker()
    conn = upgrade(handler)
    conn.connection.close(4001)
    if end == "eof":
        conn.feed_eof()
    else:
        conn.feed_reset()
    conn.settle()
    (reason,) = handler.reasons
    assert (reason.kind, reason.code) == (CloseKind.CLOSED_LOCALLY, 4001)


def test_the_peers_close_may_come_cut_and_late() -> None:
    """Behind messages that were on their way, byte by byte, of a compressed and fragmented stream."""
    conn = upgrade(None, WebSocketProtocol(compression=True), DEFLATE)
    conn.connection.close()
    stream = text("late") + wire(2, CODEC.deflate(b"x"), first=0x40) + wire(0) + binary(bytes(70_000)) + close(1000)
    conn.feed(stream[:90])
    for at in range(90, 200):
        conn.feed(stream[at : at + 1])
    assert not conn.eof_sent
    conn.feed(stream[200:-3])
    assert not conn.eof_sent
    conn.feed(stream[-3:])
    assert conn.eof_sent
    assert conn.received == []


def test_nonsense_instead_of_an_answer() -> None:
    """E18: it ends the wait."""
    conn = upgrade()
    conn.connection.close()
    conn.feed(wire(1, b"x", mask=b""))
    assert conn.eof_sent
    assert (reason_of(conn).kind, reason_of(conn).code) == (CloseKind.CLOSED_LOCALLY, 1000)


def test_a_flood_instead_of_an_answer() -> None:
    """E18: frames that are dropped cost something, too: at some time it is enough."""
    conn = upgrade()
    conn.connection.close()
    for _ in range(10):
        conn.feed(text("") * 1000)
    assert not conn.eof_sent
    for _ in range(20):
        if not conn.eof_sent:
            conn.feed(text("") * 1000)
    assert conn.eof_sent
    assert (reason_of(conn).kind, reason_of(conn).code) == (CloseKind.CLOSED_LOCALLY, 1000)


def test_the_first_words_count() -> None:
    """A second close changes nothing."""
    conn = upgrade()
    conn.connection.close(4001, "first")
    conn.connection.close(4002, "second")
    assert parse(conn.sent) == [said(4001, "first")]


@pytest.mark.parametrize(
    ("code", "words"), [(1005, ""), (1006, ""), (1015, ""), (999, ""), (5000, ""), (1000, "x" * 124)]
)
def test_words_that_cannot_be_sent(code: int, words: str) -> None:
    """E11: the caller is told, and the connection lives."""
    conn = upgrade()
    with pytest.raises(ConfigError):
        conn.connection.close(code, words)
    assert conn.connected
    assert replies(conn, text("x")) == [Seen(TEXT, b"x")]


def test_words_on_a_protocol_that_has_none() -> None:
    """TCP has no close codes."""
    from gevpy.testing import EmbeddedConnection

    conn = EmbeddedConnection(Talker())
    with pytest.raises(ConfigError, match="no close codes"):
        conn.connection.close(1000)
    assert conn.connected


def test_sending_after_close() -> None:
    """Raises, with the reason."""
    conn = upgrade()
    conn.connection.close(4001)
    with pytest.raises(ConnectionClosed):
        conn.connection.send("late")


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_a_reply_returned_after_close_leaves_before_the_close_frame(is_async: bool) -> None:
    """And what was sent before it; messages behind it are not handled."""

    def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        conn.send("sent")
        conn.close(4001)
        return "reply"

    async def later(conn: Connection, ctx: Any, data: Any) -> Any:
        await asyncio.sleep(0)
        return on_message(conn, ctx, data)

    conn = upgrade(talking(on_message=later if is_async else on_message))
    sent = replies(conn, text("one") + text("two"))
    assert sent == [Seen(TEXT, b"sent"), Seen(TEXT, b"reply"), said(4001)]
    assert len(conn.received) == 1


def test_output_that_waits_leaves_before_the_close_frame() -> None:
    """A peer that reads slowly gets all of it."""
    conn = upgrade()
    conn.stall()
    conn.connection.send(bytes(100_000))
    conn.connection.close(4001)
    sent = parse(conn.resume())
    assert sent == [Seen(BINARY, bytes(100_000)), said(4001)]
    conn.feed(close(4001))
    assert conn.eof_sent


def test_shutdown_write_is_refused() -> None:
    """The end of a WebSocket is said by both sides."""
    conn = upgrade()
    with pytest.raises(GevError, match="one side"):
        conn.connection.shutdown_write()
    assert conn.connected


def test_abort_says_nothing() -> None:
    """1006, and a reset."""
    handler = Talker()
    conn = upgrade(handler)
    conn.connection.abort()
    conn.settle()
    assert conn.aborted
    assert conn.sent == b""
    assert (handler.reasons[0].kind, handler.reasons[0].code) == (CloseKind.ABORTED, 1006)


# -- the peer begins -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", GOOD_CODES)
def test_the_peers_code_is_echoed(code: int) -> None:
    """And told to on_close, with its text, and that it was the peer."""
    handler = Talker()
    conn = upgrade(handler)
    assert replies(conn, close(code, "schön war's")) == [said(code)]
    assert conn.eof_sent
    (reason,) = handler.reasons
    assert (reason.kind, reason.code, reason.text, reason.error) == (CloseKind.PEER_CLOSED, code, "schön war's", None)


def test_a_close_without_a_code_is_answered_without_one() -> None:
    """1005 is told, and never sent."""
    handler = Talker()
    conn = upgrade(handler)
    assert replies(conn, close(None)) == [Seen(CLOSE, b"")]
    assert handler.reasons[0].code == 1005


def test_what_came_before_the_close_is_answered_first() -> None:
    """What comes behind it is not looked at."""
    conn = upgrade()
    assert replies(conn, text("a") + binary(b"b") + close(1000) + text("c") + b"\xff\xff") == [
        Seen(TEXT, b"a"),
        Seen(BINARY, b"b"),
        said(1000),
    ]
    assert len(conn.received) == 2


def test_an_async_handlers_reply_leaves_before_the_answer() -> None:
    """The peer's close waits for those that run; nothing is read meanwhile."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        await asyncio.sleep(1.0)
        assert conn.connected
        return data

    handler = talking(on_message=on_message)
    conn = upgrade(handler)
    assert replies(conn, text("one") + text("two") + close(4000, "x")) == []
    assert parse(conn.advance(1.5)) == [Seen(TEXT, b"one")]
    assert parse(conn.advance(1.0)) == [Seen(TEXT, b"two"), said(4000)]
    assert (handler.reasons[0].kind, handler.reasons[0].code) == (CloseKind.PEER_CLOSED, 4000)


def test_replies_in_any_order_leave_before_the_answer() -> None:
    """With ordering="concurrent" all that run are waited for."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        await asyncio.sleep(float(data))
        return data

    conn = upgrade(talking(on_message=on_message), ordering="concurrent")
    assert replies(conn, text("3") + text("1") + text("2") + close(4000)) == []
    frames = conn.advance(2.5)
    assert parse(frames) == [Seen(TEXT, b"1"), Seen(TEXT, b"2")]
    assert parse(conn.advance(1.0)) == [Seen(TEXT, b"3"), said(4000)]


def test_a_close_inside_a_fragmented_message() -> None:
    """Control frames may come between fragments; the message never ends."""
    handler = Talker()
    conn = upgrade(handler)
    assert replies(conn, wire(1, b"begun", first=0) + close(1001)) == [said(1001)]
    assert handler.reasons[0].code == 1001
    assert conn.received == []


def test_close_while_reading_is_paused() -> None:
    """What waits in the kernel is read for the peer's close only."""
    conn = upgrade()
    conn.connection.pause_reading()
    conn.feed(text("unread"))
    conn.feed(close(4000))
    conn.connection.close(4001)
    assert parse(conn.sent) == [said(4001)]
    assert conn.eof_sent
    assert conn.received == []


def test_both_close_at_once() -> None:
    """The close frames cross: each is the answer to the other."""
    handler = Talker()
    conn = upgrade(handler)
    conn.connection.close(4001)
    conn.feed(close(4002))
    assert parse(conn.sent) == [said(4001)]
    assert conn.eof_sent
    assert (handler.reasons[0].kind, handler.reasons[0].code) == (CloseKind.CLOSED_LOCALLY, 4001)


def test_close_while_the_peers_close_waits() -> None:
    """The peer was first: its code is answered, and told."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> None:
        await asyncio.sleep(1.0)
        conn.close(4001)

    handler = talking(on_message=on_message)
    conn = upgrade(handler)
    assert replies(conn, text("one") + close(4000)) == []
    assert parse(conn.advance(1.5)) == [said(4000)]
    assert (handler.reasons[0].kind, handler.reasons[0].code) == (CloseKind.PEER_CLOSED, 4000)


@pytest.mark.parametrize("before", [b"", text("whole"), text("part")[:-2], wire(1, b"part", first=0)])
def test_the_end_of_the_stream_without_a_close(before: bytes) -> None:
    """1006: the peer was gone, whatever it had begun."""
    handler = Talker()
    conn = upgrade(handler)
    conn.feed(before)
    conn.feed_eof()
    conn.settle()
    (reason,) = handler.reasons
    assert (reason.kind, reason.code, reason.text) == (CloseKind.PEER_CLOSED, 1006, "")
    assert CLOSE not in [frame.first for frame in parse(conn.sent)]


def test_half_close_is_the_end() -> None:
    """On WebSocket the end of one side is the end of both, also where TCP has half-open connections."""
    handler = Talker()
    conn = upgrade(handler, half_close=True)
    conn.feed_eof()
    conn.settle()
    assert handler.reasons[0].code == 1006


def test_a_reset_is_1006() -> None:
    """As the network tears it down."""
    handler = Talker()
    conn = upgrade(handler)
    conn.feed_reset()
    assert (handler.reasons[0].kind, handler.reasons[0].code) == (CloseKind.PEER_RESET, 1006)


# -- errors ----------------------------------------------------------------------------------------

DEFAULT = CloseKind.PROTOCOL_ERROR

ERRORS = [
    ("unmasked", wire(1, b"x", mask=b""), 1002, DEFAULT, ProtocolError),
    ("reserved bit", wire(1, b"x", first=0xC0), 1002, DEFAULT, ProtocolError),
    ("opcode 3", wire(3), 1002, DEFAULT, ProtocolError),
    ("continuation of nothing", wire(0), 1002, DEFAULT, ProtocolError),
    ("close 1005", close(1005), 1002, DEFAULT, ProtocolError),
    ("close of one byte", wire(8, b"\x03"), 1002, DEFAULT, ProtocolError),
    ("bad text", wire(1, b"\xff"), 1007, DEFAULT, InvalidText),
    ("bad text in a part of a frame", wire(1, b"\xff" + bytes(100))[:10], 1007, DEFAULT, InvalidText),
    ("bad text of a close", wire(8, b"\x03\xe8\xff"), 1007, DEFAULT, InvalidText),
    ("too large", binary(bytes(1001)), 1009, CloseKind.FRAME_TOO_LARGE, FrameTooLarge),
    ("declared too large", b"\x82\xff\x40" + bytes(7), 1009, CloseKind.FRAME_TOO_LARGE, FrameTooLarge),
    ("too many fragments", wire(1, first=0) + wire(0, first=0) * 1024, 1008, DEFAULT, PolicyViolation),
    ("too many pings", ping() * 201, 1008, DEFAULT, PolicyViolation),
    ("too many pongs", wire(10) * 201, 1008, DEFAULT, PolicyViolation),
]


@pytest.mark.parametrize(
    ("stream", "code", "kind", "error"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
)
def test_the_peers_faults(stream: bytes, code: int, kind: CloseKind, error: type[Exception]) -> None:
    """Each has its code; what was whole before it is answered first; and the peer isn't waited for."""
    handler = Talker()
    conn = upgrade(handler, WebSocketProtocol(max_message_bytes=1000))
    frames = replies(conn, text("before") + stream + text("after"))
    frames = [frame for frame in frames if frame.first != 0x8A]
    assert frames[0] == Seen(TEXT, b"before")
    assert frames[1].first == CLOSE
    assert struct.unpack("!H", frames[1].payload[:2]) == (code,)
    assert len(frames) == 2
    assert conn.eof_sent
    (reason,) = handler.reasons
    assert (reason.kind, reason.code) == (kind, code)
    assert isinstance(reason.error, error)
    assert reason.text == frames[1].payload[2:].decode()
    assert len(conn.received) == 1


def test_a_rate_of_control_frames_of_our_own() -> None:
    """E10: ``max_controls_per_s``, and twice as many in a burst."""
    conn = upgrade(Talker(), WebSocketProtocol(max_controls_per_s=3))
    assert [frame.first for frame in replies(conn, ping() * 6)] == [0x8A] * 6
    (end,) = (frame for frame in replies(conn, ping()) if frame.first == CLOSE)
    assert struct.unpack("!H", end.payload[:2]) == (1008,)


def test_a_compressed_message_that_is_too_long() -> None:
    """E9: 1009 for what is inflated beyond the limit, 1002 for what can't be inflated."""
    protocol = WebSocketProtocol(compression=True, max_message_bytes=1000)
    for payload, code in ((CODEC.deflate(bytes(10**6)), 1009), (b"\xff\xff\xff", 1002)):
        conn = upgrade(None, protocol, DEFLATE)
        (frame,) = replies(conn, wire(2, payload, first=0xC0))
        assert frame.payload[:2] == struct.pack("!H", code)


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_a_handler_that_raises(is_async: bool) -> None:
    """1011, and not a word of why."""

    def on_message(conn: Connection, ctx: Any, data: Any) -> None:
        raise ZeroDivisionError("secret")

    async def later(conn: Connection, ctx: Any, data: Any) -> None:
        await asyncio.sleep(0)
        on_message(conn, ctx, data)

    handler = talking(on_message=later if is_async else on_message)
    conn = upgrade(handler)
    assert replies(conn, text("x")) == [said(1011)]
    conn.settle()
    (reason,) = handler.reasons
    assert (reason.kind, reason.code) == (CloseKind.HANDLER_ERROR, 1011)
    assert isinstance(reason.error, ZeroDivisionError)


def test_an_on_connect_that_raises() -> None:
    """The handshake is done by then: 1011, too."""

    def on_connect(conn: Connection) -> None:
        raise ZeroDivisionError

    conn = connect(talking(on_connect=on_connect))
    status, _, rest = answer_of(conn.feed(opening()))
    assert status == 101
    assert parse(rest) == [said(1011)]


def test_a_slow_consumer_is_cut_off() -> None:
    """The hard limit leaves no time for words: a reset, and 1006."""
    handler = Talker()
    conn = upgrade(handler, limits=Limits(max_write_buffer_bytes=1000))
    conn.stall()
    conn.connection.send(bytes(1001))
    with pytest.raises(ConnectionClosed):
        conn.connection.send(b"one too many")
    conn.settle()
    assert conn.aborted
    assert (handler.reasons[0].kind, handler.reasons[0].code) == (CloseKind.SLOW_CONSUMER, 1006)


# -- the server goes away --------------------------------------------------------------------------


def test_a_stop_says_1001_and_waits_for_nobody() -> None:
    """Everything ends at once."""
    handler = Talker()
    conn = upgrade(handler)
    conn.stop()
    assert parse(conn.sent) == [said(1001)]
    assert conn.eof_sent
    assert (handler.reasons[0].kind, handler.reasons[0].code) == (CloseKind.DRAINED, 1001)


@pytest.mark.parametrize("why", ["reload", "recycle", "remove"])
def test_a_worker_that_goes_says_1012(why: str) -> None:
    """Within 5 s; then the peer's answer is waited for."""
    handler = Talker()
    conn = upgrade(handler)
    conn.stop(why)
    assert parse(conn.advance(5.1)) == [said(1012)]
    assert not conn.eof_sent
    conn.feed(close(1012))
    assert conn.eof_sent
    assert (handler.reasons[0].kind, handler.reasons[0].code) == (CloseKind.DRAINED, 1012)


def test_a_reload_waits_for_running_handlers() -> None:
    """Their replies leave before 1012; nothing new is handled."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        await asyncio.sleep(8.0)
        return data

    conn = upgrade(talking(on_message=on_message))
    conn.feed(text("slow"))
    conn.stop("reload")
    assert conn.advance(7.0) == b""
    assert parse(conn.advance(2.0)) == [Seen(TEXT, b"slow"), said(1012)]


def test_on_drain_may_say_other_words() -> None:
    """The application's code counts."""
    for why, seconds in (("stop", 0.0), ("reload", 5.1)):
        conn = upgrade(talking(on_drain=lambda conn: conn.close(4008, "moving")))
        conn.stop(why)
        conn.advance(seconds)
        assert parse(conn.sent) == [said(4008, "moving")]


def test_a_peer_that_does_not_answer_1012() -> None:
    """It is waited for as after any close of ours."""
    handler = Talker()
    conn = upgrade(handler, timeouts=Timeouts(close_s=3.0))
    conn.stop("reload")
    conn.advance(5.1 + 3.3)
    assert conn.aborted
    assert handler.reasons[0].code == 1012


def test_a_drain_during_the_handshake() -> None:
    """503, at once, and nobody hears of it; also while on_request runs."""

    async def on_request(conn: Connection, request: Any) -> None:
        await asyncio.sleep(3600)

    handler = talking(on_request=on_request)
    for head in (b"", opening()[:40], opening()):
        conn = connect(handler)
        conn.feed(head)
        conn.stop()
        assert answer_of(conn.sent)[0] == 503
        assert conn.eof_sent
        conn.advance(1.0)
        assert reason_of(conn).kind is CloseKind.DRAINED
    assert handler.calls == []


def test_a_worker_that_goes_still_ends_handshakes() -> None:
    """Who had connected is let in, and then told to come again."""
    conn = connect()
    conn.feed(opening()[:40])
    conn.stop("reload")
    conn.feed(opening()[40:])
    status, _, rest = answer_of(conn.sent)
    assert status == 101
    assert parse(rest) == [said(1012)]
