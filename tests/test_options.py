"""Every option has a default, and refuses what can't work with its name in the text."""

from __future__ import annotations

import dataclasses
import math
import socket
from typing import Any

import pytest

from gevpy import ConfigError, Limits, RawProtocol, ServeOptions, Timeouts, Watermarks
from gevpy.options import require_seconds

NOT_COUNTS: tuple[Any, ...] = (-1, 1.5, "5", True, False, [], math.nan, math.inf, b"1", 1 << 64, 1 << 4000)
NOT_SECONDS: tuple[Any, ...] = (
    0,
    -1,
    0.0,
    -0.0,
    -5.5,
    "5",
    True,
    [],
    math.nan,
    math.inf,
    -math.inf,
    1e300,
    10**400,
    1j,
)


def cases(name: str, values: tuple[Any, ...]) -> list[Any]:
    """Give a parameter for each value."""
    return [pytest.param(name, value, id=f"{name}={str(value)[:30]}") for value in values]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *cases("max_connections", (0, *NOT_COUNTS)),
        *cases("max_connections_per_ip", (0, *NOT_COUNTS)),
        *cases("max_write_buffer_bytes", (0, None, *NOT_COUNTS)),
        *cases("slow_consumer", ("", "CLOSE", "drop", None, 1, ["close"], b"close")),
    ],
)
def test_limits_refuse(name: str, value: Any) -> None:
    """Whole numbers from 1 that fit a machine's word, and a policy of the list."""
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: value})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Timeouts)])
@pytest.mark.parametrize("value", NOT_SECONDS, ids=lambda value: str(value)[:30])
def test_timeouts_refuse(name: str, value: Any) -> None:
    """Finite numbers of seconds above 0, that a clock can be asked to wait for."""
    with pytest.raises(ConfigError, match=name):
        Timeouts(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [*cases("high_bytes", (None, *NOT_COUNTS)), *cases("low_bytes", (None, *NOT_COUNTS))]
)
def test_watermarks_refuse(name: str, value: Any) -> None:
    """Whole numbers from 0."""
    with pytest.raises(ConfigError, match=name):
        Watermarks(**{name: value})


def test_low_is_not_above_high() -> None:
    """Equal is allowed, also at 0; the text has both numbers."""
    with pytest.raises(ConfigError, match=r"low_bytes \(11\).*high_bytes \(10\)"):
        Watermarks(10, 11)
    assert Watermarks(10, 10).low_bytes == 10
    assert Watermarks(0, 0).high_bytes == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *cases("port", (-1, 65536, 1 << 64, 80.0, "80", True, None)),
        *cases("backlog", (0, -1, 1.5, "5", True, None, 1 << 40, 1 << 64)),
        *cases("workers", (0, 129, -1, "many", None, 1.5, True)),
        *cases("idle_timeout_s", NOT_SECONDS),
        *cases("idle_refresh", ("", "BOTH", "none", None, 1)),
        *cases("limits", (None, {}, Timeouts(), Limits)),
        *cases("timeouts", (None, 5, Limits())),
        *cases("watermarks", (None, (1, 2), Limits())),
        *cases("host", (5, b"127.0.0.1", 1.5)),
        *cases("path", (9, b"", ["x"])),
        *cases("metrics", (7, b"127.0.0.1:1", ["127.0.0.1:1"])),
        *cases("reuse_port", (None, "yes", 2)),
        *cases("half_close", (None, "yes", 3)),
    ],
)
def test_serve_options_refuse(name: str, value: Any) -> None:
    """Each by its name, before anything is started."""
    with pytest.raises(ConfigError, match=name):
        ServeOptions(protocol=RawProtocol(), **{name: value})


def test_a_path_excludes_sockets() -> None:
    """Two answers to one question."""
    with socket.socket() as sock, pytest.raises(ConfigError, match="path and sockets"):
        ServeOptions(protocol=RawProtocol(), path="/tmp/x", sockets=[sock])  # noqa: S108 - never made


def test_the_defaults_are_the_documented_ones() -> None:
    """reference and docstrings promise these numbers."""
    options = ServeOptions(protocol=RawProtocol())
    assert (options.host, options.port, options.workers) == ("127.0.0.1", 1388, 1)
    assert (options.backlog, options.idle_timeout_s, options.idle_refresh) == (2048, 120.0, "both")
    assert options.limits == Limits(None, None, 1024 * 1024, "close")
    assert options.timeouts == Timeouts(10, 30, 30, 10, 30, start_s=120, blocked_s=30, worker_lifetime_s=None)
    assert (options.timeouts.proxy_header_s, options.timeouts.tls_shutdown_s) == (3, 5)
    assert (options.ssl, options.trusted_proxies) == (None, None)
    assert (options.ordering, options.ordering_key, options.limits.max_concurrent) == ("serial", None, 16)
    assert (options.placement, options.affinity, options.processes) == ("reuseport", False, 1)
    assert options.watermarks == Watermarks(65536, 16384)
    assert (options.metrics, options.path, options.sockets) == (None, None, None)
    assert (options.half_close, options.reuse_port) == (False, False)


def test_what_works_is_taken() -> None:
    """The edges of every range."""
    assert Limits(1, 1, 1).max_connections == 1
    for policy in ("close", "drop_newest", "drop_oldest", "block"):
        assert Limits(slow_consumer=policy).slow_consumer == policy
    nothing = Timeouts(**dict.fromkeys((field.name for field in dataclasses.fields(Timeouts)), None))
    assert {getattr(nothing, field.name) for field in dataclasses.fields(nothing)} == {None}
    assert Timeouts(frame_s=0.001, close_s=1, drain_s=86_400).frame_s == 0.001
    for workers in (1, 2, 128):
        assert ServeOptions(protocol=RawProtocol(), workers=workers).processes == workers
    assert ServeOptions(protocol=RawProtocol(), workers="auto").processes >= 1
    for port in (0, 65535):
        assert ServeOptions(protocol=RawProtocol(), port=port).port == port
    for host in (None, "", "::", ["127.0.0.1", "::1"]):
        assert ServeOptions(protocol=RawProtocol(), host=host).host == host
    for refresh in ("read", "write", "both"):
        assert ServeOptions(protocol=RawProtocol(), idle_refresh=refresh).idle_refresh == refresh
    assert ServeOptions(protocol=RawProtocol(), idle_timeout_s=None).idle_timeout_s is None


@pytest.mark.parametrize(
    "group",
    [Limits(), Timeouts(), Watermarks(), ServeOptions(protocol=RawProtocol())],
    ids=lambda group: type(group).__name__,
)
def test_options_are_frozen(group: Any) -> None:
    """What a server was told doesn't change while it runs."""
    for field in dataclasses.fields(group):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(group, field.name, None)
    with pytest.raises((AttributeError, TypeError)):
        group.typo = 1


def test_replace_validates_again() -> None:
    """A changed copy is checked like a new one."""
    with pytest.raises(ConfigError):
        dataclasses.replace(Limits(), max_connections=0)


def test_seconds_are_checked_by_name() -> None:
    """The text names what was asked for."""
    require_seconds("delay_s", 0.5)
    require_seconds("delay_s", 5)
    with pytest.raises(ConfigError, match=r"delay_s must be .* not -1"):
        require_seconds("delay_s", -1)
