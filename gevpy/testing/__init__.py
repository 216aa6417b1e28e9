"""What an application tests itself with: its handler and its protocol, without a socket and without waiting.

`EmbeddedConnection` drives the real connection with bytes and a clock that is moved by hand, `check_protocol` tries all
that has ever broken a parser on a protocol, and the pytest plugin (`gevpy.testing.plugin`) serves a handler on a free
port where a real socket is wanted. Nothing in gevpy itself imports this package.

Each name is loaded on first use: the plugin lives here, too, and pytest loads it in every project.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gevpy.testing.embedded import EmbeddedConnection
    from gevpy.testing.manual_loop import ManualLoop
    from gevpy.testing.memory_transport import MemoryTransport
    from gevpy.testing.protocol_check import check_protocol

__all__ = ["EmbeddedConnection", "ManualLoop", "MemoryTransport", "check_protocol"]

_HOMES = {
    "EmbeddedConnection": "embedded",
    "ManualLoop": "manual_loop",
    "MemoryTransport": "memory_transport",
    "check_protocol": "protocol_check",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
