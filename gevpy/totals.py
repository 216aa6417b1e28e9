"""What all workers of a server have counted together, those that are gone included: no counter ever falls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gevpy.blocked import BlockedSeconds
from gevpy.metrics.snapshot import Snapshot, total

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Totals"]


class Totals:
    """The sums of one supervisor. On its loop only.

    Attributes:
        past: what workers that are gone have counted.
    """

    def __init__(self) -> None:
        """Begin at zero."""
        self.past = Snapshot.empty()
        self._kinds = BlockedSeconds()

    def admit(self, snapshot: Snapshot) -> None:
        """Bound the kinds of message in a worker's blocked seconds: 32 for all workers that ever were.

        A kind that was admitted once stays so; the others' seconds go to ``"other"``.
        """
        blocked: dict[str, float] = {}
        for place, seconds in snapshot.blocked.items():
            where, _, kind = place.partition("|")
            admitted = f"{where}|{self._kinds.admit(kind)}"
            blocked[admitted] = blocked.get(admitted, 0.0) + seconds
        snapshot.blocked = blocked

    def retire(self, snapshot: Snapshot) -> None:
        """Keep what a worker that is gone has counted."""
        self.past.add_counters(snapshot)
        if snapshot.families:
            from gevpy.metrics.merge import retired  # noqa: PLC0415 - prometheus_client loads on first use

            self.past.families = retired(self.past.families, snapshot.families)

    def of(self, snapshots: Iterable[Snapshot]) -> Snapshot:
        """Add up what workers have counted, and those that are gone."""
        whole = total(snapshots)
        whole.add_counters(self.past)
        return whole
