"""One question to many workers: it ends when all have answered, and never later than a second."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gevpy import gather
from gevpy.control_messages import Ask, Message
from gevpy.gather import Gather
from tests.serving import soon, turns


class Respondent:
    """A worker that is asked; it answers when the test says so."""

    def __init__(self, *, hears: bool = True) -> None:
        self.hears = hears
        self.heard: list[Message] = []

    def send(self, message: Message) -> bool:
        self.heard.append(message)
        return self.hears

    @property
    def ticket(self) -> int:
        """The last question's."""
        message = self.heard[-1]
        assert isinstance(message, Ask)
        return message.ticket


async def asking(questions: Gather, *workers: Any) -> asyncio.Task[list[Any]]:
    """Ask, and let that begin."""
    task = asyncio.ensure_future(questions.ask(workers, Ask))
    await turns(2)
    return task


async def test_all_answers_end_it_at_once() -> None:
    """In the order in which they come."""
    questions, first, second = Gather(), Respondent(), Respondent()
    task = await asking(questions, first, second)
    questions.answer(second.ticket, second, "b")  # type: ignore[arg-type]  # what Gather needs of a child
    await turns(3)
    assert not task.done()
    questions.answer(first.ticket, first, "a")  # type: ignore[arg-type]
    assert await soon(task) == ["b", "a"]


async def test_nobody_to_ask_is_no_answer() -> None:
    """Nor is one that can't be told; nothing is waited for."""
    assert await soon(Gather().ask([], Ask)) == []
    deaf: Any = Respondent(hears=False)
    assert await soon(Gather().ask([deaf], Ask)) == []


async def test_who_can_t_be_told_is_not_waited_for() -> None:
    """The others' answers are enough."""
    questions, deaf, other = Gather(), Respondent(hears=False), Respondent()
    task = await asking(questions, deaf, other)
    questions.answer(other.ticket, other, 1)  # type: ignore[arg-type]
    assert await soon(task) == [1]


async def test_who_is_gone_is_not_waited_for() -> None:
    """It dies while it is asked, by several at once."""
    questions, gone, other = Gather(), Respondent(), Respondent()
    tasks = [await asking(questions, gone, other), await asking(questions, gone)]
    questions.forget(gone)  # type: ignore[arg-type]
    assert await soon(tasks[1]) == []
    for message in other.heard:
        assert isinstance(message, Ask)
        questions.answer(message.ticket, other, 1)  # type: ignore[arg-type]
    assert await soon(tasks[0]) == [1]


async def test_what_has_come_is_the_answer_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that hangs costs its own answer and nobody else's; its late one is dropped."""
    monkeypatch.setattr(gather, "PATIENCE_S", 0.05)
    questions, hanging, other = Gather(), Respondent(), Respondent()
    task = await asking(questions, hanging, other)
    questions.answer(other.ticket, other, 5)  # type: ignore[arg-type]
    assert await soon(task) == [5]
    questions.answer(hanging.ticket, hanging, 6)  # type: ignore[arg-type]
    assert not questions._open


async def test_answers_that_nobody_asked_for_are_dropped() -> None:
    """To no question, to another's, or twice: a worker that has lost its mind can't answer for others."""
    questions, first, second, stranger = Gather(), Respondent(), Respondent(), Respondent()
    task = await asking(questions, first, second)
    ticket = first.ticket
    questions.answer(ticket + 1000, first, "no such question")  # type: ignore[arg-type]
    questions.answer(-1, first, "nor this")  # type: ignore[arg-type]
    questions.answer(ticket, stranger, "not asked")  # type: ignore[arg-type]
    questions.answer(ticket, first, 1)  # type: ignore[arg-type]
    questions.answer(ticket, first, "twice")  # type: ignore[arg-type]
    await turns(3)
    assert not task.done()
    questions.answer(ticket, second, 2)  # type: ignore[arg-type]
    assert await soon(task) == [1, 2]


async def test_questions_don_t_mix() -> None:
    """Each has a ticket of its own."""
    questions, worker = Gather(), Respondent()
    tasks = [await asking(questions, worker) for _ in range(3)]
    tickets = [message.ticket for message in worker.heard if isinstance(message, Ask)]
    assert len(set(tickets)) == 3
    for number, ticket in reversed(list(enumerate(tickets))):
        questions.answer(ticket, worker, number)  # type: ignore[arg-type]
    assert [await soon(task) for task in tasks] == [[0], [1], [2]]


async def test_a_question_that_is_called_off_leaves_nothing() -> None:
    """Its asker was cancelled."""
    questions, worker = Gather(), Respondent()
    task = await asking(questions, worker)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not questions._open
    questions.answer(worker.ticket, worker, 1)  # type: ignore[arg-type]
