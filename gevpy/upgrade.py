"""From plain bytes to TLS on a connection that is open: STARTTLS and its like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gevpy.errors import GevError, HandshakeError, ProtocolError

if TYPE_CHECKING:
    import ssl

    from gevpy.connection import ConnectionCore
    from gevpy.reactor import Reactor

__all__ = ["upgrade"]


async def upgrade(
    conn: ConnectionCore,
    reactor: Reactor,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    server_hostname: str | None,
) -> None:
    """Do what `Connection.start_tls` says."""
    if not conn.connected:
        raise conn._closed_error()
    if conn._tls:
        raise GevError("the connection uses TLS already")
    conn.wait_for_upgrade()
    await conn.all_sent()  # the loops ask for an empty transport
    if not conn.connected:
        raise conn._closed_error()
    if conn.has_input:
        # Whatever came before the handshake may be somebody else's: it must not pass for what comes after it.
        early = ProtocolError("more input came in the clear, before the TLS handshake")
        conn.fail_upgrade(early)
        raise early
    conn.begin_upgrade()
    try:
        transport = await reactor.loop.start_tls(
            conn._transport,
            conn,  # type: ignore[arg-type]  # the core of a Connection
            context,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=reactor.handshake_s,
            ssl_shutdown_timeout=reactor.tls_shutdown_s,
        )
    except OSError as error:
        failed = HandshakeError(f"the TLS handshake failed: {error}")
        conn.fail_upgrade(failed)
        raise failed from error
    if transport is None:
        raise conn._closed_error()
    conn.end_upgrade(transport)
