"""The law for every protocol: however the bytes are cut into reads, the messages are the same.

`check_any_split` cuts a stream in every way that has ever broken a parser, feeds the pieces to a ring that was made to
wrap, and compares with what is expected. `decode_all` is the one loop around `Protocol.decode` that tests use.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from gevpy.ring_buffer import RingBuffer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gevpy.protocol import Protocol

__all__ = ["check_any_split", "check_linear", "cuts", "decode_all", "drip", "feed", "flood", "wrapping_ring"]

# Linear means t(2n) <= 2.3 t(n). Three doublings are measured at once: what is linear is then a third below the bound,
# where noise and a cache that overflows don't matter, and what is quadratic is five times over it.
DOUBLINGS = 3
MAX_RATIO = 2.3**DOUBLINGS
ROUNDS = 20


def wrapping_ring(capacity: int = 16, head: int = 11) -> RingBuffer:
    """Give an empty ring whose head isn't at its storage's beginning: the bytes that come soon wrap."""
    ring = RingBuffer(capacity, None)
    ring.write(b"\xee" * (head + 1))
    ring.skip(head)  # one byte stays, since an empty ring may begin anew; `feed` takes it off
    return ring


def decode_all(protocol: Protocol, ring: RingBuffer) -> list[Any]:
    """Give the data of all messages that are whole, as a connection would take them."""
    messages = []
    while len(ring):
        message = protocol.decode(None, ring)
        if message is None:
            break
        ctx, data = message
        assert ctx is None, "the ready-made protocols give no context"
        messages.append(data)
    return messages


def feed(protocol: Protocol, pieces: Iterable[bytes], *, head: int = 0, lend: bool = False) -> list[Any]:
    """Give the messages of ``pieces``, each one read; what is left in the end must be no whole message.

    Args:
        protocol: what decodes.
        pieces: the reads.
        head: where the ring's head is when the first read comes.
        lend: read into lent room, as a connection does, instead of writing.
    """
    ring = wrapping_ring(16, head) if head else RingBuffer(16, None)
    messages: list[Any] = []
    for piece in pieces:
        had = len(ring) if head else 0
        if lend:
            _receive(ring, piece)
        else:
            ring.write(piece)
        if had:
            ring.skip(1)
            head = 0
        messages += decode_all(protocol, ring)
    return messages


def _receive(ring: RingBuffer, piece: bytes) -> None:
    at = 0
    while at < len(piece):
        view = ring.writable()
        size = min(len(view), len(piece) - at)
        view[:size] = piece[at : at + size]
        ring.commit(size)
        at += size


def cuts(stream: bytes, dice: random.Random) -> Iterator[list[bytes]]:
    """Give ways to cut ``stream``: whole, in two at every place or many, byte by byte, and at random."""
    yield [stream]
    yield [stream[at : at + 1] for at in range(len(stream))]
    for at in range(1, min(len(stream), 48)):
        yield [stream[:at], stream[at:]]
        yield [stream[:-at], stream[-at:]]
    for _ in range(8):
        places = sorted(dice.choices(range(len(stream) + 1), k=dice.randrange(1, 12)))
        yield [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


def check_any_split(
    protocol: Protocol, stream: bytes, messages: Sequence[Any], *, trailing: bytes = b"", seed: int = 0
) -> None:
    """Check that ``stream`` gives ``messages`` however it is cut, in plain and in wrapping rings.

    Args:
        protocol: what decodes.
        stream: whole frames.
        messages: the data expected of them.
        trailing: a begun frame that gives no message.
        seed: of the random cuts.
    """
    dice = random.Random(seed)
    expected = list(messages)
    for pieces in cuts(stream + trailing, dice):
        for head in (0, dice.randrange(1, 15)):
            for lend in (False, True):
                got = feed(protocol, pieces, head=head, lend=lend)
                assert got == expected, f"cut as {pieces!r} (head {head}, lend {lend}): {got!r}, not {expected!r}"


def check_linear(seconds: Callable[[int], float], count: int, *, most_us: float | None = None) -> None:
    """Check that the time taken grows as the count does.

    One round of several is enough, so that a busy machine proves nothing: what is quadratic fails in each of them.

    Args:
        seconds: does so many and gives the CPU seconds that it took.
        count: the most of them; an eighth is what they are compared with.
        most_us: the bound on microseconds for each, or None.
    """
    few = count >> DOUBLINGS
    short = long = 0.0
    for _ in range(ROUNDS):
        short, long = seconds(few), seconds(count)
        fast_enough = most_us is None or long / count * 1e6 < most_us
        if long <= MAX_RATIO * short and fast_enough:
            return
    msg = f"{few} took {short:.4f} s, {count} took {long:.4f} s"
    raise AssertionError(msg)


def flood(protocol: Protocol, frame: bytes) -> Callable[[int], float]:
    """Give a measurement for `check_linear`: so many frames, all in one buffer."""

    def seconds(count: int) -> float:
        ring = RingBuffer(len(frame) * count, None)
        ring.write(frame * count)
        begun = time.thread_time()
        for _ in range(count):
            protocol.decode(None, ring)
        took = time.thread_time() - begun
        assert ring.is_empty, "there were so many frames, and no bytes besides"
        return took

    return seconds


def drip(protocol: Protocol, byte: bytes) -> Callable[[int], float]:
    """Give a measurement for `check_linear`: one frame that comes byte by byte, so many, and doesn't end."""

    def seconds(count: int) -> float:
        ring = RingBuffer(16, None)
        begun = time.thread_time()
        for _ in range(count):
            ring.write(byte)
            protocol.decode(None, ring)
        took = time.thread_time() - begun
        assert len(ring) == count, "no frame has ended"
        return took

    return seconds
