"""The reason of a close: frozen, and one readable line."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from gevpy import CloseKind, CloseReason


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (CloseReason(CloseKind.IDLE), "idle"),
        (CloseReason(CloseKind.PEER_RESET, ConnectionResetError("by peer")), "peer_reset, by peer"),
        (CloseReason(CloseKind.PEER_RESET, ConnectionResetError()), "peer_reset, ConnectionResetError"),
        (CloseReason(CloseKind.PEER_CLOSED, code=1000), "peer_closed, code 1000"),
        (CloseReason(CloseKind.PEER_CLOSED, code=0), "peer_closed, code 0"),
        (CloseReason(CloseKind.PEER_CLOSED, code=1001, text="bye\r\n"), "peer_closed, code 1001, 'bye\\r\\n'"),
        (CloseReason(CloseKind.ABORTED, ValueError("x"), 1011, "t"), "aborted, code 1011, 't', x"),
    ],
)
def test_str_is_one_line_of_what_is_known(reason: CloseReason, text: str) -> None:
    """Kind, code, text, error; what isn't there isn't mentioned, and a peer's text can't break the line."""
    assert str(reason) == text


def test_a_reason_cannot_be_changed() -> None:
    """It goes to handlers, errors and logs: all see the same."""
    reason = CloseReason(CloseKind.IDLE)
    for field in dataclasses.fields(reason):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(reason, field.name, None)
    with pytest.raises((AttributeError, TypeError)):
        reason.mood = "bad"  # type: ignore[attr-defined]


def test_reasons_compare_by_value() -> None:
    """As values do, and survive copies."""
    reason = CloseReason(CloseKind.PEER_CLOSED, code=1000, text="bye")
    assert reason == CloseReason(CloseKind.PEER_CLOSED, code=1000, text="bye")
    assert reason != CloseReason(CloseKind.PEER_CLOSED, code=1000)
    assert copy.copy(reason) == pickle.loads(pickle.dumps(reason)) == reason  # noqa: S301 - made here
    assert len({reason, CloseReason(CloseKind.PEER_CLOSED, code=1000, text="bye")}) == 1


def test_the_kinds_of_the_contract_are_there() -> None:
    """The closed list of the design, each its own label."""
    kinds = {
        "peer_closed", "peer_reset", "idle", "closed_locally", "aborted", "protocol_error", "frame_too_large",
        "handler_error", "slow_consumer", "write_stall", "drained", "handshake_failed",
    }  # fmt: skip
    assert kinds <= set(CloseKind)
    assert len({kind.value for kind in CloseKind}) == len(CloseKind)
    assert f"{CloseKind.IDLE}" == "idle"
