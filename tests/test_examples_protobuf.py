"""The protobuf example, run as its reader would run it; gev's frames are written by hand here."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.programs import DEADLINE_S, Program

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def running() -> Iterator[tuple[Program, str, int]]:
    """Run the server; give it, the one-liner it shows, and its port; see that it stops well."""
    with Program("examples/protobuf_server.py", "--port", "0") as program:
        shown = program.expect(r"try:  python3 -c \"(.*'127\.0\.0\.1', (\d+)\).*)\"")
        yield program, shown[1], int(shown[2])
        assert program.stop() == 0, program.output
        assert "Traceback" not in program.output


def frame(name: bytes, payload: bytes) -> bytes:
    """Give gev's frame."""
    return struct.pack(">IH", 2 + len(name) + len(payload), len(name)) + name + payload


def test_the_one_liner_gets_a_message() -> None:
    """What the server shows works: a msg2 comes, and the server tells what it got."""
    with running() as (program, one_liner, _):
        answer = subprocess.run(
            [sys.executable, "-c", one_liner], capture_output=True, text=True, timeout=DEADLINE_S, check=True
        )
        assert answer.stdout.strip() == repr(frame(b"msg2", b"\x0a\x05gevpy\x12\x09big gevpy\x18\x01"))
        program.expect(r'msg1 name: "gevpy" id: 1$')


def test_a_bad_frame_ends_its_connection_only() -> None:
    """The packet that ends gev's server does nothing to others; a msg2 isn't answered."""
    with running() as (program, _, port):
        address = ("127.0.0.1", port)
        with (
            socket.create_connection(address, DEADLINE_S) as good,
            socket.create_connection(address, DEADLINE_S) as bad,
        ):
            bad.sendall(b"\0\0\0\x03\xea\x60x")
            assert bad.recv(1) == b""
            program.expect("type name longer than its frame")
            good.sendall(frame(b"msg2", b"\x0a\x02hi") + frame(b"msg1", b"\x0a\x01A"))
            expected = frame(b"msg2", b"\x0a\x01A\x12\x05big A")
            received = b""
            while len(received) < len(expected):
                received += good.recv(len(expected) - len(received))
            assert received == expected
            program.expect(r'msg2 name: "hi"$')
