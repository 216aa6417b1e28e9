"""What happens on a WebSocket by the clock: the handshake's end, pings, idleness, and limits per second."""

from __future__ import annotations

import asyncio
import logging
import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from gevpy import CloseKind, ConnectionClosed, GevError, Limits, Timeouts, Watermarks
from gevpy.testing import EmbeddedConnection
from gevpy.websocket import WebSocketProtocol
from gevpy.websocket.deflate import Codec, DeflateParameters
from tests.serving import drops
from tests.websocket.heads import opening
from tests.websocket.talking import DEFLATE, Talker, answer_of, connect, reason_of, replies, talking, upgrade
from tests.websocket.wire import Seen, close, parse, ping, pong, text, wire

if TYPE_CHECKING:
    from gevpy import Connection

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
CODEC = Codec(DeflateParameters(12, 15), level=6, mem_level=5)
SILENT = WebSocketProtocol(ping_interval_s=None)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Let what is provoked here not fill the log."""
    caplog.set_level(logging.CRITICAL, "gevpy.connection")


# -- the handshake ---------------------------------------------------------------------------------


@pytest.mark.parametrize("handshake_s", [10.0, 2.0])
@pytest.mark.parametrize("steadily", [False, True], ids=["silent", "dripping"])
def test_a_handshake_has_so_long_in_all(handshake_s: float, steadily: bool) -> None:
    """E14: from the connection to the last byte, however steadily they come; the answer is 408."""
    handler = Talker()
    conn = connect(handler, timeouts=Timeouts(handshake_s=handshake_s))
    head = opening(("X", "x" * 500))
    for at in range(20):
        if steadily:
            conn.feed(head[at : at + 1])
        conn.advance((handshake_s - 0.1) / 20)
    assert conn.sent == b""
    assert not conn.eof_sent
    conn.advance(0.3)
    assert answer_of(conn.sent)[0] == 408
    assert conn.eof_sent
    assert reason_of(conn).kind is CloseKind.HANDSHAKE_FAILED
    assert handler.calls == []


def test_the_handler_has_no_longer_than_that() -> None:
    """A slow on_request is part of the handshake; it is cancelled."""
    ended: list[bool] = []

    async def on_request(conn: Connection, request: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    conn = connect(talking(on_request=on_request))
    conn.feed(opening())
    conn.advance(10.3)
    assert answer_of(conn.sent)[0] == 408
    assert ended == [True]


def test_the_idle_timeout_begins_with_the_connection() -> None:
    """During the handshake only the handshake's own time counts."""
    conn = connect(None, SILENT, idle_timeout_s=1.0)
    conn.advance(5.0)
    conn.feed(opening())
    assert answer_of(conn.sent)[0] == 101
    conn.advance(0.9)
    assert conn.connected
    conn.advance(0.3)
    assert reason_of(conn).kind is CloseKind.IDLE


def test_no_handshake_timeout() -> None:
    """Turned off by None."""
    conn = connect(timeouts=Timeouts(handshake_s=None, frame_s=None))
    conn.advance(1000)
    assert answer_of(conn.feed(opening()))[0] == 101


# -- pings -----------------------------------------------------------------------------------------


def keep_alive(conn: EmbeddedConnection, seconds: float) -> list[float]:
    """Let time pass and answer every ping; give the times at which they came."""
    times = []
    while conn.loop.time() < seconds:
        for frame in parse(conn.advance(0.1)):
            assert frame.first == PING
            times.append(conn.loop.time())
            conn.feed(pong(frame.payload))
    return times


def test_pings_keep_a_connection() -> None:
    """Every 20 s by default, give or take a tenth; who answers stays, and the handler sees nothing of it."""
    handler = Talker()
    conn = upgrade(handler, idle_timeout_s=None)
    times = keep_alive(conn, 300.0)
    assert 13 <= len(times) <= 17
    steps = [later - before for before, later in pairwise(times)]
    assert all(17.9 <= step <= 22.3 for step in steps)
    assert len({round(step, 1) for step in steps}) > 3
    assert handler.calls == ["connect"]
    assert conn.connected


def test_a_peer_that_answers_no_ping() -> None:
    """1011 after the timeout; messages are no answer."""
    handler = Talker()
    conn = upgrade(handler, WebSocketProtocol(ping_interval_s=10.0, ping_timeout_s=5.0))
    frames = parse(conn.advance(11.2))
    assert [frame.first for frame in frames] == [PING]
    conn.feed(text("I'm busy"))
    conn.feed(pong(b"not that one"))
    conn.take_sent()
    assert parse(conn.advance(5.2))[0] == Seen(CLOSE, struct.pack("!H", 1011) + b"no pong in time")
    (reason,) = handler.reasons
    assert (reason.kind, reason.code) == (CloseKind.PING_TIMEOUT, 1011)
    assert isinstance(reason.error, TimeoutError)
    assert conn.eof_sent, "it isn't waited for"


def test_a_late_pong_is_in_time() -> None:
    """Within the timeout is within it, to the tick."""
    conn = upgrade(None, WebSocketProtocol(ping_interval_s=10.0, ping_timeout_s=5.0))
    (frame,) = parse(conn.advance(11.2))
    conn.advance(2.7)
    conn.feed(pong(frame.payload))
    conn.advance(5.0)
    assert conn.connected


def test_pings_may_be_off() -> None:
    """Then nothing is sent, and nothing expected."""
    conn = upgrade(None, SILENT, idle_timeout_s=None)
    assert conn.advance(500) == b""
    assert conn.connected


def test_no_ping_timeout_while_we_do_not_read() -> None:
    """The application paused: the pong waits in the kernel, and that is not the peer's fault."""
    conn = upgrade(None, WebSocketProtocol(ping_interval_s=10.0, ping_timeout_s=5.0), idle_timeout_s=None)
    conn.connection.pause_reading()
    conn.advance(200)
    assert conn.connected
    pings = parse(conn.take_sent())
    for frame in pings:
        conn.feed(pong(frame.payload))
    conn.connection.resume_reading()
    conn.advance(4.0)
    assert conn.connected
    conn.advance(20.0)
    assert reason_of(conn).kind is CloseKind.PING_TIMEOUT


def test_no_ping_timeout_while_output_waits() -> None:
    """The ping is behind it; the write stall has a clock of its own."""
    conn = upgrade(
        None,
        WebSocketProtocol(ping_interval_s=10.0, ping_timeout_s=5.0),
        idle_timeout_s=None,
        timeouts=Timeouts(write_stall_s=None),
    )
    conn.stall()
    conn.connection.send(bytes(10_000))
    conn.advance(100)
    assert conn.connected
    conn.resume()
    conn.advance(25)
    assert reason_of(conn).kind is CloseKind.PING_TIMEOUT


def test_ping_gives_the_seconds() -> None:
    """``await conn.ping()`` in a handler: the answer comes while it waits."""
    seconds: list[float] = []

    async def on_connect(conn: Connection) -> None:
        seconds.append(await conn.ping())

    async def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        seconds.append(await conn.ping())
        return "alive"

    conn = upgrade(talking(on_message=on_message))
    (frame,) = replies(conn, text("?"))
    assert frame.first == PING
    assert seconds == []
    assert replies(conn, pong(frame.payload)) == [Seen(TEXT, b"alive")]
    assert 0 <= seconds[0] < 60


def test_ping_in_on_connect() -> None:
    """It waits for input that isn't read before on_connect has ended: the application's own timeout ends that."""
    told: list[BaseException] = []

    async def on_connect(conn: Connection) -> None:
        try:
            async with asyncio.timeout(5.0):
                await conn.ping()
        except TimeoutError as error:
            told.append(error)

    conn = upgrade_with_rest(talking(on_connect=on_connect))
    conn.advance(5.1)
    assert len(told) == 1
    assert conn.connected


def upgrade_with_rest(handler: Talker) -> EmbeddedConnection:
    """Connect and do the handshake; what is sent behind it stays."""
    conn = connect(handler)
    conn.feed(opening())
    return conn


@pytest.mark.parametrize("end", ["eof", "close", "abort"])
def test_ping_fails_with_the_connection(end: str) -> None:
    """Who waits is told why."""
    told: list[ConnectionClosed] = []

    async def on_message(conn: Connection, ctx: Any, data: Any) -> None:
        task = asyncio.get_running_loop().create_task(conn.ping())
        task.add_done_callback(note)

    def note(task: asyncio.Task[float]) -> None:
        error = task.exception()
        assert isinstance(error, ConnectionClosed)
        told.append(error)

    conn = upgrade(talking(on_message=on_message))
    conn.feed(text("?"))
    if end == "eof":
        conn.feed_eof()
    elif end == "close":
        conn.feed(close(4000))
    else:
        conn.connection.abort()
    conn.settle()
    assert len(told) == 1
    assert told[0].reason is not None
    assert told[0].reason.code == (4000 if end == "close" else 1006)


def waiting_for_a_pong() -> Talker:
    """Give a handler that pings for each message, and replies with what came of that."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> str:
        try:
            await conn.ping()
        except ConnectionClosed as error:
            return f"no pong: {error}"
        return "pong"

    return talking(on_message=on_message)


def test_the_peers_close_ends_the_wait_for_a_pong() -> None:
    """The answer to a close waits for handlers, and no pong comes any more: else each would wait for the other."""
    handler = waiting_for_a_pong()
    conn = upgrade(handler, idle_timeout_s=30.0)
    assert [frame.first for frame in replies(conn, text("?"))] == [PING]
    frames = replies(conn, close(4000))
    assert [frame.first for frame in frames] == [TEXT, CLOSE]
    assert frames[0].payload.startswith(b"no pong: ")
    assert [reason.code for reason in handler.reasons] == [4000]


def test_the_end_of_the_stream_ends_the_wait_for_a_pong() -> None:
    """At the latest when a ping of our own wasn't answered."""
    handler = waiting_for_a_pong()
    conn = upgrade(handler)
    conn.feed(text("?"))
    conn.feed_eof()
    conn.advance(43.0)
    assert len(handler.reasons) == 1


def test_ping_where_there_is_none() -> None:
    """Raises on TCP, before the handshake, and behind the end."""

    def error_of(conn: EmbeddedConnection) -> BaseException:
        work = conn.connection.ping()
        with pytest.raises(GevError) as caught:
            conn.loop.complete(work, 1.0)
        return caught.value

    tcp = EmbeddedConnection(Talker())
    assert "no pings" in str(error_of(tcp))
    assert isinstance(error_of(connect()), ConnectionClosed)
    gone = upgrade()
    gone.feed(close())
    error = error_of(gone)
    assert isinstance(error, ConnectionClosed)


# -- the peer's pings ------------------------------------------------------------------------------


def test_pings_are_answered() -> None:
    """Each with its payload, in order, between messages and inside of them."""
    conn = upgrade()
    stream = ping(b"1") + wire(1, b"a", first=0) + ping(bytes(125)) + wire(0, b"b") + ping()
    assert replies(conn, stream) == [Seen(PONG, b"1"), Seen(PONG, bytes(125)), Seen(TEXT, b"ab"), Seen(PONG, b"")]


def test_a_flood_of_pings() -> None:
    """E12: 200 at once are answered, then it ends with 1008."""
    conn = upgrade()
    frames = replies(conn, ping(b"x") * 1000)
    assert [frame.first for frame in frames] == [PONG] * 200 + [CLOSE]
    assert frames[-1].payload[:2] == struct.pack("!H", 1008)


def test_many_pings_over_time() -> None:
    """E12: 80 a second are odd, and fine; 200 a second are not."""
    conn = upgrade(None, SILENT)
    for _ in range(100):
        conn.feed(ping() * 8)
        conn.advance(0.1)
    assert conn.connected
    conn.take_sent()
    for _ in range(100):
        if conn.connected:
            conn.feed(ping() * 20)
            conn.advance(0.1)
    assert reason_of(conn).code == 1008


def test_pongs_are_not_piled_up_for_a_peer_that_does_not_read() -> None:
    """E12: as long as output waits, only the latest ping is remembered; it is answered when all has left."""
    conn = upgrade(None, SILENT)
    conn.stall()
    conn.connection.send(bytes(1000))
    before = conn.connection.write_buffer_length
    for number in range(100):
        conn.feed(ping(b"%d" % number))
    conn.advance(1.0)
    assert conn.connection.write_buffer_length == before
    sent = conn.resume() + conn.advance(0.2)
    assert parse(sent) == [Seen(BINARY, bytes(1000)), Seen(PONG, b"99")]
    assert replies(conn, ping(b"again")) == [Seen(PONG, b"again")]


def test_a_pong_goes_ahead_of_output_that_does_not_end() -> None:
    """A peer that reads too slowly for what is sent would give us up: its ping is answered within 5 s all the same."""
    conn = upgrade(None, SILENT, timeouts=Timeouts(write_stall_s=None))
    conn.stall()
    conn.connection.send(b"first")
    conn.advance(0.1)
    conn.connection.send(b"second")
    conn.feed(ping(b"1"))
    conn.advance(4.0)
    conn.feed(ping(b"2"))
    conn.advance(1.3)
    assert parse(conn.resume()) == [Seen(BINARY, b"first"), Seen(PONG, b"2"), Seen(BINARY, b"second")]
    assert conn.advance(10) == b""


def test_dropping_the_oldest_drops_no_ping() -> None:
    """The policy is for messages: a slow peer that is alive gets each ping, and is not ended for want of a pong."""
    limits = Limits(max_write_buffer_bytes=1000, slow_consumer="drop_oldest")
    conn = upgrade(None, WebSocketProtocol(ping_interval_s=1, ping_timeout_s=3), limits=limits)
    conn.stall()
    conn.connection.send(bytes(300))
    conn.advance(0.1)
    for _ in range(9):
        conn.connection.send(bytes(300))
    conn.advance(1.3)
    for _ in range(10):
        conn.connection.send(bytes(300))
    seen = parse(conn.resume() + conn.advance(0.1))
    pings = [frame.payload for frame in seen if frame.first == PING]
    assert len(pings) == 1
    dropped = drops(conn.connection)["drop_oldest"]
    assert dropped
    assert len(seen) - len(pings) + dropped == 20
    assert conn.feed(pong(pings[0])) == b""
    for _ in range(10):
        conn.feed(b"".join(pong(frame.payload) for frame in parse(conn.advance(1.0)) if frame.first == PING))
    assert conn.connected


def test_a_pong_that_is_owed_keeps_no_connection() -> None:
    """The peer closes instead: nothing but the answer to that leaves."""
    conn = upgrade(None, SILENT)
    conn.stall()
    conn.connection.send(b"x")
    conn.feed(ping(b"1"))
    conn.feed(close(4000))
    assert parse(conn.resume() + conn.advance(0.5)) == [Seen(BINARY, b"x"), Seen(CLOSE, struct.pack("!H", 4000))]


# -- inflating -------------------------------------------------------------------------------------


def test_the_inflate_budget_pauses_reading() -> None:
    """E9: beyond it the connection isn't read for as long as it takes to earn; nobody is closed, nothing lost."""
    protocol = WebSocketProtocol(
        compression=True, inflate_bytes_per_s=1000, max_message_bytes=10_000, ping_interval_s=None
    )
    handler = talking(on_message=lambda conn, ctx, data: str(len(data)))
    conn = upgrade(handler, protocol, DEFLATE, idle_timeout_s=None)
    message = wire(2, CODEC.deflate(bytes(500)), first=0xC0)
    assert len(replies(conn, message * 2)) == 2
    assert conn.connected
    assert len(replies(conn, message * 5)) == 1
    assert len(parse(conn.advance(0.3))) == 0
    assert len(parse(conn.advance(20.0))) == 4
    assert len(conn.received) == 7
    assert len(replies(conn, message)) == 1, "and then all is as before"
    assert conn.connected


def test_what_waits_for_the_budget_waits_in_the_kernel() -> None:
    """No more is read; the rate is kept over a long time."""
    protocol = WebSocketProtocol(compression=True, inflate_bytes_per_s=10_000, ping_interval_s=None)
    conn = upgrade(talking(on_message=lambda conn, ctx, data: None), protocol, DEFLATE, idle_timeout_s=None)
    message = wire(2, CODEC.deflate(bytes(5000)), first=0xC0)
    for _ in range(100):
        conn.feed(message)
    assert len(conn.received) <= 4
    assert conn.unread > 90 * len(message)
    conn.advance(10.0)
    assert 18 <= len(conn.received) <= 26
    conn.advance(50.0)
    assert len(conn.received) == 100


def test_plain_messages_have_no_budget() -> None:
    """What isn't compressed costs nothing of it."""
    protocol = WebSocketProtocol(compression=True, inflate_bytes_per_s=100)
    conn = upgrade(None, protocol, DEFLATE)
    assert len(replies(conn, text("x" * 60) * 100)) == 100


# -- idleness --------------------------------------------------------------------------------------


def test_an_idle_connection_is_closed_politely() -> None:
    """1001, and the peer's answer is waited for."""
    handler = Talker()
    conn = upgrade(handler, SILENT, idle_timeout_s=30.0)
    conn.advance(29.9)
    assert conn.connected
    frames = parse(conn.advance(0.3))
    assert frames == [Seen(CLOSE, struct.pack("!H", 1001) + b"idle")]
    assert not conn.eof_sent
    conn.feed(close(1001))
    assert conn.eof_sent
    assert (handler.reasons[0].kind, handler.reasons[0].code) == (CloseKind.IDLE, 1001)


def test_a_frame_that_takes_too_long() -> None:
    """E14: 1008 after ``frame_s``, however steadily it comes."""
    handler = Talker()
    conn = upgrade(handler, SILENT, timeouts=Timeouts(frame_s=5.0))
    frame = text("x" * 100)
    for at in range(49):
        conn.feed(frame[at : at + 1])
        conn.advance(0.1)
    assert conn.connected
    conn.advance(0.3)
    assert parse(conn.sent)[0].payload[:2] == struct.pack("!H", 1008)
    assert (handler.reasons[0].kind, handler.reasons[0].code) == (CloseKind.FRAME_TIMEOUT, 1008)


# -- congestion ------------------------------------------------------------------------------------


def test_a_congested_connection_is_not_read() -> None:
    """As on TCP: pings of such a peer wait, too."""
    conn = upgrade(None, SILENT, watermarks=Watermarks(high_bytes=1000, low_bytes=100))
    conn.stall()
    conn.connection.send(bytes(2000))
    conn.settle()
    conn.feed(text("later"))
    assert conn.unread > 0
    assert parse(conn.resume()) == [Seen(BINARY, bytes(2000)), Seen(TEXT, b"later")]
