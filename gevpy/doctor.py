"""``gevpy doctor``: does this machine give a server what its limits promise?

`examine` answers with one `Finding` for each subject: what there is, and what to do where that isn't enough. It takes
the facts from `gevpy.machine`, changes nothing and prints nothing. The command prints.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import click

from gevpy import machine
from gevpy.admission import DEFAULT_CONNECTIONS, RESERVED_DESCRIPTORS, _room_in
from gevpy.build import build_info
from gevpy.machine import UNLIMITED
from gevpy.options import Limits
from gevpy.protocol import Protocol
from gevpy.worker_count import workers_option

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gevpy.build import BuildInfo

__all__ = ["Finding", "doctor_command", "examine"]

LIMITS = Limits()
FRAME_BYTES = Protocol.max_frame_bytes
BACKLOG = 2048  # what `gevpy.serve` asks for by default

WIDEST = 100  # longer lines are hard to read, however wide the terminal is


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found on one subject.

    Attributes:
        subject: what it is about, in a word or two.
        fact: what there is, and what follows from it.
        advice: what to do about it; empty where nothing must be done.
    """

    subject: str
    fact: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing must be done."""
        return not self.advice


def examine(
    workers: int,
    *,
    max_connections: int | None = None,
    max_write_buffer_bytes: int = LIMITS.max_write_buffer_bytes,
    proc: Path = machine.PROC,
    cgroups: Path = machine.CGROUPS,
) -> list[Finding]:
    """Examine this machine for a server with these options. Only reads; safe from any thread.

    Args:
        workers: how many it would have, at least 1.
        max_connections: of each worker, as in `Limits`; None for the default.
        max_write_buffer_bytes: as in `Limits`.
        proc: where the kernel shows processes and settings.
        cgroups: where the kernel shows what groups of processes may use.

    Returns:
        One finding for each subject that can be judged here. A subject that is not known on this system, or that
        matters to nobody at the moment, has none.

    Raises:
        ConfigError: as for `build_info`.

    Example:
        >>> [finding.subject for finding in examine(1) if not finding.ok]  # doctest: +SKIP
        ['descriptors']
    """
    soft, hard = machine.descriptor_limits()
    admitted = _admitted(max_connections, soft, hard)
    build = build_info()
    findings = (
        _build(build),
        _loop(build),
        _cpus(workers, machine.available_cpus(), machine.cpu_quota(proc, cgroups)),
        _descriptors(max_connections, soft, hard),
        _memory(workers, admitted, max_write_buffer_bytes, machine.memory(proc, cgroups)),
        _accept_queue(machine.setting("net.core.somaxconn", proc)),
        _overflows(machine.listen_overflows(proc)),
        _ports(workers * admitted, machine.ephemeral_ports(proc)),
        _migration(machine.setting("net.ipv4.tcp_migrate_req", proc)),
    )
    return [finding for finding in findings if finding is not None]


# -- judgement -------------------------------------------------------------------------------------


def _build(build: BuildInfo) -> Finding:
    if build.compiled:
        return Finding("build", "compiled")
    fact = "pure Python: what runs for every message isn't compiled, and takes up to 6 times as long"
    if os.environ.get("GEVPY_PURE_PYTHON"):
        return Finding("build", fact, "unset GEVPY_PURE_PYTHON, which asks for that")
    return Finding("build", fact, "install gevpy again with GEVPY_BUILD=required; pip -v then shows what is missing")


def _loop(build: BuildInfo) -> Finding:
    if build.loop.startswith("uvloop"):
        return Finding("loop", build.loop)
    if sys.platform == "win32" or platform.python_implementation() == "PyPy":
        return Finding("loop", f"{build.loop}; there is no uvloop for this system")
    fact = f"{build.loop}, which is slower than uvloop"
    choice = os.environ.get("GEVPY_LOOP")
    return Finding("loop", fact, f"unset GEVPY_LOOP={choice}" if choice else "pip install uvloop; gevpy then uses it")


def _cpus(workers: int, cpus: int, quota: float | None) -> Finding:
    usable = min(cpus, quota or math.inf)
    fits = max(1, math.floor(usable))
    fact = f"{_count(workers, 'worker')} on {_count(cpus, 'CPU')}"
    if usable < cpus:
        fact += f", of which the cgroup grants the time of {usable:.3g}"
    if workers < fits:
        more = 'workers="auto" would use them all' if usable == cpus else f"{_count(fits, 'worker')} would use it"
        return Finding("CPUs", f"{fact}; {more}")
    if workers <= usable:
        return Finding("CPUs", fact)
    if usable == cpus:
        return Finding("CPUs", fact, f"make it {_count(cpus, 'worker')}: more only take turns on the same CPUs")
    fewer = f"make it {_count(fits, 'worker')}, or " if fits < workers else ""
    why = "whoever has used up a quota stands still, up to 0.1 s each time"
    return Finding("CPUs", fact, f"{fewer}raise the quota to {_count(workers, 'CPU')}: {why}")


def _admitted(wanted: int | None, soft: int, hard: int) -> int:
    """Give the number of connections that `connection_limit` would come to, without its raising anything."""
    if wanted is None:
        return min(DEFAULT_CONNECTIONS, _room_in(soft))
    return min(wanted, _room_in(max(soft, min(wanted + RESERVED_DESCRIPTORS, hard))))


def _descriptors(wanted: int | None, soft: int, hard: int) -> Finding:
    admitted = _admitted(wanted, soft, hard)
    aim = wanted or DEFAULT_CONNECTIONS
    fact = f"{_count(admitted, 'connection')} at once in each worker"
    if admitted < aim:
        fact += f", not {aim:,}"
    fact += f" (soft limit {_limit(soft)}, hard limit {_limit(hard)})"
    if admitted == aim:
        raised = wanted is not None and _room_in(soft) < wanted
        return Finding("descriptors", f"{fact}; gevpy raises the soft limit for that" if raised else fact)
    needed = aim + RESERVED_DESCRIPTORS
    if hard >= needed:
        return Finding("descriptors", fact, f"say max_connections={aim}: gevpy then raises the soft limit by itself")
    where = f"LimitNOFILE={needed} in a systemd unit, --ulimit nofile={needed} for docker run, or ulimit -n {needed}"
    return Finding("descriptors", fact, f"raise the hard limit to {needed}: {where} as root")


def _memory(workers: int, admitted: int, write_buffer: int, there_is: tuple[int, str] | None) -> Finding:
    each = write_buffer + 2 * FRAME_BYTES
    worst = workers * admitted * each
    fact = (
        f"at worst {_bytes(worst)} = {_count(workers, 'worker')} x {_count(admitted, 'connection')} x "
        f"({_bytes(write_buffer)} of waiting output + {_bytes(FRAME_BYTES)} of one message beyond it + "
        f"{_bytes(FRAME_BYTES)} of a frame that has come in part)"
    )
    if there_is is None:
        return Finding("memory", fact)
    size, whose = there_is
    fact += f"; {whose} {_bytes(size)}"
    if worst <= size:
        return Finding("memory", fact)
    fewer = _rounded_down(max(1, size // (workers * each)))
    smaller = _rounded_down(size // (workers * admitted) - 2 * FRAME_BYTES)
    choice = f"max_connections={fewer}" + (f" or max_write_buffer_bytes={smaller}" if smaller > 0 else "")
    return Finding("memory", fact, f"{choice} would fit; as it is, peers that don't read can use up all memory")


def _accept_queue(somaxconn: int | None) -> Finding | None:
    if somaxconn is None:
        return None
    if somaxconn >= BACKLOG:
        return Finding("accept queue", f"net.core.somaxconn={somaxconn}: gevpy's backlog of {BACKLOG} fits")
    return Finding(
        "accept queue",
        f"net.core.somaxconn={somaxconn} cuts gevpy's backlog of {BACKLOG}: whom a burst finds without a place has "
        "to try again, a second later or more",
        f"sysctl -w net.core.somaxconn={2 * BACKLOG}, and the same in a file of /etc/sysctl.d/ to keep it",
    )


def _overflows(count: int) -> Finding | None:
    if not count:
        return None
    return Finding(
        "overflows",
        f"{_count(count, 'connection')} met a full accept queue since the machine started, of whichever server. If "
        "TcpExtListenOverflows (nstat -az) grows while gevpy serves, it needs more workers or a larger backlog",
    )


def _ports(connections: int, ports: int | None) -> Finding | None:
    if ports is None or connections <= ports:
        return None
    return Finding(
        "ports",
        f"net.ipv4.ip_local_port_range has {ports:,}: one address, such as a proxy's, can't open more connections than "
        f"that to one port, and {connections:,} are admitted. Many peers with addresses of their own can",
    )


def _migration(setting: int | None) -> Finding | None:
    if setting is None:
        return None
    fact = f"net.ipv4.tcp_migrate_req={setting}: workers don't need it, their supervisor keeps the listening sockets"
    if not setting:
        fact += ". Single servers that share a port by reuse_port=True lose fewer connections when it is 1"
    return Finding("migration", fact)


# -- words -----------------------------------------------------------------------------------------


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _limit(descriptors: int) -> str:
    return "none" if descriptors == UNLIMITED else f"{descriptors:,}"


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1000:  # noqa: PLR2004 - more than three digits are no figure to grasp
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def _rounded_down(number: int) -> int:
    """Keep two digits: a proposal should look like one."""
    step: int = 10 ** max(0, len(str(number)) - 2)
    return number // step * step


def _shown(findings: list[Finding], width: int) -> Iterator[str]:
    """Lay findings out: marks and subjects in columns, text wrapped beside them."""
    subjects = max(len(finding.subject) for finding in findings)
    indent = " " * (subjects + 6)
    for finding in findings:
        mark = click.style("ok", fg="green") if finding.ok else click.style("! ", fg="yellow", bold=True)
        margin = f"{mark}  {finding.subject:<{subjects}}  "
        for line in _wrapped(finding.fact, width - len(indent)):
            yield margin + line
            margin = indent
        margin = f"{indent}-> "
        for line in _wrapped(finding.advice, width - len(margin)):
            yield margin + click.style(line, bold=True)
            margin = f"{indent}   "


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(20, width), break_long_words=False, break_on_hyphens=False)


# -- the command -----------------------------------------------------------------------------------


@click.command("doctor", short_help="Say whether this machine is set up for a server.")
@workers_option("Worker processes that the server would have")
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Connections at once in each worker; default: {DEFAULT_CONNECTIONS}, or what the descriptor limit allows.",
)
@click.option(
    "--max-write-buffer",
    type=click.IntRange(min=1),
    default=LIMITS.max_write_buffer_bytes,
    show_default=True,
    metavar="BYTES",
    help="Output that may wait on one connection.",
)
def doctor_command(workers: int | Literal["auto"], max_connections: int | None, max_write_buffer: int) -> None:
    """Say whether this machine is set up for a server.

    Build and loop, CPUs, descriptors, memory at worst, and settings of the kernel: each line is "ok" or says what to
    do. Nothing is changed. Exit code 0 if nothing must be done, 1 otherwise.
    """
    count = machine.usable_workers() if workers == "auto" else workers
    findings = examine(count, max_connections=max_connections, max_write_buffer_bytes=max_write_buffer)
    click.echo(f"{build_info()}, {_count(count, 'worker')}\n")
    for line in _shown(findings, min(shutil.get_terminal_size().columns, WIDEST)):
        click.echo(line)
    to_do = sum(not finding.ok for finding in findings)
    click.echo(f"\n{_count(to_do, 'thing')} to do." if to_do else "\nNothing to do.")
    if to_do:
        sys.exit(1)
