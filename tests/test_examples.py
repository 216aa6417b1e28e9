"""Every example, run as its reader would run it, and talked to over a real socket."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.programs import DEADLINE_S, ROOT, Program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONGER = {"redis_server": 620, "web_chat": 170, "websocket": 80, "ticker": 80, "device_gateway": 160, "proxy": 70}
NEWS_BYTES = 256 * 1024


@contextlib.contextmanager
def example(name: str, *options: str) -> Iterator[tuple[Program, int]]:
    """Run an example on a free port; give it and its port, and see that it stops well."""
    with Program(f"examples/{name}.py", "--port", "0", *options) as program:
        port = int(program.expect(r"try.*(?:127\.0\.0\.1 |127\.0\.0\.1', |--port )(\d+)")[1])
        yield program, port
        assert program.stop() == 0, program.output
        assert "Traceback" not in program.output
        assert "Warning" not in program.output


def connect(port: int) -> socket.socket:
    """Connect to a port of this machine, with a deadline on everything."""
    return socket.create_connection(("127.0.0.1", port), DEADLINE_S)


def receive(sock: socket.socket, size: int) -> bytes:
    """Receive exactly so many bytes, or fewer where the stream ends before."""
    received = b""
    while len(received) < size:
        part = sock.recv(size - len(received))
        if not part:
            break
        received += part
    return received


def ask(sock: socket.socket, data: bytes) -> bytes:
    """Send, and receive as many bytes back."""
    sock.sendall(data)
    return receive(sock, len(data))


def written(sock: socket.socket) -> str:
    """Write the socket's own address as the server logs it."""
    host, port = sock.getsockname()
    return f"{host}:{port}"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short(path: Path) -> None:
    """An example has fewer than 60 lines, but for whole servers in one file."""
    assert len(ROOT.joinpath(path).read_text().splitlines()) < LONGER.get(path.stem, 60)


def test_the_examples_of_gev_are_there() -> None:
    """All examples of gev exist here by their names."""
    names = {path.stem for path in EXAMPLES}
    assert names >= {"echo", "protocol", "protocol_client", "pushmessage"}
    assert names >= {"bufferlength", "maxconnection", "idleconnection", "sendasync"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_explain_themselves(path: object) -> None:
    """``--help`` shows the port, 1833 as in gev."""
    with Program(str(path), "--help") as program:
        assert program.wait() == 0
        assert re.search(r"--port.*\n?.*default 1833", program.output)


# -- echo ------------------------------------------------------------------------------------------


def test_echo_sends_back_and_counts() -> None:
    """It sends back what comes, says how to talk to it, and logs the count of connections."""
    with example("echo") as (program, port):
        one_liner = program.expect(r'python3 -c "(.*)"')[1]
        shown = subprocess.run(
            [sys.executable, "-c", one_liner], capture_output=True, text=True, timeout=DEADLINE_S, check=True
        )
        assert shown.stdout == "b'hello'\n"
        with connect(port) as sock:
            assert ask(sock, b"x" * 100_000) == b"x" * 100_000
            program.expect("connections: 1$")


def test_echo_stops_at_ctrl_c() -> None:
    """Ctrl-C ends it without a traceback, exit code 0."""
    with Program("examples/echo.py", "-port", "0") as program:
        port = int(program.expect(r"nc 127\.0\.0\.1 (\d+)")[1])
        with connect(port) as sock:
            assert ask(sock, b"hello") == b"hello"
            assert program.stop(signal.SIGINT) == 0
            assert sock.recv(1) == b""
        assert "Traceback" not in program.output


def test_echo_shows_metrics_on_demand() -> None:
    """With ``--metrics`` the count is on /metrics."""
    with Program("examples/echo.py", "--port", "0", "--metrics", "127.0.0.1:0") as program:
        url = program.expect(r"http://127\.0\.0\.1:\d+/metrics")[0]
        port = int(program.expect(r"nc 127\.0\.0\.1 (\d+)")[1])
        with connect(port) as sock:
            ask(sock, b"hello")
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:  # noqa: S310 - it begins with http:
                text = answer.read().decode()
        assert re.search(r"^gevpy_connections\b.* 1(\.0)?$", text, re.MULTILINE)
        assert program.stop() == 0


@pytest.mark.parametrize("option", ["--port", "--metrics"])
def test_echo_says_when_a_port_is_taken(option: str) -> None:
    """A taken port is one line that says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        value = str(port) if option == "--port" else f"127.0.0.1:{port}"
        with Program("examples/echo.py", "--port", "0", option, value) as program:
            assert program.wait() == 1
    assert program.output.startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert "choose another" in program.output
    assert program.output.count("\n") == 1


# -- protocol --------------------------------------------------------------------------------------


def test_protocol_and_its_client_talk() -> None:
    """The client's words come back, the empty one, too."""
    with example("protocol") as (program, port):
        with Program("examples/protocol_client.py", "--port", str(port)) as client:
            assert client.wait() == 0
        assert client.output == "sent 'hello', got 'hello'\nsent '', got ''\nsent 'gevpy', got 'gevpy'\n"
        program.expect("says b'hello'")


def test_protocol_reassembles_frames_and_refuses_giants() -> None:
    """Frames may come byte by byte; a giant one ends its own connection only."""
    with example("protocol") as (program, port), connect(port) as slow, connect(port) as giant:
        stream = b"\0\0\0\5hello\0\0\0\0"
        for byte in stream[:-1]:
            slow.sendall(bytes([byte]))
        giant.sendall(b"\xff\xff\xff\xff")
        assert receive(giant, 1) == b""
        program.expect("FrameTooLarge")
        slow.sendall(stream[-1:])
        assert receive(slow, len(stream)) == stream


def test_protocol_client_says_when_nobody_answers() -> None:
    """Without a server the client ends with one line."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with Program("examples/protocol_client.py", "--port", str(reserved.getsockname()[1])) as client:
            assert client.wait() == 1
    assert "is examples/protocol.py running" in client.output
    assert client.output.count("\n") == 1


# -- the others ------------------------------------------------------------------------------------


def test_pushmessage_greets_everyone_again_and_again() -> None:
    """All who are connected get hello at every beat, and those who leave are forgotten."""
    with example("pushmessage", "--interval", "0.02") as (program, port), connect(port) as stays:
        with connect(port) as leaves:
            assert receive(leaves, 18) == b"hello\n" * 3
        program.expect(r"left .*: 1 connected")
        assert receive(stays, 30) == b"hello\n" * 5


def test_bufferlength_skips_who_does_not_read() -> None:
    """Who doesn't read is skipped while others get theirs, and gets news again after reading."""
    with (
        example("bufferlength", "--interval", "0.01") as (program, port),
        connect(port) as slow,
        connect(port) as reads,
    ):
        skipped = False
        while not skipped:
            assert receive(reads, NEWS_BYTES).endswith(b"x\n")
            skipped = f"skipped {written(slow)}" in program.output_so_far()
        assert receive(reads, 2 * NEWS_BYTES).endswith(b"x\n")
        for _ in range(60):  # more than any kernel buffer held: the server sends to it again
            assert len(receive(slow, NEWS_BYTES)) == NEWS_BYTES


def test_maxconnection_refuses_by_the_handler() -> None:
    """The second is told that it's full, and takes no place however long it stays."""
    with example("maxconnection") as (program, port), contextlib.ExitStack() as stays:
        with connect(port) as first:
            assert ask(first, b"hello") == b"hello"
            second = stays.enter_context(connect(port))
            assert receive(second, 100) == b"full\n"
            program.expect(f"refused {re.escape(written(second))}: 1 are here")
            assert ask(first, b"still here") == b"still here"
        _enter_at_last(port)


def _enter_at_last(port: int) -> None:
    """Connect again and again until the server has noticed that there is room."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError), connect(port) as sock:  # the reset may come before connect() ends
            if ask(sock, b"hi") == b"hi":
                return
    raise AssertionError("the place did not get free")


def test_maxconnection_refuses_by_limits() -> None:
    """The second is reset by gevpy before the handler hears of it."""
    with example("maxconnection", "--by", "limits") as (program, port):
        with connect(port) as first:
            assert ask(first, b"hello") == b"hello"
            with contextlib.suppress(ConnectionResetError), connect(port) as second:
                assert second.recv(1) == b""
            program.expect("refused .*max_connections")
            assert ask(first, b"still here") == b"still here"
        _enter_at_last(port)


def test_idleconnection_closes_the_silent() -> None:
    """Who is silent is closed, not before its time, and the log says why."""
    idle_s = 2.5  # a machine that stalls may need some of it to say hello
    with example("idleconnection", "--idle", str(idle_s)) as (program, port), connect(port) as sock:
        speaks = time.monotonic()
        assert ask(sock, b"hello") == b"hello"
        assert sock.recv(1) == b""
        assert time.monotonic() - speaks >= idle_s
        program.expect(f"{re.escape(written(sock))} closed: idle$")


def test_sendasync_replies_from_threads_and_gets_its_buffers_back() -> None:
    """Replies keep their order for each connection, and every buffer comes back."""
    with example("sendasync") as (program, port):
        with connect(port) as one, connect(port) as other:
            for number in range(50):
                text = b"message %d;" % number
                one.sendall(text)
                assert ask(other, text) == text.upper()
            expected = b"".join(b"MESSAGE %d;" % number for number in range(50))
            assert receive(one, len(expected)) == expected
        program.expect("4 of 4 buffers free$")
