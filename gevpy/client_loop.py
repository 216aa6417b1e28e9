"""What the clients of one loop share: a reactor, with its read buffer, its wheel and its tick.

A reactor costs a buffer of 256 KiB and a timer, so clients of one loop whose options are equal have one together. It
begins with the first of them and ends with the last. Nothing refers to it but they: what a loop that was closed too
early leaves behind goes with its clients.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

from gevpy.admission import Admission
from gevpy.closing import CloseKind, CloseReason
from gevpy.connection import Connection
from gevpy.errors import HandshakeError, ProtocolError
from gevpy.handler import Handler
from gevpy.options import Limits, ServeOptions, Timeouts, Watermarks
from gevpy.protocol.raw import RawProtocol
from gevpy.reactor import Reactor
from gevpy.worker import Worker

if TYPE_CHECKING:
    from typing import Protocol

    class Receiver(Protocol):
        """Who gets what comes on a connection."""

        def take_message(self, ctx: Any, data: Any) -> None:
            """Take a message; inside the read, so that pausing here stops the next one."""

        def is_behind(self) -> bool:
            """Tell whether messages wait to be fetched."""

        def take_all(self) -> None:
            """Have room for whatever is left: the stream has ended, and no read will follow."""

        def take_open(self) -> None:
            """Learn that messages can be sent."""

        def take_end(self, reason: CloseReason) -> None:
            """Learn of the end."""


__all__ = ["ClientConnection", "ClientLoop", "ClientOptions", "client_loop"]


class ClientOptions(NamedTuple):
    """What must be equal for two clients to share: see `gevpy.connect`."""

    idle_timeout_s: float | None
    limits: Limits
    timeouts: Timeouts
    watermarks: Watermarks


class ClientConnection(Connection):
    """A connection that we began: what differs from one that a server accepted.

    Attributes:
        receiver: who gets what comes.
    """

    __slots__ = ("_fault", "receiver")

    def __init__(self, reactor: Reactor, peer: Any, receiver: Receiver) -> None:
        """Begin before the transport is there."""
        super().__init__(reactor, peer, "")
        self.receiver = receiver
        self._fault: tuple[str, BaseException] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it from now on: an attempt that was called off may come here late, or never."""
        reactor = self.worker._reactor
        reactor.admission.enter("")
        reactor.expect()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, if it ever began; the loops tell of a handshake that failed, too."""
        if self.was_made:
            super().connection_lost(exc)
            if not self._opened:
                self.receiver.take_end(self.close_reason or CloseReason(CloseKind.HANDSHAKE_FAILED))

    def _fail(self, where: str, error: BaseException) -> None:
        """End; a handshake that failed is for who connects to tell, so it isn't logged here."""
        if isinstance(error, HandshakeError) and not self._opened:
            self.begin_close(CloseKind.HANDSHAKE_FAILED, error)
        elif isinstance(error, ProtocolError) and self._opened and self.receiver.is_behind():
            self._fault = where, error
            self.pause_reading()
        else:
            super()._fail(where, error)

    def fail_late(self) -> None:
        """End by what was wrong behind the messages that are fetched by now: they could be answered before."""
        fault, self._fault = self._fault, None
        if fault is not None and self.connected:
            super()._fail(*fault)

    def resume_reading(self) -> None:
        """Read on, but never behind a fault."""
        if self._fault is None:
            super().resume_reading()

    def eof_received(self) -> bool:
        """Have all taken that came: TLS tells of the end also while reading is paused, and there is no later read."""
        if self._tls and self.read_buffer_length:
            self.receiver.take_all()
            self.resume_reading()
        return super().eof_received()

    def _take_transport(self, transport: asyncio.BaseTransport, *, is_tls: bool) -> None:
        """Look at the transport: clients with TLS and without share a reactor."""
        super()._take_transport(transport, is_tls=is_tls or transport.get_extra_info("sslcontext") is not None)

    def _pause_for_output(self) -> None:
        """Read on: a server may take our requests only as fast as we take its replies."""


class _Forward(Handler):
    """Gives what comes to the connection's receiver."""

    def on_connect(self, conn: Any) -> None:
        conn.receiver.take_open()

    def on_message(self, conn: Any, ctx: Any, data: Any) -> None:
        conn.receiver.take_message(ctx, data)

    def on_close(self, conn: Any, reason: CloseReason) -> None:
        conn.receiver.take_end(reason)


class ClientLoop:
    """A reactor for the clients of one loop.

    Attributes:
        reactor: what they share.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ClientOptions) -> None:
        """Begin to turn."""
        served = ServeOptions(protocol=RawProtocol(), **options._asdict())
        self.reactor = Reactor(loop, _Forward(), served, Admission(sys.maxsize, None))
        Worker(self.reactor, 0)
        self._key = (id(loop), options)
        self._users = 0
        self.reactor.start()

    def join(self) -> None:
        """Count one more client."""
        self._users += 1

    def leave(self) -> None:
        """Let one go; with the last, everything ends."""
        self._users -= 1
        if not self._users:
            _shared.pop(self._key, None)
            self.reactor.stop()


_shared: WeakValueDictionary[tuple[int, ClientOptions], ClientLoop] = WeakValueDictionary()


def client_loop(options: ClientOptions) -> ClientLoop:
    """Give what clients with these options share on the running loop, and count the caller as one of them.

    Raises:
        ConfigError: an option out of range.
    """
    loop = asyncio.get_running_loop()
    shared = _shared.get((id(loop), options))
    if shared is None:
        shared = _shared[id(loop), options] = ClientLoop(loop, options)
    shared.join()
    return shared
