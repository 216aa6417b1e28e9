"""A gateway for devices: each logs in with its id, sends readings, answers pings, and gets commands by its id.

Run it:   python examples/device_gateway.py [--port 1833] [--desk-port 1834] [--ping 20] [--idle 60] [--stats 10]
Desk:     nc 127.0.0.1 1834, and type:  sensor-1 reboot

Packets are SLIP's, as from a serial line, and begin with a letter:

    device → gateway    L sensor-1   log in     R 21.5   a reading     O   pong
    gateway → device    W            welcome    C reboot a command     I   ping     X   refused; the connection ends

Who is quiet for --ping seconds is pinged; who is silent for --idle seconds is closed: only what is received counts as
life. A device has one connection: a login ends the one before, which a device that lost its network may have forgotten.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import dataclass

import gevpy
from gevpy.protocol.slip import SlipProtocol

log = logging.getLogger("gateway")
MAX_PACKET, LONGEST_ID = 256, 32  # bytes
PONG, LOGIN, READING = b"O", b"L", b"R"
PING, WELCOME, COMMAND, REFUSED = b"I", b"W", b"C", b"X"


@dataclass
class Device:
    """One that has logged in; its connection's ``context``."""

    id: str
    heard_at: float
    readings: int = 0


class Gateway(gevpy.Handler):
    """Knows which device is on which connection."""

    def __init__(self, ping_s: float, stats_s: float) -> None:
        self.ping_s, self.stats_s = ping_s, stats_s
        self.connections: dict[str, gevpy.Connection] = {}
        self.readings = 0  # since the last report

    def on_start(self, worker: gevpy.Worker) -> None:
        """Start the clocks: one for all devices each."""
        worker.run_every(self.ping_s / 4, self.ping)
        worker.run_every(self.stats_s, self.report)

    def on_message(self, conn: gevpy.Connection, ctx: object, data: bytes) -> bytes | None:
        """Do what a device says; one that can't be understood is refused."""
        kind, text = data[:1], data[1:].strip().decode("ascii", "replace")
        device: Device | None = conn.context
        if device is None:
            if kind == LOGIN and 0 < len(text) <= LONGEST_ID and text.isprintable() and " " not in text:
                return self.login(conn, text)
            return self.refuse(conn, "it didn't log in")
        device.heard_at = time.monotonic()
        if kind == READING:
            try:
                float(text)  # and from here to wherever readings go
            except ValueError:
                return self.refuse(conn, f"{text!r} is no reading")
            device.readings += 1
            self.readings += 1
        elif kind != PONG:
            return self.refuse(conn, f"{data[:10]!r} means nothing")
        return None

    def login(self, conn: gevpy.Connection, name: str) -> bytes:
        """Take a device in; it has moved here if it was elsewhere."""
        before = self.connections.get(name)
        self.connections[name] = conn  # first: on_close of the old one must not forget the new one
        conn.context = Device(name, time.monotonic())
        log.info("%s %s, from %s", name, "came again" if before else "came", conn.peer_addr)
        if before is not None:
            before.close()
        return WELCOME

    def refuse(self, conn: gevpy.Connection, why: str) -> bytes:
        """End a connection, and say so first."""
        log.warning("refused %s: %s", conn.peer_addr, why)
        conn.close()
        return REFUSED

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        """Forget a device, unless it is on another connection by now."""
        device: Device | None = conn.context
        if device and self.connections.get(device.id) is conn:
            del self.connections[device.id]
            log.info("%s left after %d readings: %s", device.id, device.readings, reason)

    def tell(self, name: str, command: str) -> bool:
        """Send a command to a device; tell whether it is here."""
        conn = self.connections.get(name)
        if conn is None or not conn.connected:
            return False
        conn.send(COMMAND + command.encode())
        return True

    def ping(self) -> None:
        """Ask the quiet ones whether they live."""
        quiet_since = time.monotonic() - self.ping_s
        for conn in list(self.connections.values()):
            if conn.connected and conn.context.heard_at <= quiet_since:
                conn.send(PING)

    def report(self) -> None:
        """Say how much there is to do."""
        log.info("devices: %d, readings: %.1f per second", len(self.connections), self.readings / self.stats_s)
        self.readings = 0


class Desk(gevpy.Handler):
    """Where commands are typed: a line is a device's id and what it is to do. Only this machine reaches it."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def on_message(self, conn: gevpy.Connection, ctx: object, data: bytes) -> bytes:
        """Pass a command on."""
        name, _, command = data.decode("ascii", "replace").strip().partition(" ")
        return b"sent" if self.gateway.tell(name, command) else b"no such device"


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Keeps devices connected, and passes commands to them.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    parser.add_argument("--desk-port", type=int, default=1834, help="default %(default)s")
    for name, seconds in (("--ping", 20.0), ("--idle", 60.0), ("--stats", 10.0)):
        parser.add_argument(name, type=float, default=seconds, metavar="SECONDS", help="default %(default)s")
    options = parser.parse_args()
    gateway = Gateway(options.ping, options.stats)
    slip, idle_s = SlipProtocol(max_frame_bytes=MAX_PACKET), options.idle
    devices = gevpy.serve(gateway, port=options.port, protocol=slip, idle_timeout_s=idle_s, idle_refresh="read")
    desk = gevpy.serve(Desk(gateway), port=options.desk_port, protocol=gevpy.LineProtocol())
    async with devices as server, desk as desk_server:
        print(f"try a device:  printf 'Lsensor-1\\300R21.5\\300' | nc 127.0.0.1 {server.addresses[0][1]}", flush=True)
        print(f"and the desk:  nc 127.0.0.1 {desk_server.addresses[0][1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    gevpy.run(main())
