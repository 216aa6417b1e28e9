"""From plain bytes to TLS on a connection that is open: STARTTLS and its like."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gevpy.errors import GevError, HandshakeError, ProtocolError

if TYPE_CHECKING:
    import ssl

    from gevpy.connection import ConnectionCore
    from gevpy.reactor import Reactor

__all__ = ["upgrade"]


class Bridge(asyncio.BufferedProtocol):
    """Stands between the loop's TLS and a connection, as long as they shake hands.

    Where the transport ends in a handshake, the loops tell their protocol in some cases and not in others. So nothing
    is heard of that here: `upgrade`, which learns of every case, tells the connection once.

    Args:
        conn: the connection.
    """

    def __init__(self, conn: ConnectionCore) -> None:
        """Stand before ``conn``."""
        self._conn = conn

    def get_buffer(self, sizehint: int) -> memoryview:
        """Have the connection lend room."""
        return self._conn.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what came right behind the handshake."""
        self._conn.buffer_updated(nbytes)

    def eof_received(self) -> bool:
        """Hand on the peer's end."""
        return self._conn.eof_received()


async def upgrade(
    conn: ConnectionCore,
    reactor: Reactor,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    server_hostname: str | None,
) -> None:
    """Do what `Connection.start_tls` says."""
    await _quiet(conn)
    conn.begin_upgrade()
    conn._tls = True  # from here on nothing can be said in the clear, nor can one side alone be ended
    try:
        transport = await reactor.loop.start_tls(
            conn._transport,
            Bridge(conn),
            context,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=reactor.handshake_s,
            ssl_shutdown_timeout=reactor.tls_shutdown_s,
        )
    except BaseException as error:
        reactor.loop.call_soon(conn.connection_lost, None)
        if not conn.connected:
            raise conn._closed_error() from error
        failed = HandshakeError(f"the TLS handshake failed: {str(error) or type(error).__name__}")
        conn.fail_upgrade(failed)
        if isinstance(error, Exception):
            raise failed from error
        raise
    if (
        transport is None or transport.is_closing()
    ):  # closed or aborted meanwhile: asyncio says so this way, uvloop that
        reactor.loop.call_soon(conn.connection_lost, None)
        raise conn._closed_error()
    transport.set_protocol(conn)  # type: ignore[arg-type]  # the core of a Connection
    conn.end_upgrade(transport)


async def _quiet(conn: ConnectionCore) -> None:
    """Wait until all output has left, which the loops ask for, and see that no input came."""
    _check(conn)
    conn.wait_for_upgrade()
    try:
        await conn.all_sent()
        _check(conn)
    except BaseException:
        if not conn._tls:
            conn.upgrade_done()
        raise
    if conn.has_input:
        # Whatever came before the handshake may be somebody else's: it must not pass for what comes after it.
        early = ProtocolError("more input came in the clear, before the TLS handshake")
        conn.fail_upgrade(early)
        raise early


def _check(conn: ConnectionCore) -> None:
    if not conn.connected or conn._write_shut:
        raise conn._closed_error()
    if conn._tls:
        raise GevError("the connection uses TLS already")
