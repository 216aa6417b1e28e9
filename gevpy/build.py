"""What is running here: which version, compiled or pure, on which loop and Python.

Nothing records how gevpy was built. An extension module beside its source wins the import, so
whether the core is compiled is a fact about the module that got imported, and is read off it.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES

from gevpy import ring_buffer
from gevpy.event_loop import loop_name

__all__ = ["VERSION", "BuildInfo", "build_info"]

VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """The facts that decide how gevpy runs here; ``str()`` is one line for logs and bug reports.

    Attributes:
        version: gevpy's version, ``"0.1.0"``.
        compiled: True when the hot modules are extension modules, False when they are sources.
        loop: name and version of the event loop, ``"uvloop 0.23.0"`` or ``"asyncio"``.
        python: implementation and version, ``"CPython 3.11.7"``.
    """

    version: str
    compiled: bool
    loop: str
    python: str

    def __str__(self) -> str:
        """``gevpy 0.1.0 (compiled, uvloop 0.23.0, CPython 3.11.7)``."""
        core = "compiled" if self.compiled else "pure"
        return f"gevpy {self.version} ({core}, {self.loop}, {self.python})"


def build_info() -> BuildInfo:
    """Tell which gevpy is running, and on what.

    The loop is the running one; where none runs, the one that `gevpy.new_event_loop` would make at
    this moment, so ``GEVPY_LOOP`` counts. Safe from any thread.

    Returns:
        The facts, frozen.

    Raises:
        ConfigError: no loop is running, and ``GEVPY_LOOP`` names none that can be had here.

    Example:
        >>> print(gevpy.build_info())  # doctest: +SKIP
        gevpy 0.1.0 (compiled, uvloop 0.23.0, CPython 3.11.7)
    """
    return BuildInfo(
        version=VERSION,
        compiled=ring_buffer.__file__.endswith(tuple(EXTENSION_SUFFIXES)),
        loop=loop_name(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
    )
