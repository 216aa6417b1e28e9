from gevpy.protocol.base cimport Protocol, require_bytes
from gevpy.ring_buffer cimport RingBuffer
from gevpy.write_batch cimport WriteBatch

cdef class RawProtocol(Protocol):
    cpdef object unpacket(self, object conn, RingBuffer buffer)
    cpdef object next_message(self, object conn, RingBuffer buffer)
    cpdef object packet(self, object conn, object data)
    cpdef packet_into(self, object conn, object data, WriteBatch batch)
