"""Who blocks the loop: reads the stack of its thread, and finds the handler's method and the kind of message in hand.

What is charged is found by code objects and not by gevpy's frames, which the compiled build has none of. Whatever
becomes a label is bounded: the places are a closed list, the kinds of message are short and printable.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import traceback
from functools import partial, partialmethod
from itertools import dropwhile
from pathlib import Path
from types import CodeType, MethodType
from typing import TYPE_CHECKING, Any

from gevpy.blocked import OTHER, Blocked
from gevpy.hooks import HOOKS
from gevpy.log_limit import printable
from gevpy.protocol.base import Protocol
from gevpy.timers import Timer, _running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["PLACES", "Culprits", "without_plumbing", "written"]

METHODS = ("on_message", *HOOKS)
CODEC = ("unpacket", "packet")
TIMER = "timer"

PLACES = (*METHODS, *CODEC, TIMER, OTHER)
"""Where a loop can be blocked: all the values of the metrics label."""

MAX_KIND = 64
MAX_INT_BITS = 64  # the numbers that protocols use; the digits of a huge one take long to find
MAX_STACK_BYTES = 4096
MAX_WRAPPERS = 16  # decorators around one method; a bound, for a __wrapped__ that goes in circles
ASYNCIO = str(Path(asyncio.__file__).parent)
LOOP_FUNCTIONS = frozenset({"run", "run_until_complete", "run_forever", "_run_once", "_run"})


class Culprits:
    """Finds, on a stack, the frames of a handler's methods, inherited and wrapped ones too, of codecs and of timers."""

    def __init__(self, handler: object) -> None:
        """Look the handler over."""
        self._name = type(handler).__name__
        self._hooks: dict[CodeType, set[str]] = {}
        for hook in METHODS:
            for method in (getattr(handler, hook, None), *(vars(cls).get(hook) for cls in type(handler).__mro__)):
                for code in _codes_of(method):
                    self._hooks.setdefault(code, set()).add(hook)

    def describe(self, blocked: Blocked) -> str:
        """Say where it was, for the log."""
        if not blocked.stack:
            return "outside of all Python code: by the event loop itself, or a busy machine"
        places = {TIMER: "in a timer callback", OTHER: "outside of the handler's methods"}
        places.update((name, f"in the protocol's {name}") for name in CODEC)
        place = places.get(blocked.where, f"in {self._name}.{blocked.where}")
        kind = f" (kind {blocked.kind})" if blocked.kind else ""
        return f"{place}{kind}\n{blocked.stack}".rstrip()

    def locate(self, frames: list[FrameType]) -> tuple[str, str]:
        """Give the place and the kind of message for a stack, innermost frame first; the innermost place counts."""
        timed = _timed_codes()
        found = OTHER
        for frame in frames:
            place = self._place(frame, timed)
            if place is not None and found == OTHER:
                found = place
            if place == "on_message":
                return found, _kind_of(frame)
        return found, ""

    def _place(self, frame: FrameType, timed: set[CodeType]) -> str | None:
        code = frame.f_code
        hooks = self._hooks.get(code)
        if hooks is not None:
            return self._hook(frame, hooks)
        if code.co_name in CODEC and _is_of_a_protocol(frame):
            return code.co_name
        return TIMER if code in timed else None

    def _hook(self, frame: FrameType, hooks: set[str]) -> str | None:
        """Tell which method a frame is of; the wrappers that one decorator made have one code, and hold the method."""
        if len(hooks) > 1:
            held = [frame.f_locals.get(name) for name in frame.f_code.co_freevars]
            owners = [self._hooks.get(code, set()) for value in held for code in _codes_of(value)]
            hooks = {hook for owner in owners if len(owner) == 1 for hook in owner}
        return next(iter(hooks)) if len(hooks) == 1 else None


def _codes_of(method: Any) -> Iterator[CodeType]:
    """Give the code of a method, and of what it wraps."""
    for _ in range(MAX_WRAPPERS):
        if isinstance(method, MethodType | staticmethod | classmethod):
            method = method.__func__
        elif isinstance(method, partial | partialmethod):
            method = method.func
        else:
            code = getattr(method, "__code__", None)
            if isinstance(code, CodeType):
                yield code
            method = getattr(method, "__wrapped__", None)


def _timed_codes() -> set[CodeType]:
    """Give the code that calls timer callbacks, and that of asynchronous ones which have begun."""
    coroutines = [task.get_coro() for task in tuple(_running) if hasattr(task, "get_coro")]
    codes = [getattr(coroutine, "cr_code", None) for coroutine in coroutines]
    return {Timer._call.__code__, *(code for code in codes if code is not None)}


def _is_of_a_protocol(frame: FrameType) -> bool:
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return bool(names) and issubclass(type(frame.f_locals.get(names[0])), Protocol)


def _kind_of(frame: FrameType) -> str:
    """Give the kind of the message that an ``on_message`` handles."""
    ctx, data = _message_of(frame)
    if isinstance(ctx, enum.Enum):
        text = str(ctx.name)
    elif isinstance(ctx, str) and ctx:
        text = str.__str__(ctx)
    elif isinstance(ctx, int):
        text = int.__repr__(ctx) if int.bit_length(ctx) <= MAX_INT_BITS else "int"
    else:
        text = type(data).__name__
    return printable(text[:MAX_KIND])[:MAX_KIND]


def _message_of(frame: FrameType) -> tuple[Any, Any]:
    """Give the ``ctx`` and ``data`` that an ``on_message`` was called with, whatever it names them."""
    code, values = frame.f_code, frame.f_locals
    if "ctx" in values and "data" in values:
        return values["ctx"], values["data"]
    arguments = [values.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & inspect.CO_VARARGS:
        arguments += values.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
    ctx, data = (None, None, *arguments)[-2:]
    return ctx, data


def without_plumbing(calls: list[tuple[FrameType, int]]) -> list[tuple[FrameType, int]]:
    """Leave out, of a stack with the innermost call first, all down to what runs the loop: it is always the same.

    Nothing is left where the loop itself is at work, and no Python code that it has called.
    """
    inwards = dropwhile(lambda call: not _runs_the_loop(call), reversed(calls))
    within = list(dropwhile(_runs_the_loop, inwards))[::-1]
    return within if any(map(_runs_the_loop, calls)) else calls


def _runs_the_loop(call: tuple[FrameType, int]) -> bool:
    code = call[0].f_code
    return code.co_name in LOOP_FUNCTIONS and code.co_filename.startswith(ASYNCIO)


def written(lines: list[tuple[str, int, str, None]]) -> str:
    """Write a stack as tracebacks are written, innermost call last."""
    text = "".join(traceback.StackSummary.from_list(reversed(lines)).format())
    return text.encode("utf-8", "backslashreplace")[-MAX_STACK_BYTES:].decode("utf-8", "ignore")
