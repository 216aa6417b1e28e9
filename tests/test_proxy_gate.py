"""Behind a load balancer: who is believed, whose connection it is, and what becomes of headers that don't come."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import ConfigError, Limits, LineProtocol, Timeouts
from gevpy.proxy_gate import ProxyGate, TrustedProxies
from tests.certificates import Shelf, TlsClient
from tests.serving import (
    DEADLINE_S,
    DRAIN_S,
    Client,
    Recorder,
    reactor_of,
    recording,
    serving,
    short_path,
    soon,
    turns,
    until,
)
from tests.test_proxy_header import BAD, GOOD, V1, tcp4, v2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gevpy import Connection

LOOPBACK = ["127.0.0.0/8"]
CLIENT = "192.0.2.7:40000"


def who(conn: Connection, ctx: Any, data: bytes) -> bytes:
    """Answer with whom the server takes the client for."""
    return b"%s %s" % (conn.peer_addr.encode(), data)


@asynccontextmanager
async def balanced(handler: Recorder, **options: Any) -> AsyncIterator[gevpy.Server]:
    """Serve lines behind a balancer on loopback; nobody must be left behind."""
    options.setdefault("trusted_proxies", LOOPBACK)
    options.setdefault("protocol", LineProtocol())
    options.setdefault("timeouts", Timeouts(proxy_header_s=60, drain_s=DRAIN_S))  # what ends, ends for another cause
    async with serving(handler, **options) as server:
        reactor = reactor_of(server)
        yield server
        await until(lambda: not reactor.pending and not reactor._unfinished and not reactor.admission.count)
    assert handler.calls.count("close") == handler.calls.count("connect")


def rejected(server: gevpy.Server) -> dict[str, int]:
    """Give how many were refused, by reason."""
    return {str(reason): count for reason, count in reactor_of(server).stats.rejected.items()}


# -- whom to believe -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "is_trusted"),
    [
        (("10.1.2.3", 1), True),
        (("11.1.2.3", 1), False),
        (("192.0.2.1", 1), True),
        (("192.0.2.2", 1), False),
        (("::ffff:10.1.2.3", 1, 0, 0), True),
        (("::ffff:11.1.2.3", 1, 0, 0), False),
        (("2001:db8::1", 1, 0, 0), True),
        (("2001:db9::1", 1, 0, 0), False),
        (("fe80::1%eth0", 1, 0, 2), True),
        ("", True),
        ("/run/balancer", True),
        (b"\x00abstract", True),
        (None, False),
    ],
)
def test_who_is_trusted(address: Any, *, is_trusted: bool) -> None:
    """Networks, single addresses, mapped and scoped ones, Unix sockets; never a peer of whom nothing is known."""
    proxies = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "fe80::/10"])
    assert proxies.trust(address) is is_trusted


@pytest.mark.parametrize("network", ["localhost", "10.0.0.1/8", "300.0.0.0/8", ""])
def test_what_is_no_network_is_refused(network: str) -> None:
    """Names, host bits, nonsense: told when the server is made."""
    with pytest.raises(ConfigError, match="trusted_proxies"):
        gevpy.serve(Recorder(), trusted_proxies=[network])


# -- the header ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
async def test_the_real_client_is_known(name: str) -> None:
    """F1: peer_addr is what the header says, or the balancer's where it says nothing; what follows is the client's."""
    wire, source = GOOD[name]
    handler = recording(on_message=who)
    async with balanced(handler) as server, await Client.connect(server.addresses[0]) as client:
        await client.send(wire + b"hello\n")
        conn = await handler.conn()
        if source is None:
            assert conn.peer_addr == client.address
        else:
            assert conn.peer_addr == (f"[{source[0]}]" if ":" in source[0] else source[0]) + f":{source[1]}"
        reply = conn.peer_addr.encode() + b" hello\n"
        assert await client.read(len(reply)) == reply
    assert rejected(server) == {}


@pytest.mark.parametrize("name", ["v1 tcp4", "v2 nested tlv"])
async def test_a_header_may_come_byte_by_byte(name: str) -> None:
    """F1: each byte in a segment of its own, as long as it comes within the time."""
    wire, _ = GOOD[name]
    async with balanced(recording(on_message=who)) as server, await Client.connect(server.addresses[0]) as client:
        for byte in wire[:300]:
            await client.send(bytes([byte]))
            await turns(1)
        await client.send(wire[300:] + b"hello\n")
        assert await client.read(len(CLIENT) + 7) == CLIENT.encode() + b" hello\n"


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_header_is_reset(name: str) -> None:
    """F1: no on_connect, no byte handled, one count."""
    handler = Recorder()
    async with balanced(handler) as server, await Client.connect(server.addresses[0]) as client:
        await client.send(BAD[name] + b"hello\n" * 50)
        await client.until_gone()
        await until(lambda: rejected(server) == {"handshake_failed": 1})
    assert handler.calls == []


async def test_a_second_header_is_the_clients() -> None:
    """Only the first is the balancer's: a client can not send one of its own."""
    async with balanced(recording(on_message=who)) as server, await Client.connect(server.addresses[0]) as client:
        await client.send(V1 + b"PROXY TCP4 6.6.6.6 1.1.1.1 1 2\r\n")
        assert (await client.recv()).startswith(CLIENT.encode() + b" PROXY TCP4 6.6.6.6")


async def test_an_untrusted_peer_is_reset() -> None:
    """F1: whoever is not listed gets nothing, with a header or without."""
    handler = Recorder()
    async with balanced(handler, trusted_proxies=["192.0.2.0/24"]) as server:
        for data in (V1 + b"hello\n", b"hello\n"):
            with suppress(ConnectionError):  # the reset may come before the connect has ended
                async with await Client.connect(server.addresses[0]) as client:
                    await client.send(data)
                    await client.until_gone()
        await until(lambda: rejected(server) == {"handshake_failed": 2})
    assert handler.calls == []


async def test_without_proxies_a_header_is_data() -> None:
    """Off by default: nobody's header is looked at."""
    handler = recording(on_message=who)
    async with (
        serving(handler, protocol=LineProtocol()) as server,
        await Client.connect(server.addresses[0]) as client,
    ):
        await client.send(V1)
        assert (await client.recv()).startswith(client.address.encode() + b" PROXY")


async def test_a_header_that_never_comes_is_given_up() -> None:
    """``proxy_header_s`` from accept on, however many bytes have trickled in."""
    handler = Recorder()
    timeouts = Timeouts(proxy_header_s=0.3, drain_s=DRAIN_S)
    async with (
        balanced(handler, timeouts=timeouts) as server,
        await Client.connect(server.addresses[0]) as silent,
        await Client.connect(server.addresses[0]) as slow,
    ):
        started = asyncio.get_running_loop().time()
        await slow.send(V1[:20])
        await silent.until_gone()
        await slow.until_gone()
        assert asyncio.get_running_loop().time() - started >= 0.29
        await until(lambda: rejected(server) == {"handshake_failed": 2})
    assert handler.calls == []


@pytest.mark.parametrize("sent", [b"", V1[:10], v2(body=tcp4())[:14]])
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_peer_that_goes_in_the_header_is_let_go(sent: bytes, how: str) -> None:
    """An end or a reset before the header is whole; uvloop may not tell of a reset, then the time does."""
    handler = Recorder()
    timeouts = Timeouts(proxy_header_s=0.5, drain_s=DRAIN_S)
    async with balanced(handler, timeouts=timeouts) as server, await Client.connect(server.addresses[0]) as client:
        await until(lambda: reactor_of(server).pending or rejected(server))
        if sent:
            await client.send(sent)
        if how == "end":
            client.shut()
            await client.until_gone()
        else:
            client.reset()
        await until(lambda: rejected(server) == {"handshake_failed": 1})
    assert handler.calls == []


async def test_a_peer_that_goes_right_behind_the_header_has_its_say() -> None:
    """Header, message and FIN in one: handled and answered."""
    handler = recording(on_message=who)
    async with balanced(handler) as server, await Client.connect(server.addresses[0]) as client:
        await client.send(V1 + b"hello\n")
        client.shut()
        assert await client.read_to_end() == CLIENT.encode() + b" hello\n"


async def test_peers_on_a_unix_socket_are_believed() -> None:
    """Who may connect there is local."""
    with short_path() as path:
        async with (
            gevpy.serve(recording(on_message=who), path=path, protocol=LineProtocol(), trusted_proxies=[]),
            await Client.connect(str(path)) as client,
        ):
            await client.send(V1 + b"hello\n")
            assert await client.read(len(CLIENT) + 7) == CLIENT.encode() + b" hello\n"


# -- with TLS behind it --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v1 tcp4", "v2 tcp4"])
async def test_tls_follows_the_header(tmp_path: Path, name: str) -> None:
    """The header in the clear, then the handshake, its first bytes in the same segment as the header's last."""
    shelf = Shelf(tmp_path)
    handler = recording(on_message=who)
    async with balanced(handler, ssl=shelf.tls) as server, await Client.connect(server.addresses[0]) as plain:
        client = TlsClient(plain, shelf.client())
        with pytest.raises(ssl.SSLWantReadError):
            client.session.do_handshake()
        await plain.send(GOOD[name][0] + client.finished())
        await client.handshake()
        await client.send(b"hello\n")
        assert await client.read(len(CLIENT) + 7) == CLIENT.encode() + b" hello\n"


async def test_a_header_inside_tls_is_refused(tmp_path: Path) -> None:
    """A balancer that begins with TLS where a header is due."""
    shelf = Shelf(tmp_path)
    handler = Recorder()
    async with balanced(handler, ssl=shelf.tls) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await TlsClient.connect(server.addresses[0], shelf.client())
        await until(lambda: rejected(server) == {"handshake_failed": 1})
    assert handler.calls == []


async def test_a_handshake_that_fails_behind_a_header_counts_once(tmp_path: Path) -> None:
    """Good header, then garbage for a ClientHello."""
    shelf = Shelf(tmp_path)
    handler = Recorder()
    limits = Limits(max_connections_per_ip=1)
    async with balanced(handler, ssl=shelf.tls, limits=limits) as server:
        for count in (1, 2, 3):
            async with await Client.connect(server.addresses[0]) as client:
                await client.send(V1 + b"no ClientHello at all\n" * 10)
                await client.until_gone()
            await until(lambda: not reactor_of(server).admission.count)
            assert rejected(server) == {"handshake_failed": count}
    assert handler.calls == []


# -- limits --------------------------------------------------------------------------------------------


async def test_the_limit_per_address_counts_the_real_client() -> None:
    """Two of one client are in, the third is not; another client of the same balancer is."""
    handler = recording(on_message=who)
    async with balanced(handler, limits=Limits(max_connections_per_ip=2)) as server:
        clients = [await Client.connect(server.addresses[0]) for _ in range(5)]
        for client in clients[:3]:
            await client.send(V1 + b"hello\n")
            if client is not clients[2]:
                assert await client.read(len(CLIENT) + 7) == CLIENT.encode() + b" hello\n"
        await clients[2].until_gone()
        assert rejected(server) == {"max_connections_per_ip": 1}
        await clients[3].send(v2(body=tcp4("192.0.2.8")) + b"hello\n")
        assert await clients[3].read(5) == b"192.0"
        clients[0].close()
        await handler.reason()
        await clients[4].send(V1 + b"hello\n")
        assert await clients[4].read(len(CLIENT) + 7) == CLIENT.encode() + b" hello\n"
        for client in clients:
            client.close()


async def test_those_who_wait_for_a_header_count_as_connections() -> None:
    """F1 and B2: peers that send no header can't be more than ``max_connections``."""
    handler = Recorder()
    async with balanced(handler, limits=Limits(max_connections=3)) as server:
        clients = [await Client.connect(server.addresses[0]) for _ in range(3)]
        await until(lambda: len(reactor_of(server).pending) == 3)
        with suppress(ConnectionError):  # the reset may come before the connect has ended
            async with await Client.connect(server.addresses[0]) as fourth:
                await fourth.until_gone()
        await until(lambda: rejected(server) == {"max_connections": 1})
        for client in clients:
            client.close()


# -- the end -------------------------------------------------------------------------------------------


async def test_a_drain_waits_for_no_header() -> None:
    """Pending headers are given up when the server stops, at once."""
    handler = Recorder()
    async with balanced(handler, timeouts=Timeouts(proxy_header_s=60, drain_s=60)) as server:
        clients = [await Client.connect(server.addresses[0]) for _ in range(5)]
        await clients[0].send(V1[:10])
        await until(lambda: len(reactor_of(server).pending) == 5)
        await soon(server.stop())
        for client in clients:
            await client.until_gone()
            client.close()
    assert handler.calls == []


async def test_a_drain_waits_for_no_handshake(tmp_path: Path) -> None:
    """Pending TLS handshakes, with and without a header before them, are given up when the server stops, at once."""
    shelf = Shelf(tmp_path)
    for options in ({}, {"trusted_proxies": LOOPBACK}):
        handler = Recorder()
        timeouts = Timeouts(handshake_s=60, drain_s=60)
        async with serving(handler, ssl=shelf.tls, timeouts=timeouts, **options) as server:
            reactor = reactor_of(server)
            clients = [await Client.connect(server.addresses[0]) for _ in range(5)]
            for client in clients:
                if options:
                    await client.send(V1)
            await clients[0].send(b"\x16\x03\x01\x02\x00")
            async with asyncio.timeout(DEADLINE_S):
                while reactor._unfinished < 5:
                    await turns(1)
            await turns(5)
            await soon(server.stop())
            assert not reactor.pending
            for client in clients:
                await client.until_gone()
                client.close()
        assert handler.calls == []


async def test_a_scope_in_a_header_is_no_way_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """F8: what a header says is written escaped, or not at all."""
    async with balanced(Recorder()) as server:
        for wire in (BAD["an escape in a scope"], b"PROXY TCP4 \x1b[31m\x07 1.1.1.1 1 2\r\n"):
            async with await Client.connect(server.addresses[0]) as client:
                await client.send(wire)
                await client.until_gone()
        await until(lambda: rejected(server) == {"handshake_failed": 2})
    assert "\x1b" not in caplog.text
    assert "\x07" not in caplog.text


def test_a_socket_is_not_read_beyond_the_header() -> None:
    """The gate takes the header's bytes off the socket, and leaves the next one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        loop = asyncio.new_event_loop()
        try:
            known: list[Any] = []
            failed: list[Exception] = []
            ProxyGate(loop, ours, 3.0, known.append, failed.append)
            theirs.sendall(V1 + b"next")
            while not known:
                loop.run_until_complete(asyncio.sleep(0))
            assert known == [("192.0.2.7", 40000)]
            assert failed == []
            assert ours.recv(100) == b"next"
        finally:
            loop.close()
