"""The machine a benchmark ran on: what is saved with every result, and how busy others kept it."""

from __future__ import annotations

import os
import platform
import resource
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Cores", "Machine", "busy_seconds", "choose_cores", "describe", "raise_file_limit"]

_FILES_WANTED = 65_536


@dataclass(frozen=True, slots=True)
class Machine:
    """What saved figures need beside them to mean anything."""

    processor: str
    cores: int
    memory_gb: float
    kernel: str
    libc: str
    python: str

    def as_dict(self) -> dict[str, str | int | float]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Cores:
    """One core for the server, another for the client; None where the machine has only one."""

    server: int | None
    client: int | None


def describe() -> Machine:
    """Describe this machine, without its name."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_gb=round(pages / 1e9, 1),
        kernel=f"{platform.system()} {platform.release()}",
        libc=" ".join(platform.libc_ver()),
        python=f"{platform.python_implementation()} {platform.python_version()}",
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def choose_cores() -> Cores:
    """Give the server the last core we may use, and the client the first: interrupts favour core 0."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) == 1:
        return Cores(None, None)
    return Cores(server=usable[-1], client=usable[0])


def busy_seconds() -> float:
    """Return the CPU time that all cores together have spent so far, other than waiting."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def raise_file_limit() -> int:
    """Raise the descriptor limit, for us and every process we start; return what was got."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, _FILES_WANTED), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except (ValueError, OSError):
            continue
        return limit
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
