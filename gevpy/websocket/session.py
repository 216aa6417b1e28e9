"""One WebSocket session: what came before, what may come next, and how it ends.

    OPENING ──accepted──▶ OPEN ──close sent──▶ CLOSE_SENT ──close received──▶ CLOSED
       └──refused──▶ CLOSED └──close received──▶ CLOSE_RECEIVED ──close sent──▶ CLOSED

No IO and no clock: frames are taken out of a ring, messages and control frames are given back, and ticks come in as
arguments. Which side we play decides whether frames must be masked. Source: RFC 6455 sections 5 and 7.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

try:
    import cython
except ImportError:
    from gevpy import _cython_shim as cython

from gevpy.errors import FrameTooLarge, ProtocolError
from gevpy.ticks import TURNS_PER_S
from gevpy.websocket.assembly import Assembly, TextCheck
from gevpy.websocket.codes import NO_CODE, InvalidText, PolicyViolation, is_close_code
from gevpy.websocket.frames import (
    CONTROL,
    FIN,
    KEY_BYTES,
    LONG,
    MASKED,
    MAX_CONTROL_BYTES,
    MAX_SHORT,
    OPCODE,
    RSV,
    RSV1,
    SHORT,
    Opcode,
    peek_payload,
    take_payload,
    take_short,
    take_text,
    turned,
)

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer
    from gevpy.websocket.deflate import Codec

__all__ = ["Event", "Session", "State"]

BURST_S = 2  # a burst of control frames may be as many as come in this time

SHORT_HEADER = 4  # bytes of a frame's header, before the key
LONG_HEADER = 10
SHORTEST_MASKED = 6
ONES = [int.from_bytes(b"\1\0\0\0" * words, "little") for words in range(33)]  # a key times this is as many keys
LONGEST = 0x7FFF_FFFF_FFFF_FFFF

WORK_PER_TURN = 1024  # takes a few milliseconds: then other connections get their turn

FIN_TEXT = FIN | 1
FIN_BINARY = FIN | 2
TEXT = Opcode.TEXT
BINARY = Opcode.BINARY
OPCODES = {opcode.value: opcode for opcode in Opcode}


class State(enum.IntEnum):
    """Where a session is."""

    OPENING = 0
    OPEN = 1
    CLOSE_SENT = 2
    CLOSE_RECEIVED = 3
    CLOSED = 4


class Event(enum.Enum):
    """What moves it on."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    CLOSE_SENT = "close sent"
    CLOSE_RECEIVED = "close received"


TRANSITIONS = {
    (State.OPENING, Event.ACCEPTED): State.OPEN,
    (State.OPENING, Event.REFUSED): State.CLOSED,
    (State.OPEN, Event.CLOSE_SENT): State.CLOSE_SENT,
    (State.OPEN, Event.CLOSE_RECEIVED): State.CLOSE_RECEIVED,
    (State.CLOSE_SENT, Event.CLOSE_RECEIVED): State.CLOSED,
    (State.CLOSE_RECEIVED, Event.CLOSE_SENT): State.CLOSED,
}

OPEN = int(State.OPEN)  # as a plain number, for the path of every message


class Session:
    """What is known of one connection's WebSocket.

    Attributes:
        state: a `State`, as a number.
        is_client: whether we are the client: our frames are masked, the peer's are not.
        request: the opening request; None as long as it has not come.
        subprotocol: the one agreed on, or None.
        codec: what messages are compressed with, or None.
        opening: the client's handshake, as long as it lasts.
        handler: the application that its path leads to, or None for the server's own.
        is_control: whether what `receive` gave last is a control frame.
        close_code, close_text: of the peer's close frame; the code is None as long as none came.
        work: what was done beyond whole plain messages since somebody set it to 0: 1 for each frame, and for each KiB
            inflated. At `WORK_PER_TURN`, `receive` gives None though more may be there.
        words: the code and text that our own close is to have, if somebody chose them.
        ping_tick, pong_tick: when the next ping, and the answer to the last, are due; -1 for neither.
        owed: the payload of a ping whose pong waits until output has left, or None.
        owed_tick: when that pong goes ahead of what still waits.
        pings: by payload, when a ping was sent and who waits for its pong.

    Args:
        is_client: see above.
        max_message_bytes: the bound on one message, inflated.
    """

    __slots__ = (
        "_assembly",
        "_check",
        "_control_tick",
        "_controls",
        "_first",
        "_header",
        "_key",
        "_limit",
        "_size",
        "close_code",
        "close_text",
        "codec",
        "handler",
        "inflated",
        "inflated_tick",
        "is_client",
        "is_control",
        "opening",
        "owed",
        "owed_tick",
        "ping_tick",
        "pings",
        "pong_tick",
        "request",
        "state",
        "subprotocol",
        "words",
        "work",
    )

    def __init__(self, is_client: bool, max_message_bytes: int) -> None:  # noqa: FBT001 - one of two sides
        """Begin with the opening handshake."""
        self.is_client = is_client
        self.state = int(State.OPENING)
        self.request: Any = None
        self.subprotocol: str | None = None
        self.codec: Codec | None = None
        self.handler: Any = None
        self.opening: Any = None
        self.is_control = False
        self.close_code: int | None = None
        self.close_text = ""
        self.words: tuple[int, str] | None = None
        self.pings: dict[bytes, Any] | None = None
        self.ping_tick = -1
        self.pong_tick = -1
        self.owed: bytes | None = None
        self.owed_tick = 0
        self.work = 0
        self.inflated = 0
        self.inflated_tick = 0
        self._limit = max_message_bytes
        self._assembly: Assembly | None = None
        self._check: TextCheck | None = None  # of an unfragmented text whose frame has come in part
        self._first = self._header = self._size = self._key = 0  # of the frame that begins the ring
        self._controls = 0
        self._control_tick = 0

    def step(self, event: Event) -> None:
        """Move on.

        Raises:
            KeyError: such an event can't come in this state: a fault of ours.
        """
        self.state = int(TRANSITIONS[State(self.state), event])

    # -- receiving ---------------------------------------------------------------------------------

    def receive(self, ring: RingBuffer) -> Any:
        """Take the next frame out of ``ring``; give what it completes.

        Returns:
            None if no whole message or control frame is there yet; else opcode and data, ``str`` for text and ``bytes``
            for all else. `is_control` tells which of the two it is.

        Raises:
            ProtocolError: a frame that can't be, or can't be now.
            FrameTooLarge: a frame or message longer than the limit.
            InvalidText: text that is not UTF-8.
            PolicyViolation: too many fragments.
        """
        self.is_control = False
        while self._parse(ring):
            if self._first == FIN_BINARY and self.state == OPEN:
                return BINARY, take_payload(ring, self._header, self._size, self._key)
            if self._first == FIN_TEXT and self.state == OPEN:
                return TEXT, self._take_text(ring, self._header, self._size, self._key)
            message = self._take_other(self._first, take_payload(ring, self._header, self._size, self._key))
            if message is not None or (self.work >= WORK_PER_TURN and self.state == OPEN):
                return message
        return None

    def _parse(self, ring: RingBuffer) -> bool:
        """Read the header of the frame that ``ring`` begins with; tell whether the frame is all there."""
        have = ring._length
        if have < 2:  # noqa: PLR2004 - the two bytes that every frame has
            return False
        first = ring._byte(0)
        second = ring._byte(1)
        size = second & 0x7F
        if (first != FIN_BINARY and first != FIN_TEXT) or self._assembly is not None or self.state != OPEN:  # noqa: PLR1714 - hot
            self._check_beginning(first, size)
        if ((second & MASKED) == 0) != self.is_client:
            raise ProtocolError("masked frame from a server" if self.is_client else "unmasked frame", offset=1)
        header = 2
        if size >= SHORT:
            header = SHORT_HEADER if size == SHORT else LONG_HEADER
            size = self._long_size(ring, size)
            if size < 0:
                return False
        if size > self._limit or self._assembly is not None:
            self._check_size(first, size)
        self._key = 0
        if not self.is_client:
            if have < header + KEY_BYTES:
                return False
            self._key = ring._uint(header, KEY_BYTES, True)  # noqa: FBT003 - its first byte is the least
            header += KEY_BYTES
        self._first = first
        self._header = header
        self._size = size
        if have < header + size:
            self._wait(ring)
            return False
        return True

    def receive_short(self, ring: RingBuffer) -> Any:
        """Take the most common of frames, if that is next and lies in one piece: short, whole, masked, plain.

        Returns:
            Its data alone, which by its type tells the opcode; None if another frame, or no whole one, is next.

        Raises:
            InvalidText: text that is not UTF-8.
        """
        at = ring._head
        have = ring._capacity - at
        if ring._length < have:  # noqa: PLR1730 - `min` is a call, and without a compiler calls are what costs
            have = ring._length
        if have < SHORTEST_MASKED or self.is_client or self.state != OPEN or self._assembly is not None:
            return None
        storage = ring._data if cython.compiled else ring._storage
        first = storage[at]
        size = storage[at + 1] - MASKED
        if first != FIN_BINARY and first != FIN_TEXT:  # noqa: PLR1714 - twice as fast
            return None
        if not 0 <= size < SHORT or have < SHORTEST_MASKED + size or size > self._limit:
            return None
        if cython.compiled:
            return take_short(ring, size) if first == FIN_BINARY else self._take_short_text(ring, size)
        body = at + SHORTEST_MASKED
        words = (size + 3) >> 2
        pattern = int.from_bytes(storage[at + 2 : body], "little") * ONES[words]
        masked = int.from_bytes(storage[body : body + 4 * words], "little") ^ pattern  # with what follows the frame
        payload = masked.to_bytes(4 * words, "little")[:size]
        if first == FIN_BINARY:
            ring._consume(SHORTEST_MASKED + size)
            return payload
        self._check = None
        try:
            text = payload.decode()
        except UnicodeDecodeError as error:
            raise InvalidText("text is not UTF-8", offset=SHORTEST_MASKED + error.start) from error
        ring._consume(SHORTEST_MASKED + size)
        return text

    def _check_beginning(self, first: int, size: int) -> None:
        """Check a frame's first byte, as soon as it is there."""
        opcode = first & OPCODE
        if opcode not in OPCODES:
            raise ProtocolError(f"reserved opcode {opcode}", offset=0)
        if first & RSV and (first & RSV != RSV1 or self.codec is None or opcode not in (TEXT, BINARY)):
            raise ProtocolError("reserved bits are set", offset=0)
        if opcode & CONTROL:
            if not first & FIN:
                raise ProtocolError("a control frame in fragments", offset=0)
            if size > MAX_CONTROL_BYTES:
                raise ProtocolError("a control frame too long", limit=MAX_CONTROL_BYTES, actual=size, offset=1)
        elif self.state != OPEN:
            return  # nobody listens any more
        elif opcode == Opcode.CONTINUATION and self._assembly is None:
            raise ProtocolError("a continuation of nothing", offset=0)
        elif opcode != Opcode.CONTINUATION and self._assembly is not None:
            raise ProtocolError("a message inside another one's fragments", offset=0)

    def _long_size(self, ring: RingBuffer, marker: int) -> int:
        """Give an extended length, or -1 if it isn't there yet. Source: RFC 6455 section 5.2: in its shortest form."""
        if ring._length < (SHORT_HEADER if marker == SHORT else LONG_HEADER):
            return -1
        size = ring._uint(2, 2 if marker == SHORT else 8, False)  # noqa: FBT003 - network order
        if size > LONGEST:
            raise ProtocolError("a length with its top bit set", offset=2)
        if size < SHORT or (marker == LONG and size <= MAX_SHORT):
            raise ProtocolError("a length not written in the shortest way", actual=size, offset=2)
        return size

    def _check_size(self, first: int, size: int) -> None:
        """Check a length before any of it is waited for."""
        if first & CONTROL:
            return
        room = self._limit if self._assembly is None or self.state != OPEN else self._assembly.room()
        if first & RSV1:
            room += (room >> 8) + 64  # what can't be compressed becomes a little longer
        if size > room:
            so_far = self._limit - room
            raise FrameTooLarge("declared message length", limit=self._limit, actual=sum((size, so_far)))

    def _wait(self, ring: RingBuffer) -> None:
        """Ask for room for the rest of a frame, and look at what is there of a text's."""
        first = self._first
        ring.reserve(self._header + self._size)
        if self.state != OPEN or first & CONTROL or first & RSV1:
            return
        if self._assembly is not None:
            if self._assembly.check is not None and not self._assembly.is_compressed:
                self._look(self._assembly.check, ring)
        elif first & OPCODE == TEXT:
            if self._check is None:
                self._check = TextCheck()
            self._look(self._check, ring)

    def _look(self, check: TextCheck, ring: RingBuffer) -> None:
        """Check the text that has come since the last look. Source: RFC 6455 section 8.1: fail as soon as known."""
        new = ring._length - self._header - check.seen
        if new > 0:
            check.add(peek_payload(ring, self._header + check.seen, new, turned(self._key, check.seen)))
            check.seen += new

    def _take_short_text(self, ring: RingBuffer, size: int) -> str:
        return self._take_text(ring, SHORTEST_MASKED, size, ring._uint(2, KEY_BYTES, True))  # noqa: FBT003 - as above

    def _take_text(self, ring: RingBuffer, header: int, size: int, key: int) -> str:
        self._check = None  # what it saw is looked at once more, all in one
        try:
            return take_text(ring, header, size, key)
        except UnicodeDecodeError as error:
            raise InvalidText("text is not UTF-8", offset=header + error.start) from error

    def _take_other(self, first: int, payload: bytes) -> Any:
        """Take a frame that is no whole plain message in an open session; give what it completes, or None."""
        opcode = OPCODES[first & OPCODE]
        if first & CONTROL:
            if opcode is Opcode.CLOSE:
                self._take_close(payload)
            self.is_control = True
            return opcode, payload
        self.work += 1
        if self.state != OPEN:
            return None  # we have said that we close: nobody listens any more
        if self._assembly is None:
            self._assembly = Assembly(opcode, self._limit, self.codec if first & RSV1 else None)
            if self._check is not None:
                self._assembly.check = self._check
                self._check = None
        assembly = self._assembly
        is_last = bool(first & FIN)
        inflated = assembly.add(payload, is_last=is_last)
        self.inflated += inflated
        self.work += inflated >> 10
        if not is_last:
            return None
        self._assembly = None
        return assembly.whole()

    def _take_close(self, payload: bytes) -> None:
        """Note what the peer closes with. Source: RFC 6455 sections 5.5.1 and 7.4."""
        if not payload:
            self.close_code = NO_CODE
        elif len(payload) == 1:
            raise ProtocolError("a close frame with half a code", actual=1)
        else:
            code = int.from_bytes(payload[:2], "big")
            if not is_close_code(code):
                raise ProtocolError("a close code that must not be sent", actual=code)
            try:
                self.close_text = payload[2:].decode()
            except UnicodeDecodeError as error:
                raise InvalidText("the text of a close is not UTF-8", offset=2 + error.start) from error
            self.close_code = code
        self.step(Event.CLOSE_RECEIVED)

    def count_control(self, now: int, per_s: int) -> None:
        """Count a control frame at tick ``now``: ``per_s`` a second may come, and twice as many in a burst.

        Raises:
            PolicyViolation: more have come.
        """
        forgiven = min(now - self._control_tick, BURST_S * TURNS_PER_S) * per_s
        self._control_tick = now
        self._controls = max(0, self._controls - forgiven) + TURNS_PER_S  # in parts of a frame: none is given away
        if self._controls > BURST_S * per_s * TURNS_PER_S:
            raise PolicyViolation("control frames per second", limit=per_s)
