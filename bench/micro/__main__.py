"""`python -m bench.micro [--instructions | --check | --record]`: ns or instructions per operation."""

from __future__ import annotations

from bench.micro import decode, guard, masker, ring_buffer, send, timing_wheel

if __name__ == "__main__":
    guard.main("bench.micro", [*ring_buffer.CASES, *timing_wheel.CASES, *decode.CASES, *send.CASES, *masker.CASES])
