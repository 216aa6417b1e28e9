"""WebSocket as a protocol: the opening handshake, messages both ways, and what is refused at once.

Closing is in test_protocol_closing.py, pings and everything else about time in test_protocol_time.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind, ConfigError, GevError, Limits
from gevpy.testing import EmbeddedConnection, check_protocol
from gevpy.testing.codec_run import CodecSite
from gevpy.websocket import Opcode, Request, Response, WebSocketProtocol
from gevpy.websocket.deflate import Codec, DeflateParameters
from gevpy.websocket.session import Event
from tests.websocket.heads import ACCEPT, opening
from tests.websocket.talking import DEFLATE, Talker, answer_of, connect, reason_of, replies, talking, upgrade
from tests.websocket.wire import Seen, binary, close, parse, ping, text, wire

if TYPE_CHECKING:
    from gevpy import Connection, RingBuffer

TEXT, BINARY, PONG, CLOSE = 0x81, 0x82, 0x8A, 0x88
CODEC = Codec(DeflateParameters(12, 15), level=6, mem_level=5)


# -- the opening handshake -------------------------------------------------------------------------


def test_handshake_then_echo() -> None:
    """RFC 6455 section 1.3: the answer to its example; then text stays text and binary binary."""
    handler = Talker()
    conn = connect(handler)
    assert conn.feed(b"") == b""
    status, head, body = answer_of(conn.feed(opening()))
    assert status == 101
    assert ACCEPT.encode() in head
    assert body == b""
    assert replies(conn, text("Grüße")) == [Seen(TEXT, "Grüße".encode())]
    assert replies(conn, binary(b"\x00\xff")) == [Seen(BINARY, b"\x00\xff")]
    assert conn.received == [(Opcode.TEXT, "Grüße"), (Opcode.BINARY, b"\x00\xff")]
    assert handler.calls == ["connect", "message", "message"]


def test_the_handshake_byte_by_byte() -> None:
    """And the frames behind it."""
    conn = connect()
    stream = opening() + text("one") + binary(b"two")
    for at in range(len(stream)):
        conn.feed(stream[at : at + 1])
    assert answer_of(conn.sent)[0] == 101
    assert conn.received == [(Opcode.TEXT, "one"), (Opcode.BINARY, b"two")]


def test_frames_in_the_same_read_as_the_request() -> None:
    """A client in a hurry is served."""
    conn = connect()
    sent = conn.feed(opening() + text("one") + ping(b"p") + text("two"))
    frames = parse(sent.partition(b"\r\n\r\n")[2])
    assert frames == [Seen(TEXT, b"one"), Seen(PONG, b"p"), Seen(TEXT, b"two")]


def test_on_connect_comes_after_the_handshake() -> None:
    """Before it, nobody is connected and nothing can be sent."""
    handler = Talker()
    conn = connect(handler)
    assert handler.calls == []
    assert not conn.connected
    with pytest.raises(GevError, match="handshake"):
        conn.connection.send("early")
    assert conn.worker.connections == 0
    conn.worker.broadcast("to nobody")
    request = opening()
    conn.feed(request[:50])
    assert handler.calls == []
    assert conn.connection.request is None
    conn.feed(request[50:])
    assert handler.calls == ["connect"]
    assert conn.connected
    assert conn.worker.connections == 1
    conn.take_sent()
    conn.connection.send("now")
    assert parse(conn.sent) == [Seen(TEXT, b"now")]


def test_what_on_connect_sends_comes_behind_the_answer() -> None:
    """In one write with it."""
    conn = connect(talking(on_connect=lambda conn: conn.send("welcome")))
    status, _, rest = answer_of(conn.feed(opening()))
    assert status == 101
    assert parse(rest) == [Seen(TEXT, b"welcome")]


def test_the_request_is_there_for_the_whole_connection() -> None:
    """Path, query and headers; None of other protocols."""
    conn = connect()
    conn.feed(opening(("Cookie", "id=7"), line="GET /chat/room%201?who=me&x= HTTP/1.1"))
    request = conn.connection.request
    assert isinstance(request, Request)
    assert (request.path, request.query["who"], request.headers["cookie"]) == ("/chat/room 1", "me", "id=7")
    conn.feed(text("x"))
    assert conn.connection.request is request
    assert EmbeddedConnection(Talker()).connection.request is None
    assert EmbeddedConnection(Talker()).connection.subprotocol is None


@pytest.mark.parametrize(
    ("ours", "offered", "agreed"),
    [((), "a", None), (("a", "b"), "b, a", "a"), (("a",), "b", None), (("a",), None, None)],
)
def test_subprotocols(ours: tuple[str, ...], offered: str | None, agreed: str | None) -> None:
    """The server's order decides; none in common is none."""
    fields = [] if offered is None else [("Sec-WebSocket-Protocol", offered)]
    conn = connect(protocol=WebSocketProtocol(subprotocols=ours))
    head = answer_of(conn.feed(opening(*fields)))[1].lower()
    assert conn.connection.subprotocol == agreed
    assert (b"sec-websocket-protocol: " in head) == (agreed is not None)


def test_an_async_on_connect_holds_messages_back() -> None:
    """As on TCP; also those that came in the same read as the request."""
    for pieces in ([opening() + text("early")], [opening(), text("early")]):
        seen: list[str] = []

        async def on_connect(conn: Connection, seen: list[str] = seen) -> None:
            await asyncio.sleep(1.0)
            seen.append("connected")

        def on_message(conn: Connection, ctx: Any, data: Any, seen: list[str] = seen) -> None:
            seen.append(data)

        conn = connect(talking(on_connect=on_connect, on_message=on_message))
        for piece in pieces:
            conn.feed(piece)
        assert seen == []
        conn.advance(1.1)
        assert seen == ["connected", "early"]


def test_a_close_in_on_connect_ends_it() -> None:
    """No message is handled after it, not even one that came with the request."""
    handler = talking(on_connect=lambda conn: conn.close(4001, "full"))
    conn = connect(handler)
    frames = parse(answer_of(conn.feed(opening() + text("early")))[2])
    assert frames == [Seen(CLOSE, b"\x0f\xa1full")]
    assert conn.received == []


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (opening(upgrade=None, connection=None), 426),
        (opening(sec_websocket_version="8"), 426),
        (opening(sec_websocket_key=None), 400),
        (opening(sec_websocket_key="short"), 400),
        (opening(host=None), 400),
        (opening(line="POST /chat HTTP/1.1"), 405),
        (opening(line="GET /chat HTTP/1.0"), 400),
        (opening(line="GET /chat HTTP/2.0"), 505),
        (opening(line="GET /" + "x" * 8192 + " HTTP/1.1"), 414),
        (opening(("X", "x" * 8192)), 431),
        (opening(*(("X", "x"),) * 100), 431),
        (opening(("Origin", "https://evil.example")), 403),
        (opening(("Content-Length", "5")), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20), 400),
    ],
    ids=str,
)
def test_refused_requests(request_head: bytes, status: int) -> None:
    """E14, E15: they are answered, the connection ends, and the handler never hears of it."""
    handler = Talker()
    conn = connect(handler)
    got, head, _ = answer_of(conn.feed(request_head))
    assert got == status
    assert b"\r\nConnection: close" in head
    assert conn.eof_sent
    assert reason_of(conn).kind is CloseKind.HANDSHAKE_FAILED
    assert handler.calls == []


def test_refused_requests_leave_no_trace() -> None:
    """Their places are free again: as many as there may be come and go many times over."""
    conn = connect(talking(on_request=lambda conn, request: Response(401)), limits=Limits(max_connections=2))
    for head in (opening(), opening(host=None), b"\x00", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") * 5:
        other = conn.another()
        other.feed(head)
        other.settle()
        assert not other.connected
    left = conn.another()
    left.feed(b"GET")
    left.feed_eof()
    conn.another().feed_reset()
    assert not conn.another().connected
    assert conn.worker.connections == 0


def test_a_page_is_answered_with_426() -> None:
    """A plain GET without on_request is told what this is."""
    conn = connect()
    status, head, _ = answer_of(conn.feed(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"))
    assert status == 426
    assert b"Upgrade: websocket" in head
    assert conn.eof_sent


@pytest.mark.parametrize(
    ("options", "origin", "status"),
    [
        ({}, None, 101),
        ({}, "http://example.com", 101),
        ({}, "http://evil.example", 403),
        ({}, "null", 403),
        ({"require_origin": True}, None, 403),
        ({"origins": ["https://*.good.example"]}, "https://a.good.example", 101),
        ({"origins": ["https://*.good.example"]}, "https://good.example", 403),
        ({"origins": ["*"]}, "http://evil.example", 101),
        ({"origins": []}, "http://example.com", 403),
    ],
)
def test_origins(options: dict[str, Any], origin: str | None, status: int) -> None:
    """E13: cross-site requests are refused unless they are allowed, and before the handler is asked."""
    asked: list[str] = []
    conn = connect(talking(on_request=lambda conn, request: asked.append(request.path)), WebSocketProtocol(**options))
    fields = [] if origin is None else [("Origin", origin)]
    assert answer_of(conn.feed(opening(*fields)))[0] == status
    assert asked == (["/chat"] if status == 101 else [])


# -- on_request ------------------------------------------------------------------------------------


def answering(answer: Any, *, delay_s: float | None = None) -> Talker:
    """Give a handler whose ``on_request`` gives, or raises, ``answer``; asynchronously after a delay."""

    def give() -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def on_request(conn: Connection, request: Request) -> Any:
        assert not conn.connected
        return give()

    async def later(conn: Connection, request: Request) -> Any:
        await asyncio.sleep(delay_s or 0)
        return give()

    return talking(on_request=on_request if delay_s is None else later)


DELAYS = pytest.mark.parametrize("delay_s", [None, 0.0, 3.0], ids=["plain", "async", "slow"])


@DELAYS
def test_on_request_lets_in(delay_s: float | None) -> None:
    """None goes on with the handshake; frames that came meanwhile wait."""
    handler = answering(None, delay_s=delay_s)
    conn = connect(handler)
    conn.feed(opening() + text("early"))
    if delay_s:
        assert conn.sent == b""
        assert not conn.connected
        conn.advance(delay_s)
    status, _, rest = answer_of(conn.sent)
    assert status == 101
    assert parse(rest) == [Seen(TEXT, b"early")]
    assert handler.calls == ["connect", "message"]


@DELAYS
def test_on_request_answers_itself(delay_s: float | None) -> None:
    """A page, a health check or a rejection: plain HTTP, then the end; the handler has no connection."""
    handler = answering(Response(401, "who are you?", headers={"WWW-Authenticate": "Basic"}), delay_s=delay_s)
    conn = connect(handler)
    conn.feed(opening() + text("early"))
    conn.advance(delay_s or 0)
    status, head, body = answer_of(conn.sent)
    assert (status, body) == (401, b"who are you?")
    assert b"WWW-Authenticate: Basic" in head
    assert conn.eof_sent
    assert handler.calls == []


@DELAYS
@pytest.mark.parametrize("answer", [ZeroDivisionError("secret"), "yes", True, (401, "no")], ids=repr)
def test_on_request_that_fails(answer: Any, delay_s: float | None, caplog: pytest.LogCaptureFixture) -> None:
    """What it raises, and what it can't mean, is a 500 that tells nothing; the log tells all."""
    handler = answering(answer, delay_s=delay_s)
    conn = connect(handler)
    with caplog.at_level(logging.ERROR, "gevpy.connection"):
        conn.feed(opening())
        conn.advance(delay_s or 0)
    status, _, body = answer_of(conn.sent)
    assert status == 500
    assert b"secret" not in body
    assert conn.eof_sent
    assert reason_of(conn).kind is CloseKind.HANDLER_ERROR
    assert handler.calls == []
    assert "secret" in caplog.text or "on_request must give" in caplog.text


@pytest.mark.parametrize(("how", "seconds"), [("eof", 10.2), ("reset", 0.0)])
def test_on_request_is_cancelled_when_the_peer_leaves(how: str, seconds: float) -> None:
    """Nobody waits for its answer any more. An end of the stream isn't read before: then it is the handshake's time."""
    ended: list[str] = []

    async def on_request(conn: Connection, request: Request) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("ended")

    handler = talking(on_request=on_request)
    conn = connect(handler)
    conn.feed(opening())
    assert ended == []
    if how == "eof":
        conn.feed_eof()
    else:
        conn.feed_reset()
    conn.advance(seconds)
    assert ended == ["ended"]
    assert handler.calls == []
    assert not conn.connected


def test_health_checks_on_the_same_port() -> None:
    """E19: GET and HEAD of a page; the WebSocket is next door."""

    def on_request(conn: Connection, request: Request) -> Response | None:
        return Response(200, "ok") if request.path == "/healthz" else None

    conn = connect(talking(on_request=on_request))
    status, head, body = answer_of(conn.feed(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"))
    assert (status, body) == (200, b"ok")
    status, head_only, body = answer_of(conn.another().feed(b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n"))
    assert (status, body) == (200, b"")
    assert head_only == head
    other = conn.another()
    assert answer_of(other.feed(opening()))[0] == 101
    assert replies(other, text("x")) == [Seen(TEXT, b"x")]


def test_head_of_no_page() -> None:
    """The refusal has no body, either."""
    conn = connect()
    status, _, body = answer_of(conn.feed(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"))
    assert status >= 400
    assert body == b""


def test_routes() -> None:
    """Each path has its handler; the events of a connection all go to the same one."""
    chat, feed, rest = Talker(), Talker(), Talker()
    conn = connect(rest, WebSocketProtocol(routes={"/chat": chat, "/feed/*": feed}))
    for peer, path, handler in ((conn, "/chat", chat), (conn.another(), "/feed/1", feed), (conn.another(), "/x", rest)):
        peer.feed(opening(line=f"GET {path} HTTP/1.1"))
        peer.take_sent()
        assert replies(peer, text("hi")) == [Seen(TEXT, b"hi")]
        peer.feed(close(4000))
        assert handler.calls == ["connect", "message", "close"]
        assert handler.reasons[0].code == 4000


# -- messages --------------------------------------------------------------------------------------


class Echo(gevpy.Handler):
    """The same for every protocol."""

    def on_message(self, conn: Connection, ctx: Any, data: Any) -> Any:
        return data


def test_the_handler_that_echoes_bytes_echoes_messages() -> None:
    """One handler, two protocols."""
    handler = Echo()
    assert EmbeddedConnection(handler).feed(b"raw") == b"raw"
    conn = upgrade(handler)
    assert replies(conn, text("raw")) == [Seen(TEXT, b"raw")]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000, 1 << 20])
def test_echo_of_all_sizes(size: int) -> None:
    """Both kinds, alone and in fragments; the last one is the limit."""
    conn = upgrade(Echo(), limits=Limits(max_write_buffer_bytes=1 << 24))
    payload = random.Random(size).randbytes(size)
    assert replies(conn, binary(payload)) == [Seen(BINARY, payload)]
    assert replies(conn, text("x" * size)) == [Seen(TEXT, b"x" * size)]
    third = size // 3
    fragments = (
        wire(2, payload[:third], first=0) + wire(0, payload[third : 2 * third], first=0) + wire(0, payload[2 * third :])
    )
    assert replies(conn, fragments) == [Seen(BINARY, payload)]


@pytest.mark.parametrize(
    "reply", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), "text"], ids=lambda reply: type(reply).__name__
)
def test_the_kind_of_the_reply_picks_the_opcode(reply: Any) -> None:
    """``str`` is text, bytes-like data binary: returned, and sent."""
    conn = upgrade(talking(on_message=lambda conn, ctx, data: reply))
    expected = [Seen(TEXT, b"text")] if isinstance(reply, str) else [Seen(BINARY, b"bytes")]
    assert replies(conn, text("?")) == expected
    conn.take_sent()
    conn.connection.send(reply)
    assert parse(conn.sent) == expected


@pytest.mark.parametrize("reply", [5, ["text"], object()], ids=lambda reply: type(reply).__name__)
def test_what_cannot_be_sent(reply: Any) -> None:
    """``send`` tells its caller, and the connection lives; a reply ends it, with 1011."""
    conn = upgrade(talking(on_message=lambda conn, ctx, data: reply))
    with pytest.raises(TypeError, match="WebSocket sends str or bytes-like"):
        conn.connection.send(reply)
    assert conn.connected
    assert replies(conn, text("?")) == [Seen(CLOSE, b"\x03\xf3")]
    assert reason_of(conn).kind is CloseKind.HANDLER_ERROR


@pytest.mark.parametrize("data", ["\ud800", "fine\udfff"], ids=ascii)
def test_half_a_surrogate_pair_cannot_be_sent(data: str) -> None:
    """E17: no UTF-8 can be made of it: raised, never sent."""
    conn = upgrade()
    with pytest.raises(UnicodeEncodeError):
        conn.connection.send(data)
    with pytest.raises(UnicodeEncodeError):
        conn.worker.broadcast(data)
    assert conn.connected
    assert conn.sent == b""


@pytest.mark.parametrize("words", ["\ufeffbom", "\x00\x1f\x7f", "\U0010ffff\uffff"], ids=ascii)
def test_unusual_text_is_text(words: str) -> None:
    """Nothing is added, left out, or changed, in one frame and in two."""
    conn = upgrade()
    payload = words.encode()
    assert replies(conn, text(words)) == [Seen(TEXT, payload)]
    assert replies(conn, wire(1, payload[:1], first=0) + wire(0, payload[1:])) == [Seen(TEXT, payload)]
    assert [data for _, data in conn.received] == [words, words]


def test_async_replies_in_order() -> None:
    """Each leaves when its handler has ended; pongs don't wait for them."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        await asyncio.sleep(1.0)
        return data

    conn = upgrade(talking(on_message=on_message))
    assert replies(conn, text("one") + binary(b"two") + ping(b"p")) == [Seen(PONG, b"p")]
    assert parse(conn.advance(1.0)) == [Seen(TEXT, b"one")]
    assert parse(conn.advance(1.0)) == [Seen(BINARY, b"two")]


def test_many_messages_in_one_read() -> None:
    """More than one turn takes."""
    conn = upgrade(Echo())
    stream = text("ab") * 3000
    assert replies(conn, stream) == [Seen(TEXT, b"ab")] * 3000


def test_fragments_take_turns_with_other_connections() -> None:
    """E8: however many came in one read, the others are served between them."""
    order: list[str] = []
    conn = upgrade(talking(on_message=lambda conn, ctx, data: order.append(data)))
    other = conn.another()
    other.feed(opening())
    stream = wire(1, b"x", first=0) + wire(0, b"", first=0) * 900 + wire(0, b"")
    conn._transport.feed(stream * 5)
    other.feed(text("other"))
    assert order.index("other") < 4
    assert order.count("x") == 5


# -- compression -----------------------------------------------------------------------------------


def test_compressed_echo() -> None:
    """What is long enough and becomes shorter goes compressed; the peer may send either."""
    conn = upgrade(Echo(), WebSocketProtocol(compression=True), DEFLATE)
    words = "the same words again and again " * 20
    (reply,) = replies(conn, wire(1, CODEC.deflate(words.encode()), first=0xC0))
    assert reply.first == 0xC1
    assert len(reply.payload) < 100
    assert CODEC.inflater().inflate(reply.payload, 10_000, is_last=True) == words.encode()
    assert conn.received == [(Opcode.TEXT, words)]
    assert replies(conn, text("short")) == [Seen(TEXT, b"short")]
    noise = random.Random(1).randbytes(200)
    assert replies(conn, binary(noise)) == [Seen(BINARY, noise)], "what doesn't become shorter goes as it is"
    assert replies(conn, wire(1, CODEC.deflate(b""), first=0xC0)) == [Seen(TEXT, b"")]


@pytest.mark.parametrize("offer", [[], [("Sec-WebSocket-Extensions", "x-webkit-deflate-frame")]])
def test_no_compression_where_none_is_agreed_on(offer: list[tuple[str, str]]) -> None:
    """Neither where the client offers none, nor where it isn't wanted here."""
    for protocol, fields in ((WebSocketProtocol(compression=True), offer), (WebSocketProtocol(), [DEFLATE])):
        conn = upgrade(Echo(), protocol, *fields)
        assert replies(conn, text("x" * 1000)) == [Seen(TEXT, b"x" * 1000)]
        assert replies(conn, wire(1, CODEC.deflate(b"x"), first=0xC0))[0].payload[:2] == b"\x03\xea"


# -- broadcast -------------------------------------------------------------------------------------


class Counting(WebSocketProtocol):
    """Counts how often a message is framed."""

    framed = 0

    def _message(self, data: Any, codec: Any) -> bytes:
        self.framed += 1
        return super()._message(data, codec)


@pytest.mark.parametrize(
    "message", ["news " * 50, b"news " * 50, bytearray(b"news " * 50)], ids=lambda value: type(value).__name__
)
def test_a_broadcast_is_framed_once(message: Any) -> None:
    """Once for all without compression, once for all with the same one."""
    protocol = Counting(compression=True)
    first = upgrade(Echo(), protocol)
    peers = [first]
    for fields in ([], [DEFLATE], [DEFLATE], []):
        peer = first.another()
        peer.feed(opening(*fields))
        peer.take_sent()
        peers.append(peer)
    protocol.framed = 0
    first.worker.broadcast(message)
    assert protocol.framed == 2
    payload = message.encode() if isinstance(message, str) else bytes(message)
    for peer, compressed in zip(peers, (False, False, True, True, False), strict=True):
        (frame,) = parse(peer.take_sent())
        assert frame.first == (TEXT if isinstance(message, str) else BINARY) | (0x40 if compressed else 0)
        got = CODEC.inflater().inflate(frame.payload, 1000, is_last=True) if compressed else frame.payload
        assert got == payload
    protocol.framed = 0
    first.worker.broadcast("x", where=lambda conn: conn is first.connection)
    assert protocol.framed == 1
    assert parse(first.take_sent()) == [Seen(TEXT, b"x")]
    assert peers[1].take_sent() == b""


def test_a_broadcast_leaves_out_who_is_not_there_yet() -> None:
    """Those in the handshake, and those who are closing."""
    one = upgrade(Echo())
    opening_now = one.another()
    closing = one.another()
    closing.feed(opening())
    closing.take_sent()
    closing.connection.close()
    one.worker.broadcast("news")
    assert parse(one.sent) == [Seen(TEXT, b"news")]
    assert opening_now.sent == b""
    assert [frame.first for frame in parse(closing.sent)] == [CLOSE]


def test_a_broadcast_passes_over_who_does_not_read() -> None:
    """Each connection's own policy acts; the others get everything."""
    slow = upgrade(None, None, limits=Limits(max_write_buffer_bytes=1000, slow_consumer="drop_newest"))
    fast = slow.another()
    fast.feed(opening())
    fast.take_sent()
    slow.stall()
    for number in range(10):
        slow.worker.broadcast(b"%d" % number * 500)
        slow.settle()
    assert [frame.payload[:1] for frame in parse(fast.sent)] == [b"%d" % number for number in range(10)]
    assert [frame.payload[:1] for frame in parse(slow.resume())] == [b"0", b"1"]
    assert slow.connected


def test_published_messages() -> None:
    """Topics work as on TCP."""
    one = upgrade(talking(on_connect=lambda conn: conn.subscribe("news")))
    two = one.another()
    two.feed(opening())
    two.take_sent()
    one.worker.publish("news", "x", exclude=one.connection)
    assert one.sent == b""
    assert parse(two.sent) == [Seen(TEXT, b"x")]


# -- protocols made of it --------------------------------------------------------------------------


class JsonOverWebSocket(WebSocketProtocol):
    """Objects both ways."""

    def unpacket(self, conn: Any, buffer: RingBuffer) -> Any:
        message = super().unpacket(conn, buffer)
        return None if message is None else (None, json.loads(message[1]))

    def packet(self, conn: Any, data: Any) -> Any:
        return super().packet(conn, json.dumps(data))


def test_a_subclass_with_messages_of_its_own() -> None:
    """``packet`` and ``unpacket`` are all that it takes, for replies, sends and broadcasts."""
    conn = upgrade(Echo(), JsonOverWebSocket())
    assert replies(conn, text('{"a": [1, 2]}') + text("null")) == [Seen(TEXT, b'{"a": [1, 2]}')], "None is no reply"
    assert conn.received == [(None, {"a": [1, 2]}), (None, None)]
    conn.take_sent()
    conn.worker.broadcast([1])
    conn.connection.send({"b": None})
    assert parse(conn.sent) == [Seen(TEXT, b"[1]"), Seen(TEXT, b'{"b": null}')]


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_a_subclass_and_much_in_one_read(is_async: bool) -> None:
    """What is not looked at yet, for it is another's turn or on_connect still runs, is no frame that is too large."""

    async def on_connect(conn: Connection) -> None:
        await asyncio.sleep(1.0)

    handler = talking(on_connect=on_connect) if is_async else Echo()
    conn = connect(handler, JsonOverWebSocket(max_message_bytes=1000))
    message = wire(1, b"[", first=0) + wire(0, b"1", first=0) * 10 + wire(0, b"]")
    conn.feed(opening() + message * 2500)
    conn.advance(1.1)
    assert conn.connected
    assert conn.received == [(None, [1111111111])] * 2500


def test_a_subclass_that_fails_on_a_message() -> None:
    """What it raises ends the connection, by a close frame."""
    conn = upgrade(Echo(), JsonOverWebSocket())
    (frame,) = replies(conn, text("no json"))
    assert frame.first == CLOSE


def test_websocket_takes_over_from_another_protocol() -> None:
    """A line protocol until somebody says so; then the opening handshake and frames, on the same connection."""

    def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        if data == b"websocket":
            conn.protocol = WebSocketProtocol()
            return None
        return data

    handler = talking(on_message=on_message)
    conn = EmbeddedConnection(handler, gevpy.LineProtocol())
    assert conn.feed(b"hello\nwebsocket\n") == b"hello\n"
    conn.take_sent()
    status, _, rest = answer_of(conn.feed(opening() + text("hi")))
    assert status == 101
    assert parse(rest) == [Seen(TEXT, b"hi")]
    assert conn.connection.request is not None
    assert handler.calls == ["connect"], "it was connected before"
    assert parse(conn.feed(close(1000))) == [Seen(CLOSE, b"\x03\xe8")]


def test_a_broadcast_while_websocket_takes_over() -> None:
    """Who is in that handshake can't be sent to, which is nobody else's trouble."""
    conn = EmbeddedConnection(Talker(), gevpy.LineProtocol())
    other = conn.another()
    conn.connection.protocol = WebSocketProtocol()
    conn.worker.broadcast(b"one")
    conn.feed(opening()[:50])
    conn.worker.broadcast(b"two")
    assert conn.sent == b""
    assert other.take_sent() == b"one\ntwo\n"
    with pytest.raises(GevError):
        conn.connection.send("early")
    rest = answer_of(conn.feed(opening()[50:]))[2]
    assert rest == b""
    conn.worker.broadcast(b"three")
    assert other.sent == b"three\n"
    assert parse(answer_of(conn.sent)[2]) == [Seen(BINARY, b"three")]


def test_the_request_may_come_with_the_message_that_swaps() -> None:
    """What is buffered belongs to the new protocol."""

    def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        if data == b"websocket":
            conn.protocol = WebSocketProtocol()
            return None
        return data

    conn = EmbeddedConnection(talking(on_message=on_message), gevpy.LineProtocol())
    status, _, rest = answer_of(conn.feed(b"websocket\n" + opening() + text("hi")))
    assert status == 101
    assert parse(rest) == [Seen(TEXT, b"hi")]


def test_another_protocol_takes_over_from_websocket() -> None:
    """Time goes on as well: what the first one had planned concerns the second no more."""
    conn = upgrade(Echo())
    conn.connection.protocol = gevpy.LineProtocol()
    before = conn.connection.reactor.tick
    conn.advance(60.0)
    assert conn.connection.reactor.tick >= before + 1199, "time goes on for all"
    assert conn.sent == b""
    assert conn.feed(b"line\n") == b"line\n"


def test_websocket_takes_over_from_itself() -> None:
    """With another opening handshake, which has its time, too."""
    conn = upgrade(Echo())
    conn.connection.protocol = WebSocketProtocol()
    conn.advance(5.0)
    assert answer_of(conn.feed(opening()))[0] == 101
    conn.connection.protocol = WebSocketProtocol()
    before = conn.connection.reactor.tick
    conn.advance(60.0)
    assert conn.connection.reactor.tick >= before + 1199, "time goes on for all"
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.HANDSHAKE_FAILED


# -- the general check -----------------------------------------------------------------------------


class OpenAtOnce(WebSocketProtocol):
    """Without the opening handshake, and for peers that don't mask, so that ``packet`` is what ``unpacket`` takes."""

    def begin(self, conn: Any) -> bool:
        super().begin(conn)
        conn.protocol_state.is_client = True
        conn.protocol_state.step(Event.ACCEPTED)
        return True

    def max_buffered_bytes(self) -> int:
        return self.max_message_bytes + 100  # the session knows its bound by itself; the check wants to hear it


def test_the_check_of_protocols() -> None:
    """All that has ever broken a parser, tried on the frames of open sessions, without pings: 'check_protocol'."""
    site = CodecSite(OpenAtOnce())
    assert site.connect().connected
    check_protocol(
        OpenAtOnce(max_message_bytes=200),
        ["", "text", b"", b"binary", "x" * 125, b"y" * 130],
        wire=[
            (bytes.fromhex("81 05 48 65 6c 6c 6f"), (Opcode.TEXT, "Hello")),
            (bytes.fromhex("01 03 48 65 6c 80 02 6c 6f"), (Opcode.TEXT, "Hello")),
        ],
        rounds=60,
    )


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_message_bytes", 0),
        ("max_message_bytes", 1.5),
        ("max_message_bytes", True),
        ("max_message_bytes", 2**60),
        ("inflate_bytes_per_s", 0),
        ("max_controls_per_s", 0),
        ("max_line_bytes", -1),
        ("max_fields", "100"),
        ("max_head_bytes", None),
        ("ping_interval_s", 0),
        ("ping_interval_s", "20"),
        ("ping_interval_s", float("nan")),
        ("ping_timeout_s", -1),
        ("ping_timeout_s", True),
        ("subprotocols", "chat"),
        ("subprotocols", ["a", "a"]),
        ("subprotocols", ["a b"]),
        ("subprotocols", [5]),
        ("origins", "https://example.com"),
        ("origins", ["example.com"]),
        ("origins", ["https://*"]),
        ("routes", [("/", Talker())]),
        ("routes", {"chat": Talker()}),
        ("routes", {"/chat": Talker}),
        ("compression", "yes"),
        ("require_origin", 1),
    ],
)
def test_options_that_cannot_work(name: str, value: Any) -> None:
    """The error names the option, or the part of it that is wrong."""
    with pytest.raises(ConfigError) as caught:
        WebSocketProtocol(**{name: value})
    names = {"subprotocols": "subprotocol", "origins": "origin", "routes": "route"}
    assert names.get(name, name) in str(caught.value)


def test_the_defaults() -> None:
    """As the docs tell them."""
    protocol = WebSocketProtocol()
    assert protocol.max_message_bytes == 1 << 20
    assert protocol.max_frame_bytes == 1 << 20
    assert protocol.inflate_bytes_per_s == 8 << 20
    assert protocol.max_controls_per_s == 100
    assert (protocol.pings.interval_s, protocol.pings.timeout_s) == (20, 20)
    assert tuple(protocol.gate.limits) == (8192, 100, 32768)
    assert protocol.max_buffered_bytes() > 1 << 20
