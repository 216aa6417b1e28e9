cimport cython

cdef Py_ssize_t FULL_LEND_BYTES
cdef Py_ssize_t BELIEVED_BYTES
cdef Py_ssize_t BELIEVED_FACTOR
cdef Py_ssize_t MOST_BYTES

@cython.final
cdef class RingBuffer:
    cdef bytearray _storage
    cdef unsigned char* _data
    cdef readonly Py_ssize_t _capacity
    cdef Py_ssize_t _first_capacity
    cdef Py_ssize_t _max_capacity
    cdef Py_ssize_t _head
    cdef Py_ssize_t _ahead
    cdef Py_ssize_t _wanted
    cdef Py_ssize_t _lent
    cdef readonly Py_ssize_t _length
    cdef public Py_ssize_t scanned
    cdef public bint pooled

    @cython.locals(size=Py_ssize_t, tail=Py_ssize_t, first=Py_ssize_t, source=cython.p_char)
    cdef _write_bytes(self, bytes data)
    cpdef reserve(self, Py_ssize_t total)
    @cython.locals(believed=Py_ssize_t, tail=Py_ssize_t)
    cpdef writable(self, Py_ssize_t at_least=*)
    cpdef commit(self, Py_ssize_t size)
    @cython.locals(wanted=Py_ssize_t, first=Py_ssize_t, total=Py_ssize_t)
    cpdef absorb(self, RingBuffer other)
    cpdef restart(self, Py_ssize_t size)
    cpdef bytes peek(self, Py_ssize_t size)
    cpdef bytes peek_all(self)
    cpdef bytes read(self, Py_ssize_t size)
    cpdef skip(self, Py_ssize_t size)
    cpdef clear(self)
    @cython.locals(length=Py_ssize_t, first=Py_ssize_t, found=Py_ssize_t, seam=Py_ssize_t)
    cpdef Py_ssize_t find(self, bytes needle, Py_ssize_t start=*, Py_ssize_t end=*) except -2
    cpdef bytes take(self, Py_ssize_t offset, Py_ssize_t size)

    @cython.locals(tail=Py_ssize_t)
    cdef Py_ssize_t _tail(self) noexcept
    @cython.locals(end=Py_ssize_t)
    cdef Py_ssize_t _contiguous_room(self) noexcept
    cdef int _need(self, Py_ssize_t size) except -1
    @cython.locals(begin=Py_ssize_t, first=Py_ssize_t, target=cython.p_char, data=bytes)
    cdef bytes _copy(self, Py_ssize_t offset, Py_ssize_t size)
    @cython.locals(at=Py_ssize_t)
    cdef int _byte(self, Py_ssize_t offset) noexcept
    @cython.locals(value=cython.ulonglong, position=Py_ssize_t, at=Py_ssize_t, index=Py_ssize_t)
    cdef unsigned long long _uint(self, Py_ssize_t offset, Py_ssize_t size, bint little_endian) noexcept
    @cython.locals(hit=cython.p_uchar)
    cdef Py_ssize_t _search(self, bytes needle, Py_ssize_t begin, Py_ssize_t end) except -2
    cdef int _consume(self, Py_ssize_t size) except -1
    cdef Py_ssize_t _bounded(self, Py_ssize_t capacity) noexcept
    @cython.locals(capacity=Py_ssize_t)
    cdef _grow(self, Py_ssize_t needed)
    @cython.locals(end=Py_ssize_t)
    cdef _compact(self)
    @cython.locals(first=Py_ssize_t)
    cdef _move_to(self, bytearray storage)
    cdef int _adopt(self, bytearray storage) except -1
