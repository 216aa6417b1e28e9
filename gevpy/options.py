"""The options of a server, in frozen groups that validate themselves.

Every limit and every timeout has a default. Where None lifts one, that must be said explicitly.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from gevpy.errors import ConfigError
from gevpy.machine import usable_workers

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Hashable, Sequence

    from gevpy.protocol.base import Protocol

__all__ = ["IdleRefresh", "Limits", "Ordering", "ServeOptions", "SlowConsumer", "Timeouts", "Watermarks"]

MAX_PORT = 65535
MAX_BACKLOG = 2**31 - 1
MAX_WORKERS = 128
MOST = 2**48
MOST_SECONDS = 1_000_000_000

SlowConsumer = Literal["close", "drop_newest", "drop_oldest", "block"]
"""What to do with a peer that reads too slowly; see `Limits`."""

IdleRefresh = Literal["read", "write", "both"]
"""What counts against idleness: bytes that come, bytes that leave, or either."""

Ordering = Literal["serial", "concurrent", "keyed"]
"""How the asynchronous handlers of one connection's messages run; see `gevpy.serve`."""


def _require_count(name: str, value: object, least: int, most: int = MOST) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        msg = f"{name} must be a whole number, {least} to {most}, not {value!r}"
        raise ConfigError(msg)


def require_seconds(name: str, value: object) -> None:
    """Check that ``value`` is a finite number of seconds above 0.

    Raises:
        ConfigError: it isn't.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= MOST_SECONDS:
        msg = f"{name} must be a number of seconds, above 0 and at most {MOST_SECONDS:,}, not {value!r}"
        raise ConfigError(msg)


def _is_path(path: str | os.PathLike[str] | None) -> bool:
    return path is None or (bool(os.fspath(path)) and "\0" not in os.fspath(path))


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a server takes on.

    Attributes:
        max_connections: connections at once. None, the default, means min(10,000, soft RLIMIT_NOFILE - 256). An
            explicit number raises the soft RLIMIT_NOFILE as far as the hard one lets it; still short, it is clamped
            with one warning. A connection over the limit is reset and counted.
        max_connections_per_ip: connections at once from one address (IPv6: from one /64). None, the default, is no
            cap: behind a balancer all peers share one address.
        max_write_buffer_bytes: output that may wait on one connection before the slow-consumer policy acts. Default
            1 MiB. A single message on an empty queue is always taken.
        max_worker_bytes: resident memory of one worker process, above which it is replaced, its connections drained.
            Default None: no bound. Not looked at with ``workers=1``.
        max_concurrent: asynchronous handlers that may run at once for one connection, with ``ordering="concurrent"``
            or ``"keyed"``. Default 16, as many messages as may wait; reading pauses meanwhile.
        slow_consumer: the policy. ``"close"`` (default) discards the output and resets the connection;
            ``"drop_newest"`` and ``"drop_oldest"`` drop whole messages and count them; ``"block"`` makes ``send`` raise
            `WriteBufferFull` and is for handlers that ``await conn.drain()``.

    Raises:
        ConfigError: a value out of range.
    """

    max_connections: int | None = None
    max_connections_per_ip: int | None = None
    max_write_buffer_bytes: int = 1024 * 1024
    slow_consumer: SlowConsumer = "close"
    max_worker_bytes: int | None = None
    max_concurrent: int = 16

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("max_connections", "max_connections_per_ip", "max_worker_bytes"):
            value = getattr(self, name)
            if value is not None:
                _require_count(name, value, 1)
        _require_count("max_write_buffer_bytes", self.max_write_buffer_bytes, 1)
        _require_count("max_concurrent", self.max_concurrent, 1)
        policies = get_args(SlowConsumer)
        if self.slow_consumer not in policies:
            msg = f"slow_consumer must be one of {', '.join(policies)}, not {self.slow_consumer!r}"
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a server waits. All in seconds, above 0; None turns a timeout off.

    Attributes:
        handshake_s: for a TLS handshake in all. Default 10.
        proxy_header_s: for the header of a trusted proxy, from accept on. Default 3.
        tls_shutdown_s: for the peer to answer the end of TLS. Default 5; then the connection is aborted.
        frame_s: for a frame, from its first byte to its last, however steadily bytes come. Default 30.
        write_stall_s: for the peer to acknowledge at least one byte while output waits. Default 30; then the
            connection is aborted.
        close_s: for the flush after ``close()``. Default 10; then the connection is aborted.
        drain_s: for all connections together when the server stops. Default 30; then the rest are aborted.
        start_s: for a worker process to become ready. Default 120; then it is killed and started again.
        blocked_s: for which a worker's loop may be blocked. Default 30; then the worker is killed and replaced.
        worker_lifetime_s: after which a worker process is replaced, its connections drained. Default None: never.

    Raises:
        ConfigError: a value out of range.
    """

    handshake_s: float | None = 10.0
    frame_s: float | None = 30.0
    write_stall_s: float | None = 30.0
    close_s: float | None = 10.0
    drain_s: float | None = 30.0
    start_s: float | None = 120.0
    blocked_s: float | None = 30.0
    worker_lifetime_s: float | None = None
    proxy_header_s: float | None = 3.0
    tls_shutdown_s: float | None = 5.0

    def __post_init__(self) -> None:
        """Check every value."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                require_seconds(field.name, value)


@dataclass(frozen=True, slots=True)
class Watermarks:
    """When output counts as congested, and when no more.

    Above ``high_bytes`` of waiting output gevpy stops reading that connection; at or below ``low_bytes`` it reads again
    and ``on_writable`` is called.

    Attributes:
        high_bytes: default 64 KiB, as in asyncio.
        low_bytes: default 16 KiB; not above ``high_bytes``.

    Raises:
        ConfigError: a value out of range.
    """

    high_bytes: int = 64 * 1024
    low_bytes: int = 16 * 1024

    def __post_init__(self) -> None:
        """Check every value."""
        _require_count("high_bytes", self.high_bytes, 0)
        _require_count("low_bytes", self.low_bytes, 0)
        if self.low_bytes > self.high_bytes:
            msg = f"low_bytes ({self.low_bytes}) must not be above high_bytes ({self.high_bytes})"
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """All that `gevpy.serve` was told, defaults filled in; what ``Server.options`` gives.

    Attributes: the arguments of `gevpy.serve`, by the same names.

    Raises:
        ConfigError: a value out of range, or two that contradict each other.
    """

    protocol: Protocol
    host: str | Sequence[str] | None = "127.0.0.1"
    port: int = 1388
    path: str | os.PathLike[str] | None = None
    sockets: Sequence[socket.socket] | None = None
    reuse_port: bool = False
    backlog: int = 2048
    workers: int | Literal["auto"] = 1
    placement: Any = "reuseport"
    affinity: bool = False
    idle_timeout_s: float | None = 120.0
    idle_refresh: IdleRefresh = "both"
    half_close: bool = False
    ordering: Ordering = "serial"
    ordering_key: Callable[[Any, Any], Hashable] | None = None
    ssl: Any = None
    trusted_proxies: Sequence[str] | None = None
    metrics: str | None = None
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    watermarks: Watermarks = Watermarks()

    def __post_init__(self) -> None:
        """Check every value."""
        _require_count("backlog", self.backlog, 1, MAX_BACKLOG)
        _require_count("port", self.port, 0, MAX_PORT)
        self._check_types()
        if self.workers != "auto":
            _require_count("workers", self.workers, 1, MAX_WORKERS)
        if self.path is not None and self.sockets is not None:
            msg = "path and sockets exclude each other"
            raise ConfigError(msg)
        if self.idle_timeout_s is not None:
            require_seconds("idle_timeout_s", self.idle_timeout_s)
        if self.idle_refresh not in get_args(IdleRefresh):
            msg = f"idle_refresh must be one of {', '.join(get_args(IdleRefresh))}, not {self.idle_refresh!r}"
            raise ConfigError(msg)
        if self.ordering not in get_args(Ordering):
            msg = f"ordering must be one of {', '.join(get_args(Ordering))}, not {self.ordering!r}"
            raise ConfigError(msg)
        if (self.ordering == "keyed") != callable(self.ordering_key):
            raise ConfigError('ordering="keyed" needs an ordering_key, a function (ctx, data) -> key; no other does')
        for name, group in (("limits", Limits), ("timeouts", Timeouts), ("watermarks", Watermarks)):
            if not isinstance(getattr(self, name), group):
                msg = f"{name} must be a gevpy.{group.__name__}, not {type(getattr(self, name)).__name__}"
                raise ConfigError(msg)

    @property
    def processes(self) -> int:
        """The number of workers; ``"auto"`` is as many as can run at once, by cores and a cgroup's quota."""
        return min(usable_workers(), MAX_WORKERS) if self.workers == "auto" else self.workers

    @property
    def in_calling_loop(self) -> bool:
        """Whether the calling loop serves by itself: ``workers=1``. ``"auto"`` is processes, be it one."""
        return self.workers == 1

    def cpus_of(self, slot: int) -> tuple[int, ...] | None:
        """Give the core that a worker is bound to, or None for all."""
        if not self.affinity or not hasattr(os, "sched_getaffinity"):
            return None
        cpus = sorted(os.sched_getaffinity(0))
        return (cpus[slot % len(cpus)],)

    def _check_types(self) -> None:
        """Check what has no range, so that a slip is told here and not deep inside the start."""
        strings = isinstance(self.host, str | None) or (
            isinstance(self.host, list | tuple) and all(isinstance(one, str) for one in self.host)
        )
        checks = {
            "host": strings,
            "path": isinstance(self.path, str | os.PathLike | None) and _is_path(self.path),
            "sockets": self.sockets is None or isinstance(self.sockets, list | tuple),
            "metrics": isinstance(self.metrics, str | None),
            "reuse_port": isinstance(self.reuse_port, bool),
            "half_close": isinstance(self.half_close, bool),
            "affinity": isinstance(self.affinity, bool),
        }
        for name, good in checks.items():
            if not good:
                msg = f"{name} can't be {getattr(self, name)!r}"
                raise ConfigError(msg)
