cimport cython

from gevpy.protocol.base cimport Protocol, require_bytes
from gevpy.ring_buffer cimport RingBuffer
from gevpy.write_batch cimport WriteBatch

cdef int CARRIAGE_RETURN
cdef Py_ssize_t FIRST_WINDOW

cdef class DelimiterProtocol(Protocol):
    cdef readonly tuple delimiters
    cdef readonly bint strip
    cdef public Py_ssize_t max_frame_bytes
    cdef Py_ssize_t _longest

    @cython.locals(start=Py_ssize_t, position=Py_ssize_t, length=Py_ssize_t, size=Py_ssize_t,
                   found=Py_ssize_t, stop=Py_ssize_t, window=Py_ssize_t, at_end=bint, delimiter=bytes)
    cpdef object unpacket(self, object conn, RingBuffer buffer)
    cpdef object packet(self, object conn, object data)
    cpdef Py_ssize_t max_buffered_bytes(self) except -1

cdef class LineProtocol(Protocol):
    cdef public Py_ssize_t max_frame_bytes

    @cython.locals(position=Py_ssize_t, ending=Py_ssize_t)
    cpdef object unpacket(self, object conn, RingBuffer buffer)
    cpdef object packet(self, object conn, object data)
    cpdef packet_into(self, object conn, object data, WriteBatch batch)
    cpdef Py_ssize_t max_buffered_bytes(self) except -1
