"""gevpy: a fast, non-blocking TCP and WebSocket server framework for asyncio.

Example:
    >>> import gevpy
    >>> class Echo(gevpy.Handler):
    ...     def on_message(self, conn, ctx, data):
    ...         return data
    >>> async def main():
    ...     await gevpy.serve(Echo(), port=1833)
    >>> gevpy.run(main())  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if os.environ.get("GEVPY_PURE_PYTHON") == "1":
    from gevpy import _pure

    _pure.install()

from gevpy.build import VERSION, BuildInfo, build_info
from gevpy.client import Client
from gevpy.closing import CloseKind, CloseReason
from gevpy.connecting import connect
from gevpy.connection import Connection
from gevpy.errors import (
    BindError,
    BufferOverflow,
    BufferUnderflow,
    CodecError,
    ConfigError,
    ConnectionClosed,
    FrameTimeout,
    FrameTooLarge,
    GevError,
    HandshakeError,
    ProtocolError,
    TruncatedFrame,
    WorkerError,
    WriteBufferFull,
)
from gevpy.event_loop import new_event_loop, run
from gevpy.handler import Handler
from gevpy.options import Limits, ServeOptions, Timeouts, Watermarks
from gevpy.protocol import (
    DelimiterProtocol,
    FixedLengthProtocol,
    LengthPrefixedProtocol,
    LineProtocol,
    Protocol,
    RawProtocol,
)
from gevpy.ring_buffer import RingBuffer
from gevpy.server import Server
from gevpy.serving import serve
from gevpy.timers import Timer
from gevpy.timing_wheel import TimingWheel
from gevpy.tls import TLS
from gevpy.worker import Worker

if TYPE_CHECKING:
    from gevpy.event_loop import EventLoopPolicy, install

__all__ = [
    "TLS",
    "BindError",
    "BufferOverflow",
    "BufferUnderflow",
    "BuildInfo",
    "Client",
    "CloseKind",
    "CloseReason",
    "CodecError",
    "ConfigError",
    "Connection",
    "ConnectionClosed",
    "DelimiterProtocol",
    "EventLoopPolicy",
    "FixedLengthProtocol",
    "FrameTimeout",
    "FrameTooLarge",
    "GevError",
    "Handler",
    "HandshakeError",
    "LengthPrefixedProtocol",
    "Limits",
    "LineProtocol",
    "Protocol",
    "ProtocolError",
    "RawProtocol",
    "RingBuffer",
    "ServeOptions",
    "Server",
    "Timeouts",
    "Timer",
    "TimingWheel",
    "TruncatedFrame",
    "Watermarks",
    "Worker",
    "WorkerError",
    "WriteBufferFull",
    "build_info",
    "connect",
    "install",
    "new_event_loop",
    "run",
    "serve",
]

__version__ = VERSION

ON_FIRST_USE = frozenset({"protobuf", "testing", "websocket"})


def __getattr__(name: str) -> Any:
    """Load what not every program needs, and build what touches asyncio's deprecated policies, when it is asked for."""
    if name in ("EventLoopPolicy", "install"):
        from gevpy import event_loop  # noqa: PLC0415 - on first access, by design

        return getattr(event_loop, name)
    if name in ON_FIRST_USE:
        return importlib.import_module(f"gevpy.{name}")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
