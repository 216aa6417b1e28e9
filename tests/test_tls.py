"""TLS as an application sees it: certificates, names, reload, and the same promises about bytes as without."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

import gevpy
from gevpy import TLS, CloseKind, ConfigError, ConnectionClosed, Limits, LineProtocol, Timeouts
from gevpy.tls import client_context, server_context
from tests.certificates import NAME, Shelf, TlsClient, authority, issued
from tests.serving import DRAIN_S, Client, Recorder, drops, reactor_of, recording, serving, soon, stats_of, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gevpy import Connection

MIB = 1 << 20
FRAME = 4096


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Give certificates."""
    return Shelf(tmp_path)


def echo(conn: Connection, ctx: Any, data: bytes) -> bytes:
    """Answer with what came."""
    return data


def line_count(count: int) -> bytes:
    """Give so many lines, each its number."""
    return b"".join(b"%d\n" % number for number in range(count))


@asynccontextmanager
async def secured(
    handler: Recorder, shelf: Shelf, **options: Any
) -> AsyncIterator[tuple[gevpy.Server, TlsClient, Connection]]:
    """Serve TLS, and have one client connected; nobody must be left behind."""
    options.setdefault("ssl", shelf.tls)
    options.setdefault("timeouts", Timeouts(drain_s=DRAIN_S))
    async with serving(handler, **options) as server:
        reactor = reactor_of(server)
        async with await TlsClient.connect(server.addresses[0], shelf.client()) as client:
            yield server, client, await handler.conn()
        await until(lambda: not reactor._unfinished)
        assert not reactor.pending
        assert not reactor._tasks
        assert handler.calls.count("close") == handler.calls.count("connect")


# -- what can be said ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"key": "k.pem"}, "without a cert"),
        ({"cert": 7}, "cert must be the path"),
        ({"cert": "c.pem", "ca": b"ca.pem"}, "ca must be the path"),
        ({"cert": "c.pem", "sni": "name"}, "sni must be a function"),
    ],
)
def test_what_cannot_be_is_refused_at_once(arguments: dict[str, Any], said: str) -> None:
    """Slips are told by their option's name, before a file is read."""
    with pytest.raises(ConfigError, match=said):
        TLS(**arguments)


def test_a_server_needs_a_certificate() -> None:
    """A TLS of authorities only is for clients."""
    with pytest.raises(ConfigError, match="needs a certificate"):
        server_context(TLS())


@pytest.mark.parametrize("fault", ["missing", "garbage", "swapped"])
def test_files_that_cannot_be_used_are_named(shelf: Shelf, fault: str) -> None:
    """A missing file, one of garbage, and a key of another certificate are each told with the path."""
    if fault == "missing":
        shelf.key.unlink()
    elif fault == "garbage":
        shelf.cert.write_bytes(b"no PEM")
    else:
        shelf.key.write_bytes(issued("another.test").key)
    with pytest.raises(ConfigError, match="cannot use the TLS files") as caught:
        server_context(shelf.tls)
    assert str(shelf.key if fault == "missing" else shelf.cert) in str(caught.value)


@pytest.mark.parametrize("wrong", ["server.pem", True, ("server.pem", "server.key")])
def test_what_is_no_tls_is_told_so(wrong: Any) -> None:
    """The obvious slips, on both sides."""
    with pytest.raises(ConfigError, match=r"ssl must be a gevpy\.TLS"):
        gevpy.serve(recording(), ssl=wrong)
    with pytest.raises(ConfigError, match=r"ssl must be a gevpy\.TLS"):
        client_context(wrong)


def test_a_key_with_a_password_is_refused(shelf: Shelf) -> None:
    """A server asks nobody at a terminal."""
    key = load_pem_private_key(shelf.key.read_bytes(), None)
    shelf.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret"))
    )
    with pytest.raises(ConfigError, match="needs a password"):
        server_context(shelf.tls)


def test_contexts_are_strict(shelf: Shelf) -> None:
    """TLS 1.2 is the least, no renegotiation, no compression; a client checks certificate and name."""
    for context in (server_context(shelf.mutual), client_context(TLS(ca=shelf.ca))):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert client_context(TLS()).check_hostname


async def test_bad_files_are_told_at_the_start(shelf: Shelf) -> None:
    """`serve` refuses what can't be served, before anything is bound."""
    shelf.cert.write_bytes(b"no PEM")
    with pytest.raises(ConfigError, match="cannot use the TLS files"):
        async with serving(Recorder(), ssl=shelf.tls):
            pass


async def test_a_context_does_not_go_to_workers(shelf: Shelf) -> None:
    """An ``ssl.SSLContext`` serves one loop; workers need the files."""
    with pytest.raises(ConfigError, match="name the files"):
        gevpy.serve(Recorder(), ssl=server_context(shelf.tls), workers=2)


# -- one connection ------------------------------------------------------------------------------------


async def test_a_connection_knows_its_tls(shelf: Shelf) -> None:
    """Version, cipher and addresses are those of the session."""
    async with secured(recording(on_message=echo), shelf) as (_, client, conn):
        await client.send(b"hello")
        assert await client.read(5) == b"hello"
        assert conn.tls is not None
        assert conn.tls.version() == client.session.version() == "TLSv1.3"
        assert conn.tls.cipher() == client.session.cipher()
        assert conn.peer_addr == client.plain.address
        assert conn.peer_certificate is None


async def test_a_context_of_ones_own_is_used(shelf: Shelf) -> None:
    """``ssl=SSLContext`` is taken as it is; TLS 1.2 works."""
    context = server_context(shelf.tls)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with secured(recording(on_message=echo), shelf, ssl=context) as (server, client, conn):
        await client.send(b"hello")
        assert await client.read(5) == b"hello"
        assert conn.tls is not None
        assert conn.tls.version() == "TLSv1.2"
        server.reload_tls()  # nothing to read again


async def test_old_versions_are_refused(shelf: Shelf) -> None:
    """A client that knows TLS 1.1 at most gets no connection."""
    context = shelf.client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    handler = Recorder()
    async with serving(handler, ssl=shelf.tls) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await TlsClient.connect(server.addresses[0], context)
        await until(lambda: reactor_of(server).stats.rejected)
    assert handler.calls == []


@pytest.mark.parametrize("size", [1, 16 * 1024, MIB])
async def test_frames_of_all_sizes_are_echoed(shelf: Shelf, size: int) -> None:
    """One byte, one record, 1 MiB."""
    protocol = gevpy.LengthPrefixedProtocol(max_frame_bytes=MIB)
    wire = size.to_bytes(4, "big") + bytes(size)
    async with secured(recording(on_message=echo), shelf, protocol=protocol) as (_, client, _conn):
        for _ in range(3):
            sending = asyncio.ensure_future(client.send(wire))
            assert await client.read(len(wire)) == wire
            await sending


async def test_many_small_frames_in_one_record_are_handled(shelf: Shelf) -> None:
    """More messages than one turn handles, in one record: none is lost, all are in order."""
    lines = line_count(2500)
    assert len(lines) < 16 * 1024
    async with secured(recording(on_message=echo), shelf, protocol=LineProtocol()) as (_, client, _conn):
        await client.send(lines)
        assert await client.read(len(lines)) == lines


async def test_a_frame_byte_by_byte_in_records_of_its_own(shelf: Shelf) -> None:
    """Every split, a record each."""
    async with secured(recording(on_message=echo), shelf, protocol=LineProtocol()) as (_, client, _conn):
        wire = b"hello world\n"
        await client.plain.send(client.sealed(*(bytes([byte]) for byte in wire)))
        assert await client.read(len(wire)) == wire


async def test_a_flood_both_ways_is_complete(shelf: Shelf) -> None:
    """16 MiB are echoed to a client that sends and reads at once; output beyond high_bytes pauses reading."""
    total = 16 * MIB
    piece = bytes(range(256)) * 256
    async with secured(recording(on_message=echo), shelf) as (_, client, conn):

        async def send() -> None:
            for _ in range(total // len(piece)):
                await client.plain.send(client.sealed(piece))

        sending = asyncio.ensure_future(send())
        got = 0
        while got < total:
            data = await client.read(len(piece))
            assert data == piece
            got += len(data)
        await sending
        assert conn.connected


# -- who speaks first ----------------------------------------------------------------------------------


async def _greets(conn: Connection) -> None:
    conn.send(bytes(MIB))
    await conn.drain()
    conn.send(b"end")


def _greets_and_pauses(conn: Connection) -> None:
    conn.pause_reading()
    conn.send(bytes(MIB))
    conn.send(b"end")


def _greets_at_once(conn: Connection) -> None:
    conn.send(bytes(MIB))
    conn.send(b"end")


@pytest.mark.parametrize("on_connect", [_greets, _greets_and_pauses, _greets_at_once])
async def test_a_server_may_speak_first(shelf: Shelf, on_connect: Any) -> None:
    """A greeting above the watermarks leaves, though nothing is read: the session tickets don't block its way."""
    handler = recording(on_connect=on_connect)
    async with (
        serving(handler, ssl=shelf.tls, limits=Limits(max_write_buffer_bytes=2 * MIB)) as server,
        await TlsClient.connect(server.addresses[0], shelf.client()) as client,
    ):
        got = await client.read(MIB + 3)
        assert len(got) == MIB + 3
        assert got.endswith(b"end")


# -- back-pressure -------------------------------------------------------------------------------------


async def fill(conn: Connection, frame: bytes, count: int) -> int:
    """Send until the policy acts or all is sent; give how many were taken."""
    for sent in range(count):
        try:
            conn.send(frame)
        except (ConnectionClosed, gevpy.WriteBufferFull):
            return sent
        await asyncio.sleep(0)
    return count


@pytest.mark.parametrize("policy", ["close", "block", "drop_newest", "drop_oldest"])
async def test_a_slow_reader_is_bounded(shelf: Shelf, policy: Any) -> None:
    """C1 under TLS: each policy acts when more than the limit waits, and what waits is bounded."""
    limit = 256 * 1024
    limits = Limits(max_write_buffer_bytes=limit, slow_consumer=policy)
    async with secured(Recorder(), shelf, limits=limits) as (_, client, conn):
        frame = bytes(FRAME)
        await fill(conn, frame, 4096)
        assert conn.write_buffer_length <= limit + 17 * 1024
        if policy == "close":
            assert conn.close_reason is not None
            assert conn.close_reason.kind is CloseKind.SLOW_CONSUMER
        elif policy == "block":
            with pytest.raises(gevpy.WriteBufferFull):
                conn.send(frame)
        else:
            assert drops(conn)[policy] > 0
        del client


async def test_drain_waits_for_a_slow_reader(shelf: Shelf) -> None:
    """`drain` returns when the client has read, and all bytes come in order."""
    piece = bytes(range(256)) * 64
    async with secured(Recorder(), shelf) as (_, client, conn):

        async def push() -> None:
            for _ in range(512):
                conn.send(piece)
                await conn.drain()

        pushing = asyncio.ensure_future(push())
        await until(lambda: conn.congested)
        assert not pushing.done()
        for _ in range(512):
            assert await client.read(len(piece)) == piece
        await soon(pushing)


async def test_on_written_and_on_writable_under_tls(shelf: Shelf) -> None:
    """Output that waits for the client: its sender is told when it has left, once, and the handler at the low mark."""
    writable = asyncio.Event()
    handler = recording(on_writable=lambda _conn: writable.set())
    async with secured(handler, shelf, limits=Limits(max_write_buffer_bytes=64 * MIB)) as (_, client, conn):
        told: list[BaseException | None] = []
        for _ in range(16):
            conn.send(bytes(MIB), on_written=lambda _data, error: told.append(error))
        await turns(20)
        assert len(told) < 16
        assert len(await client.read(16 * MIB)) == 16 * MIB
        await soon(writable.wait())
        await until(lambda: len(told) == 16)
        assert not any(told)
        assert conn.write_buffer_length == 0


async def test_output_that_never_left_is_told_so(shelf: Shelf) -> None:
    """After abort every on_written comes, with ConnectionClosed where bytes had not left."""
    async with secured(Recorder(), shelf, limits=Limits(max_write_buffer_bytes=64 * MIB)) as (_, client, conn):
        told: list[BaseException | None] = []
        for _ in range(16):
            conn.send(bytes(MIB), on_written=lambda _data, error: told.append(error))
        await turns(5)
        conn.abort()
        await until(lambda: len(told) == 16)
        assert isinstance(told[-1], ConnectionClosed)
        with pytest.raises((ConnectionResetError, ssl.SSLError)):
            await client.read_to_end()


# -- ending --------------------------------------------------------------------------------------------


async def test_close_sends_everything_and_close_notify(shelf: Shelf) -> None:
    """C9 under TLS: 4 MiB and close(): the client gets all and the proper end."""

    def on_message(conn: Connection, ctx: Any, data: bytes) -> bytes:
        conn.send(bytes(4 * MIB))
        conn.close()
        return b"last"

    handler = recording(on_message=on_message)
    async with secured(handler, shelf, limits=Limits(max_write_buffer_bytes=8 * MIB)) as (_, client, _conn):
        await client.send(b"x")
        got = await client.read_to_end()
        assert len(got) == 4 * MIB + 4
        assert got.endswith(b"last")
        await client.plain.send(client.farewell())
        assert (await handler.reason()).kind is CloseKind.CLOSED_LOCALLY


async def test_close_with_input_unread_sends_everything(shelf: Shelf) -> None:
    """Input that nobody reads any more takes no reply from the peer: what was sent arrives whole."""
    handler = Recorder()
    async with secured(handler, shelf) as (_, client, conn):
        conn.pause_reading()
        await turns(3)
        await client.plain.flood(0)
        await client.plain.send(client.sealed(*[bytes(16 * 1024)] * 16))
        conn.send(bytes(MIB))
        await turns(3)
        conn.close()
        assert len(await client.read_to_end()) == MIB


async def test_close_while_the_peer_sends_on_delivers_everything(shelf: Shelf) -> None:
    """The peer goes on sending until it sees our end: it gets all that we sent before that."""
    handler = Recorder()
    async with secured(handler, shelf) as (_, client, conn):
        sealed = [client.sealed(bytes(16 * 1024)) for _ in range(512)]

        async def send_on() -> None:
            for piece in sealed:
                try:
                    await client.plain.send(piece)
                except (ConnectionError, TimeoutError):
                    return

        sending = asyncio.ensure_future(send_on())
        await handler.message()
        conn.send(bytes(MIB))
        conn.close()
        assert len(await client.read(MIB)) == MIB
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_the_peers_close_notify_ends_the_connection(shelf: Shelf) -> None:
    """It ends both sides, `half_close` or not, and no error is told of a proper end between frames."""
    for half_close in (False, True):
        handler = recording(on_message=echo)
        async with secured(handler, shelf, half_close=half_close, protocol=LineProtocol()) as (_, client, _conn):
            await client.send(b"one\n")
            assert await client.read(4) == b"one\n"
            await client.plain.send(client.farewell())
            reason = await handler.reason()
            assert reason.kind is CloseKind.PEER_CLOSED
            assert reason.error is None


async def test_an_end_inside_a_frame_is_told(shelf: Shelf) -> None:
    """close_notify inside a line: TruncatedFrame."""
    handler = recording(on_message=echo)
    async with secured(handler, shelf, protocol=LineProtocol()) as (_, client, _conn):
        await client.plain.send(client.sealed(b"half a li") + client.farewell())
        reason = await handler.reason()
        assert reason.kind is CloseKind.PEER_CLOSED
        assert isinstance(reason.error, gevpy.TruncatedFrame)


@pytest.mark.parametrize("count", [1, 10, 2500])
async def test_messages_right_before_close_notify_are_handled(shelf: Shelf, count: int) -> None:
    """C8 under TLS: whatever came whole before the peer's end is handled, be it in the same segment."""
    handler = Recorder()
    async with secured(handler, shelf, protocol=LineProtocol()) as (_, client, _conn):
        await client.plain.send(client.sealed(line_count(count)) + client.farewell())
        reason = await handler.reason()
        assert handler.messages.qsize() == count
        assert reason.kind is CloseKind.PEER_CLOSED
        assert reason.error is None


async def test_replies_in_flight_at_close_notify_arrive(shelf: Shelf) -> None:
    """A peer that ends its side right behind its request, and reads on: the reply of a plain handler is there."""
    handler = recording(on_message=echo)
    async with secured(handler, shelf, protocol=LineProtocol()) as (_, client, _conn):
        await client.plain.send(client.sealed(b"request\n") + client.farewell())
        got = 0
        while piece := await client.plain.recv():
            got += len(piece)
        assert got > len(b"request\n") + 16  # two session tickets were read before: a record of the reply is there


async def test_an_end_without_close_notify_is_the_peers(shelf: Shelf) -> None:
    """A bare FIN: the connection ends, and what one turn handles (uvloop gives it no more) was handled."""
    handler = Recorder()
    async with secured(handler, shelf, protocol=LineProtocol()) as (_, client, _conn):
        await client.plain.send(client.sealed(line_count(1000)))
        client.plain.shut()
        assert (await handler.reason()).kind is CloseKind.PEER_CLOSED
        assert handler.messages.qsize() == 1000


async def test_a_reset_is_the_peers(shelf: Shelf) -> None:
    """A reset under TLS is told as one."""
    handler = Recorder()
    async with secured(handler, shelf) as (_, client, _conn):
        client.plain.reset()
        assert (await handler.reason()).kind is CloseKind.PEER_RESET


async def test_garbage_inside_tls_ends_the_connection(shelf: Shelf) -> None:
    """A record that doesn't decrypt ends this connection only, and is no error of ours."""
    handler = Recorder()
    async with secured(handler, shelf) as (_, client, conn):
        await client.plain.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        reason = await handler.reason()
        assert reason.kind in (CloseKind.PEER_RESET, CloseKind.PEER_CLOSED)
        assert stats_of(conn).handler_errors == 0


async def test_one_side_alone_can_not_be_ended(shelf: Shelf) -> None:
    """shutdown_write under TLS raises; the connection lives on."""
    handler = recording(on_message=echo)
    async with secured(handler, shelf, half_close=True) as (_, client, conn):
        with pytest.raises(gevpy.GevError, match="one side"):
            conn.shutdown_write()
        await client.send(b"on")
        assert await client.read(2) == b"on"


async def test_abort_after_close_needs_no_patience(shelf: Shelf) -> None:
    """A peer that does not answer our close_notify: abort() ends the wait."""
    handler = Recorder()
    async with secured(handler, shelf, timeouts=Timeouts(tls_shutdown_s=60, drain_s=DRAIN_S)) as (_, client, conn):
        conn.close()
        assert await client.recv() == b""
        conn.abort()
        await handler.reason()


async def test_close_s_bounds_the_end_of_tls(shelf: Shelf) -> None:
    """C5: a peer that answers no close_notify is left at ``tls_shutdown_s`` or ``close_s``, whichever comes first."""
    for timeouts in (
        Timeouts(tls_shutdown_s=0.3, drain_s=DRAIN_S),
        Timeouts(tls_shutdown_s=60, close_s=0.3, drain_s=DRAIN_S),
    ):
        handler = Recorder()
        async with secured(handler, shelf, timeouts=timeouts) as (_, _client, conn):
            conn.close()
            assert (await handler.reason()).kind is CloseKind.CLOSED_LOCALLY


async def test_a_drain_does_not_wait_for_the_end_of_tls(shelf: Shelf) -> None:
    """A peer that answers no close_notify holds up the stop for the drain's time only, and on_close comes."""
    handler = Recorder()
    async with secured(handler, shelf, timeouts=Timeouts(tls_shutdown_s=60, drain_s=0.3)) as (server, _client, _conn):
        await soon(server.stop())
        assert handler.calls[-1] == "close"


async def knock(client: TlsClient) -> None:
    """Ask for a reply."""
    await client.send(b"let me in")
    await client.recv()


# -- who they are --------------------------------------------------------------------------------------


async def test_a_client_is_known_by_its_certificate(shelf: Shelf) -> None:
    """F3: with mutual TLS the certificate is there at on_connect, verified."""
    seen: list[Any] = []
    handler = recording(on_connect=lambda conn: seen.append(conn.peer_certificate), on_message=echo)
    async with (
        serving(handler, ssl=shelf.mutual) as server,
        await TlsClient.connect(server.addresses[0], shelf.client("good")) as client,
    ):
        await client.send(b"hello")
        assert await client.read(5) == b"hello"
        assert ("DNS", NAME) in seen[0]["subjectAltName"]


@pytest.mark.parametrize("kind", [None, "expired", "wrong_ca", "wrong_usage", "self_signed"])
async def test_a_client_with_a_bad_certificate_stays_out(shelf: Shelf, kind: str | None) -> None:
    """F3: none, expired, another authority's, one for servers, its own: no on_connect, no byte handled, one count."""
    handler = Recorder()
    async with serving(handler, ssl=shelf.mutual) as server:
        reactor = reactor_of(server)
        try:
            client = await TlsClient.connect(server.addresses[0], shelf.client(kind))
        except (ssl.SSLError, ConnectionError):
            pass
        else:  # TLS 1.3: the client has ended its handshake before the server has judged it
            async with client:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await knock(client)
        await until(lambda: not reactor._unfinished)
        assert handler.calls == []
        assert dict(reactor.stats.rejected) == {"handshake_failed": 1}
        assert reactor.admission.count == 0


# -- names ---------------------------------------------------------------------------------------------


async def test_the_certificate_is_chosen_by_name(shelf: Shelf) -> None:
    """SNI: another name, another certificate; None and unknown names get the server's own."""
    others: dict[str, TLS | ssl.SSLContext] = {
        "b.test": shelf.named("b.test"),
        "c.test": server_context(shelf.named("c.test")),
    }
    asked: list[str | None] = []

    def sni(name: str | None) -> TLS | ssl.SSLContext | None:
        asked.append(name)
        return others.get(name or "")

    tls = TLS(cert=shelf.cert, key=shelf.key, sni=sni)
    async with serving(recording(on_message=echo), ssl=tls) as server:
        for name in ("b.test", "c.test", NAME, "b.test"):
            async with await TlsClient.connect(server.addresses[0], shelf.client(), name) as client:
                await client.send(b"hello")
                assert await client.read(5) == b"hello"
                assert shown(client) == name
        context = shelf.client()
        context.check_hostname = False
        async with await TlsClient.connect(server.addresses[0], context, None) as client:
            assert shown(client) == NAME
        async with await TlsClient.connect(server.addresses[0], context, "B.Test") as client:
            assert shown(client) == "b.test"
    assert asked == ["b.test", "c.test", NAME, "b.test", None, "b.test"]


async def test_a_names_bad_file_keeps_its_old_certificate(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    """A reload reads the files of names, too; one that can't be used costs nobody a handshake, and is told."""
    named = shelf.named("b.test")
    tls = TLS(cert=shelf.cert, key=shelf.key, sni=lambda name: named if name == "b.test" else None)
    async with serving(recording(on_message=echo), ssl=tls) as server:
        for content in (None, b"no PEM"):
            if content is not None:
                shelf.folder.joinpath("b.test.pem").write_bytes(content)
                server.reload_tls()
            async with await TlsClient.connect(server.addresses[0], shelf.client(), "b.test") as client:
                assert shown(client) == "b.test"
    assert "for a name, its old certificate stays" in caplog.text


async def test_a_session_of_one_name_is_worth_nothing_under_another(shelf: Shelf) -> None:
    """Resuming brings the certificate of the first handshake along, which the second name's authority never saw."""
    named = shelf.named("b.test")
    other = shelf.folder / "other-ca.pem"
    other.write_bytes(authority("other").cert_pem.bytes())
    strict = TLS(cert=named.cert, ca=other)
    tls = TLS(cert=shelf.cert, key=shelf.key, ca=shelf.ca, sni=lambda name: strict if name == "b.test" else None)
    context = shelf.client("good")

    def visit(address: Any, name: str, session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None]:
        plain = socket.create_connection(address, 10)
        with plain, context.wrap_socket(plain, server_hostname=name, session=session) as sock:
            sock.sendall(b"hello")
            return sock.recv(5), sock.session

    async with serving(recording(on_message=echo), ssl=tls) as server:
        got, session = await asyncio.to_thread(visit, server.addresses[0], NAME, None)
        assert got == b"hello"
        with suppress(OSError):
            got, _ = await asyncio.to_thread(visit, server.addresses[0], "b.test", session)
            assert got == b""


@pytest.mark.parametrize("fault", ["raises", "no_file", "nonsense"])
async def test_a_choice_that_fails_refuses_the_handshake(
    shelf: Shelf, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An sni function that raises, or names what can't be used: this handshake fails, and it is logged."""

    def sni(name: str | None) -> Any:
        if name == NAME:
            return None
        if fault == "raises":
            raise LookupError(name)
        return TLS(cert="/nowhere") if fault == "no_file" else 7

    async with serving(recording(on_message=echo), ssl=TLS(cert=shelf.cert, key=shelf.key, sni=sni)) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await TlsClient.connect(server.addresses[0], shelf.client(), "b.test")
        async with await TlsClient.connect(server.addresses[0], shelf.client()) as client:
            await client.send(b"hello")
            assert await client.read(5) == b"hello"
    assert "the sni function failed" in caplog.text


@pytest.mark.parametrize("first", ["open", "mutual"])
async def test_a_name_can_not_loosen_or_lose_mutual_tls(shelf: Shelf, first: str) -> None:
    """A name that demands client certificates does so, though the server's own TLS doesn't; and the other way."""
    named = shelf.named("b.test")
    strict = TLS(cert=named.cert, ca=shelf.ca)
    if first == "open":
        tls = TLS(cert=shelf.cert, key=shelf.key, sni=lambda name: strict if name == "b.test" else None)
    else:
        tls = TLS(cert=shelf.cert, key=shelf.key, ca=shelf.ca, sni=lambda name: named if name == "b.test" else None)
    handler = recording(on_message=echo)
    async with serving(handler, ssl=tls) as server:
        try:
            client = await TlsClient.connect(server.addresses[0], shelf.client(), "b.test")
        except (ssl.SSLError, ConnectionError):
            pass
        else:  # TLS 1.3: the client has ended its handshake before the server has judged it
            async with client:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await knock(client)
        await until(lambda: not reactor_of(server)._unfinished)
    assert handler.calls == []


async def test_each_name_has_authorities_of_its_own(shelf: Shelf) -> None:
    """Where all names ask for certificates, each takes those of its own authority, and no other's."""
    named = shelf.named("b.test")
    other = shelf.folder / "other-ca.pem"
    other.write_bytes(authority("other").cert_pem.bytes())
    strict = TLS(cert=named.cert, ca=other)
    tls = TLS(cert=shelf.cert, key=shelf.key, ca=shelf.ca, sni=lambda name: strict if name == "b.test" else None)
    async with serving(recording(on_message=echo), ssl=tls) as server:
        for name, kind, is_let_in in (
            ("b.test", "wrong_ca", True),
            ("b.test", "good", False),
            (NAME, "good", True),
            (NAME, "wrong_ca", False),
        ):
            got = b""
            with suppress(ssl.SSLError, ConnectionError):
                async with await TlsClient.connect(server.addresses[0], shelf.client(kind), name) as client:
                    await client.send(b"hello")
                    got = await client.read(5)
            assert got == (b"hello" if is_let_in else b"")


# -- reload --------------------------------------------------------------------------------------------


def shown(client: TlsClient) -> str:
    """Give the name in the certificate that the server showed."""
    certificate = client.session.getpeercert()
    assert certificate is not None
    names: Any = certificate["subjectAltName"]
    return str(names[0][1])


@pytest.mark.parametrize("by", ["call", "signal"])
async def test_new_handshakes_use_the_new_certificate(shelf: Shelf, by: str) -> None:
    """F4: after `reload_tls` or SIGHUP; old connections live on."""
    context = shelf.client()
    context.check_hostname = False
    async with serving(recording(on_message=echo), ssl=shelf.tls) as server:
        serving_on = asyncio.ensure_future(server.serve_forever())
        await turns(2)
        async with await TlsClient.connect(server.addresses[0], context) as old:
            shelf.put("new.test")
            async with await TlsClient.connect(server.addresses[0], context) as between:
                assert shown(between) == NAME
            if by == "call":
                server.reload_tls()
            else:
                before = reactor_of(server).tls.context  # type: ignore[union-attr]
                os.kill(os.getpid(), signal.SIGHUP)
                await until(lambda: reactor_of(server).tls.context is not before)  # type: ignore[union-attr]
            async with await TlsClient.connect(server.addresses[0], context) as new:
                assert shown(new) == "new.test"
            await old.send(b"still here")
            assert await old.read(10) == b"still here"
            assert shown(old) == NAME
        await server.stop()
        await serving_on


@pytest.mark.parametrize("fault", ["garbage", "missing"])
async def test_a_bad_file_keeps_the_old_certificate(shelf: Shelf, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """F4: the files can't be used: the old ones stay in use, and the log says why."""
    async with serving(recording(on_message=echo), ssl=shelf.tls) as server:
        if fault == "garbage":
            shelf.cert.write_bytes(b"no PEM")
        else:
            shelf.key.unlink()
        with caplog.at_level(logging.ERROR):
            server.reload_tls()
        assert "the old certificate stays" in caplog.text
        async with await TlsClient.connect(server.addresses[0], shelf.client()) as client:
            assert shown(client) == NAME
        shelf.put(NAME)
        server.reload_tls()
        async with await TlsClient.connect(server.addresses[0], shelf.client()) as client:
            assert shown(client) == NAME


async def test_reload_without_tls_is_nothing() -> None:
    """A server in the clear has nothing to read again."""
    async with serving(recording(on_message=echo)) as server:
        server.reload_tls()
        async with await Client.connect(server.addresses[0]) as client:
            await client.send(b"x")
            assert await client.read(1) == b"x"
