"""picows, a WebSocket library in Cython, on uvloop: the fastest of the Python peers."""

from __future__ import annotations

from typing import ClassVar

from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from bench.system.serving import BACKLOG, HOST, MAX_MESSAGE_BYTES, announce, arguments, run


class Echo(WSListener):
    """Echo binary and text frames straight from picows's buffer."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Echo; `send` copies, so the borrowed view is enough."""
        if frame.msg_type in (WSMsgType.BINARY, WSMsgType.TEXT):
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()


class Broadcaster(WSListener):
    """Send each message to everybody, as often as its first byte says."""

    audience: ClassVar[set[WSTransport]] = set()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Count it in."""
        self.audience.add(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Send: picows has no broadcast of its own."""
        if frame.msg_type != WSMsgType.BINARY:
            transport.disconnect()
            return
        message = frame.get_payload_as_bytes()
        for _ in range(message[0]):
            for each in self.audience:
                each.send(WSMsgType.BINARY, message)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Count it out."""
        self.audience.discard(transport)


async def main(port: int, kind: type[WSListener]) -> None:
    """Serve until killed."""

    def listener(_request: WSUpgradeRequest) -> WSListener:
        return kind()

    server = await ws_create_server(listener, HOST, port, max_frame_size=MAX_MESSAGE_BYTES, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1], "picows", "uvloop")
    await server.serve_forever()


if __name__ == "__main__":
    options = arguments("websocket", "broadcast")
    run(main(options.port, Broadcaster if options.protocol == "broadcast" else Echo), "uvloop")
