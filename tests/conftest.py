"""What every test gets: both event loops, and which build is under test.

Every async test runs once on asyncio's own loop and once on uvloop. The other half of the matrix,
compiled and pure, is two runs of the whole suite: ``make test``.
"""

from __future__ import annotations

import asyncio
import os
import signal
from fnmatch import fnmatch
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import gevpy

if TYPE_CHECKING:
    from collections.abc import Callable

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs us in its background has us ignore Ctrl-C, and what we start would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more of the machine than of the code: what is to be fast has tests of its own. How
# many are thrown away, or are too large, is chance: no reason to fail. New examples are looked for by the long runs;
# what lands is held to the same ones each time.
SOAK = os.environ.get("GEVPY_SOAK") == "1"
CHANCE = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
settings.register_profile("gevpy", deadline=None, suppress_health_check=CHANCE, derandomize=not SOAK)
settings.load_profile("gevpy")


def loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Give the loops that can be had here, by name."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop}
    if find_spec("uvloop") is not None:
        factories["uvloop"] = import_module("uvloop").new_event_loop
    return factories


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every async test on each of them (pytest-asyncio's hook)."""
    return loop_factories()


# Integration tests that wait more than they compute, and hold on a busy machine: they may run beside others.
SOCIABLE = (
    "test_client_faults",
    "test_handshake_faults",
    "test_proxy_faults",
    "test_systemd",
    "test_web_chat",
    "test_websocket_faults",
    "test_websocket_opening_faults",
    "test_websocket_surroundings",
    "test_worker_",
)
SOLITARY = ("test_worker_floods", "test_worker_hangs")  # but these take times, too

# Nothing of what these are about is compiled: the first turn is enough, and the whole suite stays quick.
ONCE = (
    "test_acceptor",
    "test_child",
    "test_cli",
    "test_client_faults",
    "test_collector",
    "test_control",
    "test_deflate",
    "test_doctor",
    "test_endpoint",
    "test_example*",
    "test_exports",
    "test_fields",
    "test_gather",
    "test_handshake",
    "test_http",
    "test_live_page",
    "test_log_floods",
    "test_machine",
    "test_merge",
    "test_origins",
    "test_placement",
    "test_plugin",
    "test_proxy_faults",
    "test_reloading",
    "test_reuseport",
    "test_scale",
    "test_slot",
    "test_snapshot",
    "test_supervisor",
    "test_systemd",
    "test_tls_faults",
    "test_top",
    "test_tree*",
    "test_watchdog",
    "test_web_chat",
    "test_websocket_floods",
    "test_websocket_opening_faults",
    "test_websocket_surroundings",
    "test_worker_*",
)


def wants_to_be_alone(item: pytest.Item) -> bool:
    """Tell whether a test takes times and latencies: it wants the machine to itself."""
    name = item.path.stem
    if "integration" in item.path.parts:
        return name.startswith(SOLITARY) or not name.startswith(SOCIABLE)
    return "linear_time" in item.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what wants to be alone, and skip what the first of both turns, which takes what is built, is enough for."""
    is_second_turn = os.environ.get("GEVPY_PURE_PYTHON") == "1"
    for item in items:
        if wants_to_be_alone(item):
            item.add_marker(pytest.mark.alone)
        if is_second_turn and any(fnmatch(item.path.stem, pattern) for pattern in ONCE):
            item.add_marker(pytest.mark.skip(reason="nothing of this is compiled: once is enough"))


@pytest.fixture
async def loop_kind() -> str:
    """Name the loop this test runs on: ``"asyncio"`` or ``"uvloop"``."""
    return type(asyncio.get_running_loop()).__module__.split(".")[0]


@pytest.fixture(scope="session")
def compiled() -> bool:
    """Tell whether the compiled core is under test."""
    return gevpy.build_info().compiled
