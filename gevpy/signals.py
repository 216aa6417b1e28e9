"""Stopping by signal: the first SIGINT or SIGTERM asks, the second insists.

Installed only while a server serves, only in the main thread, and the handlers that were there before come back.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["StopSignals"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """A context in which SIGINT and SIGTERM call ``on_signal(count)`` on the loop, the count beginning at 1.

    Does nothing outside the main thread, and where the loop has no signal handling (Windows).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_signal: Callable[[int], None]) -> None:
        """Set up; nothing is installed before the context is entered."""
        self._loop = loop
        self._on_signal = on_signal
        self._count = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Install the handlers."""
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in SIGNALS:
            previous = signal.getsignal(number)
            try:
                self._loop.add_signal_handler(number, self._received)
            except NotImplementedError:
                break
            self._previous[number] = previous
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the handlers that were there before."""
        for number, previous in self._previous.items():
            self._loop.remove_signal_handler(number)
            if previous is not None:
                signal.signal(number, previous)
        self._previous.clear()

    def _received(self) -> None:
        self._count += 1
        self._on_signal(self._count)
