"""Steering: a program in the kernel that lets only some listeners of a SO_REUSEPORT group get new connections.

Listeners that share an address with SO_REUSEPORT form a group, over which the kernel spreads new connections by a hash
of both addresses. A worker that drains must get none of them while its listener stays open, because whoever waits in a
closed listener's queue is reset. So the group gets a classic BPF program instead of the hash: it draws a random
number and gives the index of one of the members that may have the connection.

How the kernel numbers the members (read in its sources, and held by tests/test_reuseport.py on real sockets):

- A listener's index is its place in the order of ``listen()``, from 0; ``bind()`` doesn't count. The numbers belong
  to the group: one address, one family, one user id. Two addresses are two groups, each to be steered by itself.
- When a listener is closed, which is when its last descriptor in any process is, or shut down, **the last one takes
  over its index**; the others keep theirs. One that listens later gets the next index at the end.
- The program belongs to the group, whichever member it was attached through; it is replaced as a whole, stays when
  members come and go, and goes with the last of them. A listener that joins later gets nothing until the group is
  steered again. A socket that has one before it listens can't join a group any more (its ``listen()`` fails with
  EADDRINUSE), so `steer` leaves such a socket alone.
- An index out of range is no error: that connection is placed by the kernel's hash, over *all* members. It is never
  refused.
- Only the first packet (SYN) is steered. A connection whose handshake has begun, or that waits in a listener's queue,
  stays where it is: after `steer` somebody must still accept from the members left out until their queues are empty.
- A dual-stack listener (``::``) is steered for IPv4 peers, too. Migration of a closed listener's queue
  (``net.ipv4.tcp_migrate_req``) asks the hash, not the program.

No privilege is needed.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import socket
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_MEMBERS", "kernel_spreads", "program", "release", "steer"]

# Linux's numbers for the machines that Python is built for; the socket module doesn't have them.
SO_ATTACH_REUSEPORT_CBPF = 51
SO_DETACH_REUSEPORT_BPF = 68

# Classic BPF (linux/filter.h): an instruction is a code, two short jumps and a number.
INSTRUCTION = struct.Struct("=HBBI")
LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
MODULO = 0x94  # BPF_ALU | BPF_MOD | BPF_K
JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K
RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM: a "packet offset" that is a random number of 32 bits
NOBODY = 0xFFFFFFFF  # an index that no group has

MAX_INDEX = 0xFFFF  # a group has at most this many sockets
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
MAX_MEMBERS = (MAX_INSTRUCTIONS - 1) // 2
"""The most members that one program can choose from: 2047. Each but the last takes two instructions of 4096."""

logger = logging.getLogger("gevpy.server")


def kernel_spreads() -> bool:
    """Tell whether the system spreads new connections over the listeners of a group; elsewhere one of them gets all."""
    return sys.platform == "linux"


def program(members: Sequence[int]) -> bytes:
    """Write the program that gives each of ``members`` an equal share.

    It draws a random number below ``len(members)`` and looks it up in a table of comparisons. The kernel's own hash
    of the packet would do as well where it is there, but a network card that computes none leaves it 0 for everybody.

    Args:
        members: indexes into the group, 0 to 65535, each once; 1 to `MAX_MEMBERS` of them.

    Returns:
        An array of the kernel's ``struct sock_filter``, in this machine's byte order.

    Raises:
        ValueError: no members, too many, one twice, or an index out of range.

    Example:
        >>> len(program([0, 2])) // 8  # instructions
        5
    """
    if not 1 <= len(members) <= MAX_MEMBERS or len(set(members)) != len(members):
        msg = f"members must be 1 to {MAX_MEMBERS} different indexes, not {len(members)}: {list(members)[:8]!r}"
        raise ValueError(msg)
    if not all(0 <= member <= MAX_INDEX for member in members):
        msg = f"members must be indexes from 0 to {MAX_INDEX}, not {min(members)} to {max(members)}"
        raise ValueError(msg)
    code = [INSTRUCTION.pack(LOAD, 0, 0, RANDOM), INSTRUCTION.pack(MODULO, 0, 0, len(members))]
    for drawn, member in enumerate(members[:-1]):
        code.append(INSTRUCTION.pack(JUMP_IF_EQUAL, 0, 1, drawn))  # else over the next one
        code.append(INSTRUCTION.pack(RETURN, 0, 0, member))
    code.append(INSTRUCTION.pack(RETURN, 0, 0, members[-1]))
    return b"".join(code)


def steer(sock: socket.socket, members: Sequence[int]) -> bool:
    """Have new connections to the group of ``sock`` go to ``members`` only, in equal shares.

    It holds for every connection whose first packet comes after the return, and replaces what was steered before.
    What the module says about indexes, about queues and about listeners that come and go is the caller's to mind.

    Args:
        sock: any listener of the group, listening, TCP over IPv4 or IPv6, with SO_REUSEPORT. Not kept.
        members: as for `program`.

    Returns:
        True if it is so now. False if nothing has changed: ``sock`` doesn't listen, or the system can't or won't (no
        Linux, a sandbox that forbids it, no SO_REUSEPORT; the cause is logged at level DEBUG).

    Raises:
        ValueError: as for `program`, on every system.

    Example:
        >>> steer(listeners[0], [0, 1, 3])  # doctest: +SKIP
        True
    """
    return _attach(sock, program(members))


def release(sock: socket.socket) -> bool:
    """Have the kernel spread new connections over the whole group of ``sock`` again, by its hash. Idempotent.

    Args:
        sock: any listener of the group.

    Returns:
        True if nothing is steered now. False if the system can't or won't, as for `steer`.
    """
    try:
        return _set_option(sock, SO_DETACH_REUSEPORT_BPF, 0)
    except FileNotFoundError:
        return True  # it had no program
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:  # Linux before 5.3 can attach but not detach
            return _attach(sock, INSTRUCTION.pack(RETURN, 0, 0, NOBODY))
        logger.debug("cannot detach the program of a SO_REUSEPORT group: %s", error)
        return False


def _attach(sock: socket.socket, code: bytes) -> bool:
    held = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HP", len(code) // INSTRUCTION.size, ctypes.addressof(held))  # struct sock_fprog
    try:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False  # it would never listen
        return _set_option(sock, SO_ATTACH_REUSEPORT_CBPF, header)
    except OSError as error:
        logger.debug("cannot attach a program to a SO_REUSEPORT group: %s", error)
        return False


def _set_option(sock: socket.socket, option: int, value: int | bytes) -> bool:
    """Set it, or tell that this system doesn't know it: elsewhere the numbers mean something else."""
    if sys.platform != "linux":
        return False
    sock.setsockopt(socket.SOL_SOCKET, option, value)
    return True
