from gevpy.admission cimport Admission
from gevpy.lifecycle cimport Lifecycle
from gevpy.host cimport Host

cdef class Reactor(Host):
    cdef public object worker
    cdef public dict hooks
    cdef public object options
    cdef public Admission admission
    cdef public object next_id
    cdef public dict connections
    cdef public object topics
    cdef public object timers
    cdef public object log
    cdef public bint draining
    cdef public object leaving
    cdef public object tls
    cdef public object proxies
    cdef public dict pending
    cdef public double handshake_s
    cdef public double proxy_header_s
    cdef public double tls_shutdown_s
    cdef public list aborted_peers
    cdef public object hurried
    cdef public object impatient
    cdef readonly set _tasks
    cdef readonly Py_ssize_t _unfinished
    cdef object _all_gone
    cdef object _tick_handle
    cdef double _next_turn
    cdef readonly double turned_s
    cdef public object blocked_seconds
    cdef bint _was_late
    cdef object _foreign
    cdef object _foreign_lock

    cpdef expect(self)
    cpdef opened(self, Lifecycle conn)
    cpdef lost(self, Lifecycle conn)
    cpdef finish(self, Lifecycle conn)
    cdef _finished(self)
