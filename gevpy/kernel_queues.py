"""What the kernel still holds for a socket: input that nobody read, output that nobody acknowledged.

Both decide how a socket may be closed: one closed with unread input sends a reset, and a reset makes both ends throw
away what was on its way. Where that is wanted, `reset_on_close` asks for it: without, the kernel keeps output for a
peer that doesn't read long after the descriptor is gone.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import Any

try:
    import fcntl
    import termios
except ImportError:  # Windows: it has neither, and answers 0 below
    fcntl = None  # type: ignore[assignment]

__all__ = ["discard_input", "reset_on_close", "unacknowledged_bytes", "unread_bytes", "was_reset"]

LINGER_0 = struct.pack("ii", 1, 0)  # on, and for 0 seconds
DISCARD_READS = 16
DISCARD_BYTES = 65536


def unread_bytes(fd: int) -> int:
    """Count the input that waits in the kernel; 0 where it can't be known."""
    return _ask(fd, "FIONREAD")


def unacknowledged_bytes(fd: int) -> int:
    """Count the output that the peer's kernel has not acknowledged; 0 where it can't be known."""
    return _ask(fd, "TIOCOUTQ")


def was_reset(fd: int) -> bool:
    """Tell whether the peer has reset the connection, which a loop that doesn't read isn't told; False if unknown."""
    if fd < 0 or not hasattr(select, "poll"):
        return False
    poller = select.poll()
    poller.register(fd, 0)  # errors are told without being asked for
    return bool(poller.poll(0))


def discard_input(fd: int) -> None:
    """Read and forget what the kernel holds now, at most 1 MiB of it."""
    try:
        for _ in range(DISCARD_READS):
            if not os.read(fd, DISCARD_BYTES):
                return
    except OSError:
        return  # nothing more, or closed already


def reset_on_close(sock: Any) -> None:
    """Have the next close throw everything away and send a reset; nothing for what is no TCP socket, or is gone.

    Args:
        sock: a socket, or what a transport shows of its own.
    """
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    except OSError:
        return  # the peer was faster


def _ask(fd: int, request: str) -> int:
    if fd < 0 or fcntl is None or not hasattr(termios, request):  # below 0: a transport without a socket
        return 0
    try:
        answer = fcntl.ioctl(fd, getattr(termios, request), b"\0\0\0\0")
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])
