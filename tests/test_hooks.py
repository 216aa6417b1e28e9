"""What is served must be a handler, and hooks are known by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy.hooks import HOOKS, check_handler, hooks_of

if TYPE_CHECKING:
    from collections.abc import Callable


class Plain(gevpy.Handler):
    """The least there is."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: Any) -> None:
        """Do nothing."""


class Silent(gevpy.Handler):
    """No handler yet."""


class Own:
    """Need not inherit."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: Any) -> None:
        """Do nothing."""

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        """Do nothing."""


def test_hooks_are_all_that_a_handler_may_leave_out() -> None:
    """Every method of `Handler` but ``on_message``."""
    assert set(HOOKS) == {name for name in vars(gevpy.Handler) if name.startswith("on_")} - {"on_message"}


def test_only_what_was_written_is_called() -> None:
    """What `Handler` has itself does nothing, and costs nothing."""
    assert hooks_of(Plain()) == {}
    own = Own()
    assert hooks_of(own) == {"on_close": own.on_close}


@pytest.mark.parametrize("handler", [Plain(), Own()])
def test_a_handler_is_any_object_with_on_message(handler: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said of it."""
    check_handler(handler)
    assert not caplog.records


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (Plain, r"an object: Plain\(\), not the class Plain"),
        (Silent(), r"Silent has no on_message\(self, conn, ctx, data\) method"),
        (len, "no on_message"),
        (None, "NoneType has no on_message"),
    ],
)
@pytest.mark.parametrize(
    "check",
    [check_handler, lambda wrong: gevpy.websocket.WebSocketProtocol(routes={"/a": wrong})],
    ids=["one", "route"],
)
def test_what_is_no_handler(check: Callable[[Any], object], wrong: Any, text: str) -> None:
    """The same is refused as a handler of all, and as that of a route."""
    with pytest.raises(gevpy.ConfigError, match=text):
        check(wrong)


def test_a_misspelt_hook_is_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    """What has a name of its own is the application's business."""

    class Misspelt(Plain):
        on_conection = "no method"

        def on_conect(self, conn: gevpy.Connection) -> None: ...

        def on_move(self) -> None: ...

    check_handler(Misspelt())
    (warning,) = caplog.records
    assert (warning.levelname, warning.name) == ("WARNING", "gevpy.server")
    assert warning.getMessage() == "Misspelt.on_conect is never called; was on_connect meant?"
