"""The methods of a handler that may be left out: which there are, and which of them an application wrote."""

from __future__ import annotations

import logging
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from gevpy.errors import ConfigError
from gevpy.handler import Handler

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HOOKS", "check_handler", "hooks_of"]

HOOKS = ("on_start", "on_stop", "on_request", "on_connect", "on_close", "on_writable", "on_drain")

logger = logging.getLogger("gevpy.server")


def hooks_of(handler: Any) -> dict[str, Callable[..., Any]]:
    """Give the methods that the application really wrote, so that the others cost nothing."""
    hooks = {}
    for name in HOOKS:
        method = getattr(handler, name, None)
        if callable(method) and getattr(type(handler), name, None) is not getattr(Handler, name):
            hooks[name] = method
    return hooks


def check_handler(handler: Any) -> None:
    """Check that ``handler`` can be served, and warn of methods whose names are almost those of hooks.

    Raises:
        ConfigError: it is a class, or has no ``on_message``.
    """
    if isinstance(handler, type):
        msg = f"a handler is an object: {handler.__name__}(), not the class {handler.__name__}"
        raise ConfigError(msg)
    method = getattr(handler, "on_message", None)
    if not callable(method) or getattr(type(handler), "on_message", None) is Handler.on_message:
        msg = f"{type(handler).__name__} has no on_message(self, conn, ctx, data) method"
        raise ConfigError(msg)
    for name in dir(type(handler)):
        meant = get_close_matches(name, HOOKS, n=1, cutoff=0.8) if name.startswith("on_") else []
        if meant and name not in HOOKS and callable(getattr(handler, name)):
            logger.warning("%s.%s is never called; was %s meant?", type(handler).__name__, name, meant[0])
