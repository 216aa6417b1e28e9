"""The messages of one connection that wait for its asynchronous handler.

Handlers of one connection run one after the other, in the order in which the messages came, each reply written when its
handler ends; `gevpy.concurrent_inbox` has those that run at once. The inbox holds what has come meanwhile, and the
one task that works through it; both exist only while there is work, so an idle connection has neither.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gevpy.read_side import ReadSide

__all__ = ["MAX_BYTES", "MAX_MESSAGES", "Inbox", "size_of"]

MAX_MESSAGES = 16
MAX_BYTES = 1024 * 1024


def size_of(data: Any) -> int:
    """Give the bytes that a message holds, as far as that can be seen."""
    return len(data) if isinstance(data, bytes | bytearray | memoryview | str) else 0


class Inbox:
    """A queue of messages and the task that handles them in order.

    Attributes:
        task: the running task, or None before the first message.
    """

    __slots__ = ("_bytes", "_conn", "_running", "_waiting", "task")

    def __init__(self, conn: ReadSide) -> None:
        """Begin empty, for ``conn``."""
        self._conn = conn
        self._waiting: deque[tuple[Any, Any]] = deque()
        self._bytes = 0
        self._running: Awaitable[Any] | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether reading should pause: 16 messages or 1 MiB wait."""
        return len(self._waiting) >= MAX_MESSAGES or self._bytes >= MAX_BYTES

    @property
    def has_waiting(self) -> bool:
        """Whether messages wait that no handler has begun with."""
        return bool(self._waiting)

    def runs(self, task: asyncio.Task[Any] | None) -> bool:
        """Tell whether ``task`` is one of ours."""
        return task is not None and task is self.task

    def put(self, message: tuple[Any, Any]) -> None:
        """Queue a message, and start the task if it doesn't run."""
        self._waiting.append(message)
        self._bytes += size_of(message[1])
        self._start()

    def put_running(self, awaitable: Awaitable[Any]) -> None:
        """Take over what a plain ``on_message`` returned to be awaited: its reply comes before those that follow."""
        self._running = awaitable
        self._start()

    def drop_waiting(self) -> None:
        """Forget what waits: the connection is closing, and nothing more is handled."""
        self._waiting.clear()
        self._bytes = 0

    def cancel(self) -> None:
        """Drop what waits and cancel the handler that runs."""
        self.drop_waiting()
        if self.task is not None:
            self.task.cancel()

    def _start(self) -> None:
        if self.task is None:
            self.task = self._conn.start_task(self._work())
            self.task.add_done_callback(self._ended)  # not "finally": a task cancelled before its first step has none

    async def _work(self) -> None:
        while (self._running is not None or self._waiting) and not self._conn._lost:
            await self._handle_next()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.task = None
        if task.cancelled() or self._conn._lost:
            self._give_up()
        if self._waiting or self._running is not None:
            self._start()
        else:
            self._conn.inbox_empty()

    def _give_up(self) -> None:
        if inspect.iscoroutine(self._running):
            self._running.close()
        self._running = None
        self.drop_waiting()
        if self._conn._connected:  # not by us: a message that was not handled must not go unnoticed
            self._conn.message_failed("on_message", asyncio.CancelledError("the handler's task was cancelled"))

    async def _handle_next(self) -> None:
        conn = self._conn
        started = perf_counter()
        try:
            awaitable = self._running
            self._running = None
            if awaitable is None:
                was_full = self.full
                ctx, data = self._waiting.popleft()
                self._bytes -= size_of(data)
                if was_full and not self.full:
                    conn.inbox_has_room()
                awaitable = conn.call_handler(ctx, data)
            reply = await awaitable if hasattr(awaitable, "__await__") else awaitable
        except Exception as error:  # noqa: BLE001 - whatever the application raised ends this connection only
            self.drop_waiting()
            conn.message_failed("on_message", error)
        else:
            conn.message_handled(reply, perf_counter() - started)
