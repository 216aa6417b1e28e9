"""Protobuf messages over streams: gev's typed frames, and protobuf's own delimited ones (extra ``[protobuf]``).

A protobuf message says neither where it ends nor what it is, so a stream of them needs frames. gev's carry the name
of the type, so that one connection can speak many; delimited ones carry the length alone, and all are of one type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

try:
    from google.protobuf.message import DecodeError, Message
except ImportError as missing:
    msg = "gevpy.protobuf needs protobuf: pip install gevpy[protobuf]"
    raise ImportError(msg) from missing

from gevpy.errors import ConfigError, FrameTooLarge, ProtocolError
from gevpy.protocol.base import Protocol, require_bytes, require_size
from gevpy.protocol.varint import VarintProtocol

if TYPE_CHECKING:
    from gevpy.ring_buffer import RingBuffer

__all__ = ["DelimitedProtobufProtocol", "ProtobufProtocol"]

LENGTH = 4  # bytes of the frame's length field
NAME_LENGTH = 2  # bytes of the name's length field, which the frame's length counts
HEADER = LENGTH + NAME_LENGTH
LONGEST_FRAME = (1 << 8 * LENGTH) - 1
LONGEST_NAME = (1 << 8 * NAME_LENGTH) - 1
SHOWN = 80  # characters of a stranger's type name in an error


class ProtobufProtocol(Protocol):
    r"""Frames that carry a type name and a protobuf message: gev's, byte for byte.

        +-------------+-------------+-----------+---------+
        | u32         | u16         |           |         |      big-endian; the u32 counts all that
        | 2 + T + P   | T           | type name | payload |      follows it, the u16 the type name
        +-------------+-------------+-----------+---------+

    Without ``types``, ``ctx`` is the type name (str) and ``data`` the payload (bytes), as in gev. With ``types``,
    ``data`` is the decoded message, and a name that isn't among them is a `ProtocolError`. So is a payload that can't
    be decoded, a type name that isn't UTF-8, and one that would reach beyond its frame, which ends gev's process.
    Required fields of proto2 are not asked for, as by protobuf's ``FromString``.

    ``packet`` takes a message, which is sent under the name it has in ``types``, or under its full name
    (``package.Message``) where there are no ``types``; or a pair of type name and message or payload.

    Args:
        types: message classes by type name, for both directions; or only the classes, whose names are their full
            names then. Where a class has several names, it is sent under the first. Default None: nothing is decoded.
        max_frame_bytes: the bound on what the u32 counts, checked before any of it is waited for. Default 64 KiB.

    Raises:
        ConfigError: ``types`` is empty, names something else than message classes, or a name twice; or the bound is
            below 1.

    Source: gev's ``plugins/protobuf``.

    Example:
        >>> from google.protobuf.wrappers_pb2 import StringValue
        >>> from gevpy.protobuf import ProtobufProtocol
        >>> ProtobufProtocol({"msg1": StringValue}).packet(None, StringValue(value="hi"))
        b'\x00\x00\x00\n\x00\x04msg1\n\x02hi'
    """

    def __init__(
        self,
        types: Mapping[str, type[Message]] | Iterable[type[Message]] | None = None,
        *,
        max_frame_bytes: int = 65536,
    ) -> None:
        """Speak of ``types``, or of payloads."""
        self.max_frame_bytes = require_size("max_frame_bytes", max_frame_bytes)
        self.types = None if types is None else _by_name(types)
        self._names: dict[type[Message], str] = {}
        for name, message_class in (self.types or {}).items():
            self._names.setdefault(message_class, name)

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:  # noqa: ARG002 - the contract
        """Take one frame, if it is all there, and decode it if its type is to be known."""
        have = len(buffer)
        if have < LENGTH:
            return None
        length = buffer.peek_uint32()
        if length > self.max_frame_bytes:
            raise FrameTooLarge("declared frame length", limit=self.max_frame_bytes, actual=length, offset=0)
        rest = length - NAME_LENGTH
        if rest < 0:
            raise ProtocolError("frame shorter than its own header", limit=NAME_LENGTH, actual=length, offset=0)
        if have < HEADER:
            return None
        name_size = buffer.peek_uint16(LENGTH)
        if name_size > rest:
            raise ProtocolError("type name longer than its frame", limit=rest, actual=name_size, offset=LENGTH)
        if have < LENGTH + length:
            buffer.reserve(LENGTH + length)
            return None
        try:
            name = buffer.take(HEADER, name_size).decode()
        except UnicodeDecodeError as error:
            raise ProtocolError("type name is not UTF-8", actual=name_size, offset=HEADER + error.start) from error
        payload = buffer.read(rest - name_size)
        if self.types is None:
            return name, payload
        message_class = self.types.get(name)
        if message_class is None:
            raise ProtocolError(f"unknown message type {name[:SHOWN]!a}", actual=name_size, offset=HEADER)
        return name, _decode(message_class, payload, HEADER + name_size)

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Frame a message, or a pair of type name and message or payload.

        Raises:
            ProtocolError: a class or type name that isn't among ``types``, or a name of more than 65,535 bytes.
            FrameTooLarge: the frame's length doesn't fit into its field.
            TypeError: ``data`` is neither a message nor such a pair; bytes alone have no type.
            google.protobuf.message.EncodeError: a required field is missing.
        """
        if isinstance(data, Message):
            name, content = self._name_of(data), data
        elif isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], str):  # noqa: PLR2004 - a pair
            name, content = data
        else:
            raise TypeError(f"this protocol sends messages, or pairs of type name and payload, not {_kind(data)}")
        if self.types is not None and name not in self.types:
            raise ProtocolError(f"unknown message type {name[:SHOWN]!a}")
        payload = content.SerializeToString() if isinstance(content, Message) else require_bytes(content)
        head = name.encode()
        if len(head) > LONGEST_NAME:
            raise ProtocolError("type name too long", limit=LONGEST_NAME, actual=len(head))
        length = NAME_LENGTH + len(head) + len(payload)
        if length > LONGEST_FRAME:
            raise FrameTooLarge("message too long for its length field", limit=LONGEST_FRAME, actual=length)
        return b"%b%b%b%b" % (length.to_bytes(LENGTH, "big"), len(head).to_bytes(NAME_LENGTH, "big"), head, payload)

    def max_buffered_bytes(self) -> int:
        """Give the bound on a whole frame, its length field included."""
        return LENGTH + self.max_frame_bytes

    def _name_of(self, message: Message) -> str:
        name = self._names.get(type(message))
        return str(message.DESCRIPTOR.full_name) if name is None else name


class DelimitedProtobufProtocol(VarintProtocol):
    r"""Messages of one type, each behind the varint of its length: what protobuf's own helpers write.

        +--------+---------+
        | varint |         |      the varint counts the payload
        | P      | payload |
        +--------+---------+

    ``data`` is the decoded message; ``ctx`` is None. A payload that can't be decoded is a `ProtocolError`. ``packet``
    takes any message, so that requests may be of one type and replies of another.

    Args:
        message_class: what every frame holds.
        max_frame_bytes: the bound on a payload, checked before any of it is waited for. Default 64 KiB.

    Raises:
        ConfigError: ``message_class`` is no message class, or the bound is below 1.

    Source: ``parseDelimitedFrom`` and ``writeDelimitedTo`` in Java, ``ParseDelimitedFromZeroCopyStream`` in C++,
    ``google.protobuf.proto.parse_length_prefixed`` in Python.

    Example:
        >>> from google.protobuf.wrappers_pb2 import StringValue
        >>> from gevpy.protobuf import DelimitedProtobufProtocol
        >>> DelimitedProtobufProtocol(StringValue).packet(None, StringValue(value="hi"))
        b'\x04\n\x02hi'
    """

    def __init__(self, message_class: type[Message], *, max_frame_bytes: int = 65536) -> None:
        """Cut and decode frames of ``message_class``."""
        super().__init__(max_frame_bytes=max_frame_bytes)
        self.message_class = _require_class(message_class)

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:
        """Take one message, if it is all there."""
        frame = super().unpacket(conn, buffer)
        return None if frame is None else (None, _decode(self.message_class, frame[1], None))

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Encode ``data`` and put the varint before it.

        Raises:
            TypeError: ``data`` is no message.
            google.protobuf.message.EncodeError: a required field is missing.
        """
        if not isinstance(data, Message):
            raise TypeError(f"this protocol sends protobuf messages, not {_kind(data)}")
        return self.prefixed(data.SerializeToString())


def _decode(message_class: type[Message], payload: bytes, offset: int | None) -> Message:
    try:
        return message_class.FromString(payload)
    except (DecodeError, ValueError) as error:  # ValueError: protobuf in pure Python, for text that isn't UTF-8
        name = message_class.DESCRIPTOR.full_name
        raise ProtocolError(f"payload is no {name}", actual=len(payload), offset=offset) from error


def _by_name(types: Mapping[str, type[Message]] | Iterable[type[Message]]) -> dict[str, type[Message]]:
    if isinstance(types, Mapping):
        named = dict(types)
    elif isinstance(types, type) or not hasattr(types, "__iter__"):
        raise ConfigError(
            f"types must be a list of message classes, or a table of them by name, not {types!r:.{SHOWN}}"
        )
    else:
        classes = [_require_class(message_class) for message_class in types]
        named = {str(message_class.DESCRIPTOR.full_name): message_class for message_class in classes}
        if len(named) < len(classes):
            raise ConfigError("types has two message classes of the same full name")
    if not named:
        raise ConfigError("types must name at least one message class; None decodes nothing")
    for name, message_class in named.items():
        if not isinstance(name, str) or len(name.encode(errors="replace")) > LONGEST_NAME:
            raise ConfigError(f"a type name must be text of at most {LONGEST_NAME} bytes, not {name!r:.{SHOWN}}")
        _require_class(message_class)
    return named


def _require_class(message_class: object) -> type[Message]:
    if not isinstance(message_class, type) or not issubclass(message_class, Message) or message_class is Message:
        raise ConfigError(f"a protobuf message class is needed, not {message_class!r:.{SHOWN}}")
    return message_class


def _kind(data: object) -> str:
    return type(data).__name__
