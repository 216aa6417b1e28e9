"""Who gets a connection, who hears what is published, and a tree that serves as one."""

from __future__ import annotations

import json
import socket
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import wait_until
from tests.integration.tree_harness import Tree, ask

if TYPE_CHECKING:
    from collections.abc import Callable


def test_every_worker_serves(tree: Callable[..., Tree]) -> None:
    """Two workers share the connections by the kernel's choice, and the figures add up."""
    with tree() as server:
        seen = Counter(server.who()["slot"] for _ in range(100))
        assert set(seen) == {0, 1}
        for name in ("gevpy_connections_opened_total", "gevpy_received_messages_total"):
            # A worker that has no CPU for a second is left out of one answer, not of the next.
            wait_until(lambda: server.metric(name) >= 100, "all are counted")  # noqa: B023 - called at once
            assert server.metric(name) == 100
        assert server.get("/readyz")[0] == 200


@pytest.mark.parametrize("placement", ["round_robin", "least_connections"])
def test_placement_is_even(tree: Callable[..., Tree], placement: str) -> None:
    """A burst that is handed over is spread to within one connection (gev: 12, 80, 31 and 77 of 200)."""
    with tree(workers=3, placement=placement) as server:
        socks = [server.connect() for _ in range(90)]
        seen = Counter(json.loads(ask(sock, "who"))["slot"] for sock in socks)
        assert max(seen.values()) - min(seen.values()) <= 1, seen
        for sock in socks:
            sock.close()
        wait_until(lambda: server.stats()["total"]["connections"] == 0, "all are gone")


def test_source_hash_keeps_a_client_with_its_worker(tree: Callable[..., Tree]) -> None:
    """All connections of one address go to one worker, and those of others elsewhere, too."""
    with tree(workers=3, placement="source_hash") as server:
        homes = set()
        for number in range(2, 12):
            slots = set()
            for _ in range(3):
                source = (f"127.0.0.{number}", 0)
                with socket.create_connection(("127.0.0.1", server.port), timeout=10, source_address=source) as sock:
                    slots.add(json.loads(ask(sock, "who"))["slot"])
            assert len(slots) == 1
            homes |= slots
        assert len(homes) > 1


def test_publish_and_presence_reach_every_worker(shared_tree: Tree) -> None:
    """Subscribers on both workers get what one of them publishes, and each worker counts them all."""
    socks = [shared_tree.reach(0), shared_tree.reach(1), shared_tree.reach(1)]
    for sock in socks:
        assert ask(sock, "sub news") == "ok"
    # Who has no CPU for a second is left out of an answer.
    wait_until(lambda: ask(socks[0], "presence news") == "3", "all are counted")
    with shared_tree.reach(0) as other:
        other.sendall(b"pub news extra\n")
        assert [sock.recv(100) for sock in socks] == [b"extra\n"] * 3
    for sock in socks:
        sock.close()
