"""A loop that was blocked: where, by which kind of message, for how long; and the sums of that."""

from __future__ import annotations

import threading
from dataclasses import dataclass

__all__ = ["OTHER", "Blocked", "BlockedSeconds"]

MAX_KINDS = 32
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Blocked:
    """One time that a loop was blocked.

    Attributes:
        seconds: from the loop's last turn to its next one, less those in which the process itself was not running.
        where: what was running, one of `gevpy.culprit.PLACES`.
        kind: of the message in hand: its ``ctx``, if that is a string, a number or an enum's member, else the type of
            its data; ``""`` for no message, ``"other"`` after 32 kinds. At most 64 characters, all printable.
        stack: the loop's, innermost call last; at most 20 frames and 4 KiB, without the values of variables.
        charged: False if it was the whole process that was not running; then ``stack`` says so.
    """

    seconds: float
    where: str
    kind: str
    stack: str
    charged: bool = True


class BlockedSeconds:
    """The seconds for which a loop was blocked, by place and kind of message; they only grow.

    There are at most 34 kinds: the first 32, ``""``, and ``"other"`` for all that come later. Any thread may call any
    method.

    Example:
        >>> seconds = BlockedSeconds()
        >>> seconds.add("on_message", "login", 1.5)
        >>> seconds.totals()
        {('on_message', 'login'): 1.5}
    """

    def __init__(self) -> None:
        """Begin with nothing charged."""
        self._lock = threading.Lock()
        self._kinds = {"", OTHER}
        self._seconds: dict[tuple[str, str], float] = {}

    def admit(self, kind: str) -> str:
        """Give ``kind`` back if it is one of the first 32, else ``"other"``."""
        with self._lock:
            if len(self._kinds) < MAX_KINDS + 2:
                self._kinds.add(kind)
            return kind if kind in self._kinds else OTHER

    def add(self, where: str, kind: str, seconds: float) -> None:
        """Charge ``seconds`` to ``where``, one of `gevpy.culprit.PLACES`, and ``kind``."""
        key = where, self.admit(kind)
        with self._lock:
            self._seconds[key] = self._seconds.get(key, 0.0) + seconds

    def totals(self) -> dict[tuple[str, str], float]:
        """Give a copy: ``{(where, kind): seconds}``."""
        with self._lock:
            return dict(self._seconds)
