"""The live page's files: all there, all closed to the outside, and uPlot as its authors made it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gevpy
from gevpy.metrics.page import PATHS, page_file
from tests.metrics.scraping import Echo, endpoint_of, fetch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "LICENSE": "text/plain; charset=utf-8",
}


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """Where a server's metrics are."""
    async with asyncio.timeout(20), gevpy.serve(Echo(), port=0, metrics="127.0.0.1:0") as server:
        yield endpoint_of(server).address


def body_of(path: str) -> bytes:
    """Give a file of the page."""
    answer = page_file(path.encode())
    assert answer is not None
    return answer.body


class Links(HTMLParser):
    """Collects what a document refers to, and what it has inline."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.inline: list[str] = []
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        for name, value in attrs:
            if name in {"src", "href"}:
                self.links.add(value or "")
            elif name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_data(self, data: str) -> None:
        if self._within in {"script", "style"} and data.strip():
            self.inline.append(self._within)


@pytest.mark.parametrize("path", sorted(path.decode() for path in PATHS))
async def test_every_file_is_served_whole(address: str, path: str) -> None:
    """With its type, its length, and for HEAD without its bytes; never to be kept."""
    answer = await fetch(address, path)
    assert answer.status == 200
    assert answer.body == body_of(path)
    assert int(answer.headers["content-length"]) == len(answer.body) > 0
    assert answer.headers["content-type"] == TYPES[PATHS[path.encode()][0].rpartition("/")[2].rpartition(".")[2]]
    assert answer.headers["cache-control"] == "no-store"
    head = await fetch(address, path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) == len(answer.body)


@pytest.mark.parametrize("path", ["/", "/metrics", "/stats.json", "/healthz", "/nowhere", "/static/page.js"])
async def test_every_answer_is_closed_to_other_sites(address: str, path: str) -> None:
    """Nothing may be loaded from elsewhere, framed, read by another origin, or taken for another type."""
    headers = (await fetch(address, path)).headers
    policy = dict(directive.split(" ", 1) for directive in headers["content-security-policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert {name for name, value in policy.items() if value == "'self'"} == {
        "script-src", "style-src", "connect-src", "img-src"
    }  # fmt: skip
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    ["/static", "/static/", "/static/uplot", "/static/../page.py", "/static/%2e%2e/page.py", "//", "/page.html",
     "/static/page.html", "/static/uplot/README.md", "/static/page.js/", "/static//page.js", "/static/page.js%00"],
)  # fmt: skip
async def test_nothing_else_is_served(address: str, path: str) -> None:
    """The table is closed: no path leads to another file."""
    assert (await fetch(address, path)).status == 404


async def test_a_query_changes_nothing(address: str) -> None:
    """``/?anything`` is the page, too."""
    assert (await fetch(address, "/?from=a-bookmark")).body == body_of("/")


def test_the_document_refers_only_to_what_is_served() -> None:
    """Each link is relative and served, and nothing is inline, which the policy would refuse."""
    found = Links()
    found.feed(body_of("/").decode())
    served = {path.decode().lstrip("/") for path in PATHS} | {"stats.json", "metrics"}
    assert found.links
    assert found.links <= served
    assert found.inline == []
    unused = served - found.links - {""}
    assert unused == set()


@pytest.mark.parametrize("path", ["/", "/static/page.css", "/static/page.js", "/static/format.js", "/static/charts.js"])
def test_our_files_name_no_other_host(path: str) -> None:
    """No address but relative ones, no evaluation of text, and no markup out of data."""
    text = body_of(path).decode()
    assert not re.search(r"https?:|//[a-z0-9-]+\.[a-z]|url\(|@import", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", text)


def test_uplot_is_as_its_authors_made_it() -> None:
    """The note beside it says which version, and these are its bytes."""
    note = (Path(gevpy.__file__).parent / "metrics" / "static" / "uplot" / "README.md").read_text(encoding="utf-8")
    for name in ("uPlot.iife.min.js", "uPlot.min.css", "LICENSE"):
        assert hashlib.sha256(body_of(f"/static/uplot/{name}")).hexdigest() in note
    version = re.search(rb"uPlot \(v([0-9.]+)\)", body_of("/static/uplot/uPlot.iife.min.js"))
    assert version is not None
    assert f"uPlot {version[1].decode()}" in note
    assert b"MIT License" in body_of("/static/uplot/LICENSE")
