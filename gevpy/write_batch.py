"""What one read produced, gathered so that it leaves in one write.

One batch serves a whole loop: only one connection at a time is inside its read. Small pieces are copied together into
one block; a piece that comes alone, or is big, is kept as it is and never copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import cython
except ImportError:
    from gevpy import _cython_shim as cython

if cython.compiled:
    from cython.cimports.cpython.bytearray import PyByteArray_AS_STRING
    from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
    from cython.cimports.libc.string import memcpy

if TYPE_CHECKING:
    from gevpy.buffers import BytesLike

__all__ = ["WriteBatch", "as_bytes"]

BIG_PIECE_BYTES = 16 * 1024  # from here on, a system call's share in writing it apart is below that of copying it
FIRST_CAPACITY = 64 * 1024


def as_bytes(data: BytesLike) -> bytes:
    """Give ``data`` as ``bytes``: itself if it is, else a copy, so that later changes don't matter.

    Raises:
        TypeError: it isn't bytes-like (a number, a str, None, ...).
    """
    if type(data) is bytes:
        return data
    return bytes(memoryview(data))


class WriteBatch:
    """Gathers pieces of output; `take` gives them all and begins anew.

    Attributes:
        length: the bytes gathered.
    """

    __slots__ = ("_alone", "_block", "_capacity", "_pieces", "_small", "_used", "length")

    def __init__(self) -> None:
        """Begin empty."""
        self.length = 0
        self._alone: bytes | None = None  # the first piece, as long as it is the only one
        self._pieces: list[bytes] | None = None  # blocks and big pieces, in order
        self._small = bytearray()  # small pieces after those, copied together
        self._capacity = 0
        self._used = 0
        if cython.compiled:
            self._adopt(bytearray(FIRST_CAPACITY))

    def append(self, data: BytesLike) -> None:
        """Add a piece; what isn't ``bytes`` is copied now.

        Raises:
            TypeError: ``data`` isn't bytes-like.
        """
        piece = data if type(data) is bytes else as_bytes(data)
        size = len(piece)
        if size == 0:
            return
        if self.length == 0:
            self._alone = piece
            self.length = size
            return
        if self._alone is not None:
            self._add_alone()
        self.length += size
        self._add(piece, size)

    def append_prefixed(self, value: int, width: int, little_endian: bool, body: bytes) -> None:  # noqa: FBT001
        """Add an unsigned integer of ``width`` bytes, which must hold it, and ``body`` behind it."""
        size = len(body)
        if not cython.compiled and size < BIG_PIECE_BYTES:
            piece = value.to_bytes(width, "little" if little_endian else "big") + body
            self.length += len(piece)
            if self.length == len(piece):
                self._alone = piece
                return
            if self._alone is not None:
                self._add_alone()
            self._small += piece
            self._used += len(piece)
            return
        if self._alone is not None:
            self._add_alone()
        self.length += width + size
        if cython.compiled:
            if width > self._capacity - self._used:
                self._make_room(width)
            room = self._block + self._used
            if little_endian:
                for index in range(width):
                    room[index] = value & 0xFF
                    value >>= 8
            else:
                for index in range(width - 1, -1, -1):
                    room[index] = value & 0xFF
                    value >>= 8
        else:
            self._small += value.to_bytes(width, "little" if little_endian else "big")
        self._used += width
        self._add(body, size)

    def take(self) -> bytes | list[bytes]:
        """Give all that was gathered, in order, and begin anew.

        Returns:
            One ``bytes``, or a list of several where that saves copying a big piece.
        """
        self.length = 0
        if self._alone is not None:
            alone = self._alone
            self._alone = None
            return alone
        if self._pieces is None:
            return self._take_small()
        if self._used:
            self._pieces.append(self._take_small())
        pieces = self._pieces
        self._pieces = None
        return pieces

    def clear(self) -> None:
        """Drop all that was gathered."""
        self.take()

    def _add_alone(self) -> None:
        piece = self._alone
        self._alone = None
        assert piece is not None, "called only while one piece stands alone"
        self._add(piece, len(piece))

    def _add(self, piece: bytes, size: int) -> None:
        if size < BIG_PIECE_BYTES:
            if cython.compiled:
                if size > self._capacity - self._used:
                    self._make_room(size)
                memcpy(self._block + self._used, PyBytes_AS_STRING(piece), size)
            else:
                self._small += piece
            self._used += size
        else:
            if self._pieces is None:
                self._pieces = []
            if self._used:
                self._pieces.append(self._take_small())
            self._pieces.append(piece)

    def _take_small(self) -> bytes:
        block: bytes
        if cython.compiled:
            block = PyBytes_FromStringAndSize(cython.cast(cython.p_char, self._block), self._used)
            if self._capacity > 4 * FIRST_CAPACITY:
                self._adopt(bytearray(FIRST_CAPACITY))
        else:
            block = bytes(self._small)
            self._small = bytearray()
        self._used = 0
        return block

    def _make_room(self, size: int) -> None:
        """Grow the block for ``size`` more bytes of small pieces; the compiled build's only."""
        bigger = bytearray(max(2 * self._capacity, self._used + size))
        bigger[: self._used] = memoryview(self._small)[: self._used]
        self._adopt(bigger)

    def _adopt(self, block: bytearray) -> None:
        self._small = block
        self._capacity = len(block)
        if cython.compiled:
            self._block = cython.cast(cython.p_uchar, PyByteArray_AS_STRING(block))
