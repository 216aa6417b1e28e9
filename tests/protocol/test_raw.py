"""No framing: bytes come out as they came in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevpy import RawProtocol, RingBuffer
from gevpy.write_batch import WriteBatch
from tests.protocol.splitting import feed


@given(pieces=st.lists(st.binary(min_size=1, max_size=50), min_size=1), head=st.integers(0, 14))
def test_every_read_is_a_message(pieces: list[bytes], head: int) -> None:
    """Reads come out one by one, as they are, wrapped or not."""
    assert feed(RawProtocol(), pieces, head=head) == pieces
    assert b"".join(feed(RawProtocol(), pieces, lend=True)) == b"".join(pieces)


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), memoryview(b"b_y_t_e_s")[::2]])
def test_anything_bytes_like_is_sent_as_it_is(data: bytes) -> None:
    """What goes out is ``bytes``, by packet and by packet_into alike."""
    protocol = RawProtocol()
    batch = WriteBatch()
    protocol.packet_into(None, data, batch)
    assert batch.take() == protocol.packet(None, data) == b"bytes"


def test_what_is_sent_is_a_copy() -> None:
    """A bytearray may be used again at once."""
    data = bytearray(b"first")
    batch = WriteBatch()
    RawProtocol().packet_into(None, data, batch)
    packed = RawProtocol().packet(None, data)
    data[:] = b"OTHER"
    assert batch.take() == packed == b"first"


@pytest.mark.parametrize("data", ["text", 5, None, [1], True, object()])
def test_what_is_not_bytes_like_is_refused(data: object) -> None:
    """A number must not become so many zeros, a text has no encoding; nothing is put into the batch."""
    batch = WriteBatch()
    with pytest.raises(TypeError, match=type(data).__name__):
        RawProtocol().packet(None, data)
    with pytest.raises(TypeError, match=type(data).__name__):
        RawProtocol().packet_into(None, data, batch)
    assert batch.length == 0


def test_a_subclass_packs_its_own_way() -> None:
    """An override of packet is honoured where a batch is filled."""

    class Shouting(RawProtocol):
        """Sends in capitals."""

        def packet(self, conn: object, data: bytes) -> bytes:
            return data.upper()

    batch = WriteBatch()
    Shouting().packet_into(None, b"quiet", batch)
    assert batch.take() == b"QUIET"


def test_nothing_is_left_behind() -> None:
    """A read is taken whole, even one that is larger than the limit on part frames."""
    ring = RingBuffer(16, None)
    ring.write(bytes(200_000))
    assert RawProtocol().decode(None, ring) == (None, bytes(200_000))
    assert ring.is_empty
