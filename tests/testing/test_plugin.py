"""The pytest plugin, in projects of its own: with pytest-asyncio in both modes, without it, on both loops."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tomllib
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
import gevpy.testing
from gevpy.testing import plugin
from tests.conftest import loop_factories
from tests.programs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 50
INI = """
[pytest]
addopts = -p no:cacheprovider -W error --strict-markers
asyncio_default_fixture_loop_scope = {scope}
asyncio_mode = {mode}
"""
CONFTEST = """
import asyncio
{imports}

def pytest_asyncio_loop_factories():
    return {{"the_loop": {factory}}}
"""
FACTORIES = {
    "asyncio": ("", "asyncio.SelectorEventLoop"),
    "uvloop": ("import uvloop", "uvloop.new_event_loop"),
}
HEAD = """
import asyncio
import contextlib
import socket

import pytest

import gevpy

kept = []
stopped = []


class Echo(gevpy.Handler):
    def on_message(self, conn, ctx, data):
        return data

    def on_stop(self, worker):
        stopped.append(worker)


async def ask(server, data=b"hello"):
    host, port = server.addresses[0]
    assert (host, port != 0) == ("127.0.0.1", True)
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    kept.append(sock)
    sock.setblocking(False)
    await loop.sock_connect(sock, (host, port))
    await loop.sock_sendall(sock, data)
    return await loop.sock_recv(sock, 100)


def all_ended():
    while kept:
        with kept.pop() as sock:
            sock.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    return True
"""
TESTS = """
@pytest.mark.asyncio
async def test_two_servers(gevpy_server):
    one = await gevpy_server(Echo())
    two = await gevpy_server(Echo(), gevpy.LineProtocol(), idle_timeout_s=5)
    assert one.addresses != two.addresses
    assert two.options.idle_timeout_s == 5
    for server in (one, two):
        assert await ask(server, b"hello\\n") == b"hello\\n"
        assert server.connections == 1  # and stays open: the end of the test closes it


def test_both_were_stopped():
    assert len(stopped) == 2
    assert all_ended()


@pytest.mark.asyncio
async def test_one_that_was_stopped_by_the_test(gevpy_server):
    server = await gevpy_server(Echo(), timeouts=gevpy.Timeouts(drain_s=0.5))
    await server.stop()


@pytest.mark.asyncio
async def test_a_bad_handler(gevpy_server):
    with pytest.raises(gevpy.ConfigError):
        await gevpy_server(Echo)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_loop_of_the_module(gevpy_server):
    assert await ask(await gevpy_server(Echo())) == b"hello"


@pytest.mark.asyncio
async def test_a_handler_that_hangs(gevpy_server):
    class Hanging(Echo):
        async def on_message(self, conn, ctx, data):
            conn.send(data)
            await asyncio.get_running_loop().create_future()

    assert await ask(await gevpy_server(Hanging())) == b"hello"


def test_all_were_stopped():
    assert len(stopped) == 5
    assert all_ended()


@pytest.mark.asyncio
async def test_which_loop():
    print("runs on", type(asyncio.get_running_loop()).__module__, gevpy.build_info().compiled)
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on ``folder`` in a process of its own, with the plugin and without what is installed besides."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    command = [sys.executable, "-m", "pytest", "-p", "gevpy.testing.plugin", "-s", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def write_project(folder: Path, test: str, *, mode: str = "strict", loop: str = "asyncio", scope: str = "") -> None:
    """Write a project with one test module."""
    imports, factory = FACTORIES[loop]
    (folder / "pytest.ini").write_text(INI.format(mode=mode, scope=scope or "function"))
    (folder / "conftest.py").write_text(CONFTEST.format(imports=imports, factory=factory))
    (folder / "test_it.py").write_text(HEAD + test)


@pytest.mark.parametrize(("mode", "scope"), [("strict", "function"), ("auto", "session")])
@pytest.mark.parametrize("loop", sorted(loop_factories()))
def test_the_fixture_serves_and_stops(tmp_path: Path, loop: str, mode: str, scope: str, *, compiled: bool) -> None:
    """Several servers in a test, on its own loop; all are stopped at its end, with their connections."""
    write_project(tmp_path, TESTS, mode=mode, loop=loop, scope=scope)
    done = run_pytest(tmp_path, "-p", "pytest_asyncio.plugin")
    assert "8 passed" in done.stdout, done.stdout + done.stderr
    assert f"runs on {loop}" in done.stdout
    assert f" {compiled}\n" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_project_without_pytest_asyncio_is_left_alone(tmp_path: Path) -> None:
    """Its tests pass; the one that asks for the fixture is told what is missing."""
    (tmp_path / "test_it.py").write_text("def test_plain():\n    pass\n\n\ndef test_asks(gevpy_server):\n    pass\n")
    done = run_pytest(tmp_path, "-W", "error", "-p", "no:cacheprovider")
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "the fixture gevpy_server needs pytest-asyncio" in done.stdout
    assert "INTERNALERROR" not in done.stdout


def test_a_failing_test_still_stops_its_server(tmp_path: Path) -> None:
    """And fails with its own failure only."""
    failing = """
@pytest.mark.asyncio
async def test_fails(gevpy_server):
    assert await ask(await gevpy_server(Echo())) == b"something else"


def test_it_was_stopped():
    assert len(stopped) == 1
    assert all_ended()
"""
    write_project(tmp_path, failing)
    done = run_pytest(tmp_path, "-p", "pytest_asyncio.plugin")
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "something else" in done.stdout


def test_the_fixture_is_listed(tmp_path: Path) -> None:
    """``pytest --fixtures`` shows how it is used."""
    write_project(tmp_path, "")
    done = run_pytest(tmp_path, "-p", "pytest_asyncio.plugin", "--fixtures")
    assert "gevpy_server" in done.stdout
    assert "await gevpy_server(MyHandler()" in done.stdout


def test_pytest_finds_it_by_itself() -> None:
    """By an entry point of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"gevpy": "gevpy.testing.plugin"}


def test_the_plugin_loads_nothing_heavy() -> None:
    """Every project with gevpy installed imports it: no loop, no metrics, no command line, no pytest-asyncio."""
    heavy = [
        "gevpy.testing.embedded",
        "gevpy.testing.protocol_check",
        "uvloop",
        "prometheus_client",
        "wsproto",
        "click",
        "pytest_asyncio",
    ]
    code = f"import sys, gevpy.testing.plugin; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_kit_is_loaded_on_first_use() -> None:
    """Its names are all there, and no others."""
    assert {name: getattr(gevpy.testing, name).__name__ for name in gevpy.testing.__all__} == {
        name: name for name in gevpy.testing.__all__
    }
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gevpy.testing.nothing  # noqa: B018 - looking is the test


def test_the_factory_stops_what_it_started() -> None:
    """The last one first; a loop that is gone has taken its servers along."""

    class Echo(gevpy.Handler):
        def on_message(self, conn: gevpy.Connection, ctx: Any, data: Any) -> Any:
            return data

    factory = plugin.ServerFactory()

    async def served(**options: Any) -> gevpy.Server:
        return await factory(Echo(), **options)

    with asyncio.Runner() as runner:
        one = runner.run(served())
        runner.run(served(timeouts=gevpy.Timeouts(drain_s=1)))
        (address,) = one.addresses
        assert isinstance(address, tuple)
        factory.stop()
        with pytest.raises(ConnectionRefusedError), socket.create_connection(address[:2], 5):
            pass
        two = runner.run(served())
        runner.run(two.stop())
    factory.stop()
    with pytest.raises(RuntimeError, match="make the test an async def"):
        factory(Echo()).close()


@pytest.mark.parametrize("has_asyncio", [True, False])
def test_the_fixture_has_two_forms(monkeypatch: pytest.MonkeyPatch, *, has_asyncio: bool) -> None:
    """One for projects with pytest-asyncio, and one that says what is missing."""
    plugins = pytest.PytestPluginManager()
    if has_asyncio:
        plugins.register(import_module("pytest_asyncio.plugin"))
    plugin.pytest_configure(SimpleNamespace(pluginmanager=plugins))  # type: ignore[arg-type]
    fixtures = plugins.get_plugin("gevpy-fixtures")
    assert hasattr(fixtures, "gevpy_server")
    assert hasattr(fixtures, "_gevpy_loop") is has_asyncio
    with pytest.raises(pytest.fail.Exception, match="needs pytest-asyncio"):
        plugin._say_what_is_missing()
    serving = plugin._serve_handlers(None)
    assert isinstance(next(serving), plugin.ServerFactory)
    assert next(serving, "ended") == "ended"
