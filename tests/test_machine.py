"""What a machine gives a process, read from trees of files like the kernel's, of every kind of container."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from gevpy import machine

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1024
HOST_V1 = "12:cpu,cpuacct:/shop/web\n7:memory:/shop/web\n0::/"


def write(root: Path, files: dict[str, str]) -> None:
    """Write files of one line each below a directory."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Give an empty ``/proc``."""
    return tmp_path / "proc"


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    """Give an empty ``/sys/fs/cgroup``."""
    return tmp_path / "cgroup"


# -- CPUs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/", {}, None),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "50000 200000"}, 0.25),
        ("0::/", {"cpu.max": "100000 0"}, None),
        ("0::/", {"cpu.max": "plenty"}, None),
        ("0::/shop/web", {"shop/web/cpu.max": "max 100000", "shop/cpu.max": "200000 100000"}, 2),
        ("0::/shop/web", {"shop/web/cpu.max": "100000 100000", "shop/cpu.max": "200000 100000"}, 1),
        ("0::/of/the/host", {"cpu.max": "300000 100000"}, 3),
        ("0::/../../elsewhere", {"cpu.max": "300000 100000"}, None),
        (HOST_V1, {"cpu/shop/web/cpu.cfs_quota_us": "250000", "cpu/shop/web/cpu.cfs_period_us": "100000"}, 2.5),
        (HOST_V1, {"cpu/shop/web/cpu.cfs_quota_us": "-1", "cpu/shop/web/cpu.cfs_period_us": "100000"}, None),
        (HOST_V1, {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ("nonsense", {"cpu.max": "300000 100000"}, None),
    ],
)
def test_the_quota_is_that_of_the_tightest_group(
    proc: Path, cgroups: Path, own: str, files: dict[str, str], quota: float | None
) -> None:
    """Of its own group and all above, in either version, also where the path is the host's."""
    write(proc, {"self/cgroup": own})
    write(cgroups, files)
    assert machine.cpu_quota(proc, cgroups) == quota


def test_affinity_counts_where_the_system_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere all CPUs are counted."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert machine.available_cpus() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.available_cpus() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.available_cpus() == 1


# -- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {}, (8_000_000 * KIB, "this machine has")),
        ("0::/", {"memory.max": "max"}, (8_000_000 * KIB, "this machine has")),
        ("0::/web", {"memory.max": "4096", "web/memory.max": "1024"}, (1024, "the cgroup may use")),
        (HOST_V1, {"memory/shop/web/memory.limit_in_bytes": "2048"}, (2048, "the cgroup may use")),
        (HOST_V1, {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, (8_000_000 * KIB, "this machine has")),
    ],
)
def test_memory_is_the_least_that_holds(
    proc: Path, cgroups: Path, own: str, files: dict[str, str], expected: tuple[int, str]
) -> None:
    """The machine's, or the limit of a cgroup in either version; "none" of version 1 is a huge number."""
    write(proc, {"self/cgroup": own, "meminfo": "MemTotal:        8000000 kB\nMemFree:  1 kB"})
    write(cgroups, files)
    assert machine.memory(proc, cgroups) == expected


# -- settings and counters -----------------------------------------------------------------------------------------


def test_settings_have_their_sysctl_names(proc: Path) -> None:
    """A dot is a directory; a setting that isn't a number isn't known."""
    write(proc, {"sys/net/core/somaxconn": "4096", "sys/net/ipv4/tcp_rmem": "4096 131072 6291456"})
    assert machine.setting("net.core.somaxconn", proc) == 4096
    assert machine.setting("net.ipv4.tcp_rmem", proc) is None


def test_ephemeral_ports_are_counted(proc: Path) -> None:
    """Both ends of the range belong to it."""
    write(proc, {"sys/net/ipv4/ip_local_port_range": "32768\t60999"})
    assert machine.ephemeral_ports(proc) == 28_232


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\nIpExt: InNoRoutes\nIpExt: 0", 22),
        ("TcpExt: SyncookiesSent\nTcpExt: 1", 0),
        ("TcpExt: ListenOverflows", 0),
    ],
)
def test_listen_overflows_are_found_by_name(proc: Path, text: str, count: int) -> None:
    """Kernels have them at different places, or not at all."""
    write(proc, {"net/netstat": text})
    assert machine.listen_overflows(proc) == count


def test_a_system_without_these_files_is_no_error(proc: Path, cgroups: Path) -> None:
    """What isn't there isn't known."""
    assert machine.cpu_quota(proc, cgroups) is None
    assert machine.memory(proc, cgroups) is None
    assert machine.setting("net.core.somaxconn", proc) is None
    assert machine.ephemeral_ports(proc) is None
    assert machine.listen_overflows(proc) == 0


def test_descriptor_limits_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's word for none, and a system without such limits, are one number above all others."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    assert machine.descriptor_limits() == (1024, machine.UNLIMITED)
    monkeypatch.setattr(machine, "resource", None)
    assert machine.descriptor_limits() == (machine.UNLIMITED, machine.UNLIMITED)
