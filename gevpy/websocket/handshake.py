"""The opening handshake of RFC 6455, both ends of it: bytes in, bytes out, by wsproto.

wsproto reads leniently in places: of two equal fields it takes the last, it decodes the Host as IDNA, it splits
extensions without a look at quotes. So everything is checked here first, and wsproto gets a head that is made anew of
the fields that concern it, each at most once. Nothing of wsproto's or h11's is raised: what the peer got wrong is a
`Refusal` or a `HandshakeError`, and what the application got wrong a `ConfigError`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import h11
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection
from wsproto.events import Request as Opening
from wsproto.handshake import H11Handshake
from wsproto.utilities import ProtocolError as ForeignError

from gevpy.errors import ConfigError, HandshakeError
from gevpy.websocket.deflate import require_offers
from gevpy.websocket.fields import is_token, require_fields, tokens
from gevpy.websocket.http import AUTHORITY, Refusal, phrase, split_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gevpy.websocket.deflate import Codec, Deflate
    from gevpy.websocket.fields import Fields, FieldSource
    from gevpy.websocket.http import Request

__all__ = ["Accepted", "ClientHandshake", "HandshakeRefused", "accept"]

VERSION = "13"
KEY = re.compile(r"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64
TARGET = re.compile(r"/[\x21\x22\x24-\x7e]*+")
STATUS_LINE = re.compile(r"HTTP/1\.1 ([1-9][0-9][0-9])(?: .*+)?", re.DOTALL)
UPGRADE = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION))
FOREIGN_ERRORS = (ForeignError, h11.ProtocolError, ValueError)
OURS = (
    "connection",
    "content-length",
    "host",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "transfer-encoding",
    "upgrade",
)


class Accepted(NamedTuple):
    """What an opening handshake came to.

    Attributes:
        response: the bytes to send to the client; empty at the client.
        subprotocol: the one agreed on, or None.
        codec: what compresses the messages, or None.
    """

    response: bytes
    subprotocol: str | None
    codec: Codec | None


class HandshakeRefused(HandshakeError):
    """The server answered the opening handshake with something else than a WebSocket.

    Attributes:
        status: of the answer, such as 401, 404 or 503.
        headers: its fields.
    """

    status: int

    def __init__(self, status: int, headers: Fields) -> None:
        """Keep the answer."""
        super().__init__(status, headers)
        self.status = status
        self.headers = headers

    def __str__(self) -> str:
        """Give the status in words."""
        return f"the server answered {self.status} {phrase(self.status)}".rstrip()


# -- the server --------------------------------------------------------------------------------------------------


def accept(
    request: Request,
    *,
    subprotocols: Sequence[str] = (),
    deflate: Callable[[], Deflate] | None = None,
    headers: FieldSource = (),
) -> Accepted:
    """Accept the opening handshake that ``request`` begins.

    Args:
        request: what `parse_request` gave.
        subprotocols: what this server speaks, the best first: of these the first is agreed on that the client offers.
            If it offers none of them the connection has none.
        deflate: makes the negotiation of compression; None declines it.
        headers: more fields of the answer.

    Returns:
        What was agreed on, and the answer to send. What follows it, both ways, is frames.

    Raises:
        Refusal: 405 the method is not GET; 426 no WebSocket is asked for, or of another version than 13; 400 a field
            of the handshake is missing, malformed, or there twice.
        ConfigError: ``subprotocols`` or ``headers`` hold what can't be sent.

    Source: RFC 6455 section 4.2.
    """
    extra = require_fields(headers, reserved=OURS)
    ours = require_subprotocols(subprotocols)
    fields = request.headers
    if request.method != "GET":
        raise Refusal(405, "a WebSocket is opened by GET", headers={"Allow": "GET"})
    _require_upgrade(fields)
    key = _one(fields, "Sec-WebSocket-Key")
    if KEY.fullmatch(key) is None:
        raise Refusal(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    offered = tokens(fields.get_all("sec-websocket-protocol"))
    if not all(map(is_token, offered)):
        raise Refusal(400, "malformed Sec-WebSocket-Protocol")
    try:
        offers = require_offers(fields.get_all("sec-websocket-extensions"))
    except ValueError as error:
        raise Refusal(400, "malformed Sec-WebSocket-Extensions") from error
    subprotocol = next((one for one in ours if one in offered), None)
    extension = deflate() if deflate else None
    try:
        response = _answer(key, subprotocol, offers, extension, extra)
    except FOREIGN_ERRORS as error:
        raise Refusal(400, "no opening handshake of a WebSocket") from error
    return Accepted(response, subprotocol, extension.codec(is_client=False) if extension else None)


def _answer(
    key: str,
    subprotocol: str | None,
    offers: Sequence[str],
    extension: Deflate | None,
    extra: Iterable[tuple[str, str]],
) -> bytes:
    wire = H11Handshake(ConnectionType.SERVER)
    wire.receive_data(
        _head(
            "GET / HTTP/1.1",
            ("Host", "localhost"),
            ("Connection", "Upgrade"),
            *UPGRADE,
            ("Sec-WebSocket-Key", key),
            ("Sec-WebSocket-Protocol", subprotocol),
            ("Sec-WebSocket-Extensions", ", ".join(offers) or None),
        )
    )
    return wire.send(
        AcceptConnection(
            subprotocol=subprotocol,
            extensions=[extension] if extension else [],
            extra_headers=_encoded(extra),
        )
    )


def _require_upgrade(fields: Fields) -> None:
    asked = [token.lower() for token in tokens(fields.get_all("upgrade"))]
    if "websocket" not in asked:
        raise Refusal(426, "this is a WebSocket", headers=UPGRADE)
    if len(asked) > 1 or "upgrade" not in (token.lower() for token in tokens(fields.get_all("connection"))):
        raise Refusal(400, "the upgrade must be to a WebSocket only, and in Connection, too")
    if _one(fields, "Sec-WebSocket-Version") != VERSION:
        raise Refusal(426, f"only version {VERSION} of WebSocket is known here", headers=UPGRADE)


def _one(fields: Fields, name: str) -> str:
    values = fields.get_all(name)
    if len(values) != 1:
        raise Refusal(400, f"there must be one {name}")
    return values[0]


# -- the client --------------------------------------------------------------------------------------------------


class ClientHandshake:
    """The client's end of one opening handshake: send `request`, feed the head of the answer to `receive`.

    Args:
        host: what to ask for, ``host`` or ``host:port``; a name may be international.
        target: path and query, percent-encoded.
        headers: more fields, such as ``Authorization`` or ``Origin``.
        subprotocols: what this client speaks, the best first.
        deflate: the negotiation of compression; None offers none.

    Attributes:
        request: the bytes to send.

    Raises:
        ConfigError: something of that can't be sent, be it for a CR or LF in it.

    Source: RFC 6455 section 4.1.

    Example:
        >>> handshake = ClientHandshake("example.com", "/chat", subprotocols=["chat.v2"])
        >>> handshake.request.splitlines()[0]
        b'GET /chat HTTP/1.1'
    """

    __slots__ = ("_deflate", "_wire", "request")

    def __init__(
        self,
        host: str,
        target: str,
        *,
        headers: FieldSource = (),
        subprotocols: Sequence[str] = (),
        deflate: Deflate | None = None,
    ) -> None:
        """Make the request."""
        if TARGET.fullmatch(target) is None:
            raise ConfigError(f"a target must be a path of visible ASCII and may have a query, not {target!r}")
        opening = Opening(
            host=_require_host(host),
            target=target,
            subprotocols=require_subprotocols(subprotocols),
            extensions=[deflate] if deflate else [],
            extra_headers=_encoded(require_fields(headers, reserved=OURS)),
        )
        self._deflate = deflate
        self._wire = H11Handshake(ConnectionType.CLIENT)
        try:
            self.request = self._wire.send(opening)
        except FOREIGN_ERRORS as error:
            raise ConfigError(f"no opening handshake can be made of that: {error}") from error

    def receive(self, head: bytes) -> Accepted:
        """Take the head of the server's answer, and give what was agreed on. What follows are frames.

        Args:
            head: from the status line to the empty line, as `take_head` gives it. It is taken once.

        Raises:
            HandshakeRefused: the server answered with another status than 101.
            HandshakeError: the answer is malformed, or agrees to what was not offered.
        """
        try:
            first, fields = split_head(head)
        except Refusal as error:
            raise HandshakeError(f"the server's answer is malformed: {error.args[1]}") from error
        status = STATUS_LINE.fullmatch(first)
        if status is None:
            raise HandshakeError("the server's answer is not of HTTP/1.1")
        if status[1] != "101":
            raise HandshakeRefused(int(status[1]), fields)
        if any(len(fields.get_all(name)) > 1 for name in ("sec-websocket-accept", "sec-websocket-protocol")):
            raise HandshakeError("the server answered the same thing twice")
        try:
            event = self._agree(fields)
        except FOREIGN_ERRORS as error:
            raise HandshakeError(f"the server's answer is wrong: {error}") from error
        return Accepted(b"", event.subprotocol, self._deflate.codec(is_client=True) if self._deflate else None)

    def _agree(self, fields: Fields) -> AcceptConnection:
        extensions = ", ".join(require_offers(fields.get_all("sec-websocket-extensions")))
        self._wire.receive_data(
            _head(
                "HTTP/1.1 101 Switching Protocols",
                ("Upgrade", ", ".join(tokens(fields.get_all("upgrade")))),
                ("Connection", ", ".join(tokens(fields.get_all("connection")))),
                ("Sec-WebSocket-Accept", fields.get("sec-websocket-accept")),
                ("Sec-WebSocket-Protocol", fields.get("sec-websocket-protocol")),
                ("Sec-WebSocket-Extensions", extensions or None),
            )
        )
        event = next(self._wire.events(), None)
        if not isinstance(event, AcceptConnection):
            raise HandshakeError("the server has answered already")
        return event


def _require_host(host: str) -> str:
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ConfigError(f"{host!r} is no host: {error}") from error
    if AUTHORITY.fullmatch(name) is None:
        raise ConfigError(f"a host must be a name or an address, and perhaps a port, not {host!r}")
    return name


# -- both --------------------------------------------------------------------------------------------------------


def require_subprotocols(subprotocols: Sequence[str]) -> list[str]:
    """Give the names of subprotocols, checked. Raises `ConfigError`."""
    if isinstance(subprotocols, str):
        raise ConfigError(f"subprotocols must be a list, such as [{subprotocols!r}]")
    for one in subprotocols:
        if not isinstance(one, str) or not is_token(one):
            raise ConfigError(f"{one!r} is no name of a subprotocol")
    if len(set(subprotocols)) < len(subprotocols):
        raise ConfigError("a subprotocol is named twice")
    return list(subprotocols)


def _encoded(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in fields]


def _head(first: str, *fields: tuple[str, str | None]) -> bytes:
    """Make a head of the fields that there are."""
    lines = [first, *(f"{name}: {value}" for name, value in fields if value is not None), "", ""]
    return "\r\n".join(lines).encode("ascii")
