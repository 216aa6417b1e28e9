"""How long to wait before connecting again: exponential back-off with full jitter.

The time to wait is drawn from a window that doubles with each failure: many clients of a server that comes back don't
come back in one moment. A connection that did not last counts as a failure here, so that a server which accepts and
drops is not asked without a pause.
"""

from __future__ import annotations

import random

__all__ = ["Backoff"]

FIRST_S = 0.1
LONGEST_S = 30.0
LASTED_S = 5.0  # a connection that lived so long was a good one


class Backoff:
    """The waits of one client, and whether to go on at all; time comes in as an argument.

    Args:
        attempts: failures in a row to connect, after which there is no more trying; None for no end of patience.

    Attributes:
        failures: to connect, in a row.

    Source: "full jitter" of the literature on back-off: uniform between nothing and the window.
    """

    def __init__(self, attempts: int | None) -> None:
        """Begin with the smallest window."""
        self._attempts = attempts
        self._window_s = FIRST_S
        self.failures = 0

    @property
    def exhausted(self) -> bool:
        """Whether there were as many failures in a row as allowed."""
        return self._attempts is not None and self.failures >= self._attempts

    def failed(self) -> None:
        """Learn that connecting failed."""
        self.failures += 1

    def ended(self, lasted_s: float) -> None:
        """Learn that a connection was there, and lasted so long."""
        self.failures = 0
        if lasted_s >= LASTED_S:
            self._window_s = FIRST_S

    def next_wait_s(self) -> float:
        """Draw the next wait in seconds, and double the window, up to 30 s."""
        window = self._window_s
        self._window_s = min(LONGEST_S, 2 * window)
        return random.uniform(0.0, window)  # noqa: S311 - jitter, not a secret
