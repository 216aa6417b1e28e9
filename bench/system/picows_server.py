"""picows, a WebSocket library in Cython, on uvloop: the fastest of the Python peers."""

from __future__ import annotations

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


def listener(_request: WSUpgradeRequest) -> WSListener:
    """Accept every connection."""
    return Echo()


async def main(port: int) -> None:
    """Serve until killed."""
    server = await ws_create_server(listener, HOST, port, max_frame_size=MAX_MESSAGE_BYTES, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1], "picows", "uvloop")
    await server.serve_forever()


if __name__ == "__main__":
    options = arguments("websocket")
    run(main(options.port), "uvloop")
