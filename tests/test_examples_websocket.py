"""The WebSocket examples, run as their reader would run them, and talked to by a client made of wsproto."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import runpy
import signal
import socket
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    TextMessage,
)
from wsproto.events import Request as Opening

from gevpy.testing import EmbeddedConnection
from gevpy.websocket import WebSocketProtocol
from tests.programs import DEADLINE_S, ROOT, Program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message as Fields

NEWS = "news for everybody"


class Peer:
    """A WebSocket client on a plain socket; a context, which closes it.

    Attributes:
        ending: the server's close frame, once it has come.
        status: of the answer, where that is no WebSocket.
    """

    def __init__(self, port: int, target: str = "/", **options: Any) -> None:
        self.ending: CloseConnection | None = None
        self.status = 101
        self._session = WSConnection(ConnectionType.CLIENT)
        self._messages: list[str | bytes] = []
        self._parts: list[Any] = []
        self._sock = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self._send(Opening(host=f"127.0.0.1:{port}", target=target, **options))
        self.subprotocol: str | None = None
        self._is_open = False
        while not self._is_open and self.status == 101:
            self._receive()

    def __enter__(self) -> Self:
        """Give the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave without a word."""
        self._sock.close()

    def say(self, data: str | bytes) -> None:
        """Send a message."""
        self._send(TextMessage(data=data) if isinstance(data, str) else BytesMessage(data=data))

    def leave(self) -> None:
        """Close in order."""
        self._send(CloseConnection(code=1000))

    def hear(self) -> str | bytes | None:
        """Give the next message; None when the server has closed."""
        while not self._messages and self.ending is None:
            self._receive()
        return self._messages.pop(0) if self._messages else None

    def hear_json(self, kind: str) -> dict[str, Any]:
        """Give the next message of a kind."""
        while (heard := self.hear()) is not None:
            message: dict[str, Any] = json.loads(heard)
            if message.get("kind") == kind:
                return message
        raise AssertionError(f"closed before {kind}: {self.ending}")

    def _send(self, event: Event) -> None:
        self._sock.sendall(self._session.send(event))

    def _receive(self) -> None:
        data = self._sock.recv(65536)
        self._session.receive_data(data or None)
        for event in self._session.events():
            self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, AcceptConnection):
            self._is_open = True
            self.subprotocol = event.subprotocol
        elif isinstance(event, RejectConnection):
            self.status = event.status_code
        elif isinstance(event, TextMessage | BytesMessage):
            self._parts.append(event.data)
            if event.message_finished:
                self._messages.append("".join(self._parts) if isinstance(event, TextMessage) else b"".join(self._parts))
                self._parts.clear()
        elif isinstance(event, Ping):
            self._send(event.response())
        elif isinstance(event, CloseConnection):
            self.ending = event
        else:
            assert isinstance(event, RejectData), f"nobody expected {event}"


@contextlib.contextmanager
def example(name: str, *options: str) -> Iterator[tuple[Program, int]]:
    """Run an example on a free port; give it and its port, and see that it stops well."""
    with Program(f"examples/{name}.py", "--port", "0", *options) as program:
        yield program, int(program.expect(r"try: .*://127\.0\.0\.1:(\d+)/")[1])
        assert program.stop() == 0, program.output
        assert "Traceback" not in program.output
        assert "Warning" not in program.output


def fetch(port: int, path: str) -> tuple[int, Fields, str]:
    """Get a page as a browser does; give its status, its fields and what it says."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE_S) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


# -- websocket -------------------------------------------------------------------------------------


def surprise(peer: Peer, said: str | bytes) -> str:
    """Say something, and tell which of the three replies came."""
    peer.say(said)
    while (heard := peer.hear()) == NEWS:
        continue
    if heard is None:
        assert peer.ending is not None
        assert (peer.ending.code, peer.ending.reason) == (1000, "enough for today")
        return "closed"
    if heard == said:
        return "echoed"
    assert heard == "half a second ago you said:"
    while (heard := peer.hear()) == NEWS:
        continue
    assert heard == said
    return "pushed"


def test_websocket_replies_in_three_ways_and_has_news_for_all() -> None:
    """Sooner or later each way to reply is seen, text stays text, binary binary, and news come to who says nothing."""
    seen: set[str] = set()
    with example("websocket", "--interval", "0.02") as (program, port), Peer(port) as silent:
        assert silent.hear() == "welcome to /, speaking None"
        for visit in range(200):
            if len(seen) == 3:
                break
            with Peer(port, f"/lobby/{visit}", subprotocols=["other", "surprise.v1"]) as peer:
                assert peer.hear() == f"welcome to /lobby/{visit}, speaking surprise.v1"
                said = f"grüße {visit}" if visit % 2 else b"\xff\x00"
                while peer.ending is None:
                    seen.add(surprise(peer, said))
        assert seen == {"echoed", "pushed", "closed"}
        assert silent.hear() == silent.hear() == NEWS
        program.expect(r"wants '/lobby/0', from a program$")
        program.expect(r"left: closed_locally, code 1000, 'enough for today'$")


def test_websocket_refuses_and_answers_plain_requests() -> None:
    """One path is refused, for pages of elsewhere all are, and who wants no WebSocket gets a page."""
    with example("websocket") as (_, port):
        with Peer(port, "/staff") as refused:
            assert refused.status == 403
        with Peer(port, extra_headers=[(b"Origin", b"https://elsewhere.example")]) as foreign:
            assert foreign.status == 403
        assert fetch(port, "/staff")[::2] == (403, "staff only")
        assert fetch(port, "/")[::2] == (200, "this is a WebSocket server")


def test_websocket_serves_with_workers_and_says_good_bye() -> None:
    """With two workers it is the same, and at a stop clients are told with code 1001."""
    with contextlib.ExitStack() as stack:
        with example("websocket", "--workers", "2") as (_, port):
            peers = [stack.enter_context(Peer(port)) for _ in range(4)]
            assert [peer.hear() for peer in peers] == ["welcome to /, speaking None"] * 4
            assert [peer.hear() for peer in peers] == [NEWS] * 4
        for peer in peers:
            while peer.hear() == NEWS:
                continue
            assert peer.ending is not None
            assert peer.ending.code == 1001


# -- ticker ----------------------------------------------------------------------------------------


def order(peer: Peer, **orders: list[str]) -> None:
    """Change what is ordered, and wait for the answer."""
    peer.say(json.dumps(orders))
    while "symbol" in json.loads(peer.hear() or "{}"):
        continue


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ticker_sends_what_was_ordered(workers: str) -> None:
    """Prices of the symbols come, beat by beat, of no others, and no more of one that isn't wanted any longer."""
    with example("ticker", "--interval", "0.02", "--workers", workers) as (_, port), Peer(port) as peer:
        order(peer, subscribe=["ACME", "DUCK", "NONE"])
        prices = [json.loads(peer.hear() or "") for _ in range(10)]
        assert {price["symbol"] for price in prices} == {"ACME", "DUCK"}
        beats = [price["beat"] for price in prices if price["symbol"] == "ACME"]
        assert beats == list(range(beats[0], beats[0] + len(beats)))
        assert all(50 < price["price"] < 200 for price in prices)
        order(peer, unsubscribe=["DUCK"])
        assert {json.loads(peer.hear() or "")["symbol"] for _ in range(5)} == {"ACME"}


def test_ticker_says_what_it_wants_to_hear() -> None:
    """What is no order is answered, and ends nothing."""
    with example("ticker") as (_, port), Peer(port) as peer:
        for nonsense in ("", "ACME", '["ACME"]', '{"subscribe": 7}', b"\xff\xfe\xfd", "[" * 4000):
            peer.say(nonsense)
            assert "error" in json.loads(peer.hear() or "")
        peer.say('{"subscribe": []}')
        assert json.loads(peer.hear() or "") == {"subscribe": []}


def test_ticker_drops_the_oldest_for_who_reads_slowly() -> None:
    """Who doesn't read for a while misses prices in the middle, in whole messages, and is up to date then."""
    ticker = runpy.run_path(str(ROOT / "examples" / "ticker.py"), run_name="ticker")
    session = WSConnection(ConnectionType.CLIENT)
    conn = EmbeddedConnection(ticker["Ticker"](), WebSocketProtocol(), limits=ticker["LIMITS"])
    session.receive_data(conn.feed(session.send(Opening(host="127.0.0.1", target="/"))))
    conn.feed(session.send(TextMessage(data='{"subscribe": ["ACME"]}')))
    conn.stall()
    market = ticker["Market"](conn.worker.publish)
    for _ in range(3000):
        market.move()
        conn.settle()
    conn.resume()
    session.receive_data(conn.sent.partition(b"\r\n\r\n")[2])
    texts = [event.data for event in session.events() if isinstance(event, TextMessage)]
    assert json.loads(texts.pop(0)) == {"subscribe": ["ACME"]}
    beats = [json.loads(text)["beat"] for text in texts]
    gap = next(after for before, after in itertools.pairwise(beats) if after != before + 1)
    assert beats == [*range(1, beats.index(gap) + 1), *range(gap, 3001)]
    assert 1000 < gap < 3000 - 500


# -- web_chat --------------------------------------------------------------------------------------


def chat_as(port: int, name: str, room: str = "tea") -> Peer:
    """Enter a room, and wait until one is in it."""
    peer = Peer(port, "/chat?" + urlencode({"room": room, "name": name}))
    assert peer.status == 101
    return peer


def hear_names(*peers: Peer, until: set[str]) -> None:
    """Put the lists of all workers together, for each peer, until these are the names."""
    for peer in peers:
        lists: dict[str, list[str]] = {}
        while {name for names in lists.values() for name in names} != until:
            here = peer.hear_json("here")
            lists[here["worker"]] = here["names"]


def test_web_chat_serves_its_page_and_a_health_check() -> None:
    """The page may run only what is in it; the health check is beside it, and nothing else."""
    with example("web_chat") as (_, port):
        status, fields, page = fetch(port, "/?room=tea")
        assert (status, page) == (200, (ROOT / "examples" / "web_chat.html").read_text())
        assert fields["Content-Type"] == "text/html; charset=utf-8"
        policy = fields["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert len(re.findall(r"(?:script|style)-src 'sha256-[^']+'(?:;|$)", policy)) == 2
        assert "unsafe" not in policy
        assert fetch(port, "/healthz")[::2] == (200, "ok")
        assert fetch(port, "/web_chat.py")[0] == 404
        assert fetch(port, "/chat?room=tea&name=Ann")[0] == 426
        assert fetch(port, "/chat?room=tea&name=%20%0a")[0] == 400


@pytest.mark.parametrize("workers", ["1", "2"])
def test_web_chat_reaches_a_room_and_no_other(workers: str) -> None:
    """What one says, everybody in the room hears, in whatever process, and who is here is known."""
    with example("web_chat", "--workers", workers) as (_, port), contextlib.ExitStack() as stack:
        names = [f"guest {number}" for number in range(6)]
        guests = [stack.enter_context(chat_as(port, name)) for name in names]
        elsewhere = stack.enter_context(chat_as(port, "Zoe", "coffee"))
        identity = guests[0].hear_json("welcome")["id"]
        hear_names(*guests, until=set(names))
        guests[0].say("  <b>hello</b>\n")
        said = {"kind": "said", "id": identity, "name": names[0], "text": "<b>hello</b>"}
        assert [guest.hear_json("said") for guest in guests] == [said] * 6
        guests.pop().leave()
        hear_names(*guests, until=set(names[:5]))
        elsewhere.say("alone?")
        assert elsewhere.hear_json("said")["name"] == "Zoe"


def test_web_chat_bounds_what_a_guest_may_do() -> None:
    """Too much at once comes back, too long a message or a binary one ends the visit, and names are cut."""
    with example("web_chat") as (_, port), chat_as(port, "x\u202ey" * 40) as loud, chat_as(port, "Ann") as ann:
        for number in range(30):
            loud.say(f"spam {number}")
        passed = int(loud.hear_json("refused")["text"].removeprefix("spam "))
        assert passed >= 8
        assert [ann.hear_json("said")["text"] for _ in range(passed)] == [f"spam {number}" for number in range(passed)]
        hear_names(ann, until={"Ann", ("xy" * 40)[:24]})
        loud.say("x" * 5000)
        ann.say(b"picture")
        for peer, code in ((loud, 1009), (ann, 1003)):
            while peer.hear() is not None:
                continue
            assert peer.ending is not None
            assert peer.ending.code == code


def test_web_chat_asks_its_guests_to_come_again_when_its_workers_are_replaced() -> None:
    """At a reload everybody is told 1012, and finds a worker at once; the others are still on the list."""
    with example("web_chat", "--workers", "2") as (program, port), chat_as(port, "Ann") as ann:
        ann.hear_json("here")
        os.kill(program._process.pid, signal.SIGHUP)
        began = time.monotonic()
        while ann.hear() is not None:
            assert time.monotonic() - began < DEADLINE_S
        assert ann.ending is not None
        assert ann.ending.code == 1012
        with chat_as(port, "Ann") as again:
            hear_names(again, until={"Ann"})
