"""Bytes between frames are dropped, all of them and only them, in time that grows as they do."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from gevpy.protocol.padding import WINDOW, skip_padding
from tests.protocol.hostile import ring_of
from tests.protocol.splitting import check_linear, wrapping_ring


@given(
    runs=st.integers(0, 3) | st.sampled_from([WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW]),
    rest=st.binary(max_size=20).filter(lambda rest: not rest.startswith((b"\r", b"\n"))),
)
def test_the_head_is_stripped(runs: int, rest: bytes) -> None:
    """However much padding there is, the rest begins with something else, or is empty."""
    ring = ring_of(b"\r\n" * runs + rest)
    skip_padding(ring, b"\r\n")
    assert ring.peek_all() == rest


def test_padding_may_wrap() -> None:
    """Where the ring's storage ends doesn't matter."""
    ring = wrapping_ring(16, 11)
    ring.write(bytes(6) + b"x" + bytes(3))
    ring.skip(1)
    skip_padding(ring, b"\0")
    assert ring.peek_all() == b"x\0\0\0"


def test_a_flood_of_padding_takes_linear_time() -> None:
    """A full read of it is gone in a moment, for it is handled in one go."""

    def seconds(count: int) -> float:
        ring = ring_of(bytes(count))
        begun = time.thread_time()
        skip_padding(ring, b"\0")
        return time.thread_time() - begun

    check_linear(seconds, 1 << 20, most_us=0.1)
