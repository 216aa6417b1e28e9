"""The live page: its files, and where on the metrics port they are.

The page is one HTML document with scripts and styles in files of their own, all from this package, none from
elsewhere. It asks for ``/stats.json`` each second and draws what it says. The charts are uPlot's, which lies unchanged
in ``static/uplot``, with its licence.

A closed table says what is served, so that no path can lead out of it.
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from importlib.resources import files

from gevpy.metrics.answer import TEXT, Answer

__all__ = ["PATHS", "page_file"]

SCRIPT = "text/javascript; charset=utf-8"
STYLE = "text/css; charset=utf-8"

# path: file below static/, content type
PATHS = {
    b"/": ("page.html", "text/html; charset=utf-8"),
    b"/static/page.css": ("page.css", STYLE),
    b"/static/page.js": ("page.js", SCRIPT),
    b"/static/format.js": ("format.js", SCRIPT),
    b"/static/charts.js": ("charts.js", SCRIPT),
    b"/static/icon.svg": ("icon.svg", "image/svg+xml"),
    b"/static/uplot/uPlot.iife.min.js": ("uplot/uPlot.iife.min.js", SCRIPT),
    b"/static/uplot/uPlot.min.css": ("uplot/uPlot.min.css", STYLE),
    b"/static/uplot/LICENSE": ("uplot/LICENSE", TEXT),
}


def page_file(path: bytes) -> Answer | None:
    """Give what is at ``path``; None if it is no part of the page.

    The first request for a file reads it, 60 KB at most; from then on it stays in memory.

    Raises:
        OSError: the package lacks the file.

    Example:
        >>> page_file(b"/static/page.css").content_type
        'text/css; charset=utf-8'
    """
    return _loaded(*PATHS[path]) if path in PATHS else None


@cache
def _loaded(name: str, content_type: str) -> Answer:
    return Answer(HTTPStatus.OK, content_type, files("gevpy.metrics").joinpath("static", name).read_bytes())
