"""Rows E7 and E13 to E17 over the wire: who may open a WebSocket, and what is answered to requests that are none.

The tables of `tests.websocket` judge parsers; here it is the server that answers, once, and closes.
"""

from __future__ import annotations

import random
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from gevpy import ConfigError
from gevpy.websocket import WebSocketProtocol
from tests.integration.harness import SOAK, FaultServer, best_of, cpu_of, resident_bytes, wait_until
from tests.integration.websocket_peer import BINARY, RSV1, joined, ws_frame
from tests.websocket.heads import GOOD, head_of, opening

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
QUICK_S = 0.005
ROUNDS = 40
HUGE = 20 * MIB
HUGE_CPU_S = 0.25
SECOND = b"GET /second HTTP/1.1\r\nHost: example.com\r\n\r\n"
HEADS = 100_000 if SOAK else 1_000


def status_of(answer: str) -> int:
    """Give the status of an answer, 0 for none."""
    return int(answer[9:12]) if answer.startswith("HTTP/1.1 ") else 0


def status(server: FaultServer, head: bytes) -> int:
    """Give what a request is answered with; refusals must be whole, the only answer, and the end."""
    with joined(server.port) as peer:
        peer.send(head)
        answer = peer.answer()
        found = status_of(answer)
        if found != 101:
            body = peer.rest()
            length = next(line for line in answer.split("\r\n") if line.lower().startswith("content-length:"))
            size = 0 if head.startswith(b"HEAD ") else int(length.partition(":")[2])
            assert len(body) == size, "nothing comes behind the answer"
            assert "\r\nConnection: close" in answer
        return found


def check_statuses(server: FaultServer, heads: dict[str, tuple[bytes, int]]) -> None:
    """Check what each head is answered, and that who is let in is served all the while."""
    with joined(server.port) as good:
        good.opened()
        found = {name: status(server, head) for name, (head, _) in heads.items()}
        assert found == {name: expected for name, (_, expected) in heads.items()}
        refused = sum(expected != 101 for _, expected in heads.values())
        wait_until(lambda: server.report()["rejected"].get("handshake_failed", 0) >= refused, "all are counted")
        assert server.report()["handler_errors"] == 0
        assert good.echo(b"good") == b"good"


# -- E13: from where -----------------------------------------------------------------------------------


def from_page(*origins: str) -> bytes:
    """Give the opening of a page of these origins, which the server at example.com is to judge."""
    return opening(*(("Origin", origin) for origin in origins))


SAME = {
    "absent": (from_page(), 101),
    "the same": (from_page("http://example.com"), 101),
    "another case": (from_page("HTTP://EXAMPLE.com"), 101),
    "the port said": (from_page("http://example.com:80"), 101),
    "wrong": (from_page("http://evil.com"), 403),
    "null": (from_page("null"), 403),
    "another port": (from_page("http://example.com:8080"), 403),
    "a suffix": (from_page("http://example.com.evil.com"), 403),
    "a prefix": (from_page("http://evilexample.com"), 403),
    "a subdomain": (from_page("http://a.example.com"), 403),
    "a user's name": (from_page("http://example.com@evil.com"), 403),
    "two": (from_page("http://example.com", "http://example.com"), 403),
    "two in one": (from_page("http://example.com, http://evil.com"), 403),
    "empty": (from_page(""), 403),
    "endless": (from_page("http://" + "a." * 4000), 403),
}
LISTED = {
    "absent": (from_page(), 101),
    "listed": (from_page("https://good.com"), 101),
    "a subdomain": (from_page("https://a.b.good.com"), 101),
    "another scheme": (from_page("http://good.com"), 403),
    "the same": (from_page("https://example.com"), 403),
    "a suffix": (from_page("https://good.com.evil.com"), 403),
    "no subdomain": (from_page("https://evilgood.com"), 403),
    "another port": (from_page("https://good.com:444"), 403),
    "a star": (from_page("https://*.good.com"), 403),
}


def test_pages_of_other_origins(fault_server: Callable[..., FaultServer]) -> None:
    """E13: unless told otherwise, pages of this very host and programs may connect; all others get 403."""
    with fault_server("echo", protocol="websocket") as server:
        check_statuses(server, SAME)


def test_pages_of_listed_origins(fault_server: Callable[..., FaultServer]) -> None:
    """E13: with a list pages of those on it only; programs, which have no origin, as ever."""
    origins = ["https://good.com", "https://*.good.com"]
    with fault_server("echo", protocol="websocket", protocol_args={"origins": origins}) as server:
        check_statuses(server, LISTED)


# -- E14: smuggling ------------------------------------------------------------------------------------


def changed(old: bytes, new: bytes) -> bytes:
    """Give a good opening with some bytes of it changed."""
    good = opening()
    assert old in good
    return good.replace(old, new, 1)


TABLE = {
    "a body": (opening(("Content-Length", "5")) + b"hello", 400),
    "a body in chunks": (opening(("Transfer-Encoding", "chunked")) + b"5\r\nhello\r\n0\r\n\r\n", 400),
    "both": (opening(("Content-Length", "5"), ("Transfer-Encoding", "chunked")), 400),
    "a length twice": (opening(("Content-Length", "0"), ("Content-Length", "5")), 400),
    "a folded field": (changed(b"Upgrade: websocket\r\n", b"Upgrade:\r\n websocket\r\n"), 400),
    "a folded first field": (changed(b"Host:", b" Host:"), 400),
    "a bare LF": (changed(b"\r\nHost", b"\nHost"), 400),
    "a bare LF at the end": (opening()[:-2] + b"\n", 400),
    "a CR in a value": (changed(b"example.com", b"exam\rple.com"), 400),
    "a NUL in a value": (changed(b"example.com", b"exam\0ple.com"), 400),
    "a space before the colon": (changed(b"Host:", b"Host :"), 400),
    "no colon": (changed(b"Host: example.com", b"Host example.com"), 400),
    "an empty name": (opening(("", "x")), 400),
    "two Hosts": (opening(("Host", "evil.com")), 400),
    "no Host": (opening(host=None), 400),
    "an empty Host": (opening(host=""), 400),
    "a Host with a path": (opening(host="example.com/x"), 400),
    "Latin-1": (opening(("X-Name", "caf\xe9")), 400),
    "HTTP/1.0": (opening(line="GET /chat HTTP/1.0"), 400),
    "HTTP/0.9": (b"GET /chat\r\n\r\n", 400),
    "HTTP/2.0": (opening(line="GET /chat HTTP/2.0"), 505),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "POST": (opening(line="POST /chat HTTP/1.1"), 405),
    "HEAD": (opening(line="HEAD /chat HTTP/1.1"), 405),
    "CONNECT": (opening(line="CONNECT example.com:80 HTTP/1.1"), 405),
    "a fragment": (opening(line="GET /chat#x HTTP/1.1"), 400),
    "a tab": (opening(line="GET\t/chat HTTP/1.1"), 400),
    "two spaces": (opening(line="GET  /chat HTTP/1.1"), 400),
    "a page": (opening(upgrade=None, connection=None), 426),
    "another upgrade": (opening(upgrade="h2c"), 426),
    "no Connection": (opening(connection=None), 400),
    "no key": (opening(sec_websocket_key=None), 400),
    "a short key": (opening(sec_websocket_key="c2hvcnQ="), 400),
    "a key that is none": (opening(sec_websocket_key="!" * 24), 400),
    "two keys": (opening(("Sec-WebSocket-Key", GOOD["Sec-WebSocket-Key"])), 400),
    "version 12": (opening(sec_websocket_version="12"), 426),
    "two versions": (opening(("Sec-WebSocket-Version", "13")), 400),
    "no version": (opening(sec_websocket_version=None), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), 400),
    "garbage": (b"\xff" * 40, 400),
    "an absolute target": (opening(line="GET http://example.com/chat HTTP/1.1"), 101),
    "another case": (opening(upgrade="WebSocket", connection="keep-alive, UPGRADE"), 101),
}


def test_requests_that_two_readers_read_in_two_ways(fault_server: Callable[..., FaultServer]) -> None:
    """E14: refused with the status of the table, once, whatever is sent behind, which is never read as a request."""
    heads = {name: (head + (SECOND if expected != 101 else b""), expected) for name, (head, expected) in TABLE.items()}
    with fault_server("echo", protocol="websocket") as server:
        check_statuses(server, heads)


def test_what_follows_the_handshake_is_frames(fault_server: Callable[..., FaultServer]) -> None:
    """E14: bytes sent in one piece with a good opening are frames: a message is echoed, a request is none."""
    with fault_server("echo", protocol="websocket") as server:
        with joined(server.port) as peer:
            assert peer.opened(then=ws_frame(BINARY, b"early")).message() == b"early"
        with joined(server.port) as peer:
            assert peer.opened(then=SECOND).end().code == 1002
        with joined(server.port) as peer:
            assert peer.opened(then=opening()).end().code == 1002
        with joined(server.port) as peer:
            stream = opening() + ws_frame(BINARY, b"slow")
            for at in range(len(stream)):
                peer.send(stream[at : at + 1])
            assert status_of(peer.answer()) == 101
            assert peer.message() == b"slow"


# -- E15, E16: large and slow --------------------------------------------------------------------------


def line_of(size: int) -> str:
    """Give a request line of so many bytes."""
    return f"GET /{'a' * (size - 14)} HTTP/1.1"


def with_fields(count: int, size: int = 10) -> bytes:
    """Give an opening with so many fields in all, the added ones of so many bytes each."""
    return opening(*((f"X-{number:05d}", "v" * (size - 9)) for number in range(count - len(GOOD))))


SIZES = {
    "a line of 8192": (opening(line=line_of(8192)), 101),
    "a line of 8193": (opening(line=line_of(8193)), 414),
    "a line of 20,000": (opening(line=line_of(20_000)), 414),
    "a field of 8192": (opening(("X", "v" * 8189)), 101),
    "a field of 8193": (opening(("X", "v" * 8190)), 431),
    "100 fields": (with_fields(100), 101),
    "101 fields": (with_fields(101), 431),
    "129 fields": (with_fields(129), 431),
    "2,000 fields": (with_fields(2_000), 431),
    "30 KiB": (with_fields(8, 8_000), 101),
    "40 KiB": (with_fields(10, 8_000), 431),
    "64 KiB": (with_fields(13, 8_000), 431),
}


def test_large_requests(fault_server: Callable[..., FaultServer]) -> None:
    """E15: what is at a limit is let in, what is a byte or a field over it gets 414 or 431."""
    with fault_server("echo", protocol="websocket") as server:
        check_statuses(server, SIZES)


@pytest.mark.parametrize("head", [b"GET /", opening()[:-2] + b"X: ", opening()[:-2]], ids=["line", "field", "fields"])
def test_requests_without_end(fault_server: Callable[..., FaultServer], head: bytes) -> None:
    """E15: 20 MB of a request are cut at the cap: no memory, hardly any time, and nobody waits."""
    more = (b"Y: z\r\n" if head == opening()[:-2] else b"a" * 6) * (HUGE // 6)
    with fault_server("echo", protocol="websocket") as server, joined(server.port) as good:
        good.opened()
        before = resident_bytes(server.pid)

        def cost_s() -> float:
            with joined(server.port) as peer:
                began = cpu_of(server.pid)
                peer.send(head + more)
                peer.rest()
                assert good.echo() == b"x"
                return cpu_of(server.pid) - began

        took = best_of(ROUNDS // 4, cost_s, HUGE_CPU_S)
        assert took <= HUGE_CPU_S, f"{took:.3f} s of CPU"
        assert resident_bytes(server.pid) - before <= MIB
        wait_until(lambda: server.report()["rejected"].get("handshake_failed"), "it is counted")


@pytest.mark.parametrize(
    "name", ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Connection", "Origin", "Cookie"]
)
def test_fields_that_no_pattern_is_slow_with(fault_server: Callable[..., FaultServer], name: str) -> None:
    """E16: thousands of spaces, commas or quotes inside a value are answered in less than 5 ms."""
    values = ("b" + " " * 8000 + "x", "," * 8000, "b;" * 4000, '"' * 8000, "permessage-deflate" + "; a" * 2600)
    with fault_server("echo", protocol="websocket", protocol_args={"compression": True}) as server:
        for value in values:
            head = opening((name, value), (name, value), (name, value))

            def answer_s(head: bytes = head) -> float:
                with joined(server.port) as peer:
                    begun = time.perf_counter()
                    peer.send(head)
                    assert status_of(peer.answer()[:12]) in (101, 400, 403)
                    return time.perf_counter() - begun

            took = best_of(ROUNDS, answer_s, QUICK_S)
            assert took <= QUICK_S, f"{took * 1e3:.1f} ms"


# -- E7: compression -----------------------------------------------------------------------------------

OFFERS = {  # what is agreed on; None: it is declined; 400: it is refused
    "permessage-deflate": "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    "permessage-deflate; server_max_window_bits=7": None,
    "permessage-deflate; server_max_window_bits=16": None,
    "permessage-deflate; client_max_window_bits=7": None,
    "permessage-deflate; client_max_window_bits=16": None,
    "permessage-deflate; client_max_window_bits=08": None,
    "permessage-deflate; client_max_window_bits=99999999999999999999999": None,
    "permessage-deflate; server_max_window_bits": None,
    "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10": None,
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover": None,
    "permessage-deflate; server_no_context_takeover=1": None,
    "permessage-deflate; unknown": None,
    "permessage-deflate; level=9": None,
    "x-webkit-deflate-frame": None,
    "permessage-deflate; =": 400,
    "permessage-deflate;; ;": 400,
    'permessage-deflate; client_max_window_bits="1': 400,
    "=": 400,
}


def test_offers_of_compression(fault_server: Callable[..., FaultServer]) -> None:
    """E7: bad parameters decline an offer, malformed ones refuse the request; compression that was declined is 1002."""
    with fault_server("echo", protocol="websocket", protocol_args={"compression": True}) as server:
        for offer, agreed in OFFERS.items():
            with joined(server.port) as peer:
                answer = peer.open(opening(("Sec-WebSocket-Extensions", offer)))
                assert status_of(answer) == (400 if agreed == 400 else 101), offer
                told = [line.partition(": ")[2] for line in answer.split("\r\n") if "extensions:" in line.lower()]
                assert told == ([agreed] if isinstance(agreed, str) else []), offer
                if agreed is None:
                    peer.say(BINARY, b"\x00", bits=RSV1)
                    assert peer.end().code == 1002, offer


# -- E17: what the application says --------------------------------------------------------------------


def test_line_ends_of_the_application(fault_server: Callable[..., FaultServer]) -> None:
    """E17: a header that an application answers with and that holds a line's end is raised, and never sent."""
    with fault_server("guard", protocol="websocket", faults_expected=True) as server:
        assert "X-Told: fine" in told(server, "fine")
        for injected in ("a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "a\0", "\u20ac"):
            answer = told(server, injected)
            assert answer.startswith("HTTP/1.1 500 ")
            assert "x-" not in answer.lower(), answer
        assert server.report()["handler_errors"] == 5
        assert "ConfigError" in server.log()


def told(server: FaultServer, header: str) -> str:
    """Ask for a page with a header, and give the answer."""
    with joined(server.port) as peer:
        peer.send(opening(line=f"GET /?header={quote(header)} HTTP/1.1", upgrade=None, connection=None))
        return peer.answer() + peer.rest().decode("latin-1")


@pytest.mark.parametrize("name", ["a\r\nX-Evil: 1", "a b", "", "caf\xe9"])
def test_line_ends_in_a_subprotocol(name: str) -> None:
    """E17: a subprotocol that can't be sent is refused where it is written."""
    with pytest.raises(ConfigError):
        WebSocketProtocol(subprotocols=[name])


# -- chance --------------------------------------------------------------------------------------------


def test_heads_by_chance(fault_server: Callable[..., FaultServer]) -> None:
    """10^5 openings (CI: 1,000) with bytes changed at random: each is answered once or not at all; the server lives."""
    dice = random.Random(14)
    with fault_server("echo", protocol="websocket", protocol_args={"compression": True}) as server:
        pid = server.pid
        for _ in range(HEADS):
            with joined(server.port) as peer:
                peer.send(spoilt(dice))
                with suppress(OSError):  # it may have been refused and closed by now
                    peer.sock.shutdown(socket.SHUT_WR)
                answer = peer.rest()
                assert answer == b"" or status_of(answer[:12].decode("latin-1")) in (
                    101,
                    400,
                    403,
                    405,
                    414,
                    426,
                    431,
                    505,
                )
                assert answer.count(b"HTTP/1.1 ") <= 1
        assert server.pid == pid
        with joined(server.port) as peer:
            assert peer.opened().echo() == b"x"
        assert server.report()["handler_errors"] == 0


def spoilt(dice: random.Random) -> bytes:
    """Give an opening with some bytes changed, left out, or added."""
    fields = [
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("Origin", "http://example.com"),
    ]
    head = bytearray(head_of("GET /chat HTTP/1.1", [*GOOD.items(), *fields]))
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(head))
        what = dice.choice((b"", dice.randbytes(1), b"\r\n", b" ", b",", b":", bytes(head[at : at + 9]) * 2))
        head[at : at + dice.choice((0, 1, 1, 5))] = what
    return bytes(head)
