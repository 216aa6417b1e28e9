"""Routes: which path leads where, and every event of a connection to the handler that it leads to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import gevpy
from gevpy import ConfigError
from gevpy.websocket import Response, WebSocketProtocol
from gevpy.websocket.routes import Routes
from tests.websocket.heads import opening
from tests.websocket.talking import Talker, answer_of, connect, replies
from tests.websocket.wire import close, parse, text


class Named(gevpy.Handler):
    """Notes everything under its name; answers with the name."""

    def __init__(self, name: str, log: list[str], *, is_async: bool = False) -> None:
        self.name = name
        self._log = log
        self._is_async = is_async

    def _note(self, what: str) -> Any:
        if not self._is_async:
            self._log.append(f"{self.name} {what}")
            return None

        async def later() -> None:
            await asyncio.sleep(0)
            self._log.append(f"{self.name} {what}")

        return later()

    def on_start(self, worker: Any) -> Any:
        return self._note("start")

    def on_stop(self, worker: Any) -> Any:
        return self._note("stop")

    def on_request(self, conn: Any, request: Any) -> Any:
        return self._note(f"request {request.path}")

    def on_connect(self, conn: Any) -> Any:
        return self._note("connect")

    def on_message(self, conn: Any, ctx: Any, data: Any) -> Any:
        return self.name

    def on_writable(self, conn: Any) -> Any:
        return self._note("writable")

    def on_drain(self, conn: Any) -> Any:
        return self._note("drain")

    def on_close(self, conn: Any, reason: Any) -> Any:
        return self._note("close")


ROOT, CHAT, CHATS, ROOM, FEED = (Talker() for _ in range(5))
TABLE = Routes({"/": ROOT, "/chat": CHAT, "/chat/*": CHATS, "/chat/room/*": ROOM, "/feed/*": FEED})


@pytest.mark.parametrize(
    ("path", "handler"),
    [
        ("/", ROOT),
        ("/chat", CHAT),
        ("/chat/", CHATS),
        ("/chat/x", CHATS),
        ("/chat/x/y", CHATS),
        ("/chat/room", CHATS),
        ("/chat/room/", ROOM),
        ("/chat/room/1/2", ROOM),
        ("/chatter", None),
        ("/feed", None),
        ("/feed/", FEED),
        ("/Chat", None),
        ("", None),
        ("/x", None),
        ("/x/chat", None),
        ("chat", None),
    ],
)
def test_the_longest_route_that_fits(path: str, handler: gevpy.Handler | None) -> None:
    """Exact ones first, then the nearest ``/*`` above."""
    assert TABLE.find(path) is handler


def test_a_star_at_the_root_is_all() -> None:
    """Every path that there is."""
    handler = Talker()
    routes = Routes({"/*": handler})
    for path in ("/", "/x", "/x/y/z"):
        assert routes.find(path) is handler


def test_paths_as_long_as_a_line_may_be() -> None:
    """As many look-ups as there are slashes, which the limit of the line bounds."""
    assert TABLE.find("/x" * 4000) is None
    assert TABLE.find("/chat/" + "/" * 8000) is CHATS


def test_handlers_are_listed_once() -> None:
    """One that serves two paths is started once."""
    one, two = Talker(), Talker()
    assert Routes({"/a": one, "/b/*": two, "/c/*": one, "/d": two}).handlers == [one, two]


@pytest.mark.parametrize(
    "routes",
    [
        [("/", Talker())],
        "/chat",
        {"chat": Talker()},
        {"": Talker()},
        {5: Talker()},
        {"/a*": Talker()},
        {"/*/b": Talker()},
        {"/a/*/*": Talker()},
        {"/chat": Talker},
        {"/chat": None},
        {"/chat": object()},
    ],
)
def test_tables_that_cannot_work(routes: Any) -> None:
    """The error says which path."""
    with pytest.raises(ConfigError, match="route"):
        Routes(routes)


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_every_event_goes_to_the_handler_of_the_path(is_async: bool) -> None:
    """And the life of the worker to all of them, in order, each once."""
    log: list[str] = []
    chat = Named("chat", log, is_async=is_async)
    rest = Named("rest", log, is_async=is_async)
    with connect(rest, WebSocketProtocol(routes={"/chat": chat, "/also": chat, "/rest": rest})) as conn:
        assert log == ["chat start", "rest start"]
        log.clear()
        conn.feed(opening())
        conn.take_sent()
        assert [frame.payload for frame in replies(conn, text("who?"))] == [b"chat"]
        conn.stall()
        conn.connection.send(bytes(100_000))
        conn.settle()
        conn.resume()
        conn.take_sent()
        other = conn.another()
        other.feed(opening(line="GET /elsewhere HTTP/1.1"))
        other.take_sent()
        assert [frame.payload for frame in replies(other, text("who?"))] == [b"rest"]
        other.feed(close())
        assert log == [
            "chat request /chat",
            "chat connect",
            "chat writable",
            "rest request /elsewhere",
            "rest connect",
            "rest close",
        ]
        log.clear()
    assert log == ["chat drain", "chat close", "chat stop", "rest stop"]


def test_a_route_may_answer_with_a_page() -> None:
    """Each handler has its own ``on_request``."""

    class Page(Talker):
        def on_request(self, conn: Any, request: Any) -> Response:
            return Response(200, "a page")

    conn = connect(Talker(), WebSocketProtocol(routes={"/page": Page()}))
    status, _, body = answer_of(conn.feed(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n"))
    assert (status, body) == (200, b"a page")
    assert answer_of(conn.another().feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 426


def test_percent_encoded_paths() -> None:
    """Routes are written as people read them."""
    handler = Talker()
    conn = connect(Talker(), WebSocketProtocol(routes={"/größe": handler}))
    conn.feed(opening(line="GET /gr%C3%B6%C3%9Fe?x=1 HTTP/1.1"))
    assert handler.calls == ["connect"]
    assert parse(conn.feed(text("x")))[0].payload == b"x"


def test_async_handlers_behind_routes() -> None:
    """An ``async def on_message`` is one here, too: replies come in order."""

    class Slow(gevpy.Handler):
        async def on_message(self, conn: Any, ctx: Any, data: Any) -> Any:
            await asyncio.sleep(1.0)
            return data

    conn = connect(Talker(), WebSocketProtocol(routes={"/chat": Slow()}))
    conn.feed(opening())
    assert replies(conn, text("1") + text("2")) == []
    assert parse(conn.advance(2.0))[0].payload == b"1"
    assert [frame.payload for frame in parse(conn.take_sent())] == [b"1", b"2"]
