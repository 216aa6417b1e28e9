"""``gevpy top``: what the workers of a running server do, as a table in the terminal.

    fetch /stats.json ──▶ Report ──▶ Rates, from this one and the one before ──▶ table ──▶ terminal

In a terminal the table is redrawn in place; elsewhere, tables follow one another as plain lines. What goes wrong is
one line: with ``--once`` it ends the command, otherwise it stands above the last table until the server answers again.
"""

from __future__ import annotations

import errno
import http.client
import itertools
import os
import shutil
import socket
import sys
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from gevpy.rates import COUNTERS, PerSecond, Rates, RateTable, Report, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["NoAnswerError", "fetch", "table", "top_command"]

DEFAULT_URL = "http://127.0.0.1:9091"
DEFAULT_PORT = 9091
TIMEOUT_S = 2.0
MAX_BODY_BYTES = 4 * 1024 * 1024
LEAST_INTERVAL_S, MOST_INTERVAL_S = 0.1, 3600.0

LATE_S = 0.1  # a loop that lags by more is shown in colour
STATE_COLOURS = {"ready": "green", "failed": "red", "backing off": "red"}  # others are on their way: yellow
LINES_BESIDE_WORKERS = 9  # and one for the cursor
WITHOUT_TERMINAL = (132, 50)  # room for every column

ALTERNATE_SCREEN = "\x1b[?1049h\x1b[?25l"  # and no cursor
NORMAL_SCREEN = "\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


# -- asking ----------------------------------------------------------------------------------------


class NoAnswerError(Exception):
    """The server told nothing of use; the text, one line, says why."""


def fetch(url: str) -> Report:
    """Ask a server what it does. Blocks, at most 2 seconds at a time without hearing anything.

    Args:
        url: of its metrics port, ``"http://127.0.0.1:9091"``; ``"127.0.0.1:9091"`` will do.

    Raises:
        NoAnswerError: nobody answers, or not gevpy.
        ValueError: ``url`` is no such URL.
    """
    host, port, path = _parts(url)
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read(MAX_BODY_BYTES + 1)
    except OSError as error:
        raise NoAnswerError(_trouble(where, error)) from error
    except (http.client.HTTPException, UnicodeError) as error:
        raise NoAnswerError(f"what answers at {where} is no metrics port of gevpy") from error
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        raise NoAnswerError(f"{where} answers {path} with HTTP status {response.status}: is that gevpy's metrics port?")
    if len(body) > MAX_BODY_BYTES:
        raise NoAnswerError(f"{where} answers {path} with more than {MAX_BODY_BYTES >> 20} MiB: that is not gevpy")
    try:
        return Report.parse(body)
    except ValueError as error:
        raise NoAnswerError(f"{where} answers {path} with something else than gevpy's statistics") from error


def _parts(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    path = parts.path.rstrip("/").removesuffix("/stats.json")
    if parts.scheme != "http" or not parts.hostname or not path.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{url!r} is no URL of a metrics port")
    return parts.hostname, parts.port or DEFAULT_PORT, f"{path}/stats.json"


def _trouble(where: str, error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"{where} doesn't answer within {TIMEOUT_S:g} s"
    if isinstance(error, socket.gaierror):
        return f"{where} can't be found: there is no such host"
    if error.errno == errno.ECONNREFUSED:
        return f"nothing listens at {where}: start the server with --metrics {where}"
    return f"{where} can't be asked: {error.strerror or 'it hung up without an answer'}"


# -- the table -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table.

    Attributes:
        over: the upper line of its heading, which neighbours may share.
        name: the lower line.
        least: how wide it is at least: enough for what is usual, so that the table keeps still.
        cell: what it shows of a row and its rates.
        rank: where the terminal is too narrow, columns of the highest rank go first.
    """

    over: str
    name: str
    least: int
    cell: Callable[[Row, PerSecond], str]
    rank: int = 0


def _rate(which: str) -> Callable[[Row, PerSecond], str]:
    index, written = COUNTERS.index(which), _size if which.endswith("bytes") else _short
    return lambda _, rates: "-" if rates is None else written(rates[index])


def _short(number: float, step: int = 1000, units: str = " kMGTPE") -> str:
    """Write a number in at most 5 characters: 0.4, 9999, 12.3k, 1.23M."""
    if 0 < number < 9.95 and number != int(number):  # noqa: PLR2004 - where a digit behind the point tells something
        return f"{number:.1f}"
    if number < 9999.5:  # noqa: PLR2004 - four digits fit
        return f"{number:.0f}"
    power = 0
    while number >= 999.5:  # noqa: PLR2004 - three digits and a unit
        number /= step
        power += 1
    digits = 2 - (number >= 9.995) - (number >= 99.95)  # noqa: PLR2004 - what rounds to two places before the point
    return f"{number:.{digits}f}{units[power]}"


def _size(count: float) -> str:
    """Write a number of bytes in at most 5 characters, by steps of 1024."""
    return _short(count, 1024, " KMGTPE")


def _span(seconds: float) -> str:
    """Write a time in at most 5 characters: 45s, 12m05, 3h05, 12d04."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}" if days < 100 else f"{days}d"  # noqa: PLR2004 - the hours fit beside two digits
    if hours:
        return f"{hour}h{minute:02}"
    return f"{minute}m{second:02}" if minutes else f"{second}s"


COLUMNS = (
    Column("", "id", 3, lambda row, _: "all" if row.id is None else str(row.id)),
    Column("", "pid", 5, lambda row, _: str(row.pid or ""), 8),
    Column("", "state", 5, lambda row, _: "backoff" if row.state == "backing off" else row.state, 1),
    Column("", "conns", 5, lambda row, _: _short(row.connections)),
    Column("messages/s", "in", 5, _rate("received_messages"), 3),
    Column("messages/s", "out", 5, _rate("sent_messages"), 3),
    Column("bytes/s", "in", 5, _rate("received_bytes"), 4),
    Column("bytes/s", "out", 5, _rate("sent_bytes"), 4),
    Column("lag", "ms", 4, lambda row, _: _short(row.lag_s * 1000), 2),
    Column("", "buffers", 5, lambda row, _: _size(row.buffered_bytes), 5),
    Column("re-", "starts", 3, lambda row, _: _short(row.restarts), 6),
    Column("", "rss", 5, lambda row, _: _size(row.rss_bytes), 7),
    Column("", "up", 5, lambda row, _: _span(row.uptime_s), 9),
)


def table(report: Report, rates: RateTable, width: int, height: int | None = None) -> Iterator[str]:
    """Draw a report: a line for the server, a table of its workers, and a line of what should not have happened.

    Args:
        report: what to draw.
        rates: what `Rates.update` gave for it.
        width: of the terminal; columns that don't fit are left out, the least telling first.
        height: of the terminal; workers that don't fit are left out, and counted. None for all of them.

    Returns:
        Lines, with colours.
    """
    room = len(report.workers) if height is None else max(1, height - LINES_BESIDE_WORKERS)
    rows = [*report.workers[:room], report.total]
    cells = {column: [column.cell(row, rates.get(row.key)) for row in rows] for column in COLUMNS}
    widths = {column: max(column.least, len(column.name), *map(len, cells[column])) for column in COLUMNS}
    columns, gap = _fitting(widths, width)
    yield _headline(report)[:width]
    yield ""
    yield from _headings(columns, widths, gap)
    for index, row in enumerate(rows):
        if row.id is None and len(report.workers) > room:
            yield f"... and {len(report.workers) - room} more"
        yield gap.join(_painted(column, f"{cells[column][index]:>{widths[column]}}", row) for column in columns)
    troubles = [f"{name} {count:,}" for name, count in report.troubles.items() if count]
    if troubles:
        yield ""
        yield click.style(f"since the start: {', '.join(troubles)}"[:width], fg="yellow")


def _headline(report: Report) -> str:
    total, addresses, workers = report.total, report.addresses, len(report.workers)
    where = f" on {addresses[0]}" if addresses else ""
    if len(addresses) > 1:
        where += f" and {len(addresses) - 1} more"
    counts = f"{_count(workers, 'worker')}, {_count(total.restarts, 'restart')}"
    return f"gevpy {report.version}{where}: {total.state}, up {_span(total.uptime_s)}, {counts}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _fitting(widths: dict[Column, int], width: int) -> tuple[list[Column], str]:
    """Choose the columns that fit, and what stands between them."""
    columns = list(widths)
    for rank in sorted({column.rank for column in columns} - {0}, reverse=True):
        if _width(columns, widths, 1) <= width:
            break
        columns = [column for column in columns if column.rank < rank]
    return columns, "  " if _width(columns, widths, 2) <= width else " "


def _width(columns: list[Column], widths: dict[Column, int], gap: int) -> int:
    return sum(widths[column] for column in columns) + gap * (len(columns) - 1)


def _headings(columns: list[Column], widths: dict[Column, int], gap: str) -> Iterator[str]:
    over = []
    for name, each in itertools.groupby(columns, lambda column: column.over):
        group = list(each)
        room = _width(group, widths, len(gap))
        over.append(f"{name:^{room}}" if len(group) > 1 else f"{name:>{room}}")
    yield click.style(gap.join(over).rstrip(), dim=True)
    yield click.style(gap.join(f"{column.name:>{widths[column]}}" for column in columns), bold=True)


def _painted(column: Column, text: str, row: Row) -> str:
    colour = None
    if column.name == "state":
        colour = STATE_COLOURS.get(row.state, "yellow")
    elif column.name == "ms" and row.lag_s > LATE_S:
        colour = "yellow"
    return click.style(text, fg=colour, bold=True if row.id is None else None) if colour or row.id is None else text


# -- the command -----------------------------------------------------------------------------------


def _interval(_context: click.Context, _option: click.Parameter, seconds: float) -> float:
    if not LEAST_INTERVAL_S <= seconds <= MOST_INTERVAL_S:  # nor "nan"
        raise click.UsageError(f"--interval must be {LEAST_INTERVAL_S} to {MOST_INTERVAL_S} seconds, not {seconds}")
    return seconds


@click.command("top", short_help="Show what the workers of a running server do.")
@click.argument("url", default=DEFAULT_URL)
@click.option(
    "--interval",
    type=float,
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    callback=_interval,
    help="Time from one table to the next.",
)
@click.option("--once", is_flag=True, help="Show one table, after one interval, and end.")
def top_command(url: str, interval: float, *, once: bool) -> None:
    """Show what the workers of a running server do: connections, messages, bytes, lag of the loop, memory.

    URL is that of the server's metrics port, http://127.0.0.1:9091 if none is given. Ctrl-C ends it.
    """
    try:
        _parts(url)
    except ValueError as error:
        raise click.UsageError(f"URL must be that of a metrics port, such as {DEFAULT_URL}, not {url!r}") from error
    try:
        if once:
            _show_once(url, interval)
        elif sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            _show_live(url, interval)
        else:
            _show_lines(url, interval)
    except KeyboardInterrupt:
        return  # that is how one ends it


def _show_once(url: str, interval: float) -> None:
    rates = Rates()
    try:
        rates.update(fetch(url))
        time.sleep(interval)
        report = fetch(url)
    except NoAnswerError as error:
        raise click.ClickException(str(error)) from error
    _print(report, rates.update(report))


def _show_lines(url: str, interval: float) -> None:
    rates = Rates()
    while True:
        try:
            report = fetch(url)
        except NoAnswerError as error:
            click.echo(f"gevpy: {error}", err=True)
        else:
            _print(report, rates.update(report))
            click.echo()
        time.sleep(interval)


def _print(report: Report, rates: RateTable) -> None:
    for line in table(report, rates, shutil.get_terminal_size(WITHOUT_TERMINAL).columns):
        click.echo(line)


def _show_live(url: str, interval: float) -> None:
    rates = Rates()
    latest: tuple[Report, RateTable] | None = None
    lines: list[str] = []
    sys.stdout.write(ALTERNATE_SCREEN)
    try:
        while True:
            width, height = shutil.get_terminal_size()
            lines = []
            try:
                report = fetch(url)
                latest = report, rates.update(report)
            except NoAnswerError as error:
                lines += [click.style(str(error)[:width], fg="red"), ""]
            if latest is not None:
                lines += table(*latest, width, height - len(lines))
            sys.stdout.write(HOME + "".join(f"{REST_OF_LINE}{line}\n" for line in lines[: height - 1]) + REST_OF_SCREEN)
            sys.stdout.flush()
            time.sleep(interval)
    finally:
        sys.stdout.write(NORMAL_SCREEN + "".join(f"{line}\n" for line in lines))  # the last table stays
        sys.stdout.flush()
