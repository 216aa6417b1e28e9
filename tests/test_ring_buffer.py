"""The ring against a bytearray, at its seams and bounds, and with arguments that nobody should pass.

The model is a `bytearray` and a cursor. Hypothesis drives single operations, which shrink well, and storms of random
ones, which make the numbers: 10^5 operations in all.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import gevpy
from gevpy.errors import BufferOverflow, BufferUnderflow
from gevpy.ring_buffer import RingBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

ALPHABET = b"ab\r\n"  # few letters, so that needles are found
KIB = 1024
MIB = 1024 * 1024


def wrapped(content: bytes, before: int, capacity: int | None = None) -> RingBuffer:
    """Give a full ring of ``content`` of which ``before`` bytes lie before the storage's end."""
    size = capacity or len(content)
    ring = RingBuffer(size, None)
    ring.write(b"\xee" * (size - before))
    if before < size:
        ring.write(content[:before])
        ring.skip(size - before)
        ring.write(content[before:])
    else:
        ring.write(content)
    assert ring.capacity == size
    return ring


# -- against the model ---------------------------------------------------------------------------------------------


class Twins:
    """A ring and its model; every operation is done to both and compared."""

    def __init__(self, capacity: int, max_capacity: int | None) -> None:
        self.ring = RingBuffer(capacity, max_capacity)
        self.first = capacity
        self.bound = max_capacity
        self.model = bytearray()
        self.ahead = 0
        self.scanned = 0
        self.kept: list[tuple[bytes, bytes]] = []  # what the ring gave, and what that was at the time
        self.views: list[memoryview] = []  # lends that nobody gave back

    def check(self) -> None:
        ring, size = self.ring, len(self.model)
        assert ring.peek_all() == self.model
        assert len(ring) == size
        assert ring.is_empty == (size == 0) == (not ring)
        assert size <= ring.capacity
        assert self.bound is None or ring.capacity <= self.bound
        assert ring.virtual_length == size - self.ahead
        assert ring.scanned == self.scanned

    def check_kept(self) -> None:
        assert all(given == was for given, was in self.kept)
        assert all(len(bytes(view)) == len(view) for view in self.views)

    def over(self, size: int) -> bool:
        return self.bound is not None and size > self.bound

    def consumed(self, size: int) -> None:
        del self.model[:size]
        self.ahead = self.scanned = 0
        if not self.model:
            assert self.ring.capacity < max(4 * self.first, 2)

    def short(self, call: Callable[[], object], have: int, wanted: int) -> None:
        with pytest.raises(BufferUnderflow) as caught:
            call()
        assert (caught.value.limit, caught.value.actual) == (have, wanted)

    def keep(self, given: bytes) -> None:
        assert type(given) is bytes
        self.kept.append((given, bytes(bytearray(given))))

    # -- operations

    def write(self, data: bytes) -> None:
        if self.over(len(self.model) + len(data)):
            with pytest.raises(BufferOverflow) as caught:
                self.ring.write(data)
            assert (caught.value.limit, caught.value.actual) == (self.bound, len(self.model) + len(data))
            return
        self.ring.write(data)
        self.model += data

    def read(self, size: int) -> None:
        if size > len(self.model):
            self.short(lambda: self.ring.read(size), len(self.model), size)
            return
        data = self.ring.read(size)
        assert data == self.model[:size]
        self.keep(data)
        self.consumed(size)

    def peek(self, size: int) -> None:
        if size > len(self.model):
            self.short(lambda: self.ring.peek(size), len(self.model), size)
            return
        data = self.ring.peek(size)
        assert data == self.model[:size]
        self.keep(data)

    def skip(self, size: int) -> None:
        if size > len(self.model):
            self.short(lambda: self.ring.skip(size), len(self.model), size)
            return
        self.ring.skip(size)
        self.consumed(size)

    def clear(self) -> None:
        self.ring.clear()
        self.consumed(len(self.model))

    def take(self, offset: int, size: int) -> None:
        if offset + size > len(self.model):
            self.short(lambda: self.ring.take(offset, size), len(self.model), offset + size)
            return
        data = self.ring.take(offset, size)
        assert data == self.model[offset : offset + size]
        self.keep(data)
        self.consumed(offset + size)

    def find(self, needle: bytes, start: int, end: int) -> None:
        stop = len(self.model) if end < 0 else end
        assert self.ring.find(needle, start, end) == self.model.find(needle, start, stop)
        assert self.ring.find(needle, start) == self.model.find(needle, start)

    def search_mark(self, offset: int) -> None:
        self.scanned = self.ring.scanned = min(offset, len(self.model))

    def integers(self, offset: int, size: int) -> None:
        if offset + size > len(self.model):
            self.short(lambda: self.ring.peek_uint(size, offset), len(self.model), offset + size)
            return
        raw = self.model[offset : offset + size]
        assert self.ring.peek_uint(size, offset) == int.from_bytes(raw, "big")
        assert self.ring.peek_uint(size, offset, little_endian=True) == int.from_bytes(raw, "little")

    def virtual_read(self, size: int) -> None:
        if size > len(self.model) - self.ahead:
            self.short(lambda: self.ring.virtual_read(size), len(self.model) - self.ahead, size)
            return
        data = self.ring.virtual_read(size)
        assert data == self.model[self.ahead : self.ahead + size]
        self.keep(data)
        self.ahead += size

    def virtual_flush(self) -> None:
        self.ring.virtual_flush()
        if self.ahead:
            self.consumed(self.ahead)
        self.scanned = self.ring.scanned

    def virtual_revert(self) -> None:
        self.ring.virtual_revert()
        self.ahead = 0

    def reserve(self, total: int) -> None:
        if self.over(total):
            with pytest.raises(BufferOverflow):
                self.ring.reserve(total)
        else:
            self.ring.reserve(total)

    def fill(self, at_least: int, data: bytes) -> None:
        if self.over(len(self.model) + at_least):
            with pytest.raises(BufferOverflow):
                self.ring.writable(at_least)
            return
        view = self.ring.writable(at_least)
        assert at_least <= len(view) <= self.ring.capacity - len(self.model)
        filled = data[: len(view)]
        view[: len(filled)] = filled
        with pytest.raises(ValueError, match="committed"):
            self.ring.commit(len(view) + 1)
        self.ring.commit(len(filled))
        self.model += filled
        self.views.append(view)

    def restart(self, data: bytes) -> None:
        self.clear()
        view = self.ring.writable()
        filled = data[: len(view)]
        view[: len(filled)] = filled
        self.ring.restart(len(filled))
        self.model += filled
        self.scanned = 0

    def absorb(self, content: bytes, before: int) -> None:
        other = wrapped(content, min(before, len(content))) if content else RingBuffer()
        if self.over(len(self.model) + len(content)):
            with pytest.raises(BufferOverflow):
                self.ring.absorb(other)
            assert other.peek_all() == content
            return
        self.ring.absorb(other)
        assert other.is_empty
        self.model += content
        self.scanned = self.ring.scanned  # which bytes count as searched has tests of its own


small = st.integers(0, 40)
contents = st.lists(st.sampled_from(ALPHABET), max_size=60).map(bytes)


class RingMachine(RuleBasedStateMachine):
    """One operation at a time, in any order, and storms of them."""

    operations: ClassVar[int] = 0

    @initialize(capacity=st.integers(1, 33), room=st.none() | st.integers(0, 300))
    def begin(self, capacity: int, room: int | None) -> None:
        self.twins = Twins(capacity, None if room is None else capacity + room)

    @rule(data=contents)
    def write(self, data: bytes) -> None:
        self.twins.write(data)

    @rule(size=small, how=st.sampled_from(["read", "peek", "skip", "virtual_read", "reserve", "search_mark"]))
    def one_number(self, size: int, how: str) -> None:
        getattr(self.twins, how)(size)

    @rule(how=st.sampled_from(["clear", "virtual_flush", "virtual_revert"]))
    def no_argument(self, how: str) -> None:
        getattr(self.twins, how)()

    @rule(offset=small, size=small)
    def take(self, offset: int, size: int) -> None:
        self.twins.take(offset, size)

    @rule(offset=small, size=st.integers(1, 8))
    def integers(self, offset: int, size: int) -> None:
        self.twins.integers(offset, size)

    @rule(needle=contents.filter(lambda c: len(c) < 5), start=small, end=st.integers(-1, 60))
    def find(self, needle: bytes, start: int, end: int) -> None:
        self.twins.find(needle, start, end)

    @rule(at_least=small, data=contents)
    def fill(self, at_least: int, data: bytes) -> None:
        self.twins.fill(at_least, data)

    @rule(data=contents)
    def restart(self, data: bytes) -> None:
        self.twins.restart(data)

    @rule(content=contents, before=small)
    def absorb(self, content: bytes, before: int) -> None:
        self.twins.absorb(content, before)

    @rule(seed=st.integers(0, 1 << 32))
    def storm(self, seed: int) -> None:
        storm(self.twins, random.Random(seed), 150)
        RingMachine.operations += 150

    @invariant()
    def same(self) -> None:
        if hasattr(self, "twins"):
            self.twins.check()
        RingMachine.operations += 1

    def teardown(self) -> None:
        if hasattr(self, "twins"):
            self.twins.check_kept()


def storm(twins: Twins, dice: random.Random, steps: int) -> None:
    """Do random operations, mostly writing and reading, comparing after each."""

    def some(most: int = 40) -> bytes:
        return bytes(dice.choices(ALPHABET, k=dice.randrange(most)))

    deeds: list[tuple[int, Callable[[], None]]] = [
        (12, lambda: twins.write(some())),
        (8, lambda: twins.fill(dice.randrange(20), some())),
        (8, lambda: twins.read(dice.randrange(30))),
        (4, lambda: twins.skip(dice.randrange(30))),
        (4, lambda: twins.peek(dice.randrange(60))),
        (4, lambda: twins.take(dice.randrange(8), dice.randrange(30))),
        (8, lambda: twins.find(some(4), dice.randrange(40), dice.randrange(-1, 80))),
        (6, lambda: twins.integers(dice.randrange(20), dice.randrange(1, 9))),
        (6, lambda: twins.virtual_read(dice.randrange(30))),
        (1, twins.virtual_flush),
        (2, twins.virtual_revert),
        (2, lambda: twins.search_mark(dice.randrange(30))),
        (2, lambda: twins.reserve(dice.randrange(200))),
        (1, lambda: twins.restart(some())),
        (2, lambda: twins.absorb(some(), dice.randrange(40))),
        (1, twins.clear),
    ]
    chances = [chance for chance, _ in deeds]
    for _, deed in dice.choices(deeds, chances, k=steps):
        deed()
        twins.check()
    twins.check_kept()


def test_it_behaves_like_a_bytearray() -> None:
    """10^5 operations in any order leave the same bytes, cursors and errors as on the model."""
    RingMachine.operations = 0
    run_state_machine_as_test(RingMachine, settings=settings(max_examples=120, stateful_step_count=40, database=None))
    dice = random.Random(RingMachine.operations)
    while RingMachine.operations < 100_000:
        bound = dice.choice([None, 64, 200, 1000])
        storm(Twins(dice.randrange(1, 64), bound), dice, 500)
        RingMachine.operations += 500


# -- sizes and bounds ----------------------------------------------------------------------------------------------


def test_a_new_ring_is_empty() -> None:
    """It holds nothing, has gev's first capacity, and a bound."""
    ring = RingBuffer()
    assert (len(ring), ring.capacity, ring.max_capacity) == (0, 4096, 16 * MIB)
    assert ring.is_empty
    assert not ring
    assert ring.peek_all() == b""
    assert ring.virtual_length == 0


@pytest.mark.parametrize(("capacity", "bound"), [(0, None), (-1, None), (-(1 << 31), 5), (9, 8), (1, 0), (1, -1)])
def test_impossible_capacities_are_refused(capacity: int, bound: int | None) -> None:
    """A ring has room for at least one byte, and no more than its bound."""
    with pytest.raises(ValueError, match="capacity"):
        RingBuffer(capacity, bound)


def test_the_bound_may_be_lifted() -> None:
    """With max_capacity None a ring grows as far as memory goes."""
    ring = RingBuffer(1, None)
    ring.write(bytes(17 * MIB))
    assert len(ring) == 17 * MIB
    assert ring.max_capacity is None


def test_it_can_be_filled_to_its_bound_and_no_further() -> None:
    """The bound is reached exactly, whatever doubling would give, and one byte more changes nothing."""
    ring = RingBuffer(4, 11)
    ring.write(b"0123456789")
    ring.write(b"A")
    assert ring.capacity == 11
    for overflow in (lambda: ring.write(b"B"), ring.writable, lambda: ring.reserve(12)):
        with pytest.raises(BufferOverflow) as caught:
            overflow()
        assert (caught.value.limit, caught.value.actual) == (11, 12)
        assert ring.peek_all() == b"0123456789A"


def look_ahead_and_flush(ring: RingBuffer) -> None:
    """Take all by way of the look-ahead."""
    ring.virtual_read(len(ring))
    ring.virtual_flush()


def test_it_shrinks_when_it_has_been_emptied() -> None:
    """A large burst leaves no large storage behind, whichever way it was taken."""
    ways: list[Callable[[RingBuffer], object]] = [
        lambda ring: ring.clear(),
        lambda ring: ring.read(MIB),
        lambda ring: ring.skip(MIB),
        lambda ring: ring.take(5, MIB - 5),
        look_ahead_and_flush,
        lambda ring: RingBuffer().absorb(ring),
    ]
    for empty in ways:
        ring = RingBuffer(64)
        ring.write(bytes(MIB))
        empty(ring)
        assert ring.capacity == 64
        ring.write(b"again")
        assert ring.peek_all() == b"again"


def test_a_pooled_ring_keeps_its_storage() -> None:
    """What becomes of it is the pool's business; the content is gone all the same."""
    ring = RingBuffer(64)
    ring.pooled = True
    ring.write(bytes(MIB))
    ring.clear()
    assert ring.capacity == MIB
    assert ring.peek_all() == b""


def test_its_repr_tells_sizes_and_no_content() -> None:
    """Nothing that a peer sent gets into a log by way of repr."""
    ring = RingBuffer(16)
    ring.write(b"secret")
    assert repr(ring) == "<RingBuffer 6 of 16 bytes>"


@pytest.mark.parametrize("data", ["text", 5, None, [1, 2], memoryview(b"abcdef")[::2]])
def test_only_contiguous_bytes_can_be_written(data: object) -> None:
    """Anything else is a TypeError and leaves the ring as it was; a number never means so many zeros."""
    ring = RingBuffer()
    ring.write(b"x")
    with pytest.raises(TypeError):
        ring.write(data)  # type: ignore[arg-type]
    assert ring.peek_all() == b"x"


def test_wide_views_are_written_as_their_bytes() -> None:
    """A memoryview of wider items counts bytes, not items."""
    ring = RingBuffer(2)
    ring.write(memoryview(b"\x01\x02\x03\x04\x05\x06\x07\x08").cast("I"))
    assert ring.peek_all() == b"\x01\x02\x03\x04\x05\x06\x07\x08"


def test_what_was_written_may_change_afterwards() -> None:
    """The ring keeps a copy."""
    ring = RingBuffer()
    data = bytearray(b"before")
    ring.write(data)
    data[:] = b"AFTER!"
    data += b"and it can still grow"
    assert ring.read(6) == b"before"


def test_its_own_lent_room_can_be_written_into_it() -> None:
    """Copying from the ring's own storage, over itself, gives what a copy beforehand would."""
    ring = RingBuffer(8, None)
    view = ring.writable()
    view[:] = b"abcdefgh"
    ring.commit(4)
    ring.write(view[2:6])
    assert ring.peek_all() == b"abcdcdef"


# -- finding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", range(13))
def test_find_sees_matches_across_the_seam(before: int) -> None:
    """Every needle, start and end, with the storage's end at every place, as bytes.find would."""
    content = b"ab\r\nba\r\r\nab"
    ring = wrapped(content, min(before, len(content)))
    needles = [b"", b"\n", b"\r\n", b"\r\r\n", b"ab", b"ba\r", content, content + b"x", b"zz", b"\r"]
    for needle in needles:
        for start in range(len(content) + 2):
            for end in range(-1, len(content) + 2):
                expected = content.find(needle, start, len(content) if end < 0 else end)
                assert ring.find(needle, start, end) == expected, (needle, start, end)


def test_find_refuses_a_negative_start() -> None:
    """Offsets count from the head; none is before it."""
    with pytest.raises(ValueError, match="negative"):
        RingBuffer().find(b"x", -1)


# -- integers ------------------------------------------------------------------------------------------------------

RAW = bytes([0xFF, 0x80, 0x01, 0x00, 0xFE, 0x7F, 0xAB, 0xCD, 0xEF, 0x10, 0x99])


@pytest.mark.parametrize("before", range(len(RAW) + 1))
def test_integers_are_big_endian_at_every_offset_and_wrap(before: int) -> None:
    """All widths and both orders, with the storage's end at every place within the number."""
    ring = wrapped(RAW, before)
    named = {1: ring.peek_uint8, 2: ring.peek_uint16, 4: ring.peek_uint32, 8: ring.peek_uint64}
    for size in range(1, 9):
        for offset in range(len(RAW) - size + 1):
            raw = RAW[offset : offset + size]
            assert ring.peek_uint(size, offset) == int.from_bytes(raw, "big")
            assert ring.peek_uint(size, offset, little_endian=True) == int.from_bytes(raw, "little")
            if size in named:
                assert named[size](offset) == int.from_bytes(raw, "big")
    assert ring.peek_all() == RAW


def test_the_largest_integers_come_out_unsigned() -> None:
    """All bits set is the largest number, never -1."""
    ring = RingBuffer()
    ring.write(b"\xff" * 8)
    assert ring.peek_uint8() == 0xFF
    assert ring.peek_uint16() == 0xFFFF
    assert ring.peek_uint32() == 0xFFFF_FFFF
    assert ring.peek_uint64() == 0xFFFF_FFFF_FFFF_FFFF


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_an_integer_that_is_not_all_there_underflows(size: int) -> None:
    """One byte too few is an underflow that says so; the offset counts."""
    ring = RingBuffer()
    ring.write(bytes(size))
    peek = {1: ring.peek_uint8, 2: ring.peek_uint16, 4: ring.peek_uint32, 8: ring.peek_uint64}[size]
    assert peek() == 0
    for offset in (1, 2, 1 << 31, 1 << 62):
        with pytest.raises(BufferUnderflow) as caught:
            peek(offset)
        assert (caught.value.limit, caught.value.actual) == (size, offset + size)


@pytest.mark.parametrize(("size", "offset"), [(0, 0), (9, 0), (-1, 0), (4, -1), (1, -(1 << 70)), (1 << 70, 0)])
def test_integers_of_no_width_are_refused(size: int, offset: int) -> None:
    """A width is 1 to 8 bytes, an offset isn't negative."""
    ring = RingBuffer()
    ring.write(bytes(16))
    with pytest.raises(ValueError, match="size"):
        ring.peek_uint(size, offset)


# -- look-ahead ----------------------------------------------------------------------------------------------------


def test_growth_keeps_the_look_ahead_cursor() -> None:
    """Reading ahead goes on where it stood when the ring grows, wrapped or not (gev's ring lost it: PR 9)."""
    for before in range(9):
        ring = wrapped(b"abcdefgh", before)
        assert ring.virtual_read(3) == b"abc"
        ring.write(b"ijklmnopqrstuvwxyz")
        assert ring.virtual_length == 23
        assert ring.virtual_read(10) == b"defghijklm"
        ring.virtual_revert()
        assert ring.virtual_read(2) == b"ab"
        ring.virtual_flush()
        assert ring.peek_all() == b"cdefghijklmnopqrstuvwxyz"
        assert ring.virtual_length == 24


def test_lending_keeps_the_look_ahead_cursor() -> None:
    """Neither compaction nor growth for a lend moves what is ahead."""
    for at_least in (1, 3, 5, 100):
        ring = wrapped(b"abcdefgh", 5, 8)
        ring.skip(4)
        assert ring.virtual_read(2) == b"ef"
        ring.writable(at_least)[:1] = b"Z"
        ring.commit(1)
        assert ring.virtual_read(3) == b"ghZ"


def test_consuming_forgets_the_look_ahead() -> None:
    """After read, skip, take or clear, reading ahead begins at the head."""
    ways: list[Callable[[RingBuffer], object]] = [lambda r: r.read(1), lambda r: r.skip(1), lambda r: r.take(0, 1)]
    for consume in ways:
        ring = RingBuffer()
        ring.write(b"abcdef")
        ring.virtual_read(4)
        consume(ring)
        assert ring.virtual_length == 5
        assert ring.virtual_read(1) == b"b"


# -- lending and reserving -----------------------------------------------------------------------------------------


def test_a_commit_without_a_lend_is_refused() -> None:
    """Nothing lent, or committed already: not one byte can be committed."""
    ring = RingBuffer()
    with pytest.raises(ValueError, match="committed"):
        ring.commit(1)
    ring.writable()
    ring.commit(3)
    with pytest.raises(ValueError, match="committed"):
        ring.commit(1)
    with pytest.raises(ValueError, match="committed"):
        ring.commit(-1)
    assert len(ring) == 3


def _clear(ring: RingBuffer) -> None:
    ring.clear()


def _write(ring: RingBuffer) -> None:
    ring.write(b"y" * 10)


def _write_and_clear(ring: RingBuffer) -> None:
    ring.write(b"y")
    ring.clear()


def _read(ring: RingBuffer) -> None:
    ring.write(b"y" * 10)
    ring.read(10)


def _restart(ring: RingBuffer) -> None:
    ring.restart(16)


def _absorb(ring: RingBuffer) -> None:
    other = RingBuffer()
    other.write(b"y" * 12)
    ring.absorb(other)


@pytest.mark.parametrize("meanwhile", [_clear, _write, _write_and_clear, _read, _restart, _absorb])
def test_a_lend_that_has_ended_cannot_make_the_ring_lie(meanwhile: Callable[[RingBuffer], None]) -> None:
    """After any other change a commit is refused, or what it adds is real room: never more bytes than capacity."""
    for lent in (1, 1 << 16):
        ring = RingBuffer(16, None)
        room = len(ring.writable(lent))
        meanwhile(ring)
        with suppress(ValueError):
            ring.commit(room)
        assert len(ring) <= ring.capacity
        if len(ring) <= ring.capacity:  # else this would read what isn't the ring's
            assert len(ring.peek_all()) == len(ring)


def test_a_lent_view_may_be_kept() -> None:
    """A view that is never given back stops nothing, and nothing the ring gave out changes with it."""
    ring = RingBuffer(8, None)
    kept = []
    given = []
    for turn in range(200):
        view = ring.writable(1 + turn % 7)
        view[:1] = bytes([turn])
        ring.commit(1)
        kept.append(view)
        if turn % 3 == 0:
            given.append((turn, ring.peek_all()))
        if turn % 50 == 49:
            ring.read(30)
    ring.clear()
    ring.write(bytes(range(100)))
    for view in kept:
        assert bytes(view)[:1] is not None
        view.release()
    assert ring.peek_all() == bytes(range(100))
    assert all(data[-1] == turn for turn, data in given)


def test_writing_through_an_outgrown_view_harms_nobody() -> None:
    """A view of storage that the ring has left doesn't reach the ring's new content."""
    ring = RingBuffer(8, None)
    view = ring.writable()
    ring.write(b"0123456789")
    view[:] = b"\xee" * len(view)
    assert ring.peek_all() == b"0123456789"


@pytest.mark.parametrize("declared", [1 << 20, 1 << 31, (1 << 32) - 1, 1 << 62])
def test_a_header_alone_allocates_little(declared: int) -> None:
    """The peer is believed in proportion to what it has sent: 4 bytes never make a megabyte."""
    ring = RingBuffer(4096, None)
    ring.write(b"\xff\xff\xff\xff")
    tracemalloc.start()
    try:
        ring.reserve(declared)
        ring.writable()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 256 * KIB
    assert ring.capacity <= 128 * KIB


def test_a_frame_of_known_size_costs_few_lends() -> None:
    """With the size reserved, 1 MiB comes in a handful of full reads, and memory stays within 16 times the arrived."""
    ring = RingBuffer(4096, None)
    ring.write(bytes(4))
    lends = 0
    while len(ring) < MIB:
        ring.reserve(MIB)
        arrived = len(ring)
        view = ring.writable()
        assert ring.capacity <= max(128 * KIB, 16 * arrived)
        lends += 1
        ring.commit(min(len(view), MIB - arrived))
    assert lends <= 6


def test_consuming_forgets_what_was_reserved() -> None:
    """A reserve belongs to the frame that is awaited, not to the next one."""
    ring = RingBuffer(64, None)
    ring.write(b"ab")
    ring.reserve(60_000)
    ring.skip(1)
    ring.writable()
    assert ring.capacity == 64


def test_absorb_takes_reserve_and_search_mark() -> None:
    """Moved to another ring, a part frame is neither searched nor announced again."""
    ring, other = RingBuffer(16, None), wrapped(b"abcdefgh", 3)
    other.reserve(60_000)
    other.scanned = 7
    ring.absorb(other)
    assert ring.peek_all() == b"abcdefgh"
    assert ring.scanned == 7
    assert len(ring.writable()) >= 60_000 - 8
    assert other.is_empty
    assert other.scanned == 0


def test_absorb_never_counts_unsearched_bytes_as_searched() -> None:
    """The receiver's own bytes in front weren't searched by whoever searched the other's."""
    ring, other = RingBuffer(), RingBuffer()
    ring.write(b"x\ny")
    other.write(b"zz")
    other.scanned = 2
    ring.absorb(other)
    assert ring.peek_all() == b"x\nyzz"
    assert ring.scanned <= 1


# -- linear time ---------------------------------------------------------------------------------------------------


def test_a_queue_that_never_empties_moves_no_memory() -> None:
    """Bytes pass through a ring that stays half full in its first storage."""
    ring = RingBuffer(64, 64)
    ring.write(bytes(32))
    for turn in range(5_000):
        ring.write(bytes([turn % 251] * 7))
        ring.skip(7)
        assert ring.capacity == 64
    assert ring.peek(1) == bytes([(5_000 - 5) % 251])


# -- numbers that nobody should pass -------------------------------------------------------------------------------

HUGE = (-(2**64), -(2**63), -(2**31), -1, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, 2**64)

SCRIPT = """
import sys
from gevpy.ring_buffer import RingBuffer

for call in sys.argv[1].splitlines():
    for number in map(int, sys.argv[2:]):
        for before in (0, 4, 10):
            print(call, number, before, flush=True)  # the last line tells where it crashed
            ring = RingBuffer(16, 1 << 20)
            ring.write(b"_" * (16 - before))
            ring.skip(16 - before - 1)
            ring.write(b"0123456789")
            ring.skip(1)
            ring.virtual_read(2)
            try:
                eval(call, {"ring": ring, "n": number, "RingBuffer": RingBuffer})
            except (ValueError, OverflowError):
                assert ring.peek_all() == b"0123456789", ring.peek_all()
                assert ring.virtual_length == 8, ring.virtual_length
            assert 0 <= len(ring) <= ring.capacity, ring
            assert len(ring.peek_all()) == len(ring)
            ring.write(b"Z" * 100)
            assert ring.read(len(ring))[-100:] == b"Z" * 100
print("survived")
"""

CALLS = [
    "RingBuffer(min(n, 65536), n)",
    "RingBuffer(1, n)",
    "ring.read(n)",
    "ring.peek(n)",
    "ring.skip(n)",
    "ring.find(b'9', n)",
    "ring.find(b'9', 0, n)",
    "ring.find(b'9', n, n)",
    "ring.find(b'', n)",
    "ring.take(n, 0)",
    "ring.take(n, 1)",
    "ring.take(0, n)",
    "ring.take(1, n)",
    "ring.take(n, n)",
    "ring.peek_uint8(n)",
    "ring.peek_uint16(n)",
    "ring.peek_uint32(n)",
    "ring.peek_uint64(n)",
    "ring.peek_uint(n, 0)",
    "ring.peek_uint(8, n)",
    "ring.virtual_read(n)",
    "ring.reserve(n)",
    "ring.reserve(n) or ring.writable()",
    "ring.writable(n)",
    "ring.commit(n)",
    "ring.writable() and ring.commit(n)",
    "ring.restart(n)",
]


def run_apart(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own: what crashes there is an outcome, not the end of the tests."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(gevpy.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_absurd_numbers_raise_and_change_nothing() -> None:
    """Negative, beyond the content and beyond 64 bits: a typed error, never a crash, and the ring goes on."""
    done = run_apart(SCRIPT, "\n".join(CALLS), *map(str, HUGE))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "survived"), done.stderr


WRONG_TYPES = """
from gevpy.ring_buffer import RingBuffer

calls = "absorb(None)|absorb(b'x')|write(None)|find(None)|read(None)|peek_uint8('1')|take(1.5, 2)"
for call in calls.split("|"):
    ring = RingBuffer()
    ring.write(b"0123456789")
    print(call, flush=True)
    try:
        eval("ring." + call)
    except (TypeError, AttributeError):
        assert ring.read(10) == b"0123456789"
    else:
        raise AssertionError(call)
print("survived")
"""


def test_arguments_of_another_type_raise() -> None:
    """None and other types are a TypeError or AttributeError, in the compiled build as well."""
    done = run_apart(WRONG_TYPES)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "survived"), done.stderr
