"""One question to many workers: all are asked at once, and what has come within a second is the answer."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gevpy.child import Child
    from gevpy.control_messages import Message

__all__ = ["Gather"]

PATIENCE_S = 1.0


class Gather:
    """The questions of one supervisor. On its loop only.

    Example:
        >>> counts = await gather.ask(children, lambda ticket: Count(ticket, "news"))
    """

    def __init__(self) -> None:
        """Begin without a question."""
        self._tickets = count(1)
        self._open: dict[int, _Question] = {}

    async def ask(self, children: Iterable[Child], message: Callable[[int], Message]) -> list[Any]:
        """Ask, and give the answers of those who gave one within a second; who is gone or can't be told gives none.

        Args:
            children: whom to ask.
            message: makes the message of a ticket, which the answers carry.
        """
        ticket = next(self._tickets)
        question = _Question({child for child in children if child.send(message(ticket))})
        if not question.waiting:
            return []
        self._open[ticket] = question
        try:
            await asyncio.wait((question.answered,), timeout=PATIENCE_S)
        finally:
            del self._open[ticket]
        return question.answers

    def answer(self, ticket: int, child: Child, answer: Any) -> None:
        """Take a worker's answer; one to a question that is closed, or that it wasn't asked, is dropped."""
        question = self._open.get(ticket)
        if question is not None and child in question.waiting:
            question.answers.append(answer)
            question.strike_out(child)

    def forget(self, child: Child) -> None:
        """Wait no longer for a worker: it is gone."""
        for question in self._open.values():
            question.strike_out(child)


class _Question:
    def __init__(self, waiting: set[Child]) -> None:
        self.waiting = waiting
        self.answers: list[Any] = []
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def strike_out(self, child: Child) -> None:
        self.waiting.discard(child)
        if not self.waiting and not self.answered.done():
            self.answered.set_result(None)
