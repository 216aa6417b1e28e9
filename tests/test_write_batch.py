"""What goes into a batch comes out, in order and as it was, in one piece or few."""

from __future__ import annotations

import random
import tracemalloc
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevpy.write_batch import WriteBatch, as_bytes

BIG = 16 * 1024  # from here on a piece is kept as it is
BLOCK = 64 * 1024


def joined(out: bytes | list[bytes]) -> bytes:
    """Give what a transport would send."""
    if isinstance(out, bytes):
        return out
    assert len(out) > 1, "a list is for several pieces"
    assert all(type(piece) is bytes and piece for piece in out)
    return b"".join(out)


piece_sizes = st.sampled_from([0, 1, 3, 100, BIG - 1, BIG, BIG + 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK])


@given(sizes=st.lists(piece_sizes, max_size=12), rounds=st.integers(1, 3))
def test_pieces_come_out_in_order(sizes: list[int], rounds: int) -> None:
    """Of any sizes, again and again from one batch; length is their sum until taken, then 0."""
    batch = WriteBatch()
    for _ in range(rounds):
        pieces = [bytes([at + 1]) * size for at, size in enumerate(sizes)]
        for at, piece in enumerate(pieces):
            batch.append(piece)
            assert batch.length == sum(sizes[: at + 1])
        assert joined(batch.take()) == b"".join(pieces)
        assert batch.length == 0
    assert batch.take() == b""


@pytest.mark.parametrize("seed", range(20))
def test_integers_and_pieces_mix(seed: int) -> None:
    """Numbers of every width and order lie between the pieces where they were added."""
    dice = random.Random(seed)
    batch, model = WriteBatch(), bytearray()
    for _ in range(300):
        if dice.random() < 0.5:
            size, little = dice.randrange(1, 9), dice.random() < 0.5
            value = dice.choice([0, (1 << 8 * size) - 1, dice.randrange(1 << 8 * size)])
            body = dice.randbytes(dice.choice([0, 1, 50, 3000, BIG]))
            batch.append_prefixed(value, size, little, body)
            model += value.to_bytes(size, "little" if little else "big") + body
        else:
            piece = dice.randbytes(dice.choice([0, 1, 50, 3000, BIG]))
            batch.append(piece)
            model += piece
        assert batch.length == len(model)
        if dice.random() < 0.02:
            assert joined(batch.take()) == model
            model.clear()
    assert joined(batch.take()) == model


def test_a_number_alone_is_sent() -> None:
    """Without any piece, and as the first of all."""
    batch = WriteBatch()
    batch.append_prefixed(0x0102, 2, little_endian=False, body=b"")
    assert batch.take() == b"\x01\x02"
    batch.append_prefixed(0x0102, 2, little_endian=True, body=b"")
    batch.append(b"")
    assert batch.take() == b"\x02\x01"


def test_a_piece_that_comes_alone_is_not_copied() -> None:
    """However big; an empty one beside it doesn't count."""
    for size in (1, BIG, 1024 * 1024):
        piece = bytes(size)
        batch = WriteBatch()
        batch.append(b"")
        batch.append(piece)
        batch.append(b"")
        assert batch.take() is piece


def test_big_pieces_are_not_copied_beside_small_ones() -> None:
    """The big one is the very object; the small ones around it are joined."""
    big = bytes(BIG)
    batch = WriteBatch()
    for piece in (b"a", b"b", big, b"c", b"d"):
        batch.append(piece)
    out = batch.take()
    assert isinstance(out, list)
    assert [len(piece) for piece in out] == [2, BIG, 2]
    assert out[1] is big


def test_small_pieces_leave_as_one() -> None:
    """A read's replies are one write."""
    batch = WriteBatch()
    for at in range(10_000):
        batch.append(b"%05d" % at)
    out = batch.take()
    assert isinstance(out, bytes)
    assert out == b"".join(b"%05d" % at for at in range(10_000))


def test_what_was_taken_stays_as_it_is() -> None:
    """A block that was handed out doesn't change with what comes next."""
    batch = WriteBatch()
    batch.append(b"one")
    batch.append(b"two")
    first = batch.take()
    batch.append(b"THREE")
    batch.append(b"FOUR")
    assert first == b"onetwo"
    assert batch.take() == b"THREEFOUR"


@pytest.mark.parametrize("beside", [b"", b"x"])
def test_mutable_pieces_are_copied_at_once(beside: bytes) -> None:
    """A bytearray or a view may be changed, and resized, as soon as append returns."""
    for size in (3, BIG + 3):
        mutable = bytearray(b"a" * size)
        batch = WriteBatch()
        batch.append(beside)
        batch.append(mutable)
        batch.append(memoryview(mutable)[1:])
        mutable[:] = b"Z" * size
        mutable += b"it can grow"
        assert joined(batch.take()) == beside + b"a" * (2 * size - 1)


@pytest.mark.parametrize("wrong", ["text", 5, None, True, [b"x"], object(), 1.5])
def test_what_is_not_bytes_like_changes_nothing(wrong: Any) -> None:
    """A TypeError, and what was gathered stays."""
    batch = WriteBatch()
    with pytest.raises(TypeError):
        batch.append(wrong)
    assert batch.take() == b""
    batch.append(b"a")
    with pytest.raises(TypeError):
        batch.append(wrong)
    batch.append(b"b")
    assert batch.length == 2
    assert batch.take() == b"ab"


def test_clear_drops_all() -> None:
    """Pieces alone, small, big and numbers."""
    batch = WriteBatch()
    for pieces in ([b"a"], [b"a", b"b"], [bytes(BIG), b"a", bytes(BIG)]):
        for piece in pieces:
            batch.append(piece)
        batch.clear()
        assert batch.length == 0
        assert batch.take() == b""
    batch.append_prefixed(1, 8, little_endian=False, body=b"x")
    batch.clear()
    assert batch.take() == b""


def test_a_burst_leaves_no_memory_behind() -> None:
    """After megabytes of small pieces the batch goes back to a block of its first size."""
    batch = WriteBatch()
    tracemalloc.start()
    try:
        for _ in range(4_000):
            batch.append(bytes(1_000))
        batch.take()
        batch.append(b"a")
        batch.append(b"b")
        batch.take()
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 8 * BLOCK


def test_a_big_body_behind_a_number_makes_no_block() -> None:
    """It is kept as it is: the number alone needs room."""
    body = bytes(1024 * 1024)
    batch = WriteBatch()
    tracemalloc.start()
    try:
        batch.append_prefixed(len(body), 4, little_endian=False, body=body)
        out = batch.take()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert out == [len(body).to_bytes(4, "big"), body]
    assert out[1] is body
    assert peak < 4 * BLOCK


class Named(bytes):
    """A subclass of bytes."""

    __slots__ = ()


@pytest.mark.parametrize(
    "data",
    [
        b"abcd",
        bytearray(b"abcd"),
        memoryview(b"abcd"),
        memoryview(b"a_b_c_d")[::2],
        array("B", b"abcd"),
        Named(b"abcd"),
    ],
)
def test_as_bytes_gives_plain_bytes(data: Any) -> None:
    """Whatever kind of buffer it was."""
    given_back = as_bytes(data)
    assert type(given_back) is bytes
    assert given_back == b"abcd"


def test_as_bytes_gives_bytes_back_as_they_are() -> None:
    """No copy of what can't change."""
    data = bytes(range(100))
    assert as_bytes(data) is data


@pytest.mark.parametrize("wrong", ["text", 5, 0, None, True, [1, 2], (1,), object()])
def test_as_bytes_refuses_the_rest(wrong: Any) -> None:
    """Most of all numbers, of which bytes() would make zeros, and lists of numbers."""
    with pytest.raises(TypeError):
        as_bytes(wrong)
