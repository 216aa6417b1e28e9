"""What is measured: who takes part in which round, and what stands beside a WebSocket server."""

from __future__ import annotations

import pytest

from bench.client import Load
from bench.figures import FIGURES, Ratio
from bench.servers import SERVERS
from bench.suites import DEFAULT, REPORT, SUITES, WEBSOCKET_SUITE, Block, Suite

BLOCK = Block((Load(),), ("gevpy", "floor"), ("gevent",))


def test_rounds_alternate() -> None:
    """The next round has the opposite order; some take part in the first rounds only."""
    assert [BLOCK.turn(number) for number in (1, 2, 3, 4)] == [
        ("gevpy", "floor", "gevent"),
        ("gevent", "floor", "gevpy"),
        ("gevpy", "floor"),
        ("floor", "gevpy"),
    ]


def test_a_block_can_be_had_for_some_servers_alone() -> None:
    """Seldom ones stay seldom."""
    assert BLOCK.only(["gevent", "floor"]) == Block((Load(),), ("floor",), ("gevent",))


def test_the_floor_stands_beside_websocket_by_the_payload_over_tcp() -> None:
    """It has no framing; what it broadcasts are the same frames as everybody's."""
    floor = SERVERS["floor"]
    assert floor.load(Load("websocket", 4096, depth=32)) == Load("tcp", 4096, depth=32)
    assert floor.load(Load("length_prefix")) == Load("length_prefix")
    broadcast = Load("websocket", 128, connections=2000, work="broadcast")
    assert floor.load(broadcast) == broadcast
    assert SERVERS["picows"].load(Load("websocket")) == Load("websocket")


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_every_server_speaks_what_it_is_asked(suite: Suite) -> None:
    """A suite that asks for more would skip it in every run, and say so where nobody looks."""
    for block in suite.blocks:
        for name in (*block.servers, *block.seldom):
            for load in block.loads:
                assert SERVERS[name].load(load).protocol in SERVERS[name].protocols, (name, load)


@pytest.mark.parametrize("suite", [DEFAULT, REPORT], ids=lambda suite: suite.name)
def test_every_ratio_is_measured_in_each_round(suite: Suite) -> None:
    """Ratios pair the rounds: who is in a figure is no seldom guest."""
    measured = {(name, load) for block in suite.blocks for name in block.servers for load in block.loads}
    missing = [f.what for f in FIGURES if isinstance(f, Ratio) and not {f.above, f.below} <= measured]
    assert missing == []


def test_the_websocket_suite_has_all_of_its_figures() -> None:
    """What is said of WebSocket can be seen in a few minutes."""
    measured = {(name, load) for block in WEBSOCKET_SUITE.blocks for name in block.servers for load in block.loads}
    ratios = [f for f in FIGURES if isinstance(f, Ratio) and f.above[1].mode == "websocket"]
    assert len(ratios) > 10
    assert all({f.above, f.below} <= measured for f in ratios)
