"""The messages of one connection whose asynchronous handlers run at once: all of them, or those with different keys.

keyed:   a1 ─▶ a2 ─▶ a3     one after the other
b1 ─▶ b2           at the same time
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gevpy.inbox import MAX_BYTES, MAX_MESSAGES, size_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from gevpy.read_side import ReadSide

__all__ = ["ConcurrentInbox"]


class ConcurrentInbox:
    """A queue of messages and the tasks that handle them, so many at once; it stands in for an `Inbox`.

    Args:
        conn: whose messages they are.
        limit: how many tasks run at once.
        key: of a message; messages with the same key are handled one after the other. None: all at once.
    """

    __slots__ = ("_busy", "_bytes", "_conn", "_key", "_limit", "_tasks", "_waiting")

    def __init__(self, conn: ReadSide, limit: int, key: Callable[[Any, Any], Hashable] | None) -> None:
        """Begin empty."""
        self._conn = conn
        self._limit = limit
        self._key = key
        self._waiting: deque[tuple[Hashable, Any, Any]] = deque()
        self._bytes = 0
        self._tasks: dict[asyncio.Task[Any], Hashable] = {}
        self._busy: set[Hashable] = set()  # the keys of what runs

    @property
    def full(self) -> bool:
        """Whether reading should pause: 16 messages or 1 MiB wait for their turn."""
        return len(self._waiting) >= MAX_MESSAGES or self._bytes >= MAX_BYTES

    @property
    def has_waiting(self) -> bool:
        """Whether messages wait that no handler has begun with."""
        return bool(self._waiting)

    def runs(self, task: asyncio.Task[Any] | None) -> bool:
        """Tell whether ``task`` is one of ours."""
        return task in self._tasks

    def put(self, message: tuple[Any, Any]) -> None:
        """Queue a message, and start what may run now. Raises whatever the key function raises."""
        ctx, data = message
        try:
            key = object() if self._key is None else self._key(ctx, data)
            hash(key)
        except BaseException:
            if not self._tasks and not self._waiting:
                self._conn.inbox_empty()  # no task's end would tell it
            raise
        self._waiting.append((key, ctx, data))
        self._bytes += size_of(data)
        self._start_some()

    def put_running(self, awaitable: Awaitable[Any]) -> None:
        """Take over what a plain ``on_message`` returned to be awaited."""
        self._run(object(), awaitable)

    def drop_waiting(self) -> None:
        """Forget what waits: the connection is closing, and nothing more is handled."""
        self._waiting.clear()
        self._bytes = 0

    def cancel(self) -> None:
        """Drop what waits and cancel the handlers that run."""
        self.drop_waiting()
        for task in tuple(self._tasks):
            task.cancel()

    def _start_some(self) -> None:
        """Start, in the order of coming, whatever has room and a free key."""
        passed: deque[tuple[Hashable, Any, Any]] = deque()
        blocked: set[Hashable] = set()
        while self._waiting and len(self._tasks) < self._limit:
            key, ctx, data = self._waiting.popleft()
            if key in self._busy or key in blocked:
                blocked.add(key)
                passed.append((key, ctx, data))
                continue
            self._bytes -= size_of(data)
            self._run(key, self._call(ctx, data))
        self._waiting.extendleft(reversed(passed))

    async def _call(self, ctx: Any, data: Any) -> Any:
        reply = self._conn.call_handler(ctx, data)
        return await reply if hasattr(reply, "__await__") else reply

    def _run(self, key: Hashable, awaitable: Awaitable[Any]) -> None:
        task = self._conn.start_task(self._handle(awaitable))
        self._tasks[task] = key
        self._busy.add(key)
        task.add_done_callback(lambda done: self._ended(done, awaitable))

    async def _handle(self, awaitable: Awaitable[Any]) -> None:
        conn = self._conn
        started = perf_counter()
        try:
            reply = await awaitable
        except Exception as error:  # noqa: BLE001 - whatever the application raised ends this connection only
            self.drop_waiting()
            conn.message_failed("on_message", error)
        else:
            conn.message_handled(reply, perf_counter() - started)

    def _ended(self, task: asyncio.Task[None], awaitable: Awaitable[Any]) -> None:
        self._busy.discard(self._tasks.pop(task))
        if inspect.iscoroutine(awaitable):
            awaitable.close()  # a task cancelled before its first step has not begun with it
        conn = self._conn
        if task.cancelled() and conn._connected:  # not by us: a message that was not handled must not go unnoticed
            conn.message_failed("on_message", asyncio.CancelledError("the handler's task was cancelled"))
        if conn._lost or not conn._connected:
            self.drop_waiting()
        was_full = self.full
        self._start_some()
        if not self._tasks and not self._waiting:
            conn.inbox_empty()
        elif was_full and not self.full:
            conn.inbox_has_room()
