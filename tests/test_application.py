"""What can travel to a worker process, and what is said of what can't."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from typing import Any

import pytest

import gevpy
from gevpy.application import Application, check_travels


class Plain(gevpy.Handler):
    """Travels as it is; attributes are set by the tests."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: Any) -> Any:
        return data


class Parts:
    """Something a handler holds."""


def test_a_handler_of_a_module_travels() -> None:
    """With plain attributes, and with what multiprocessing itself can send at spawn."""
    handler = Plain()
    handler.names = {"a": 1}  # type: ignore[attr-defined]
    handler.lock = multiprocessing.get_context("spawn").Lock()  # type: ignore[attr-defined]
    check_travels("handler", handler)


@pytest.mark.parametrize(
    ("value", "says"),
    [(lambda: None, "handler.parts.odd"), (threading.Lock(), "cannot pickle"), (open, None)],
    ids=["lambda", "lock", "function of a module"],
)
def test_the_attribute_at_fault_is_named(value: Any, says: str | None) -> None:
    """A lambda or an open resource, however deep, is a ConfigError with its path and a way out."""
    handler = Plain()
    handler.parts = Parts()  # type: ignore[attr-defined]
    handler.parts.odd = value  # type: ignore[attr-defined]
    if says is None:
        check_travels("handler", handler)
        return
    with pytest.raises(gevpy.ConfigError, match="on_start") as caught:
        check_travels("handler", handler)
    assert "handler.parts.odd" in str(caught.value)
    assert says in str(caught.value)


def test_an_open_file_is_named(tmp_path: Any) -> None:
    """So is a file."""
    handler = Plain()
    handler.log = (tmp_path / "log").open("w")  # type: ignore[attr-defined]
    with handler.log, pytest.raises(gevpy.ConfigError, match=r"handler\.log can't be sent"):  # type: ignore[attr-defined]
        check_travels("handler", handler)


def test_a_local_class_is_refused() -> None:
    """A class that nobody can import is a ConfigError, too."""

    class Local(Plain):
        pass

    with pytest.raises(gevpy.ConfigError, match="handler can't be sent to a worker process"):
        check_travels("handler", Local())


def test_serve_refuses_at_once() -> None:
    """The error comes from serve(...), not from a worker."""
    handler = Plain()
    handler.odd = lambda: None  # type: ignore[attr-defined]
    with pytest.raises(gevpy.ConfigError, match=r"handler\.odd"):
        gevpy.serve(handler, workers=2)


def test_it_is_unpickled_only_when_asked() -> None:
    """So that a worker can tell what went wrong."""
    options = gevpy.ServeOptions(protocol=gevpy.LineProtocol())
    travelled = pickle.loads(pickle.dumps(Application(Plain(), options)))  # noqa: S301 - our own
    handler, loaded = travelled.load()
    assert type(handler) is Plain
    assert type(loaded.protocol) is gevpy.LineProtocol
