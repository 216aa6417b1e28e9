"""A real Chromium for tests of pages, and pages that note what they ask for and complain about.

Tests are skipped where playwright or Chromium is missing. With ``CI=true`` or ``REQUIRE_BROWSER=1`` that is a failure
instead, unless we are root on a Debian, where Chromium can be installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

__all__ = ["PATIENCE_MS", "Visit", "running_browser"]

REQUIRED = os.environ.get("CI") == "true" or os.environ.get("REQUIRE_BROWSER") == "1"
PATIENCE_MS = 15_000


def missing(what: str) -> NoReturn:
    """Skip, or fail where the browser is required."""
    if REQUIRED:
        pytest.fail(what)
    pytest.skip(f"{what}; REQUIRE_BROWSER=1 makes this a failure")


def chromium() -> str:
    """Give the system's Chromium; install it, if it is required and we may."""
    names = ("chromium", "chromium-browser")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None and REQUIRED and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)  # noqa: S607 - wherever it is
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
        subprocess.run(command, check=True, env=environment)
        found = shutil.which("chromium")
    return found or missing("there is no Chromium here: Debian's package is called chromium")


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run a Chromium without a window, and without a way to any other machine."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: it comes with the extra gevpy[test]")
    arguments = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # which it can't have as root
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        yield running
        running.close()


class Visit:
    """A page in a context of its own, as if on a machine of its own.

    Attributes:
        page: for what the test does.
        requested: the addresses of all requests.
        complaints: errors and warnings of the console, and exceptions.
    """

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.requested: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", self._note_request)
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note_request(self, request: Request) -> None:
        self.requested.append(request.url)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def expect(self, selector: str, text: str | re.Pattern[str] | list[str]) -> None:
        """Wait until an element says this, or the elements these."""
        from playwright.sync_api import expect

        expect(self.page.locator(selector)).to_have_text(text, timeout=PATIENCE_MS)

    def expect_title(self, text: str | re.Pattern[str]) -> None:
        """Wait until the window's title is this."""
        from playwright.sync_api import expect

        expect(self.page).to_have_title(text, timeout=PATIENCE_MS)

    def texts(self, selector: str) -> list[str]:
        """Give what the elements say now."""
        return self.page.locator(selector).all_inner_texts()

    def count(self, selector: str) -> int:
        """Count elements."""
        return self.page.locator(selector).count()

    def overflow(self) -> int:
        """Give by how many pixels the document is wider than the window."""
        wider: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return wider

    def close(self) -> None:
        """Leave."""
        self.context.close()
