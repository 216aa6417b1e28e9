"""What is measured: quick (a minute), default (ten at most), report (everyone), and some for one matter.

A `Block` is a set of loads with one protocol and the servers that carry them. In every round all servers of a block
are started afresh and take turns at each load, in short slices; the next round takes the opposite order. So what is
compared is measured within a second or two, and neither the place in the queue nor a lucky address-space layout
favours one. A server that waits for its turn costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.client import Load
from bench.servers import HANDED_OVER, REDIS, REDIS_EXAMPLE, TWO_WORKERS
from bench.workers import WorkerTasks

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["SUITES", "Block", "IdleTask", "Suite"]

MIB = 1 << 20
SELDOM_ROUNDS = 2

TCP = (Load(), Load(depth=32))
TCP_BIG = (Load(size=MIB, connections=8),)
PREFIX = tuple(Load("length_prefix", depth=depth) for depth in (1, 32))
PREFIX_BIG = (Load("length_prefix", size=MIB, connections=8),)
LINE = tuple(Load("line", depth=depth) for depth in (1, 32))
WEBSOCKET = tuple(Load("websocket", depth=depth) for depth in (1, 32))
WEBSOCKET_BIG = (
    *(Load("websocket", size=size, depth=depth) for size in (4096, 65536) for depth in (1, 32)),
    Load("websocket", size=MIB, connections=8),
    Load("websocket", size=MIB, depth=32, connections=2),
)
BROADCAST = tuple(Load("websocket", size=128, depth=depth, connections=2000, work="broadcast") for depth in (1, 10))
ACCEPT = (Load(work="accept"),)
WEBSOCKET_ACCEPT = (Load("websocket", work="accept"),)
WORKERS = tuple(Load(depth=depth, connections=100) for depth in (1, 32))

TLS = tuple(Load("tls", size=size, connections=20) for size in (64, 16384))
REDIS_LOADS = tuple(Load("redis", depth=16, work=work) for work in ("set", "get"))

BUILDS = ("gevpy", "gevpy pure")
LOOPS = ("gevpy, asyncio loop", "gevpy pure, asyncio loop")
TCP_PEERS = (
    "asyncio Protocol",
    "streams on uvloop",
    "streams on asyncio",
    "gevent",
    "Twisted",
    "Tornado",
    "Go net",
)
FRAMED_PEERS = ("streams on uvloop", "streams on asyncio", "Twisted", "Tornado")


@dataclass(frozen=True, slots=True)
class Block:
    """Loads of one protocol, and the servers that carry them."""

    loads: tuple[Load, ...]
    servers: tuple[str, ...]
    seldom: tuple[str, ...] = ()
    """More servers, for the first rounds only: they are far from the first ones, and no figure hangs on them."""

    def turn(self, number: int) -> tuple[str, ...]:
        """Return who takes part in a round, in order; the next round has the opposite one."""
        names = (*self.servers, *self.seldom) if number <= SELDOM_ROUNDS else self.servers
        return names if number % 2 else names[::-1]

    def only(self, servers: Collection[str]) -> Block:
        """Return this block for some servers alone."""
        chosen = [tuple(name for name in names if name in servers) for names in (self.servers, self.seldom)]
        return Block(self.loads, *chosen)


@dataclass(frozen=True, slots=True)
class IdleTask:
    """Memory per idle connection of one server."""

    server: str
    mode: str
    state: str
    """`silent`, `after a message` or `deflate` (negotiated and silent)."""

    @property
    def name(self) -> str:
        """The name of its value in results."""
        return f"idle {self.mode} {self.state}: {self.server}"


@dataclass(frozen=True, slots=True)
class Suite:
    """What one `make` target runs."""

    name: str
    rounds: int
    seconds: float
    blocks: tuple[Block, ...]
    idle: tuple[IdleTask, ...]
    idle_connections: int
    wheel_connections: int
    """0: the wheel is left out."""

    wheel_timeout_s: float
    workers: WorkerTasks | None = None
    """None: no worker is killed, reloaded or timed."""

    def only(self, servers: Collection[str]) -> Suite:
        """Return this suite for some servers alone."""
        blocks = tuple(block.only(servers) for block in self.blocks)
        idle = tuple(task for task in self.idle if task.server in servers)
        wheel = self.wheel_connections if "gevpy" in servers else 0
        workers = self.workers if TWO_WORKERS in servers else None
        return replace(self, blocks=blocks, idle=idle, wheel_connections=wheel, workers=workers)


def _tcp_idle(*servers: str) -> tuple[IdleTask, ...]:
    states = ("silent", "after a message")
    return tuple(IdleTask(server, "tcp", state) for server in servers for state in states)


_WEBSOCKET_IDLE = (
    IdleTask("gevpy", "websocket", "silent"),
    IdleTask("gevpy", "websocket", "after a message"),
    IdleTask("gevpy", "websocket", "deflate"),
)

WEBSOCKET_BLOCKS = (
    Block(WEBSOCKET, (*BUILDS, "floor", "picows"), ("websockets", "aiohttp")),
    Block(WEBSOCKET_BIG, ("gevpy", "floor", "picows"), ("websockets", "aiohttp")),
    Block(BROADCAST, ("gevpy", "floor", "picows"), ("websockets",)),
)

QUICK = Suite(
    name="quick",
    rounds=3,
    seconds=0.5,
    blocks=(
        Block(TCP, ("gevpy", "floor", "asyncio Protocol")),
        Block(PREFIX, ("gevpy", "floor")),
        Block(PREFIX_BIG, ("gevpy", "floor")),
        Block(WEBSOCKET, ("gevpy", "floor", "picows")),
        Block(ACCEPT, ("gevpy", "floor")),
    ),
    idle=(IdleTask("gevpy", "tcp", "after a message"),),
    idle_connections=8000,
    wheel_connections=0,
    wheel_timeout_s=0,
)

DEFAULT = Suite(
    name="default",
    rounds=5,
    seconds=0.7,
    blocks=(
        Block(TCP, (*BUILDS, "floor"), ("asyncio Protocol", "streams on uvloop")),
        Block(PREFIX, (*BUILDS, "floor"), ("streams on uvloop",)),
        Block(TCP_BIG, ("gevpy", "floor")),
        Block(PREFIX_BIG, ("gevpy", "floor")),
        *WEBSOCKET_BLOCKS,
        Block(WORKERS, ("gevpy", TWO_WORKERS)),
        Block(ACCEPT, ("gevpy", "floor", TWO_WORKERS, HANDED_OVER)),
        Block(TLS, ("gevpy", "floor")),
        Block(REDIS_LOADS, (REDIS_EXAMPLE, REDIS)),
    ),
    idle=(*_tcp_idle("gevpy", "floor"), *_WEBSOCKET_IDLE),
    idle_connections=8000,
    wheel_connections=20_000,
    wheel_timeout_s=20,
    workers=WorkerTasks(),
)

REPORT = Suite(
    name="report",
    rounds=7,
    seconds=1.2,
    blocks=(
        Block(TCP, (*BUILDS, *LOOPS, "floor", *TCP_PEERS)),
        Block(PREFIX, (*BUILDS, *LOOPS, "floor", *FRAMED_PEERS)),
        Block(LINE, (*BUILDS, *LOOPS, "floor", *FRAMED_PEERS)),
        Block(TCP_BIG, (*BUILDS, "floor", *TCP_PEERS)),
        Block(PREFIX_BIG, (*BUILDS, "floor", *FRAMED_PEERS)),
        Block(WEBSOCKET, (*BUILDS, *LOOPS, "floor", "picows", "websockets", "aiohttp")),
        Block(WEBSOCKET_BIG, ("gevpy", "floor", "picows"), ("gevpy pure", "websockets", "aiohttp")),
        Block(BROADCAST, (*BUILDS, "floor", "picows", "websockets")),
        Block(WORKERS, ("gevpy", TWO_WORKERS)),
        Block(ACCEPT, (*BUILDS, *LOOPS, TWO_WORKERS, HANDED_OVER, "floor", *TCP_PEERS)),
        Block(WEBSOCKET_ACCEPT, ("gevpy", "picows", "websockets", "aiohttp")),
        Block(TLS, (*BUILDS, "floor", "asyncio Protocol")),
        Block(REDIS_LOADS, (REDIS_EXAMPLE, REDIS)),
    ),
    idle=(
        *_tcp_idle("gevpy", "gevpy pure", "floor", *TCP_PEERS),
        *_WEBSOCKET_IDLE,
        *(
            IdleTask(server, "websocket", state)
            for server in ("picows", "websockets", "aiohttp")
            for state in ("silent", "after a message")
        ),
        IdleTask("websockets", "websocket", "deflate"),
        IdleTask("aiohttp", "websocket", "deflate"),
    ),
    idle_connections=8000,
    wheel_connections=20_000,
    wheel_timeout_s=20,
    workers=WorkerTasks(),
)

LOOP_SUITE = Suite(
    name="loops",
    rounds=5,
    seconds=1.0,
    blocks=tuple(Block(loads, (*BUILDS, *LOOPS, "floor", "asyncio Protocol")) for loads in (TCP, PREFIX, LINE)),
    idle=(),
    idle_connections=0,
    wheel_connections=0,
    wheel_timeout_s=0,
)

WORKER_SUITE = Suite(
    name="workers",
    rounds=9,
    seconds=0.5,
    blocks=(
        Block(WORKERS, ("gevpy", TWO_WORKERS)),
        Block(ACCEPT, ("gevpy", TWO_WORKERS, HANDED_OVER)),
    ),
    idle=(),
    idle_connections=0,
    wheel_connections=0,
    wheel_timeout_s=0,
    workers=WorkerTasks(),
)

REDIS_SUITE = Suite(
    name="redis",
    rounds=7,
    seconds=1.0,
    blocks=(Block(REDIS_LOADS, (REDIS_EXAMPLE, REDIS)),),
    idle=(),
    idle_connections=0,
    wheel_connections=0,
    wheel_timeout_s=0,
)

TLS_SUITE = replace(REDIS_SUITE, name="tls", blocks=(Block(TLS, ("gevpy", "floor")),))

WEBSOCKET_SUITE = replace(
    REDIS_SUITE,
    name="websocket",
    rounds=5,
    seconds=0.4,
    blocks=(*WEBSOCKET_BLOCKS, Block(WEBSOCKET_ACCEPT, ("gevpy", "picows"), ("websockets", "aiohttp"))),
    idle=_WEBSOCKET_IDLE,
    idle_connections=8000,
)

_ALL_SUITES = (QUICK, DEFAULT, REPORT, LOOP_SUITE, WORKER_SUITE, REDIS_SUITE, TLS_SUITE, WEBSOCKET_SUITE)

SUITES = {suite.name: suite for suite in _ALL_SUITES}
