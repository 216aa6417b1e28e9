from gevpy.read_side cimport ReadSide

cdef class HandlerSide(ReadSide):
    cdef object _reactor
    cdef object _hook_tasks
