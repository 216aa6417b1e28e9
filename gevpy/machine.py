"""What this machine gives a process: CPUs, memory, descriptors, and the kernel's settings that servers meet.

Each fact is a small function. Those that read files take the directory: ``/proc``, and the one where cgroups are
mounted, of either version. A test may give others. A file that isn't there, as on other systems than Linux, is a fact
that isn't known.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "UNLIMITED",
    "available_cpus",
    "cpu_quota",
    "descriptor_limits",
    "ephemeral_ports",
    "listen_overflows",
    "memory",
    "setting",
    "usable_workers",
]

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")

UNLIMITED = 2**63 - 1


def descriptor_limits() -> tuple[int, int]:
    """Give the soft and the hard RLIMIT_NOFILE; `UNLIMITED` where there is none."""
    if resource is None:
        return UNLIMITED, UNLIMITED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinity = resource.RLIM_INFINITY
    return UNLIMITED if soft == infinity else soft, UNLIMITED if hard == infinity else hard


def setting(name: str, proc: Path = PROC) -> int | None:
    """Give a whole number that the kernel is set to; None where it has no such setting.

    Args:
        name: as ``sysctl`` has it, ``"net.core.somaxconn"``.
        proc: where ``/proc`` is.
    """
    return _number(proc / "sys" / name.replace(".", "/"))


def ephemeral_ports(proc: Path = PROC) -> int | None:
    """Count the ports that connecting sockets get; None where it isn't known."""
    try:
        first, last = map(int, _text(proc / "sys/net/ipv4/ip_local_port_range").split())
    except ValueError:
        return None
    return last - first + 1


def listen_overflows(proc: Path = PROC) -> int:
    """Count the connections that met a full accept queue, of whichever server, since the machine started."""
    rows = [line.split() for line in _text(proc / "net/netstat").splitlines() if line.startswith("TcpExt:")]
    names_and_values = 2
    if len(rows) != names_and_values:
        return 0
    return int(dict(zip(*rows, strict=False)).get("ListenOverflows", 0))


# -- CPUs ------------------------------------------------------------------------------------------


def available_cpus() -> int:
    """Count the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(proc: Path = PROC, cgroups: Path = CGROUPS) -> float | None:
    """Give the number of CPUs whose time the cgroups grant, such as 1.5; None without a quota."""
    quotas = []
    for group in _own_groups(proc, cgroups, "cpu"):
        granted, _, period = _text(group / "cpu.max").partition(" ")
        if not granted:  # version 1
            granted, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        with suppress(ValueError, ZeroDivisionError):  # "max", or nothing
            quotas.append(int(granted) / int(period))
    return min((quota for quota in quotas if quota > 0), default=None)  # version 1 says -1 for none


def usable_workers() -> int:
    """Give how many workers can run at once: one for each CPU, or for each whose time a quota grants; at least 1."""
    return max(1, math.floor(min(available_cpus(), cpu_quota() or math.inf)))


# -- memory ----------------------------------------------------------------------------------------


def memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[int, str] | None:
    """Give the bytes of memory that there are for processes here, all together, and a word on who says so.

    Returns:
        The machine's memory or the limit of a cgroup, whichever is less, with ``"this machine has"`` or ``"the cgroup
        may use"``; None where neither is known.
    """
    known = []
    for line in _text(proc / "meminfo").splitlines():
        name, _, size = line.partition(":")
        if name == "MemTotal":
            known.append((int(size.split()[0]) * 1024, "this machine has"))
    for group in _own_groups(proc, cgroups, "memory"):
        limits = (_number(group / "memory.max"), _number(group / "memory.limit_in_bytes"))  # version 2, 1
        known += [(limit, "the cgroup may use") for limit in limits if limit is not None]
    return min(known, default=None)


# -- files of the kernel ---------------------------------------------------------------------------


def _own_groups(proc: Path, cgroups: Path, controller: str) -> Iterator[Path]:
    """Give the directories of this process's cgroups, innermost first: a limit of any of them holds.

    In a container the path may be the host's, and its directories not be there; the topmost is the container's then.
    """
    for line in _text(proc / "self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = cgroups  # version 2: one tree for all controllers
        elif controller in controllers.split(","):
            base = cgroups / controller
        else:
            continue
        group = PurePosixPath(path)
        if ".." not in group.parts:  # outside of what this namespace shows
            yield from (base / str(part).lstrip("/") for part in (group, *group.parents))


def _text(path: Path) -> str:
    """Read a file; nothing if it isn't there, or isn't ours to see."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    """Read a file that holds one whole number; None for any other text, such as ``max``."""
    try:
        return int(_text(path))
    except ValueError:
        return None
