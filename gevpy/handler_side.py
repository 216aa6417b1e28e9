"""The part of a connection that calls the application: hooks, questions, asynchronous handlers, and what they raise.

Whatever the application does, it ends no more than its own connection: an error becomes a `CloseReason`, and what was
produced before it still leaves. A hook that is asynchronous goes on as a task; the connection isn't told to be gone
before the last of them has ended.
"""

from __future__ import annotations

import asyncio
import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from gevpy.closing import CloseKind
from gevpy.errors import CodecError, ConnectionClosed, FrameTooLarge, HandshakeError, ProtocolError
from gevpy.host import FAILURES
from gevpy.read_side import ReadSide

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gevpy.reactor import Reactor

__all__ = ["HandlerSide"]


class HandlerSide(ReadSide):
    """What a connection knows of its handler. Used only as the base of `Connection`."""

    __slots__ = ("_hook_tasks", "_reactor")

    def __init__(self, reactor: Reactor) -> None:
        """Begin with nothing called."""
        super().__init__(reactor)
        self._reactor = reactor
        self._hook_tasks: set[asyncio.Task[None]] | None = None  # asynchronous hooks that run

    def call_hook(self, name: str, *args: Any) -> None:
        """Call a method of the handler other than ``on_message``; one that is asynchronous goes on as a task."""
        hook = self._reactor.hooks.get(name)
        if hook is None:
            return
        try:
            result = hook(self, *args)
        except FAILURES as error:
            self._fail(name, error)
            return
        if result is not None and hasattr(result, "__await__"):
            self._start_hook(name, self._await_hook(name, result), result)

    def ask(self, name: str, then: Callable[[Any], None], *args: Any) -> None:
        """Call a method of the handler for its answer, and ``then`` with that: now, or when its coroutine has ended.

        Nothing is read meanwhile. What either raises ends the connection.
        """
        hook = self._reactor.hooks.get(name)
        answer = None
        if hook is not None:
            try:
                answer = hook(self, *args)
            except FAILURES as error:
                self._fail(name, error)
                return
        if hasattr(answer, "__await__"):
            self.wait_for_connect()
            self._start_hook(name, self._await_answer(name, then, answer), answer)
        else:
            self._tell_answer(name, then, answer)

    def _start_hook(self, name: str, work: Coroutine[Any, Any, None], awaitable: Any) -> None:
        if self._hook_tasks is None:
            self._hook_tasks = set()
        task = self.start_task(work)
        self._hook_tasks.add(task)
        task.add_done_callback(partial(self._hook_ended, name, awaitable))

    async def _await_hook(self, name: str, awaitable: Any) -> None:
        try:
            await awaitable
        except Exception as error:  # noqa: BLE001 - whatever the application raised ends this connection only
            self._fail(name, error)

    async def _await_answer(self, name: str, then: Callable[[Any], None], awaitable: Any) -> None:
        try:
            answer = await awaitable
        except Exception as error:  # noqa: BLE001 - the same
            self._fail(name, error)
            return
        self._tell_answer(name, then, answer)

    def _tell_answer(self, name: str, then: Callable[[Any], None], answer: Any) -> None:
        try:
            then(answer)
        except HandshakeError as error:
            self._fail("unpacket", error)  # the peer's fault
        except FAILURES as error:
            self._fail(name, error)

    def _hook_ended(self, name: str, awaitable: Any, task: asyncio.Task[None]) -> None:
        """Go on; a done callback, because a task cancelled before its first step runs nothing of its own."""
        if inspect.iscoroutine(awaitable):
            awaitable.close()  # no more than a formality where it ran
        if self._hook_tasks is not None:
            self._hook_tasks.discard(task)
        if task.cancelled() and self._connected:  # not by us
            self._fail(name, asyncio.CancelledError(f"the task of {name} was cancelled"))
        if name == "on_connect" or (name == "on_request" and not self._hook_tasks):
            self.connect_done()
        self._settle_ending()
        self._settle_gone()

    def call_handler(self, ctx: Any, data: Any) -> Any:
        """Call ``on_message`` for the inbox."""
        return self._reactor.on_message(self, ctx, data)

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that the reactor keeps until it ends."""
        return self._reactor.spawn(work)

    def message_handled(self, reply: Any, seconds: float) -> None:
        """Send the reply of an asynchronous handler."""
        stats = self._reactor.stats
        stats.handler_calls += 1
        stats.handler_seconds += seconds
        if reply is None:
            return
        try:
            self.reply(reply)
        except FAILURES as error:
            self._fail("packet", error)

    def message_failed(self, where: str, error: BaseException) -> None:
        """End the connection because its asynchronous handler raised."""
        self._fail(where, error)

    def inbox_empty(self) -> None:
        """Go on without an inbox; if the connection is ending, take the next step."""
        super().inbox_empty()
        self._settle_ending()
        if self._closing:
            self.flush()
        self._settle_gone()

    def _tell_writable(self) -> None:
        if "on_writable" in self._reactor.hooks and self._connected:
            self._reactor.loop.call_soon(self.call_hook, "on_writable")

    def _resume_after_output(self) -> None:
        super()._resume_after_output()
        if self._connected:
            self.call_hook("on_writable")

    def _fail(self, where: str, error: BaseException) -> None:
        """End this connection because of an error, gently: what was produced before it still leaves."""
        if isinstance(error, ConnectionClosed) and not self._connected:
            return  # the handler learned from send() what we know already
        if self._reason is not None and self._reason.error is error:
            return  # and from start_tls() why that ended
        kind = CloseKind.HANDLER_ERROR
        if where == "unpacket":
            kind = CloseKind.FRAME_TOO_LARGE if isinstance(error, FrameTooLarge) else CloseKind.PROTOCOL_ERROR
            if isinstance(error, HandshakeError):
                kind = CloseKind.HANDSHAKE_FAILED
        is_theirs = self._is_peers_fault(where, error)
        self._reactor.report(self, where, error, expected=is_theirs)  # type: ignore[arg-type]  # it is one
        self.begin_close(kind, error)
        if is_theirs:
            _forget_frames(error)

    @staticmethod
    def _is_peers_fault(where: str, error: BaseException) -> bool:
        is_theirs = isinstance(error, ProtocolError | HandshakeError) and not isinstance(error, CodecError)
        return where == "unpacket" and is_theirs

    # -- what the connection adds ------------------------------------------------------------------

    def begin_close(self, kind: CloseKind, error: BaseException | None = None) -> None:
        """Begin a graceful close for the reason given."""
        raise NotImplementedError

    def _settle_ending(self) -> None:
        raise NotImplementedError

    def _settle_gone(self) -> None:
        raise NotImplementedError


def _forget_frames(error: BaseException | None) -> None:
    """Let go of the frames that an error of the peer's passed: they hold what it sent, and, in a circle, us."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__
