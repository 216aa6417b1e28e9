"""``gevpy top``: how it asks, what its table looks like, and what it says when nobody answers."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from gevpy import top
from gevpy.rates import RateTable, Report, Row
from gevpy.top import NoAnswerError, fetch, table, top_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROW = Row(
    id=0, pid=12345, state="ready", restarts=0, connections=5000, counters=(0, 0, 0, 0), buffered_bytes=12_345,
    lag_s=0.0004, rss_bytes=32_000_000, uptime_s=7500,
)  # fmt: skip
TOTAL = replace(ROW, id=None, pid=0, connections=10_000, restarts=1)
REPORT = Report("0.1.0", 0, 0, ("127.0.0.1:1833",), TOTAL, (ROW, replace(ROW, id=1, pid=12346)), {})
RATES: RateTable = {ROW.key: (12_345, 12_345, 1_234_567, 1_234_567), TOTAL.key: (0.5, 0, 0, 999)}

TABLE = """\
gevpy 0.1.0 on 127.0.0.1:1833: ready, up 2h05, 2 workers, 1 restart

                      messages/s    bytes/s    lag            re-
 id   pid state conns    in   out    in   out   ms buffers starts   rss    up
  0 12345 ready  5000 12.3k 12.3k 1.18M 1.18M  0.4   12.1K      0 30.5M  2h05
  1 12346 ready  5000     -     -     -     -  0.4   12.1K      0 30.5M  2h05
all       ready 10.0k   0.5     0     0   999  0.4   12.1K      1 30.5M  2h05"""


def drawn(report: Report = REPORT, rates: RateTable = RATES, width: int = 80, height: int | None = None) -> list[str]:
    """Draw a table without colours, and without blanks at the ends of lines."""
    return [click.unstyle(line).rstrip() for line in table(report, rates, width, height)]


# -- the table -----------------------------------------------------------------------------------------------------


def test_the_table_fits_80_columns() -> None:
    """Everything is there, and nothing is wider."""
    assert "\n".join(drawn()) == TABLE


def test_a_wide_terminal_has_wider_gaps() -> None:
    """Two blanks between columns where there is room."""
    lines = drawn(width=132)
    assert lines[3] == " id    pid  state  conns     in    out     in    out    ms  buffers  starts    rss     up"
    assert len(lines) == len(TABLE.splitlines())


@pytest.mark.parametrize("width", [*range(1, 140)])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Down to the number of the worker and its connections, which always stay."""
    busy = replace(ROW, pid=4_194_304, state="backing off", restarts=12_345, lag_s=1234.5, uptime_s=1e9)
    report = replace(REPORT, workers=(busy,), troubles={"rejected": 10**9, "handler errors": 5})
    lines = drawn(report, {}, width)
    assert max(map(len, lines)) <= max(width, 9)


def test_columns_go_one_after_the_other() -> None:
    """The least telling first, in and out together."""
    names = [drawn(width=width)[3].split() for width in range(80, 8, -1)]
    shrinking = [name for name, _ in itertools.groupby(names)]
    assert [len(each) for each in shrinking] == [13, 12, 11, 10, 9, 8, 6, 4, 3, 2]
    assert shrinking[1] == ["id", "pid", "state", "conns", "in", "out", "in", "out", "ms", "buffers", "starts", "rss"]
    assert shrinking[-2:] == [["id", "state", "conns"], ["id", "conns"]]


def test_a_low_terminal_counts_the_workers_left_out() -> None:
    """All together stay, and the cursor has its line."""
    many = replace(REPORT, workers=tuple(replace(ROW, id=number) for number in range(64)), troubles={"rejected": 1})
    lines = drawn(many, {}, height=24)
    assert len(lines) == 23
    assert [line for line in lines if line.startswith("...")] == ["... and 49 more"]
    assert len(drawn(many, {})) == 64 + 7
    assert len(drawn(many, {}, height=3)) == 9


def test_states_have_colours() -> None:
    """Green serves, red doesn't, yellow is on its way; a late loop is yellow, too."""
    states = ["ready", "failed", "backing off", "starting", "draining"]
    workers = tuple(replace(ROW, id=number, state=state) for number, state in enumerate(states))
    lines = list(table(replace(REPORT, workers=workers), {}, 80))[4:9]
    colours = [re.findall("\x1b\\[(3[0-9])m", line) for line in lines]
    assert colours == [["32"], ["31"], ["31"], ["33"], ["33"]]
    late = replace(REPORT, workers=(replace(ROW, lag_s=0.2),))
    assert re.findall("\x1b\\[(3[0-9])m *([0-9a-z]+)", list(table(late, {}, 80))[4]) == [("32", "ready"), ("33", "200")]


def test_what_should_not_have_happened_is_below() -> None:
    """Only what did."""
    lines = drawn(replace(REPORT, troubles={"rejected": 0, "dropped messages": 12_345, "handler errors": 1}))
    assert lines[-2:] == ["", "since the start: dropped messages 12,345, handler errors 1"]


@pytest.mark.parametrize(
    ("addresses", "says"),
    [((), "gevpy 0.1.0: ready"), (("a:1", "b:2", "/c"), "gevpy 0.1.0 on a:1 and 2 more: ready")],
)
def test_the_first_line_names_one_address(addresses: tuple[str, ...], says: str) -> None:
    """And counts the others."""
    assert drawn(replace(REPORT, addresses=addresses))[0].startswith(says)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (0.04, "0.0"), (0.5, "0.5"), (3, "3"), (3.0, "3"), (9.94, "9.9"), (9.96, "10"), (10.4, "10"),
        (999, "999"), (9999, "9999"), (9999.4, "9999"), (9999.6, "10.0k"), (10_049, "10.0k"), (99_940, "99.9k"),
        (99_960, "100k"), (999_400, "999k"), (999_600, "1.00M"), (9_994_000, "9.99M"), (9_996_000, "10.0M"),
        (2**63, "9.22E"),
    ],
)  # fmt: skip
def test_numbers_have_at_most_five_characters(number: float, text: str) -> None:
    """With three digits that count, from 10,000 on."""
    assert top._short(number) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (9999, "9999"), (10_000, "9.77K"), (1023 * 1024, "1.00M"), (1024**2, "1.00M"), (2**63, "8.00E")],
)
def test_bytes_go_by_1024(count: int, text: str) -> None:
    """With a capital K."""
    assert top._size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (59.9, "59s"), (60, "1m00"), (3599, "59m59"), (3600, "1h00"), (86_399, "23h59"), (86_400, "1d00"),
        (99 * 86_400 + 86_399, "99d23"), (100 * 86_400, "100d"),
    ],
)  # fmt: skip
def test_times_have_at_most_five_characters(seconds: float, text: str) -> None:
    """The two largest units."""
    assert top._span(seconds) == text


# -- asking --------------------------------------------------------------------------------------------------------


class Page(ThreadingHTTPServer):
    """A metrics port, or something else in its place.

    Attributes:
        answers: what it answers with, the last one for ever: a status and a body, or the raw bytes.
        asked: the paths it was asked for.
    """

    daemon_threads = True

    def __init__(self, *answers: tuple[int, bytes] | bytes) -> None:
        super().__init__(("127.0.0.1", 0), Question)
        self.answers = list(answers)
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        """Where it is."""
        return f"127.0.0.1:{self.server_address[1]}"


class Question(BaseHTTPRequestHandler):
    """One request."""

    server: Page

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        answer = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        if isinstance(answer, bytes):
            self.wfile.write(answer)
            return
        status, body = answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[Callable[..., Page]]:
    """Give a function that starts a page with these answers."""
    pages: list[tuple[Page, threading.Thread]] = []

    def start(*answers: tuple[int, bytes] | bytes) -> Page:
        page = Page(*answers)
        thread = threading.Thread(target=page.serve_forever, args=(0.01,))
        pages.append((page, thread))
        thread.start()
        return page

    yield start
    for page, thread in pages:
        page.shutdown()
        page.server_close()
        thread.join()


def document(messages: int = 0, uptime_s: float = 10.0, **more: Any) -> tuple[int, bytes]:
    """Give the answer of a server with one worker."""
    counts = {"connections": 3, "received_messages": messages, "sent_messages": messages}
    one = {
        "id": 0,
        "pid": 77,
        "state": "ready",
        "restarts": 0,
        "uptime_s": uptime_s,
        "rss_bytes": 1,
        "lag_s": 0,
        **counts,
    }
    about = {"version": "0.1.0", "started_at": 0.0, "now": uptime_s, "state": "ready", "addresses": [], "restarts": 0}
    return 200, json.dumps({**about, "total": counts, "workers": [one], **more}).encode()


@pytest.mark.parametrize("form", ["http://{}", "{}", "http://{}/", "{}/stats.json", "HTTP://{}/stats.json?x=1#y"])
def test_fetch_understands_every_form_of_the_url(serve: Callable[..., Page], form: str) -> None:
    """With and without scheme and path."""
    page = serve(document())
    assert fetch(form.format(page.address)).total.connections == 3
    assert page.asked == ["/stats.json"]


def test_fetch_keeps_a_path_before_it(serve: Callable[..., Page]) -> None:
    """As behind a proxy."""
    page = serve(document())
    fetch(f"http://{page.address}/shop/")
    assert page.asked == ["/shop/stats.json"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((404, b"not found"), "answers /stats.json with HTTP status 404: is that gevpy's metrics port?"),
        ((503, b"too many"), "HTTP status 503"),
        ((302, b""), "HTTP status 302"),
        ((200, b"<html>"), "answers /stats.json with something else than gevpy's statistics"),
        ((200, b"{}"), "something else than gevpy's statistics"),
        ((200, b" " * (4 * 1024**2 + 1)), "more than 4 MiB"),
        (b"SSH-2.0-OpenSSH\r\n", "is no metrics port of gevpy"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "is no metrics port of gevpy"),
        (b"", "hung up without an answer"),
    ],
)
def test_other_answers_are_one_line(serve: Callable[..., Page], answer: tuple[int, bytes] | bytes, says: str) -> None:
    """Each says who answered what."""
    page = serve(answer)
    with pytest.raises(NoAnswerError) as refusal:
        fetch(page.address)
    assert says in str(refusal.value)
    assert page.address in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_port_where_nothing_listens_is_one_line() -> None:
    """With the option that would change it."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(
            NoAnswerError, match=f"nothing listens at 127.0.0.1:{port}: start the server with --metrics"
        ):
            fetch(f"http://127.0.0.1:{port}")


def test_silence_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time-out."""
    monkeypatch.setattr(top, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(NoAnswerError, match=f"127.0.0.1:{port} doesn't answer within 0.05 s"):
            fetch(f"127.0.0.1:{port}")


def test_an_unknown_host_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the resolver's own words."""

    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(NoAnswerError, match=r"nowhere\.invalid:9091 can't be found: there is no such host"):
        fetch("http://nowhere.invalid")


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def end_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[float]]:
    """Give a function that has Ctrl-C come in the n-th pause; nobody really waits."""

    def prepare(pauses: int) -> list[float]:
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) >= pauses:
                raise KeyboardInterrupt

        monkeypatch.setattr(top, "time", SimpleNamespace(sleep=sleep))
        return waited

    return prepare


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command outside of a terminal; give exit code, output and errors."""
    done = CliRunner().invoke(top_command, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_once_is_two_questions_and_one_table(
    serve: Callable[..., Page], end_after: Callable[[int], list[float]]
) -> None:
    """With the rates of the interval between them, every column, and no colour."""
    page = serve(document(), document(500, 12.5))
    waited = end_after(2)
    code, output, errors = run(page.address, "--once", "--interval", "2.5")
    assert (code, errors, waited) == (0, "", [2.5])
    assert output.splitlines()[4].split() == [
        "0",
        "77",
        "ready",
        "3",
        "200",
        "200",
        "0",
        "0",
        "0",
        "0",
        "0",
        "1",
        "12s",
    ]
    assert len(output.splitlines()) == 6
    assert "\x1b" not in output


def test_once_says_in_one_line_what_is_wrong(serve: Callable[..., Page]) -> None:
    """As an error of the command, which ends with it."""
    code, output, errors = run(serve((404, b"")).address, "--once")
    assert (code, output) == (1, "")
    assert errors.startswith("Error: 127.0.0.1:")
    assert errors.count("\n") == 1


def test_without_a_terminal_tables_follow_one_another(
    serve: Callable[..., Page], end_after: Callable[[int], list[float]]
) -> None:
    """What is wrong goes to stderr, the next table comes all the same, and Ctrl-C is the good end."""
    page = serve(document(), (503, b""), document(100, 20.0), document(200, 30.0))
    waited = end_after(4)
    code, output, errors = run(page.address)
    assert (code, waited) == (0, [2.0] * 4)
    assert errors == f"gevpy: {page.address} answers /stats.json with HTTP status 503: is that gevpy's metrics port?\n"
    lines = [line.split() for line in output.splitlines() if line.lstrip().startswith("0 ")]
    assert [line[4] for line in lines] == ["-", "10", "10"]
    assert "\x1b" not in output


class Terminal(io.StringIO):
    """A terminal that remembers what was written to it."""

    def isatty(self) -> bool:
        return True


def test_in_a_terminal_the_table_is_redrawn_in_place(
    serve: Callable[..., Page], end_after: Callable[[int], list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong stands above the last table; at the end the terminal is as before, with the last table in it."""
    page = serve((503, b""), document(), document(100, 20.0), (404, b""))
    end_after(4)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda fallback=(): os.terminal_size((80, 12)))
    monkeypatch.setenv("TERM", "xterm")
    top_command.main([page.address], standalone_mode=False)
    written = terminal.getvalue()
    assert written.startswith("\x1b[?1049h\x1b[?25l\x1b[H")
    frames, last = written.removeprefix("\x1b[?1049h\x1b[?25l").split("\x1b[?25h\x1b[?1049l")
    screens = [click.unstyle(frame).splitlines() for frame in frames.split("\x1b[H")[1:]]
    assert [len(screen) for screen in screens] == [2, 6, 6, 8]
    assert "HTTP status 503" in screens[0][0]
    assert screens[2][4].split()[4] == "10"
    assert "HTTP status 404" in screens[3][0]
    assert screens[3][2:] == screens[2]
    assert click.unstyle(last).splitlines() == screens[3]


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1", "http://", "http://[::1", "127.0.0.1:metrics", "a b/c d", "::1:9091"]
)
def test_a_bad_url_is_refused(url: str) -> None:
    """With one that would do."""
    code, output, errors = run(url, "--once")
    assert (code, output) == (2, "")
    assert "URL must be that of a metrics port, such as http://127.0.0.1:9091, not " in errors


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_a_bad_interval_is_refused(seconds: str) -> None:
    """A server is not to be asked without a pause."""
    code, _, errors = run("127.0.0.1:1", "--interval", seconds)
    assert code == 2
    assert "--interval" in errors
