"""The pytest plugin: a fixture that serves a handler on a free port, inside an asynchronous test.

pytest loads this by its entry point in every project that has gevpy installed, so it costs next to nothing until the
fixture is asked for. pytest-asyncio is looked for and not imported: where it is missing, only the test that asks fails.
"""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from gevpy.handler import Handler
    from gevpy.protocol.base import Protocol
    from gevpy.server import Server

__all__ = ["ServerFactory", "pytest_configure"]

ASYNCIO_PLUGIN = "pytest_asyncio.plugin"
STOP_S = 1.0  # for handlers that still run when their test has ended

MISSING = "the fixture gevpy_server needs pytest-asyncio: pip install pytest-asyncio, and make the test async def"


class ServerFactory:
    """What the fixture ``gevpy_server`` gives: call it, and await the running server.

    Each call serves one handler more, on 127.0.0.1 and a free port, on the loop that the test runs on. All are stopped
    at the end of the test, with a drain of one second unless ``timeouts`` says otherwise.

    Example:
        >>> async def test_echo(gevpy_server):
        ...     server = await gevpy_server(Echo(), protocol=gevpy.LineProtocol())
        ...     reader, writer = await asyncio.open_connection(*server.addresses[0])
    """

    def __init__(self) -> None:
        """Begin without servers."""
        self._running: list[tuple[asyncio.AbstractEventLoop, Server, float | None]] = []

    def __call__(
        self, handler: Handler, protocol: Protocol | None = None, **options: Any
    ) -> Coroutine[Any, Any, Server]:
        """Serve ``handler``; awaited, it gives the server once it listens.

        Args:
            handler: the application.
            protocol: how bytes become messages; default `RawProtocol`.
            options: of `gevpy.serve`; ``port`` is 0 unless given.

        Raises:
            ConfigError: handler or options can't work.
            BindError: the address can't be had.
            RuntimeError: the test is no ``async def``.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError("gevpy_server serves on the test's own loop: make the test an async def") from None
        return self._serve(handler, protocol, options)

    async def _serve(self, handler: Handler, protocol: Protocol | None, options: dict[str, Any]) -> Server:
        from gevpy.serving import serve  # noqa: PLC0415 - nothing is loaded before it is used

        options.setdefault("port", 0)
        stop_s = None if "timeouts" in options else STOP_S
        server = await serve(handler, protocol=protocol, **options).__aenter__()
        self._running.append((asyncio.get_running_loop(), server, stop_s))
        return server

    def stop(self) -> None:
        """Stop what was started, the last one first, each on its own loop, which must not be running."""
        while self._running:
            loop, server, stop_s = self._running.pop()
            if not loop.is_closed():
                loop.run_until_complete(server.stop(stop_s))


async def _has_loop() -> None:
    """Have the test's loop made before, and closed after, whatever asks for this."""


def _serve_handlers(_gevpy_loop: None) -> Iterator[ServerFactory]:
    """Serve handlers: ``server = await gevpy_server(MyHandler(), protocol=...)``; stopped when the test ends."""
    factory = ServerFactory()
    try:
        yield factory
    finally:
        factory.stop()


def _say_what_is_missing() -> None:
    """Fail: the fixture needs pytest-asyncio."""
    pytest.fail(MISSING, pytrace=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixture, in the form that this project can use."""
    fixtures: Any = ModuleType("gevpy_fixtures")
    asyncio_plugin: Any = sys.modules.get(ASYNCIO_PLUGIN)
    if asyncio_plugin is not None and config.pluginmanager.is_registered(asyncio_plugin):
        fixtures._gevpy_loop = asyncio_plugin.fixture(_has_loop, loop_scope="function", name="_gevpy_loop")
        fixtures.gevpy_server = pytest.fixture(_serve_handlers, name="gevpy_server")
    else:
        fixtures.gevpy_server = pytest.fixture(_say_what_is_missing, name="gevpy_server")
    config.pluginmanager.register(fixtures, "gevpy-fixtures")
