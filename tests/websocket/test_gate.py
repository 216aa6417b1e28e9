"""The gate: in which order a request is looked at, and what those are told who are not let in."""

from __future__ import annotations

from typing import Any

import pytest

from gevpy import CloseKind, ConfigError, RingBuffer
from gevpy.closing import CloseReason
from gevpy.errors import HandshakeError
from gevpy.websocket.gate import Gate
from gevpy.websocket.http import HeadLimits, Refusal
from tests.websocket.heads import ACCEPT, opening
from tests.websocket.talking import DEFLATE, answer_of


def gate(limits: HeadLimits | None = None, **options: Any) -> Gate:
    """Give a gate with the defaults of a server but for ``options``."""
    defaults = {"origins": None, "require_origin": False, "subprotocols": (), "compression": False}
    return Gate(limits or HeadLimits(), **(defaults | options))


def ring_of(data: bytes) -> RingBuffer:
    """Give a ring with something in it."""
    ring = RingBuffer(64, None)
    ring.write(data)
    return ring


def test_a_request_is_taken_when_it_is_whole() -> None:
    """What is behind it stays."""
    head = opening()
    ring = ring_of(head[:-1])
    assert gate().take_request(ring) is None
    ring.write(head[-1:] + b"frames")
    request = gate().take_request(ring)
    assert request is not None
    assert request.path == "/chat"
    assert ring.peek_all() == b"frames"


def test_the_limits_are_its_own() -> None:
    """E15: line, number of fields, and all of it."""
    assert gate(HeadLimits(100, 10, 1000)).take_request(ring_of(opening())) is not None
    for limits, status in (
        (HeadLimits(10, 10, 1000), 414),
        (HeadLimits(100, 4, 1000), 431),
        (HeadLimits(100, 10, 90), 431),
    ):
        with pytest.raises(Refusal) as caught:
            gate(limits).take_request(ring_of(opening()))
        assert caught.value.status == status


def test_origins_concern_websockets_only() -> None:
    """E13: a page may be asked for from anywhere, as everywhere on the web."""
    elsewhere = ("Origin", "https://evil.example")
    with pytest.raises(Refusal) as caught:
        gate().take_request(ring_of(opening(elsewhere)))
    assert caught.value.status == 403
    assert gate().take_request(ring_of(opening(elsewhere, upgrade=None))) is not None


def test_what_is_agreed_on() -> None:
    """The answer, the subprotocol, and compression if it is wanted here."""
    fields = (("Sec-WebSocket-Protocol", "x, chat"), DEFLATE)
    for compression in (False, True):
        one = gate(subprotocols=["chat"], compression=compression)
        request = one.take_request(ring_of(opening(*fields)))
        assert request is not None
        accepted = one.accept(request)
        assert accepted.subprotocol == "chat"
        assert (accepted.codec is not None) == compression
        assert ACCEPT.encode() in accepted.response


def test_codecs_are_shared() -> None:
    """An idle connection keeps a pointer only."""
    one = gate(compression=True)
    requests = [one.take_request(ring_of(opening(DEFLATE))) for _ in range(2)]
    codecs = [one.accept(request).codec for request in requests if request is not None]
    assert codecs[0] is codecs[1]


@pytest.mark.parametrize("subprotocols", ["chat", ["a", "a"], ["a\r\nX: y"], [""]])
def test_subprotocols_are_checked_at_once(subprotocols: Any) -> None:
    """E17: not at each handshake."""
    with pytest.raises(ConfigError):
        gate(subprotocols=subprotocols)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (CloseReason(CloseKind.HANDSHAKE_FAILED, Refusal(418, "no coffee")), 418),
        (CloseReason(CloseKind.HANDSHAKE_FAILED, HandshakeError("too late")), 408),
        (CloseReason(CloseKind.FRAME_TIMEOUT), 408),
        (CloseReason(CloseKind.DRAINED), 503),
        (CloseReason(CloseKind.HANDLER_ERROR, ValueError("secret")), 500),
    ],
    ids=lambda value: str(value)[:20],
)
def test_last_words(reason: CloseReason, status: int) -> None:
    """Plain HTTP; to a HEAD without a body; and nothing that is not the peer's business."""
    got, head, body = answer_of(Gate.last_words(reason, is_head=False))
    assert got == status
    assert body
    assert b"secret" not in body
    assert Gate.last_words(reason, is_head=True) == head + b"\r\n\r\n"


@pytest.mark.parametrize(
    "kind", [CloseKind.PEER_CLOSED, CloseKind.PEER_RESET, CloseKind.ABORTED, CloseKind.CLOSED_LOCALLY]
)
def test_nobody_is_there_to_be_told(kind: CloseKind) -> None:
    """No answer to who has gone."""
    assert Gate.last_words(CloseReason(kind), is_head=False) == b""
