"""Fixtures of the fault tests: a server process on each event loop, of one loop or with workers."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from tests.integration.harness import FaultServer
from tests.integration.tree_harness import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOOPS = ["asyncio", "uvloop"] if find_spec("uvloop") else ["asyncio"]
TREE_LOOPS = LOOPS if gevpy.build_info().compiled else ["asyncio"]  # what the worker tests are about is not compiled


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


@pytest.fixture(params=TREE_LOOPS, scope="module")
def loop(request: pytest.FixtureRequest) -> str:
    """Name each event loop for servers with workers, in turn."""
    return str(request.param)


@pytest.fixture
def tree(loop: str, tmp_path: Path) -> Callable[..., Tree]:
    """Make servers with workers, to be entered; two workers unless told otherwise."""

    def make(*, faults_expected: bool = False, **config: Any) -> Tree:
        return Tree(loop, tmp_path / "log", {"workers": 2, **config}, faults_expected=faults_expected)

    return make


@pytest.fixture(scope="module")
def shared_tree(loop: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give one server with two workers to all tests of a module that leave it as it was."""
    with Tree(loop, tmp_path_factory.mktemp(loop) / "log", {"workers": 2}) as server:
        yield server


@pytest.fixture(scope="module")
def mad_tree(loop: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give one server with two workers to all tests of a module that drive workers mad."""
    with Tree(loop, tmp_path_factory.mktemp(loop) / "log", {"workers": 2}, faults_expected=True) as server:
        yield server
