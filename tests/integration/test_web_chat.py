"""The chat example in a real Chromium: two people in a room, and a server that goes away and comes back.

What makes it skip is told in `tests.integration.browsing`. ``GEVPY_SCREENSHOTS=1`` takes the picture for the docs.
"""

from __future__ import annotations

import os
import re
import signal
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.browsing import Visit, running_browser
from tests.integration.harness import SOAK, wait_until
from tests.programs import ROOT, Program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

pytestmark = pytest.mark.timeout(600)  # an installation may be among it

PICTURE = ROOT / "docs" / "assets" / "web-chat.png"
MARKUP = "<img src=x onerror=\"document.title = 'broken'\"> & <b>so on</b>"
FLOOD = """() => {
  for (let number = 0; number < 20; number += 1) {
    document.getElementById("text").value = `line ${number}`;
    document.getElementById("say").requestSubmit();
  }
}"""
HOLE = """() => {
  document.getElementById("said").innerHTML = '<li><img src="data:," onerror="window.broken = 1"></li>';
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium for all tests of this file."""
    with running_browser() as running:
        yield running


class ChatServer:
    """The example, which may be stopped and started again on the same port."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self._stack = ExitStack()
        self.port = 0
        self.start()

    def start(self) -> None:
        """Serve."""
        options = ["--port", str(self.port), *self._options]
        self.program = self._stack.enter_context(Program("examples/web_chat.py", *options))
        self.port = int(self.program.expect(r"try: +http://127\.0\.0\.1:(\d+)/")[1])

    def stop(self) -> None:
        """Stop as by a service manager."""
        assert self.program.stop() == 0, self.program.output
        assert "Traceback" not in self.program.output

    def close(self) -> None:
        """End what is left."""
        self._stack.close()


@contextmanager
def serving(*options: str) -> Iterator[ChatServer]:
    """Run the chat."""
    server = ChatServer(*options)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def visiting(browser: Browser, server: ChatServer, name: str, room: str = "tea", **options: Any) -> Iterator[Visit]:
    """Enter a room in a browser, and wait until one is in it."""
    visit = Visit(browser, **options)
    try:
        visit.page.goto(f"http://127.0.0.1:{server.port}/")
        enter(visit, name, room)
        yield visit
    finally:
        visit.close()


def enter(visit: Visit, name: str, room: str) -> None:
    """Fill in the form, and wait for the connection."""
    visit.page.get_by_label("Name").fill(name)
    visit.page.get_by_label("Room").fill(room)
    visit.page.get_by_role("button", name="Come in").click()
    visit.expect("#state", "connected")


def say(visit: Visit, text: str) -> None:
    """Type a message, and press Enter."""
    visit.page.get_by_label("Your message").fill(text)
    visit.page.get_by_label("Your message").press("Enter")


def test_two_people_in_a_room_read_each_other(browser: Browser) -> None:
    """Names, who is here and what was said are on both pages, as text, whatever it is; nobody else is asked."""
    with serving() as server, visiting(browser, server, "Ann") as ann, visiting(browser, server, "<i>Bob</i>") as bob:
        for visit in (ann, bob):
            visit.expect("#count", "2 are here")
            visit.expect("#who span", ["<i>Bob</i>", "Ann"])
            visit.expect_title("tea · gevpy chat")
        say(ann, "hello")
        say(bob, MARKUP)
        say(bob, "grüße 👋")
        for visit, own in ((ann, ["hello"]), (bob, [MARKUP, "grüße 👋"])):
            visit.expect("#said .mine p", own)
            visit.expect("#said p", ["hello", MARKUP, "grüße 👋"])
            visit.expect("#said li:nth-child(2) b", re.compile(r"^<i>Bob</i>\d\d:\d\d"))
            assert visit.count("#said img, #said p b, #who i i") == 0
            assert visit.complaints == []
            assert all(re.match(rf"(http|ws)://127\.0\.0\.1:{server.port}/|data:", url) for url in visit.requested)
        bob.page.get_by_role("button", name="Leave").click()
        ann.expect("#count", "1 is here")
        enter(bob, "Bob", "coffee")
        say(bob, "hello?")
        bob.expect("#said p", ["hello?"])
        bob.expect("#who span", ["Bob"])
        server.stop()


def test_the_page_comes_back_when_the_server_does(browser: Browser) -> None:
    """While the server is away it says so and keeps what is typed; when it is back, so are we, without any help."""
    with serving() as server, visiting(browser, server, "Ann") as ann, visiting(browser, server, "Bob") as bob:
        say(ann, "before")
        bob.expect("#said p", ["before"])
        server.stop()
        for visit in (ann, bob):
            visit.expect("#state", re.compile(r"^away, trying again in \d+ s$|^connecting$"))
            visit.expect("#send:disabled", "Send")
        say(bob, "kept")
        server.start()
        for visit in (ann, bob):
            visit.expect("#state", "connected")
            visit.expect("#said .note", "You are back. What was said meanwhile is not here.")
            visit.expect("#who span", ["Ann", "Bob"])
        bob.page.get_by_label("Your message").press("Enter")
        ann.expect("#said p", ["before", "kept"])
        server.stop()


def test_a_reload_of_the_workers_is_hardly_seen(browser: Browser) -> None:
    """With two workers guests move to new ones, one by one, and the room is whole again for who has moved."""
    names = ["Ann", "Bob", "Cat"]
    with serving("--workers", "2") as server, ExitStack() as stack:
        guests = [stack.enter_context(visiting(browser, server, name)) for name in names]
        for visit in guests:
            visit.expect("#who span", names)
        os.kill(server.program._process.pid, signal.SIGHUP)
        moved: list[Visit] = []

        def enough_have_moved() -> bool:
            moved[:] = [visit for visit in guests if visit.count("#said .note")]
            return len(moved) >= (len(guests) if SOAK else 1)

        wait_until(enough_have_moved, "guests have moved")
        for visit in moved:
            visit.expect("#state", "connected")
            visit.expect("#who span", names)
        say(moved[0], "still there?")
        for visit in moved:
            visit.expect("#said p", ["still there?"])
            assert visit.complaints == []
        server.stop()


def test_too_much_in_a_moment_is_given_back(browser: Browser) -> None:
    """What the server refused is in the input again, and the page says why."""
    with serving() as server, visiting(browser, server, "Ann") as ann:
        ann.page.evaluate(FLOOD)
        note = ann.page.locator("#said .note").first
        note.wait_for()
        assert note.inner_text() == "Not so fast: your last message was not sent."
        assert re.match(r"line \d+$", ann.page.get_by_label("Your message").input_value())
        server.stop()


def test_markup_that_gets_into_the_page_runs_nothing(browser: Browser) -> None:
    """Were there a hole, the policy of the page is the second wall: no script runs, nothing is sent elsewhere."""
    with serving() as server, visiting(browser, server, "Ann") as ann:
        ann.page.evaluate(HOLE)
        wait_until(lambda: any("Content Security Policy" in each for each in ann.complaints), "it was blocked")
        assert ann.page.evaluate("window.broken") is None
        server.stop()


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_sticks_out(browser: Browser, width: int) -> None:
    """Long names, long words and many lines stay within the window, and the newest line is seen."""
    with (
        serving() as server,
        visiting(browser, server, "W" * 24, "M" * 24, viewport={"width": width, "height": 700}) as visit,
    ):
        for number in range(6):
            say(visit, f"{number} " + "extraordinarily" * 30)
        visit.expect("#said li:nth-child(6) p", re.compile("^5 "))
        assert visit.overflow() <= 0
        assert visit.page.evaluate("document.documentElement.scrollHeight") <= 700
        log = visit.page.locator("#said")
        assert log.evaluate("(log) => log.scrollHeight - log.scrollTop - log.clientHeight") < 2
        assert log.evaluate("(log) => log.scrollHeight > log.clientHeight")
        assert visit.complaints == []
        server.stop()


@pytest.mark.skipif(os.environ.get("GEVPY_SCREENSHOTS") != "1", reason="GEVPY_SCREENSHOTS=1 takes the picture")
def test_picture_for_the_docs(browser: Browser) -> None:
    """Four people plan an evening."""
    talk = (
        ("Ines", "Who is coming to the lake on Saturday?"),
        ("Jonas", "Me! I can bring the small boat."),
        ("Jonas", "There is room for three and a picnic."),
        ("Mira", "Count me in. Shall we meet at nine?"),
        ("Ines", "Nine is perfect. I'll bake something <lemon cake & co.>"),
        ("Tariq", "I have to work until noon, but I'll swim over to you :)"),
        ("Mira", "Then we keep a piece of cake dry for you."),
    )
    with serving() as server, ExitStack() as stack:
        window = {"width": 1040, "height": 660}
        guests = {
            name: stack.enter_context(visiting(browser, server, name, "lake", viewport=window))
            for name in ("Ines", "Jonas", "Mira", "Tariq")
        }
        seen = guests["Mira"]
        for number, (name, text) in enumerate(talk):
            say(guests[name], text)
            seen.expect(f"#said li:nth-child({number + 1}) p", text)
        seen.expect("#who span", sorted(guests))
        seen.page.screenshot(path=PICTURE)
        server.stop()
    assert PICTURE.stat().st_size < 200_000
