"""What systemd and a service say to each other: sockets that it bound, readiness, and signs of life.

All of it is by environment variables that systemd sets; without them, nothing here does anything.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

from gevpy.errors import ConfigError

__all__ = ["forget", "notify", "passed_sockets", "watchdog_interval_s"]

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START


def passed_sockets() -> list[socket.socket]:
    """Take the listening sockets that systemd has bound for this process; none if it hasn't.

    The variables are removed, so that no child takes them for its own. For ``serve(sockets=...)``; ``gevpy run`` does
    so by itself.

    Returns:
        The sockets of ``LISTEN_FDS``, if ``LISTEN_PID`` is this process.

    Raises:
        ConfigError: ``LISTEN_FDS`` counts a descriptor that is closed or is no socket; none is taken then.

    Source: sd_listen_fds(3).

    Example:
        >>> import gevpy
        >>> from gevpy.systemd import passed_sockets
        >>> serving = lambda handler: gevpy.serve(handler, sockets=passed_sockets() or None, port=1833)
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    for fd in descriptors:
        _require_socket(fd, count)
    for fd in descriptors:
        os.set_inheritable(fd, False)  # noqa: FBT003 - its own argument
    return [socket.socket(fileno=fd) for fd in descriptors]


def _require_socket(fd: int, count: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        is_socket = False
    if not is_socket:
        raise ConfigError(f"LISTEN_FDS is {count}, but descriptor {fd} is no open socket")


def forget() -> None:
    """Remove what systemd has said to this process's parent: a worker doesn't speak for the service."""
    for name in VARIABLES:
        os.environ.pop(name, None)


def notify(state: str) -> bool:
    """Tell systemd of a change: ``"READY=1"``, ``"STOPPING=1"``, ``"WATCHDOG=1"``, ``"STATUS=..."``.

    Returns:
        Whether there was somebody to tell. It never raises: a service must not fail because nobody listens.

    Source: sd_notify(3).
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(state.encode(), address)
        return True
    return False


def watchdog_interval_s() -> float | None:
    """Give the seconds between signs of life that ``WatchdogSec=`` wants, half of its limit; None if it wants none."""
    limit = os.environ.get("WATCHDOG_USEC", "")
    if not limit.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(limit) / 2e6 or None
