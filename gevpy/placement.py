"""Placement: which worker gets a connection that the supervisor's acceptor took.

With ``"reuseport"`` the kernel places, and nothing of this module runs. For every other placement an acceptor in the
supervisor takes each connection, asks a chooser, and hands the descriptor to the worker it names:

- ``"round_robin"``: each worker in turn;
- ``"least_connections"``: the one with the fewest connections. They are counted at hand-over, not when a worker tells
  of them, so that a burst is spread evenly however late the workers are (gev counts late: 12, 80, 31 and 77 of 200);
- ``"source_hash"``: by the peer's IP, so that one client always finds the same worker;
- a callable of the application's own.

Choosers are plain calls without IO and without a clock; the one who asks owns them and asks from one thread.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Literal, get_args

from gevpy.errors import ConfigError, WorkerError
from gevpy.log_limit import printable

__all__ = ["Chooser", "Placement", "PlacementName", "WorkerLoad", "check_placement", "chooser"]

DIGEST_BYTES = 8
ID_BYTES = 4


class WorkerLoad:
    """What a placement sees of a worker.

    The supervisor makes one for each live worker and keeps ``connections`` true; a placement only looks. It compares
    by identity: a worker that has taken a dead one's slot is another one.

    Args:
        worker_id: the slot, from 0. A worker that replaces another has its slot.
        pid: of the process.
        connections: to begin with; default 0, a worker starts with none.

    Attributes:
        id: the slot.
        pid: of the process.
        connections: handed over, minus those that the worker has reported as gone.

    Example:
        >>> WorkerLoad(0, 4711, connections=2)
        WorkerLoad(id=0, pid=4711, connections=2)
    """

    __slots__ = ("connections", "id", "pid")

    def __init__(self, worker_id: int, pid: int, connections: int = 0) -> None:
        """Describe one worker."""
        self.id = worker_id
        self.pid = pid
        self.connections = connections

    def __repr__(self) -> str:
        """Give all there is, for the log."""
        return f"WorkerLoad(id={self.id}, pid={self.pid}, connections={self.connections})"


Chooser = Callable[[Sequence[WorkerLoad], str], WorkerLoad]
"""Chooses one of the workers for a peer: ``"ip:port"``, ``"[ip]:port"`` for IPv6, ``""`` where it has no address."""

PlacementName = Literal["reuseport", "round_robin", "least_connections", "source_hash"]
"""The placements that gevpy has."""

Placement = PlacementName | Chooser
"""What ``serve(placement=...)`` takes; see `gevpy.placement`."""

PLACEMENTS = get_args(PlacementName)


def check_placement(value: object) -> None:
    """Refuse what can't be a placement.

    Args:
        value: one of the names of `Placement`, or a callable ``(workers, peer) -> worker``.

    Raises:
        ConfigError: it is neither, or an ``async def``: a connection can't wait for its place.
    """
    if inspect.iscoroutinefunction(value):
        msg = "placement must be a plain function, not an async def"
        raise ConfigError(msg)
    if value not in PLACEMENTS and not callable(value):
        msg = f"placement must be one of {', '.join(PLACEMENTS)} or a callable (workers, peer) -> worker, not {value!r}"
        raise ConfigError(msg)


def chooser(placement: Placement) -> Chooser:
    """Make what chooses a worker for each accepted connection.

    It remembers whose turn it is, so each acceptor needs one of its own, for as long as it accepts. It may be given
    other workers with every call, in any order; the one chosen is always one of them. It doesn't count: whoever hands
    the connection over adds it to the worker's ``connections`` before asking again.

    Args:
        placement: any but ``"reuseport"``.

    Returns:
        ``choose(workers, peer) -> worker``. It raises `WorkerError` if there are no workers, and if the application's
        callable raises (which is then the ``__cause__``) or gives anything but one of the workers.

    Raises:
        ConfigError: no placement, or ``"reuseport"``, where the kernel chooses.

    Example:
        >>> choose = chooser("round_robin")
        >>> workers = [WorkerLoad(0, 100), WorkerLoad(1, 101)]
        >>> [choose(workers, "192.0.2.7:4000").id for _ in range(4)]
        [0, 1, 0, 1]
    """
    check_placement(placement)
    if placement == "reuseport":
        msg = "placement reuseport has no chooser: the kernel chooses"
        raise ConfigError(msg)
    choose: Chooser = BUILT_IN[placement]() if isinstance(placement, str) else _Guarded(placement)

    def choose_one(workers: Sequence[WorkerLoad], peer: str) -> WorkerLoad:
        if not workers:
            msg = "there is no worker to take a connection"
            raise WorkerError(msg)
        return choose(workers, peer)

    return choose_one


class _RoundRobin:
    """Each worker in turn.

    The turn is kept as the last one's slot and pid, not as a place in the list: a worker that leaves takes nobody's
    turn with it, and one that comes waits for its own.
    """

    def __init__(self) -> None:
        self._last = (-1, -1)

    def __call__(self, workers: Sequence[WorkerLoad], peer: str) -> WorkerLoad:  # noqa: ARG002 - a Chooser
        last = self._last
        chosen = min(workers, key=lambda worker: ((worker.id, worker.pid) <= last, worker.id, worker.pid))
        self._last = (chosen.id, chosen.pid)
        return chosen


class _LeastConnections:
    """The worker with the fewest connections; those with equally many in turn.

    Without the turns, a server whose connections are short would give them all to the first worker.
    """

    def __init__(self) -> None:
        self._among_equals = _RoundRobin()

    def __call__(self, workers: Sequence[WorkerLoad], peer: str) -> WorkerLoad:
        fewest = min(worker.connections for worker in workers)
        return self._among_equals([worker for worker in workers if worker.connections == fewest], peer)


class _SourceHash:
    """The worker whose slot, hashed together with the peer's IP, comes out highest.

    With this (rendezvous hashing) a worker that leaves moves its own clients and no others, and they come back when
    its slot has a worker again. The hash is the same in every process and on every machine, unlike Python's own.
    """

    def __init__(self) -> None:
        self._without_address = _RoundRobin()  # Unix sockets: one hash for all would give them to one worker

    def __call__(self, workers: Sequence[WorkerLoad], peer: str) -> WorkerLoad:
        if not peer:
            return self._without_address(workers, peer)
        ip = peer.rpartition(":")[0].encode()

        def weight(worker: WorkerLoad) -> tuple[bytes, int]:
            slot = worker.id.to_bytes(ID_BYTES, "big")
            return blake2b(slot + ip, digest_size=DIGEST_BYTES).digest(), worker.pid

        return max(workers, key=weight)


class _Guarded:
    """The application's own callable: whatever it does, the acceptor gets a worker or a `WorkerError`."""

    def __init__(self, placement: Chooser) -> None:
        self._placement = placement

    def __call__(self, workers: Sequence[WorkerLoad], peer: str) -> WorkerLoad:
        offered = tuple(workers)  # the supervisor's own list isn't for the application to change
        try:
            chosen: object = self._placement(offered, peer)
        except Exception as error:
            msg = f"the placement failed: {printable(f'{type(error).__name__}: {error}')}"
            raise WorkerError(msg) from error
        for worker in offered:
            if worker is chosen:
                return worker
        what = repr(chosen) if isinstance(chosen, WorkerLoad) else f"something of type {type(chosen).__name__}"
        msg = f"the placement gave {what}, which is none of the workers it was given"
        raise WorkerError(msg)


BUILT_IN: dict[str, Callable[[], Chooser]] = {
    "round_robin": _RoundRobin,
    "least_connections": _LeastConnections,
    "source_hash": _SourceHash,
}
