"""A message that comes in more than one frame, or compressed: put together, held to its limits, its text checked.

The payload grows in one buffer, so that a fragment costs no object; the number of fragments is limited by the size that
a message may have, and of empty ones there may be few. Text is checked as it comes, so that what can't become UTF-8 is
known at its first bad byte. Source: RFC 6455 sections 5.4 and 8.1.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from gevpy.errors import FrameTooLarge
from gevpy.websocket.codes import InvalidText, PolicyViolation
from gevpy.websocket.frames import Opcode

if TYPE_CHECKING:
    from gevpy.websocket.deflate import Codec

__all__ = ["Assembly", "TextCheck"]

LEAST_FRAGMENTS = 1024
BYTES_PER_FRAGMENT = 64  # so many fragments may make a message of the largest size
MAX_EMPTY = 1024
SURROGATES = 0xED  # begins characters of which no text has those
FIRST_SURROGATE = 0xA0  # whose second byte is this or more

_DECODER = codecs.getincrementaldecoder("utf-8")


class TextCheck:
    """Checks text that comes in pieces.

    Attributes:
        seen: the bytes of the frame that comes just now which were checked already.
    """

    __slots__ = ("_decoder", "seen")

    def __init__(self) -> None:
        """Begin with nothing."""
        self._decoder = _DECODER()
        self.seen = 0

    def add(self, data: bytes, *, is_last: bool = False) -> None:
        """Look at the next piece.

        Raises:
            InvalidText: it can't be part of any UTF-8 text, or is the last and ends inside a character.
        """
        try:
            self._decoder.decode(data, is_last)
        except UnicodeDecodeError as error:
            raise InvalidText("text is not UTF-8", offset=error.start) from error
        pending = self._decoder.getstate()[0]
        if len(pending) == 2 and pending[0] == SURROGATES and pending[1] >= FIRST_SURROGATE:  # noqa: PLR2004
            raise InvalidText("text has half a surrogate pair")  # the decoder waits for its last byte


class Assembly:
    """What has come of one message.

    Attributes:
        opcode: what it is.
        check: what checks it, if it is text.

    Args:
        opcode: of its first frame.
        limit: the bytes it may have, uncompressed.
        codec: what inflates it, or None if it came as it is.
    """

    __slots__ = ("_empty", "_fragments", "_inflater", "_limit", "_payload", "check", "opcode")

    def __init__(self, opcode: Opcode, limit: int, codec: Codec | None) -> None:
        """Begin with nothing."""
        self.opcode = opcode
        self.check = TextCheck() if opcode is Opcode.TEXT else None
        self._limit = limit
        self._payload = bytearray()
        self._fragments = 0
        self._empty = 0
        self._inflater = None if codec is None else codec.inflater()

    @property
    def is_compressed(self) -> bool:
        """Whether frames hold something else than parts of the message."""
        return self._inflater is not None

    def room(self) -> int:
        """Give the bytes that may still come; of a compressed message, those its next frame may have."""
        if self._inflater is None:
            return self._limit - len(self._payload)
        return self._limit + (self._limit >> 8) + 64  # what can't be compressed becomes a little longer

    def add(self, payload: bytes, *, is_last: bool) -> int:
        """Add a frame's payload; give the bytes that were inflated.

        Raises:
            FrameTooLarge: the message is longer than its limit.
            PolicyViolation: it is cut into more fragments than could be needed.
            InvalidText: it is text, and not UTF-8.
            ProtocolError: it can't be inflated.
        """
        self._count(payload)
        inflated = 0
        if self._inflater is not None:
            payload = self._inflater.inflate(payload, self._limit, is_last=is_last)
            inflated = len(payload)
        elif len(payload) > self._limit - len(self._payload):
            raise FrameTooLarge("message", limit=self._limit, actual=len(self._payload) + len(payload))
        self._payload += payload
        if self.check is not None:
            self.check.add(payload[self.check.seen :], is_last=is_last)
            self.check.seen = 0
        return inflated

    def whole(self) -> tuple[Opcode, str | bytes]:
        """Give the message, all of which was added."""
        return self.opcode, self._payload.decode() if self.check is not None else bytes(self._payload)

    def _count(self, payload: bytes) -> None:
        self._fragments += 1
        self._empty += not payload
        most = max(LEAST_FRAGMENTS, self._limit // BYTES_PER_FRAGMENT)
        if self._fragments > most:
            raise PolicyViolation("fragments of one message", limit=most, actual=self._fragments)
        if self._empty > MAX_EMPTY:
            raise PolicyViolation("empty fragments of one message", limit=MAX_EMPTY, actual=self._empty)
