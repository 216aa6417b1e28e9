"""STARTTLS: plain bytes become TLS on an open connection, or the connection ends, once, with everyone told."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind, ConnectionClosed, HandshakeError, LineProtocol, ProtocolError, RawProtocol, Timeouts
from tests.certificates import NAME, Shelf, TlsClient, client_hello
from tests.serving import (
    DRAIN_S,
    MORE_THAN_THE_KERNEL_TAKES,
    Client,
    Recorder,
    reactor_of,
    serving,
    soon,
    stalled,
    turns,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from gevpy import Connection

BIG = 1 << 20


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Give certificates."""
    return Shelf(tmp_path)


class Upgrading(Recorder):
    """Upgrades at the line ``starttls``, echoes all others, and records how the upgrade went.

    Args:
        tls: what to upgrade with.
    """

    def __init__(self, tls: gevpy.TLS) -> None:
        """Begin with nothing."""
        super().__init__()
        self.tls = tls
        self.upgrades: asyncio.Queue[BaseException | None] = asyncio.Queue()
        self.began = asyncio.Event()

    async def on_message(self, conn: Connection, ctx: Any, data: bytes) -> bytes | None:
        """Upgrade, or echo."""
        self.calls.append("message")
        self.messages.put_nowait(data)
        if data != b"starttls":
            return data
        conn.send(b"go ahead")
        await self.upgrade(conn)
        return b"done"

    async def upgrade(self, conn: Connection) -> None:
        """Upgrade, and record what came of it."""
        self.began.set()
        try:
            await conn.start_tls(self.tls)
        except BaseException as error:
            self.upgrades.put_nowait(error)
            raise
        self.upgrades.put_nowait(None)

    async def outcome(self) -> BaseException | None:
        """Wait for what came of an upgrade."""
        return await soon(self.upgrades.get())


class Impatient(Upgrading):
    """Has a timeout of its own around the upgrade, that runs out when the test says so."""

    async def upgrade(self, conn: Connection) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as self.patience:
                await super().upgrade(conn)

    def give_up(self) -> None:
        """Have the time run out."""
        self.patience.reschedule(asyncio.get_running_loop().time())


@asynccontextmanager
async def asked(handler: Upgrading, **options: Any) -> AsyncIterator[tuple[gevpy.Server, Client, Connection]]:
    """Serve lines, and have a client that has asked for TLS and was told to go ahead; nobody must be left behind."""
    options.setdefault("timeouts", Timeouts(drain_s=DRAIN_S))
    async with serving(handler, protocol=LineProtocol(), **options) as server:
        reactor = reactor_of(server)
        async with await Client.connect(server.addresses[0]) as client:
            conn = await handler.conn()
            await client.send(b"starttls\n")
            assert await client.read(9) == b"go ahead\n"
            await until(lambda: conn._busy)  # the handshake was begun
            yield server, client, conn
        await until(lambda: not reactor.connections and not reactor._tasks and not reactor._unfinished)
        assert handler.calls.count("close") == handler.calls.count("connect")
        assert reactor.admission.count == 0


# -- when all goes well --------------------------------------------------------------------------------


async def test_a_connection_goes_on_with_tls(shelf: Shelf) -> None:
    """STARTTLS: what is sent after the handshake is encrypted, and the connection knows."""
    handler = Upgrading(shelf.tls)
    async with asked(handler) as (_, plain, conn):
        client = TlsClient(plain, shelf.client())
        await client.handshake()
        assert await client.read(5) == b"done\n"
        assert await handler.outcome() is None
        assert conn.tls is not None
        assert conn.tls.version() == "TLSv1.3"
        await client.send(b"secret\n")
        assert await client.read(7) == b"secret\n"


async def test_a_line_right_behind_the_clients_finished_is_handled(shelf: Shelf) -> None:
    """What comes in one segment with the end of the handshake is the first message under TLS."""
    handler = Upgrading(shelf.tls)
    async with asked(handler) as (_, plain, _conn):
        client = TlsClient(plain, shelf.client())
        await client.handshake(last_flight=False)
        await plain.send(client.finished() + client.sealed(b"eager\n", b"again\n"))
        assert await client.read(17) == b"done\neager\nagain\n"


async def test_the_protocol_is_swapped_at_the_upgrade(shelf: Shelf) -> None:
    """Assigning `protocol` before the upgrade holds for what comes behind the handshake."""

    class Swapping(Upgrading):
        async def upgrade(self, conn: Connection) -> None:
            conn.protocol = RawProtocol()
            await super().upgrade(conn)

    handler = Swapping(shelf.tls)
    async with asked(handler) as (_, plain, _conn):
        client = TlsClient(plain, shelf.client())
        await client.handshake(last_flight=False)
        await plain.send(client.finished() + client.sealed(b"no line"))
        assert await client.read(11) == b"doneno line"


async def test_what_is_sent_meanwhile_leaves_encrypted(shelf: Shelf) -> None:
    """A send during the handshake waits for it: not one byte leaves in the clear."""
    handler = Upgrading(shelf.tls)
    async with asked(handler) as (_, plain, conn):
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        conn.send(b"meanwhile", on_written=lambda _, error: told.set_result(error))
        client = TlsClient(plain, shelf.client())
        await client.handshake()
        assert await client.read(15) == b"meanwhile\ndone\n"
        assert await soon(told) is None


async def test_an_upgrade_waits_for_output_that_is_congested(shelf: Shelf) -> None:
    """uvloop 564: with a full send buffer all of it leaves in the clear first, then the handshake begins."""
    big = bytes(BIG)

    class Flooding(Upgrading):
        async def upgrade(self, conn: Connection) -> None:
            conn.protocol = RawProtocol()
            conn.send(big)
            conn.send(big)
            assert conn.congested or conn.write_buffer_length
            await super().upgrade(conn)

    handler = Flooding(shelf.tls)
    options = {"limits": gevpy.Limits(max_write_buffer_bytes=4 * BIG)}
    async with (
        serving(handler, protocol=LineProtocol(), **options) as server,
        await Client.connect(server.addresses[0]) as plain,
    ):
        conn = await handler.conn()
        await plain.send(b"starttls\n")
        await soon(handler.began.wait())
        await turns(20)
        assert conn.tls is None
        assert await plain.read(9 + 2 * BIG) == b"go ahead\n" + big + big
        client = TlsClient(plain, shelf.client())
        await client.handshake()
        assert await client.read(4) == b"done"


async def test_a_connection_of_tls_is_not_upgraded_again(shelf: Shelf) -> None:
    """A second upgrade raises and changes nothing."""
    handler = Upgrading(shelf.tls)
    async with asked(handler) as (_, plain, conn):
        client = TlsClient(plain, shelf.client())
        await client.handshake()
        assert await client.read(5) == b"done\n"
        with pytest.raises(gevpy.GevError, match="uses TLS already"):
            await conn.start_tls(shelf.tls)
        await client.send(b"still\n")
        assert await client.read(6) == b"still\n"


async def test_big_messages_go_both_ways_after_an_upgrade(shelf: Shelf) -> None:
    """Flow control holds on the new transport: 4 MiB echoed in 1 MiB frames to a client that reads at the end."""
    handler = Upgrading(shelf.tls)
    limits = gevpy.Limits(max_write_buffer_bytes=8 * BIG)
    async with asked(handler, limits=limits) as (_, plain, conn):
        client = TlsClient(plain, shelf.client())
        await client.handshake()
        assert await client.read(5) == b"done\n"
        conn.protocol = gevpy.LengthPrefixedProtocol(max_frame_bytes=BIG)
        body = bytes(range(256)) * (BIG // 256)
        wire = len(body).to_bytes(4, "big") + body
        sealed = client.sealed(*([wire] * 4))
        sending = asyncio.ensure_future(plain.send(sealed))
        assert await client.read(4 * len(wire)) == wire * 4
        await sending


# -- when it fails -------------------------------------------------------------------------------------


async def test_early_plaintext_ends_the_connection(shelf: Shelf) -> None:
    """A command smuggled in behind STARTTLS, in the clear, is never handled (CVE-2011-0411 and its like)."""
    handler = Upgrading(shelf.tls)
    async with serving(handler, protocol=LineProtocol()) as server, await Client.connect(server.addresses[0]) as plain:
        await plain.send(b"starttls\nsmuggled\n")
        assert isinstance(await handler.outcome(), ProtocolError)
        assert (await handler.reason()).kind is CloseKind.HANDSHAKE_FAILED
        await plain.until_gone()
        assert handler.messages.get_nowait() == b"starttls"
        assert handler.messages.empty()


async def test_early_plaintext_of_a_part_line_ends_the_connection(shelf: Shelf) -> None:
    """Not even the beginning of a message in the clear is put before what comes encrypted."""
    handler = Upgrading(shelf.tls)
    async with serving(handler, protocol=LineProtocol()) as server, await Client.connect(server.addresses[0]) as plain:
        await plain.send(b"starttls\nsmug")
        assert isinstance(await handler.outcome(), ProtocolError)
        assert (await handler.reason()).kind is CloseKind.HANDSHAKE_FAILED


async def _garbage(plain: Client, _conn: Connection) -> None:
    await plain.send(b"this is no ClientHello\r\n" * 20)


async def _end(plain: Client, _conn: Connection) -> None:
    plain.shut()


async def _reset(plain: Client, _conn: Connection) -> None:
    plain.reset()


async def _half_a_hello_then_end(plain: Client, _conn: Connection) -> None:
    await plain.send(b"\x16\x03\x01\x02\x00\x01")
    plain.shut()


@pytest.mark.parametrize("fault", [_garbage, _end, _reset, _half_a_hello_then_end])
async def test_a_handshake_that_fails_ends_the_connection(shelf: Shelf, fault: Callable[..., Any]) -> None:
    """Garbage, an end or a reset in the handshake: HandshakeError, handshake_failed, and on_close once."""
    handler = Upgrading(shelf.tls)
    async with asked(handler) as (_, plain, conn):
        await fault(plain, conn)
        assert isinstance(await handler.outcome(), HandshakeError)
        assert (await handler.reason()).kind is CloseKind.HANDSHAKE_FAILED


async def test_a_client_that_does_not_trust_us_ends_the_connection(shelf: Shelf) -> None:
    """The client's alert is a failed handshake."""
    handler = Upgrading(shelf.tls)
    async with asked(handler) as (_, plain, _conn):
        with pytest.raises(ssl.SSLCertVerificationError):
            await TlsClient(plain, shelf.client(ca="other")).handshake()
        error = await handler.outcome()
        reason = await handler.reason()
    if isinstance(error, HandshakeError):  # TLS 1.3 may tell the server after its own end of the handshake
        assert reason.kind is CloseKind.HANDSHAKE_FAILED


@pytest.mark.parametrize("sent", [b"", b"hello"])
async def test_a_handshake_that_stalls_is_ended_in_time(shelf: Shelf, sent: bytes) -> None:
    """C5: no ClientHello, or half of one: ``handshake_s`` ends it."""
    handler = Upgrading(shelf.tls)
    async with asked(handler, timeouts=Timeouts(handshake_s=0.3, drain_s=DRAIN_S)) as (_, plain, _conn):
        if sent:
            hello = client_hello(shelf.client())
            await plain.send(hello[: len(hello) // 2])
        assert isinstance(await handler.outcome(), HandshakeError)
        assert (await handler.reason()).kind is CloseKind.HANDSHAKE_FAILED
        await plain.until_gone()


async def test_a_slow_handshake_is_no_write_stall(shelf: Shelf) -> None:
    """Output that is held back for the handshake is not output that the peer doesn't take."""

    class Silent(Upgrading):
        async def on_connect(self, conn: Connection) -> None:
            await super().upgrade(conn)

    handler = Silent(shelf.tls)
    timeouts = Timeouts(handshake_s=1.2, write_stall_s=0.2, drain_s=DRAIN_S)
    async with serving(handler, timeouts=timeouts, idle_timeout_s=0.5) as server:
        reactor = reactor_of(server)
        await until(lambda: reactor.tick > 8)
        async with await Client.connect(server.addresses[0]):
            assert isinstance(await handler.outcome(), HandshakeError | ConnectionClosed | asyncio.CancelledError)
            assert (await handler.reason()).kind in (CloseKind.HANDSHAKE_FAILED, CloseKind.IDLE)


# -- when it is ended from our side --------------------------------------------------------------------


def _abort(_server: gevpy.Server, conn: Connection) -> None:
    conn.abort()


def _close(_server: gevpy.Server, conn: Connection) -> None:
    conn.close()


@pytest.mark.parametrize(("end", "kind"), [(_abort, CloseKind.ABORTED), (_close, CloseKind.CLOSED_LOCALLY)])
@pytest.mark.parametrize("hello", [False, True])
async def test_a_connection_can_be_ended_in_the_handshake(
    shelf: Shelf, end: Callable[..., None], kind: CloseKind, *, hello: bool
) -> None:
    """close() and abort() while start_tls is under way: the handler is told, on_close comes once."""
    handler = Upgrading(shelf.tls)
    async with asked(handler) as (server, plain, conn):
        if hello:
            await plain.send(client_hello(shelf.client())[:40])
            await turns(5)
        end(server, conn)
        assert not conn.connected
        reason = await handler.reason()
        assert reason.kind is kind
        assert isinstance(await handler.outcome(), ConnectionClosed | HandshakeError | asyncio.CancelledError)
        await plain.until_gone()


async def test_what_waits_for_the_handshake_is_told_of_its_end(shelf: Shelf) -> None:
    """A message sent during a handshake that fails: its sender learns that the connection closed."""
    handler = Upgrading(shelf.tls)
    async with asked(handler) as (_, plain, conn):
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        conn.send(b"meanwhile", on_written=lambda _, error: told.set_result(error))
        await _garbage(plain, conn)
        assert isinstance(await soon(told), ConnectionClosed)
        assert isinstance(await handler.outcome(), HandshakeError)


async def test_an_upgrade_can_be_cancelled(shelf: Shelf) -> None:
    """A handler's own timeout around start_tls: the connection can't go on, and ends."""
    handler = Impatient(shelf.tls)
    async with asked(handler) as (_, plain, _conn):
        handler.give_up()
        assert isinstance(await handler.outcome(), asyncio.CancelledError)
        assert (await handler.reason()).kind is CloseKind.HANDSHAKE_FAILED
        await plain.until_gone()


async def test_an_upgrade_cancelled_before_the_handshake_leaves_the_connection_open(shelf: Shelf) -> None:
    """As long as only old output is awaited, nothing has changed: the connection reads on in the clear."""
    big = bytes(MORE_THAN_THE_KERNEL_TAKES)

    class Flooding(Impatient):
        async def upgrade(self, conn: Connection) -> None:
            conn.protocol = RawProtocol()
            conn.send(big)
            await super().upgrade(conn)

    handler = Flooding(shelf.tls)
    async with stalled(handler, protocol=LineProtocol()) as (_, plain, conn):
        await plain.send(b"starttls\n")
        await soon(handler.began.wait())
        await turns(5)
        handler.give_up()
        assert isinstance(await handler.outcome(), asyncio.CancelledError)
        assert await plain.read(9 + len(big) + 4) == b"go ahead\n" + big + b"done"
        await plain.send(b"still")
        assert await plain.read(5) == b"still"
        assert conn.tls is None


async def test_a_drain_ends_a_handshake_at_its_deadline(shelf: Shelf) -> None:
    """A handler that awaits start_tls is a handler at work: the drain's deadline ends it, and all hooks are called."""
    handler = Upgrading(shelf.tls)
    async with asked(handler) as (server, plain, _conn):
        await soon(server.stop(drain_timeout_s=0.2))
        assert handler.calls[-1] == "close"
        assert (await handler.reason()).kind is CloseKind.DRAINED
        await plain.until_gone()


async def test_a_client_upgrades_by_name(shelf: Shelf, loop_kind: str) -> None:
    """``server_side=False``: the peer's certificate and name are checked; here against asyncio's own server."""
    del loop_kind

    class Calling(Upgrading):
        async def upgrade(self, conn: Connection) -> None:
            await conn.start_tls(gevpy.TLS(ca=shelf.ca), server_side=False, server_hostname=NAME)
            self.upgrades.put_nowait(None)

    handler = Calling(shelf.tls)
    async with asked(handler) as (_, plain, conn):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(shelf.cert, shelf.key)
        peer = TlsClient(plain, context)
        await peer.handshake()
        assert await handler.outcome() is None
        assert await peer.read(5) == b"done\n"
        assert conn.peer_certificate is not None
        assert ("DNS", NAME) in conn.peer_certificate["subjectAltName"]
