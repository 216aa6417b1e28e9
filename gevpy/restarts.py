"""Why a worker process is replaced: a closed list, and the label of the metric that counts it."""

from __future__ import annotations

import enum

__all__ = ["RestartReason"]


class RestartReason(enum.StrEnum):
    """Why a worker process was replaced; the value is the metrics label."""

    SIGNAL = "signal"
    """A signal ended it."""

    EXIT = "exit"
    """It exited by itself."""

    BLOCKED = "blocked"
    """Its loop did not turn, and the supervisor killed it."""

    START = "start"
    """It died before it was ready."""
