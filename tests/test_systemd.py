"""The environment that systemd gives, and what is told to it."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

import gevpy
from gevpy import systemd
from tests.serving import soon

if TYPE_CHECKING:
    from pathlib import Path


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables: no sockets, nobody to tell, no watchdog."""
    for name in ("LISTEN_PID", "LISTEN_FDS", "NOTIFY_SOCKET", "WATCHDOG_USEC"):
        monkeypatch.delenv(name, raising=False)
    assert systemd.passed_sockets() == []
    assert not systemd.notify("READY=1")
    assert systemd.watchdog_interval_s() is None


def test_sockets_are_for_the_process_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that an ancestor was given are removed and not believed."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert systemd.passed_sockets() == []
    assert "LISTEN_FDS" not in os.environ


def test_sockets_are_taken_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors from the first on become sockets that no child inherits."""
    with socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sock.bind(("127.0.0.1", 0))
            sock.listen()
        base = 200
        for number, sock in enumerate((first, second)):
            os.dup2(sock.fileno(), base + number, inheritable=True)
        monkeypatch.setattr(systemd, "FIRST_DESCRIPTOR", base)
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "2")
        taken = systemd.passed_sockets()
        try:
            assert [sock.getsockname() for sock in taken] == [first.getsockname(), second.getsockname()]
            assert not any(os.get_inheritable(sock.fileno()) for sock in taken)
        finally:
            for sock in taken:
                sock.close()


@pytest.mark.parametrize("second", ["closed", "a pipe"])
def test_a_count_beyond_the_sockets_is_refused(monkeypatch: pytest.MonkeyPatch, second: str) -> None:
    """What is passed must be sockets, every one; the first isn't taken if the second is none."""
    base = 200
    reader, writer = os.pipe()
    with socket.socket() as first:
        os.dup2(first.fileno(), base)
        if second == "a pipe":
            os.dup2(reader, base + 1)
        monkeypatch.setattr(systemd, "FIRST_DESCRIPTOR", base)
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "2")
        with pytest.raises(gevpy.ConfigError, match="LISTEN_FDS is 2, but descriptor 201 is no open socket"):
            systemd.passed_sockets()
        assert os.get_inheritable(base)
    for fd in (reader, writer, base):
        os.close(fd)
    if second == "a pipe":
        os.close(base + 1)


async def test_a_server_tells_of_its_life(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ready once it accepts, alive again and again, stopping when it stops."""

    class Echo(gevpy.Handler):
        def on_message(self, conn: gevpy.Connection, ctx: object, data: bytes) -> bytes:
            return data

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "notify"))
        journal.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        loop = asyncio.get_running_loop()
        async with gevpy.serve(Echo(), port=0):
            assert await soon(loop.sock_recv(journal, 100)) == b"READY=1"
            assert await soon(loop.sock_recv(journal, 100)) == b"WATCHDOG=1"
            assert await soon(loop.sock_recv(journal, 100)) == b"WATCHDOG=1"
        said = b""
        while said != b"STOPPING=1":
            said = await soon(loop.sock_recv(journal, 100))
