"""The ring buffer: in and out, integers, searching, wrapping round, growing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.harness import Case
from gevpy.ring_buffer import RingBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CASES"]

MESSAGE = bytes(range(64))
LINE_AT = 4095


def write_read() -> Callable[[int], None]:
    """A 64-byte message in and out; the ring's 4 KiB are wrapped round all the time."""
    ring = RingBuffer()

    def run(count: int) -> None:
        write, read = ring.write, ring.read
        for _ in range(count):
            write(MESSAGE)
            read(64)

    return run


def peek_integer() -> Callable[[int], None]:
    """A length field."""
    ring = RingBuffer()
    ring.write(MESSAGE)

    def run(count: int) -> None:
        peek = ring.peek_uint32
        for _ in range(count):
            peek()

    return run


def find_newline() -> Callable[[int], None]:
    """A newline after 4 KiB without."""
    ring = RingBuffer(2 * LINE_AT)
    ring.write(b"x" * LINE_AT + b"\n")

    def run(count: int) -> None:
        find = ring.find
        for _ in range(count):
            find(b"\n")

    return run


def grow_and_shrink() -> Callable[[int], None]:
    """From 4 KiB to 64 KiB and back."""
    ring = RingBuffer()
    block = bytes(8192)

    def run(count: int) -> None:
        for _ in range(count):
            for _ in range(8):
                ring.write(block)
            ring.skip(len(ring))

    return run


CASES = (
    Case("ring buffer: write and read 64 B", write_read),
    Case("ring buffer: peek_uint32", peek_integer),
    Case("ring buffer: find in 4 KiB", find_newline),
    Case("ring buffer: grow to 64 KiB and shrink", grow_and_shrink),
)
