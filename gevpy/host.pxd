from gevpy.protocol.base cimport Protocol
from gevpy.ring_buffer cimport RingBuffer
from gevpy.stats cimport Stats
from gevpy.timing_wheel cimport TimingWheel
from gevpy.write_batch cimport WriteBatch

cdef Py_ssize_t FLUSHES_PER_TURN
cdef Py_ssize_t RING_BYTES
cdef Py_ssize_t POOL_BYTES

cdef class Host:
    cdef public object loop
    cdef public Protocol protocol
    cdef public object on_message
    cdef public bint is_async
    cdef public object make_inbox
    cdef public unsigned long thread_id
    cdef public Stats stats
    cdef public TimingWheel wheel
    cdef public long long tick
    cdef public RingBuffer read_ring
    cdef public object read_view
    cdef public WriteBatch batch
    cdef public Py_ssize_t max_write_buffer_bytes
    cdef public Py_ssize_t high_bytes
    cdef public Py_ssize_t low_bytes
    cdef public str slow_consumer
    cdef public long long idle_ticks
    cdef public long long frame_ticks
    cdef public long long stall_ticks
    cdef public long long close_ticks
    cdef public bint refresh_on_read
    cdef public bint refresh_on_write
    cdef public bint half_close
    cdef public bint can_writelines
    cdef list _rings
    cdef Py_ssize_t _rings_bytes
    cdef list _dirty

    cpdef RingBuffer take_ring(self)
    cpdef give_ring(self, RingBuffer ring)
    cpdef mark_dirty(self, object conn)
