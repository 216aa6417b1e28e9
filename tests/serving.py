"""What the tests of a running server share: a handler that records, and a client on a bare socket.

The client is a plain non-blocking socket driven by the loop under test, so that a test decides by itself
when something is read, shut down or reset. Every wait has a deadline; nothing here lets time pass.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import tempfile
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import gevpy
from gevpy.single import SingleLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from types import TracebackType

    from gevpy.reactor import Reactor
    from gevpy.stats import Stats

__all__ = [
    "DEADLINE_S",
    "MORE_THAN_THE_KERNEL_TAKES",
    "Client",
    "Recorder",
    "connected",
    "drops",
    "frame",
    "reactor_of",
    "recording",
    "serving",
    "short_path",
    "soon",
    "stalled",
    "stats_of",
    "tcp_address",
    "turns",
    "until",
]

DEADLINE_S = 4.5  # for what takes milliseconds, but for a stalled machine; less than any default of `Timeouts` but one
DRAIN_S = 10.0  # a test that fails with connections open ends, too; one on a stalled machine has done by then
TCP_INFO_BYTES = 240
DATA_SEGS_IN = 152  # offset of tcpi_data_segs_in in Linux's struct tcp_info
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

#: A Unix socket's send buffer is about 208 KiB: of one such message most stays with the transport.
MORE_THAN_THE_KERNEL_TAKES = 600_000

T = TypeVar("T")


async def soon(awaitable: Awaitable[T]) -> T:
    """Await something that must come, and soon."""
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


async def turns(count: int) -> None:
    """Let the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is state, which signals no event
            await asyncio.sleep(0)


def tcp_address(server: gevpy.Server) -> tuple[str, int]:
    """Give the one address of a TCP server."""
    (address,) = server.addresses
    assert isinstance(address, tuple)
    return address


def frame(body: bytes) -> bytes:
    """Give the default length-prefixed frame, written by hand."""
    return struct.pack(">I", len(body)) + body


class Recorder(gevpy.Handler):
    """Records what it is told, in queues that a test can await.

    Attributes:
        opened: the connections, as they come.
        messages: the data of the messages.
        closed: ``(conn, reason)`` of each end.
        calls: the names of all calls, in order.
    """

    def __init__(self) -> None:
        """Begin with nothing; deliberately without ``super().__init__()``."""
        self.opened: asyncio.Queue[gevpy.Connection] = asyncio.Queue()
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.closed: asyncio.Queue[tuple[gevpy.Connection, gevpy.CloseReason]] = asyncio.Queue()
        self.calls: list[str] = []

    def on_connect(self, conn: gevpy.Connection) -> Any:
        self.calls.append("connect")
        self.opened.put_nowait(conn)

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: Any) -> Any:
        self.calls.append("message")
        self.messages.put_nowait(data)

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> Any:
        self.calls.append("close")
        self.closed.put_nowait((conn, reason))

    async def conn(self) -> gevpy.Connection:
        """Wait for the next connection."""
        return await soon(self.opened.get())

    async def message(self) -> Any:
        """Wait for the next message."""
        return await soon(self.messages.get())

    async def reason(self) -> gevpy.CloseReason:
        """Wait for the next end, and give its reason."""
        return (await soon(self.closed.get()))[1]


def recording(**hooks: Callable[..., Any]) -> Recorder:
    """Give a `Recorder` with some of its methods replaced by functions that take no ``self``."""
    kind = type("Recording", (Recorder,), {name: staticmethod(hook) for name, hook in hooks.items()})
    handler: Recorder = kind()
    return handler


class Client:
    """A peer: a socket that does only what it is told.

    Args:
        sock: connected and non-blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take the socket over."""
        self.sock = sock

    @classmethod
    async def connect(cls, address: tuple[str, int] | str) -> Client:
        """Connect to what ``server.addresses`` shows."""
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        if family == socket.AF_INET and ":" in address[0]:
            family = socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        client = cls(sock)
        try:
            await soon(asyncio.get_running_loop().sock_connect(sock, address))
        except BaseException:
            sock.close()
            raise
        return client

    async def __aenter__(self) -> Self:
        """Give itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the socket."""
        self.close()

    @property
    def address(self) -> str:
        """The client's own address, written as gevpy writes it."""
        host, port = self.sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def send(self, data: bytes) -> None:
        """Send everything."""
        await soon(asyncio.get_running_loop().sock_sendall(self.sock, data))

    async def recv(self, size: int = 65536) -> bytes:
        """Receive what comes next; ``b""`` is the end."""
        return await soon(asyncio.get_running_loop().sock_recv(self.sock, size))

    async def read(self, size: int) -> bytes:
        """Receive exactly so many bytes, fewer only at the end of the stream."""
        data = bytearray()
        while len(data) < size and (piece := await self.recv(size - len(data))):
            data += piece
        return bytes(data)

    async def read_to_end(self) -> bytes:
        """Receive everything; a reset raises ``ConnectionResetError``."""
        data = bytearray()
        while piece := await self.recv():
            data += piece
        return bytes(data)

    async def until_gone(self) -> None:
        """Wait for the end, whether by FIN or by reset."""
        try:
            await self.read_to_end()
        except ConnectionError:
            return

    async def flood(self, size: int, *, patience: int = 300) -> int:
        """Send until so many bytes are out, or for so many turns none was taken; give how many were."""
        sent = 0
        waited = 0
        piece = bytes(65536)
        while sent < size and waited < patience:
            try:
                sent += self.sock.send(piece)
                waited = 0
            except BlockingIOError:
                waited += 1
            await asyncio.sleep(0)
        return sent

    def shut(self) -> None:
        """End our own side of the stream."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Go away with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.sock.close()

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def writes_received(self) -> int:
        """Count the segments with data that came in: with TCP_NODELAY, each small write is one."""
        info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        return int(struct.unpack_from("I", info, DATA_SEGS_IN)[0])


@asynccontextmanager
async def serving(handler: gevpy.Handler, **options: Any) -> AsyncIterator[gevpy.Server]:
    """Serve on a port that the system chooses, and give the server."""
    options.setdefault("timeouts", gevpy.Timeouts(drain_s=DRAIN_S))
    async with gevpy.serve(handler, port=0, **options) as server:
        yield server


@asynccontextmanager
async def connected(handler: gevpy.Handler, **options: Any) -> AsyncIterator[tuple[gevpy.Server, Client]]:
    """Serve, and have one client connected."""
    async with serving(handler, **options) as server, await Client.connect(server.addresses[0]) as client:
        yield server, client


@contextmanager
def short_path() -> Iterator[Path]:
    """Give a path for a Unix socket that is short enough for every system."""
    with tempfile.TemporaryDirectory(prefix="gevpy") as folder:
        yield Path(folder) / "s"


@asynccontextmanager
async def stalled(handler: Recorder, **options: Any) -> AsyncIterator[tuple[gevpy.Server, Client, gevpy.Connection]]:
    """Serve on a Unix socket, whose small fixed buffers fill soon, and have a client that reads nothing yet."""
    options.setdefault("timeouts", gevpy.Timeouts(drain_s=DRAIN_S))
    with short_path() as path:
        async with (
            gevpy.serve(handler, path=path, **options) as server,
            await Client.connect(str(path)) as client,
        ):
            yield server, client, await handler.conn()


def stats_of(owner: gevpy.Connection | gevpy.Worker) -> Stats:
    """Give the counters behind the metrics."""
    worker = owner.worker if isinstance(owner, gevpy.Connection) else owner
    return worker._reactor.stats


def drops(conn: gevpy.Connection) -> dict[str, int]:
    """Give how many messages were dropped, by reason."""
    return {str(reason): count for reason, count in stats_of(conn).dropped.items()}


def reactor_of(server: gevpy.Server) -> Reactor:
    """Give what a server in this loop runs on."""
    assert isinstance(server._site, SingleLoop)
    return server._site.service.reactor
