cdef class Admission:
    cdef public Py_ssize_t max_connections
    cdef public object max_per_network
    cdef public Py_ssize_t count
    cdef public dict _networks

    cpdef object enter(self, str network)
    cpdef object place(self, str network)
    cpdef leave(self, str network)
