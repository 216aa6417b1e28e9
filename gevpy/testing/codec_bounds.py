"""What a peer can make a codec hold, and how long it can keep it busy.

Memory is counted by ``tracemalloc``: what a codec keeps on ``conn.protocol_state`` is as much held as what it leaves in
the buffer.
"""

from __future__ import annotations

import time
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gevpy.errors import CodecError, ProtocolError
from gevpy.ring_buffer import RingBuffer
from gevpy.testing.fault_text import fault, fault_of_run
from gevpy.testing.streams import endless_heads
from gevpy.write_batch import as_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gevpy.protocol.base import Protocol
    from gevpy.testing.codec_run import CodecRun, CodecSite

__all__ = ["check_bounds", "check_linear"]

MOST_BOUND = 16 * 1024 * 1024  # of what can be tried in a moment
CHUNK_BYTES = 16 * 1024
BEYOND_BYTES = 2 * 1024 * 1024  # how far past its bound a codec is fed
SLACK_BYTES = 512 * 1024  # of its own objects
FILLERS = (b"\xee", b"a", b"9", b"\x00")

FLOOD_BYTES = 256 * 1024  # as much as one read gives
SMALL_BYTES = 32
MOST_FRAMES = 32_768
FEWEST_FRAMES = 64  # fewer take no time that could be compared
DOUBLINGS = 3
MOST_RATIO = 2.3**DOUBLINGS  # linear is 8; noise and caches have the rest
TRIES = 4

UNBOUNDED = (
    "whoever connects can make this connection hold as much: set max_frame_bytes to what a frame really needs, or give"
    " the check an object with a bound that can be tried, at most 16 MiB"
)
HOLDS = (
    "unpacket takes the bytes of a frame that isn't whole into its own memory, where gevpy can't bound them: leave them"
    " in the buffer, or count them and raise gevpy.FrameTooLarge above self.max_frame_bytes"
)
BELIEVES = (
    "unpacket makes room for what a length field promises: compare the length with self.max_frame_bytes and raise"
    " gevpy.FrameTooLarge before anything is allocated (buffer.reserve() is bounded by itself)"
)
ACCEPTS = (
    "a frame above max_frame_bytes passes when it comes in one read and is refused when it comes in several: compare"
    " the declared length with self.max_frame_bytes and raise gevpy.FrameTooLarge before waiting for the payload"
)
HEADER = (
    "a frame as long as max_frame_bytes passes when it comes in one read and is refused when it is cut: its header"
    " counts towards what may stay buffered. Override max_buffered_bytes() to give the length of the header and"
    " self.max_frame_bytes together"
)
MANY = "many small frames"
GOOD = "each of them is whole, and a read may bring as many: unpacket must give one after the other"
QUADRATIC = (
    "each frame costs more, the more frames are behind it: does unpacket look at the whole buffer (peek_all) for each"
    " frame? Peek at the header, and read the frame's own bytes"
)


def check_bounds(
    site: CodecSite, protocol: Protocol, frames: Sequence[bytes], messages: Sequence[Any]
) -> CodecRun | None:
    """Check what a peer can make a connection hold.

    Returns:
        A run in which the codec raised something else than `ProtocolError`, or None: much smaller streams may show the
        same, and better.

    Raises:
        AssertionError: it is too much.
    """
    bound = _bound_of(protocol)
    if bound > MOST_BOUND:
        fault(protocol, "the bound", {"bound": _shown(bound)}, UNBOUNDED)
    failed = None
    with _tracing():
        for head in endless_heads(frames):
            for filler in FILLERS:
                run = _check_endless(site, protocol, head, filler * CHUNK_BYTES, bound)
                failed = run if failed is None and run.error is not None and not _refused(run) else failed
    _check_large(site, protocol, messages, bound)
    return failed


def _bound_of(protocol: Protocol) -> int:
    return max(protocol.max_buffered_bytes(), protocol.max_frame_bytes)


def _shown(bound: int) -> str:
    return f"{bound:,} bytes (max_frame_bytes, and the header where max_buffered_bytes() adds it)"


@contextmanager
def _tracing() -> Iterator[None]:
    if tracemalloc.is_tracing():
        yield
        return
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def _check_endless(site: CodecSite, protocol: Protocol, head: bytes, filler: bytes, bound: int) -> CodecRun:
    """Send a frame that never ends, until it is refused or has turned out to be none."""
    run = site.begin()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    fed = 0
    while not run.over and not run.messages and fed <= 2 * bound + BEYOND_BYTES:
        run.read_unnoted(filler if fed else head + filler)
        fed += len(filler)
        now, peak = tracemalloc.get_traced_memory()
        now, peak = now - before - run.ring.capacity, peak - before - 3 * run.ring.capacity
        if now > bound + SLACK_BYTES or peak > 2 * bound + BEYOND_BYTES:
            held = now > bound + SLACK_BYTES
            facts = {
                "sent": f"{head!r}, then {fed:,} bytes of {filler[:1]!r}, in reads of {CHUNK_BYTES:,} bytes",
                "bound": _shown(bound),
                "got": f"{now:,} bytes held" if held else f"{peak:,} bytes allocated, and no frame",
            }
            fault(protocol, "a frame that never ends", facts, HOLDS if held else BELIEVES)
    run.reads.append(head + filler)
    if isinstance(run.error, MemoryError | OverflowError):
        fault_of_run(protocol, "a frame that never ends", run, None, BELIEVES)
    site.end(run)
    return run


def _refused(run: CodecRun) -> bool:
    return isinstance(run.error, ProtocolError) and not isinstance(run.error, CodecError)


def _check_large(site: CodecSite, protocol: Protocol, messages: Sequence[Any], bound: int) -> None:
    """Send frames at the bound and above it, in one read and in two."""
    for what, size, hint in (
        ("a frame as long as max_frame_bytes", protocol.max_frame_bytes, HEADER),
        ("a frame above max_frame_bytes", 2 * bound, ACCEPTS),
    ):
        grown = (_grown(message, size) for message in messages)
        message = next((message for message in grown if message is not None), None)
        frame = None if message is None else _frame_of(site, protocol, message)
        if frame is not None:
            _check_two_ways(protocol, what, (site.run([frame]), site.run([frame[:-1], frame[-1:]])), hint)


def _check_two_ways(protocol: Protocol, what: str, runs: tuple[CodecRun, CodecRun], hint: str) -> None:
    """See that a frame is refused in both ways, or in none."""
    whole, cut = runs
    for run in runs:
        if run.error is not None and not _refused(run):
            fault_of_run(protocol, what, run, None)
    if whole.error is None and cut.error is not None:
        facts = {
            "frame": f"{sum(map(len, whole.reads)):,} bytes",
            "bound": _shown(_bound_of(protocol)),
            "one read": f"{len(whole.messages)} message(s)",
            "two reads": f"{type(cut.error).__name__}: {cut.error}",
        }
        fault(protocol, what, facts, hint)


def _grown(message: Any, size: int) -> Any:
    """Give a message of the same kind with ``size`` bytes or characters of payload; None where it has no payload."""
    if isinstance(message, bytes | bytearray | str) and message:
        return (message * (size // len(message) + 1))[:size]
    if isinstance(message, tuple):
        for at in reversed(range(len(message))):
            payload = _grown(message[at], size)
            if payload is not None:
                return (*message[:at], payload, *message[at + 1 :])
    return None


def _frame_of(site: CodecSite, protocol: Protocol, message: Any) -> bytes | None:
    """Give the frame of a large message, or None where ``packet`` refuses it, with whatever fits."""
    conn = site.connect()
    try:
        return as_bytes(protocol.packet(conn, message))
    except Exception:  # noqa: BLE001 - see above
        return None
    finally:
        conn.connection_lost(None)


def check_linear(site: CodecSite, protocol: Protocol, frames: Sequence[bytes]) -> None:
    """Check that many small frames in one buffer take linear time.

    CPU time is compared, and one try of several is enough: a busy machine proves nothing, and what is quadratic fails
    in each of them.

    Raises:
        AssertionError: they don't.
    """
    small = [frame for frame in frames if len(frame) <= SMALL_BYTES]
    frame = max(small, key=len) if small else min(frames, key=len)
    count = min(FLOOD_BYTES // len(frame), MOST_FRAMES)
    if count < FEWEST_FRAMES:
        return
    few = count >> DOUBLINGS
    for _ in range(TRIES):
        short, long = _seconds(site, protocol, frame * few), _seconds(site, protocol, frame * count)
        if long <= MOST_RATIO * short:
            return
    facts = {
        "sent": f"{few:,} frames of {len(frame)} bytes in one buffer, then {count:,}",
        "expected": f"about {1 << DOUBLINGS} times as long",
        "got": f"{long / short:.1f} times as long ({short * 1e3:.2f} ms, {long * 1e3:.2f} ms)",
    }
    fault(protocol, MANY, facts, QUADRATIC)


def _seconds(site: CodecSite, protocol: Protocol, stream: bytes) -> float:
    ring = RingBuffer(len(stream), None)
    ring.write(stream)
    conn = site.connect()
    begun = time.thread_time()
    try:
        while len(ring) and protocol.decode(conn, ring) is not None:
            pass
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        got = f"{type(error).__name__}: {error}, with {len(ring):,} bytes left"
        fault(protocol, MANY, {"sent": f"{len(stream):,} bytes of good frames in one read", "got": got}, GOOD, error)
    took = time.thread_time() - begun
    if len(ring) and conn.protocol is protocol:  # else another has taken over, for which these are no frames
        got = f"None, with {len(ring):,} bytes left"
        fault(protocol, MANY, {"sent": f"{len(stream):,} bytes of good frames in one read", "got": got}, GOOD)
    conn.connection_lost(None)
    return max(took, 1e-9)
