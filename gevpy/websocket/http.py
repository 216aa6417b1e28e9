r"""The little of HTTP/1.1 that an opening handshake needs: take a head off the stream, read it, answer.

    GET /chat?room=1 HTTP/1.1\r\n         `take_head` cuts here, within limits,
    Host: example.com\r\n                 `parse_request` refuses whatever two readers could read in two ways,
    \r\n                                  `Request` keeps the bytes and looks into them when asked,
    what follows are frames               and is left in the ring

Nothing here is lenient, since whoever is in front of us may be: lines end with CR and LF, fields don't fold, names end
right at the colon, bytes are visible ASCII, and no request has a body. A refusal is the answer and an exception in one.

Source: RFC 9112, and RFC 9110 for the fields.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote

from gevpy.errors import ConfigError, HandshakeError
from gevpy.websocket.fields import Fields, Query, require_fields, tokens

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer
    from gevpy.websocket.fields import FieldSource

__all__ = ["HeadLimits", "Refusal", "Request", "Response", "parse_request", "split_head", "take_head"]

TEXT = "text/plain; charset=utf-8"
METHODS = ("GET", "HEAD")
MOST_PARAMETERS = 1000  # of a query
CARRIAGE_RETURN = 13
FIRST_BYTES_SEEN = 16  # by then a first line has shown that it is one
FIRST_STATUS, LAST_STATUS = 200, 599
OURS = ("connection", "content-length", "content-type", "transfer-encoding")

NAME = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
FIRST_BYTES = re.compile(rb"[A-Za-z][\x20-\x7e]*+(?:[\r\n]|\Z)")
FIRST_LINE = re.compile(rb"[\x21-\x7e]++(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n")
FIELD_LINES = re.compile(rb"(?:" + NAME + rb":[\t\x20-\x7e]*+\r\n)*+\r\n")
REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]++) ([\x21\x22\x24-\x7e]++) HTTP/([0-9])\.([0-9])")  # no "#"
ABSOLUTE = re.compile(r"https?://([^/?]*+)(.*+)", re.IGNORECASE)
AUTHORITY = re.compile(r"([0-9A-Za-z._~-]++|\[[0-9A-Fa-f:.]++\])(?::([0-9]{1,5}))?")


class HeadLimits(NamedTuple):
    """How large the head of a request may be; what is larger is refused before it is whole.

    Attributes:
        line_bytes: the bound on one line without its end, default 8192 as other HTTP servers have it.
        fields: how many fields there may be, default 100 as in gunicorn.
        head_bytes: the bound on everything up to and including the empty line, default 32 KiB.
    """

    line_bytes: int = 8192
    fields: int = 100
    head_bytes: int = 32768


HEAD_LIMITS = HeadLimits()


class Response:
    """A plain HTTP answer: a page, a health check, a rejection. The connection ends with it.

    Everything is checked here, so that what can't be sent fails where it was written. Immutable in spirit; one
    response may be sent to many clients, from any thread.

    Args:
        status: 200 to 599.
        body: ``str`` is sent as UTF-8. There is none with 204 and 304.
        content_type: what the body is, default plain text.
        headers: more fields, a mapping or pairs. ``Connection``, ``Content-Length``, ``Content-Type`` and
            ``Transfer-Encoding`` are not among them.

    Attributes:
        status: the number.
        body: as bytes.
        headers: the fields that are sent besides ``Content-Length`` and ``Connection``, as pairs.

    Raises:
        ConfigError: a status out of range, a body that is neither ``str`` nor ``bytes`` or that the status forbids,
            a field name that is no token or not the application's to give, a value with CR, LF or another control
            character, or one beyond Latin-1.

    Source: RFC 9110 section 15.

    Example:
        >>> Response(404, "no such room").encode().splitlines()[0]
        b'HTTP/1.1 404 Not Found'
    """

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        status: int | HTTPStatus = HTTPStatus.OK,
        body: str | bytes = b"",
        *,
        content_type: str = TEXT,
        headers: FieldSource = (),
    ) -> None:
        """Check and keep what is to be sent."""
        if not isinstance(status, int) or not FIRST_STATUS <= status <= LAST_STATUS:
            raise ConfigError(f"status must be {FIRST_STATUS} to {LAST_STATUS}, not {status!r}")
        if not isinstance(body, (str, bytes)):
            raise ConfigError(f"body must be str or bytes, not {type(body).__name__}")
        self.status = int(status)
        self.body = body.encode() if isinstance(body, str) else body
        if self.body and self._is_bare():
            raise ConfigError(f"an answer of status {self.status} has no body")
        self.headers = require_fields(headers, reserved=OURS)
        if not self._is_bare():
            self.headers = (*require_fields([("Content-Type", content_type)]), *self.headers)

    def __repr__(self) -> str:
        """Show status and size, never the content."""
        return f"<Response {self.status}, {len(self.body)} bytes>"

    def encode(self, *, is_head: bool = False) -> bytes:
        """Give the bytes for the wire.

        Args:
            is_head: leave out the body, as the answer to a HEAD request must.
        """
        lines = [f"HTTP/1.1 {self.status} {phrase(self.status)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if not self._is_bare():
            lines.append(f"Content-Length: {len(self.body)}")
        asks_upgrade = any(name.lower() == "upgrade" for name, _ in self.headers)
        lines.append("Connection: close, Upgrade" if asks_upgrade else "Connection: close")  # RFC 9110 section 7.8
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        return head if is_head else head + self.body

    def _is_bare(self) -> bool:
        return self.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Refusal(HandshakeError):
    """The peer's request is refused, and this is the answer to it.

    Args:
        status: of the answer.
        text: why, for a person; it is the body, so it tells nothing that the peer may not know.
        headers: more fields of the answer.

    Attributes:
        status: the number.
        response: what is to be sent.
    """

    status: int

    def __init__(self, status: int | HTTPStatus, text: str, *, headers: FieldSource = ()) -> None:
        """Refuse with ``status`` because of ``text``."""
        super().__init__(status, text)
        self.status = int(status)
        self.response = Response(status, text, headers=headers)

    def __str__(self) -> str:
        """Give status and text in one line."""
        return f"{self.status} {phrase(self.status)}: {self.args[1]}"


class Request:
    r"""The request that opened a connection.

    It keeps the raw head, one ``bytes`` object, and parses on access: an idle connection pays for nothing else. Keep
    what you use often in a variable. Immutable, so it may be kept and read from any thread.

    Args:
        head: the head from its first line to the empty line, one that `parse_request` accepts.

    Source: RFC 9112 section 3.

    Example:
        >>> request = Request(b"GET /chat%20room?who=me HTTP/1.1\r\nHost: example.com\r\n\r\n")
        >>> request.path, request.query["who"], request.headers["host"]
        ('/chat room', 'me', 'example.com')
    """

    __slots__ = ("_head",)

    def __init__(self, head: bytes) -> None:
        """Keep ``head``."""
        self._head = head

    def __repr__(self) -> str:
        """Show method and path; the query may hold secrets."""
        return f"<Request {self.method} {self._origin_form().partition('?')[0]}>"

    @property
    def method(self) -> str:
        """``GET`` or ``HEAD``."""
        return self._first_line()[0]

    @property
    def target(self) -> str:
        """What was asked for, as it came: path and query, percent-encoded, or a whole URL."""
        return self._first_line()[1]

    @property
    def path(self) -> str:
        """The path without the query, percent-decoded as UTF-8 with U+FFFD for what is none.

        It may hold any character, ``..`` and line ends among them: check before you open files or write logs by it.
        """
        return unquote(self._origin_form().partition("?")[0])

    @property
    def query(self) -> Query:
        """The parameters behind the path, decoded."""
        text = self._origin_form().partition("?")[2]
        return Query(parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_PARAMETERS))

    @property
    def headers(self) -> Fields:
        """The fields."""
        lines = self._head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines[1:-2])
        return Fields((name, value.strip(" \t")) for name, _, value in pairs)

    @property
    def host(self) -> str:
        """Whom the client meant to reach, ``host`` or ``host:port``: of the target where that is a URL, else Host."""
        absolute = ABSOLUTE.fullmatch(self.target)
        return absolute[1] if absolute else self.headers.get("host", "")

    @property
    def wants_upgrade(self) -> bool:
        """Whether a WebSocket is asked for, rather than a page."""
        return any(token.lower() == "websocket" for token in tokens(self.headers.get_all("upgrade")))

    def _first_line(self) -> list[str]:
        return self._head[: self._head.index(b"\r\n")].decode("latin-1").split(" ")

    def _origin_form(self) -> str:
        target = self.target
        absolute = ABSOLUTE.fullmatch(target)
        if absolute is None:
            return target
        return absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]


def take_head(ring: RingBuffer, limits: HeadLimits = HEAD_LIMITS) -> bytes | None:
    """Take the head of a request or a response off the ring, up to and including its empty line.

    Whatever is too large or can't be a head is refused as soon as that is known. The work done is linear, however the
    bytes come: `RingBuffer.scanned` keeps where the line begins that hasn't ended.

    Args:
        ring: what has come; what follows the head stays in it.
        limits: how large a head may be.

    Returns:
        The head, or None while it isn't whole.

    Raises:
        Refusal: 414 the first line is too long; 431 a field is, or there are too many, or all of them together are too
            long; 400 a line doesn't end with CR and LF, or the first bytes are no HTTP.
    """
    size = min(len(ring), limits.head_bytes)
    start = ring.scanned
    if start == 0:
        _require_http(ring.peek(min(size, FIRST_BYTES_SEEN)))
    end = ring.find(b"\n", start, size)
    if end >= 0:
        seen = ring.peek(size)
        count = seen.count(b"\n", 0, start)
        while end >= 0:
            _require_line(seen, start, end, limits)
            if end - start == 1:
                return ring.read(end + 1)
            if count > limits.fields:
                raise Refusal(431, f"there are more than {limits.fields} header fields")
            count += 1
            start = end + 1
            end = seen.find(b"\n", start)
        ring.scanned = start
    rest = size - start
    if rest > limits.line_bytes and (rest > limits.line_bytes + 1 or ring.peek(size)[-1] != CARRIAGE_RETURN):
        raise _too_long(start, limits)
    if size == limits.head_bytes:
        raise Refusal(431, f"the head is longer than {limits.head_bytes} bytes")
    return None


def _require_http(start: bytes) -> None:
    """Refuse what speaks another protocol, TLS above all, before a line's end is waited for."""
    if start and FIRST_BYTES.match(start) is None:
        raise Refusal(400, "that is no HTTP")


def _require_line(seen: bytes, start: int, end: int, limits: HeadLimits) -> None:
    if end == start or seen[end - 1] != CARRIAGE_RETURN:
        raise Refusal(400, "a line ends without CR")
    if end - 1 - start > limits.line_bytes:
        raise _too_long(start, limits)


def _too_long(start: int, limits: HeadLimits) -> Refusal:
    if start == 0:
        return Refusal(414, f"the first line is longer than {limits.line_bytes} bytes")
    return Refusal(431, f"a header field is longer than {limits.line_bytes} bytes")


def split_head(head: bytes) -> tuple[str, Fields]:
    """Give the first line and the fields of a head, a request's or a response's.

    Raises:
        Refusal: 400, for anything but lines of visible ASCII that end with CR and LF, and fields with a token right
            before the colon that don't fold.
    """
    first = FIRST_LINE.match(head)
    if first is None or FIELD_LINES.fullmatch(head, first.end()) is None:
        raise Refusal(400, "a malformed line, or a character that has no place there")
    return head[: first.end() - 2].decode("latin-1"), Request(head).headers


def parse_request(head: bytes) -> Request:
    """Check the head of a request strictly, and give it as a `Request`.

    Everything that passes is read by h11 in the same way; much that h11 lets pass is refused.

    Args:
        head: what `take_head` gave.

    Raises:
        Refusal: 400 for a malformed head, for HTTP/1.0, for a target that is neither a path nor an http URL, for none,
            several or malformed Host fields, and for a body; 405 for methods other than GET and HEAD; 505 for HTTP/2
            and above.
    """
    first, fields = split_head(head)
    line = REQUEST_LINE.fullmatch(first)
    if line is None:
        raise Refusal(400, "a malformed request line")
    method, target, major, minor = line.groups()
    if int(major) > 1:
        raise Refusal(505, "this server speaks HTTP/1.1")
    if major + minor != "11":
        raise Refusal(400, "the request is not of HTTP/1.1")
    if method not in METHODS:
        raise Refusal(405, f"the method must be one of {', '.join(METHODS)}", headers={"Allow": ", ".join(METHODS)})
    _require_target(target)
    hosts = fields.get_all("host")
    if len(hosts) != 1 or AUTHORITY.fullmatch(hosts[0]) is None:
        raise Refusal(400, "there must be one Host, a name or an address and perhaps a port")
    if "transfer-encoding" in fields or fields.get_all("content-length") not in ([], ["0"]):
        raise Refusal(400, "a request with a body")
    return Request(head)


def _require_target(target: str) -> None:
    absolute = ABSOLUTE.fullmatch(target)
    if absolute is None and not target.startswith("/"):
        raise Refusal(400, "the target must be a path or an http URL")
    if absolute and AUTHORITY.fullmatch(absolute[1]) is None:
        raise Refusal(400, "the target's host is malformed")
    if target.count("&") >= MOST_PARAMETERS:
        raise Refusal(400, f"the query has more than {MOST_PARAMETERS} parameters")


def phrase(status: int) -> str:
    """Give the words of a status, or none where it has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
