cimport cython

from gevpy.ring_buffer cimport RingBuffer
from gevpy.write_batch cimport WriteBatch

cdef bint LITTLE_ENDIAN
cdef Py_ssize_t LEAST_MASKED

@cython.locals(size=Py_ssize_t, masked=bytes)
cpdef bytes mask(bytes data, bytes key)
cpdef bytes take_payload(RingBuffer ring, Py_ssize_t header, Py_ssize_t size, unsigned long long key)
@cython.locals(start=cython.p_uchar, key=cython.ulonglong, payload=bytes)
cpdef bytes take_short(RingBuffer ring, Py_ssize_t size)
@cython.locals(begin=Py_ssize_t, first=Py_ssize_t, payload=bytes, target=cython.p_uchar)
cpdef bytes peek_payload(RingBuffer ring, Py_ssize_t offset, Py_ssize_t size, unsigned long long key)
@cython.locals(begin=Py_ssize_t, start=cython.p_uchar)
cpdef str take_text(RingBuffer ring, Py_ssize_t header, Py_ssize_t size, unsigned long long key)
@cython.locals(shift=cython.int)
cpdef unsigned long long turned(unsigned long long key, Py_ssize_t size) except? 0
@cython.locals(word=cython.ulonglong, wide=cython.ulonglong, pattern=cython.ulonglong, words=Py_ssize_t, index=Py_ssize_t)
cdef int _xor(unsigned char* target, unsigned char* source, Py_ssize_t size, unsigned long long key) except -1
cpdef bytes head(unsigned long long first, Py_ssize_t size)
@cython.locals(size=Py_ssize_t)
cpdef append_frame(WriteBatch batch, unsigned long long first, bytes payload)
