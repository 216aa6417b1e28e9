from gevpy.lifecycle cimport Lifecycle

cdef class ConnectionCore(Lifecycle):
    cdef public object context
    cdef object _values
