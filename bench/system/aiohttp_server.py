"""aiohttp's WebSocket server, on uvloop, compression off unless `--deflate` is given."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import WSMsgType, web

from bench.system.serving import BACKLOG, HOST, MAX_MESSAGE_BYTES, announce, arguments, run


async def main(port: int, *, deflate: bool) -> None:
    """Serve until killed."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse(compress=deflate, max_msg_size=MAX_MESSAGE_BYTES)
        await response.prepare(request)
        async for message in response:
            if message.type is WSMsgType.BINARY:
                await response.send_bytes(message.data)
            elif message.type is WSMsgType.TEXT:
                await response.send_str(message.data)
        return response

    application = web.Application()
    application.router.add_get("/", echo)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    listening = socket.create_server((HOST, port), backlog=BACKLOG)
    await web.SockSite(runner, listening, backlog=BACKLOG).start()
    announce(listening.getsockname()[1], "aiohttp", "uvloop")
    await asyncio.Event().wait()


if __name__ == "__main__":
    options = arguments("websocket")
    run(main(options.port, deflate=options.deflate), "uvloop")
