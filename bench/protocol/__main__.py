"""`python -m bench.protocol [--instructions | --check | --record]`: ns or instructions per message."""

from __future__ import annotations

from bench.micro import guard
from bench.protocol import broadcast, cycle

if __name__ == "__main__":
    guard.main("bench.protocol", [*cycle.CASES, *broadcast.CASES])
