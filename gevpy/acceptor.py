"""Accepting in the supervisor, for placements that the kernel can't do: each connection is handed to a worker."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import TYPE_CHECKING

from gevpy.addresses import format_address
from gevpy.errors import WorkerError
from gevpy.kernel_queues import reset_on_close
from gevpy.placement import chooser

if TYPE_CHECKING:
    from gevpy.placement import Chooser
    from gevpy.supervisor import Supervisor

__all__ = ["Acceptor"]

ACCEPTS_PER_WAKE = 100
PAUSE_S = 0.1
CAPACITY_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

logger = logging.getLogger("gevpy.supervisor")


class Acceptor:
    """Accepts on one socket and hands over.

    With no worker that is ready, nothing is accepted: the kernel's queue holds those who come.

    Args:
        supervisor: whose workers get the connections.
        sock: listening, non-blocking; it stays the caller's to close.
        choose: the placement.
    """

    def __init__(self, supervisor: Supervisor, sock: socket.socket, choose: Chooser) -> None:
        """Set up; nothing is accepted before `start`."""
        self._supervisor = supervisor
        self._sock = sock
        self._fd = sock.fileno()
        self._choose = choose
        self._fallback = chooser("least_connections")
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._running = False

    def start(self) -> None:
        """Begin to accept."""
        self._running = True
        self._loop.add_reader(self._fd, self._accept_ready)

    def stop(self) -> None:
        """Accept no more. Idempotent."""
        if self._running:
            self._running = False
            self._loop.remove_reader(self._fd)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _accept_ready(self) -> None:
        for _ in range(ACCEPTS_PER_WAKE):
            if not self._supervisor.live:
                self._pause()
                return
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in CAPACITY_ERRORS:
                    self._supervisor.log.log("accept", logging.ERROR, f"accepting paused: {error.strerror}")
                    self._pause()
                    return
                continue  # this one peer was gone before it was accepted
            with sock:
                self._place(sock, format_address(address))
            if self._retry is not None:
                return

    def place_again(self, fd: int) -> None:
        """Hand over once more a connection whose worker died before it took it."""
        with socket.socket(fileno=fd) as sock:
            try:
                peer = format_address(sock.getpeername())
            except OSError:
                return  # the peer is gone, too
            if self._supervisor.live:
                self._place(sock, peer)
            else:
                self._supervisor.log.log("full", logging.WARNING, f"refused {peer}: no worker takes connections")
                reset_on_close(sock)

    def _place(self, sock: socket.socket, peer: str) -> None:
        live = {child.load: child for child in self._supervisor.live}
        loads = list(live)
        try:
            chosen = live[self._choose(loads, peer)]
        except WorkerError as error:
            self._supervisor.log.log(
                "placement", logging.ERROR, f"{error}: the least busy worker takes it", error.__cause__
            )
            chosen = live[self._fallback(loads, peer)]
        fd = sock.fileno()
        if not chosen.hand_over(fd) and not any(child.hand_over(fd) for child in live.values()):
            self._supervisor.log.log("full", logging.WARNING, f"refused {peer}: no worker takes connections")
            reset_on_close(sock)
            self._pause()

    def _pause(self) -> None:
        self._loop.remove_reader(self._fd)
        self._retry = self._loop.call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._retry = None
        if self._running:
            self._loop.add_reader(self._fd, self._accept_ready)
