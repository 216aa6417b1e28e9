"""Makes a compiled tree run from its Python sources: what ``GEVPY_PURE_PYTHON=1`` does.

An extension module beside its source wins the import. `install` puts a finder in front of the
others that knows gevpy's own submodules only, and only their ``.py`` files. It must run before the
first of them is imported, so ``gevpy/__init__.py`` calls it before anything else.
"""

from __future__ import annotations

import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["install"]


class SourceFinder:
    """Finds submodules of gevpy among the source files of their package, and nothing else."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Give the spec of a submodule of gevpy with a source, else None (``sys.meta_path``)."""
        if path is None or not name.startswith("gevpy."):
            return None
        for directory in path:
            finder = FileFinder(directory, (SourceFileLoader, SOURCE_SUFFIXES))
            spec = finder.find_spec(name, target)
            if spec is not None:
                return spec
        return None


def install() -> None:
    """From now on, import gevpy's submodules from their sources; a second call changes nothing.

    Modules that are already imported stay what they are.
    """
    if SourceFinder not in sys.meta_path:
        sys.meta_path.insert(0, SourceFinder)
