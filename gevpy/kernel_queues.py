"""What the kernel still holds for a socket: input that nobody read, output that nobody acknowledged.

Both decide how a socket may be closed: one closed with unread input sends a reset, and a reset makes both ends throw
away what was on its way.
"""

from __future__ import annotations

import os
import struct

try:
    import fcntl
    import termios
except ImportError:  # Windows: it has neither, and answers 0 below
    fcntl = None  # type: ignore[assignment]

__all__ = ["discard_input", "unacknowledged_bytes", "unread_bytes"]

DISCARD_READS = 16
DISCARD_BYTES = 65536


def unread_bytes(fd: int) -> int:
    """Count the input that waits in the kernel; 0 where it can't be known."""
    return _ask(fd, "FIONREAD")


def unacknowledged_bytes(fd: int) -> int:
    """Count the output that the peer's kernel has not acknowledged; 0 where it can't be known."""
    return _ask(fd, "TIOCOUTQ")


def discard_input(fd: int) -> None:
    """Read and forget what the kernel holds now, at most 1 MiB of it."""
    try:
        for _ in range(DISCARD_READS):
            if not os.read(fd, DISCARD_BYTES):
                return
    except OSError:
        return  # nothing more, or closed already


def _ask(fd: int, request: str) -> int:
    if fcntl is None or not hasattr(termios, request):
        return 0
    try:
        answer = fcntl.ioctl(fd, getattr(termios, request), b"\0\0\0\0")
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])
