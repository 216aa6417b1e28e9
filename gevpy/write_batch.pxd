cimport cython

cdef Py_ssize_t BIG_PIECE_BYTES
cdef Py_ssize_t FIRST_CAPACITY

cpdef bytes as_bytes(object data)

@cython.final
cdef class WriteBatch:
    cdef readonly Py_ssize_t length
    cdef bytes _alone
    cdef list _pieces
    cdef bytearray _small
    cdef unsigned char* _block
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _used

    @cython.locals(piece=bytes, size=Py_ssize_t)
    cpdef append(self, object data)
    @cython.locals(size=Py_ssize_t, room=cython.p_uchar, index=Py_ssize_t)
    cpdef append_prefixed(self, unsigned long long value, Py_ssize_t width, bint little_endian, bytes body)
    cpdef object take(self)
    cpdef clear(self)
    cdef int _add_alone(self) except -1
    cdef int _add(self, bytes piece, Py_ssize_t size) except -1
    cdef bytes _take_small(self)
    cdef int _make_room(self, Py_ssize_t size) except -1
    cdef int _adopt(self, bytearray block) except -1
