"""The tree of errors as its docstring draws it, with fields, texts and causes."""

from __future__ import annotations

import builtins
import errno
import inspect
import re

import pytest

import gevpy
from gevpy import CloseKind, CloseReason, errors

DRAWN = re.compile(r"^ {4}([│ ├└─]*)(\w+)(?: +\(also an? (\w+)\))?", re.MULTILINE)


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Read the docstring's drawing: for each name, its parent and the built-in beside it."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    path: list[str] = []
    assert errors.__doc__ is not None
    drawing = errors.__doc__.split("\n\n")[1]
    for branch, name, beside in DRAWN.findall(drawing):
        depth = len(branch) // 4
        del path[depth:]
        tree[name] = (path[-1] if path else None, beside or None)
        path.append(name)
    return tree


def test_every_error_is_drawn() -> None:
    """The drawing has exactly what the module exports, and the package exports it, too."""
    assert sorted(drawn_tree()) == sorted(errors.__all__)
    assert set(errors.__all__) <= set(gevpy.__all__)


@pytest.mark.parametrize("name", errors.__all__)
def test_the_tree_is_as_drawn(name: str) -> None:
    """Each has the parent and the built-in of the drawing, and no other public ancestor."""
    parent, beside = drawn_tree()[name]
    cls = getattr(errors, name)
    public = [
        base.__name__ for base in cls.__mro__[1:] if base.__module__ == "gevpy.errors" and base.__name__[0] != "_"
    ]
    assert public[:1] == ([parent] if parent else [])
    if beside:
        assert issubclass(cls, getattr(builtins, beside))
    else:
        assert not issubclass(cls, ValueError | OSError)
    assert inspect.getdoc(cls)


@pytest.mark.parametrize("cls", [errors.BufferUnderflow, errors.BufferOverflow, errors.WriteBufferFull])
def test_limit_errors_tell_their_numbers(cls: type[errors.BufferUnderflow]) -> None:
    """Fields for code, text for people; zero is a number, None isn't."""
    error = cls("too much", limit=0, actual=7)
    assert (error.limit, error.actual) == (0, 7)
    assert str(error) == "too much (limit 0, actual 7)"
    assert str(cls("too much", actual=7)) == "too much (actual 7)"
    assert str(cls("too much")) == "too much"
    assert cls("x").limit is None
    with pytest.raises(TypeError):
        cls("x", 1, 2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "cls", [errors.ProtocolError, errors.FrameTooLarge, errors.FrameTimeout, errors.TruncatedFrame]
)
def test_protocol_errors_tell_the_place(cls: type[errors.ProtocolError]) -> None:
    """The offset, zero included."""
    error = cls("bad", limit=1, actual=2, offset=0)
    assert (error.limit, error.actual, error.offset) == (1, 2, 0)
    assert str(error) == "bad (limit 1, actual 2) at byte 0"
    assert str(cls("bad", offset=9)) == "bad at byte 9"
    assert str(cls("bad")) == "bad"


def test_a_bind_error_names_the_address() -> None:
    """It is an OSError with the system's number, and one line for a person."""
    cause = OSError(errno.EADDRINUSE, "Address already in use")
    error = errors.BindError("127.0.0.1:80", cause)
    assert error.errno == errno.EADDRINUSE
    assert error.address == "127.0.0.1:80"
    assert str(error) == "cannot listen on 127.0.0.1:80: Address already in use"
    assert type(error) is errors.BindError
    assert str(errors.BindError("/run/x", OSError("no number"))) == "cannot listen on /run/x: no number"


def test_a_closed_connection_tells_why() -> None:
    """The reason is a field, its error the cause."""
    behind = ConnectionResetError("by peer")
    reason = CloseReason(CloseKind.PEER_RESET, behind)
    error = errors.ConnectionClosed(reason)
    assert error.reason is reason
    assert error.__cause__ is behind
    assert str(error) == "connection closed: peer_reset, by peer"
    assert str(errors.ConnectionClosed(reason, "not sent")) == "not sent: peer_reset, by peer"


def test_a_closed_connection_without_a_reason() -> None:
    """Only the sending side was shut down, or the reason has no error: no cause."""
    assert str(errors.ConnectionClosed()) == "connection closed"
    assert errors.ConnectionClosed().reason is None
    assert str(errors.ConnectionClosed(None, "write side shut down")) == "write side shut down"
    assert errors.ConnectionClosed(CloseReason(CloseKind.IDLE)).__cause__ is None


@pytest.mark.parametrize("name", errors.__all__)
def test_one_clause_catches_them_all(name: str) -> None:
    """``except GevError`` is enough, and bugs (KeyboardInterrupt, SystemExit) aren't among them."""
    assert issubclass(getattr(errors, name), errors.GevError)
    assert issubclass(errors.GevError, Exception)
