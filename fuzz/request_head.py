"""The head of a request, from the stream to the answer: only a `Refusal` may leave, and no cut makes a difference."""

from __future__ import annotations

from gevpy import RingBuffer
from gevpy.websocket.deflate import Deflate
from gevpy.websocket.handshake import accept
from gevpy.websocket.http import Refusal, Request, parse_request, take_head
from gevpy.websocket.origins import OriginPolicy

ORIGINS = (OriginPolicy(), OriginPolicy(["https://example.com", "https://*.example.com:8443"], require_origin=True))


def one_input(data: bytes) -> None:
    """Read it at once and byte by byte."""
    whole = outcome([data])
    assert outcome([data[at : at + 1] for at in range(len(data))]) == whole
    if isinstance(whole, bytes):
        answer(whole)


def outcome(pieces: list[bytes]) -> bytes | int | None:
    """Give the head, or the status of the refusal, or None while the head isn't whole."""
    ring = RingBuffer(16, None)
    head = None
    try:
        for piece in pieces:
            ring.write(piece)
            head = head or take_head(ring)
    except Refusal as refusal:
        assert refusal.response.encode().startswith(b"HTTP/1.1 ")
        return refusal.status
    return head


def answer(head: bytes) -> None:
    """Read all that a request has, and go through the handshake."""
    try:
        request = parse_request(head)
    except Refusal as refusal:
        assert str(refusal.status) in str(refusal)
        return
    read(request)
    for policy in ORIGINS:
        try:
            policy.check(request)
        except Refusal as refusal:
            assert refusal.status == 403
    try:
        accepted = accept(request, subprotocols=["chat.v2", "chat"], deflate=Deflate)
    except Refusal as refusal:
        assert refusal.status in (400, 405, 426)
        return
    assert accepted.response.startswith(b"HTTP/1.1 101 ")
    assert accepted.subprotocol in (None, "chat.v2", "chat")


def read(request: Request) -> None:
    """Look at everything."""
    assert isinstance(request.path, str)
    assert "\n" not in repr(request)
    assert len(request.host) > 0
    assert request.wants_upgrade in (False, True)
    for field in request.headers:
        assert request.headers.get_all(field)
    for name in request.query:
        assert request.query.get_all(name)
