"""``python -m gevpy``: the ``gevpy`` command, for where its script is not on the path."""

from __future__ import annotations

from gevpy.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
