"""The examples that are clients, run as their reader would run them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.harness import resident_bytes, wait_until
from tests.programs import DEADLINE_S, ROOT, Program

if TYPE_CHECKING:
    from collections.abc import Iterator

BULK = 50 << 20
PIECE = bytes(range(256)) * 256
MOST_GROWTH = 12 << 20  # two read buffers, two queues of 1 MiB each, what transports hold, and the interpreter's slack


@contextlib.contextmanager
def example(name: str, *options: str) -> Iterator[tuple[Program, int]]:
    """Run an example on a free port; give it and its port, and see that it stops well."""
    with Program(f"examples/{name}.py", "--port", "0", *options) as program:
        port = int(program.expect(r"try:.*(?:127\.0\.0\.1 |127\.0\.0\.1', |--port )(\d+)")[1])
        yield program, port
        assert program.stop() == 0, program.output
        assert "Traceback" not in program.output
        assert "Warning" not in program.output


def connect(port: int) -> socket.socket:
    """Connect to a port of this machine, with a deadline on everything."""
    return socket.create_connection(("127.0.0.1", port), DEADLINE_S)


def receive(sock: socket.socket, size: int) -> bytes:
    """Receive exactly so many bytes, or fewer where the stream ends before."""
    got = bytearray()
    while len(got) < size and (part := sock.recv(size - len(got))):
        got += part
    return bytes(got)


# -- proxy -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def proxied() -> Iterator[tuple[Program, int, socket.socket]]:
    """Run the proxy before a listening socket; give the program, its port, and that socket."""
    with socket.create_server(("127.0.0.1", 0)) as target:
        target.settimeout(DEADLINE_S)
        with example("proxy", "--to", f"tcp://127.0.0.1:{target.getsockname()[1]}") as (program, port):
            yield program, port, target


@contextlib.contextmanager
def through(port: int, target: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of a connection through the proxy."""
    with connect(port) as client:
        far, _ = target.accept()
        with far:
            far.settimeout(DEADLINE_S)
            yield client, far


def test_proxy_passes_both_ways_and_ends_both() -> None:
    """Bytes pass both ways, and whichever side closes, the other one sees the end after all that was sent."""
    with proxied() as (_, port, target):
        with through(port, target) as (client, far):
            client.sendall(b"ping")
            assert receive(far, 4) == b"ping"
            far.sendall(b"pong")
            assert receive(client, 4) == b"pong"
            client.sendall(b"last words")
            client.close()
            assert receive(far, 100) == b"last words"
        with through(port, target) as (client, far):
            far.sendall(b"last words")
            far.close()
            assert receive(client, 100) == b"last words"


def test_proxy_says_who_cannot_be_reached() -> None:
    """A target that refuses closes the client, says why, and the proxy goes on."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        nobody = f"tcp://127.0.0.1:{reserved.getsockname()[1]}"
        with Program("examples/proxy.py", "--port", "0", "--to", nobody) as program:
            port = int(program.expect(r"nc 127\.0\.0\.1 (\d+)")[1])
            with connect(port) as client:
                assert client.recv(1) == b""
            program.expect(f"cannot connect to {nobody}: Connection refused")
            assert program.stop() == 0


def test_proxy_is_as_slow_as_the_slower_side() -> None:
    """50 MB each way, past a side that doesn't read at first: the sender is held up, and memory stays bounded."""
    with proxied() as (program, port, target), through(port, target) as (client, far):
        for fast, slow in ((client, far), (far, client)):
            _send_past_a_sleeper(program, fast, slow)


def _send_past_a_sleeper(program: Program, fast: socket.socket, slow: socket.socket) -> None:
    before = resident_bytes(program._process.pid)
    sent = 0

    def send() -> None:
        nonlocal sent
        for _ in range(BULK // len(PIECE)):
            fast.sendall(PIECE)
            sent += len(PIECE)

    sender = threading.Thread(target=send)
    sender.start()
    last = -1

    def held_up() -> bool:
        nonlocal last
        still, last = last == sent > 0, sent
        return still

    try:
        wait_until(held_up, "the sender is held up", every_s=0.2)
        assert sent < BULK
        assert resident_bytes(program._process.pid) - before < MOST_GROWTH
    finally:
        for _ in range(BULK // len(PIECE)):
            assert receive(slow, len(PIECE)) == PIECE
        sender.join(DEADLINE_S)
    assert resident_bytes(program._process.pid) - before < MOST_GROWTH


# -- chat ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def joined(port: int, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Join the chat; what is typed is a pipe."""
    command = [sys.executable, "-W", "error", "examples/chat.py", "--join", name, "--port", str(port)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_chat_passes_lines_on_and_ends_at_the_end_of_input() -> None:
    """What one types the others hear, not itself; who ends the input leaves, without a word of trouble."""
    with example("chat") as (_, port), connect(port) as bare, joined(port, "ann") as ann:
        assert ann.stdin is not None
        assert ann.stdout is not None
        ann.stdin.write(b"hello\n")
        ann.stdin.flush()
        assert receive(bare, len(b"ann: hello\n")) == b"ann: hello\n"
        bare.sendall(b"bob: hi\n")
        assert ann.stdout.readline() == b"bob: hi\n"
        ann.stdin.close()
        assert ann.wait(DEADLINE_S) == 0
        assert ann.stdout.read() == b""


def lasting_port() -> int:
    """Give a free port that the kernel gives to nobody by itself, so that it is still free after a while."""
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    start = 1024 + os.getpid() * 61 % max(1, first_given - 1024 - 100)  # another one for who runs beside us
    for port in range(start, start + 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def test_chat_comes_back_when_the_server_was_away() -> None:
    """The server goes and comes again on its port: who had joined is there again by itself."""
    with contextlib.ExitStack() as stack:
        with example("chat", "--port", str(lasting_port())) as (_, port):
            ann = stack.enter_context(joined(port, "ann"))
            assert ann.stdin is not None
            with connect(port) as bare:
                ann.stdin.write(b"before\n")
                ann.stdin.flush()
                assert receive(bare, len(b"ann: before\n")) == b"ann: before\n"
        with Program("examples/chat.py", "--port", str(port)) as program:
            program.expect("try:")
            with connect(port) as bare:
                ann.stdin.write(b"after\n")
                ann.stdin.flush()
                assert receive(bare, len(b"ann: after\n")) == b"ann: after\n"
            assert program.stop() == 0


# -- protobuf --------------------------------------------------------------------------------------


def test_protobuf_client_talks_to_its_server() -> None:
    """Each name gets its alias."""
    with example("protobuf_server") as (_, port):
        with Program("examples/protobuf_client.py", "--port", str(port), "gev", "gevpy") as client:
            assert client.wait() == 0
        assert client.output == "msg2: gev is big gev, number 0\nmsg2: gevpy is big gevpy, number 1\n"


def test_protobuf_client_says_when_nobody_answers() -> None:
    """Without a server it ends with one line."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with Program("examples/protobuf_client.py", "--port", str(reserved.getsockname()[1])) as client:
            assert client.wait() == 1
    assert "is examples/protobuf_server.py running" in client.output
    assert client.output.count("\n") == 1
