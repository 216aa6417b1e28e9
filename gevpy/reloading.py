"""``gevpy run --reload``: the server in a process of its own, started again whenever a source file changes."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchfiles import Change

__all__ = ["run_reloading"]

DEBOUNCE_MS = 200  # editors write a file in several steps

logger = logging.getLogger("gevpy.reloading")


def run_reloading(arguments: Sequence[str]) -> None:
    """Run ``gevpy`` with ``arguments``, and again when a Python file below this directory has changed; until Ctrl-C.

    A server that could not start, or has ended, is started again by the next change.

    Raises:
        click.UsageError: ``watchfiles`` is not installed.
    """
    try:
        from watchfiles import PythonFilter, run_process  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise click.UsageError("--reload needs watchfiles: pip install 'gevpy[reload]'") from error
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every change, by number
    here = Path.cwd()

    def tell(changes: set[tuple[Change, str]]) -> None:
        names = sorted(str(Path(path).relative_to(here)) for _, path in changes)
        logger.info("%s changed: starting again", ", ".join(names))

    run_process(
        here,
        target=shlex.join([sys.executable, "-m", "gevpy", *arguments]),
        target_type="command",
        watch_filter=PythonFilter(),
        callback=tell,
        debounce=DEBOUNCE_MS,
    )
