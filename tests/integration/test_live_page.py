"""The live page in a real Chromium: what it shows, that it asks nobody else, and what it says when the server is gone.

What makes it skip is told in `tests.integration.browsing`. ``GEVPY_SCREENSHOTS=1`` takes the picture for the docs.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from tests.integration.browsing import PATIENCE_MS, Visit, running_browser
from tests.integration.harness import wait_until
from tests.programs import ROOT, Program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.timeout(600)  # an installation may be among it

PICTURE = ROOT / "docs" / "assets" / "live-page.png"
SIMULATION = Path(__file__).with_name("simulated_workers.py")
MORNING, NOON = "2026-06-01T08:00:00", "2026-06-01T12:00:00"
COUNT_SHIFTS = """
self.shifted = 0;
new PerformanceObserver((list) => list.getEntries().forEach((each) => { self.shifted += each.value; }))
  .observe({ type: "layout-shift", buffered: true });
"""
APPLICATION = """
import gevpy

class Echo(gevpy.Handler):
    def on_message(self, conn, ctx, data):
        return data
"""


# -- the browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium for all tests of this file."""
    with running_browser() as running:
        yield running


@contextmanager
def visiting(browser: Browser, address: str, *, clock: bool = False, **options: Any) -> Iterator[Visit]:
    """Open the page, with a clock that only the test moves if asked for, and leave it at the end."""
    visit = Visit(browser, **options)
    visit.context.add_init_script(COUNT_SHIFTS)
    try:
        if clock:
            visit.page.clock.install(time=MORNING)
            visit.page.clock.pause_at(NOON)
        visit.page.goto(f"http://{address}/")
        visit.expect("#state", "ready")
        yield visit
    finally:
        visit.close()


def pass_seconds(visit: Visit, count: int) -> None:
    """Let the page's clock run, one look at the server at a time, and wait until the last one is shown."""
    from playwright.sync_api import expect

    facts = visit.page.locator("#facts")
    for _ in range(count):
        before = facts.inner_text()
        visit.page.clock.run_for(1000)
        expect(facts).not_to_have_text(before, timeout=PATIENCE_MS)


# -- servers and clients ---------------------------------------------------------------------------


class EchoServer:
    """``gevpy run`` with an echo and a metrics port, which may be stopped and started again on the same ports."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._stack = ExitStack()
        self._program: Program | None = None
        self.port = 0
        self.metrics = "127.0.0.1:0"
        (folder / "application.py").write_text(APPLICATION, encoding="utf-8")

    def start(self) -> None:
        """Serve."""
        options = ["--port", str(self.port), "--metrics", self.metrics, *self._options]
        program = Program("-m", "gevpy", "run", "application:Echo", *options, cwd=self._folder)
        self._program = self._stack.enter_context(program)
        found = program.expect(
            r"on 127\.0\.0\.1:(\d+)(?: by \d+ workers)?, metrics on http://(127\.0\.0\.1:\d+)/metrics"
        )
        self.port, self.metrics = int(found[1]), found[2]

    def stop(self) -> None:
        """Stop as by Ctrl-C."""
        assert self._program is not None
        assert self._program.stop() == 0, self._program.output

    def close(self) -> None:
        """End what is left."""
        self._stack.close()


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[EchoServer]:
    """Run an echo with a metrics port."""
    running = EchoServer(folder, *options)
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EchoServer]:
    """A running echo with a metrics port."""
    with serving(tmp_path) as running:
        yield running


@contextmanager
def simulating(*addresses: str) -> Iterator[str]:
    """Give the metrics port of four workers that don't exist, and say that they listen there."""
    with Program(str(SIMULATION), *addresses) as program:
        yield program.expect(r"metrics on http://(\S+)/")[1]


@pytest.fixture
def simulation() -> Iterator[str]:
    """Where the metrics of four workers are that don't exist."""
    with simulating() as address:
        yield address


@contextmanager
def talking(port: int, clients: int) -> Iterator[None]:
    """Have some clients connected, of which one sends all the time and waits for each echo."""
    over = threading.Event()
    with ExitStack() as stack:
        address = ("127.0.0.1", port)
        sockets = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(clients)]

        def talk() -> None:
            with suppress(ConnectionError):  # its worker may be the one that dies
                while not over.wait(0.005):
                    sockets[0].sendall(b"x" * 100)
                    sockets[0].recv(100)

        talker = threading.Thread(target=talk)
        talker.start()
        try:
            yield
        finally:
            over.set()
            talker.join()


# -- what it shows ---------------------------------------------------------------------------------


def test_the_page_shows_what_clients_do_and_asks_nobody_else(browser: Browser, server: EchoServer) -> None:
    """Connections, messages and bytes appear, in tiles, charts and table; no request leaves, and nothing complains."""
    with visiting(browser, server.metrics) as visit:
        visit.expect("#state", "ready")
        visit.expect_title(f"127.0.0.1:{server.port} · gevpy, live")
        visit.expect("#where", f"127.0.0.1:{server.port}")
        visit.expect("#tile-connections", "0")
        with talking(server.port, 3):
            visit.expect("#tile-connections", "3")
            visit.expect("#note-connections", re.compile(r"^3\s+since the start$"))
            visit.expect("#tile-messages", re.compile(r"^[1-9].*/s$"))
            visit.expect("#note-messages", re.compile(r"^in [1-9].*/s\s+out [1-9].*/s$"))
            visit.expect("#tile-bytes", re.compile(r"^[1-9].*B/s$"))
            visit.expect("#tile-memory", re.compile(r"^[1-9].*MiB$"))
            visit.expect("#charts figure:first-child output", "3")
            visit.expect("#rows td:nth-child(5)", "3")
            visit.expect("#sums td:nth-child(5)", "3")
        visit.expect("#tile-connections", "0")
        assert visit.count("#charts canvas") == 6
        assert not visit.page.locator("#view").is_visible()
        assert visit.complaints == []
        assert len(visit.requested) > 8
        assert [url for url in visit.requested if not url.startswith(f"http://{server.metrics}/")] == []


def test_the_page_says_that_the_server_is_away_and_goes_on_when_it_is_back(
    browser: Browser, server: EchoServer
) -> None:
    """Without an answer it says so and since when; the next answer is shown without any help."""
    with visiting(browser, server.metrics) as visit:
        visit.expect("#state", "ready")
        server.stop()
        visit.expect("#state", "away")
        visit.expect("#facts", re.compile(r"^No answer since \d\d:\d\d:\d\d\. Asking again each second\.$"))
        visit.expect_title(re.compile(r"^\(away\) "))
        server.start()
        visit.expect("#state", "ready")
        visit.expect("#facts", re.compile(r"^up \d+\ss · 1 worker · "))
        visit.expect_title(re.compile(r"^127\.0\.0\.1:"))
        with talking(server.port, 2):
            visit.expect("#tile-connections", "2")


def test_a_page_that_has_not_all_arrived_says_so_and_tries_again(browser: Browser, server: EchoServer) -> None:
    """The port may turn a part of the page away when it is busy; that is not the end."""
    visit = Visit(browser)
    try:
        visit.page.route("**/uPlot.iife.min.js", lambda route: route.abort(), times=1)
        visit.page.goto(f"http://{server.metrics}/")
        visit.expect("#state", "incomplete")
        visit.expect("#state", "ready")
    finally:
        visit.close()


def test_charts_show_the_total_or_each_worker(browser: Browser, simulation: str) -> None:
    """With several workers there is a choice, and each has a line, a row, and a colour for how it is."""
    messages = "#charts figure:nth-child(2) li"
    with visiting(browser, simulation, clock=True) as visit:
        pass_seconds(visit, 43)
        assert [text.partition(" ")[0] for text in visit.texts(messages)] == ["in", "out"]
        visit.page.get_by_text("Each worker").click()
        assert [text.partition(" ")[0] for text in visit.texts(messages)] == ["#0", "#1", "#2", "#3"]
        assert visit.texts("#rows th") == ["0", "1", "2", "3"]
        assert visit.texts("#rows td.good") == ["ready"] * 3
        assert visit.texts("#rows td.bad") == ["backing off"]
        visit.expect("#facts", re.compile("4 workers, 1 not ready"))
        pass_seconds(visit, 10)
        assert visit.texts("#rows td.good") == ["ready"] * 4
        visit.expect("#tile-restarts", "1")
        visit.page.locator("#view").get_by_text("Total").click()
        assert len(visit.texts(messages)) == 2
        assert visit.complaints == []


def test_a_worker_that_is_killed_shows_as_a_restart(browser: Browser, tmp_path: Path) -> None:
    """With two real workers the page outlives the death of one, and tells of it."""
    with serving(tmp_path, "--workers", "2") as server, visiting(browser, server.metrics) as visit:
        visit.expect("#facts", re.compile("2 workers · "))
        with talking(server.port, 4):
            visit.expect("#tile-connections", "4")
            os.kill(int(visit.texts("#rows tr:first-child td:nth-child(3)")[0]), signal.SIGKILL)
            visit.expect("#tile-restarts", "1")
        visit.expect("#tile-connections", "0")
        visit.expect("#facts", re.compile("2 workers · "))
        assert visit.texts("#rows td.good") == ["ready"] * 2
        assert visit.complaints == []
        server.stop()


def test_pointing_at_a_chart_reads_all_of_them(browser: Browser, simulation: str) -> None:
    """The captions and the heading tell of the time under the mouse, and of now when it has left."""
    with visiting(browser, simulation, clock=True) as visit:
        pass_seconds(visit, 30)
        plot = visit.page.locator("#charts figure:first-child .u-over")
        now = visit.texts("#charts output")
        box = plot.bounding_box()
        assert box is not None
        plot.hover(position={"x": box["width"] - 30, "y": 20})
        visit.expect("#when", re.compile(r"^At \d\d:\d\d:\d\d$"))
        assert visit.texts("#charts output") != now
        visit.page.mouse.move(1, 1)
        visit.expect("#when", "Last 5 minutes")
        assert visit.texts("#charts output") == now


def test_what_the_server_says_is_text(browser: Browser) -> None:
    """An address with markup in it is shown as it is written."""
    path = "/run/<img src=x onerror=alert(1)>.sock"
    with simulating(path) as address, visiting(browser, address) as visit:
        visit.expect("#where", path)
        visit.expect_title(f"{path} · gevpy, live")
        assert visit.count("#where img") == 0
        assert visit.complaints == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_moves_and_nothing_sticks_out(browser: Browser, simulation: str, width: int) -> None:
    """While numbers grow, and a worker dies and comes back, the layout stays, in narrow windows, too."""
    with visiting(browser, simulation, clock=True, viewport={"width": width, "height": 900}) as visit:
        pass_seconds(visit, 55)
        visit.expect("#tile-restarts", "1")
        assert visit.overflow() <= 0
        assert visit.page.evaluate("shifted") < 0.02
        assert visit.complaints == []


def test_day_and_night_have_their_own_colours(browser: Browser, simulation: str) -> None:
    """The page follows the system's choice, and the charts are drawn anew when that changes."""
    with visiting(browser, simulation, color_scheme="light") as visit:
        visit.expect("#state", "ready")

        def colours() -> tuple[str, str]:
            ground = visit.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            return ground, visit.page.evaluate("document.querySelector('figcaption i').style.background")

        day_ground, day_line = colours()
        visit.page.emulate_media(color_scheme="dark")

        def is_night() -> bool:
            ground, line = colours()
            return ground != day_ground and line != day_line

        wait_until(is_night, "ground and lines have other colours")


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("count(0)", "0"),
        ("count(99999)", "99,999"),
        ("count(123456)", "123 k"),
        ("count(999_999)", "1 M"),
        ("rate(0.04)", "0"),
        ("rate(3.14)", "3.1"),
        ("rate(99.94)", "99.9"),
        ("messagesPerSecond(12345)", "12,345/s"),
        ("bytes(0)", "0 B"),
        ("bytes(1023)", "1023 B"),
        ("bytes(1024)", "1 KiB"),
        ("bytes(1536)", "1.5 KiB"),
        ("bytes(1024 ** 2 - 1)", "1 MiB"),
        ("bytesPerSecond(123456789)", "118 MiB/s"),
        ("delay(0)", "0 ms"),
        ("delay(0.00042)", "0.4 ms"),
        ("delay(0.0123)", "12 ms"),
        ("delay(0.9999)", "1 s"),
        ("delay(2.5)", "2.5 s"),
        ("span(0.4)", "0 s"),
        ("span(60)", "1 min"),
        ("span(3725)", "1 h 2 min"),
        ("span(90061)", "1 d 1 h"),
        ("count(null)", "\u2013"),
        ("bytes(undefined)", "\u2013"),
    ],
)
def test_numbers_are_written_for_people(calculator: Page, expression: str, text: str) -> None:
    """Three digits that matter, a unit, and no zeros that say nothing."""
    assert calculator.evaluate(f"format.{expression}").replace("\u202f", " ") == text


@pytest.fixture(scope="module")
def calculator(browser: Browser) -> Iterator[Page]:
    """A page that can only write numbers."""
    context = browser.new_context()
    page = context.new_page()
    page.add_script_tag(path=Path(gevpy.__file__).parent / "metrics" / "static" / "format.js")
    yield page
    context.close()


@pytest.mark.skipif(os.environ.get("GEVPY_SCREENSHOTS") != "1", reason="GEVPY_SCREENSHOTS=1 takes the picture")
def test_picture_for_the_docs(browser: Browser, simulation: str) -> None:
    """Four workers after five minutes."""
    with visiting(browser, simulation, clock=True, viewport={"width": 1280, "height": 1000}) as visit:
        pass_seconds(visit, 300)
        visit.page.screenshot(path=PICTURE, full_page=True)
    assert PICTURE.stat().st_size < 400_000
