"""What processes have spent of the CPU: in all, exactly, and split by the kernel's sampling."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ServerCpu", "cpu_seconds"]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process in full resolution, through its POSIX CPU clock.

    The clock's number is the kernel's ABI (`~pid << 3 | 2`); Python has `pthread_getcpuclockid` only.
    """
    return time.clock_gettime(~pid << 3 | 2)


class ServerCpu:
    """What a server's processes spend from now on."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._before = self._read()

    def spent(self) -> dict[str, Any]:
        """Return it by the names of the load generator's answer."""
        now = self._read()
        each = [round((after[0] - before[0]) * 1e9) for before, after in zip(self._before, now, strict=True)]
        user, system = (sum(row[i] for row in now) - sum(row[i] for row in self._before) for i in (1, 2))
        return {
            "server_cpu_ns": sum(each),
            "server_cpu_each_ns": each,
            "server_user_ticks": user,
            "server_system_ticks": system,
        }

    def _read(self) -> list[tuple[float, int, int]]:
        rows = []
        for pid in self._pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            rows.append((cpu_seconds(pid), int(fields[11]), int(fields[12])))
        return rows
