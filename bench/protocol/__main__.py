"""`python -m bench.protocol [--instructions | --check | --record]`: ns or instructions per message."""

from __future__ import annotations

from pathlib import Path

from bench import harness
from bench.protocol import cycle

if __name__ == "__main__":
    harness.main("bench.protocol", cycle.CASES, Path(__file__).with_name("recorded.json"))
