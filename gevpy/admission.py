"""Who gets in: the number of connections at once, in all and per address.

Counted from accept on, so that connections in a handshake count. The limit on connections stays below the limit on
descriptors, because out of descriptors asyncio writes megabytes of log and uvloop resets clients silently.
"""

from __future__ import annotations

import logging

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

from gevpy.stats import RejectReason

__all__ = ["Admission", "connection_limit"]

DEFAULT_CONNECTIONS = 10_000
RESERVED_DESCRIPTORS = 256  # for listeners, files, logs, and the application's own sockets

logger = logging.getLogger("gevpy.server")


def connection_limit(wanted: int | None) -> int:
    """Give the number of connections to admit, and raise the soft RLIMIT_NOFILE for an explicit number.

    Args:
        wanted: an explicit number, or None for min(10,000, soft RLIMIT_NOFILE - 256).

    Returns:
        At least 1; half of the descriptors where there are not even 512.
    """
    if resource is None:
        return wanted or DEFAULT_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted or DEFAULT_CONNECTIONS
    if wanted is None:
        return min(DEFAULT_CONNECTIONS, _room_in(soft))
    if _room_in(soft) < wanted:
        needed = wanted + RESERVED_DESCRIPTORS
        soft = _raise_soft_limit(soft, needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard)
    if _room_in(soft) < wanted:
        logger.warning(
            "max_connections=%d needs RLIMIT_NOFILE %d, the hard limit is %d: clamped to %d connections",
            wanted,
            wanted + RESERVED_DESCRIPTORS,
            hard,
            _room_in(soft),
        )
    return min(wanted, _room_in(soft))


def _raise_soft_limit(soft: int, wanted: int, hard: int) -> int:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # a container or another limit of the system forbids it
        return soft
    return wanted


def _room_in(descriptors: int) -> int:
    return max(descriptors - RESERVED_DESCRIPTORS, descriptors // 2, 1)


class Admission:
    """Counts who is in, and says whether one more may come.

    Args:
        max_connections: in all.
        max_per_network: from one network (see `gevpy.addresses.client_network`), or None for no cap.
    """

    def __init__(self, max_connections: int, max_per_network: int | None) -> None:
        """Begin with nobody in."""
        self.max_connections = max_connections
        self.max_per_network = max_per_network
        self.count = 0
        self._networks: dict[str, int] = {}

    def enter(self, network: str) -> RejectReason | None:
        """Let one in: None, or the reason why not."""
        if self.count >= self.max_connections:
            return RejectReason.MAX_CONNECTIONS
        refused = self.place(network)
        if refused is None:
            self.count += 1
        return refused

    def enter_unknown(self) -> RejectReason | None:
        """Let one in whose network is not known yet: None, or the reason why not. `place` follows, or `leave`."""
        if self.count >= self.max_connections:
            return RejectReason.MAX_CONNECTIONS
        self.count += 1
        return None

    def place(self, network: str) -> RejectReason | None:
        """Count one that is in by its network: None, or the reason why that has no room; it is in all the same."""
        if self.max_per_network is not None:
            here = self._networks.get(network, 0)
            if here >= self.max_per_network:
                return RejectReason.MAX_CONNECTIONS_PER_IP
            self._networks[network] = here + 1
        return None

    def leave(self, network: str | None) -> None:
        """Let one out that `enter` let in; None for one whose network was never counted."""
        self.count -= 1
        if self.max_per_network is not None and network is not None:
            here = self._networks[network] - 1
            if here:
                self._networks[network] = here
            else:
                del self._networks[network]
