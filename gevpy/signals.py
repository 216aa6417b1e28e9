"""Stopping by signal: the first SIGINT or SIGTERM asks, the second insists.

Installed only while a server serves, only in the main thread, and the handlers that were there before come back: those
set by ``signal.signal`` and, because the loop's own table is left alone, those set by ``loop.add_signal_handler``.
Several servers may serve side by side: a signal reaches all of them.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType, TracebackType

__all__ = ["StopSignals"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)

# The process has one handler for each signal, so who listens is known once for the process, too.
_listening: list[StopSignals] = []
_previous: dict[signal.Signals, Any] = {}


def _dispatch(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal.signal wants
    for one in tuple(_listening):
        one.wake()


class StopSignals:
    """A context in which SIGINT and SIGTERM call ``on_signal(count)`` on the loop, the count beginning at 1.

    Does nothing outside the main thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_signal: Callable[[int], None]) -> None:
        """Set up; nothing is installed before the context is entered."""
        self._loop = loop
        self._on_signal = on_signal
        self._count = 0

    def __enter__(self) -> Self:
        """Listen; the first to do so installs the handlers."""
        if threading.current_thread() is threading.main_thread():
            if not _listening:
                for number in SIGNALS:
                    _previous[number] = signal.signal(number, _dispatch)
            _listening.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more; the last to do so restores the handlers that were there before."""
        if self not in _listening:
            return
        _listening.remove(self)
        if not _listening:
            for number, previous in _previous.items():
                signal.signal(number, signal.SIG_DFL if previous is None else previous)
            _previous.clear()

    def wake(self) -> None:
        """Have the loop know; called between any two instructions of the main thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._received)

    def _received(self) -> None:
        self._count += 1
        self._on_signal(self._count)
