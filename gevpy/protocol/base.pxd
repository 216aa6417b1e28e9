cimport cython

from gevpy.ring_buffer cimport RingBuffer
from gevpy.write_batch cimport WriteBatch, as_bytes

cdef class Protocol:
    cdef object bytes_ctx
    cdef object text_ctx
    cpdef object unpacket(self, object conn, RingBuffer buffer)
    cpdef object packet(self, object conn, object data)
    cpdef packet_into(self, object conn, object data, WriteBatch batch)
    cpdef Py_ssize_t max_buffered_bytes(self) except -1
    cpdef object next_message(self, object conn, RingBuffer buffer)
    @cython.locals(before=Py_ssize_t, limit=Py_ssize_t)
    cpdef tuple decode(self, object conn, RingBuffer buffer)

cpdef bytes require_bytes(object data)
