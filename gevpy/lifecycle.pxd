from gevpy.handler_side cimport HandlerSide

cdef class Lifecycle(HandlerSide):
    cdef public long long close_tick
    cdef public long long protocol_tick
    cdef readonly long long id
    cdef public object network
    cdef object _peer
    cdef object _local_addr
    cdef object _ending
    cdef bint _gone
    cdef bint _leaving
    cdef public bint _lingering
    cdef public bint _opened
    cdef bint _parting
    cdef public bint _tls
    cdef bint _wait_for_handler

    cpdef _abort_with(self, object kind, object error)
