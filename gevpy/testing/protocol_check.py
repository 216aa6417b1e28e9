"""The check of a protocol: all that has ever broken a parser, tried on yours.

The law behind it: however bytes are cut into reads, they give the same messages; whatever a peer sends, one connection
ends at most; and what a peer can make a connection hold is bounded.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from gevpy.errors import CodecError, ConfigError, ProtocolError
from gevpy.protocol.base import Protocol
from gevpy.testing.codec_bounds import check_bounds, check_linear
from gevpy.testing.codec_run import CodecRun, CodecSite, wrapping_ring
from gevpy.testing.fault_text import SELF, fault, fault_of_run
from gevpy.testing.streams import broken_frames, bytewise, noise, places, random_cut
from gevpy.write_batch import WriteBatch, as_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["check_protocol"]

RANDOM_CUTS = 16
MOST_BYTEWISE = 512  # bytes of a hostile stream; there are hundreds of them

Message = tuple[Any, Any]


def check_protocol(  # noqa: PLR0913 - what to check, and how; one of two suffices
    protocol: Protocol,
    messages: Sequence[Any] = (),
    *,
    wire: Iterable[tuple[bytes, tuple[Any, Any]]] = (),
    received: Sequence[Any] | None = None,
    frames: bool = True,
    seed: int = 0,
    rounds: int = 200,
) -> None:
    r"""Try on a protocol all that has ever broken a parser; say what is wrong and how to mend it.

    Each message goes through ``packet`` and must come back from ``unpacket``: alone, together with all others in one
    read, cut in two at every place (so every truncation is tried: a part of a frame is None, and spoils nothing), byte
    by byte, cut at random, in a buffer that wraps at every place, on two connections at once, and through a
    connection's own buffers. Then come frames that are too large or never end, which must be refused before they are
    held; many small frames, which must take linear time; and broken frames and noise, on which nothing but
    `ProtocolError` may be raised, no message may be given that consumed nothing, and which must mean the same however
    they are cut. In all of it None must mean "not a whole frame yet": asked again without new bytes, ``unpacket`` finds
    nothing new.

    ``conn`` is a real connection. No loop runs, so that it works in plain and in async tests; it takes about a second.

    Args:
        protocol: one object, which serves all connections of the check, as it does those of a worker.
        messages: what ``packet`` takes, of some tens of bytes each; every frame must be able to stand alone. Include
            an empty one, if the protocol has it.
        wire: frames as they are on the wire, each with the ``(ctx, data)`` that ``unpacket`` must give for it: for
            codecs whose ``packet`` isn't the inverse of ``unpacket``, for ``ctx``, and for a specification's examples.
        received: what comes back for each of ``messages``, where that isn't the message itself.
        frames: False for a protocol that has none, as `RawProtocol`: then only the bytes must be the same.
        seed: of what is random; the same seed tries the same.
        rounds: random streams, 0 or more. Default 200.

    Raises:
        AssertionError: the protocol is wrong. The text says what was tried, the reads, what came, what should have, and
            what to do.
        ConfigError: there is nothing to check, or ``received`` doesn't fit ``messages``.

    Example:
        >>> import gevpy
        >>> check_protocol(gevpy.LengthPrefixedProtocol(), [b"", b"one", b"another"])
        >>> check_protocol(gevpy.LineProtocol(), wire=[(b"as on Windows\r\n", (None, b"as on Windows"))])

    Source: Netty's decoder tests, and the faults of gev's own codecs.
    """
    if not isinstance(protocol, Protocol):
        msg = f"check_protocol() takes a gevpy.Protocol object, not {protocol!r}"
        raise ConfigError(msg)
    if received is not None and len(received) != len(messages):
        msg = f"received has {len(received)} entries for {len(messages)} messages"
        raise ConfigError(msg)
    dice = random.Random(seed)  # noqa: S311 - a seed makes a failure repeatable
    check = _Check(protocol, dice, has_frames=frames)
    check.pack(messages, messages if received is None else received)
    check.take_wire(wire)
    if not check.frames:
        raise ConfigError("check_protocol() needs messages, or frames as they are on the wire")
    check.cuts()
    check.at_once()
    check.wrapped()
    failed = check_bounds(check.site, protocol, check.frames, messages)
    if frames:
        check_linear(check.site, protocol, check.frames)
    check.hostile(rounds)
    if failed is not None:
        fault_of_run(protocol, "a frame that never ends", failed, None)


class _Check:
    """The checks of one protocol that are about messages."""

    def __init__(self, protocol: Protocol, dice: random.Random, *, has_frames: bool) -> None:
        self.protocol = protocol
        self.site = CodecSite(protocol)
        self.frames: list[bytes] = []
        self._dice = dice
        self._has_frames = has_frames
        self._expected: list[Message] = []

    # -- the frames, each alone --------------------------------------------------------------------

    def pack(self, messages: Sequence[Any], received: Sequence[Any]) -> None:
        """Make the messages' frames, and take each apart again."""
        conn = self.site.connect()
        for message, data in zip(messages, received, strict=True):
            frame = self._frame_of(conn, message)
            run = self.site.run([frame])
            alone = len(run.messages) == 1 and run.messages[0][1] == data
            if run.error is not None or run.stalled or not alone:
                ctx = run.messages[0][0] if run.messages else None
                fault_of_run(self.protocol, f"the frame of {message!r} in one read", run, [(ctx, data)])
            self.frames.append(frame)
            self._expected.append(run.messages[0])
        conn.connection_lost(None)

    def _frame_of(self, conn: Any, message: Any) -> bytes:
        try:
            frame = as_bytes(self.protocol.packet(conn, message))
            again = as_bytes(self.protocol.packet(conn, message))
            batch = WriteBatch()
            self.protocol.packet_into(conn, message, batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            facts = {"got": f"{type(error).__name__}: {error}"}
            fault(self.protocol, f"packet({message!r})", facts, "packet must give the bytes of the frame", error)
        out = batch.take()
        into = out if isinstance(out, bytes) else b"".join(out)
        if frame == again != into:  # one that gives other bytes each time (a mask, a nonce) can't be compared
            facts = {"packet": repr(frame), "packet_into": repr(into)}
            fault(self.protocol, f"packet_into({message!r})", facts, "both must give the same frame")
        if not frame and self._has_frames:
            hint = "a message needs at least a byte on the wire; check_protocol(frames=False) is for a plain stream"
            fault(self.protocol, f"packet({message!r})", {"got": "no bytes"}, hint)
        return frame

    def take_wire(self, wire: Iterable[tuple[bytes, Message]]) -> None:
        """Take the frames that were given as they are."""
        for frame, message in wire:
            run = self.site.run([frame])
            if run.error is not None or run.stalled or run.messages != [message]:
                fault_of_run(self.protocol, "a frame as it is on the wire, in one read", run, [message])
            self.frames.append(bytes(frame))
            self._expected.append(message)

    # -- all of them, cut --------------------------------------------------------------------------

    def cuts(self) -> None:
        """Cut the stream of all frames in every way."""
        stream = b"".join(self.frames)
        self._expect("all frames in one read", self.site.run([stream]))
        for at in places(len(stream), self._dice):
            self._expect(f"cut in two after {at} bytes", self.site.run([stream[:at], stream[at:]]))
        self._expect("byte by byte", self.site.run(bytewise(stream)))
        for _ in range(RANDOM_CUTS):
            self._expect("cut at random", self.site.run(random_cut(stream, self._dice)))
        for reads in ([stream], bytewise(stream), random_cut(stream, self._dice)):
            self._expect("through a connection", self.site.run_connection(reads))

    def _expect(self, check: str, run: CodecRun, hint: str = "") -> None:
        if run.error is not None or run.stalled or not self._same(run.messages, self._expected):
            fault_of_run(self.protocol, check, run, self._expected, hint)
        if self._has_frames:
            self._expect_in_time(check, run, hint)

    def _same(self, messages: Sequence[Message], expected: Sequence[Message]) -> bool:
        if self._has_frames:
            return list(messages) == list(expected)
        return b"".join(data for _, data in messages) == b"".join(data for _, data in expected)

    def _expect_in_time(self, check: str, run: CodecRun, hint: str) -> None:
        """See that each message came with the last byte of its frame and not later."""
        ends = [sum(map(len, self.frames[: index + 1])) for index in range(len(self.frames))]
        size = 0
        for piece, count in zip(run.reads, run.counts, strict=False):  # a run through a connection counts nothing
            size += len(piece)
            whole = sum(end <= size for end in ends)
            if count < whole:
                early = CodecRun(run.conn, run.ring, run.reads, run.messages[:count])
                fault_of_run(self.protocol, f"{check}: when {size} bytes had come", early, self._expected[:whole], hint)

    # -- two connections, and a buffer that wraps --------------------------------------------------

    def at_once(self) -> None:
        """Let two connections be in the middle of a frame at the same time."""
        stream = b"".join(self.frames)
        for at in self._dice.sample(range(len(stream)), min(16, len(stream))):
            one, two = self.site.begin(), self.site.begin()
            one.read(stream[:at])
            two.read(stream[: len(stream) - at])
            one.read(stream[at:])
            two.read(stream[len(stream) - at :])
            for run in (one, two):
                self.site.end(run)
                self._expect("two connections at once", run, SELF)

    def wrapped(self) -> None:
        """Let the stream wrap in the buffer, at every place."""
        stream = b"".join(self.frames)
        for at in places(len(stream), self._dice):
            run = self.site.run([stream], wrapping_ring(len(stream), at))
            self._expect(f"the buffer wraps after {at} bytes", run)

    # -- what no good peer sends -------------------------------------------------------------------

    def hostile(self, rounds: int) -> None:
        """Send broken frames and noise."""
        for stream in broken_frames(self.frames):
            self._survive("a broken frame", stream)
        for stream in noise(self.frames, self._dice, rounds):
            self._survive("noise", stream)

    def _survive(self, check: str, stream: bytes) -> None:
        whole = self.site.run([stream])
        self._only_protocol_errors(check, whole)
        fine = bytewise(stream) if len(stream) <= MOST_BYTEWISE else random_cut(stream, self._dice)
        for reads in (fine, random_cut(stream, self._dice)):
            run = self.site.run(reads)
            self._only_protocol_errors(check, run)
            if not self._same(run.messages, whole.messages) or (run.error is None) != (whole.error is None):
                hint = f"the same bytes in one read gave {whole.messages!r}, then {whole.error!r}: cuts mean nothing"
                fault_of_run(self.protocol, f"{check}, cut", run, None, hint)

    def _only_protocol_errors(self, check: str, run: CodecRun) -> None:
        refused = isinstance(run.error, ProtocolError) and not isinstance(run.error, CodecError)
        if run.stalled or not (run.error is None or refused):
            fault_of_run(self.protocol, check, run, None)
