cimport cython

from gevpy.host cimport Host
from gevpy.protocol.base cimport Protocol
from gevpy.stats cimport Stats
from gevpy.write_batch cimport WriteBatch, as_bytes

cdef Py_ssize_t JOIN_BYTES
cdef object get_ident  # found without a look-up

cdef class WriteSide:
    cdef Host _host
    cdef public Protocol _protocol
    cdef public object _transport
    cdef public object _reason
    cdef public bint _connected
    cdef public bint _closing
    cdef public bint _said_farewell
    cdef public bint _lost
    cdef public bint _write_shut
    cdef public bint _corked
    cdef public bint _busy
    cdef public bint _congested
    cdef object _pending
    cdef long long _numbered
    cdef object _unwritten
    cdef Py_ssize_t _pending_bytes
    cdef public Py_ssize_t _foreign_bytes
    cdef public long long _handed
    cdef public long long _stall_sent
    cdef public long long _stall_tick
    cdef object _written
    cdef list _waiters
    cdef public long long active_tick
    cdef public object wheel_entry

    cpdef flush(self)
    cdef _emit(self, object data, bint is_reply)
    cdef _reply(self, object data)
    cpdef send_shared(self, object data, dict made)
    cdef _enqueue(self, bytes frame, object data, object on_written, bint is_reply)
    cdef bint _may_queue(self, object data, object on_written, bint is_reply) except -1
    cdef _hand_over_one(self, bytes frame)
    cdef _queue_last(self, bytes frame)
    cdef _queue_frame(self, bytes frame)
    cdef _spill(self)
    cpdef Py_ssize_t _queued(self) except -1
    cdef _hand_over(self)
    @cython.locals(size=Py_ssize_t, chunk=list)
    cdef _hand_over_pending(self)
    cdef _write(self, object out, Py_ssize_t size)
    cdef _note_congestion(self)
    cdef _relieve(self)
    cdef _settle_written(self)
    cpdef _discard_output(self)
    cpdef _abort_with(self, object kind, object error)
    cpdef _closed_error(self)
