"""The device gateway, run as its reader would run it, with devices that behave and devices that don't."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.programs import DEADLINE_S, Program

if TYPE_CHECKING:
    from collections.abc import Iterator

END = b"\xc0"
WELCOME, PING, PONG, REFUSED = b"W", b"I", b"O", b"X"
FOREVER = "60"


class Peer:
    r"""A socket that sends and receives packets, or lines with ``end=b"\n"``."""

    def __init__(self, port: int, end: bytes = END) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self.end = end
        self.received = b""

    def send(self, *packets: bytes) -> None:
        """Send packets in one go."""
        self.sock.sendall(b"".join(packet + self.end for packet in packets))

    def next(self) -> bytes:
        """Receive a packet; empty at the end of the stream."""
        while self.end not in self.received:
            part = self.sock.recv(4096)
            if not part:
                return b""
            self.received += part
        packet, _, self.received = self.received.partition(self.end)
        return packet

    def next_but_pings(self) -> bytes:
        """Receive the next packet that is no ping, or the end."""
        while (packet := self.next()) == PING:
            continue
        return packet

    def log_in(self, name: bytes) -> None:
        """Become a device."""
        self.send(b"L" + name)
        assert self.next() == WELCOME


@contextlib.contextmanager
def gateway(ping: str = FOREVER, idle: str = FOREVER, stats: str = FOREVER) -> Iterator[tuple[Program, int, int]]:
    """Run the gateway; give it, its port and its desk's, and see that it stops well."""
    options = ("--port", "0", "--desk-port", "0", "--ping", ping, "--idle", idle, "--stats", stats)
    with Program("examples/device_gateway.py", *options) as program:
        port = int(program.expect(r"try a device: .*nc 127\.0\.0\.1 (\d+)")[1])
        desk_port = int(program.expect(r"desk: .*nc 127\.0\.0\.1 (\d+)")[1])
        yield program, port, desk_port
        assert program.stop() == 0, program.output
        assert "Traceback" not in program.output
        assert "Warning" not in program.output


@pytest.fixture
def peers() -> Iterator[contextlib.ExitStack]:
    """Close every socket at the end."""
    with contextlib.ExitStack() as stack:
        yield stack


def connect(peers: contextlib.ExitStack, port: int, end: bytes = END) -> Peer:
    """Connect to the gateway, or to its desk."""
    peer = Peer(port, end)
    peers.enter_context(peer.sock)
    return peer


def test_devices_log_in_and_send_readings(peers: contextlib.ExitStack) -> None:
    """Readings are counted, and how a device left is told."""
    with gateway(stats="0.05") as (program, port, _):
        device = connect(peers, port)
        device.log_in(b"sensor-1")
        program.expect("sensor-1 came, from 127")
        device.send(b"R21.5", b"R 22", b"R-3e2")
        program.expect(r"devices: 1, readings: (?!0\.0 )[\d.]+ per second")
        device.sock.close()
        program.expect("sensor-1 left after 3 readings: peer_closed")
        program.expect(r"devices: 0, readings: 0\.0 per second")


def test_the_desk_commands_devices_by_their_id(peers: contextlib.ExitStack) -> None:
    """A command goes to the device that it names, and to nobody else."""
    with gateway() as (_, port, desk_port):
        first, second, desk = (
            connect(peers, number, end) for number, end in ((port, END), (port, END), (desk_port, b"\n"))
        )
        first.log_in(b"one")
        second.log_in(b"two")
        desk.send(b"two reboot now", b"three reboot", b"one sleep", b"")
        assert [desk.next() for _ in range(4)] == [b"sent", b"no such device", b"sent", b"no such device"]
        assert second.next() == b"Creboot now"
        assert first.next() == b"Csleep"


def test_a_login_ends_the_devices_connection_before(peers: contextlib.ExitStack) -> None:
    """One connection for each device: the new one gets the commands, and the old one's end changes nothing."""
    with gateway() as (program, port, desk_port):
        old, new, desk = connect(peers, port), connect(peers, port), connect(peers, desk_port, b"\n")
        old.log_in(b"one")
        new.log_in(b"one")
        assert old.next() == b""
        program.expect("one came again")
        desk.send(b"one wake")
        assert desk.next() == b"sent"
        assert new.next() == b"Cwake"
        assert "one left" not in program.output_so_far()


def test_the_quiet_are_pinged_and_the_silent_closed(peers: contextlib.ExitStack) -> None:
    """Who answers stays, past the time after which who doesn't is closed; pings don't count as life."""
    idle_s = 4.0  # a machine that stalls may hold up the pongs for some of it
    with gateway(ping="0.1", idle=str(idle_s)) as (program, port, _):
        lives, silent = connect(peers, port), connect(peers, port)
        before = time.monotonic()
        silent.log_in(b"silent")
        lives.log_in(b"lives")
        pings = 0
        while "silent left" not in program.output_so_far():
            assert lives.next() == PING
            lives.send(PONG)
            pings += 1
        assert pings > 1
        assert "silent left after 0 readings: idle" in program.output
        assert silent.next() == PING
        assert silent.next_but_pings() == b""
        assert time.monotonic() - before >= idle_s
        assert lives.next() == PING
        assert "lives left" not in program.output_so_far()


@pytest.mark.parametrize(
    "packets",
    [[b"R21.5"], [b"L"], [b"Ltwo words"], [b"L" + b"x" * 33], [b"Lone", b"Rwarm"], [b"Lone", b"?"], [b"Lone", b"Lone"]],
    ids=["reading first", "no id", "two words", "long id", "no number", "no such kind", "login twice"],
)
def test_who_cannot_be_understood_is_refused(peers: contextlib.ExitStack, packets: list[bytes]) -> None:
    """It is told so, and its connection ends; whoever else is there stays."""
    with gateway() as (program, port, _):
        good, bad = connect(peers, port), connect(peers, port)
        good.log_in(b"good")
        bad.send(*packets)
        if packets[0] == b"Lone":
            assert bad.next() == WELCOME
        assert bad.next() == REFUSED
        assert bad.next() == b""
        program.expect("refused 127")
        good.send(b"R1")
        assert "good left" not in program.output_so_far()
