"""Bytes between frames that mean nothing: what some peers send to flush noise, or to keep a connection alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer

__all__ = ["skip_padding"]

WINDOW = 512


def skip_padding(buffer: RingBuffer, padding: bytes) -> None:
    """Drop all bytes of ``padding`` from the head.

    By the window, not one by one: a read full of them must not hold up the loop, since they count as no messages.
    """
    while len(buffer) and buffer.peek_uint8() in padding:
        head = buffer.peek(min(len(buffer), WINDOW))
        buffer.skip(len(head) - len(head.lstrip(padding)))
