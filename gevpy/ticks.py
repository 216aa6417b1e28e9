"""The tick: what idle time and deadlines are counted in.

Timeouts round up to whole ticks of 100 ms. The wheel turns twice in each, so that what is over is never missed by more
than one tick; numbers of ticks everywhere else are such turns, of 50 ms.
"""

from __future__ import annotations

import math

__all__ = ["TURNS_PER_S", "TURN_S", "ticks_for"]

TICK_S = 0.1
TURN_S = TICK_S / 2
TURNS_PER_S = 20


def ticks_for(seconds: float | None) -> int:
    """Give the turns of the wheel after which ``seconds`` are surely over; 0 for None, which turns a timeout off."""
    return 0 if seconds is None else 2 * math.ceil(round(seconds / TICK_S, 6)) + 2
