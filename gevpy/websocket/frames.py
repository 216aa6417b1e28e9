"""Frames of WebSocket: how they begin, how they are masked, and how they are written.

     0               1               2               3
    +-+-+-+-+-------+-+-------------+-------------------------------+
    |F|R|R|R| opcode|M| payload     | extended payload length       |
    |I|S|S|S|       |A| length      | 2 bytes if length is 126,     |
    |N|V|V|V|       |S| 0 to 125    | 8 bytes if it is 127          |
    | |1|2|3|       |K|             |                               |
    +-+-+-+-+-------+-+-------------+-------------------------------+
    | masking key, 4 bytes if MASK is set    | payload ...          |
    +----------------------------------------+----------------------+

Bytes are masked by XOR with the key, over and over: in words of eight bytes where this is compiled, as one long number
where it is not. Source: RFC 6455 section 5.
"""

from __future__ import annotations

import enum
import sys
from typing import TYPE_CHECKING

try:
    import cython
except ImportError:
    from gevpy import _cython_shim as cython

if cython.compiled:
    from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
    from cython.cimports.cpython.unicode import PyUnicode_DecodeUTF8
    from cython.cimports.libc.string import memcpy

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer
    from gevpy.write_batch import WriteBatch

__all__ = [
    "Opcode",
    "append_frame",
    "frame",
    "mask",
    "peek_payload",
    "take_payload",
    "take_short",
    "take_text",
    "turned",
]

LITTLE_ENDIAN = sys.byteorder == "little"

FIN = 0x80
RSV1 = 0x40
RSV = 0x70
OPCODE = 0x0F
CONTROL = 0x08  # the bit that opcodes of control frames have
MASKED = 0x80

SHORT = 126  # a length that needs two more bytes says this
LONG = 127  # and one that needs eight
MAX_SHORT = 0xFFFF
KEY_BYTES = 4
LEAST_MASKED = 6  # bytes of the shortest header with a key
MAX_CONTROL_BYTES = 125


class Opcode(enum.IntEnum):
    """What a frame is; as ``ctx`` of a message: `TEXT` or `BINARY`. Source: RFC 6455 section 11.8."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


# -- masking ---------------------------------------------------------------------------------------


def mask(data: bytes, key: bytes) -> bytes:
    """Mask ``data`` with the four bytes of ``key``, or unmask it: that is the same."""
    size = len(data)
    if cython.compiled:
        masked: bytes = PyBytes_FromStringAndSize(cython.NULL, size)  # filled in below
        _xor(
            cython.cast(cython.p_uchar, PyBytes_AS_STRING(masked)),
            cython.cast(cython.p_uchar, PyBytes_AS_STRING(data)),
            size,
            int.from_bytes(key, "little"),
        )
        return masked
    return (int.from_bytes(data, "little") ^ _repeated(int.from_bytes(key, "little"), size)).to_bytes(size, "little")


def take_payload(ring: RingBuffer, header: int, size: int, key: int) -> bytes:
    """Take a frame out of ``ring``, and give its payload, unmasked.

    Args:
        ring: it begins with the frame, which is whole.
        header: the frame's bytes before its payload.
        size: the payload's bytes.
        key: the masking key, its first byte the least; 0 for none.
    """
    if not key:
        return ring.take(header, size)
    payload = peek_payload(ring, header, size, key)
    ring._consume(header + size)
    return payload


def take_short(ring: RingBuffer, size: int) -> bytes:
    """Take a masked frame with ``size`` bytes of payload, at most 125, that lies in one piece; compiled only."""
    payload = b""
    if cython.compiled:
        start = ring._data + ring._head
        key = start[2] | (start[3] << 8) | (start[4] << 16) | (cython.cast(cython.ulonglong, start[5]) << 24)
        payload = PyBytes_FromStringAndSize(cython.NULL, size)  # filled in below
        _xor(cython.cast(cython.p_uchar, PyBytes_AS_STRING(payload)), start + LEAST_MASKED, size, key)
        ring._consume(LEAST_MASKED + size)
    return payload


def peek_payload(ring: RingBuffer, offset: int, size: int, key: int) -> bytes:
    """Give ``size`` bytes from ``offset`` on, unmasked; they stay in ``ring``. Arguments as of `take_payload`."""
    payload: bytes
    if cython.compiled:
        begin = ring._head + offset
        if begin >= ring._capacity:
            begin -= ring._capacity
        first = ring._capacity - begin
        payload = PyBytes_FromStringAndSize(cython.NULL, size)  # filled in below
        target = cython.cast(cython.p_uchar, PyBytes_AS_STRING(payload))
        if size <= first:
            _xor(target, ring._data + begin, size, key)
        else:
            _xor(target, ring._data + begin, first, key)
            _xor(target + first, ring._data, size - first, turned(key, first))
        return payload
    data = ring._copy(offset, size)
    return (int.from_bytes(data, "little") ^ _repeated(key, size)).to_bytes(size, "little")


def take_text(ring: RingBuffer, header: int, size: int, key: int) -> str:
    """Take a frame out of ``ring``, and give its payload as text; arguments as of `take_payload`.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    if cython.compiled:
        begin = ring._head + header
        if begin >= ring._capacity:
            begin -= ring._capacity
        if begin + size <= ring._capacity:
            start = ring._data + begin
            if key:
                _xor(start, start, size, key)  # where it lies: nobody looks at it again
            text: str = PyUnicode_DecodeUTF8(cython.cast(cython.p_char, start), size, cython.NULL)
            ring._consume(header + size)
            return text
    return take_payload(ring, header, size, key).decode()


def turned(key: int, size: int) -> int:
    """Give the key for what follows after ``size`` masked bytes."""
    shift = 8 * (size & 3)
    return ((key >> shift) | (key << (32 - shift))) & 0xFFFFFFFF


def _repeated(key: int, size: int) -> int:
    """Give the key over and over as one number of ``size`` bytes."""
    return int.from_bytes((key.to_bytes(KEY_BYTES, "little") * (size // KEY_BYTES + 1))[:size], "little")


def _xor(target, source, size, key) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - pointers, in the .pxd
    """Mask ``size`` bytes from ``source`` to ``target``, which may be the same; the compiled build's only."""
    word = key
    wide = word | (word << 32)
    pattern = wide
    if not LITTLE_ENDIAN:
        pattern = 0
        for index in range(8):
            pattern = (pattern << 8) | ((wide >> (8 * index)) & 0xFF)
    words = size >> 3
    for index in range(words):
        memcpy(cython.address(word), source + 8 * index, 8)
        word ^= pattern
        memcpy(target + 8 * index, cython.address(word), 8)
    for index in range(8 * words, size):
        target[index] = source[index] ^ ((key >> (8 * (index & 3))) & 0xFF)


# -- writing ---------------------------------------------------------------------------------------


def head(first: int, size: int) -> bytes:
    """Give the beginning of an unmasked frame whose first byte is ``first`` and whose payload has ``size`` bytes."""
    if size < SHORT:
        return bytes((first, size))
    if size <= MAX_SHORT:
        return b"%c%c%b" % (first, SHORT, size.to_bytes(2, "big"))
    return b"%c%c%b" % (first, LONG, size.to_bytes(8, "big"))


def frame(first: int, payload: bytes, key: bytes = b"") -> bytes:
    """Write one frame.

    Args:
        first: its first byte: FIN, the reserved bits and the opcode.
        payload: what it carries.
        key: four bytes to mask it with, as clients must; none for a server's.
    """
    if not key:
        return head(first, len(payload)) + payload
    begin = bytearray(head(first, len(payload)))
    begin[1] |= MASKED
    return bytes(begin) + key + mask(payload, key)


def append_frame(batch: WriteBatch, first: int, payload: bytes) -> None:
    """Add an unmasked frame to ``batch``; a big payload is not copied."""
    size = len(payload)
    if size < SHORT:
        batch.append_prefixed((first << 8) | size, 2, False, payload)  # noqa: FBT003 - internal, hot
    elif size <= MAX_SHORT:
        batch.append_prefixed((first << 24) | (SHORT << 16) | size, 4, False, payload)  # noqa: FBT003 - the same
    else:
        batch.append(head(first, size))
        batch.append(payload)
