"""A stand-in for systemd: it starts a service as sd_listen_fds(3) and sd_notify(3) say, and hears what that tells.

Run as a program it is the last step before the service, between fork and exec: ``systemd_stand_in.py 7,9 0 CMD...``
puts the descriptors where the service looks for them, says to which process they belong, and binds that to the cores.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

__all__ = ["Service"]

PROGRAM = Path(__file__)
FIRST_DESCRIPTOR = 3
CREDENTIALS = struct.Struct("iII")  # pid, uid, gid
PATIENCE_S = 20.0
ABSTRACT = "@"


class Service:
    """A service of ``Type=notify``, as its manager sees it. Leaving the context kills what still runs.

    Args:
        command: what to execute.
        folder: where it runs, and where the notify socket is.
        sockets: those of its socket unit; they stay the manager's.
        environment: what it gets beside the manager's own.
        watchdog_s: ``WatchdogSec=``, or None.
        cpus: ``CPUAffinity=``, or None.
        abstract: whether the notify socket has an abstract name instead of a path.

    Attributes:
        process: the main process.
        told: what it has told: seconds by the monotonic clock, and the text.
        strangers: what other processes have told, which systemd ignores (``NotifyAccess=main``).
    """

    def __init__(  # noqa: PLR0913 - as many lines has a unit file
        self,
        command: Sequence[str],
        folder: Path,
        *,
        sockets: Sequence[socket.socket] = (),
        environment: dict[str, str] | None = None,
        watchdog_s: float | None = None,
        cpus: set[int] | None = None,
        abstract: bool = False,
    ) -> None:
        """Keep what to run."""
        self._command = command
        self._folder = folder
        self._sockets = sockets
        self._environment = dict(environment or {})
        self._watchdog_s = watchdog_s
        self._cpus = cpus
        name = f"gevpy-test-{os.getpid()}-{id(self):x}"
        self.address = f"{ABSTRACT}{name}" if abstract else str(folder / "notify")
        self.told: list[tuple[float, str]] = []
        self.strangers: list[str] = []
        self._heard = threading.Condition()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start it; nothing is waited for."""
        self._notify = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        Path(self.address).unlink(missing_ok=True)
        self._notify.bind(self.address.replace(ABSTRACT, "\0", 1) if self.address[0] == ABSTRACT else self.address)
        self._log = self._stack.enter_context((self._folder / "log").open("ab"))
        numbers = [sock.fileno() for sock in self._sockets]
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), _listed(numbers), _listed(self._cpus or ()), *self._command],
            cwd=self._folder,
            env={**os.environ, **self._environment, **self._variables()},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=numbers,
        )
        self._stack.enter_context(self.process)
        self._stack.callback(self.process.kill)
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        self._stack.callback(self._listener.join)
        self._stack.callback(self._end_listening)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it, if it still runs."""
        self._stack.close()
        if self.address[0] != ABSTRACT:
            Path(self.address).unlink()

    def _variables(self) -> dict[str, str]:
        found = {"NOTIFY_SOCKET": self.address}
        if self._watchdog_s is not None:
            found["WATCHDOG_USEC"] = str(round(self._watchdog_s * 1e6))
        if self._sockets:
            found["LISTEN_FDS"] = str(len(self._sockets))
            found["LISTEN_FDNAMES"] = ":".join(["connection"] * len(self._sockets))
        return found

    # -- what it tells ---------------------------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            data, ancillary, _, _ = self._notify.recvmsg(4096, socket.CMSG_SPACE(CREDENTIALS.size))
            if not data:
                return
            pids = [CREDENTIALS.unpack(value)[0] for _, kind, value in ancillary if kind == socket.SCM_CREDENTIALS]
            with self._heard:
                if pids == [self.process.pid]:
                    self.told += [(time.monotonic(), line) for line in data.decode().splitlines()]
                else:
                    self.strangers.append(data.decode())
                self._heard.notify_all()

    def _end_listening(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            name = self._notify.getsockname()
            sock.sendto(b"", name)

    def times_of(self, text: str) -> list[float]:
        """Give when it told something."""
        return [when for when, told in self.told if told == text]

    def wait_told(self, text: str, count: int = 1) -> None:
        """Wait until it has told something so many times."""
        with self._heard:
            heard = self._heard.wait_for(lambda: len(self.times_of(text)) >= count, PATIENCE_S)
        assert heard, f"it never told {text!r}, but {self.told}; {self.strangers}:\n{self.log()}"

    def log(self) -> str:
        """Give what it wrote."""
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")

    # -- what the manager does ---------------------------------------------------------------------------

    def reload(self) -> None:
        """Do what ``ExecReload=/bin/kill -HUP $MAINPID`` does."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        """Do what ``KillMode=mixed`` does: SIGTERM for the main process; give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def _numbers(listed: str) -> list[int]:
    return [int(number) for number in listed.split(",") if number]


def _become(descriptors: list[int], cpus: list[int], command: list[str]) -> None:
    """Put the descriptors where they are looked for, and become the service."""
    for ignored in (signal.SIGHUP, signal.SIGPIPE, signal.SIGINT):
        signal.signal(ignored, signal.SIG_DFL)  # whatever who started the tests ignores
    if cpus:
        os.sched_setaffinity(0, cpus)
    held = [os.dup(fd) for fd in descriptors]  # none of them is in the way of another then
    for number, fd in enumerate(held):
        os.dup2(fd, FIRST_DESCRIPTOR + number)
        os.set_inheritable(FIRST_DESCRIPTOR + number, True)  # dup2 leaves one that is there already as it was
    os.closerange(FIRST_DESCRIPTOR + len(held), 1024)
    if held:
        os.environ["LISTEN_PID"] = str(os.getpid())
    if "WATCHDOG_USEC" in os.environ:
        os.environ.setdefault("WATCHDOG_PID", str(os.getpid()))
    os.execv(command[0], command)  # noqa: S606 - that is what it is for


if __name__ == "__main__":
    _become(_numbers(sys.argv[1]), _numbers(sys.argv[2]), sys.argv[3:])
