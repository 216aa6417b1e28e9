"""Live progress on standard error: what runs, n of m, time left."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

__all__ = ["Progress"]


@dataclass(slots=True)
class Progress:
    """Counts steps, and learns from those done how long the rest will take."""

    steps: int
    planned_s: float
    done: int = 0
    done_s: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def step(self, what: str, planned_s: float) -> None:
        """Say what begins now; it should take `planned_s`."""
        self.done += 1
        left = self._left()
        self.done_s += planned_s
        width = len(str(self.steps))
        self._write(f"[{self.done:{width}}/{self.steps}] {left:>5} left  {what:<58}")

    def result(self, text: str) -> None:
        """Add to the line what the step found."""
        self._write(f" {text}\n")

    def skip(self, what: str, planned_s: float, reason: str) -> None:
        """Say that a step is left out; it must not count as a quick one."""
        self.done += 1
        self.planned_s -= planned_s
        width = len(str(self.steps))
        self._write(f"[{self.done:{width}}/{self.steps}]  skipped   {what}: {reason}\n")

    def _left(self) -> str:
        elapsed = time.monotonic() - self.began
        pace = elapsed / self.done_s if self.done_s else 1.0
        seconds = round((self.planned_s - self.done_s) * pace)
        return f"{seconds // 60}:{seconds % 60:02}"

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
