"""Accepting: from a listening socket to a connection of the reactor.

gevpy accepts by itself instead of leaving it to ``create_server``, because accepting needs admission and, when
descriptors run out, a pause: neither loop offers one. The accepted socket is handed to the loop by
``connect_accepted_socket``, whose coroutine is stepped right here instead of in a task, which makes it as cheap.
"""

from __future__ import annotations

import _socket
import errno
import logging
import random
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from gevpy.addresses import client_network, format_address
from gevpy.connection import Connection
from gevpy.errors import HandshakeError
from gevpy.kernel_queues import reset_on_close
from gevpy.log_limit import printable
from gevpy.proxy_gate import ProxyGate
from gevpy.stats import RejectReason

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from gevpy.proxy_header import Address
    from gevpy.reactor import Reactor

__all__ = ["Listener"]

ACCEPTS_PER_WAKE = 100  # then the connections that are open get their turn
BACK_OFF_S = 0.1
CAPACITY_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

STREAM = int(socket.SOCK_STREAM)

MOST_MS = 2**31 - 1
KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3

PLAIN_FAMILY = _socket.socket.family  # beneath the enum

logger = logging.getLogger("gevpy.server")


def tune(sock: socket.socket, user_timeout_s: float | None) -> None:
    """Set what accepted TCP sockets inherit: no Nagle, keepalive after 60 s (10 s apart, 3 times), the user timeout.

    Args:
        sock: a listening socket; Unix sockets are left alone.
        user_timeout_s: how long the kernel keeps unacknowledged data, or None for its own default.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", None if user_timeout_s is None else min(int(user_timeout_s * 1000), MOST_MS)),
    ):
        option = getattr(socket, name, None)  # not every system has all of them
        if option is not None and value is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class AcceptedSocket(socket.socket):
    """A socket that knows its family and type as plain numbers.

    ``socket.socket`` makes enum members of them at every look, and accepting looks five times: 10 µs in all.

    Args:
        family: of its addresses; -1 to ask the kernel.
        proto: its protocol; -1 to ask the kernel.
        fd: the descriptor that accepting gave; the socket owns it.
    """

    __slots__ = ("family",)  # in the place of the property
    type = STREAM  # type: ignore[assignment]

    def __init__(self, family: int, proto: int, fd: int) -> None:
        """Own the descriptor."""
        super().__init__(family, STREAM, proto, fd)
        self.family = family if family >= 0 else PLAIN_FAMILY.__get__(self)  # type: ignore[misc,assignment]


class Door:
    """Makes connections of accepted sockets.

    Args:
        reactor: whose connections they become.
    """

    def __init__(self, reactor: Reactor) -> None:
        """Open onto ``reactor``."""
        self._reactor = reactor

    def take_descriptor(self, fd: int) -> None:
        """Take a connection that another process has accepted, or close it if there is no room."""
        sock = AcceptedSocket(-1, -1, fd)  # the kernel knows what it is
        sock.settimeout(0)
        try:
            address = sock.getpeername()
        except OSError:  # gone again
            address = None
        self._take(sock, address)

    def _take(self, sock: socket.socket, address: Any) -> None:
        reactor = self._reactor
        if reactor.proxies is not None:
            self._await_header(sock, address)
            return
        network = client_network(address) if reactor.admission.max_per_network is not None else ""
        refused = reactor.admission.enter(network)
        if refused is None:
            self._connect(sock, address, network)
        else:
            self._refuse(sock, refused, address)

    def _connect(self, sock: socket.socket, address: Any, network: str) -> None:
        reactor = self._reactor
        reactor.expect()
        conn = Connection(reactor, address, network)
        if reactor.tls is None:
            work = reactor.loop.connect_accepted_socket(lambda: conn, sock)
        else:
            reactor.pending[sock] = partial(_hang_up, sock)
            work = reactor.loop.connect_accepted_socket(
                lambda: conn,
                sock,
                ssl=reactor.tls.context,
                ssl_handshake_timeout=reactor.handshake_s,
                ssl_shutdown_timeout=reactor.tls_shutdown_s,
            )
        self._step(conn, sock, work)

    def _refuse(self, sock: socket.socket, reason: RejectReason, address: Any) -> None:
        self._reactor.stats.count_rejected(reason)
        self._reactor.log.log(
            ("refused", reason), logging.WARNING, f"refused {format_address(address) or 'a connection'}: {reason}"
        )
        reset_on_close(sock)
        sock.close()

    def _step(
        self,
        conn: Connection,
        sock: socket.socket,
        work: Coroutine[Any, Any, Any],
        _waited: asyncio.Future[Any] | None = None,
    ) -> None:
        """Run the loop's own coroutine up to its next wait: without a task, for a third of the cost."""
        try:
            waited = work.send(None)
        except StopIteration:
            if conn._tls:
                self._reactor.pending.pop(sock, None)
            return
        except OSError as error:
            self._connect_failed(conn, sock, error)
            return
        waited._asyncio_future_blocking = False
        waited.add_done_callback(partial(self._step, conn, sock, work))

    def _connect_failed(self, conn: Connection, sock: socket.socket, error: OSError) -> None:
        reactor = self._reactor
        if reactor.pending.pop(sock, None) is None:
            reactor.log.log("connect", logging.WARNING, f"an accepted connection failed: {error}")
        else:
            self._handshake_failed(f"the TLS handshake with {conn.peer_addr}", error)
        sock.close()
        if not conn.was_made:
            reactor.turned_away(conn)

    def _handshake_failed(self, what: str, error: Exception) -> None:
        self._reactor.stats.count_rejected(RejectReason.HANDSHAKE_FAILED)
        reason = printable(str(error) or type(error).__name__)
        self._reactor.log.log(("handshake", type(error)), logging.WARNING, f"{what} failed: {reason}")

    # -- behind a load balancer --------------------------------------------------------------------

    def _await_header(self, sock: socket.socket, address: Any) -> None:
        """Learn from the PROXY header whom the balancer connects for; the connection counts from now on."""
        reactor = self._reactor
        refused = reactor.admission.enter_unknown()
        if refused is not None:
            self._refuse(sock, refused, address)
        elif reactor.proxies is None or not reactor.proxies.trust(address):
            self._header_failed(sock, address, HandshakeError("it is not among the trusted proxies"))
        else:
            timeout_s = reactor.proxy_header_s
            known, failed = partial(self._header_known, sock, address), partial(self._header_failed, sock, address)
            reactor.pending[sock] = ProxyGate(reactor.loop, sock, timeout_s, known, failed).give_up

    def _header_known(self, sock: socket.socket, address: Any, source: Address | None) -> None:
        reactor = self._reactor
        del reactor.pending[sock]
        client = source or address
        network = client_network(client)
        refused = reactor.admission.place(network)
        if refused is None:
            self._connect(sock, client, network)
        else:
            reactor.admission.leave(None)
            self._refuse(sock, refused, client)

    def _header_failed(self, sock: socket.socket, address: Any, error: Exception) -> None:
        self._reactor.pending.pop(sock, None)
        self._reactor.admission.leave(None)
        self._handshake_failed(f"the PROXY header of {format_address(address) or 'a peer'}", error)
        reset_on_close(sock)
        sock.close()


def _hang_up(sock: socket.socket) -> None:
    """Have the loop's handshake fail."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class Listener(Door):
    """Accepts on one listening socket.

    Args:
        reactor: whose connections they become.
        sock: listening, non-blocking; it stays the caller's to close.
    """

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        """Set up; nothing is accepted before `start`."""
        super().__init__(reactor)
        self._sock = sock
        self._fd = sock.fileno()
        self._family = int(sock.family)
        self._proto = sock.proto
        self._retry: asyncio.TimerHandle | None = None
        self._running = False

    def start(self) -> None:
        """Begin to accept."""
        self._running = True
        self._reactor.loop.add_reader(self._fd, self._accept_ready)

    def stop(self) -> None:
        """Accept no more. Idempotent."""
        if not self._running:
            return
        self._running = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._reactor.loop.remove_reader(self._fd)

    def _accept_ready(self) -> None:
        for _ in range(ACCEPTS_PER_WAKE):
            try:
                fd, address = self._sock._accept()  # type: ignore[attr-defined]  # what accept() calls
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in CAPACITY_ERRORS:
                    self._back_off(error)
                    return
                continue  # this one peer was gone before it was accepted (ECONNABORTED, EPROTO, ...)
            self._take(AcceptedSocket(self._family, self._proto, fd), address)

    def _back_off(self, error: OSError) -> None:
        """Out of descriptors: wait a moment instead of spinning."""
        self._reactor.stats.count_rejected(RejectReason.OUT_OF_DESCRIPTORS)
        self._reactor.log.log("accept", logging.ERROR, f"accepting paused for {BACK_OFF_S} s: {error.strerror}")
        self._reactor.loop.remove_reader(self._fd)
        delay = BACK_OFF_S * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        self._retry = self._reactor.loop.call_later(delay, self._resume)

    def _resume(self) -> None:
        self._retry = None
        if self._running:
            self._reactor.loop.add_reader(self._fd, self._accept_ready)
