"""Fresh numbers for whoever asks, with one refresh for all who wait at the same time.

Asking N workers takes turns of the loop. Whoever asks while that goes on is served by the same round, so that many
scrapers cost no more than one. A refresh that fails, or takes too long, is logged and lets the askers go on with the
numbers that were there before: late metrics are worth more than none.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gevpy.log_limit import LimitedLog

__all__ = ["Refresher"]

PATIENCE_S = 1.5  # a source may take 1 s
STOP_GRACE_S = 1.0  # for a refresh that was cancelled


class Refresher:
    """Runs one refresh at a time, and calls back those who wait for it.

    For the loop it is used on.

    Args:
        refresh: brings the numbers up to date.
        log: told of what fails, at most once in a while.

    Resource handling: `stop` ends the one task that there may be.

    Example:
        >>> Refresher(source.refresh, log).ask(answer)  # doctest: +SKIP
    """

    def __init__(self, refresh: Callable[[], Awaitable[None]], log: LimitedLog) -> None:
        """Begin with nobody waiting."""
        self._refresh = refresh
        self._log = log
        self._waiting: dict[Callable[[], None], None] = {}
        self._task: asyncio.Task[None] | None = None

    def ask(self, then: Callable[[], None]) -> None:
        """Call ``then`` once the numbers are fresh, or it was not worth waiting longer.

        Args:
            then: must not raise; called in a later turn of the loop, unless `forget` comes before.
        """
        self._waiting[then] = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def forget(self, then: Callable[[], None]) -> None:
        """Don't call ``then`` any more; nothing, if it doesn't wait."""
        self._waiting.pop(then, None)

    async def stop(self) -> None:
        """End the refresh that may be under way, and wait until it has; nobody is called back. Idempotent."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=STOP_GRACE_S)
            self._task = None

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._refresh()
        except TimeoutError:
            self._log.log("late", logging.WARNING, f"no fresh metrics within {PATIENCE_S:g} s: showing the last ones")
        except Exception as error:  # noqa: BLE001 - whatever it is, the last numbers are still there
            self._log.log("refresh", logging.ERROR, "metrics can't be refreshed: showing the last ones", error)
        finally:  # also where the source was cancelled from within
            self._task = None
            waiting, self._waiting = self._waiting, {}
            for then in waiting:
                then()
