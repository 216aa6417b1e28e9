"""Logging that a flood can't turn into a flood of lines.

Each class of event gets one line per interval; the next one says how many were passed over. Text that comes from peers
is escaped, so that nobody can write a line of their own.
"""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Hashable

__all__ = ["LimitedLog", "printable"]

INTERVAL_S = 5.0
MAX_TEXT = 200


def printable(text: object) -> str:
    r"""Give text that is safe in a log line: control characters escaped, long text cut.

    Example:
        >>> printable("a\r\nb")
        'a\\r\\nb'
    """
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return escaped if len(escaped) <= MAX_TEXT else escaped[:MAX_TEXT] + "…"


class LimitedLog:
    """Logs at most one line per class of event and interval.

    The classes must come from a closed list, like the metrics labels: each is remembered for good.

    Args:
        logger: where lines go.
        interval_s: seconds between lines of one class; default 5.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self, logger: logging.Logger, interval_s: float = INTERVAL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with nothing suppressed."""
        self._logger = logger
        self._interval_s = interval_s
        self._clock = clock
        self._last: dict[Hashable, float] = {}
        self._suppressed: dict[Hashable, int] = {}

    def log(self, kind: Hashable, level: int, message: str, error: BaseException | None = None) -> None:
        """Log ``message`` unless one of the same ``kind`` was logged within the interval.

        Args:
            kind: the class of event.
            level: a level of the logging module.
            message: the text, already safe.
            error: an exception whose traceback goes with it.
        """
        now = self._clock()
        last = self._last.get(kind)
        if last is not None and now - last < self._interval_s:
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return
        self._last[kind] = now
        suppressed = self._suppressed.pop(kind, 0)
        if suppressed:
            message = f"{message} ({suppressed} more like it were not logged)"
        if error is not None and not _is_safe(error):
            message = f"{message}\n{_escaped_traceback(error)}"
            error = None
        self._logger.log(level, "%s", message, exc_info=error)


def _is_safe(error: BaseException) -> bool:
    """Tell whether the texts of ``error`` and of those behind it have no control characters."""
    seen = set()
    chain: BaseException | None = error
    while chain is not None and id(chain) not in seen:
        seen.add(id(chain))
        if not str(chain).isprintable():
            return False
        chain = chain.__cause__ or chain.__context__
    return True


def _escaped_traceback(error: BaseException) -> str:
    """Write the traceback without the texts: where it happened, and what, escaped."""
    lines = traceback.format_tb(error.__traceback__)
    return "".join(lines) + printable(f"{type(error).__name__}: {error}")
