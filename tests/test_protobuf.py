"""Protobuf messages: gev's frames byte for byte, lies about lengths, unknown types, delimited ones, a real server."""

from __future__ import annotations

import importlib
import io
import pickle
import struct
import sys
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, proto
from google.protobuf.message import EncodeError, Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.wrappers_pb2 import BytesValue, Int32Value, StringValue
from hypothesis import given, settings
from hypothesis import strategies as st

import gevpy.protobuf
from gevpy import CloseKind, ConfigError, FrameTooLarge, ProtocolError
from gevpy.protobuf import DelimitedProtobufProtocol, ProtobufProtocol
from tests.protocol.hostile import OneConnection, check_garbage, drip_behind, outcome, ring_of
from tests.protocol.splitting import check_any_split, check_linear, feed, flood
from tests.serving import Client, Recorder, connected

BAD_UTF8 = b"\x0a\x01\xff"  # field 1, text of one byte that begins no character


def message_class(name: str, label: descriptor_pb2.FieldDescriptorProto.Label.ValueType) -> type[Message]:
    """Give a class of proto2 with one number, made at run time: nobody needs protoc."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="gevpytest", syntax="proto2")
    field = file.message_type.add(name=name).field.add(name="number", number=1, label=label)
    field.type = descriptor_pb2.FieldDescriptorProto.TYPE_INT32
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"gevpytest.{name}"))


Move = message_class("Move", descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL)
Needy = message_class("Needy", descriptor_pb2.FieldDescriptorProto.LABEL_REQUIRED)


def gev_frame(name: bytes, payload: bytes) -> bytes:
    """Give the frame as gev's PackMessage makes it."""
    return struct.pack(f">IH{len(name)}s", 2 + len(name) + len(payload), len(name), name) + payload


def typed(protocol: ProtobufProtocol) -> OneConnection:
    """Have messages of ``protocol`` given with their ctx."""
    return OneConnection(protocol)


# -- gev's frame ---------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    messages=st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=9), st.binary(max_size=30)), min_size=1)
)
def test_frames_are_gevs_and_may_be_cut_anywhere(messages: list[tuple[str, bytes]]) -> None:
    """Type name and payload, both possibly empty, there and back."""
    frames = [gev_frame(name.encode(), payload) for name, payload in messages[:5]]
    assert [ProtobufProtocol().packet(None, message) for message in messages[:5]] == frames
    check_any_split(typed(ProtobufProtocol()), b"".join(frames), messages[:5], trailing=frames[0][:-1])


def test_a_frame_byte_by_byte() -> None:
    """Big-endian; the u32 counts the u16, the name and the payload, the u16 the name alone."""
    wire = bytes.fromhex("0000000a 0004 6d736731 0a026869".replace(" ", ""))
    assert ProtobufProtocol().packet(None, ("msg1", bytearray(b"\n\x02hi"))) == wire
    assert ProtobufProtocol({"msg1": StringValue}).packet(None, StringValue(value="hi")) == wire
    assert ProtobufProtocol().decode(None, ring_of(wire)) == ("msg1", b"\n\x02hi")
    assert ProtobufProtocol({"msg1": StringValue}).decode(None, ring_of(wire)) == ("msg1", StringValue(value="hi"))


def test_an_empty_frame_is_a_message() -> None:
    """Two bytes that say there is no name, and nothing else."""
    check_any_split(typed(ProtobufProtocol()), b"\0\0\0\2\0\0" * 2, [("", b"")] * 2)


@pytest.mark.parametrize("types", [None, {"msg1": StringValue}])
@pytest.mark.parametrize(
    ("stream", "limit", "actual", "offset"),
    [
        (b"\0\0\0\x03\xea\x60", 1, 60_000, 4),  # the packet that ends gev's process
        (b"\0\0\0\x03\xea\x60x", 1, 60_000, 4),
        (b"\0\0\0\x02\x00\x01", 0, 1, 4),
        (b"\0\0\0\x06\x00\x05msg1", 4, 5, 4),
        (b"\0\0\0\x06\xff\xffmsg1", 4, 65_535, 4),
        (b"\0\0\0\x00", 2, 0, 0),
        (b"\0\0\0\x01", 2, 1, 0),
        (b"\0\0\0\x01\0\0", 2, 1, 0),
    ],
)
def test_lengths_that_cannot_be_are_refused(
    types: dict[str, type[Message]] | None, stream: bytes, limit: int, actual: int, offset: int
) -> None:
    """A type name beyond its frame, a frame without room for a name's length: as soon as that is known."""
    for pieces in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        with pytest.raises(ProtocolError) as caught:
            feed(typed(ProtobufProtocol(types)), pieces)
        assert not isinstance(caught.value, FrameTooLarge)
        assert (caught.value.limit, caught.value.actual, caught.value.offset) == (limit, actual, offset)


def test_a_frame_of_exactly_the_limit_passes() -> None:
    """What the u32 counts is what is limited; one byte more is refused by its length alone."""
    protocol = ProtobufProtocol(max_frame_bytes=9)
    check_any_split(typed(protocol), gev_frame(b"abc", b"1234") * 2, [("abc", b"1234")] * 2)
    for stream, actual in ((b"\0\0\0\x0a", 10), (b"\xff\xff\xff\xff", (1 << 32) - 1)):
        with pytest.raises(FrameTooLarge) as caught:
            feed(typed(protocol), [stream])
        assert (caught.value.limit, caught.value.actual, caught.value.offset) == (9, actual, 0)
    assert ProtobufProtocol().max_frame_bytes == 65536


def test_room_is_reserved_for_the_frame() -> None:
    """After the first bytes the next lend has room for the rest."""
    ring = ring_of(gev_frame(b"abc", bytes(60_000))[:8])
    assert ProtobufProtocol().decode(None, ring) is None
    assert len(ring.writable()) >= 60_001


def test_a_type_name_is_utf8() -> None:
    """Where it isn't, the error says at which byte."""
    with pytest.raises(ProtocolError, match="UTF-8") as caught:
        feed(typed(ProtobufProtocol()), [gev_frame(b"ab\xff", b"x")])
    assert caught.value.offset == 8


# -- types -----------------------------------------------------------------------------------------------------------


def test_types_by_name_give_messages() -> None:
    """Under the names of the mapping, and under the full names where only classes are given."""
    move = Move(number=5)
    text = StringValue(value="hi")
    named = ProtobufProtocol({"m": Move, "text": StringValue})
    frames = gev_frame(b"m", b"\x08\x05") + gev_frame(b"text", b"\n\x02hi") + gev_frame(b"m", b"")
    assert b"".join(named.packet(None, message) for message in (move, text, Move())) == frames
    check_any_split(typed(named), frames, [("m", move), ("text", text), ("m", Move())])
    full = ProtobufProtocol([Move, StringValue])
    frames = gev_frame(b"gevpytest.Move", b"\x08\x05") + gev_frame(b"google.protobuf.StringValue", b"\n\x02hi")
    assert full.packet(None, move) + full.packet(None, text) == frames
    assert feed(typed(full), [frames]) == [("gevpytest.Move", move), ("google.protobuf.StringValue", text)]


def test_without_types_a_message_goes_by_its_full_name() -> None:
    """And comes as payload."""
    protocol = ProtobufProtocol()
    frame = protocol.packet(None, Move(number=5))
    assert frame == gev_frame(b"gevpytest.Move", b"\x08\x05")
    assert protocol.decode(None, ring_of(frame)) == ("gevpytest.Move", b"\x08\x05")


def test_a_pair_says_its_name_itself() -> None:
    """With a message or with bytes; of several names of a class, the first is its own."""
    protocol = ProtobufProtocol({"first": Move, "second": Move})
    move = Move(number=5)
    assert protocol.packet(None, move) == gev_frame(b"first", b"\x08\x05")
    assert protocol.packet(None, ("second", move)) == gev_frame(b"second", b"\x08\x05")
    assert protocol.packet(None, ("second", b"\x08\x05")) == gev_frame(b"second", b"\x08\x05")
    assert feed(typed(protocol), [gev_frame(b"second", b"\x08\x05")]) == [("second", move)]


@pytest.mark.parametrize("name", [b"", b"msg2", b"MSG1", b"m" * 60_000, b"\x1b[31m\r\n"])
def test_an_unknown_type_is_refused(name: bytes) -> None:
    """The error tells of the name, cut short, without its control characters."""
    with pytest.raises(ProtocolError, match="unknown message type") as caught:
        feed(typed(ProtobufProtocol({"msg1": Move})), [gev_frame(b"msg1", b""), gev_frame(name, b"\x08\x05")])
    assert (caught.value.actual, caught.value.offset) == (len(name), 6)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("payload", [b"\x08", b"\xff\xff", b"\x08" + b"\xff" * 20, b"\x0b", b"\x0a\x05x"])
def test_a_payload_that_cannot_be_decoded_is_refused(payload: bytes) -> None:
    """With the library's error as the cause; the offset is the payload's beginning."""
    with pytest.raises(ProtocolError, match=r"payload is no gevpytest\.Move") as caught:
        feed(typed(ProtobufProtocol({"msg1": Move})), [gev_frame(b"msg1", payload)])
    assert (caught.value.actual, caught.value.offset) == (len(payload), 10)
    assert caught.value.__cause__ is not None


def test_text_that_is_not_utf8_and_deep_nests_are_refused() -> None:
    """proto3 checks text; and what nests in itself 10,000 times isn't walked into."""
    deep = b""
    while len(deep) < 30_000:
        deep = _nested(deep)
    for protocol, frame in (
        (ProtobufProtocol({"text": StringValue}), gev_frame(b"text", BAD_UTF8)),
        (ProtobufProtocol({"value": Value}), gev_frame(b"value", deep)),
    ):
        assert outcome(protocol, [frame]) == ([], ProtocolError)


def _nested(inner: bytes) -> bytes:
    """Give a Value that is a list of one Value."""
    for tag in (b"\x0a", b"\x32"):
        size = len(inner)
        varint = b""
        while size >= 0x80:
            varint += bytes((size & 0x7F | 0x80,))
            size >>= 7
        inner = tag + varint + bytes((size,)) + inner
    return inner


@given(stream=st.binary(max_size=60) | st.lists(st.sampled_from(b"\0\0\0\1\2\7m\x08"), max_size=40).map(bytes))
def test_garbage_ends_in_a_protocol_error_or_in_messages(stream: bytes) -> None:
    """And comes to the same however it is cut."""
    check_garbage(ProtobufProtocol(max_frame_bytes=20), stream)
    check_garbage(ProtobufProtocol({"m": Move}, max_frame_bytes=20), stream)
    check_garbage(DelimitedProtobufProtocol(Struct, max_frame_bytes=20), stream)


@given(payload=st.binary(max_size=60))
def test_garbage_as_a_payload_is_a_message_or_refused(payload: bytes) -> None:
    """Whatever the library makes of it."""
    check_garbage(ProtobufProtocol({"m": Struct}), gev_frame(b"m", payload))


# -- sending ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"bytes", "text", 5, None, ("m",), ("m", b"", b""), (b"m", b""), ["m", b""], Move])
def test_what_has_no_type_is_not_sent(data: Any) -> None:
    """Bytes alone, too: the peer could not know what they are."""
    for protocol in (ProtobufProtocol(), ProtobufProtocol({"m": Move})):
        with pytest.raises(TypeError, match="messages, or pairs of type name"):
            protocol.packet(None, data)


@pytest.mark.parametrize("content", ["text", 5, None])
def test_a_pair_needs_a_message_or_bytes(content: Any) -> None:
    """Nothing else can be a payload."""
    with pytest.raises(TypeError):
        ProtobufProtocol().packet(None, ("m", content))


@pytest.mark.parametrize("data", [StringValue(), ("text", b""), ("text", StringValue())])
def test_a_type_that_is_not_among_the_types_is_not_sent(data: Any) -> None:
    """It would be our mistake, and end the connection at the other side."""
    with pytest.raises(ProtocolError, match="unknown message type"):
        ProtobufProtocol({"m": Move}).packet(None, data)


def test_a_name_too_long_for_its_field_is_not_sent() -> None:
    """65,535 bytes fit."""
    name = "m" * 65_535
    assert len(ProtobufProtocol().packet(None, (name, b"x"))) == 6 + 65_535 + 1
    with pytest.raises(ProtocolError) as caught:
        ProtobufProtocol().packet(None, (name + "m", b"x"))
    assert (caught.value.limit, caught.value.actual) == (65_535, 65_536)


def test_a_frame_too_long_for_its_field_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown with a smaller field, for want of 4 GiB."""
    monkeypatch.setattr(gevpy.protobuf, "LONGEST_FRAME", 9)
    assert ProtobufProtocol().packet(None, ("abc", b"1234")) == gev_frame(b"abc", b"1234")
    with pytest.raises(FrameTooLarge) as caught:
        ProtobufProtocol().packet(None, ("abc", b"12345"))
    assert (caught.value.limit, caught.value.actual) == (9, 10)


def test_a_message_without_its_required_field_is_not_sent() -> None:
    """The library's own error, to whoever sends it; on the way in nobody asks for it."""
    for protocol in (ProtobufProtocol([Needy]), DelimitedProtobufProtocol(Needy)):
        with pytest.raises(EncodeError):
            protocol.packet(None, Needy())
    assert feed(DelimitedProtobufProtocol(Needy), [b"\0"]) == [Needy()]


@pytest.mark.parametrize(
    "types",
    [
        {},
        [],
        {"m": bytes},
        {"m": Move()},
        {5: Move},
        {"m" * 65_536: Move},
        [Move, Move],
        [StringValue, "Move"],
        ["Move"],
        [Message],
    ],
    ids=str,
)
def test_types_that_cannot_be_are_refused(types: Any) -> None:
    """At once, not at the first message."""
    with pytest.raises(ConfigError):
        ProtobufProtocol(types)


@pytest.mark.parametrize("limit", [0, -1, 1 << 64, True])
def test_limits_are_checked(limit: int) -> None:
    """At least a byte."""
    for make in (ProtobufProtocol, lambda **options: DelimitedProtobufProtocol(Move, **options)):
        with pytest.raises(ConfigError, match="max_frame_bytes"):
            make(max_frame_bytes=limit)


def test_they_go_to_a_worker() -> None:
    """Pickled and back, with their classes."""
    for protocol in (ProtobufProtocol({"text": StringValue}), ProtobufProtocol(), DelimitedProtobufProtocol(Struct)):
        again = pickle.loads(pickle.dumps(protocol))  # noqa: S301 - our own
        assert vars(again) == vars(protocol)
        assert again.max_frame_bytes == 65536


def test_without_the_library_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra."""
    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)
    monkeypatch.delitem(sys.modules, gevpy.protobuf.__name__)
    with pytest.raises(ImportError, match=r"pip install gevpy\[protobuf\]"):
        importlib.import_module("gevpy.protobuf")


# -- delimited -------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=200), min_size=1, max_size=4))
def test_delimited_messages_are_protobufs_own(texts: list[str]) -> None:
    """The library's helpers write the same, and read it, however it is cut."""
    protocol = DelimitedProtobufProtocol(StringValue)
    messages = [StringValue(value=text) for text in texts]
    stream = b"".join(protocol.packet(None, message) for message in messages)
    out = io.BytesIO()
    for message in messages:
        proto.serialize_length_prefixed(message, out)
    assert out.getvalue() == stream
    out.seek(0)
    assert [proto.parse_length_prefixed(StringValue, out) for _ in messages] == messages
    check_any_split(protocol, stream, messages, trailing=protocol.packet(None, StringValue(value="x" * 200))[:-1])


def test_delimited_messages_are_checked() -> None:
    """Payloads that can't be, lengths beyond the limit, and what is no message."""
    protocol = DelimitedProtobufProtocol(Move, max_frame_bytes=100)
    with pytest.raises(ProtocolError, match=r"payload is no gevpytest\.Move") as caught:
        feed(protocol, [b"\x01\x08"])
    assert caught.value.actual == 1
    with pytest.raises(FrameTooLarge):
        feed(protocol, [b"\x65"])
    for data in (b"\x08\x05", ("m", Move()), None):
        with pytest.raises(TypeError, match="protobuf messages"):
            protocol.packet(None, data)
    for no_class in (Move(), "Move", bytes, Message):
        with pytest.raises(ConfigError, match="message class"):
            DelimitedProtobufProtocol(no_class)  # type: ignore[arg-type]


def test_delimited_replies_may_be_of_another_type() -> None:
    """Requests of one class, answers of any."""
    assert DelimitedProtobufProtocol(Move).packet(None, Int32Value(value=5)) == b"\x02\x08\x05"


# -- time, and a server ----------------------------------------------------------------------------------------------


def test_frames_and_drips_take_linear_time() -> None:
    """A flood of small messages, and one that comes byte by byte."""
    check_linear(flood(typed(ProtobufProtocol()), gev_frame(b"m", b"")), 40_000)
    check_linear(flood(typed(ProtobufProtocol({"m": Move})), gev_frame(b"m", b"\x08\x05")), 40_000)
    head = struct.pack(">IH", 1 << 20, 1000)
    check_linear(drip_behind(ProtobufProtocol(max_frame_bytes=1 << 20), head, b"x"), 20_000)


class Doubler(Recorder):
    """Gives numbers back twice as large, and bytes under another name."""

    def on_message(self, conn: gevpy.Connection, ctx: Any, data: Any) -> Any:
        if isinstance(data, BytesValue):
            return "raw", data.value
        return type(data)(number=2 * data.number)


async def test_a_malformed_frame_closes_one_connection() -> None:
    """The packet that ends gev's process ends its own connection only; others go on, with decoded messages."""
    handler = Doubler()
    types = {"move": Move, "bytes": BytesValue, "raw": Struct}
    async with connected(handler, protocol=ProtobufProtocol(types)) as (server, good):
        await good.send(gev_frame(b"move", b"\x08\x05") + gev_frame(b"bytes", b"\x0a\x00"))
        expected = gev_frame(b"move", b"\x08\x0a") + gev_frame(b"raw", b"")
        assert await good.read(len(expected)) == expected
        for bad in (b"\0\0\0\x03\xea\x60x", gev_frame(b"move", b"\x08"), gev_frame(b"other", b"")):
            async with await Client.connect(server.addresses[0]) as killer:
                await killer.send(bad)
                assert await killer.read_to_end() == b""
            reason = await handler.reason()
            assert reason.kind is CloseKind.PROTOCOL_ERROR
            assert isinstance(reason.error, ProtocolError)
            await good.send(gev_frame(b"move", b"\x08\x05"))
            assert await good.read(12) == gev_frame(b"move", b"\x08\x0a")
