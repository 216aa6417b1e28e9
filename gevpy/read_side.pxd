cimport cython

from gevpy.host cimport Host
from gevpy.protocol.base cimport Protocol
from gevpy.ring_buffer cimport RingBuffer
from gevpy.stats cimport Stats
from gevpy.write_batch cimport WriteBatch
from gevpy.write_side cimport WriteSide

cdef int BY_APPLICATION
cdef int BY_OUTPUT
cdef int BY_INBOX
cdef int BY_TURN
cdef int BY_CONNECT
cdef int BY_CLOSE
cdef int BY_UPGRADE
cdef int BY_PROTOCOL
cdef int WATCHED
cdef int LOOK_TICKS
cdef Py_ssize_t MESSAGES_PER_TURN
cdef int UNPACKET
cdef int ON_MESSAGE
cdef int PACKET
cdef tuple STEPS

cdef class ReadSide(WriteSide):
    cdef public object protocol_state
    cdef RingBuffer _ring
    cdef public object _inbox
    cdef int _paused
    cdef long long _frame_tick
    cdef public bint _eof
    cdef public bint _heard
    cdef public bint _expects_farewell
    cdef int _step

    @cython.locals(before=Py_ssize_t, passed_high=bint, started=double)
    cdef _handle_input(self, RingBuffer ring)
    @cython.locals(turn_ends=cython.longlong, protocol=Protocol, stats=Stats, batch=WriteBatch)
    cdef _handle_frames(self, RingBuffer ring)
    @cython.locals(before=Py_ssize_t)
    cdef _hear_farewell(self, RingBuffer ring)
    cdef _take_reply(self, object reply)
    cdef _keep_rest(self, RingBuffer ring, Py_ssize_t before)
    cdef _begin_frame(self)
    cdef _queue_message(self, tuple message)
    cpdef _pause(self, int cause)
    cpdef _resume(self, int cause)
