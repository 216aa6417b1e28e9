"""Print what the build needs, as ``pyproject.toml`` names it, one requirement to a line."""

from __future__ import annotations

import tomllib
from pathlib import Path


def main() -> None:
    """Read the ``build-system`` table beside this directory."""
    pyproject = Path(__file__).parent.parent / "pyproject.toml"
    print(*tomllib.loads(pyproject.read_text())["build-system"]["requires"], sep="\n")


if __name__ == "__main__":
    main()
