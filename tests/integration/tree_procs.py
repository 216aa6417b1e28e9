"""What the kernel says of a process tree: who runs, who holds which socket, whose connection was accepted already."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.harness import wait_until

if TYPE_CHECKING:
    import socket

__all__ = [
    "accepted_ports",
    "age_s",
    "children_of",
    "descriptors_of",
    "has_listener",
    "is_read",
    "is_running",
    "kill",
    "listeners_of",
    "queues_of",
    "state_of",
]

LISTEN = "0A"


def state_of(pid: int) -> str:
    """Give the letter of a process's state, ``"Z"`` for a zombie, and ``""`` if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def is_running(pid: int) -> bool:
    """Tell whether a process runs; a zombie doesn't."""
    return state_of(pid) not in ("", "Z")


def age_s(pid: int) -> float:
    """Give for how many seconds a process has lived; for ever, once it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return math.inf
    began = int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def children_of(pid: int) -> list[int]:
    """Give the processes that a process has started and not reaped."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text(encoding="ascii").split())
        except OSError:
            continue  # the thread, or all of it, has ended meanwhile
    return found


def descriptors_of(pid: int) -> dict[int, str]:
    """Give what each descriptor of a process refers to, such as ``socket:[4711]``."""
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(path.name)] = str(path.readlink())
        except OSError:
            continue  # closed meanwhile
    return found


def _inodes_of(pid: int) -> set[str]:
    return {name[8:-1] for name in descriptors_of(pid).values() if name.startswith("socket:[")}


def _tcp_rows(needle: str) -> list[list[str]]:
    """Give the kernel's TCP sockets whose line has ``needle``; there may be very many, and no time to lose."""
    text = Path("/proc/net/tcp").read_text(encoding="ascii")
    return [line.split() for line in text.splitlines() if needle in line]


def listeners_of(pid: int) -> set[str]:
    """Give the inodes of the TCP sockets on which a process could accept."""
    return {row[9] for row in _tcp_rows(f" {LISTEN} ") if row[3] == LISTEN} & _inodes_of(pid)


def _listeners_on(port: int) -> list[list[str]]:
    return [row for row in _tcp_rows(f":{port:04X} ") if row[3] == LISTEN and row[1].endswith(f":{port:04X}")]


def has_listener(port: int) -> bool:
    """Tell whether any process holds a socket that listens on a TCP port."""
    return bool(_listeners_on(port))


def queues_of(port: int) -> list[int]:
    """Give for each socket that listens on a TCP port how many connections wait to be accepted."""
    return [int(row[4].partition(":")[2], 16) for row in _listeners_on(port)]


def accepted_ports(pid: int, port: int) -> list[int]:
    """Give the peers' ports of the connections to ``port`` that a process has accepted, and holds."""
    inodes, here = _inodes_of(pid), f":{port:04X}"
    rows = [row for row in _tcp_rows(f"{here} ") if row[1].endswith(here) and row[3] != LISTEN]
    return [int(row[2].rpartition(":")[2], 16) for row in rows if row[9] in inodes]


def is_read(sock: socket.socket) -> bool:
    """Tell whether the other side, on this machine, has read all that ``sock`` has sent."""
    us, them = (f":{name[1]:04X}" for name in (sock.getsockname(), sock.getpeername()))
    rows = [row for row in _tcp_rows(f"{us} ") if row[1].endswith(them) and row[2].endswith(us)]
    return [row[4].partition(":")[2] for row in rows] == ["00000000"]


def kill(pid: int, port: int) -> list[int]:
    """End a worker with SIGKILL; give the peers' ports of all that it had accepted.

    It is stopped first, so that it can accept no more while we look.
    """
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T", "it has stopped")
    accepted = accepted_ports(pid, port)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), "it is dead")
    return accepted
