"""The broadcast load: everybody must get every message once, in order, and it counts what was delivered."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from bench.client import Load, LoadError, build_loadgen, run_load
from bench.servers import SERVERS, Unavailable, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the load generator is built by gcc"),
    pytest.mark.timeout(60),
]

DEADLINE_S = 10.0
SECONDS = 0.05
CONNECTIONS = 3
LOAD = Load(size=64, depth=4, connections=CONNECTIONS, work="broadcast")


@pytest.fixture(autouse=True)
def built() -> None:
    """Build it, if nobody has."""
    build_loadgen()


@contextmanager
def spreading(spread: Callable[[bytes, int], bytes]) -> Iterator[int]:
    """Serve clients, the first of which asks for broadcasts; give the port."""

    def serve() -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(listener.accept()[0]) for _ in range(CONNECTIONS)]
            clients[0].settimeout(DEADLINE_S)
            try:
                while data := clients[0].recv(65536):
                    for number, client in enumerate(clients):
                        client.sendall(spread(data, number))
            except OSError:  # the client has noticed
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(DEADLINE_S)
    assert not thread.is_alive()


def honest(data: bytes, _number: int) -> bytes:
    """Send a message as often as its first byte says."""
    return data * data[0]


def run(port: int, load: Load = LOAD, seconds: float = SECONDS) -> dict[str, Any]:
    """Put a small load on a port."""
    return run_load(load, port=port, server_pids=[os.getpid()], seconds=seconds, core=None)


def test_what_was_delivered_is_counted() -> None:
    """Whole turns only: each of them reached everybody."""
    with spreading(honest) as port:
        found = run(port)
    assert found["count"] > 0
    assert found["count"] % (CONNECTIONS * LOAD.depth) == 0


def altered(data: bytes, number: int) -> bytes:
    """Change the last bit for one of them."""
    whole = honest(data, number)
    return whole if number < CONNECTIONS - 1 else whole[:-1] + bytes([whole[-1] ^ 1])


@pytest.mark.parametrize(
    ("spread", "complaint"),
    [
        pytest.param(altered, "connection 2: wrong bytes near message", id="altered for one"),
        pytest.param(lambda data, _: data * (data[0] + 1), "more bytes came back than were sent", id="once too often"),
    ],
)
def test_a_wrong_broadcast_ends_the_run(spread: Callable[[bytes, int], bytes], complaint: str) -> None:
    """A message that somebody gets altered, or once too often, is an error, not a number."""
    with spreading(spread) as port, pytest.raises(LoadError, match=complaint):
        run(port)


def test_the_broadcast_of_an_earlier_turn_is_noticed() -> None:
    """Contents depend on the turn."""
    turns: list[bytes] = []

    def first_again(data: bytes, number: int) -> bytes:
        turns.append(data)
        return honest(turns[0], number)

    with spreading(first_again) as port, pytest.raises(LoadError, match="wrong bytes"):
        run(port, seconds=DEADLINE_S)


@pytest.mark.parametrize("name", ["gevpy", "floor", "picows", "websockets"])
def test_the_servers_broadcast(name: str) -> None:
    """Over WebSocket, as they are measured, to fewer."""
    load = Load("websocket", size=128, depth=10, connections=20, work="broadcast")
    try:
        with running(SERVERS[name], load.protocol, core=None) as server:
            found = run(server.port, load)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert found["count"] % 200 == 0
    assert found["count"] > 0


def test_it_has_a_title_of_its_own() -> None:
    """One table for single ones, another for several in a turn."""
    titles = [Load("websocket", 128, depth, 2000, "broadcast").title for depth in (1, 10)]
    assert titles == ["broadcast of 128 B to 2,000, 1 in a turn", "broadcast of 128 B to 2,000, 10 in a turn"]
