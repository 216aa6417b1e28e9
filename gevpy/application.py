"""What travels to a worker process: the handler and the options, by multiprocessing's own pickling, once, at spawn."""

from __future__ import annotations

import pickle
import sys
from multiprocessing import context
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

from gevpy.errors import ConfigError

if TYPE_CHECKING:
    from gevpy.handler import Handler
    from gevpy.options import ServeOptions

__all__ = ["Application", "check_travels"]

DEPTH = 4  # how far into attributes of attributes the culprit is looked for
FIX = "make it in on_start(worker), which runs in each worker, or at the top of a module"


class Application:
    """A handler and its options; pickled apart from the rest, so that a worker can say what kept it from unpickling.

    Args:
        handler: the application's object.
        options: the server's, without sockets.
    """

    def __init__(self, handler: Handler, options: ServeOptions) -> None:
        """Keep both."""
        self._content = (handler, options)
        self._pickled: bytes | None = None

    def __getstate__(self) -> bytes:
        """Pickle with what is being spawned, descriptors included."""
        return bytes(ForkingPickler.dumps(self._content))

    def __setstate__(self, pickled: bytes) -> None:
        """Keep the bytes until `load`."""
        self._pickled = pickled

    def load(self) -> tuple[Handler, ServeOptions]:
        """Give handler and options, in the worker. Raises whatever importing the application raises."""
        if self._pickled is not None:
            self._content = pickle.loads(self._pickled)  # noqa: S301 - from our own parent, at spawn
        return self._content


class _Spawning:
    """Stands in for a process that is being spawned, while it is tried whether things would travel to it."""

    def duplicate_for_child(self, fd: int) -> int:
        """Take a descriptor."""
        return fd


def _error_of(value: Any) -> Exception | None:
    before = context.get_spawning_popen()
    context.set_spawning_popen(_Spawning())  # type: ignore[arg-type]
    try:
        ForkingPickler.dumps(value)
    except Exception as error:  # noqa: BLE001 - a __reduce__ of the application's may raise anything
        return error
    finally:
        context.set_spawning_popen(before)
    return None


def check_travels(name: str, value: Any) -> None:
    """Check that ``value`` can be sent to a worker process.

    Raises:
        ConfigError: it can't; the text names the attribute at fault, and says what to do.
    """
    error = _error_of(value)
    if error is not None:
        path = _culprit(name, value, DEPTH)
        msg = f"{path} can't be sent to a worker process ({type(error).__name__}: {error}): {FIX}"
        raise ConfigError(msg) from error
    kind = type(value)
    if kind.__module__ == "__main__" and not getattr(sys.modules["__main__"], "__file__", None):
        msg = f"{kind.__name__} can't be imported by a worker process: put it in a file, not in a shell or behind -c"
        raise ConfigError(msg)


def _culprit(path: str, value: Any, depth: int) -> str:
    """Give the path of the attribute that doesn't travel."""
    if depth:
        for name, held in _attributes_of(value):
            if _error_of(held) is not None:
                return _culprit(f"{path}.{name}", held, depth - 1)
    return path


def _attributes_of(value: Any) -> list[tuple[str, Any]]:
    names = list(getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return [(name, getattr(value, name)) for name in names if hasattr(value, name) and not name.startswith("__")]
