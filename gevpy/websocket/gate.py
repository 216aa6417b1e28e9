"""Who is let in: the server's side of the opening handshake, from the first byte to the answer.

Requests are read within limits, their origin is checked, the handler is asked, and only then is anything agreed on.
What is refused is answered by plain HTTP; so is what a handler answers itself: a page, a health check.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from gevpy.closing import CloseKind
from gevpy.websocket.deflate import Deflate
from gevpy.websocket.handshake import accept, require_subprotocols
from gevpy.websocket.http import HeadLimits, Refusal, Response, parse_request, take_head
from gevpy.websocket.origins import OriginPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gevpy.closing import CloseReason
    from gevpy.ring_buffer import RingBuffer
    from gevpy.websocket.handshake import Accepted
    from gevpy.websocket.http import Request

__all__ = ["Gate"]

OF_KIND = {
    CloseKind.HANDLER_ERROR: Response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error"),
    CloseKind.DRAINED: Response(HTTPStatus.SERVICE_UNAVAILABLE, "going away"),
    CloseKind.FRAME_TIMEOUT: Response(HTTPStatus.REQUEST_TIMEOUT, "the request took too long"),
    CloseKind.HANDSHAKE_FAILED: Response(HTTPStatus.REQUEST_TIMEOUT, "the handshake took too long"),
}


class Gate:
    """Lets requests in, by the options of one protocol.

    Args:
        limits: of the request's head.
        origins, require_origin: see `OriginPolicy`.
        subprotocols: those that are spoken here, the best first.
        compression: whether to agree to permessage-deflate.
    """

    def __init__(
        self,
        limits: HeadLimits,
        *,
        origins: Sequence[str] | None,
        require_origin: bool,
        subprotocols: Sequence[str],
        compression: bool,
    ) -> None:
        """Begin with these rules."""
        self.limits = limits
        self._origins = OriginPolicy(origins, require_origin=require_origin)
        self._subprotocols = tuple(require_subprotocols(subprotocols))
        self._deflate = Deflate if compression else None

    def take_request(self, buffer: RingBuffer) -> Request | None:
        """Take the request out of ``buffer``, if it is all there.

        Raises:
            Refusal: it is too large, malformed, or comes from a page that may not.
        """
        head = take_head(buffer, self.limits)
        if head is None:
            return None
        request = parse_request(head)
        if request.wants_upgrade:
            self._origins.check(request)
        return request

    def accept(self, request: Request) -> Accepted:
        """Agree to a request that nobody had anything against.

        Raises:
            Refusal: it is no opening handshake, or a broken one.
        """
        return accept(request, subprotocols=self._subprotocols, deflate=self._deflate)

    @staticmethod
    def last_words(reason: CloseReason, *, is_head: bool) -> bytes:
        """Give the answer to a request that is not let in, as far as there is one; to a HEAD, without its body."""
        if isinstance(reason.error, Refusal):
            return reason.error.response.encode(is_head=is_head)
        response = OF_KIND.get(reason.kind)
        return b"" if response is None else response.encode(is_head=is_head)
