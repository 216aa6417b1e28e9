"""Many handlers behind one port: the path of the opening request says which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gevpy.errors import ConfigError
from gevpy.handler import Handler
from gevpy.hooks import check_handler

if TYPE_CHECKING:
    from gevpy.closing import CloseReason
    from gevpy.connection import Connection
    from gevpy.websocket.http import Request
    from gevpy.worker import Worker

__all__ = ["Routes"]

REST = "/*"


class Routes:
    """Which path leads to which handler.

    Args:
        routes: handlers by path; one that ends in ``/*`` stands for all below it. The longest that fits is taken.

    Raises:
        ConfigError: a path that doesn't begin with a slash, has a star elsewhere, or what it leads to is no handler.
    """

    def __init__(self, routes: Mapping[str, Handler]) -> None:
        """Check and keep them."""
        if not isinstance(routes, Mapping):
            raise ConfigError(f"routes must be a table of handlers by path, not {type(routes).__name__}")
        self._exact: dict[str, Handler] = {}
        self._below: dict[str, Handler] = {}
        for path, handler in routes.items():
            _check(path, handler)
            if path.endswith(REST):
                self._below[path.removesuffix("*")] = handler
            else:
                self._exact[path] = handler

    @property
    def handlers(self) -> list[Handler]:
        """Every handler, once, in the order in which they were given."""
        return list({id(one): one for one in (*self._exact.values(), *self._below.values())}.values())

    def find(self, path: str) -> Handler | None:
        """Give the handler of a path, or None."""
        found = self._exact.get(path)
        at = path.rfind("/")
        while found is None and at >= 0:
            found = self._below.get(path[: at + 1])
            at = path.rfind("/", 0, at)
        return found


def _check(path: object, handler: object) -> None:
    if not isinstance(path, str) or not path.startswith("/") or "*" in path.removesuffix(REST):
        raise ConfigError(f'a route must be a path such as "/chat" or "/feed/*", not {path!r}')
    try:
        check_handler(handler)
    except ConfigError as error:
        raise ConfigError(f"the route {path} leads to no handler: {error}") from None


class RoutedHandler(Handler):
    """Gives each connection's events to the handler that its path leads to.

    Args:
        routes: by path.
        otherwise: for all other paths.
    """

    def __init__(self, routes: Routes, otherwise: Handler) -> None:
        """Begin with nobody connected."""
        self._routes = routes
        self._otherwise = otherwise
        known = routes.handlers
        self._all = [*known, *(() if otherwise in known else (otherwise,))]

    async def on_start(self, worker: Worker) -> None:
        """Start them all, one after the other."""
        for handler in self._all:
            await _done(handler.on_start(worker))

    async def on_stop(self, worker: Worker) -> None:
        """Stop them all."""
        for handler in self._all:
            await _done(handler.on_stop(worker))

    def on_request(self, conn: Connection, request: Request) -> Any:
        """Choose, and ask the chosen one."""
        chosen = self._routes.find(request.path) or self._otherwise
        conn.protocol_state.handler = chosen
        return chosen.on_request(conn, request)

    def on_connect(self, conn: Connection) -> Any:
        """Pass it on."""
        return conn.protocol_state.handler.on_connect(conn)

    def on_message(self, conn: Connection, ctx: Any, data: Any) -> Any:
        """Pass it on."""
        return conn.protocol_state.handler.on_message(conn, ctx, data)

    def on_close(self, conn: Connection, reason: CloseReason) -> Any:
        """Pass it on."""
        return conn.protocol_state.handler.on_close(conn, reason)

    def on_writable(self, conn: Connection) -> Any:
        """Pass it on."""
        return conn.protocol_state.handler.on_writable(conn)

    def on_drain(self, conn: Connection) -> Any:
        """Pass it on."""
        return conn.protocol_state.handler.on_drain(conn)


async def _done(result: Any) -> None:
    if hasattr(result, "__await__"):
        await result
