"""Fixtures of the fault tests: a server process on each event loop."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.harness import FaultServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOOPS = ["asyncio", "uvloop"] if find_spec("uvloop") else ["asyncio"]


@pytest.fixture(params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    """Name each event loop that can be had here, in turn."""
    return str(request.param)


@pytest.fixture
def fault_server(loop_name: str, tmp_path: Path) -> Callable[..., FaultServer]:
    """Give a maker of servers, to be entered: a handler's name, and what goes into the configuration."""
    number = count(1)

    def make(handler: str, *, faults_expected: bool = False, **config: Any) -> FaultServer:
        log_path = tmp_path / f"server-{next(number)}.log"
        return FaultServer(loop_name, log_path, {"handler": handler, **config}, faults_expected=faults_expected)

    return make
