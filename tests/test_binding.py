"""Where a server listens: TCP of both families, Unix sockets, sockets passed in, and what can't be had."""

from __future__ import annotations

import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from tests.serving import Client, Recorder, recording, serving, short_path, tcp_address

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gevpy import Connection


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


def _echo(conn: Connection, ctx: Any, data: bytes) -> bytes:
    return data


async def _answers(address: tuple[str, int] | str) -> bool:
    try:
        client = await Client.connect(address)
    except OSError:
        return False
    async with client:
        await client.send(b"ping")
        return await client.read(4) == b"ping"


async def _refusal(**options: Any) -> gevpy.BindError:
    """Give the error of a server that must not start."""
    with pytest.raises(gevpy.BindError) as caught:
        async with gevpy.serve(Recorder(), **options):
            pytest.fail("it must not start")
    return caught.value


# -- TCP -----------------------------------------------------------------------------------------------


async def test_port_zero_lets_the_system_choose() -> None:
    """``addresses`` shows the port that it really is."""
    async with serving(recording(on_message=_echo)) as server:
        host, port = tcp_address(server)
        assert host == "127.0.0.1"
        assert port > 0
        assert await _answers((host, port))


@needs_ipv6
@pytest.mark.parametrize("host", [None, "", "::", ["127.0.0.1", "::1"], ("::1", "127.0.0.1")])
async def test_both_families_on_one_port(host: str | Sequence[str] | None) -> None:
    """Every address, or several by name: IPv4 and IPv6 clients find the same port."""
    async with serving(recording(on_message=_echo), host=host) as server:
        (port,) = {address[1] for address in server.addresses}
        assert await _answers(("127.0.0.1", int(port)))
        assert await _answers(("::1", int(port)))


async def test_the_default_is_this_machine_only() -> None:
    """Nothing listens on other addresses unless asked to."""
    async with serving(Recorder()) as server:
        port = int(server.addresses[0][1])
        assert not await _answers(("127.0.0.2", port))


async def test_a_name_is_resolved() -> None:
    """``localhost`` is as good as its address."""
    async with serving(recording(on_message=_echo), host="localhost") as server:
        for address in server.addresses:
            assert await _answers(address)


async def test_a_port_in_use_is_one_clear_error() -> None:
    """A BindError, a GevError and an OSError with the system's number; its text names the address."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        error = await _refusal(port=port)
    assert isinstance(error, OSError)
    assert isinstance(error, gevpy.GevError)
    assert error.errno == 98 if sys.platform == "linux" else error.errno
    assert error.address == f"127.0.0.1:{port}"
    assert f"127.0.0.1:{port}" in str(error)
    assert "\n" not in str(error)
    assert isinstance(error.__cause__, OSError)


async def test_a_port_in_use_by_another_gevpy_is_refused() -> None:
    """Two servers never share a port by accident."""
    async with serving(Recorder()) as server:
        port = int(server.addresses[0][1])
        assert f"127.0.0.1:{port}" in str(await _refusal(port=port))
        assert "reuse" not in str(server.addresses)


@needs_ipv6
async def test_an_ipv6_address_is_named_in_brackets() -> None:
    """As everywhere else."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as busy:
        port = busy.getsockname()[1]
        assert f"[::1]:{port}" in str(await _refusal(host="::1", port=port))


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    """Foreign addresses and unknown names: the same error, naming them."""
    assert f"{host}:" in str(await _refusal(host=host, port=0))


async def test_no_host_is_refused() -> None:
    """An empty list is no address."""
    with pytest.raises(gevpy.ConfigError, match="host"):
        async with gevpy.serve(Recorder(), host=[], port=0):
            pytest.fail("it must not start")


async def test_reuse_port_shares_a_port() -> None:
    """Only if both ask for it."""
    async with serving(recording(on_message=_echo), reuse_port=True) as one:
        port = int(one.addresses[0][1])
        async with gevpy.serve(recording(on_message=_echo), port=port, reuse_port=True) as two:
            assert one.addresses == two.addresses
            await one.stop()
            assert await _answers(("127.0.0.1", port))
        assert (await _refusal_while_shared()).errno


async def _refusal_while_shared() -> gevpy.BindError:
    async with serving(Recorder(), reuse_port=True) as server:
        return await _refusal(port=int(server.addresses[0][1]))


async def test_a_port_can_be_had_again_at_once() -> None:
    """Connections of the last server, in TIME_WAIT, don't block the next."""
    handler = recording(on_message=_echo)
    async with serving(handler) as server:
        address = server.addresses[0]
        async with await Client.connect(address) as client:
            (await handler.conn()).close()
            assert await client.read_to_end() == b""
    async with gevpy.serve(recording(on_message=_echo), port=int(address[1])):
        assert await _answers(address)


# -- Unix ----------------------------------------------------------------------------------------------


async def test_a_unix_socket_is_for_its_owner_only() -> None:
    """Mode 0600 from the first moment, whatever the umask; the umask is as it was."""
    with short_path() as path:
        before = os.umask(0o022)
        try:
            async with gevpy.serve(recording(on_message=_echo), path=path) as server:
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert server.addresses == [str(path)]
                assert await _answers(str(path))
            assert os.umask(0o022) == 0o022
        finally:
            os.umask(before)


async def test_a_path_may_be_a_string() -> None:
    """``str`` and ``os.PathLike`` alike."""
    with short_path() as path:
        async with gevpy.serve(recording(on_message=_echo), path=str(path)):
            assert await _answers(str(path))


async def test_the_unix_socket_is_unlinked_at_stop() -> None:
    """Nothing is left; and from the stop's beginning nobody finds it."""
    with short_path() as path:
        async with gevpy.serve(Recorder(), path=path):
            assert path.exists()
        assert not path.exists()


async def test_a_unix_socket_that_is_no_longer_ours_is_left_alone() -> None:
    """Another server has taken the path over: our stop doesn't take it away."""
    with short_path() as path:
        async with gevpy.serve(Recorder(), path=path) as first:
            path.unlink()
            async with gevpy.serve(recording(on_message=_echo), path=path):
                await first.stop()
                assert await _answers(str(path))
        assert not path.exists()


async def test_a_stale_unix_socket_is_replaced() -> None:
    """A socket file that a killed server left behind is no obstacle."""
    with short_path() as path:
        _leave_stale(path)
        async with gevpy.serve(recording(on_message=_echo), path=path):
            assert await _answers(str(path))


def _leave_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


async def test_a_unix_socket_that_answers_is_not_replaced() -> None:
    """One that lives stays, and stays usable."""
    with short_path() as path:
        async with gevpy.serve(recording(on_message=_echo), path=path):
            error = await _refusal(path=path)
            assert str(path) in str(error)
            assert error.address == str(path)
            assert path.exists()
            assert await _answers(str(path))


async def test_a_file_that_is_no_socket_is_not_replaced() -> None:
    """Nobody loses data because of a wrong path."""
    with short_path() as path:
        path.write_text("precious")
        assert str(path) in str(await _refusal(path=path))
        assert path.read_text() == "precious"


async def test_a_path_that_cannot_be_is_refused() -> None:
    """No such folder, and longer than a socket address can be: a BindError that names it."""
    with short_path() as path:
        missing = path.parent / "missing" / "s"
        assert str(missing) in str(await _refusal(path=missing))
        endless = path.parent / ("x" * 200)
        assert str(endless) in str(await _refusal(path=endless))


# -- sockets passed in ---------------------------------------------------------------------------------


async def test_sockets_that_are_bound_already() -> None:
    """Several, of any stream family, listening or not; the server closes them when it stops."""
    with short_path() as path:
        tcp = socket.create_server(("127.0.0.1", 0))
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(path))
        async with gevpy.serve(recording(on_message=_echo), sockets=[tcp, unix]) as server:
            assert server.addresses == [tcp.getsockname(), str(path)]
            for address in server.addresses:
                assert await _answers(address)
        assert tcp.fileno() == unix.fileno() == -1
        assert path.exists()  # not made by us


async def test_sockets_that_cannot_listen_are_refused() -> None:
    """No socket, a datagram socket, none at all: ConfigError."""
    with socket.socket(type=socket.SOCK_DGRAM) as datagram:
        for sockets in ([], [datagram], ["127.0.0.1:80"]):
            with pytest.raises(gevpy.ConfigError, match="socket"):
                async with gevpy.serve(Recorder(), sockets=sockets):  # type: ignore[arg-type]
                    pytest.fail("it must not start")


async def test_a_socket_that_is_not_bound_is_refused() -> None:
    """Listening on it would open a port that nobody chose, on every address."""
    with (
        socket.socket() as unbound,
        pytest.raises(gevpy.GevError),
    ):
        async with gevpy.serve(Recorder(), sockets=[unbound]):
            pytest.fail("it must not start")
