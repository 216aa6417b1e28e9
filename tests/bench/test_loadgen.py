"""The load generator: it builds, it notices every echo that is not what was sent, and it stays on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from bench.client import LOADGEN, Load, LoadError, build_loadgen, run_load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the load generator is built by gcc")

DEADLINE_S = 10.0
SECONDS = 0.05
LOAD = Load(connections=1, size=64, depth=2)


@pytest.fixture(autouse=True)
def built() -> None:
    """Build it, if nobody has."""
    build_loadgen()


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """Serve one client, each read of whose is answered by ``answer``; give the port. Empty: close."""

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.settimeout(DEADLINE_S)
            while data := client.recv(65536):
                if not (reply := answer(data)):
                    break
                try:
                    client.sendall(reply)
                except OSError:  # the client has noticed
                    break

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(DEADLINE_S)
    assert not thread.is_alive()


def run(port: int, seconds: float = SECONDS) -> dict[str, object]:
    """Put a small load on a port."""
    return run_load(LOAD, port=port, server_pids=[os.getpid(), 1], seconds=seconds, core=None)


def measured(answer: Callable[[bytes], bytes], enough: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Put a load on a server for longer and longer, until it has done enough: a machine may stall for a short one."""
    for seconds in (SECONDS, 0.5, 5.0):
        with answering(answer) as port:
            found: dict[str, Any] = run(port, seconds)
        if enough(found):
            break
    return found


def refused(*arguments: str) -> str:
    """Run it with arguments that it must refuse; give what it said."""
    done = subprocess.run([LOADGEN, *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 1
    return done.stdout


def test_an_honest_echo_is_counted() -> None:
    """Nothing is wrong with a server that sends back what it got."""
    assert measured(lambda data: data, lambda found: found["count"])["count"] > 0


def test_the_cpu_of_each_process_is_told() -> None:
    """One figure for each process that was asked for, in that order; they add up to the total."""
    answer = measured(lambda data: data, lambda found: found["server_cpu_each_ns"][0])
    mine, another = answer["server_cpu_each_ns"]
    assert mine > 0
    assert mine + another == answer["server_cpu_ns"]


def test_loads_are_told_apart_by_their_titles() -> None:
    """More connections than usual are another load, and another table."""
    assert Load(depth=32).title == "tcp 64 B, depth 32"
    assert Load(depth=32, connections=200).title == "tcp 64 B, depth 32, 200 connections"


def altered(data: bytes) -> bytes:
    """Change the last bit of a batch."""
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        pytest.param(altered, "wrong bytes near message", id="altered"),
        pytest.param(lambda data: data[64:] + data[:64], "wrong bytes near message", id="in another order"),
        pytest.param(lambda data: data + data[:1], "more bytes came back than were sent", id="repeated"),
        pytest.param(lambda _: b"", "closed by the server", id="closed"),
    ],
)
def test_a_broken_echo_ends_the_run(answer: Callable[[bytes], bytes], complaint: str) -> None:
    """An echo that is altered, moved, repeated or never comes is an error, not a number."""
    with answering(answer) as port, pytest.raises(LoadError, match=complaint):
        run(port)


def test_the_echo_of_an_earlier_message_is_noticed() -> None:
    """Contents depend on the message's number: yesterday's right answer is wrong today."""
    batches: list[bytes] = []

    def first_again(data: bytes) -> bytes:
        batches.append(data)
        return batches[0]

    with pytest.raises(LoadError, match="wrong bytes"):
        measured(first_again, lambda _: len(batches) > 1)


@pytest.mark.parametrize("host", ["192.0.2.1", "0.0.0.0", "128.0.0.1", "2001:db8::1", "::", "localhost"])
def test_other_hosts_than_loopback_are_refused(host: str) -> None:
    """It is a load generator for this machine: anything else is refused before a socket is opened."""
    assert "only 127.0.0.0/8 and ::1 are allowed" in refused("--port=9", f"--host={host}")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port=0"], "--port must be from 1 to 65535"),
        ([], "--port is missing"),
        (["--port=9", "--work=flood"], "unknown work"),
        (["--port=9", "--seconds=601"], "--seconds must be from"),
        (["--port=9", "--size=67108864", "--depth=4096"], "over 4 GB"),
    ],
)
def test_what_is_unbounded_or_unknown_is_refused(arguments: list[str], complaint: str) -> None:
    """Count, size and time have limits, and a typing error is no default."""
    assert complaint in refused(*arguments)
