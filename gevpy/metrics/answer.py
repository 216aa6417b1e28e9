"""One answer of the metrics port, and the fields of HTTP that all of them carry.

The fields are the same whatever is asked, so that none can be forgotten where it matters: nothing is kept by caches,
nothing is taken for another type than it says, no other site may frame it or read it, and the live page may load
scripts, styles and numbers from its own port and nothing from anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from http import HTTPStatus

__all__ = ["FIELDS", "Answer", "plain"]

TEXT = "text/plain; charset=utf-8"

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

FIELDS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to a client.

    Attributes:
        status: of HTTP.
        content_type: of the body, with its charset.
        body: all of it; a HEAD request gets its length only.
    """

    status: HTTPStatus
    content_type: str
    body: bytes


def plain(status: HTTPStatus, text: str) -> Answer:
    """Answer with a short text.

    Example:
        >>> plain(HTTPStatus.OK, "ok").body
        b'ok'
    """
    return Answer(status, TEXT, text.encode())
