"""A growable, bounded ring of bytes: what a connection reads into and a protocol takes frames from.

Bytes are written at the tail and taken from the head; both chase each other round one `bytearray`, so that
taking a frame moves no memory. The ring doubles when it is full, never past ``max_capacity``, and once it is
emptied, a storage of four times its first size or more goes back to that.

Three things go beyond a plain queue:

* **Look-ahead** (gev's ``Virtual*``): a second cursor reads on without consuming; ``virtual_flush`` makes that
  final, ``virtual_revert`` forgets it. Anything else that consumes forgets it, too.
* **Lending**: `writable` hands out free room as a `memoryview` for ``recv_into``, `commit` says how much
  of it was filled.
* **Reserving**: a protocol that knows how long the frame will be says so (`reserve`), and the next lend has room
  for it. The peer is believed only in proportion to what it has really sent.

Integers are big-endian, as on the wire. In the compiled build they are read through a C pointer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import cython
except ImportError:
    from gevpy import _cython_shim as cython

from gevpy.errors import BufferOverflow, BufferUnderflow

if cython.compiled:
    from cython.cimports.cpython.bytearray import PyByteArray_AS_STRING
    from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
    from cython.cimports.libc.string import memchr, memcpy, memmove

if TYPE_CHECKING:
    from gevpy.buffers import BytesLike

__all__ = ["RingBuffer"]

DEFAULT_CAPACITY = 4096
DEFAULT_MAX_CAPACITY = 16 * 1024 * 1024
FULL_LEND_BYTES = 256 * 1024  # a ring that keeps being filled to the brim grows up to here by itself
BELIEVED_BYTES = 64 * 1024  # a reserve of this much is believed at once,
BELIEVED_FACTOR = 8  # more only up to so many times what has arrived
MOST_BYTES = 1 << 48  # no memory is larger, and no sum of two such sizes overflows


class RingBuffer:
    r"""A growable, bounded ring of bytes.

    Not thread-safe: one loop, or one thread, at a time. What `read`, `peek`, `peek_all` and `virtual_read` return is
    a copy and may be kept.

    Args:
        capacity: bytes to begin with and to shrink back to, at least 1. Default 4096, gev's own.
        max_capacity: the bound in bytes; growing past it is a `BufferOverflow`. Default 16 MiB; None lifts the bound.

    Raises:
        ValueError: ``capacity`` is below 1 or above ``max_capacity``.

    Source: gev's ``ringbuffer`` package, with growth bounded and look-ahead kept right across growth.

    Example:
        >>> ring = RingBuffer()
        >>> ring.write(b"\x00\x05hello")
        >>> length = ring.peek_uint16()
        >>> ring.skip(2)
        >>> ring.read(length)
        b'hello'
    """

    __slots__ = (
        "_ahead",
        "_capacity",
        "_data",
        "_first_capacity",
        "_head",
        "_length",
        "_lent",
        "_max_capacity",
        "_storage",
        "_wanted",
        "pooled",
        "scanned",
    )

    def __init__(self, capacity: int = DEFAULT_CAPACITY, max_capacity: int | None = DEFAULT_MAX_CAPACITY) -> None:
        """Make an empty ring."""
        if capacity < 1:
            msg = f"capacity must be at least 1, not {capacity}"
            raise ValueError(msg)
        if max_capacity is not None and max_capacity < capacity:
            msg = f"max_capacity ({max_capacity}) must not be below capacity ({capacity})"
            raise ValueError(msg)
        self._first_capacity = capacity
        self._max_capacity = -1 if max_capacity is None else max_capacity
        self._head = 0
        self._length = 0
        self._ahead = 0
        self._wanted = 0
        self._lent = 0
        self.scanned = 0  # bytes from the head that a protocol has searched in vain
        self.pooled = False  # a pool decides what becomes of large storage
        self._adopt(bytearray(capacity))

    # -- sizes -------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Bytes that can be read."""
        return self._length

    def __bool__(self) -> bool:
        """Whether there is anything to read."""
        return self._length != 0

    def __repr__(self) -> str:
        """Show sizes, never the content."""
        return f"<RingBuffer {self._length} of {self._capacity} bytes>"

    @property
    def capacity(self) -> int:
        """Bytes the ring can hold without growing."""
        return self._capacity

    @property
    def max_capacity(self) -> int | None:
        """The bound in bytes, or None for none."""
        return None if self._max_capacity < 0 else self._max_capacity

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read."""
        return self._length == 0

    # -- writing -----------------------------------------------------------------------------------

    def write(self, data: BytesLike) -> None:
        """Append a copy of ``data`` (any contiguous bytes-like object), growing as needed.

        Raises:
            BufferOverflow: it would not fit within ``max_capacity``; nothing was written.
        """
        if cython.compiled and type(data) is bytes:
            self._write_bytes(data)
            return
        view = memoryview(data).cast("B")
        size = len(view)
        if size > self._capacity - self._length:
            self._grow(self._length + size)
        tail = self._tail()
        first = min(size, self._capacity - tail)
        self._storage[tail : tail + first] = view[:first]
        if first < size:
            self._storage[: size - first] = view[first:]
        self._length += size
        self._lent = 0  # a lend ends with the next change

    def _write_bytes(self, data: bytes) -> None:
        """Append bytes through pointers; the compiled build's only."""
        size = len(data)
        if size > self._capacity - self._length:
            self._grow(self._length + size)
        tail = self._tail()
        first = min(size, self._capacity - tail)
        if cython.compiled:
            source = PyBytes_AS_STRING(data)
            memcpy(self._data + tail, source, first)
            memcpy(self._data, source + first, size - first)
        self._length += size
        self._lent = 0

    def reserve(self, total: int) -> None:
        """Ask that the next lend make room for ``total`` bytes in all, those already here included.

        A hint, forgotten at the next consumption. It is believed up to 64 KiB, or 8 times what has arrived,
        so that a header alone can't make the ring allocate what the peer never sends.

        Raises:
            BufferOverflow: ``total`` is above ``max_capacity``.
        """
        if 0 <= self._max_capacity < total:
            raise BufferOverflow("ring buffer bound", limit=self._max_capacity, actual=total)
        self._wanted = total

    def writable(self, at_least: int = 1) -> memoryview:
        """Lend the free room behind the tail, at least ``at_least`` bytes of it in one piece, to be filled.

        Follow with `commit`; any other change of the ring ends the lend. A lend that was filled to the brim makes the
        next one twice as large, up to 256 KiB.

        Raises:
            BufferOverflow: there is no such room within ``max_capacity``.
        """
        if at_least > MOST_BYTES:
            raise BufferOverflow("no memory is that large", limit=MOST_BYTES, actual=at_least)
        believed = min(self._wanted, max(BELIEVED_BYTES, BELIEVED_FACTOR * self._length))
        if believed > self._length:
            at_least = max(at_least, believed - self._length)
        if self._length == 0:
            self._head = 0
        if self._length + at_least > self._capacity:
            self._grow(self._length + at_least)
        if self._contiguous_room() < max(at_least, (self._capacity - self._length) // 2):
            self._compact()
        tail = self._tail()
        self._lent = self._contiguous_room()
        return memoryview(self._storage)[tail : tail + self._lent]

    def commit(self, size: int) -> None:
        """Take the first ``size`` bytes of the room lent last as written.

        Raises:
            ValueError: more than was lent.
        """
        if not 0 <= size <= self._lent:
            msg = f"{size} bytes committed of {self._lent} lent"
            raise ValueError(msg)
        self._length += size
        if size == self._lent and self._capacity < FULL_LEND_BYTES:
            self._wanted = max(self._wanted, self._bounded(2 * self._capacity))
        self._lent = 0

    def restart(self, size: int) -> None:
        """Begin anew, with the first ``size`` bytes of the whole storage as the content.

        For a buffer that is lent whole, again and again, through the one view that `writable` gave while it was empty:
        no new view for each read.

        Raises:
            ValueError: ``size`` is negative or above the capacity.
        """
        if not 0 <= size <= self._capacity:
            msg = f"size must be 0 to {self._capacity}, not {size}"
            raise ValueError(msg)
        self._head = 0
        self._lent = 0
        self._ahead = 0
        self._wanted = 0
        self.scanned = 0
        self._length = size

    def absorb(self, other: RingBuffer) -> None:
        """Take over all that ``other`` holds, with what was reserved and searched there; ``other`` is empty then.

        Raises:
            BufferOverflow: it would not fit; nothing was taken.
        """
        wanted = other._wanted + self._length if other._wanted else 0
        if self._length == 0:
            self.scanned = other.scanned
        first = min(other._length, other._capacity - other._head)
        source = memoryview(other._storage)
        total = self._length + other._length
        if total > self._capacity:
            self._grow(max(total, self._bounded(min(wanted, BELIEVED_FACTOR * total))))
        self.write(source[other._head : other._head + first])
        self.write(source[: other._length - first])
        other.clear()
        self._wanted = self._bounded(wanted)

    # -- reading -----------------------------------------------------------------------------------

    def peek(self, size: int) -> bytes:
        """Give the next ``size`` bytes and leave them in.

        Raises:
            BufferUnderflow: there are fewer.
        """
        self._need(size)
        return self._copy(0, size)

    def peek_all(self) -> bytes:
        """Give all bytes and leave them in."""
        return self._copy(0, self._length)

    def read(self, size: int) -> bytes:
        """Take the next ``size`` bytes.

        Raises:
            BufferUnderflow: there are fewer; nothing was taken.
        """
        self._need(size)
        data = self._copy(0, size)
        self._consume(size)
        return data

    def skip(self, size: int) -> None:
        """Drop the next ``size`` bytes.

        Raises:
            BufferUnderflow: there are fewer; nothing was dropped.
        """
        self._need(size)
        self._consume(size)

    def clear(self) -> None:
        """Drop everything."""
        self._consume(self._length)

    def find(self, needle: bytes, start: int = 0, end: int = -1) -> int:
        """Give the offset of the first ``needle`` that lies between ``start`` and ``end``, or -1.

        Offsets count from the head. An ``end`` of -1 is the end of the content. An empty needle is at ``start``, if
        that is within the content.

        Raises:
            ValueError: ``start`` is negative.
        """
        if start < 0:
            msg = f"start must not be negative: {start}"
            raise ValueError(msg)
        length = self._length if end < 0 else min(end, self._length)
        if start > length:
            return -1
        first = min(length, self._capacity - self._head)  # bytes before the storage's end
        if start < first:
            found = self._search(needle, self._head + start, self._head + first)
            if found >= 0:
                return found - self._head
        if first == length:
            return start if not needle else -1
        seam = max(start, first - len(needle) + 1, 0)  # a match may begin before the end and end after it
        if seam < first:
            joint = self._copy(seam, min(length, first + len(needle) - 1) - seam)
            found = joint.find(needle)
            if found >= 0:
                return seam + found
        found = self._search(needle, max(start - first, 0), length - first)
        return found + first if found >= 0 else -1

    def peek_uint8(self, offset: int = 0) -> int:
        """Give the byte at ``offset`` as an unsigned integer. Raises `BufferUnderflow`."""
        return self.peek_uint(1, offset)

    def peek_uint16(self, offset: int = 0) -> int:
        """Give two bytes at ``offset`` as an unsigned big-endian integer. Raises `BufferUnderflow`."""
        return self.peek_uint(2, offset)

    def peek_uint32(self, offset: int = 0) -> int:
        """Give four bytes at ``offset`` as an unsigned big-endian integer. Raises `BufferUnderflow`."""
        return self.peek_uint(4, offset)

    def peek_uint64(self, offset: int = 0) -> int:
        """Give eight bytes at ``offset`` as an unsigned big-endian integer. Raises `BufferUnderflow`."""
        return self.peek_uint(8, offset)

    def peek_uint(self, size: int, offset: int = 0, *, little_endian: bool = False) -> int:
        """Give ``size`` (1 to 8) bytes at ``offset`` as an unsigned integer, big-endian unless told otherwise.

        Raises:
            BufferUnderflow: the bytes aren't all there.
            ValueError: ``size`` is out of range, or ``offset`` negative.
        """
        if not 1 <= size <= 8 or offset < 0:  # noqa: PLR2004 - the widths of an integer in bytes
            msg = f"size must be 1 to 8 and offset not negative, not {size} and {offset}"
            raise ValueError(msg)
        if offset + size > self._length:
            raise BufferUnderflow("ring buffer too short", limit=self._length, actual=offset + size)
        return self._uint(offset, size, little_endian)

    def take(self, offset: int, size: int) -> bytes:
        """Drop ``offset`` bytes and take the next ``size``, in one step.

        Raises:
            BufferUnderflow: they aren't all there; nothing was taken.
        """
        if offset < 0 or size < 0:
            msg = f"offset and size must not be negative: {offset}, {size}"
            raise ValueError(msg)
        if offset > self._length or size > self._length - offset:
            raise BufferUnderflow("ring buffer too short", limit=self._length, actual=sum((offset, size)))
        begin = self._head + offset
        if cython.compiled or begin + size > self._capacity:
            data = self._copy(offset, size)
        else:
            data = bytes(self._storage[begin : begin + size])  # as _copy does; without a compiler, calls are what costs
        self._consume(offset + size)
        return data

    # -- look-ahead ----------------------------------------------------------------------------------------------

    @property
    def virtual_length(self) -> int:
        """Bytes that `virtual_read` can still give."""
        return self._length - self._ahead

    def virtual_read(self, size: int) -> bytes:
        """Read on behind what was looked at already, without consuming.

        Raises:
            BufferUnderflow: fewer than ``size`` bytes are ahead; the cursor stays.
        """
        if size < 0:
            msg = f"size must not be negative: {size}"
            raise ValueError(msg)
        if size > self._length - self._ahead:
            raise BufferUnderflow("ring buffer too short", limit=self._length - self._ahead, actual=size)
        data = self._copy(self._ahead, size)
        self._ahead += size
        return data

    def virtual_flush(self) -> None:
        """Consume all that was looked at."""
        self._consume(self._ahead)

    def virtual_revert(self) -> None:
        """Forget the look-ahead: the next `virtual_read` begins at the head again."""
        self._ahead = 0

    # -- inside ------------------------------------------------------------------------------------

    def _tail(self) -> int:
        tail = self._head + self._length
        return tail if tail < self._capacity else tail - self._capacity

    def _contiguous_room(self) -> int:
        end = self._head + self._length
        return self._capacity - end if end < self._capacity else self._capacity - self._length

    def _need(self, size: int) -> None:
        if size < 0:
            msg = f"size must not be negative: {size}"
            raise ValueError(msg)
        if size > self._length:
            raise BufferUnderflow("ring buffer too short", limit=self._length, actual=size)

    def _copy(self, offset: int, size: int) -> bytes:
        begin = self._head + offset
        if begin >= self._capacity:
            begin -= self._capacity
        first = self._capacity - begin
        data: bytes
        if cython.compiled:
            if size <= first:
                data = PyBytes_FromStringAndSize(cython.cast(cython.p_char, self._data + begin), size)
                return data
            data = PyBytes_FromStringAndSize(cython.NULL, size)  # filled in below
            target = PyBytes_AS_STRING(data)
            memcpy(target, self._data + begin, first)
            memcpy(target + first, self._data, size - first)
            return data
        if size <= first:
            return bytes(self._storage[begin : begin + size])
        return bytes(self._storage[begin:]) + bytes(self._storage[: size - first])

    def _byte(self, offset: int) -> int:
        at = self._head + offset
        if at >= self._capacity:
            at -= self._capacity
        return self._data[at] if cython.compiled else self._storage[at]

    def _uint(self, offset: int, size: int, little_endian: bool) -> int:  # noqa: FBT001 - internal, one call shape
        if cython.compiled:
            value = 0
            position = self._head + offset
            if position + size <= self._capacity and not little_endian:
                for index in range(size):
                    value = (value << 8) | self._data[position + index]
                return value
            for index in range(size):
                at = position + (size - 1 - index if little_endian else index)
                value = (value << 8) | self._data[at if at < self._capacity else at - self._capacity]
            return value
        begin = self._head + offset
        if begin + size <= self._capacity:
            return int.from_bytes(self._storage[begin : begin + size], "little" if little_endian else "big")
        return int.from_bytes(self._copy(offset, size), "little" if little_endian else "big")

    def _search(self, needle: bytes, begin: int, end: int) -> int:
        """Give the place of ``needle`` in a part of the storage, or -1."""
        if cython.compiled and len(needle) == 1:  # a line's end: not by way of Python's argument parsing
            if begin >= end:
                return -1
            hit = cython.cast(cython.p_uchar, memchr(self._data + begin, needle[0], end - begin))
            return hit - self._data if hit else -1
        return self._storage.find(needle, begin, end)

    def _consume(self, size: int) -> None:
        self._ahead = 0
        self._wanted = 0
        self._lent = 0
        self.scanned = 0
        self._length -= size
        if self._length:
            self._head += size
            if self._head >= self._capacity:
                self._head -= self._capacity
        else:
            self._head = 0
            if self._capacity >= 4 * self._first_capacity and not self.pooled:
                self._adopt(bytearray(self._first_capacity))

    def _grow(self, needed: int) -> None:
        if 0 <= self._max_capacity < needed:
            raise BufferOverflow("ring buffer bound", limit=self._max_capacity, actual=needed)
        capacity = self._capacity
        while capacity < needed:
            capacity *= 2
        self._move_to(bytearray(self._bounded(capacity)))

    def _bounded(self, capacity: int) -> int:
        return capacity if self._max_capacity < 0 else min(capacity, self._max_capacity)

    def _compact(self) -> None:
        end = self._head + self._length
        if end > self._capacity:
            self._move_to(bytearray(self._capacity))
            return
        if cython.compiled:
            memmove(self._data, self._data + self._head, self._length)
        else:
            self._storage[: self._length] = self._storage[self._head : end]
        self._head = 0

    def _move_to(self, storage: bytearray) -> None:
        first = min(self._length, self._capacity - self._head)
        storage[:first] = memoryview(self._storage)[self._head : self._head + first]
        if first < self._length:
            storage[first : self._length] = memoryview(self._storage)[: self._length - first]
        self._head = 0
        self._adopt(storage)

    def _adopt(self, storage: bytearray) -> None:
        self._lent = 0
        self._storage = storage
        self._capacity = len(storage)
        if cython.compiled:
            self._data = cython.cast(cython.p_uchar, PyByteArray_AS_STRING(storage))
