"""Redis's own load generator: what is asked of it, and what is made of its table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from bench.client import Load, LoadError
from bench.redis_load import run_redis_load

if TYPE_CHECKING:
    from pathlib import Path

LOAD = Load("redis", depth=16, work="set")
TABLE = """\
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"SET","50000.00","0.9","0.1","0.5","1.5","2.5","9.5"
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have a shell script be what is found under the program's name."""
    program = folder / "redis-benchmark"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def run(seconds: float = 2.0) -> dict[str, object]:
    """Measure this process under it."""
    return run_redis_load(LOAD, port=7, server_pids=[os.getpid()], seconds=seconds, core=None)


def test_its_table_becomes_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short run tells the pace, and the second one lasts about as long as it is to."""
    asked = tmp_path / "asked"
    install(tmp_path, monkeypatch, f"echo \"$@\" >> {asked}\ncat <<'END'\n{TABLE}END")
    answer = run()
    assert [words.split("-n ")[1].split()[0] for words in asked.read_text().splitlines()] == ["20000", "100000"]
    assert "-h 127.0.0.1 -p 7 -n 100000 -t set --csv -P 16 -c 50" in asked.read_text()
    assert (answer["count"], answer["per_s"], answer["seconds"]) == (100_000, 50_000, 2.0)
    assert (answer["p50_us"], answer["p99_us"], answer["p999_us"]) == (500, 2500, 9500)
    assert answer["client_idle_ns"] == 0


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "true"])
def test_what_is_no_table_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """The run says what the program said."""
    install(tmp_path, monkeypatch, script)
    with pytest.raises(LoadError, match="redis-benchmark said"):
        run()


def test_without_the_program_it_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without it skips these loads, and prints the reason."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadError, match="redis-tools"):
        run()
