"""Close codes: which may be sent, what the application may close with, and which belongs to what ended a connection."""

from __future__ import annotations

import pytest

from gevpy import CloseKind, ConfigError, ProtocolError
from gevpy.closing import CloseReason
from gevpy.websocket.codes import (
    MAX_TEXT_BYTES,
    OF_KIND,
    InvalidText,
    PolicyViolation,
    is_close_code,
    require_words,
    words_for,
)

GOOD = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}


def test_codes_that_may_be_on_the_wire() -> None:
    """E11: those that RFC 6455 section 7.4 and IANA's registry have, and no others, of all that two bytes can say."""
    assert {code for code in range(65536) if is_close_code(code)} == GOOD
    assert not is_close_code(-1)
    assert not is_close_code(1 << 16)


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (None, "", (1000, "")),
        (None, "only a text", (1000, "only a text")),
        (1001, "", (1001, "")),
        (4999, "bye", (4999, "bye")),
        (1000, "x" * 123, (1000, "x" * 123)),
        (1000, "ü" * 61, (1000, "ü" * 61)),
    ],
)
def test_words_of_the_application(code: int | None, text: str, words: tuple[int, str]) -> None:
    """The default code is 1000; the text may have 123 bytes."""
    assert require_words(code, text) == words


@pytest.mark.parametrize(
    ("code", "text"),
    [
        *((code, "") for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536, -1)),
        (True, ""),
        (1000.0, ""),
        ("1000", ""),
        (1000, "x" * 124),
        (1000, "ü" * 62),
        (1000, b"bytes"),
        (1000, None),
        (1000, "\ud800"),
        (1000, "\ud800" * 124),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_words_that_cannot_be_sent(code: int, text: str) -> None:
    """E11: a slip of the application's is told to the application, and never sent."""
    with pytest.raises(ConfigError):
        require_words(code, text)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (CloseKind.CLOSED_LOCALLY, 1000),
        (CloseKind.IDLE, 1001),
        (CloseKind.DRAINED, 1001),
        (CloseKind.PROTOCOL_ERROR, 1002),
        (CloseKind.FRAME_TOO_LARGE, 1009),
        (CloseKind.FRAME_TIMEOUT, 1008),
        (CloseKind.HANDLER_ERROR, 1011),
        (CloseKind.PING_TIMEOUT, 1011),
    ],
)
def test_codes_of_our_own_reasons(kind: CloseKind, code: int) -> None:
    """Each kind that leaves time for a close frame has its code."""
    assert words_for(CloseReason(kind))[0] == code


def test_errors_with_codes_of_their_own() -> None:
    """Bad UTF-8 is 1007, too many frames 1008, whatever kind the connection ends by."""
    for error, code in ((InvalidText("x"), 1007), (PolicyViolation("x"), 1008), (ProtocolError("x"), 1002)):
        assert words_for(CloseReason(CloseKind.PROTOCOL_ERROR, error))[0] == code


def test_no_text_tells_more_than_the_peer_should_know() -> None:
    """What an exception says stays here; every text and code can be sent."""
    for kind in CloseKind:
        code, text = words_for(CloseReason(kind, ValueError("the password is swordfish")))
        assert is_close_code(code)
        assert len(text.encode()) <= MAX_TEXT_BYTES
        assert "swordfish" not in text
    assert set(OF_KIND.values()) <= GOOD
