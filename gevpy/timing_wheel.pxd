# C types for timing_wheel.py. An entry is 56 bytes (72 with the garbage collector's header): no
# methods of its own at C level, so that it carries no table pointer.

cimport cython

cdef Py_ssize_t _BASE_SLOTS
cdef Py_ssize_t _UPPER_SLOTS
cdef Py_ssize_t _SLOTS
cdef int _BASE_BITS
cdef int _UPPER_BITS
cdef long long _RANGE
cdef long long _MAX_TICK


cdef class WheelEntry:
    cdef object _item
    cdef TimingWheel _wheel
    cdef WheelEntry _prev
    cdef WheelEntry _next
    cdef long long _tick


@cython.locals(head=WheelEntry)
cdef WheelEntry _sentinel()


cdef class TimingWheel:
    cdef list _slots
    cdef long long _now
    cdef Py_ssize_t _count

    cpdef WheelEntry add(self, object item, long long tick)
    cpdef object move(self, WheelEntry entry, long long tick)
    cpdef bint cancel(self, WheelEntry entry) except -1

    @cython.locals(before=cython.longlong, due=list[WheelEntry], in_order=cython.Py_ssize_t,
                   level=cython.int, entry=WheelEntry)
    cpdef list advance(self, long long tick)

    @cython.locals(shift=cython.int, base=cython.Py_ssize_t, size=cython.Py_ssize_t,
                   first=cython.longlong, last=cython.longlong, unit=cython.longlong)
    cdef bint _sweep_level(self, long long before, int level, list[WheelEntry] due) except -1

    @cython.locals(head=WheelEntry, entry=WheelEntry, following=WheelEntry)
    cdef object _sweep_slot(self, Py_ssize_t index, list[WheelEntry] due)

    @cython.locals(ahead=cython.longlong)
    cdef Py_ssize_t _slot_of(self, long long tick) noexcept

    @cython.locals(head=WheelEntry, tail=WheelEntry)
    cdef object _link(self, WheelEntry entry)

    @cython.locals(before=WheelEntry, after=WheelEntry)
    cdef object _unlink(self, WheelEntry entry)

    cdef object _own(self, WheelEntry entry)
    cdef object _check(self, long long tick)
