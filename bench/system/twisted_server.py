"""Twisted on its epoll reactor: `Protocol`, `Int32StringReceiver` and `LineReceiver`."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.basic import Int32StringReceiver, LineReceiver

from bench.system.serving import BACKLOG, HOST, MAX_MESSAGE_BYTES, announce, arguments


class NoDelay:
    """Twisted leaves Nagle's algorithm on; nobody who wants latency does."""

    transport: Any

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        """Turn it off."""
        self.transport.setTcpNoDelay(True)


class EchoRaw(NoDelay, Protocol):
    """Echo what there is."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Echo."""
        self.transport.write(data)


class EchoLengthPrefix(NoDelay, Int32StringReceiver):
    """Echo frames of a 4-byte big-endian length and a payload."""

    MAX_LENGTH = MAX_MESSAGE_BYTES

    def stringReceived(self, string: bytes) -> None:  # noqa: N802 - Twisted's name
        """Echo."""
        self.sendString(string)


class EchoLine(NoDelay, LineReceiver):
    """Echo lines."""

    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:  # noqa: N802 - Twisted's name
        """Echo."""
        self.sendLine(line)


ECHOES = {"raw": EchoRaw, "length_prefix": EchoLengthPrefix, "line": EchoLine}

if __name__ == "__main__":
    options = arguments(*ECHOES)
    running: Any = reactor
    factory = Factory.forProtocol(ECHOES[options.protocol])
    factory.noisy = False
    port = running.listenTCP(options.port, factory, backlog=BACKLOG, interface=HOST)
    announce(port.getHost().port, "twisted")
    running.run()
