"""What the supervisor and a worker say to each other: messages of a fixed schema, written as JSON.

A message is one of the classes below, with exactly their fields. Nothing that comes in is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, ClassVar

from gevpy.errors import GevError

__all__ = [
    "MESSAGES",
    "Accept",
    "Adopt",
    "Ask",
    "Beat",
    "ControlError",
    "Count",
    "Counted",
    "Deliver",
    "Drain",
    "Drained",
    "Failed",
    "Hurry",
    "Leaving",
    "Logged",
    "Message",
    "Open",
    "Ready",
    "Release",
    "ReloadTLS",
    "Stuck",
    "Take",
    "Taken",
    "header_of",
    "message_of",
]


class ControlError(GevError):
    """What came over a control channel is no message, or breaks a bound."""


class Message:
    """Base of all messages."""

    __slots__ = ()
    KIND: ClassVar[str]


# -- from the supervisor ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accept(Message):
    """Begin to accept on the worker's own listeners."""

    KIND: ClassVar[str] = "accept"


@dataclass(frozen=True, slots=True)
class Adopt(Message):
    """Accept on the listeners that come along, too: those of a slot whose worker is gone."""

    KIND: ClassVar[str] = "adopt"
    slot: int


@dataclass(frozen=True, slots=True)
class Release(Message):
    """Accept no more on the listeners of a slot: its own worker is back."""

    KIND: ClassVar[str] = "release"
    slot: int


@dataclass(frozen=True, slots=True)
class Take(Message):
    """Take the accepted connection that comes along."""

    KIND: ClassVar[str] = "take"


@dataclass(frozen=True, slots=True)
class Drain(Message):
    """Accept no more, end all connections, then exit: at once gently, or patiently when they close by themselves."""

    KIND: ClassVar[str] = "drain"
    why: str
    timeout_s: float | None
    patient: bool


@dataclass(frozen=True, slots=True)
class Hurry(Message):
    """End the drain now."""

    KIND: ClassVar[str] = "hurry"


@dataclass(frozen=True, slots=True)
class Ask(Message):
    """Send a `Beat` now."""

    KIND: ClassVar[str] = "ask"
    ticket: int


@dataclass(frozen=True, slots=True)
class ReloadTLS(Message):
    """Read the certificates again."""

    KIND: ClassVar[str] = "reload_tls"


# -- in both directions ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deliver(Message):
    """Send the payload to the subscribers of a topic, or to every connection where that is None."""

    KIND: ClassVar[str] = "deliver"
    topic: str | None
    is_text: bool


@dataclass(frozen=True, slots=True)
class Count(Message):
    """Count the subscribers of a topic."""

    KIND: ClassVar[str] = "count"
    ticket: int
    topic: str


@dataclass(frozen=True, slots=True)
class Counted(Message):
    """Answer `Count`."""

    KIND: ClassVar[str] = "counted"
    ticket: int
    count: int


# -- from the worker -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """The worker is ready to accept."""

    KIND: ClassVar[str] = "ready"


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """The worker can't start, and exits."""

    KIND: ClassVar[str] = "failed"
    error: str
    trace: str


@dataclass(frozen=True, slots=True)
class Beat(Message):
    """The loop turns; the payload is a snapshot of what it counts, as JSON."""

    KIND: ClassVar[str] = "beat"
    ticket: int
    turned_s: float


@dataclass(frozen=True, slots=True)
class Open(Message):
    """So many connections are open, and so many that were handed over have ended since the last such message."""

    KIND: ClassVar[str] = "open"
    connections: int
    gone: int


@dataclass(frozen=True, slots=True)
class Stuck(Message):
    """The loop is blocked, and may stay so: in which place, by which kind of message."""

    KIND: ClassVar[str] = "stuck"
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Taken(Message):
    """The next of the connections that were handed over is the worker's now."""

    KIND: ClassVar[str] = "taken"


@dataclass(frozen=True, slots=True)
class Leaving(Message):
    """The worker drains and exits, without having been told to."""

    KIND: ClassVar[str] = "leaving"


@dataclass(frozen=True, slots=True)
class Drained(Message):
    """The drain has ended; the payload says who was aborted, as text."""

    KIND: ClassVar[str] = "drained"
    aborted: int


@dataclass(frozen=True, slots=True)
class Logged(Message):
    """A log record, for the supervisor's logging."""

    KIND: ClassVar[str] = "logged"
    name: str
    level: int
    text: str


MESSAGES: dict[str, type[Message]] = {kind.KIND: kind for kind in Message.__subclasses__()}
FIELDS: dict[str, dict[str, tuple[type, ...]]] = {}


def _types_of(hint: Any) -> tuple[type, ...]:
    """Give what a field may hold; a whole number is a fine float."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return (*kinds, int) if float in kinds else kinds


for _kind, _class in MESSAGES.items():
    _hints = typing.get_type_hints(_class)
    FIELDS[_kind] = {field.name: _types_of(_hints[field.name]) for field in dataclasses.fields(_class)}  # type: ignore[arg-type]


def header_of(message: Message) -> bytes:
    """Write a message down."""
    return HEADERS.get(message.KIND) or _written(message)


def _written(message: Message) -> bytes:
    fields = {name: getattr(message, name) for name in FIELDS[message.KIND]}
    return json.dumps({"kind": message.KIND, **fields}, separators=(",", ":")).encode()


def message_of(header: bytes) -> Message:
    """Make the message that ``header`` describes.

    Raises:
        ControlError: it is none, or has other fields than it should.
    """
    bare = BARE.get(header)
    if bare is not None:
        return bare
    try:
        fields = json.loads(header)
        kind = fields.pop("kind")
        schema = FIELDS[kind]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        msg = f"no control message: {header[:64]!r}"
        raise ControlError(msg) from error
    if fields.keys() != schema.keys() or not all(type(fields[name]) in allowed for name, allowed in schema.items()):
        msg = f"a {kind} message with other fields than it has: {header[:64]!r}"
        raise ControlError(msg)
    return MESSAGES[kind](**fields)


# Messages without fields are always the same; one of them comes with every connection that is handed over.
BARE: dict[bytes, Message] = {_written(one()): one() for kind, one in MESSAGES.items() if not FIELDS[kind]}
HEADERS: dict[str, bytes] = {message.KIND: header for header, message in BARE.items()}
