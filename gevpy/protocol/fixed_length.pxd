from gevpy.protocol.base cimport Protocol, require_bytes
from gevpy.ring_buffer cimport RingBuffer

cdef class FixedLengthProtocol(Protocol):
    cdef readonly Py_ssize_t length
    cdef public Py_ssize_t max_frame_bytes
    cpdef object unpacket(self, object conn, RingBuffer buffer)
    cpdef object packet(self, object conn, object data)
