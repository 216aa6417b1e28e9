r"""Compression of messages, permessage-deflate: how it is agreed on, and how it is done within bounds.

    text "Hello"                     f2 48 cd c9 c9 07 00 | 00 00 ff ff
    --- Codec.deflate --->           payload of the frame | cut off
    <-- Inflater.inflate ---         payload of the frames | put back, and a final block to see that it fits

There is never a context taken over from one message to the next, in neither direction: what a connection keeps while
it is idle is a pointer to a `Codec` that all connections of equal parameters share. `Deflate` agrees on that through
wsproto; what wsproto passes on it checks itself, since wsproto's own extension takes window sizes that don't exist for
an exception, and what it doesn't know for nothing. wsproto's inflater is never used: it has no bound.

Source: RFC 7692.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import NamedTuple

from wsproto.extensions import Extension

from gevpy.errors import ConfigError, FrameTooLarge, HandshakeError, ProtocolError
from gevpy.websocket.fields import is_token

__all__ = ["Codec", "Deflate", "DeflateParameters", "Inflater"]

NAME = "permessage-deflate"
LARGEST_WINDOW_BITS = 15
SMALLEST_WINDOW_BITS = 9  # of what we send: zlib can't deflate with 8, though RFC 7692 has it
LEVELS = range(10)
MEM_LEVELS = range(1, 10)
MOST_PIECES = 100  # offers and parameters of all kinds; browsers send two
BITS = re.compile(r"[89]|1[0-5]")

TAIL = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.1 cuts it off, 7.2.2 puts it back
FINAL_BLOCK = b"\x03\x00"  # empty; only if it was at a block's end does zlib say then that the stream is at its own
AFTER_FINAL = (b"", b"\x00")  # RFC 7692 section 7.2.3.5: what is left of an empty block behind a final one
SMALL_BYTES = 4096  # up to here a copy costs less than a second call
STEP_BYTES = 64 * 1024  # zlib copies what it didn't use of its input: that stays linear if it gets little at a time


class DeflateParameters(NamedTuple):
    """What was agreed on, seen from one end.

    Attributes:
        send_bits: the window of what this end deflates, as a power of two, 9 to 15.
        receive_bits: the window of what the peer deflates, 8 to 15.
    """

    send_bits: int
    receive_bits: int


class Codec:
    """Deflates and inflates whole messages; keeps nothing between them.

    Stateless, so all connections with equal parameters share one; any thread may use it.

    Args:
        parameters: what was agreed on.
        level: zlib's, 0 to 9.
        mem_level: zlib's, 1 to 9.

    Source: RFC 7692 section 7.2.
    """

    __slots__ = ("_level", "_mem_level", "parameters")

    def __init__(self, parameters: DeflateParameters, *, level: int, mem_level: int) -> None:
        """Keep the parameters."""
        self.parameters = parameters
        self._level = level
        self._mem_level = mem_level

    def __repr__(self) -> str:
        """Show what was agreed on."""
        return f"<Codec {self.parameters}>"

    def deflate(self, payload: bytes) -> bytes:
        """Give ``payload`` as the payload of one compressed message."""
        stream = zlib.compressobj(self._level, zlib.DEFLATED, -self.parameters.send_bits, self._mem_level)
        return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]

    def inflater(self) -> Inflater:
        """Give what inflates one message."""
        return Inflater(self.parameters.receive_bits)


class Inflater:
    """Inflates the frames of one message, and never gives more than it is allowed to.

    Args:
        window_bits: of the peer's window.
    """

    __slots__ = ("_given", "_is_fed", "_left_over", "_stream", "_window_bits")

    def __init__(self, window_bits: int) -> None:
        """Begin a message."""
        self._window_bits = window_bits
        self._stream = zlib.decompressobj(-window_bits)
        self._given = 0
        self._is_fed = False
        self._left_over = b""

    def inflate(self, data: bytes, limit: int, *, is_last: bool) -> bytes:
        """Give what the next frame's payload holds.

        Memory and time follow what comes in and what goes out, never what the peer claims.

        Args:
            data: the payload of the message's next frame, unmasked.
            limit: how many bytes the whole message may have, all frames so far included.
            is_last: whether the message ends with this frame.

        Raises:
            FrameTooLarge: the message has more than ``limit`` bytes; inflating stopped there.
            ProtocolError: that is no deflated data; or the message ends inside a block, or goes on behind a final one.
        """
        pieces: list[bytes] = []
        try:
            if is_last and 0 < len(data) <= SMALL_BYTES and not self._is_fed:
                whole = self._at_once(data, limit)
                if whole is not None:
                    return whole
            view = memoryview(data)
            for at in range(0, len(view), STEP_BYTES):
                self._take(view[at : at + STEP_BYTES], limit, pieces)
            self._is_fed = self._is_fed or len(view) > 0
            if is_last and self._is_fed:
                self._end(limit, pieces)
        except zlib.error as error:
            raise ProtocolError("a compressed message can't be inflated") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _at_once(self, data: bytes, limit: int) -> bytes | None:
        """Inflate a small message of one frame in one go; None for one that isn't as simple as that."""
        stream = self._stream
        most = min(STEP_BYTES, limit + 1)
        out = stream.decompress(data + TAIL, most)
        if len(out) < most and not stream.eof:
            self._require_end()
            return out
        self._stream = zlib.decompressobj(-self._window_bits)
        return None

    def _take(self, piece: memoryview, limit: int, pieces: list[bytes]) -> None:
        """Inflate a piece of what came, or see that it is nothing where the stream is at its end."""
        if self._stream.eof:
            self._leave_over(bytes(piece))
            return
        self._feed(piece, limit, pieces)
        if self._stream.eof:
            self._leave_over(self._stream.unused_data)

    def _feed(self, piece: memoryview | bytes, limit: int, pieces: list[bytes]) -> None:
        stream = self._stream
        if limit < self._given:  # zlib would take what is 0 then for no bound at all
            raise FrameTooLarge("inflated message too long", limit=limit, actual=self._given)
        while True:
            most = min(STEP_BYTES, limit + 1 - self._given)
            out = stream.decompress(piece, most)
            if out:
                self._given += len(out)
                if self._given > limit:
                    raise FrameTooLarge("inflated message too long", limit=limit, actual=self._given)
                pieces.append(out)
            if len(out) < most or stream.eof:  # else there may be more, even where all of the piece is used
                return
            piece = stream.unconsumed_tail

    def _leave_over(self, data: bytes) -> None:
        self._left_over += data
        if self._left_over not in AFTER_FINAL:
            raise ProtocolError("a compressed message goes on behind its final block")

    def _end(self, limit: int, pieces: list[bytes]) -> None:
        if not self._stream.eof:
            self._feed(TAIL, limit, pieces)
            self._require_end()

    def _require_end(self) -> None:
        stream = self._stream
        if stream.decompress(FINAL_BLOCK, 1) or not stream.eof or stream.unused_data:
            raise ProtocolError("a compressed message ends inside a block")


@lru_cache(maxsize=256)
def _shared_codec(parameters: DeflateParameters, level: int, mem_level: int) -> Codec:
    return Codec(parameters, level=level, mem_level=mem_level)


class Deflate(Extension):
    """The negotiation of permessage-deflate for one handshake, strictly by RFC 7692 section 7.1.

    Of a client's offers the first good one is accepted; one with a parameter that is unknown, double, or has a value
    that it shouldn't have is declined. One for the opening handshake of one connection; not to be used again.

    Args:
        window_bits: the window of what this end sends, 9 to 15, and, at a server, of what the client sends where that
            says that it can be told; default 12, 4 KiB: with more a message costs more memory while it is deflated.
        mem_level: zlib's, 1 to 9, default 5: 16 KiB for hashes while a message is deflated.
        level: zlib's, 0 to 9, default 6 as zlib's own.

    Raises:
        ConfigError: one of them is out of range.
    """

    name = NAME

    def __init__(self, *, window_bits: int = 12, mem_level: int = 5, level: int = 6) -> None:
        """Be ready to offer or to accept."""
        if not SMALLEST_WINDOW_BITS <= window_bits <= LARGEST_WINDOW_BITS:
            raise ConfigError(f"window_bits must be {SMALLEST_WINDOW_BITS} to {LARGEST_WINDOW_BITS}, not {window_bits}")
        if mem_level not in MEM_LEVELS:
            raise ConfigError(f"mem_level must be 1 to 9, not {mem_level}")
        if level not in LEVELS:
            raise ConfigError(f"level must be 0 to 9, not {level}")
        self._window_bits = window_bits
        self._mem_level = mem_level
        self._level = level
        self._server_bits = 0  # 0 until agreed on
        self._client_bits = 0

    def enabled(self) -> bool:
        """Tell whether both ends have agreed."""
        return self._server_bits > 0

    def codec(self, *, is_client: bool) -> Codec | None:
        """Give the codec of what was agreed on, or None where the peer didn't want compression."""
        if not self.enabled():
            return None
        ours, theirs = self._server_bits, self._client_bits
        if is_client:
            ours, theirs = theirs, ours
        return _shared_codec(DeflateParameters(ours, theirs), self._level, self._mem_level)

    # -- at the server ---------------------------------------------------------------------------------

    def accept(self, offer: str) -> str | None:
        """Answer one offer of the client's with what is agreed on, or None to decline it."""
        asked = None if self.enabled() else _parameters(offer)
        if asked is None or asked.get("server_max_window_bits") == "":
            return None
        server_bits = min(self._window_bits, int(asked.get("server_max_window_bits", LARGEST_WINDOW_BITS)))
        if server_bits < SMALLEST_WINDOW_BITS:
            return None
        client_bits = LARGEST_WINDOW_BITS
        answer = ["server_no_context_takeover", "client_no_context_takeover"]
        if "server_max_window_bits" in asked:
            answer.append(f"server_max_window_bits={server_bits}")
        if "client_max_window_bits" in asked:
            client_bits = min(self._window_bits, int(asked["client_max_window_bits"] or LARGEST_WINDOW_BITS))
            answer.append(f"client_max_window_bits={client_bits}")
        self._server_bits = server_bits
        self._client_bits = client_bits
        return "; ".join(answer)

    # -- at the client ---------------------------------------------------------------------------------

    def offer(self) -> str:
        """Give the parameters of the one offer."""
        return "server_no_context_takeover; client_no_context_takeover; client_max_window_bits"

    def finalize(self, offer: str) -> None:
        """Take the server's answer.

        Raises:
            HandshakeError: it answers what was not offered, or not as it must, or twice.
        """
        agreed = None if self.enabled() else _parameters(offer)
        if agreed is None or "" in (agreed.get("server_max_window_bits"), agreed.get("client_max_window_bits")):
            raise HandshakeError("the server answered the offer of compression with parameters that make no sense")
        if "server_no_context_takeover" not in agreed:
            raise HandshakeError("the server would compress with context takeover, which was not offered")
        client_bits = min(self._window_bits, int(agreed.get("client_max_window_bits", LARGEST_WINDOW_BITS)))
        if client_bits < SMALLEST_WINDOW_BITS:
            raise HandshakeError("the server asked for a window that zlib can't deflate with")
        self._client_bits = client_bits
        self._server_bits = int(agreed.get("server_max_window_bits", LARGEST_WINDOW_BITS))


def _parameters(offer: str) -> dict[str, str] | None:
    """Give the parameters of an offer or an answer with their values, "" for none; None if any of them is wrong."""
    parameters: dict[str, str] = {}
    for piece in offer.split(";")[1:]:
        name, equals, value = piece.strip(" \t").partition("=")
        if name in parameters or not _is_parameter(name, value if equals else None):
            return None
        parameters[name] = value
    return parameters


def _is_parameter(name: str, value: str | None) -> bool:
    if name in ("server_no_context_takeover", "client_no_context_takeover"):
        return value is None
    if name in ("server_max_window_bits", "client_max_window_bits"):
        return value is None or BITS.fullmatch(value) is not None
    return False


def require_offers(values: list[str]) -> list[str]:
    """Give the offers, or answers, of ``Sec-WebSocket-Extensions`` fields, one by one and without quotes.

    What is between quotes must be a token (RFC 6455 section 9.1), so without the quotes nothing else is told, and
    commas and semicolons can't hide in them.

    Raises:
        ValueError: they break the grammar, or are more than anybody offers.
    """
    if sum(value.count(",") + value.count(";") for value in values) > MOST_PIECES:
        raise ValueError("malformed, or far too many extensions")
    offers = [offer for value in values for piece in value.split(",") if (offer := piece.strip(" \t"))]
    return [_require_offer(offer) for offer in offers]


def _require_offer(offer: str) -> str:
    name, *pieces = (piece.strip(" \t") for piece in offer.split(";"))
    parameters = []
    for piece in pieces:
        key, equals, value = piece.partition("=")
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if not is_token(key) or (equals and not is_token(value)):
            raise ValueError("malformed parameters of an extension")
        parameters.append(f"{key}={value}" if equals else key)
    if not is_token(name):
        raise ValueError("a malformed name of an extension")
    return "; ".join([name, *parameters])
