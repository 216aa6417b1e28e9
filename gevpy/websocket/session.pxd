cimport cython

from gevpy.ring_buffer cimport RingBuffer
from gevpy.websocket.frames cimport peek_payload, take_payload, take_short, take_text, turned

cdef int OPEN
cdef int CONTROL
cdef int FIN
cdef int FIN_BINARY
cdef int FIN_TEXT
cdef int KEY_BYTES
cdef int MASKED
cdef int OPCODE
cdef int RSV
cdef int RSV1
cdef int SHORT
cdef int SHORT_HEADER
cdef int LONG_HEADER
cdef int SHORTEST_MASKED
cdef unsigned long long LONGEST
cdef long long WORK_PER_TURN

cdef class Session:
    cdef public bint is_client
    cdef public int state
    cdef public object request
    cdef public object subprotocol
    cdef public object codec
    cdef public object handler
    cdef public object opening
    cdef public bint is_control
    cdef public object close_code
    cdef public str close_text
    cdef public object words
    cdef public dict pings
    cdef public long long ping_tick
    cdef public long long pong_tick
    cdef public object owed
    cdef public long long owed_tick
    cdef public long long work
    cdef public long long inflated
    cdef public long long inflated_tick
    cdef Py_ssize_t _limit
    cdef object _assembly
    cdef object _check
    cdef long long _controls
    cdef long long _control_tick

    cdef int _first
    cdef Py_ssize_t _header
    cdef Py_ssize_t _size
    cdef unsigned long long _key

    cpdef object receive(self, RingBuffer ring)
    @cython.locals(have=Py_ssize_t, first=cython.int, second=cython.int, size=Py_ssize_t, header=Py_ssize_t)
    cdef bint _parse(self, RingBuffer ring) except -1
    cdef object _check_beginning(self, int first, Py_ssize_t size)
    @cython.locals(size=cython.ulonglong)
    cdef Py_ssize_t _long_size(self, RingBuffer ring, Py_ssize_t marker) except -2
    @cython.locals(room=Py_ssize_t, so_far=Py_ssize_t)
    cdef object _check_size(self, int first, Py_ssize_t size)
    cdef object _wait(self, RingBuffer ring)
    @cython.locals(new=Py_ssize_t)
    cdef object _look(self, object check, RingBuffer ring)
    @cython.locals(at=Py_ssize_t, have=Py_ssize_t, first=cython.int, size=Py_ssize_t, storage=cython.p_uchar)
    cpdef object receive_short(self, RingBuffer ring)
    cdef str _take_text(self, RingBuffer ring, Py_ssize_t header, Py_ssize_t size, unsigned long long key)
    cdef str _take_short_text(self, RingBuffer ring, Py_ssize_t size)
