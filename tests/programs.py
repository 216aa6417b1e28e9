"""A program under test: a process of this repository, what it says, and how it ends.

Warnings are errors in it, the sources here are what it imports, and the build under test is the one under test.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["DEADLINE_S", "ROOT", "Program"]

ROOT = Path(__file__).parents[1]
DEADLINE_S = 30.0  # for what takes a second on an idle machine: an interpreter to start, say


class Program:
    """A running Python program; a context, which kills what has not ended by itself.

    Attributes:
        output: all it has said up to what was last waited for, stdout and stderr in one.
    """

    def __init__(self, *arguments: str, cwd: Path = ROOT) -> None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.output = ""
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a group of its own, whose members end with it
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None, "it is a pipe"
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def __enter__(self) -> Self:
        """Give the program."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, if it still runs, and whatever it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None, "it is a pipe"
        self._process.stdout.close()

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for a line that matches, and give the match."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            line = self._next_line(deadline)
            assert line, f"ended without {pattern!r}; it said:\n{self.output}"
            found = re.search(pattern, line)
            if found:
                return found

    def output_so_far(self) -> str:
        """Give all it has said up to now, without waiting."""
        while not self._lines.empty():
            line = self._lines.get()
            if not line:
                self._lines.put(line)  # the end, for who waits for it
                break
            self.output += line
        return self.output

    def _next_line(self, deadline: float) -> str:
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f"nothing more within {DEADLINE_S} s; it said:\n{self.output}") from None
        self.output += line
        return line

    def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and give the exit code; `output` is complete then."""
        self._process.send_signal(signal_number)
        return self.wait()

    def wait(self) -> int:
        """Wait until it ends by itself, and give the exit code; `output` is complete then."""
        deadline = time.monotonic() + DEADLINE_S
        while self._next_line(deadline):
            pass
        return self._process.wait(timeout=max(0.1, deadline - time.monotonic()))
