"""What runs in the processes of `test_child` in place of a worker: each does one thing that one must, or shouldn't."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING

from gevpy.control import HEAD, encode
from gevpy.control_messages import Beat, Failed, Logged, Ready
from gevpy.metrics.snapshot import Snapshot

if TYPE_CHECKING:
    from gevpy.worker_process import Assignment

MANY = 250  # descriptors


def _wait_for_the_end(assignment: Assignment) -> None:
    """Read until the supervisor has closed."""
    assignment.control.setblocking(True)
    while assignment.control.recv(65536):
        pass


def obedient(assignment: Assignment) -> None:
    """Be ready, and exit when told anything."""
    assignment.control.sendall(encode(Ready()))
    assignment.control.recv(1)


def deaf(assignment: Assignment) -> None:
    """Be ready, and do nothing ever after."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assignment.control.sendall(encode(Ready()))
    while True:
        time.sleep(60)


def exits(assignment: Assignment) -> None:
    """Exit without a word."""
    os._exit(7)


def last_words(assignment: Assignment) -> None:
    """Say much, and be gone at once: all of it counts."""
    assignment.control.sendall(encode(Ready()))
    for number in range(200):
        snapshot = Snapshot.empty(assignment.slot)
        snapshot.counters["opened"] = number
        assignment.control.sendall(encode(Beat(0, 0.0), snapshot.to_json()) if number else b"")
        assignment.alarm.sendall(encode(Logged("rogue", 30, str(number))))
    payload = Snapshot.empty(assignment.slot).to_json()
    header = encode(Beat(0, 1.0), payload)
    assignment.control.sendall(header)
    assignment.control.sendall(encode(Failed("last words", "")))
    os._exit(0)


def garbage(assignment: Assignment) -> None:
    """Send what is no message."""
    assignment.control.sendall(b"no message at all, but long enough to be taken for one")
    _wait_for_the_end(assignment)


def boastful(assignment: Assignment) -> None:
    """Announce a gigabyte."""
    assignment.control.sendall(HEAD.pack(2, 1 << 30, 0))
    _wait_for_the_end(assignment)


def generous(assignment: Assignment) -> None:
    """Send descriptors that nobody asked for."""
    assignment.control.sendmsg(
        [encode(Ready())], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{MANY}i", *[0] * MANY))]
    )
    _wait_for_the_end(assignment)


def confused(assignment: Assignment) -> None:
    """Send a beat that is no snapshot."""
    assignment.control.sendall(encode(Ready()) + encode(Beat(0, 0.0), b'{"counters": null}'))
    _wait_for_the_end(assignment)


def mumbling(assignment: Assignment) -> None:
    """Send garbage where only log records come, and go on."""
    assignment.alarm.sendall(b"mumble mumble mumble mumble")
    assignment.control.sendall(encode(Ready()))
    assignment.control.recv(1)
