"""Running a suite: servers on one core, the client on another, round by round."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.client import LoadError, run_load
from bench.idle import measure_idle, measure_wheel, wheel_seconds
from bench.machine import Cores, busy_seconds, choose_cores, describe
from bench.progress import Progress
from bench.redis_load import run_redis_load
from bench.results import Results, Sample, sample_of
from bench.servers import SERVERS, Running, Unavailable, running
from bench.tls_load import run_tls_load
from bench.workers import worker_steps

if TYPE_CHECKING:
    from bench.client import Load
    from bench.suites import Block, IdleTask, Suite
    from bench.workers import WorkerStep

__all__ = ["measure"]

START_S = 0.6
OVERHEAD_S = 0.45
IDLE_S = 5.0
CLIENTS = {"redis": run_redis_load, "tls": run_tls_load}
"""Who makes the load, by its mode; `loadgen` where none is named."""


def measure(suite: Suite) -> Results:
    """Run `suite` and return what it found."""
    return _Run(suite).run()


@dataclass(slots=True)
class _Run:
    """One run of a suite; `Results` grow as it goes."""

    suite: Suite
    cores: Cores = field(default_factory=choose_cores)
    results: Results = field(init=False)
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        suite = self.suite
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        self.results = Results(suite.name, now, describe().as_dict(), suite.seconds)
        rounds = range(1, suite.rounds + 1)
        turns = [(block, name) for number in rounds for block in suite.blocks for name in block.turn(number)]
        loads = sum(len(block.loads) for block, _ in turns)
        of_workers = worker_steps(suite.workers)
        steps = loads + len(suite.idle) + (1 if suite.wheel_connections else 0) + len(of_workers)
        planned = loads * (suite.seconds + OVERHEAD_S) + len(turns) * START_S
        planned += len(suite.idle) * IDLE_S + wheel_seconds(suite) + sum(step.planned_s for step in of_workers)
        self.progress = Progress(steps, planned)

    def run(self) -> Results:
        for number in range(1, self.suite.rounds + 1):
            for block in self.suite.blocks:
                self._block(block, number)
        for task in self.suite.idle:
            self._idle(task)
        if self.suite.wheel_connections:
            self._wheel()
        for step in worker_steps(self.suite.workers):
            self._workers(step)
        return self.results

    def _block(self, block: Block, number: int) -> None:
        """Start all servers of a block, and have them take turns at each of its loads."""
        with contextlib.ExitStack() as stack:
            servers = {name: self._started(stack, block, name) for name in block.turn(number)}
            for load in block.loads:
                for name, server in servers.items():
                    self._load(block, server, load, (name, number))

    def _started(self, stack: contextlib.ExitStack, block: Block, name: str) -> Running | None:
        """Start a server, or note why it cannot run; what is known is not tried again."""
        load = block.loads[0]
        key = f"{name}, {load.protocol}"
        if key in self.results.skipped:
            return None
        try:
            protocol = SERVERS[name].load(load).protocol
            server = stack.enter_context(running(SERVERS[name], protocol, core=self.cores.server))
        except Unavailable as reason:
            self.results.skipped[key] = str(reason)
            return None
        self.results.servers.setdefault(name, server.facts)
        return server

    def _load(self, block: Block, server: Running | None, load: Load, where: tuple[str, int]) -> None:
        name, number = where
        what = f"round {number}/{self.suite.rounds}  {load.title}: {name}"
        planned_s = self.suite.seconds + OVERHEAD_S + START_S / len(block.loads)
        if server is None:
            self.progress.skip(what, planned_s, self.results.skipped[f"{name}, {load.protocol}"])
            return
        self.progress.step(what, planned_s)
        try:
            sample = self._sample(server, load, where)
        except LoadError as error:
            reason = f"{error}; the server's last words: {server.last_words()}"
            self.results.skipped[f"{name}, {load.title}"] = reason
            self.progress.result(f"failed: {reason}")
            return
        self.results.samples.append(sample)
        self.progress.result(f"{sample.cpu_us:8.3f} us CPU, {sample.per_s:11,.0f}/s")

    def _sample(self, server: Running, load: Load, where: tuple[str, int]) -> Sample:
        began, busy = time.monotonic(), busy_seconds()
        run = CLIENTS.get(load.mode, run_load)
        raw = run(
            SERVERS[where[0]].load(load),
            port=server.port,
            server_pids=server.pids,
            seconds=self.suite.seconds,
            core=self.cores.client,
        )
        elapsed, busy = time.monotonic() - began, busy_seconds() - busy
        ours = (raw["server_cpu_ns"] + raw["client_cpu_ns"]) / 1e9 / raw["seconds"]
        return sample_of(*where, load, raw, max(0.0, busy / elapsed - ours))

    def _idle(self, task: IdleTask) -> None:
        self.progress.step(task.name, IDLE_S)
        try:
            kilobytes = measure_idle(task, self.suite.idle_connections, self.cores)
        except (Unavailable, LoadError) as reason:
            self.results.skipped[task.name] = str(reason)
            self.progress.result(f"skipped: {reason}")
            return
        self.results.values[task.name] = kilobytes
        self.progress.result(f"{kilobytes:8.2f} KB per connection")

    def _wheel(self) -> None:
        self.progress.step("idle connections under the wheel: gevpy", wheel_seconds(self.suite))
        try:
            values = measure_wheel(self.suite, self.cores)
        except (Unavailable, LoadError) as reason:
            self.results.skipped["wheel"] = str(reason)
            self.progress.result(f"skipped: {reason}")
            return
        self.results.values |= values
        self.progress.result(f"{values['wheel CPU']:8.3f} % of a core")

    def _workers(self, step: WorkerStep) -> None:
        tasks = self.suite.workers
        assert tasks is not None, "a suite without has no such step"
        self.progress.step(step.name, step.planned_s)
        try:
            values = step.measure(tasks, self.cores)
        except Unavailable as reason:
            self.results.skipped[step.name] = str(reason)
            self.progress.result(f"skipped: {reason}")
            return
        self.results.values |= values
        self.progress.result(f"{step.headline}: {values[step.headline]:g}")
