from gevpy.reactor cimport Reactor

cdef class Door:
    cdef Reactor _reactor

    cdef _take(self, object sock, object address)
    cdef _connect(self, object sock, object address, object network)
    cdef _refuse(self, object sock, object reason, object address)

cdef class Listener(Door):
    cdef object _sock
    cdef int _fd
    cdef int _family
    cdef int _proto
    cdef object _retry
    cdef bint _running
