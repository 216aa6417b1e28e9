"""URLs and what is wrong with them, and the way from a URL to a connected socket."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

import gevpy
from gevpy import dial as dialing
from gevpy.dial import Target, dial, parse_url
from gevpy.listener import tune
from tests.integration.harness import open_descriptors
from tests.peers import black_hole, listening, refusing_port
from tests.serving import short_path, soon, turns, until

if TYPE_CHECKING:
    from collections.abc import Callable

V4 = int(socket.AF_INET)
V6 = int(socket.AF_INET6)


# -- URLs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "target", "written"),
    [
        ("tcp://127.0.0.1:80", Target("tcp", "127.0.0.1", 80), None),
        ("tcp://example.org:65535/", Target("tcp", "example.org", 65535), "tcp://example.org:65535"),
        ("tls://[::1]:443", Target("tls", "::1", 443), None),
        ("tcp://[fe80::1%lo]:1", Target("tcp", "fe80::1%lo", 1), None),
        ("unix:///run/app.sock", Target("unix", path="/run/app.sock"), None),
        ("unix:///with%20space", Target("unix", path="/with space"), "unix:///with space"),
    ],
)
def test_urls_are_read(url: str, target: Target, written: str | None) -> None:
    """Host, port and path come out, and are written as they were."""
    assert parse_url(url) == target
    assert str(target) == (written or url)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("http://host:80", "scheme"),
        ("host:80", "scheme"),
        ("TCP://host:80", "scheme"),
        ("", "scheme"),
        ("tcp://host", "port"),
        ("tcp://host:", "port"),
        ("tcp://host:0", "port"),
        ("tcp://host:65536", "port"),
        ("tcp://host:eighty", "port"),
        ("tcp://host:-1", "port"),
        ("tcp://host:\u0661", "port"),
        ("tcp://host:" + "1" * 5000, "port"),
        ("tcp://:80", "host"),
        ("tcp://[]:80", "host"),
        ("tcp://[::1", "host"),
        ("tcp://[::1]80", "host"),
        ("tcp://[127.0.0.1]:80", "host"),
        ("tcp://::1:80", "brackets"),
        ("tcp://a..b:80", "host"),
        ("tcp://host:80/path", "path"),
        ("tcp://host:80?a=b", "query"),
        ("tcp://host:80#a", "fragment"),
        ("tcp://user@host:80", "user"),
        ("tcp://ho st:80", "space"),
        ("tcp://host:80\n", "control character"),
        ("unix://run/app.sock", "path"),
        ("unix://", "path"),
        ("unix:///a%00b", "path"),
    ],
)
def test_urls_that_cannot_work_name_the_part(url: str, part: str) -> None:
    """What is wrong with a URL is one clear error, before anything is done."""
    with pytest.raises(gevpy.ConfigError, match=part):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "tcp://user:s3cret@host:80",
        "tcp://user:s3cret@host:80/path",
        "http://user:s3cret@host",
        "tcp://user:s3cret @host:80",
        "tcp://a@b:s3cret@host:80",
        "unix://user:s3cret@run",
        "tcp://user:s3/cret@host:80",
        "tcp://user:s3cret\n@host:80",
    ],
)
def test_passwords_are_never_shown(url: str) -> None:
    """A URL with a password is refused, and the text shows where it was, but not what."""
    with pytest.raises(gevpy.ConfigError) as caught:
        parse_url(url)
    assert "cret" not in str(caught.value)
    assert "***@" in str(caught.value)


def test_a_url_is_text() -> None:
    """Something else is a clear error, too."""
    with pytest.raises(gevpy.ConfigError, match="text"):
        parse_url(80)  # type: ignore[arg-type]


# -- one address -----------------------------------------------------------------------------------


async def test_a_refusal_keeps_its_kind() -> None:
    """Who refuses is a ConnectionRefusedError with errno and URL, as asyncio's users expect."""
    with (
        refusing_port() as port,
        pytest.raises(ConnectionRefusedError, match=f"tcp://127.0.0.1:{port}: Connection refused") as caught,
    ):
        await soon(dial(Target("tcp", "127.0.0.1", port), None))
    assert caught.value.errno == errno.ECONNREFUSED


async def test_an_unknown_name_keeps_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that can't be looked up is a gaierror with the URL."""

    async def fail(host: str, port: int) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(dialing, "_resolve", fail)
    with pytest.raises(socket.gaierror, match=r"tcp://nobody\.invalid:80: Name or service not known"):
        await soon(dial(Target("tcp", "nobody.invalid", 80), None))


async def test_names_are_looked_up() -> None:
    """A name leads to its address."""
    async with listening() as peers:
        sock = await soon(dial(Target("tcp", "localhost", peers.port), None))
        with sock:
            assert sock.getpeername()[1] == peers.port


async def test_unix_errors_keep_their_kind() -> None:
    """No such socket, and a path that no socket can have."""
    with pytest.raises(FileNotFoundError, match="unix:///no/such"):
        await soon(dial(Target("unix", path="/no/such"), None))
    with pytest.raises(OSError, match="too long"):
        await soon(dial(Target("unix", path="/" + "x" * 200), None))


async def test_a_full_unix_socket_is_waited_for() -> None:
    """A Unix socket whose backlog is full takes us when it has room: it isn't taken for a connection before."""
    with short_path() as path, ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(path))
        listener.listen(0)
        full = False
        while not full:
            filler = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            filler.settimeout(0)
            full = filler.connect_ex(str(path)) == errno.EAGAIN
        dialing_task = asyncio.ensure_future(dial(Target("unix", path=str(path)), None))
        await turns(5)
        assert not dialing_task.done()
        listener.settimeout(0)
        stack.enter_context(listener.accept()[0])
        sock = stack.enter_context(await soon(dialing_task))
        assert sock.getpeername() == str(path)


async def test_a_socket_connected_to_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, and the kernel gives us the wanted port: TCP connects the socket to itself; we don't."""

    def bind(sock: socket.socket, user_timeout_s: float | None) -> None:
        tune(sock, user_timeout_s)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # beside the one that keeps the port for us
        sock.bind(("127.0.0.1", port))

    monkeypatch.setattr(dialing, "tune", bind)
    with refusing_port() as port, pytest.raises(ConnectionRefusedError, match="refused"):
        await soon(dial(Target("tcp", "127.0.0.1", port), None))


# -- many addresses --------------------------------------------------------------------------------


@pytest.fixture
def resolves(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have every name lead to these ports of this machine, in this order."""

    def resolves_to(*ports: int) -> None:
        async def resolve(host: str, port: int) -> list[dialing.Address]:
            return [(V4, socket.IPPROTO_TCP, ("127.0.0.1", one)) for one in ports]

        monkeypatch.setattr(dialing, "_resolve", resolve)

    return resolves_to


def test_families_take_turns() -> None:
    """Addresses of both families alternate, beginning with the first one's, and none is lost."""
    six = [(V6, 0, number) for number in range(3)]
    four = [(V4, 0, number) for number in range(1)]
    assert dialing._alternating([*six, *four]) == [six[0], four[0], six[1], six[2]]


async def test_the_next_address_is_tried_at_once_after_a_failure(
    resolves: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that refuses costs no time."""
    monkeypatch.setattr(dialing, "STAGGER_S", 1000.0)
    async with listening() as peers:
        with refusing_port() as port:
            resolves(port, peers.port)
            sock = await soon(dial(Target("tcp", "both", 1), None))
        with sock:
            assert sock.getpeername()[1] == peers.port


async def test_the_next_address_is_tried_beside_one_that_is_silent(
    resolves: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 8305: an address that leads nowhere holds up for a moment only, and its attempt is called off."""
    monkeypatch.setattr(dialing, "STAGGER_S", 0.01)
    with black_hole() as silent:
        async with listening() as peers:
            resolves(silent, silent, peers.port)
            with await soon(dial(Target("tcp", "both", 1), None)) as sock:
                assert sock.getpeername()[1] == peers.port
            await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_all_reasons_are_told(resolves: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all addresses fail, the error is of the first one's kind and tells all reasons."""
    attempt = dialing._dial_tcp
    unreachable = OSError(errno.EHOSTUNREACH, "no route")

    async def dial_tcp(address: dialing.Address, user_timeout_s: float | None) -> socket.socket:
        if address[2][1] == 1:
            raise unreachable
        return await attempt(address, user_timeout_s)

    monkeypatch.setattr(dialing, "_dial_tcp", dial_tcp)
    with refusing_port() as port:
        resolves(port, 1)
        with pytest.raises(ConnectionRefusedError, match=r"tcp://both:2: Connection refused; No route to host"):
            await soon(dial(Target("tcp", "both", 2), None))


async def test_the_second_to_come_in_is_closed(resolves: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two attempts succeed in the same turn, one is taken and the other is closed."""
    monkeypatch.setattr(dialing, "STAGGER_S", 0.0)
    gate = asyncio.Event()
    made: list[socket.socket] = []

    async def dial_tcp(address: dialing.Address, user_timeout_s: float | None) -> socket.socket:
        await gate.wait()
        made.append(socket.socket())
        return made[-1]

    monkeypatch.setattr(dialing, "_dial_tcp", dial_tcp)
    resolves(1, 2)
    task = asyncio.ensure_future(dial(Target("tcp", "both", 1), None))
    await until(lambda: len(asyncio.all_tasks()) == 4)
    gate.set()
    with await soon(task) as won:
        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert sorted(sock.fileno() >= 0 for sock in made) == [False, True]
        assert won in made


async def test_cancelling_leaves_nothing(resolves: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A race that is called off closes all its sockets and ends all its tasks."""
    monkeypatch.setattr(dialing, "STAGGER_S", 0.0)
    with black_hole() as silent:
        resolves(silent, silent)
        await turns(3)
        before = open_descriptors(os.getpid())
        task = asyncio.ensure_future(dial(Target("tcp", "both", 1), None))
        await until(lambda: len(asyncio.all_tasks()) == 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert open_descriptors(os.getpid()) <= before
