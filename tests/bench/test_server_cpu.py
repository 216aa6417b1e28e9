"""The CPU that processes spend, by their clocks and by the kernel's ticks."""

from __future__ import annotations

import os
import sys
import time

import pytest

from bench.server_cpu import ServerCpu, cpu_seconds

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")


def test_what_is_spent_is_counted() -> None:
    """Of each process and in all, in nanoseconds and in ticks."""
    server = ServerCpu([os.getpid(), os.getpid()])
    began = time.process_time()
    while time.process_time() - began < 0.05:
        pass
    spent = server.spent()
    assert all(each >= 50_000_000 for each in spent["server_cpu_each_ns"])
    assert spent["server_cpu_ns"] == sum(spent["server_cpu_each_ns"])
    assert spent["server_user_ticks"] + spent["server_system_ticks"] > 0


def test_a_process_clock_goes_on() -> None:
    """It is this process's own clock."""
    before = time.process_time()
    assert cpu_seconds(os.getpid()) >= before
