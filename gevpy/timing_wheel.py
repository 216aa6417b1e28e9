"""A hierarchical timing wheel: many deadlines, each armed, moved and cancelled in constant time.

A server with 20,000 connections has 20,000 idle deadlines, nearly all of which are put off again
and again and never come due. A heap pays O(log n) for each change; a wheel pays the same few steps
whatever its size.

Time is an integer, the *tick*, and is always passed in: this module reads no clock and starts no
timer. What one tick means (gevpy: 100 ms) is the caller's affair.

How it works
    A *level* is a circle of slots, each slot a doubly linked list of entries. Level 0 has 256 slots
    of one tick; levels 1, 2 and 3 have 64 slots of 256, 16,384 and 1,048,576 ticks. An entry goes
    to the finest level whose circle reaches its due tick, into the slot which its due tick names::

        level 0   ticks ahead        1 ..        255   slot = tick         mod 256
        level 1                    256 ..     16,383   slot = tick >>  8   mod  64
        level 2                 16,384 ..  1,048,575   slot = tick >> 14   mod  64
        level 3              1,048,576 .. 67,108,863   slot = tick >> 20   mod  64

    Advancing empties the slots that time has passed over, on every level: what is due leaves the
    wheel, the rest *cascades* to a finer level, so that an entry moves at most three times in its
    life. An entry further ahead than level 3 reaches (at 100 ms a tick: 77 days) is parked in its
    last slot, and placed anew when time comes by. A jump passes over each of the 448 slots at most
    once, however far it goes; an empty wheel jumps for free.

    The lists are intrusive (the entry *is* the list node) and each hangs on a sentinel node, so
    that linking and unlinking need neither an allocation nor a test for the ends.

Source: G. Varghese and A. Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987, scheme 7. The
sizes of the levels and the cascade are those of the Linux kernel's classic timer wheel; Netty's
``HashedWheelTimer`` is the single-level relative used for the same purpose, idle connections.

Compiled when the sibling ``timing_wheel.pxd`` is used; the same source runs as plain Python.
"""

from __future__ import annotations

from operator import attrgetter

__all__ = ["TimingWheel", "WheelEntry"]

# Cython reads a plain `int` annotation as "a Python int object", which contradicts the C integers
# that the .pxd declares for the same names. Under another name mypy still sees int, and Cython
# leaves the type to the .pxd.
_int = int

_BASE_SLOTS = 256
_UPPER_SLOTS = 64
_SLOTS = _BASE_SLOTS + 3 * _UPPER_SLOTS
_BASE_BITS = 8
_UPPER_BITS = 6
_RANGE = 1 << 26
_MAX_TICK = 1 << 62

_by_tick = attrgetter("tick")


class WheelEntry:
    """One deadline in a `TimingWheel`, as returned by `TimingWheel.add`.

    An entry is a handle: keep it to `~TimingWheel.move` or `~TimingWheel.cancel` the deadline. It
    stays usable after it has expired or been cancelled (`move` arms it again), and therefore keeps
    a reference to its item. Not to be constructed by the caller. Its attributes are read-only.
    """

    __slots__ = ("_item", "_next", "_prev", "_tick", "_wheel")

    _item: object
    _wheel: TimingWheel | None
    _prev: WheelEntry | None
    _next: WheelEntry | None
    _tick: _int

    def __init__(self, item: object, wheel: TimingWheel | None) -> None:
        """Start unlinked; a sentinel node has neither item nor wheel."""
        self._item = item
        self._wheel = wheel
        self._prev = None
        self._next = None
        self._tick = 0

    @property
    def item(self) -> object:
        """The object given to `TimingWheel.add`; `TimingWheel.advance` returns it."""
        return self._item

    @property
    def tick(self) -> _int:
        """The absolute tick at which it is due, or last was; after ``now`` when it was armed."""
        return self._tick

    @property
    def active(self) -> bool:
        """Whether it is armed: not yet expired and not cancelled."""
        return self._next is not None

    def __repr__(self) -> str:
        """Show state, due tick and item."""
        state = "active" if self.active else "inactive"
        return f"<WheelEntry {state} tick={self._tick} item={self._item!r}>"


def _sentinel() -> WheelEntry:
    """Make the node that an empty list consists of, linked to itself."""
    head = WheelEntry(None, None)
    head._prev = head._next = head
    return head


class TimingWheel:
    """Deadlines on integer ticks: add, move and cancel in O(1), collect what is due with `advance`.

    Args:
        now: the current tick to start from, 0 to 2**62. Default 0, since only differences matter.

    Raises:
        ValueError: ``now`` is negative.
        OverflowError: ``now`` is beyond 2**62.

    Not thread-safe: one thread, the loop's, owns a wheel. `advance` returns a list and calls
    nothing, so that the caller may add, move and cancel freely while it works through that list.
    ``len(wheel)`` is the number of active entries.

    Example:
        >>> wheel = TimingWheel()
        >>> entry = wheel.add("tea", 3)
        >>> wheel.advance(2)
        []
        >>> wheel.advance(3)
        ['tea']
        >>> wheel.move(entry, 5)
        >>> wheel.cancel(entry)
        True
    """

    __slots__ = ("_count", "_now", "_slots")

    _count: _int
    _now: _int
    _slots: list[WheelEntry]

    def __init__(self, now: _int = 0) -> None:
        """Start empty at tick ``now``."""
        if now < 0:
            msg = f"now must be 0 or more ticks, not {now}"
            raise ValueError(msg)
        self._check(now)
        self._now = now
        self._count = 0
        self._slots = [_sentinel() for _ in range(_SLOTS)]

    def __len__(self) -> _int:
        """Count the active entries."""
        return self._count

    def __repr__(self) -> str:
        """Show the current tick and the number of entries."""
        return f"<TimingWheel now={self._now} entries={self._count}>"

    @property
    def now(self) -> _int:
        """The current tick: what was last given to `advance`, or to the constructor."""
        return self._now

    def add(self, item: object, tick: _int) -> WheelEntry:
        """Arm a new deadline.

        Args:
            item: what `advance` will return; any object, also None, also the same one twice.
            tick: the absolute tick at which it is due, at most 2**62. One that is not after `now`
                becomes ``now + 1``: due with the next tick, never lost.

        Returns:
            The entry, needed only to `move` or `cancel` it.

        Raises:
            OverflowError: ``tick`` is beyond 2**62.
        """
        self._check(tick)
        entry = WheelEntry(item, self)
        entry._tick = tick if tick > self._now else self._now + 1
        self._link(entry)
        self._count += 1
        return entry

    def move(self, entry: WheelEntry, tick: _int) -> None:
        """Give an entry a new due tick; arm it again if it has expired or was cancelled.

        Args:
            entry: an entry of this wheel.
            tick: as for `add`.

        Raises:
            TypeError: ``entry`` is no entry.
            ValueError: ``entry`` belongs to another wheel.
            OverflowError: ``tick`` is beyond 2**62. The entry is left as it was.
        """
        self._own(entry)
        self._check(tick)
        if entry._next is not None:
            self._unlink(entry)
        else:
            self._count += 1
        entry._tick = tick if tick > self._now else self._now + 1
        self._link(entry)

    def cancel(self, entry: WheelEntry) -> bool:
        """Disarm an entry, so that it will not come due.

        Args:
            entry: an entry of this wheel.

        Returns:
            True if it was active; False if it had expired or was cancelled before.

        Raises:
            TypeError: ``entry`` is no entry.
            ValueError: ``entry`` belongs to another wheel.
        """
        self._own(entry)
        if entry._next is None:
            return False
        self._unlink(entry)
        self._count -= 1
        return True

    def advance(self, tick: _int) -> list[object]:
        """Move time forward and take out everything that has come due.

        Args:
            tick: the new current tick; `now` itself changes nothing and returns an empty list.

        Returns:
            The items due up to and including ``tick``, by ascending due tick; the order among equal
            ticks is not specified. They are inactive already. O(slots passed + items due + entries
            cascaded).

        Raises:
            ValueError: ``tick`` is before `now`; time does not go back.
            OverflowError: ``tick`` is beyond 2**62.
        """
        before = self._now
        if tick < before:
            msg = f"cannot go back from tick {before} to {tick}"
            raise ValueError(msg)
        self._check(tick)
        self._now = tick
        if self._count == 0:
            return []
        due: list[WheelEntry] = []
        self._sweep_level(before, 0, due)
        in_order = len(due)
        # The finest level's slots are one tick each and come in order. A coarser slot is passed
        # over only together with the end of a whole circle below it, and what is due in it is
        # mixed.
        for level in range(1, 4):
            if not self._sweep_level(before, level, due):
                break
        if len(due) > in_order:
            due.sort(key=_by_tick)
        self._count -= len(due)
        return [entry._item for entry in due]

    def _sweep_level(self, before: _int, level: _int, due: list[WheelEntry]) -> bool:
        """Empty the slots of a level passed over since tick `before`; False if there are none."""
        shift = 0
        base = 0
        size = _BASE_SLOTS
        if level > 0:
            shift = _BASE_BITS + (level - 1) * _UPPER_BITS
            base = _BASE_SLOTS + (level - 1) * _UPPER_SLOTS
            size = _UPPER_SLOTS
        first = (before >> shift) + 1
        last = self._now >> shift
        if last < first:
            return False
        last = min(last, first + size - 1)
        for unit in range(first, last + 1):
            self._sweep_slot(base + (unit & (size - 1)), due)
        return True

    def _sweep_slot(self, index: _int, due: list[WheelEntry]) -> None:
        """Empty one slot: what is due goes to `due`, the rest is placed anew."""
        head = self._slots[index]
        entry = head._next
        if entry is head:
            return
        # Detached as a whole before the walk: an entry that is parked again may land in this very
        # slot.
        head._prev = head._next = head
        while entry is not None and entry is not head:
            following = entry._next
            if entry._tick <= self._now:
                entry._prev = entry._next = None
                due.append(entry)
            else:
                self._link(entry)
            entry = following

    def _slot_of(self, tick: _int) -> _int:
        """Index of the slot for a due tick after now: the finest level that reaches it."""
        ahead = tick - self._now
        if ahead < 1 << 8:
            return tick & 255
        if ahead < 1 << 14:
            return 256 + ((tick >> 8) & 63)
        if ahead < 1 << 20:
            return 320 + ((tick >> 14) & 63)
        if ahead >= _RANGE:
            tick = self._now + _RANGE - 1
        return 384 + ((tick >> 20) & 63)

    def _link(self, entry: WheelEntry) -> None:
        """Append an unlinked entry to the slot that its due tick names."""
        head = self._slots[self._slot_of(entry._tick)]
        tail = head._prev
        assert tail is not None, "a sentinel is always linked"
        entry._prev = tail
        entry._next = head
        tail._next = entry
        head._prev = entry

    def _unlink(self, entry: WheelEntry) -> None:
        """Take a linked entry out of its slot, leaving no reference from or to its neighbours."""
        before = entry._prev
        after = entry._next
        assert before is not None, "a linked entry has a neighbour before it"
        assert after is not None, "a linked entry has a neighbour after it"
        before._next = after
        after._prev = before
        entry._prev = entry._next = None

    def _own(self, entry: WheelEntry) -> None:
        """Refuse what is not an entry of this wheel; unlinking it would corrupt another."""
        if type(entry) is not WheelEntry:
            msg = f"a WheelEntry is needed, not {entry!r}"
            raise TypeError(msg)
        if entry._wheel is not self:
            msg = f"{entry!r} belongs to another wheel"
            raise ValueError(msg)

    def _check(self, tick: _int) -> None:
        """Refuse a tick whose arithmetic would leave 64 bits in the compiled build."""
        if tick > _MAX_TICK:
            msg = f"tick {tick} is beyond 2**62"
            raise OverflowError(msg)
