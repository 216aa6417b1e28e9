# ruff: noqa: INP001 - loaded by mkdocstrings from its path
"""Show the "Example:" sections of docstrings as code.

Griffe knows the section "Examples:" and makes a box of plain text out of the singular.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["ExampleSections"]

SINGULAR = re.compile(r"^Example:$", re.MULTILINE)


class ExampleSections(griffe.Extension):
    """Rewrites the heading before the docstring is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Look at each object once it is loaded."""
        if obj.docstring is not None:
            obj.docstring.value = SINGULAR.sub("Examples:", obj.docstring.value)
