"""gevent's `StreamServer`, one greenlet per connection, on its default (libev) loop."""

from __future__ import annotations

import contextlib
import socket

from gevent.server import StreamServer

from bench.system.serving import BACKLOG, HOST, announce, arguments

READ_BYTES = 1 << 18


def echo(connection: socket.socket, _address: object) -> None:
    """Echo what there is, until the peer closes."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(READ_BYTES):
            connection.sendall(data)


if __name__ == "__main__":
    options = arguments("raw")
    server = StreamServer((HOST, options.port), echo, backlog=BACKLOG)
    server.start()
    announce(server.server_port, "gevent")
    server.serve_forever()
