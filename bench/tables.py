"""The tables that end a run, as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.client import Load
    from bench.results import Cell, Results

__all__ = ["tables"]

NOISY_CORES = 0.15
CLIENT_BOUND = 0.97
SERVER_BOUND = 0.95
_ANSWERS = {True: "yes", False: "NO", None: "-"}


def tables(results: Results) -> str:
    """Return everything a run found, for people."""
    parts = [_heading(results)]
    parts += [_load_table(results, load) for load in results.loads()]
    if results.values:
        parts.append(_values(results))
    parts.append(_figures(results))
    if results.skipped:
        parts.append("Skipped:\n" + "\n".join(f"  {k}: {v}" for k, v in results.skipped.items()))
    return "\n\n".join(parts)


def _heading(results: Results) -> str:
    machine = results.machine
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['kernel']}, {machine['python']}"
    lines = [f"{results.suite}, {results.started}: {where}"]
    build = results.servers.get("gevpy", {}).get("build")
    if build:
        lines.append("gevpy: " + ", ".join(f"{key} {value}" for key, value in build.items()))
    others = results.others_busy()
    if others > NOISY_CORES:
        lines.append(f"NOISY: others kept {others:.2f} cores busy; trust ratios little, the rest less")
    return "\n".join(lines)


def _load_table(results: Results, load: Load) -> str:
    head = (load.title, "CPU us", "user", "system", "x floor", "+-%", "per s", "p50 us", "p99 us", "p99.9 us", "busy")
    rows = [_row(results, load, cell) for cell in results.cells(load)]
    return "\n".join(_aligned([head, *rows]))


def _row(results: Results, load: Load, cell: Cell) -> tuple[str, ...]:
    ratio = results.ratio("cpu_us", (cell.server, load), ("floor", load))
    return (
        cell.server,
        _number(cell.cpu_us),
        _number(cell.cpu_us * cell.user_share),
        _number(cell.cpu_us * (1 - cell.user_share)),
        f"{ratio:.2f}" if ratio else "",
        f"{50 * cell.spread:.0f}" if cell.rounds > 1 else "",
        f"{cell.per_s:,.0f}",
        f"{cell.p50_us:,.0f}",
        f"{cell.p99_us:,.0f}",
        f"{cell.p999_us:,.0f}",
        _busy(cell),
    )


def _busy(cell: Cell) -> str:
    """Say whose core was the limit: throughput is the server's only when the server's was."""
    if cell.server_busy >= SERVER_BOUND:
        return "server"
    return "client" if cell.client_busy >= CLIENT_BOUND else f"{cell.server_busy:.0%}"


def _values(results: Results) -> str:
    rows = [(name, _number(value)) for name, value in results.values.items()]
    return "\n".join(_aligned([("idle connections (KB each), the wheel, workers", ""), *rows]))


def _figures(results: Results) -> str:
    rows = [("figure", "goal", "reached", "met")]
    for row in results.figures:
        reached = "not measured" if row["reached"] is None else _number(row["reached"])
        rows.append((row["what"], row["goal"], reached, _ANSWERS[row["met"]]))
    met = sum(row["met"] is True for row in results.figures)
    judged = sum(row["met"] is not None for row in results.figures)
    return "\n".join([*_aligned(rows), f"{met} of {judged} figures measured here are met"])


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        first, *rest = row
        cells = [first.ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()
        if number == 0:
            yield "-" * (sum(widths) + 2 * (len(widths) - 1))
