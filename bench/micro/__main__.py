"""`python -m bench.micro [--instructions | --check | --record]`: ns or instructions per operation."""

from __future__ import annotations

from pathlib import Path

from bench import harness
from bench.micro import decode, ring_buffer, send, timing_wheel

if __name__ == "__main__":
    harness.main(
        "bench.micro",
        [*ring_buffer.CASES, *timing_wheel.CASES, *decode.CASES, *send.CASES],
        Path(__file__).with_name("recorded.json"),
    )
