"""What ``gevpy doctor`` says of machines: one that is fine, and what to do about each thing that isn't."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from gevpy import doctor, machine
from gevpy.build import BuildInfo
from gevpy.doctor import Finding, doctor_command, examine
from gevpy.errors import ConfigError
from gevpy.options import ServeOptions
from tests.programs import Program

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1024**3
MIB = 1024**2


@dataclass
class Machine:
    """A machine to be examined: a good one, unless changed."""

    root: Path
    cpus: int = 4
    descriptors: tuple[int, int] = (20_000, 100_000)
    compiled: bool = True
    loop: str = "uvloop 0.23.0"
    files: dict[str, str] = field(
        default_factory=lambda: {
            "proc/meminfo": f"MemTotal: {64 * GIB // 1024} kB",
            "proc/self/cgroup": "0::/",
            "proc/net/netstat": "TcpExt: ListenOverflows\nTcpExt: 0",
            "proc/sys/net/core/somaxconn": "4096",
            "proc/sys/net/ipv4/tcp_migrate_req": "1",
            "proc/sys/net/ipv4/ip_local_port_range": "1024 65535",
        }
    )

    def examine(self, workers: int = 2, **options: Any) -> dict[str, Finding]:
        """Examine it; the findings by their subjects."""
        for name, text in self.files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        found = examine(workers, proc=self.root / "proc", cgroups=self.root / "cgroup", **options)
        subjects = {finding.subject: finding for finding in found}
        assert len(subjects) == len(found)
        return subjects


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Give a good machine, which is what is examined from now on."""
    made = Machine(tmp_path)
    monkeypatch.setattr(machine, "available_cpus", lambda: made.cpus)
    monkeypatch.setattr(machine, "descriptor_limits", lambda: made.descriptors)
    monkeypatch.setattr(doctor, "build_info", lambda: BuildInfo("0.1.0", made.compiled, made.loop, "CPython 3.11.7"))
    monkeypatch.delenv("GEVPY_LOOP", raising=False)
    monkeypatch.delenv("GEVPY_PURE_PYTHON", raising=False)
    return made


def test_a_good_machine_needs_nothing(computer: Machine) -> None:
    """Every subject is ok, and those that matter to nobody are not there."""
    found = computer.examine()
    assert list(found) == ["build", "loop", "CPUs", "descriptors", "memory", "accept queue", "migration"]
    assert all(finding.ok for finding in found.values())


def test_a_system_that_tells_nothing_is_no_error(computer: Machine) -> None:
    """Without ``/proc`` what can't be judged is left out."""
    computer.files = {}
    found = computer.examine()
    assert list(found) == ["build", "loop", "CPUs", "descriptors", "memory"]
    assert all(finding.ok for finding in found.values())


# -- build and loop ------------------------------------------------------------------------------------------------


def test_a_pure_build_is_told_how_to_be_compiled(computer: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody asked for it: how not to."""
    computer.compiled = False
    assert "GEVPY_BUILD=required" in computer.examine()["build"].advice
    monkeypatch.setenv("GEVPY_PURE_PYTHON", "1")
    assert computer.examine()["build"].advice.startswith("unset GEVPY_PURE_PYTHON")


def test_the_slower_loop_is_told_how_to_be_uvloop(computer: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody asked for it: how not to; where there is no uvloop: that."""
    computer.loop = "asyncio"
    assert "pip install uvloop" in computer.examine()["loop"].advice
    monkeypatch.setenv("GEVPY_LOOP", "asyncio")
    assert computer.examine()["loop"].advice == "unset GEVPY_LOOP=asyncio"
    monkeypatch.setattr("sys.platform", "win32")
    assert computer.examine()["loop"].ok


# -- CPUs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "quota", "fact", "advice"),
    [
        (4, "max", "4 workers on 4 CPUs", ""),
        (1, "max", '1 worker on 4 CPUs; workers="auto" would use them all', ""),
        (5, "max", "5 workers on 4 CPUs", "make it 4 workers"),
        (2, "200000", "of which the cgroup grants the time of 2", ""),
        (1, "250000", "of which the cgroup grants the time of 2.5; 2 workers would use it", ""),
        (3, "250000", "grants the time of 2.5", "make it 2 workers, or raise the quota to 3 CPUs"),
        (1, "50000", "1 worker on 4 CPUs, of which the cgroup grants the time of 0.5", "raise the quota to 1 CPU:"),
        (4, "900000", "4 workers on 4 CPUs", ""),
    ],
)
def test_workers_are_held_against_cpus_and_quota(
    computer: Machine, workers: int, quota: str, fact: str, advice: str
) -> None:
    """One for each CPU whose time there is; more is advised against, less is only remarked."""
    computer.files["cgroup/cpu.max"] = f"{quota} 100000"
    found = computer.examine(workers)["CPUs"]
    assert fact in found.fact
    assert found.ok is not bool(advice)
    assert found.advice.startswith(advice)


# -- descriptors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "wanted", "fact", "advice"),
    [
        (
            (20_000, 100_000),
            None,
            "10,000 connections at once in each worker (soft limit 20,000, hard limit 100,000)",
            "",
        ),
        (
            (machine.UNLIMITED, machine.UNLIMITED),
            None,
            "10,000 connections at once in each worker (soft limit none, hard limit none)",
            "",
        ),
        (
            (1024, 100_000),
            None,
            "768 connections at once in each worker, not 10,000 (soft",
            "say max_connections=10000",
        ),
        (
            (1024, 4096),
            None,
            "768 connections at once in each worker, not 10,000 (soft",
            "raise the hard limit to 10256",
        ),
        (
            (1024, 100_000),
            50_000,
            "50,000 connections at once in each worker (soft limit 1,024, hard limit 100,000); gevpy raises the soft",
            "",
        ),
        (
            (1024, machine.UNLIMITED),
            50_000,
            "(soft limit 1,024, hard limit none); gevpy raises the soft limit for that",
            "",
        ),
        ((1024, 4096), 50_000, "3,840 connections at once in each worker, not 50,000", "raise the hard limit to 50256"),
        ((20_000, 20_000), 100, "100 connections at once", ""),
        ((20_000, 20_000), 1, "1 connection at once", ""),
        ((100, 100), None, "50 connections at once in each worker, not 10,000", "raise the hard limit to 10256"),
    ],
)
def test_descriptors_say_how_many_connections_follow(
    computer: Machine, limits: tuple[int, int], wanted: int | None, fact: str, advice: str
) -> None:
    """As `connection_limit` would have it, and the way to more where that is less than wanted."""
    computer.descriptors = limits
    found = computer.examine(max_connections=wanted)["descriptors"]
    assert fact in found.fact
    assert found.ok is not bool(advice)
    assert found.advice.startswith(advice)


# -- memory --------------------------------------------------------------------------------------------------------


def test_memory_explains_its_sum(computer: Machine) -> None:
    """Workers, connections, output, a message beyond it and a part frame."""
    fact = computer.examine(2)["memory"].fact
    assert fact.startswith(
        "at worst 22 GiB = 2 workers x 10,000 connections x (1 MiB of waiting output + 64 KiB of one message"
    )
    assert fact.endswith("; this machine has 64 GiB")
    fact = computer.examine(1, max_connections=1000, max_write_buffer_bytes=128 * 1024)["memory"].fact
    assert fact.startswith("at worst 250 MiB = 1 worker x 1,000 connections x (128 KiB of waiting output + ")
    assert computer.examine(128, max_connections=19_000)["memory"].fact.startswith("at worst 2.6 TiB = 128 workers")


def test_what_memory_is_advised_would_fit(computer: Machine) -> None:
    """Either number alone brings the worst case below what there is, and not far below."""
    computer.files["cgroup/memory.max"] = str(512 * MIB)
    found = computer.examine(2)["memory"]
    assert "the cgroup may use 512 MiB" in found.fact
    numbers = re.match(r"max_connections=(\d+) would fit", found.advice)
    assert numbers is not None
    assert computer.examine(2, max_connections=int(numbers[1]))["memory"].ok
    assert not computer.examine(2, max_connections=int(numbers[1]) + 20)["memory"].ok

    computer.files["cgroup/memory.max"] = str(8 * GIB)
    found = computer.examine(2)["memory"]
    numbers = re.match(r"max_connections=(\d+) or max_write_buffer_bytes=(\d+) would", found.advice)
    assert numbers is not None
    assert computer.examine(2, max_connections=int(numbers[1]))["memory"].ok
    assert computer.examine(2, max_write_buffer_bytes=int(numbers[2]))["memory"].ok
    assert not computer.examine(2, max_write_buffer_bytes=int(numbers[2]) * 2)["memory"].ok


# -- the kernel ----------------------------------------------------------------------------------------------------


def test_a_short_accept_queue_is_told_how_to_grow(computer: Machine) -> None:
    """The kernel cuts the backlog at somaxconn, 128 on older ones."""
    computer.files["proc/sys/net/core/somaxconn"] = "128"
    found = computer.examine()["accept queue"]
    assert "net.core.somaxconn=128 cuts gevpy's backlog of 2048" in found.fact
    assert "sysctl -w net.core.somaxconn=4096" in found.advice
    computer.files["proc/sys/net/core/somaxconn"] = "2048"
    assert computer.examine()["accept queue"].ok


def test_the_backlog_is_the_one_of_serve() -> None:
    """The number here and the default there are one."""
    assert {option.name: option.default for option in fields(ServeOptions)}["backlog"] == doctor.BACKLOG


def test_past_overflows_are_told_but_ask_for_nothing(computer: Machine) -> None:
    """They are of any server since the machine started: nothing one could mend now."""
    computer.files["proc/net/netstat"] = "TcpExt: ListenOverflows\nTcpExt: 1234"
    found = computer.examine()["overflows"]
    assert found.fact.startswith("1,234 connections met a full accept queue")
    assert found.ok


def test_ports_matter_from_their_number_on(computer: Machine) -> None:
    """A proxy has so many towards one port."""
    computer.files["proc/sys/net/ipv4/ip_local_port_range"] = "32768 60999"
    assert "ports" not in computer.examine(2)
    found = computer.examine(3)["ports"]
    assert "28,232" in found.fact
    assert "30,000" in found.fact
    assert found.ok


@pytest.mark.parametrize("setting", ["0", "1"])
def test_migration_is_never_a_must(computer: Machine, setting: str) -> None:
    """With workers the supervisor keeps the sockets; single servers on one port are told."""
    computer.files["proc/sys/net/ipv4/tcp_migrate_req"] = setting
    found = computer.examine()["migration"]
    assert found.ok
    assert ("reuse_port=True" in found.fact) is (setting == "0")


# -- the command ---------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, columns: int = 80, color: bool = False) -> tuple[int, str]:
    """Run the command in a terminal of that width; give exit code and output."""
    monkeypatch.setenv("COLUMNS", str(columns))
    done = CliRunner().invoke(doctor_command, arguments, color=color)
    return done.exit_code, done.output


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Give the list of what the command will find."""
    found = [Finding("loop", "uvloop 0.23.0"), Finding("accept queue", "long " * 30, "mend it, " * 20)]
    monkeypatch.setattr(doctor, "examine", lambda *_, **__: found)
    return found


def test_the_exit_code_tells_whether_something_is_to_do(
    monkeypatch: pytest.MonkeyPatch, findings: list[Finding]
) -> None:
    """1 if so, 0 if not, and the last line says it."""
    code, output = run(monkeypatch)
    assert code == 1
    assert output.endswith("\n1 thing to do.\n")
    del findings[1]
    code, output = run(monkeypatch)
    assert code == 0
    assert output.endswith("\nNothing to do.\n")


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.usefixtures("findings")
def test_findings_stand_in_columns(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Marks and subjects on the left, text beside them, wrapped to the terminal and never wider than 100."""
    _, output = run(monkeypatch, columns=columns)
    lines = output.splitlines()[2:-2]
    assert lines[0] == "ok  loop          uvloop 0.23.0"
    assert lines[1].startswith("!   accept queue  long long ")
    assert lines[2].startswith("                  long ") is (columns < 200 or len(lines) > 3)
    assert sum(line.startswith("                  -> mend") for line in lines) == 1
    assert max(map(len, lines)) <= min(columns, 100)


@pytest.mark.usefixtures("findings")
def test_colour_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes no room there."""
    _, plain = run(monkeypatch)
    _, coloured = run(monkeypatch, color=True)
    assert "\x1b" not in plain
    assert "\x1b" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_options_reach_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names of the command line, and ``auto`` is what the machine has."""
    asked: list[Any] = []

    def examined(*workers: int, **options: Any) -> list[Finding]:
        asked.append((workers, options))
        return [Finding("loop", "uvloop")]

    monkeypatch.setattr(doctor, "examine", examined)
    monkeypatch.setattr(machine, "available_cpus", lambda: 7)
    run(monkeypatch)
    assert "7 workers" in run(monkeypatch, "--workers", "auto", "--max-connections", "5", "--max-write-buffer", "6")[1]
    assert asked == [
        ((1,), {"max_connections": None, "max_write_buffer_bytes": MIB}),
        ((7,), {"max_connections": 5, "max_write_buffer_bytes": 6}),
    ]


@pytest.mark.parametrize("workers", ["0", "129", "-1", "many", "1.5", "1" * 5000, ""])
def test_a_bad_number_of_workers_is_refused(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    """With the line that says what would do."""
    code, output = run(monkeypatch, f"--workers={workers}", columns=10_000)
    assert code == 2
    assert '--workers must be a number from 1 to 128, or "auto", not' in output


def test_an_unknown_loop_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """``GEVPY_LOOP`` is refused as everywhere."""
    monkeypatch.setenv("GEVPY_LOOP", "trio")
    with pytest.raises(ConfigError, match="GEVPY_LOOP='trio' is unknown"):
        examine(1)


def test_this_machine_can_be_examined() -> None:
    """Whatever it is: plain lines, and one of the two exit codes."""
    with Program("-c", "from gevpy.doctor import doctor_command; doctor_command()") as program:
        assert program.wait() in (0, 1)
    assert re.match(r"gevpy \d.*, 1 worker\n\n(ok|! )  build ", program.output)
    assert "\x1b" not in program.output
