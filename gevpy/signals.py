"""Signals while a server serves: each one calls a function on the loop.

Installed only while a server serves, only in the main thread, and the handlers that were there before come back: those
set by ``signal.signal`` and, because the loop's own table is left alone, those set by ``loop.add_signal_handler``.
Several servers may serve side by side: a signal reaches all that listen to it.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping
    from types import FrameType, TracebackType

__all__ = ["LoopSignals"]

# The process has one handler for each signal, so who listens is known once for the process, too.
_listening: list[LoopSignals] = []
_previous: dict[int, Any] = {}


def _dispatch(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal.signal wants
    for one in tuple(_listening):
        one.wake(number)


class LoopSignals:
    """A context in which signals call functions on the loop. Does nothing outside the main thread.

    Args:
        loop: where the functions are called.
        callbacks: by the signal's number.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callbacks: Mapping[int, Callable[[], object]]) -> None:
        """Set up; nothing is installed before the context is entered."""
        self._loop = loop
        self.callbacks = dict(callbacks)

    def __enter__(self) -> Self:
        """Listen; the first to do so, to a signal, installs the handler."""
        if threading.current_thread() is threading.main_thread():
            for number in self.callbacks:
                if number not in _previous:
                    _previous[number] = signal.signal(number, _dispatch)
            _listening.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more; the last to do so, to a signal, restores the handler that was there before."""
        if self not in _listening:
            return
        _listening.remove(self)
        for number in self.callbacks:
            if not any(number in one.callbacks for one in _listening):
                previous = _previous.pop(number)
                signal.signal(number, signal.SIG_DFL if previous is None else previous)

    def wake(self, number: int) -> None:
        """Have the loop know; called between any two instructions of the main thread."""
        if number in self.callbacks and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.callbacks[number])
