"""The framings: on any bytes only `ProtocolError` may leave, and no cut makes a difference.

The first byte of an input says which of them it is for.
"""

from __future__ import annotations

from google.protobuf.struct_pb2 import Struct

from gevpy import DelimiterProtocol, FixedLengthProtocol, LengthPrefixedProtocol, LineProtocol
from gevpy.protobuf import DelimitedProtobufProtocol, ProtobufProtocol
from gevpy.protocol.cobs import CobsProtocol
from gevpy.protocol.json_lines import JsonLinesProtocol
from gevpy.protocol.msgpack import MsgpackProtocol
from gevpy.protocol.netstring import NetstringProtocol
from gevpy.protocol.slip import SlipProtocol
from gevpy.protocol.varint import VarintProtocol
from tests.protocol.hostile import check_garbage

LIMIT = 1000
PROTOCOLS = (
    VarintProtocol(max_frame_bytes=LIMIT),
    ProtobufProtocol(max_frame_bytes=LIMIT),
    ProtobufProtocol(types={"S": Struct}, max_frame_bytes=LIMIT),
    DelimitedProtobufProtocol(Struct, max_frame_bytes=LIMIT),
    LengthPrefixedProtocol(max_frame_bytes=LIMIT),
    LineProtocol(max_frame_bytes=LIMIT),
    DelimiterProtocol(b"\r\n\r\n", max_frame_bytes=LIMIT),
    FixedLengthProtocol(7),
    NetstringProtocol(max_frame_bytes=LIMIT),
    SlipProtocol(max_frame_bytes=LIMIT),
    CobsProtocol(max_frame_bytes=LIMIT),
    JsonLinesProtocol(max_frame_bytes=LIMIT),
    MsgpackProtocol(max_frame_bytes=LIMIT),
)


def one_input(data: bytes) -> None:
    """Decode it."""
    if data:
        check_garbage(PROTOCOLS[data[0] % len(PROTOCOLS)], data[1:])
