"""A connection without a socket: a test is its peer, its network and its clock.

The connection, the reactor, the worker and the timers are the ones that serve in production, in the build that is
installed; only the transport is a `MemoryTransport` and the loop a `ManualLoop`. So asynchronous handlers, idle
eviction, slow consumers, stalls and drains behave as they do behind a socket, and take no time.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any, Self

from gevpy.addresses import client_network
from gevpy.admission import DEFAULT_CONNECTIONS, Admission
from gevpy.connection import Connection
from gevpy.errors import ConfigError
from gevpy.hooks import check_handler
from gevpy.options import ServeOptions
from gevpy.protocol import RawProtocol
from gevpy.reactor import Reactor
from gevpy.testing.manual_loop import ManualLoop
from gevpy.testing.memory_transport import MemoryTransport
from gevpy.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy.closing import CloseReason
    from gevpy.handler import Handler
    from gevpy.protocol.base import Protocol

__all__ = ["EmbeddedConnection"]

LOCAL_ADDR = ("127.0.0.1", 1388)
PEER_HOST = "127.0.0.1"
FIRST_PEER_PORT = 50_000
OF_ADDRESSES = {"host", "port", "path", "sockets", "reuse_port", "backlog", "ssl", "trusted_proxies"}
OF_PROCESSES = {"workers", "placement", "affinity", "metrics"}
START_S = 120.0  # as Timeouts.start_s
END_S = 5.0  # beyond the drain, for on_stop and for handlers that were cancelled


class _Received:
    """Stands before ``on_message`` and notes what comes; it knows nobody above it, so that nothing goes in circles."""

    def __init__(self, on_message: Callable[..., Any]) -> None:
        self._on_message = on_message
        self.of: dict[Any, list[tuple[Any, Any]]] = {}

    def __call__(self, conn: Any, ctx: Any, data: Any) -> Any:
        kept = bytes(data) if isinstance(data, memoryview | bytearray) else data  # may be lent for the call only
        self.of.setdefault(conn, []).append((ctx, kept))
        return self._on_message(conn, ctx, data)


class _Site:
    """One worker on a manual loop, and the connections it has."""

    def __init__(self, handler: Handler, options: ServeOptions) -> None:
        self.loop = ManualLoop()
        weakref.finalize(self, self.loop.set_exception_handler, _ignore)  # of tasks that a test left unfinished
        self.options = options
        limits = options.limits
        admission = Admission(limits.max_connections or DEFAULT_CONNECTIONS, limits.max_connections_per_ip)
        self._reactor = Reactor(self.loop, handler, options, admission)
        self.received = _Received(self._reactor.on_message)
        self._reactor.on_message = self.received
        self.worker = Worker(self._reactor, 0)
        self._stopping: asyncio.Task[None] | None = None
        self._peers = 0
        self._reactor.start()
        self.loop.complete(self._call_handler("on_start"), START_S)

    def connect(self, peer_addr: tuple[str, int] | None) -> tuple[Connection, MemoryTransport]:
        """Let one more peer in, as the listener does."""
        peer = peer_addr or (PEER_HOST, FIRST_PEER_PORT + self._peers)
        self._peers += 1
        network = client_network(peer)
        refused = self._reactor.admission.enter(network)
        if refused is not None:
            self._reactor.stats.count_rejected(refused)
            msg = f"the worker refuses this peer: {refused}"
            raise ConnectionRefusedError(msg)
        self._reactor.expect()
        conn = Connection(self._reactor, peer, network)
        extra = {"peername": peer, "sockname": LOCAL_ADDR}
        return conn, MemoryTransport(self.loop, conn, extra=extra)

    def begin_stop(self, why: str) -> asyncio.Task[None]:
        """Begin to drain, once; give the task that does."""
        if self._stopping is None:
            self._stopping = self.loop.create_task(self._stop(why))
        return self._stopping

    async def _stop(self, why: str) -> None:
        await self._reactor.drain(self.options.timeouts.drain_s, why=why, patient=why != "stop")
        await self._call_handler("on_stop")

    async def _call_handler(self, name: str) -> None:
        hook = self._reactor.hooks.get(name)
        if hook is None:
            return
        result = hook(self.worker)
        if hasattr(result, "__await__"):
            await result

    def close(self) -> None:
        """Stop, let as much time pass as that takes, and end the loop. Raises what ``on_stop`` raised."""
        if self.loop.is_closed():
            return
        stopping = self.begin_stop("stop")
        self._reactor.lose_patience()
        try:
            self.loop.complete(_end_of(stopping), (self.options.timeouts.drain_s or 0.0) + END_S)
        finally:
            self._reactor.stop()
            self.loop.settle()
            self.loop.set_exception_handler(_ignore)
            self.loop.close()


async def _end_of(task: asyncio.Task[None]) -> None:
    await task


def _ignore(_loop: asyncio.AbstractEventLoop, _context: dict[str, Any]) -> None:
    """Say nothing of what a test has left behind."""


class EmbeddedConnection:
    r"""One connection of your handler and protocol, with the test as its peer.

    The constructor starts the handler (``on_start``) and connects a peer (``on_connect``). From then on every method
    first does what its name says and then runs all that is ready, so that when it returns nothing is left to do until
    bytes come or time passes. Time stands still except inside `advance`.

    For plain tests (``def``, not ``async def``), as it runs a loop of its own; asynchronous handlers are welcome. A
    handler that opens connections itself needs a real loop: see the fixture of `gevpy.testing.plugin`.

    Use it as a context to have the server stopped, ``on_close`` and ``on_stop`` called, at the end of the test; without
    that it just goes away.

    What a handler or protocol raises ends the connection, as in production, and is in ``close_reason.error``.

    Args:
        handler: the application.
        protocol: how bytes become messages; default `RawProtocol`.
        peer_addr: where the peer seems to come from. Default: this machine, another port for each peer.
        options: those of `gevpy.serve` that concern a connection, such as ``idle_timeout_s`` or ``limits``; not those
            about sockets and processes (``port``, ``ssl``, ``workers``, ...).

    Raises:
        ConfigError: handler, protocol or an option can't work.
        RuntimeError: a loop is running in this thread.
        Exception: whatever ``on_start`` raises; `TimeoutError` where it takes more than 120 s.

    Example:
        >>> import gevpy
        >>> class Echo(gevpy.Handler):
        ...     def on_message(self, conn, ctx, data):
        ...         return data
        >>> conn = EmbeddedConnection(Echo(), gevpy.LineProtocol(), idle_timeout_s=30)
        >>> conn.feed(b"he")
        b''
        >>> conn.feed(b"llo\n")
        b'hello\n'
        >>> _ = conn.advance(30.1)
        >>> str(conn.close_reason)
        'idle'

    Source: Netty's ``EmbeddedChannel``.
    """

    def __init__(
        self,
        handler: Handler,
        protocol: Protocol | None = None,
        *,
        peer_addr: tuple[str, int] | None = None,
        **options: Any,
    ) -> None:
        """Start the handler and connect a peer."""
        if asyncio._get_running_loop() is not None:
            msg = (
                "EmbeddedConnection runs a loop of its own: use it in a plain test (def instead of async def), or the"
                " fixture gevpy_server in an async one"
            )
            raise RuntimeError(msg)
        check_handler(handler)
        for name in (OF_ADDRESSES | OF_PROCESSES) & options.keys():
            msg = f"{name} is about sockets or processes, of which there are none here: see the fixture gevpy_server"
            raise ConfigError(msg)
        chosen = RawProtocol() if protocol is None else protocol
        self._join(_Site(handler, ServeOptions(protocol=chosen, **options)), peer_addr)

    def _join(self, site: _Site, peer_addr: tuple[str, int] | None) -> None:
        self._site = site
        self._conn, self._transport = site.connect(peer_addr)
        self._settle()

    def another(self, *, peer_addr: tuple[str, int] | None = None) -> Self:
        """Connect a further peer to the same worker: for handlers whose connections talk to each other.

        Raises:
            ConnectionRefusedError: ``limits.max_connections``, or the one per address, is reached.
        """
        other = type(self).__new__(type(self))
        other._join(self._site, peer_addr)
        return other

    def __repr__(self) -> str:
        """Show the connection."""
        return f"<EmbeddedConnection of {self._conn!r}>"

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server and let as much time pass as its drain takes. Raises what ``on_stop`` raised."""
        self._site.close()

    # -- the peer ----------------------------------------------------------------------------------

    def feed(self, data: bytes) -> bytes:
        """Let the peer send ``data``, and give what left in answer.

        It is one read, as if the kernel had it all, of at most 256 KiB. While the connection doesn't read (it was
        paused, or its output is congested), the bytes wait in `unread`.

        Raises:
            ConnectionResetError: the connection has ended; the text says why.
        """
        if self._transport.lost:
            msg = f"the connection is closed ({self._conn.close_reason}): what the peer sends arrives nowhere"
            raise ConnectionResetError(msg)
        self._transport.feed(data)
        return self.settle()

    def feed_eof(self) -> bytes:
        """Let the peer end its side of the stream, and give what left in answer."""
        self._transport.feed_eof()
        return self.settle()

    def feed_reset(self) -> None:
        """Let the peer, or the network, tear the connection down."""
        self._transport.feed_reset()
        self._settle()

    def stall(self) -> None:
        """Let the peer stop reading: what is sent from now on waits, and counts as output that doesn't leave."""
        self._transport.stall()

    def take(self, size: int) -> bytes:
        """Let a stalled peer read once: give at most ``size`` bytes of what waits in the transport."""
        self._settle()
        taken = self._transport.take(size)
        self._settle()
        return taken

    def resume(self) -> bytes:
        """Let the peer read again as fast as it can, and give what left."""
        before = len(self._transport.sent)
        self._transport.resume()
        self._settle()
        return self._transport.sent[before:]

    # -- time and the server -----------------------------------------------------------------------

    def advance(self, seconds: float) -> bytes:
        """Let time pass, in seconds: all timers and timeouts come at their moments. Give what left meanwhile.

        Timeouts of connections round up to whole ticks of 100 ms and come at most one tick late: after
        ``idle_timeout_s=30`` a silent connection is surely gone after ``advance(30.1)``.
        """
        before = len(self._transport.sent)
        if not self._site.loop.is_closed():
            self._site.loop.advance(seconds)
        return self._transport.sent[before:]

    def settle(self) -> bytes:
        """Run what is ready, after the test itself has set an event or called a method. Give what left meanwhile."""
        return self.advance(0.0)

    def _settle(self) -> None:
        self.advance(0.0)

    def stop(self, why: str = "stop") -> None:
        """Let the server begin to go away: ``on_drain``, the protocol's ``goodbye``, then the end of the connections.

        What waits for handlers, for output or for ``timeouts.drain_s`` goes on with `advance`; ``on_stop`` comes last.

        Args:
            why: ``"stop"`` (default) closes connections as soon as their handlers have ended; ``"reload"``,
                ``"recycle"`` and ``"remove"`` announce it within 5 s and let them live on until the drain's deadline.
        """
        self._site.begin_stop(why)
        self._settle()

    # -- what a test looks at ----------------------------------------------------------------------

    @property
    def sent(self) -> bytes:
        """All that has left and was not taken by `take_sent`."""
        self._settle()
        return self._transport.sent

    def take_sent(self) -> bytes:
        """Give what has left since the last time, and forget it."""
        self._settle()
        return self._transport.take_sent()

    @property
    def received(self) -> list[tuple[Any, Any]]:
        """The messages that were handed to ``on_message`` so far, as ``(ctx, data)``."""
        self._settle()
        return list(self._site.received.of.get(self._conn, ()))

    @property
    def unread(self) -> int:
        """Bytes that were fed and not read, because the connection doesn't read; in production the kernel has them."""
        self._settle()
        return self._transport.unread_bytes

    @property
    def connected(self) -> bool:
        """Whether messages can be sent; see `Connection.connected`."""
        self._settle()
        return self._conn.connected

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the connection ends or ended; None as long as it is connected."""
        self._settle()
        return self._conn.close_reason

    @property
    def eof_sent(self) -> bool:
        """Whether the peer has seen the end of the stream (a FIN)."""
        self._settle()
        return self._transport.eof_sent

    @property
    def aborted(self) -> bool:
        """Whether the connection was torn down instead (a reset), with whatever output still waited."""
        self._settle()
        return self._transport.aborted

    @property
    def connection(self) -> Connection:
        """The real connection, as the handler gets it; call its methods and then look at `sent`."""
        return self._conn

    @property
    def worker(self) -> Worker:
        """The worker, as the handler gets it."""
        return self._site.worker

    @property
    def loop(self) -> ManualLoop:
        """The loop; ``conn.loop.time()`` is the time in seconds since the beginning."""
        return self._site.loop
