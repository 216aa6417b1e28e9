"""The option ``--workers`` of the commands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeVar

import click

from gevpy.options import MAX_WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")

__all__ = ["workers_option"]


def _parse(_context: click.Context, _option: click.Parameter, text: str) -> int | Literal["auto"]:
    if text.lower() == "auto":
        return "auto"
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_WORKERS:
        raise click.UsageError(f'--workers must be a number from 1 to {MAX_WORKERS}, or "auto", not {text!r}')
    return int(text)


def workers_option(what: str) -> Callable[[F], F]:
    """Make the option; its value is a number, or ``"auto"``.

    Args:
        what: begins the help text.
    """
    return click.option(
        "--workers",
        default="1",
        show_default=True,
        metavar="N|auto",
        callback=_parse,
        help=f"{what}; auto: as many as can run at once.",
    )
