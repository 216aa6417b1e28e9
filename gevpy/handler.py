"""What an application writes: one class with up to eight methods, for any protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gevpy.closing import CloseReason
    from gevpy.connection import Connection
    from gevpy.websocket.http import Request
    from gevpy.worker import Worker

__all__ = ["Handler"]


class Handler:
    """The application: gevpy calls its methods, on the loop, for every connection of a worker.

    Only ``on_message`` must be written; no ``super().__init__()`` is needed. Each method may be ``async def``. One
    handler object serves all connections of its worker, one call at a time, so that its own state needs no lock.

    For one connection the order is ``on_connect``, then ``on_message`` any number of times, then ``on_close`` exactly
    once, also where ``on_connect`` raised. An exception that leaves a method ends that one connection, with reason
    ``HANDLER_ERROR``, a log record and a metric; the others go on. One that leaves ``on_start`` ends the start; one
    that leaves ``on_close`` or ``on_stop`` is logged. The log points out a method of yours whose name is almost one
    of these.

    Example:
        >>> import gevpy
        >>> class Echo(gevpy.Handler):
        ...     def on_message(self, conn, ctx, data):
        ...         return data

    Source: gev's ``Handler`` and ``CallBack``.
    """

    def on_start(self, worker: Worker) -> Any:
        """Be told that ``worker`` is about to serve: open pools, start timers. An exception ends the start."""

    def on_stop(self, worker: Worker) -> Any:
        """Be told that ``worker`` has closed its last connection and is going away."""

    def on_connect(self, conn: Connection) -> Any:
        """Greet a connection that can carry messages. Reading starts when this has ended."""

    def on_request(self, conn: Connection, request: Request) -> Any:
        """Answer an opening request, of protocols that have one (WebSocket), or let it go on.

        Args:
            conn: the connection it came on, which can't carry messages yet. Its ``context`` may be set.
            request: path, query and headers.

        Returns:
            None to go on with the handshake, or a `gevpy.websocket.Response`: a plain page, or a refusal.
        """

    def on_message(self, conn: Connection, ctx: Any, data: Any) -> Any:
        """Handle one message.

        Args:
            conn: the connection it came on.
            ctx: what the protocol says about it; None from most.
            data: the message, ``bytes`` from the byte protocols.

        Returns:
            The reply, or None for none. All replies of one read leave in one write.
        """
        msg = f"{type(self).__name__} has no on_message()"
        raise NotImplementedError(msg)

    def on_close(self, conn: Connection, reason: CloseReason) -> Any:
        """Say good-bye: ``conn.connected`` is False already, and ``reason`` tells why."""

    def on_writable(self, conn: Connection) -> Any:
        """Be told that waiting output fell to the low watermark after it had passed the high one."""

    def on_drain(self, conn: Connection) -> Any:
        """Be told that this server, or this worker, is going away: the last chance to send something of your own.

        At a stop, the connection is closed after this. Where only its worker goes (a reload, recycling, SIGTTOU), it
        lives on and its messages are handled, until it closes by itself or ``timeouts.drain_s`` has passed.
        """
