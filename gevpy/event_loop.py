"""Which event loop gevpy runs on, and the ways to get one.

uvloop where it imports, asyncio's selector loop elsewhere. The environment variable ``GEVPY_LOOP``
forces one, ``uvloop`` or ``asyncio``; it is read at every call, so that it also decides for loops
made late, in a worker process.

`run` and `new_event_loop` (a ``loop_factory`` for `asyncio.Runner` and `asyncio.run`) are the
first-class way. For programs that start their loop by themselves, ``EventLoopPolicy`` and
``install`` adapt that to asyncio's policies, which are deprecated since Python 3.14 and due to
disappear. This module is the only place that touches them: both names are built on first access,
without a warning, and where asyncio has no policies left they raise ``AttributeError``. uvloop,
too, is imported by the first call that needs it and not before.
"""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from gevpy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import ModuleType

    class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
        """The policy as type checkers see it; see `_build_policy`."""

    def install() -> None:
        """Make the policy the process's; see `_build_install`."""


__all__ = ["EventLoopPolicy", "install", "loop_name", "new_event_loop", "run"]

_VARIABLE = "GEVPY_LOOP"

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make a new event loop: uvloop's where it imports, else asyncio's selector loop.

    ``GEVPY_LOOP=uvloop`` or ``GEVPY_LOOP=asyncio`` in the environment forces one; it is read at
    every call, upper and lower case alike, and empty counts as unset. The loop is not made current;
    whoever asks for it closes it.

    Returns:
        A new, idle loop of the calling thread.

    Raises:
        ConfigError: ``GEVPY_LOOP`` names another loop, or names uvloop and uvloop does not import.

    Example:
        >>> with asyncio.Runner(loop_factory=new_event_loop) as runner:
        ...     runner.run(asyncio.sleep(0))
    """
    uvloop = _uvloop()
    if uvloop is None:
        return asyncio.SelectorEventLoop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def loop_name() -> str:
    """Name the event loop: the running one, else the one that `new_event_loop` would make.

    Returns:
        ``"uvloop 0.23.0"`` (with its version), ``"asyncio"``, or for a running loop of another make
        its class as ``"module.Class"``.

    Raises:
        ConfigError: no loop is running, and as for `new_event_loop`.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        uvloop = _uvloop()
        return "asyncio" if uvloop is None else f"uvloop {uvloop.__version__}"
    loaded = sys.modules.get("uvloop")
    if loaded is not None and isinstance(loop, loaded.Loop):
        return f"uvloop {loaded.__version__}"
    if isinstance(loop, asyncio.BaseEventLoop):
        return "asyncio"
    return f"{type(loop).__module__}.{type(loop).__qualname__}"


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run a coroutine to its end on a new event loop: `asyncio.run` with gevpy's choice of loop.

    Args:
        main: the coroutine; it is closed if the loop cannot be made.
        debug: asyncio's debug mode; the default None leaves it to ``PYTHONASYNCIODEBUG`` and ``-X
            dev``.

    Returns:
        What ``main`` returns.

    Raises:
        ConfigError: as for `new_event_loop`, before anything of ``main`` has run.
        RuntimeError: a loop is running in this thread already.
        Exception: whatever ``main`` raises; Ctrl-C is ``KeyboardInterrupt``, after ``main`` was
            cancelled.

    Example:
        >>> async def main() -> int:
        ...     return 3
        >>> run(main())
        3
    """
    try:
        _uvloop()
        _refuse_to_nest()
    except (ConfigError, RuntimeError):
        main.close()
        raise
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)


def _refuse_to_nest() -> None:
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("gevpy.run() cannot be called while a loop runs in this thread: await what you serve")


def _uvloop() -> ModuleType | None:
    """Give uvloop if that is the choice, None for asyncio; raise if neither can be."""
    choice = os.environ.get(_VARIABLE, "").strip().lower()
    if choice == "asyncio":
        return None
    if choice not in ("", "uvloop"):
        msg = f"{_VARIABLE}={choice!r} is unknown: use uvloop or asyncio, or unset it"
        raise ConfigError(msg)
    try:
        import uvloop  # noqa: PLC0415  # optional, and heavy for a program that never runs a loop
    except ImportError as error:
        if not choice:
            return None
        msg = (
            f"{_VARIABLE}=uvloop, but uvloop cannot be imported ({error}); "
            f"install it (pip install uvloop), or unset {_VARIABLE} to run on asyncio"
        )
        raise ConfigError(msg) from error
    return uvloop


def _build_policy() -> type[asyncio.AbstractEventLoopPolicy]:
    """Make the policy class; raises ``AttributeError`` where asyncio has none to derive from."""
    with warnings.catch_warnings():
        # From Python 3.14 on, looking the base class up warns. The user asked for a policy by name
        # and decided.
        warnings.simplefilter("ignore", DeprecationWarning)
        base: Any = asyncio.DefaultEventLoopPolicy

    class EventLoopPolicy(base):  # type: ignore[misc]  # the base is not a constant: see above
        """An asyncio event loop policy that makes the loops of gevpy.new_event_loop.

        In all else it is asyncio's default policy. For programs that cannot pass a
        ``loop_factory``; deprecated together with asyncio's policies.
        """

        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            """Make a new loop, as `gevpy.new_event_loop` does."""
            return new_event_loop()

    EventLoopPolicy.__module__ = __name__
    EventLoopPolicy.__qualname__ = "EventLoopPolicy"
    return EventLoopPolicy


def _build_install() -> Callable[[], None]:
    """Make `install`; raises ``AttributeError`` where asyncio has no policies."""
    policy = sys.modules[__name__].EventLoopPolicy

    def install() -> None:
        """Make `EventLoopPolicy` this process's: `asyncio.run` then uses gevpy's loops.

        For programs that cannot pass a ``loop_factory``; prefer `gevpy.run`. Call it before a loop
        is made, in the main thread.
        """
        with warnings.catch_warnings():
            # As above: it is the caller who chose policies, and calling install() says so.
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(policy())

    install.__qualname__ = "install"
    return install


_BUILDERS: dict[str, Callable[[], object]] = {
    "EventLoopPolicy": _build_policy,
    "install": _build_install,
}


def __getattr__(name: str) -> object:
    """Build ``EventLoopPolicy`` and ``install`` on first access; they stay as attributes."""
    builder = _BUILDERS.get(name)
    if builder is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        built = globals()[name] = builder()
    except AttributeError as error:
        msg = (
            f"{name} needs asyncio's event loop policies, which this Python no longer has; "
            "use gevpy.run(), or gevpy.new_event_loop as a loop_factory"
        )
        raise AttributeError(msg) from error
    return built
