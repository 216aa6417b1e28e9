"""The metrics port over real sockets: what it answers and refuses, and that no client can harm the server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import socket
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

import gevpy
from gevpy.errors import BindError, ConfigError
from gevpy.metrics import endpoint as module
from gevpy.metrics import refresh
from gevpy.metrics.endpoint import MetricsEndpoint
from tests.metrics.scraping import (
    Answer,
    Echo,
    HeldSource,
    connect,
    connect_to,
    endpoint_of,
    exchange,
    fetch,
    hang_up,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gevpy.connection import Connection
    from gevpy.server import Server
    from tests.metrics.scraping import Streams


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server with a metrics port."""
    async with asyncio.timeout(20), gevpy.serve(Echo(), port=0, metrics="127.0.0.1:0") as running:
        yield running


@pytest.fixture
def address(server: Server) -> str:
    """Where its metrics are."""
    return endpoint_of(server).address


async def sample(address: str, name: str) -> float:
    """Scrape one sample without labels."""
    answer = await fetch(address, "/metrics")
    (found,) = (each.value for family in parse(answer.text) for each in family.samples if each.name == name)
    return found


async def echo_works(server: Server) -> None:
    """Check that the server itself is well."""
    client = await connect_to(server)
    client[1].write(b"still there?")
    assert await client[0].readexactly(12) == b"still there?"
    await hang_up(client)


# -- what it answers -----------------------------------------------------------------------------------------------


async def test_metrics_are_live(server: Server, address: str) -> None:
    """A scrape shows what clients did a moment before, in the format that every scraper reads."""
    assert await sample(address, "gevpy_received_messages_total") == 0
    await echo_works(server)
    assert await sample(address, "gevpy_received_messages_total") == 1
    assert await sample(address, "gevpy_received_bytes_total") == 12
    answer = await fetch(address, "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert answer.headers["connection"] == "close"


async def test_openmetrics_is_given_to_who_accepts_it(address: str) -> None:
    """The Accept header chooses the format; the answer parses as what it says it is."""
    answer = await fetch(address, "/metrics?x=1", "Accept: application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = parse_openmetrics(answer.text)  # type: ignore[no-untyped-call]  # that module has no annotations
    names = {family.name for family in families}
    assert {"gevpy", "gevpy_connections", "gevpy_connections_closed", "gevpy_handler_seconds"} <= names


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/html",
        "application/openmetrics-text; version=x.y",
        "text/plain; version=",
        "text/plain; version=9.9.9; escaping=nonsense",
        "application/openmetrics-text; version=99; escaping==;=",
        "application/openmetrics-text; version=2.x",
        "application/openmetrics-text; version=1.0.0.\xe9",
        "text/plain; version=1.0.0; escaping=allow-utf-8",
        ",;,=",
    ],
)
async def test_an_odd_accept_header_gets_metrics(address: str, accept: str) -> None:
    """Whatever it says, a scrape succeeds, and the answer's head is one clean line per field."""
    client = await connect(address)
    client[1].write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: " + accept.encode("latin-1") + b"\r\n\r\n")
    answer = Answer(await client[0].read())
    assert answer.status == 200
    assert "gevpy_info" in answer.text
    await hang_up(client)


async def test_a_counter_of_the_application_is_shown(address: str) -> None:
    """Metrics in the global registry appear beside gevpy's."""
    mine = Counter("shop_orders", "Orders taken.")
    try:
        mine.inc(3)
        assert await sample(address, "shop_orders_total") == 3
    finally:
        REGISTRY.unregister(mine)


async def test_two_servers_show_their_own_counters(server: Server, address: str) -> None:
    """Each port shows its server, and a new server begins at 0."""
    await echo_works(server)
    async with gevpy.serve(Echo(), port=0, metrics="127.0.0.1:0") as other:
        assert await sample(endpoint_of(other).address, "gevpy_connections_opened_total") == 0
        assert await sample(address, "gevpy_connections_opened_total") == 1


async def test_health_is_one_word(address: str) -> None:
    """``/healthz`` says ok."""
    answer = await fetch(address, "/healthz")
    assert (answer.status, answer.text) == (200, "ok")


@pytest.mark.parametrize("path", ["/", "/metrics", "/stats.json", "/healthz", "/readyz", "/nowhere"])
async def test_head_is_get_without_the_body(address: str, path: str) -> None:
    """HEAD has the status and fields of GET, the length included, and no body."""
    full = await fetch(address, path)
    head = await fetch(address, path, method="HEAD")
    assert head.status == full.status
    assert set(head.headers) == set(full.headers)
    assert int(head.headers["content-length"]) > 0
    assert head.body == b""


async def test_an_unknown_path_gets_a_hint(address: str) -> None:
    """404, with the paths that there are."""
    answer = await fetch(address, "/nowhere")
    assert answer.status == 404
    assert all(f"{path}," in answer.text for path in ("/", "/metrics", "/stats.json"))
    assert all(path in answer.text for path in ("/healthz", "/readyz"))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
async def test_other_methods_are_refused(address: str, method: str) -> None:
    """405, with what is allowed, and a body that came along is no trouble."""
    answer = await fetch(address, "/metrics", "Content-Length: 4\r\n\r\nbody", method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


async def test_http_1_0_is_answered(address: str) -> None:
    """A probe that speaks HTTP/1.0 and sends no Host is served: browsers, which could be misled, always send one."""
    answer = await exchange(address, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert answer.status == 200


async def test_a_client_that_half_closes_is_answered(address: str) -> None:
    """A request followed by EOF gets the whole answer."""
    client = await connect(address)
    client[1].write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    client[1].write_eof()
    answer = Answer(await client[0].read())
    assert len(answer.body) == int(answer.headers["content-length"])
    await hang_up(client)


async def test_a_request_in_single_bytes_is_answered(address: str) -> None:
    """However the bytes come, the head is the same."""
    client = await connect(address)
    client[1].get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n":
        client[1].write(bytes([byte]))
        await asyncio.sleep(0)
    assert Answer(await client[0].read()).status == 200
    await hang_up(client)


# -- ready or not --------------------------------------------------------------------------------------------------


async def test_it_is_not_ready_before_on_start_has_ended() -> None:
    """While ``on_start`` runs ``/readyz`` says no and ``/healthz`` yes; then it says yes."""
    seen: list[int] = []

    class Slow(Echo):
        async def on_start(self, worker: object) -> None:
            address = endpoint_of(serving).address
            seen.append((await fetch(address, "/readyz")).status)
            seen.append((await fetch(address, "/healthz")).status)

    options = gevpy.serve(Slow(), port=0, metrics="127.0.0.1:0")
    serving = gevpy.server.Server(options._handler, options._options)
    async with asyncio.timeout(10):
        await serving.start()
        assert seen == [503, 200]
        assert (await fetch(endpoint_of(serving).address, "/readyz")).text == "ready"
        await serving.stop()


async def test_it_is_not_ready_while_it_drains() -> None:
    """During the drain ``/readyz`` says no, and metrics are still to be had; after the stop nobody listens."""
    draining, go_on = asyncio.Event(), asyncio.Event()

    class Busy(Echo):
        async def on_drain(self, conn: Connection) -> None:
            draining.set()
            await go_on.wait()

    async with asyncio.timeout(10), gevpy.serve(Busy(), port=0, metrics="127.0.0.1:0") as server:
        address = endpoint_of(server).address
        client = await connect_to(server)
        client[1].write(b"hello")
        await client[0].readexactly(5)
        stopping = asyncio.create_task(server.stop())
        await draining.wait()
        answer = await fetch(address, "/readyz")
        assert (answer.status, answer.text) == (503, "not ready")
        assert await sample(address, "gevpy_connections_opened_total") == 1
        go_on.set()
        await stopping
        with pytest.raises(ConnectionRefusedError):
            await connect(address)
        await hang_up(client)


# -- fresh numbers -------------------------------------------------------------------------------------------------


@pytest.fixture
async def held() -> AsyncIterator[tuple[HeldSource, MetricsEndpoint]]:
    """A metrics port whose numbers take as long as the test wants."""
    source = HeldSource()
    async with asyncio.timeout(20):
        endpoint = await MetricsEndpoint.start("127.0.0.1:0", source)
        yield source, endpoint
        await endpoint.stop()


def request(path: str, end: str = "\r\n\r\n") -> bytes:
    """Write a request for ``path``."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost{end}".encode()


async def ask(endpoint: MetricsEndpoint, path: str) -> Streams:
    """Send a request for ``path``, and give the connection; it is asked by the time this returns."""
    client = await connect(endpoint.address)
    client[1].write(request(path))
    while not any(each._late_answer for each in endpoint._served):  # noqa: ASYNC110 - state, which signals no event
        await asyncio.sleep(0)
    return client


def shown(answer: Answer) -> float:
    """Give the one number of a `HeldSource`, from either document."""
    if answer.headers["content-type"] == "application/json":
        return float(json.loads(answer.text)["refreshes"])
    (found,) = (each.value for family in parse(answer.text) for each in family.samples if each.name == "refreshes")
    return found


@pytest.mark.parametrize("path", ["/metrics", "/stats.json"])
async def test_an_answer_waits_for_fresh_numbers(held: tuple[HeldSource, MetricsEndpoint], path: str) -> None:
    """What is shown is what the refresh has brought; the next request asks anew."""
    source, endpoint = held
    client = await ask(endpoint, path)
    await source.asked.wait()
    source.go_on.set()
    answer = Answer(await client[0].read())
    assert (answer.status, shown(answer)) == (200, 1)
    assert shown(await fetch(endpoint.address, path)) == 2
    await hang_up(client)


async def test_who_asks_together_shares_one_refresh(held: tuple[HeldSource, MetricsEndpoint]) -> None:
    """Eight clients, either document: one refresh for all."""
    source, endpoint = held
    clients = [await ask(endpoint, path) for path in ("/metrics", "/stats.json") * 4]
    while sum(each._late_answer is not None for each in endpoint._served) < 8:  # noqa: ASYNC110 - the same
        await asyncio.sleep(0)
    source.go_on.set()
    assert [shown(Answer(await client[0].read())) for client in clients] == [1] * 8
    assert source.refreshes == 1
    for client in clients:
        await hang_up(client)


async def test_health_and_the_page_wait_for_nothing(held: tuple[HeldSource, MetricsEndpoint]) -> None:
    """While a refresh goes on, and goes on, all that needs no numbers is answered; nor is a refresh begun for it."""
    source, endpoint = held
    endpoint.ready = True
    paths = ("/healthz", "/readyz", "/", "/static/page.js", "/nowhere")
    expected = [200, 200, 200, 200, 404]
    assert [(await fetch(endpoint.address, path)).status for path in paths] == expected
    assert (await fetch(endpoint.address, "/metrics", method="POST")).status == 405
    assert (await fetch(endpoint.address, "/metrics", host="evil.example")).status == 403
    assert source.refreshes == 0
    client = await ask(endpoint, "/metrics")
    assert [(await fetch(endpoint.address, path)).status for path in paths] == expected
    assert source.refreshes == 1
    await hang_up(client)


async def test_a_refresh_that_fails_leaves_the_last_numbers(
    held: tuple[HeldSource, MetricsEndpoint], caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is 200 with what was there before, and the log has the reason, once for many requests."""
    source, endpoint = held
    source.go_on.set()
    assert shown(await fetch(endpoint.address, "/metrics")) == 1
    source.failure = RuntimeError("no worker answers")
    for _ in range(3):
        assert shown(await fetch(endpoint.address, "/metrics")) == 1
    (record,) = (each for each in caplog.records if each.name == "gevpy.metrics")
    assert "showing the last ones" in record.getMessage()
    assert record.exc_info
    source.failure = None
    assert shown(await fetch(endpoint.address, "/stats.json")) == 2


async def test_a_refresh_that_is_late_leaves_the_last_numbers(
    held: tuple[HeldSource, MetricsEndpoint], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is given up, the answer comes all the same, and the log says so without a traceback."""
    monkeypatch.setattr(refresh, "PATIENCE_S", 0.05)
    source, endpoint = held
    assert shown(await fetch(endpoint.address, "/metrics")) == 0
    assert endpoint.refresher._task is None
    (record,) = (each for each in caplog.records if each.name == "gevpy.metrics")
    assert "no fresh metrics within 0.05 s" in record.getMessage()
    assert not record.exc_info
    monkeypatch.setattr(refresh, "PATIENCE_S", 60)
    source.go_on.set()
    assert shown(await fetch(endpoint.address, "/metrics")) == 1


async def test_at_the_deadline_the_last_numbers_will_do(
    held: tuple[HeldSource, MetricsEndpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The five seconds hold whatever a refresh does: then the answer is what there is."""
    monkeypatch.setattr(module, "DEADLINE_S", 0.5)
    monkeypatch.setattr(refresh, "PATIENCE_S", 60)
    _, endpoint = held
    answer = await fetch(endpoint.address, "/metrics")
    assert (answer.status, shown(answer)) == (200, 0)


async def test_who_half_closes_before_the_refresh_is_answered(
    held: tuple[HeldSource, MetricsEndpoint],
) -> None:
    """The end of the client's stream is no end of its patience; the connection is closed after the answer."""
    source, endpoint = held
    client = await ask(endpoint, "/metrics")
    (waiting,) = endpoint._served
    client[1].write_eof()
    while not waiting._at_eof:  # noqa: ASYNC110 - state, which signals no event
        await asyncio.sleep(0)
    source.go_on.set()
    assert shown(Answer(await client[0].read())) == 1
    await waiting._gone
    await hang_up(client)


async def test_who_leaves_before_the_refresh_leaves_nothing(
    held: tuple[HeldSource, MetricsEndpoint], caplog: pytest.LogCaptureFixture
) -> None:
    """A client that resets while it waits is let go at once; the refresh ends for nobody."""
    source, endpoint = held
    client = await ask(endpoint, "/metrics")
    (waiting,) = endpoint._served
    sock = client[1].get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    await hang_up(client)
    await waiting._gone
    assert endpoint._served == set()
    assert endpoint.refresher._waiting == {}
    source.go_on.set()
    assert shown(await fetch(endpoint.address, "/metrics")) >= 1
    assert caplog.records == []


async def test_who_talks_on_before_the_refresh_is_cut(held: tuple[HeldSource, MetricsEndpoint]) -> None:
    """A second request while the first waits is thrown away, and so is more of it, up to the bound."""
    source, endpoint = held
    client = await ask(endpoint, "/metrics")
    client[1].write(request("/metrics"))
    source.go_on.set()
    assert (await client[0].read()).count(b"HTTP/1.1") == 1
    await hang_up(client)
    source.go_on.clear()
    client = await ask(endpoint, "/metrics")
    (waiting,) = (each for each in endpoint._served if not each._answered)
    client[1].write(bytes(128 * 1024))
    await waiting._gone
    await hang_up(client)


async def test_stop_ends_a_refresh_and_who_waits_for_it(held: tuple[HeldSource, MetricsEndpoint]) -> None:
    """Nobody is answered any more, and no task is left."""
    source, endpoint = held
    tasks = asyncio.all_tasks()
    client = await ask(endpoint, "/metrics")
    await source.asked.wait()
    await endpoint.stop()
    assert asyncio.all_tasks() <= tasks
    with contextlib.suppress(ConnectionError):
        assert await client[0].read() == b""
    await hang_up(client)


async def test_numbers_that_cannot_be_written_get_500(
    held: tuple[HeldSource, MetricsEndpoint], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A document that JSON has no words for is an error of ours: the client gets a status, the log the reason."""
    source, endpoint = held
    source.go_on.set()
    monkeypatch.setattr(source, "stats", lambda: {"lag_s": float("nan")})
    assert (await fetch(endpoint.address, "/stats.json")).status == 500
    assert [each.name for each in caplog.records] == ["gevpy.metrics"]
    assert (await fetch(endpoint.address, "/metrics")).status == 200


async def test_a_fault_after_the_refresh_ends_one_connection(
    held: tuple[HeldSource, MetricsEndpoint], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Should a late answer fail, its connection is cut and logged; the others who waited with it are answered."""
    source, endpoint = held

    def fail() -> None:
        raise RuntimeError("a fault")

    broken = await ask(endpoint, "/metrics")
    (first,) = endpoint._served
    monkeypatch.setattr(first, "_late_answer", fail)
    whole = await connect(endpoint.address)
    whole[1].write(request("/metrics"))
    while sum(each._late_answer is not None for each in endpoint._served) < 2:  # noqa: ASYNC110 - state, as above
        await asyncio.sleep(0)
    source.go_on.set()
    assert shown(Answer(await whole[0].read())) == 1
    with contextlib.suppress(ConnectionError):
        assert await broken[0].read() == b""
    assert [each.name for each in caplog.records] == ["gevpy.metrics"]
    await hang_up(broken)
    await hang_up(whole)


async def test_a_refresh_in_the_turn_of_a_cut_does_nothing(held: tuple[HeldSource, MetricsEndpoint]) -> None:
    """The numbers may come when the connection is cut already, but not yet reported lost."""
    _, endpoint = held
    client = await ask(endpoint, "/metrics")
    (waiting,) = endpoint._served
    gone = waiting.cut()
    waiting.answer_late()
    await gone
    assert not waiting._answered
    await hang_up(client)


# -- who may ask ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:9091", "127.0.0.1", "127.0.0.1:1", "127.8.9.10:9091", "[::1]", "[::1]:9091"]
)
async def test_hosts_that_are_loopback_are_served(address: str, host: str) -> None:
    """Every way to name this machine's loopback will do, with any port: a tunnel has another one."""
    assert (await fetch(address, "/metrics", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9091", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]",
     "[::1", "::1", "localhost:x", "127.1", "0x7f.0.0.1", "[127.0.0.1].evil.example", "a@127.0.0.1"],
)  # fmt: skip
async def test_other_hosts_are_forbidden_on_loopback(address: str, host: str) -> None:
    """403 for every path: a web page that points its own name here learns nothing."""
    for path in ("/", "/static/page.js", "/metrics", "/stats.json", "/healthz", "/nowhere"):
        answer = await fetch(address, path, host=host)
        assert answer.status == 403
        assert b"gevpy" not in answer.body


async def test_host_is_not_checked_when_bound_elsewhere() -> None:
    """On every interface, the names are the operator's own business."""
    async with asyncio.timeout(10), gevpy.serve(Echo(), port=0, metrics="0.0.0.0:0") as server:
        port = endpoint_of(server).address.rpartition(":")[2]
        assert (await fetch(f"127.0.0.1:{port}", "/metrics", host="metrics.example")).status == 200


async def test_nothing_about_peers_is_shown(server: Server, address: str) -> None:
    """No address of a client is anywhere in the answers."""
    client = await connect_to(server)
    client[1].write(b"hello")
    await client[0].readexactly(5)
    own = client[1].get_extra_info("sockname")
    assert "127.0.0.1" not in (await fetch(address, "/metrics")).text
    assert f"127.0.0.1:{own[1]}" not in (await fetch(address, "/stats.json")).text
    await hang_up(client)


# -- bad clients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [8192, 8193, 20_000, 60_000])
async def test_a_head_over_8_kib_gets_431(server: Server, address: str, sent: int) -> None:
    """Whether it ends or not: the answer arrives whole, as nothing is reset under it."""
    start = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: "
    answer = await exchange(address, start + b"x" * (sent - len(start)))
    assert answer.status == 431
    assert len(answer.body) == int(answer.headers["content-length"]) > 0
    await echo_works(server)


async def test_a_head_of_exactly_8_kib_is_served(address: str) -> None:
    """The limit itself is within the limit."""
    start, end = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", b"\r\n\r\n"
    assert (await exchange(address, start + b"x" * (8192 - len(start) - len(end)) + end)).status == 200
    assert (await exchange(address, start + b"x" * (8193 - len(start) - len(end)) + end)).status == 431


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_garbage_gets_400(server: Server, address: str, garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What is no HTTP request, or two in one, is a bad request, and not worth a line of log."""
    caplog.clear()
    assert (await exchange(address, garbage)).status == 400
    assert caplog.records == []
    await echo_works(server)


async def test_a_second_request_on_a_connection_is_not_answered(address: str) -> None:
    """One connection, one answer, also when two requests come at once."""
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    client = await connect(address)
    client[1].write(request * 2)
    assert (await client[0].read()).count(b"HTTP/1.1") == 1
    await hang_up(client)


async def test_a_client_that_talks_on_is_cut(address: str) -> None:
    """What comes after the answer is thrown away, but not without end."""
    client = await connect(address)
    client[1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert Answer(await client[0].read()).status == 200
    with pytest.raises(ConnectionError):  # noqa: PT012 - any of the writes may meet the reset
        while True:
            client[1].write(b"x" * 65536)
            await client[1].drain()
            await asyncio.sleep(0)
    await hang_up(client)


async def test_slowloris_is_answered_408_and_let_go(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that doesn't end within the deadline gets 408; the others are served all the while."""
    monkeypatch.setattr(module, "DEADLINE_S", 0.5)
    address = endpoint_of(server).address
    slow = [await connect(address) for _ in range(5)]
    for client in slow:
        client[1].write(b"GET /metrics HTTP/1.1\r\nX")
    assert (await fetch(address, "/metrics")).status == 200
    for client in slow:
        assert Answer(await client[0].read()).status == 408
        await hang_up(client)
    await echo_works(server)


async def test_a_client_that_never_takes_its_answer_is_cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that isn't read, and a connection that isn't closed, end with the deadline."""
    monkeypatch.setattr(module, "DEADLINE_S", 0.5)
    monkeypatch.setattr(module, "choose_encoder", lambda _: (lambda _: bytes(16 << 20), "text/plain"))
    endpoint = endpoint_of(server)
    client = await connect(endpoint.address)
    client[1].write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await client[0].readexactly(1)  # the stream takes a little more by itself, then no more
    (held,) = endpoint._served
    await held._gone
    assert endpoint._served == set()
    with contextlib.suppress(ConnectionError):
        assert len(await client[0].read()) < 16 << 20
    await hang_up(client)


async def test_the_ninth_connection_is_told_to_go(server: Server, address: str) -> None:
    """Eight may be open; the ninth gets 503; when one goes, the next is served."""
    idle = [await connect(address) for _ in range(8)]
    answer = await fetch(address, "/metrics")
    assert answer.status == 503
    await echo_works(server)
    gone = next(iter(endpoint_of(server)._served))._gone
    for client in idle:
        await hang_up(client)
    await gone
    assert (await fetch(address, "/metrics")).status == 200


async def test_a_flood_of_connections_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come, few are held, and those only for a moment."""
    monkeypatch.setattr(module, "GOODBYE_S", 0.2)
    endpoint = endpoint_of(server)
    clients = [await connect(endpoint.address) for _ in range(200)]
    assert len(endpoint._served) == 8
    assert len(endpoint._refused) <= 64 - 8
    while endpoint._refused:
        await asyncio.wait([each._gone for each in endpoint._refused])
    await echo_works(server)
    for client in clients:
        await hang_up(client)


async def test_a_reset_is_no_trouble(server: Server, address: str, caplog: pytest.LogCaptureFixture) -> None:
    """Clients that reset, before or after the answer, leave no trace."""
    for request in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        client = await connect(address)
        sock = client[1].get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client[1].write(request)
        await hang_up(client)
    await echo_works(server)
    assert caplog.records == []


async def test_scrapers_and_clients_at_once(server: Server, address: str) -> None:
    """While clients are served, scrapes in a loop and requests for whatever path succeed, and add no series."""

    async def series() -> set[tuple[str, str]]:
        text = (await fetch(address, "/metrics")).text
        found = (each for family in parse(text) for each in family.samples)
        return {(each.name, str(sorted(each.labels.items()))) for each in found if each.name.startswith("gevpy_")}

    async def scrape(number: int) -> None:
        for turn in range(20):
            assert await series() == before
            assert (await fetch(address, f"/{number}/{turn}")).status == 404

    async def talk() -> None:
        client = await connect_to(server)
        for _ in range(100):
            client[1].write(b"x" * 64)
            assert await client[0].readexactly(64) == b"x" * 64
        await hang_up(client)

    before = await series()
    await asyncio.gather(*(scrape(number) for number in range(3)), *(talk() for _ in range(8)))
    assert await sample(address, "gevpy_received_bytes_total") == 8 * 100 * 64


# -- faults inside -------------------------------------------------------------------------------------------------


class Broken:
    """A collector of an application that fails at scrapes."""

    def collect(self) -> Iterator[Any]:
        """Fail."""
        raise RuntimeError("secret of the application")

    def describe(self) -> list[Any]:
        """Say nothing, so that registering doesn't collect."""
        return []


async def test_a_collector_that_raises_gets_500_and_a_log_line(
    server: Server, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The scraper gets a short text, the log the traceback, once for many scrapes; then all is well again."""
    broken = Broken()
    REGISTRY.register(broken)
    try:
        for _ in range(3):
            answer = await fetch(address, "/metrics")
            assert answer.status == 500
            assert "secret" not in answer.text
        assert (await fetch(address, "/healthz")).status == 200
    finally:
        REGISTRY.unregister(broken)
    (record,) = (each for each in caplog.records if each.name == "gevpy.metrics")
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert (await fetch(address, "/metrics")).status == 200
    await echo_works(server)


async def test_a_fault_of_the_endpoint_ends_one_connection(
    server: Server, address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Should answering itself fail, that connection is cut and logged, and nothing else happens."""

    def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    with monkeypatch.context() as patched:
        patched.setattr(MetricsEndpoint, "answer", fail)
        client = await connect(address)
        client[1].write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert await client[0].read() == b""
        await hang_up(client)
    assert [each.name for each in caplog.records] == ["gevpy.metrics"]
    assert (await fetch(address, "/metrics")).status == 200
    await echo_works(server)


async def test_a_deadline_in_the_turn_of_a_cut_does_nothing(server: Server, address: str) -> None:
    """The timer may fire when the connection is cut already, but not yet reported lost."""
    client = await connect(address)
    await fetch(address, "/healthz")  # by then the first is in
    (held,) = (each for each in endpoint_of(server)._served if not each._answered)
    gone = held.cut()
    held._too_late()
    await gone
    assert held not in endpoint_of(server)._served
    await hang_up(client)


# -- starting and stopping -----------------------------------------------------------------------------------------


async def test_stop_ends_every_connection_and_leaves_no_task(server: Server) -> None:
    """Waiting, half-asked and refused ones are closed, with nobody's help; the port is free at once."""
    endpoint = await MetricsEndpoint.start("127.0.0.1:0", endpoint_of(server)._source)
    clients = [await connect(endpoint.address) for _ in range(12)]
    for client in clients:
        client[1].write(b"GET /metr")
    tasks = asyncio.all_tasks()
    await endpoint.stop()
    assert endpoint._served == endpoint._refused == set()
    assert asyncio.all_tasks() <= tasks
    for client in clients:
        with contextlib.suppress(ConnectionError):
            await client[0].read()
        await hang_up(client)
    again = await MetricsEndpoint.start(endpoint.address, endpoint_of(server)._source)
    assert again.address == endpoint.address
    await again.stop()
    await again.stop()


async def test_a_start_that_fails_closes_its_socket(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the loop has against it, nothing is left behind."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    monkeypatch.setattr(module, "listen_at", lambda _: sock)
    with pytest.raises(ValueError, match=r"(?i)stream"):
        await MetricsEndpoint.start("127.0.0.1:0", endpoint_of(server)._source)
    assert sock.fileno() == -1


@pytest.mark.parametrize(
    "address",
    ["", "9091", ":9091", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:65536", "::1:9091",
     "[::1]", "[localhost]:9091", "[::1:9091", "a b:1", "http://127.0.0.1:9091", "127.0.0.1:9091\n", "x" * 70 + ".:1",
     "127.0.0.1:٣", "a\0b:1"],
)  # fmt: skip
async def test_a_malformed_address_is_a_config_error(address: str) -> None:
    """The error says what would do; nothing is left bound."""
    with pytest.raises(ConfigError, match=r"metrics must be .*127\.0\.0\.1:9091"):
        await MetricsEndpoint.start(address, HeldSource())


async def test_a_port_in_use_is_a_bind_error_and_stops_the_start(address: str) -> None:
    """The error names the metrics address, and the server that wanted it doesn't start."""
    with pytest.raises(BindError, match="metrics") as caught:
        async with gevpy.serve(Echo(), port=0, metrics=address):
            pytest.fail("it must not start")
    assert caught.value.address == address
    assert address in str(caught.value)
    assert caught.value.errno == errno.EADDRINUSE


async def test_an_address_of_another_machine_is_a_bind_error() -> None:
    """What isn't here can't be listened on."""
    with pytest.raises(BindError, match="metrics") as caught:
        await MetricsEndpoint.start("192.0.2.1:0", HeldSource())
    assert caught.value.address == "192.0.2.1:0"
    assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_a_name_that_does_not_resolve_is_a_bind_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the address, and says what the resolver said."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(BindError, match="not known") as caught:
        await MetricsEndpoint.start("no-such-host.invalid:9091", HeldSource())
    assert caught.value.address == "no-such-host.invalid:9091"


async def test_a_name_is_bound_on_the_first_address_that_is_here(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that this machine doesn't have is passed over, IPv4 comes first, and one address is enough."""
    stream = (socket.SOCK_STREAM, 0, "")
    found = [
        (socket.AF_INET6, *stream, ("::1", 0, 0, 0)),
        (socket.AF_INET, *stream, ("192.0.2.1", 0)),
        (socket.AF_INET, *stream, ("127.0.0.1", 0)),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        endpoint = await MetricsEndpoint.start("a-name:0", endpoint_of(server)._source)
    assert endpoint.address.startswith("127.0.0.1:")
    assert (await fetch(endpoint.address, "/healthz")).status == 200
    await endpoint.stop()


def ipv6_is_here() -> bool:
    """Tell whether this machine has an IPv6 loopback."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not ipv6_is_here(), reason="this machine has no IPv6 loopback")
async def test_ipv6_is_written_with_brackets(server: Server) -> None:
    """``[::1]:0`` is bound, shown and guarded like IPv4's loopback."""
    endpoint = await MetricsEndpoint.start("[::1]:0", endpoint_of(server)._source)
    assert endpoint.address.startswith("[::1]:")
    assert (await fetch(endpoint.address, "/healthz")).status == 200
    assert (await fetch(endpoint.address, "/healthz", host="evil.example")).status == 403
    await endpoint.stop()
