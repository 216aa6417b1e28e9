"""Protocols: how a stream of bytes is cut into messages, and messages are put back on the wire."""

from __future__ import annotations

from gevpy.protocol.base import Protocol
from gevpy.protocol.delimiter import DelimiterProtocol, LineProtocol
from gevpy.protocol.fixed_length import FixedLengthProtocol
from gevpy.protocol.length_prefixed import LengthPrefixedProtocol
from gevpy.protocol.raw import RawProtocol

__all__ = [
    "DelimiterProtocol",
    "FixedLengthProtocol",
    "LengthPrefixedProtocol",
    "LineProtocol",
    "Protocol",
    "RawProtocol",
]
