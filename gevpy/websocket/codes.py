"""Close codes: what they say, which may be sent, and which belongs to what ended a connection.

Source: RFC 6455 section 7.4, IANA's registry for 1012 to 1014.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gevpy.closing import CloseKind
from gevpy.errors import ConfigError, ProtocolError

if TYPE_CHECKING:
    from gevpy.closing import CloseReason

__all__ = ["InvalidText", "PolicyViolation", "is_close_code", "require_words"]

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
BROKEN: Final = 1002
NO_CODE: Final = 1005  # never sent: the close frame had none
ABNORMAL: Final = 1006  # never sent: there was no close frame
INVALID_TEXT: Final = 1007
POLICY: Final = 1008
TOO_BIG: Final = 1009
INTERNAL: Final = 1011
RESTART: Final = 1012

SENDABLE = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
FIRST_PRIVATE = 3000
LAST_PRIVATE = 4999
MAX_TEXT_BYTES = 123  # a control frame's 125, less the code

OF_KIND = {
    CloseKind.CLOSED_LOCALLY: NORMAL,
    CloseKind.IDLE: GOING_AWAY,
    CloseKind.DRAINED: GOING_AWAY,
    CloseKind.PROTOCOL_ERROR: BROKEN,
    CloseKind.FRAME_TOO_LARGE: TOO_BIG,
    CloseKind.FRAME_TIMEOUT: POLICY,
    CloseKind.HANDLER_ERROR: INTERNAL,
    CloseKind.PING_TIMEOUT: INTERNAL,
}
TEXT_OF_KIND = {
    CloseKind.IDLE: "idle",
    CloseKind.FRAME_TIMEOUT: "frame not whole in time",
    CloseKind.FRAME_TOO_LARGE: "message too big",
    CloseKind.PING_TIMEOUT: "no pong in time",
}


class InvalidText(ProtocolError):
    """A text message, or a close frame's text, is not UTF-8."""


class PolicyViolation(ProtocolError):
    """More control frames, or more fragments, than anybody needs."""


def is_close_code(code: int) -> bool:
    """Tell whether a close frame may carry ``code``."""
    return code in SENDABLE or FIRST_PRIVATE <= code <= LAST_PRIVATE


def require_words(code: int | None, text: str) -> tuple[int, str]:
    """Give the code and text that an application closes with, checked.

    Raises:
        ConfigError: no close frame may carry that code, or the text is longer than 123 bytes of UTF-8.
    """
    if code is None:
        code = NORMAL
    if not isinstance(code, int) or isinstance(code, bool) or not is_close_code(code):
        msg = f"a close code is 1000 to 1003, 1007 to 1014, or 3000 to 4999, not {code!r}"
        raise ConfigError(msg)
    if not isinstance(text, str) or len(text.encode(errors="surrogatepass")) > MAX_TEXT_BYTES:
        msg = f"the reason of a close must be text of at most {MAX_TEXT_BYTES} bytes in UTF-8, not {text!r:.150}"
        raise ConfigError(msg)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the reason of a close can't be written in UTF-8: {error}") from error
    return int(code), text


def words_for(reason: CloseReason) -> tuple[int, str]:
    """Give the code and text to close with for a reason of our own. No text tells more than the peer should know."""
    if isinstance(reason.error, InvalidText):
        return INVALID_TEXT, "not UTF-8"
    if isinstance(reason.error, PolicyViolation):
        return POLICY, "too many frames"
    return OF_KIND.get(reason.kind, NORMAL), TEXT_OF_KIND.get(reason.kind, "")
