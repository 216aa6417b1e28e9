cimport cython

from gevpy.protocol.base cimport Protocol, require_bytes
from gevpy.ring_buffer cimport RingBuffer
from gevpy.write_batch cimport WriteBatch

cdef class LengthPrefixedProtocol(Protocol):
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t offset
    cdef readonly Py_ssize_t adjustment
    cdef readonly Py_ssize_t strip
    cdef readonly str byteorder
    cdef public Py_ssize_t max_frame_bytes
    cdef Py_ssize_t _header
    cdef Py_ssize_t _slack
    cdef bint _little
    cdef long long _largest

    cpdef object unpacket(self, object conn, RingBuffer buffer)
    cpdef object next_message(self, object conn, RingBuffer buffer)
    @cython.locals(have=Py_ssize_t, value="unsigned long long", body=Py_ssize_t, total=Py_ssize_t)
    cdef bytes _frame(self, RingBuffer buffer)
    @cython.locals(body=bytes)
    cpdef object packet(self, object conn, object data)
    @cython.locals(body=bytes, value=cython.longlong)
    cpdef packet_into(self, object conn, object data, WriteBatch batch)
    cpdef Py_ssize_t max_buffered_bytes(self) except -1
    @cython.locals(value=Py_ssize_t)
    cdef Py_ssize_t _length_of(self, bytes body) except -1
    cdef object _too_large(self, unsigned long long actual)
    cdef object _too_short(self, unsigned long long value)
