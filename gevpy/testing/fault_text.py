"""What a failed check says: which one, the bytes in their reads, what came, what should have, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevpy.errors import BufferUnderflow, CodecError, FrameTooLarge, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gevpy.protocol.base import Protocol
    from gevpy.testing.codec_run import CodecRun

__all__ = ["fault", "fault_of_run"]

WHOLE_BYTES = 48  # longer ones are shown by their ends
MOST_SHOWN = 8

STALL = (
    "unpacket gave None and, called again without a new byte, found more. After None gevpy waits for the next read, so"
    " what is buffered stays there while the peer waits for its answer. None means 'not a whole frame yet' and nothing"
    " else: give an empty message as (None, b''), and go on with the next frame instead of returning None for one that"
    " has no message"
)
TOOK_MORE = (
    "unpacket took bytes off the buffer and gave None, and took more when it was called again without a new byte."
    " Before a frame is whole, peek at its header (buffer.peek_uint32()) and skip it only when len(buffer) says that"
    " all is there, or remember it in conn.protocol_state. Once it is whole, give its message (an empty one is"
    " (None, b'')), and for a frame that has none go on with the next frame: after None gevpy waits for the next read"
)
CONSUMED = (
    "unpacket consumed bytes before the frame was whole, gave None, and did not have them at its next call: peek at the"
    " header (buffer.peek_uint32()) and skip it only when len(buffer) says that the whole frame is there, or remember"
    " what was consumed in conn.protocol_state"
)
UNDERFLOW = (
    "unpacket asked for more bytes than there are: compare with len(buffer) first and give None as long as the frame"
    " isn't whole; where a length inside of the frame points beyond the frame, raise gevpy.ProtocolError"
)
LOOP = "unpacket gave a message and consumed nothing, so it would give it again for ever: take its bytes off the buffer"
PAIR = "unpacket must return None or a pair (ctx, data); a message without context is (None, data)"
RAISED = (
    "a peer may send anything: for bytes that can't be a frame unpacket must raise gevpy.ProtocolError. Any other"
    " exception counts as a bug of the server's and is logged with its traceback"
)
EMPTY = (
    "the frame was whole and no message came. A frame without payload is a message like any other: compare with"
    " 'is None', or by length, and not by the truth of the data"
)
CHANGED = (
    "another message came than was sent. The same bytes must give the same messages, however they are cut into reads:"
    " give no part of a frame before len(buffer) says that all of it is there"
)
LATE = "all bytes of the frame had come, and unpacket gave None: does it wait for a byte too many?"
TOO_LARGE = (
    "a frame of the messages you gave is above the protocol's own bound: raise max_frame_bytes, count the header in"
    " max_buffered_bytes(), or check with shorter messages"
)
SELF = (
    "one Protocol object serves all connections: what a codec must remember of one belongs into conn.protocol_state,"
    " not on self"
)


def fault(protocol: Protocol, check: str, facts: dict[str, str], hint: str, cause: Exception | None = None) -> None:
    """Fail.

    Raises:
        AssertionError: always.
    """
    width = max(map(len, [*facts, "hint"])) + 1
    lines = [f"check_protocol({type(protocol).__name__}): {check}"]
    lines += [f"    {name + ':':<{width}} {text}" for name, text in (*facts.items(), ("hint", hint))]
    raise AssertionError("\n".join(lines)) from cause


def fault_of_run(
    protocol: Protocol, check: str, run: CodecRun, expected: Sequence[tuple[Any, Any]] | None, hint: str = ""
) -> None:
    """Fail because of a run.

    Args:
        protocol: what was run.
        check: what was tried.
        run: what came of it.
        expected: what should have come; None where anything might, but not this.
        hint: what to do, where that is known better than from the run.

    Raises:
        AssertionError: always.
    """
    facts = {"reads": _shown([_bytes(piece) for piece in run.reads])}
    if expected is not None:
        facts["expected"] = _messages(expected)
    facts["got"] = _messages(run.messages)
    if run.error is not None:
        facts["got"] += f", then {type(run.error).__name__}: {run.error}"
    fault(protocol, check, facts, hint or _hint(run, expected), run.error)


def _hint(run: CodecRun, expected: Sequence[tuple[Any, Any]] | None) -> str:
    if run.stalled:
        return TOOK_MORE if run.consumed_early else STALL
    if run.error is not None:
        return _hint_of_error(run.error, peer=expected is None)
    if run.consumed_early:
        return CONSUMED
    came = len(run.messages)
    if expected is None or run.messages != list(expected[:came]) or came >= len(expected):
        return CHANGED
    return LATE if expected[came][1] else EMPTY


def _hint_of_error(error: Exception, *, peer: bool) -> str:
    if isinstance(error, CodecError):
        return LOOP
    if isinstance(error, BufferUnderflow):
        return UNDERFLOW
    if isinstance(error, TypeError) and "unpacket() must give" in str(error):
        return PAIR
    if isinstance(error, FrameTooLarge) and not peer:
        return TOO_LARGE
    if isinstance(error, ProtocolError):
        return "these bytes are good, or a part of what is good: unpacket refused them"
    return RAISED


def _messages(messages: Sequence[tuple[Any, Any]]) -> str:
    shown = _shown([f"({ctx!r}, {_bytes(data)})" for ctx, data in messages])
    return shown or "no message"


def _shown(texts: Sequence[str]) -> str:
    if len(texts) > MOST_SHOWN:
        half = MOST_SHOWN // 2
        texts = [*texts[:half], f"... {len(texts) - MOST_SHOWN} more ...", *texts[-half:]]
    return ", ".join(texts)


def _bytes(data: Any) -> str:
    if isinstance(data, bytes) and len(data) > WHOLE_BYTES:
        return f"{data[: WHOLE_BYTES // 2]!r}...{data[-8:]!r} ({len(data):,} bytes)"
    text = repr(data)
    return text if len(text) <= 4 * WHOLE_BYTES else text[: 4 * WHOLE_BYTES] + "..."
