cimport cython

from gevpy.protocol.base cimport Protocol
from gevpy.read_side cimport ReadSide
from gevpy.ring_buffer cimport RingBuffer
from gevpy.websocket.frames cimport append_frame
from gevpy.websocket.session cimport Session
from gevpy.write_batch cimport WriteBatch

cdef int FIN_TEXT
cdef int FIN_BINARY
cdef int FIN_CLOSE
cdef int FIN_PONG
cdef int OPENING
cdef int OPEN
cdef int CLOSE_RECEIVED
cdef int RSV1
cdef int SHORT

cdef object _seen_type

@cython.locals(session=Session)
cdef Session _session_of(object conn)

cdef bytes _bytes_of(object data)

cdef class WebSocketProtocol(Protocol):
    cdef readonly Py_ssize_t max_message_bytes
    cdef readonly Py_ssize_t max_frame_bytes
    cdef readonly long long inflate_bytes_per_s
    cdef readonly long long max_controls_per_s
    cdef readonly object pings
    cdef readonly object gate
    cdef object _routes
    cdef bint _is_plain
    cdef bint _masks

    @cython.locals(session=Session)
    cpdef object next_message(self, object conn, RingBuffer buffer)
    cpdef object unpacket(self, object conn, RingBuffer buffer)
    @cython.locals(session=Session)
    cdef object _take(self, object conn, RingBuffer buffer)
    cdef object _follow_up(self, object conn, Session session, RingBuffer buffer, object message)
    cpdef Py_ssize_t max_buffered_bytes(self) except -1
    cpdef object packet(self, object conn, object data)
    @cython.locals(session=Session, first=cython.int, payload=bytes, size=Py_ssize_t)
    cpdef packet_into(self, object conn, object data, WriteBatch batch)
