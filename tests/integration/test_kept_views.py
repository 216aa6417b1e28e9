"""Row C15: data that is kept past its callback stays what it was, and lent room is never overwritten or moved away."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gevpy
from tests.integration.harness import SOAK

DEADLINE_S = 15
OPERATIONS = 1_000_000 if SOAK else 100_000
CAPACITY = 64

PROTOCOLS: dict[str, tuple[gevpy.Protocol, bytes, bytes]] = {  # and what goes before and behind a message
    "delimiter": (gevpy.DelimiterProtocol(b"||"), b"", b"||"),
    "fixed": (gevpy.FixedLengthProtocol(8), b"", b""),
    "length": (gevpy.LengthPrefixedProtocol(), b"\0\0\0\x08", b""),
    "line": (gevpy.LineProtocol(), b"", b"\n"),
}


class Keeping(gevpy.Handler):
    """Keeps every message."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self.kept: list[bytes] = []

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: bytes) -> bytes | None:
        self.kept.append(data)
        return b"the last" if data == b"lastlast" else None


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
async def test_kept_messages_are_never_overwritten(name: str) -> None:
    """C15: messages kept by the handler are unchanged after the buffers they came from were used again and again."""
    protocol, before, behind = PROTOCOLS[name]
    handler = Keeping()
    sent = [b"%08d" % number for number in range(5_000)] + [b"lastlast"]
    stream = b"".join(before + message + behind for message in sent)
    chance = random.Random(15)
    async with asyncio.timeout(DEADLINE_S), gevpy.serve(handler, port=0, protocol=protocol) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses[0][1])
        start = 0
        while start < len(stream):  # in odd pieces, so that frames straddle reads and rings
            end = start + chance.choice((1, 3, 7, 500, 5_000))
            writer.write(stream[start:end])
            await writer.drain()
            await asyncio.sleep(0)
            start = end
        await reader.readexactly(8)
        assert handler.kept == sent
        assert {type(message) for message in handler.kept} == {bytes}
        writer.close()
        await writer.wait_closed()


def test_the_ring_equals_a_bytearray() -> None:
    """C15: 100,000 random operations that wrap, fill and empty a small ring give what a bytearray would."""
    chance = random.Random(649)
    ring = gevpy.RingBuffer(CAPACITY, 4 * CAPACITY)
    model = bytearray()
    kept: list[tuple[bytes, bytes]] = []
    for number in range(OPERATIONS):
        size = chance.randrange(CAPACITY)
        if chance.random() < 0.5 and len(model) + size <= 4 * CAPACITY:
            data = number.to_bytes(4, "big") * (size // 4)
            ring.write(data)
            model += data
        elif size <= len(model):
            taken = ring.read(size)
            assert taken == model[:size]
            del model[:size]
            if number % 1000 == 0:
                kept.append((taken, bytes(bytearray(taken))))
        else:
            with pytest.raises(gevpy.BufferUnderflow):
                ring.read(size + len(model))
        assert len(ring) == len(model)
    assert ring.peek_all() == model
    assert all(taken == copy for taken, copy in kept)


@given(first=st.binary(min_size=1, max_size=40), more=st.binary(min_size=1, max_size=400))
def test_lent_room_survives_growth(first: bytes, more: bytes) -> None:
    """C15: a view kept after its lend spoils nothing the ring holds after growth: a BufferError, or a copy."""
    ring = gevpy.RingBuffer(CAPACITY, None)
    view = ring.writable(len(first))
    view[: len(first)] = first
    ring.commit(len(first))
    try:
        ring.write(more)
    except BufferError:
        view.release()
        ring.write(more)
        assert ring.peek_all() == first + more
        return
    held = ring.peek_all()
    assert held == first + more
    grown = ring.capacity > CAPACITY
    if grown:
        view[: len(first)] = bytes(len(first))
        assert ring.peek_all() == held
    view.release()
