cdef class Stats:
    cdef public long long opened
    cdef public long long received_bytes
    cdef public long long sent_bytes
    cdef public long long received_messages
    cdef public long long sent_messages
    cdef public long long handler_calls
    cdef public long long handler_errors
    cdef public double handler_seconds
    cdef public double lag_seconds
    cdef public dict closed
    cdef public dict rejected
    cdef public dict dropped
