"""JSON lines: one JSON value to a line. By orjson where it is installed, else by the standard library.

What comes is held to the same rules by both, so the standard library is made to refuse what orjson does: NaN,
infinities, halves of surrogate pairs, and encodings other than UTF-8.
"""

from __future__ import annotations

import contextlib
import json
import math
from typing import TYPE_CHECKING, Any

from gevpy.errors import ProtocolError
from gevpy.protocol.delimiter import LineProtocol
from gevpy.protocol.padding import skip_padding

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevpy.ring_buffer import RingBuffer

__all__ = ["JsonLinesProtocol"]


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is no number of JSON")
    return value


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _stdlib_loads(line: bytes) -> Any:
    value = _DECODER.decode(line.decode())
    if b"\\u" in line:
        _stdlib_dumps(value)  # raises if half a surrogate pair was spelt out, which could never be sent on
    return value


def _stdlib_dumps(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()


loads: Callable[[bytes], Any] = _stdlib_loads
dumps: Callable[[Any], bytes] = _stdlib_dumps
with contextlib.suppress(ImportError):
    import orjson

    loads, dumps = orjson.loads, orjson.dumps


class JsonLinesProtocol(LineProtocol):
    r"""Cuts the stream into lines, each one JSON value, and decodes them.

        bytes as they come                      messages
        +-------------------+-----------+       +----------+---------+
        | {"a": 1}\n[2, nul | l]\r\n\n  |  ->   | {"a": 1} | [2, None] |
        +-------------------+-----------+       +----------+---------+

    ``data`` is the value; ``ctx`` is None. Lines end with ``\n`` or ``\r\n``; empty ones are dropped, since many peers
    send them to keep a connection alive. A line that is no JSON in UTF-8 (NaN and infinities aren't, nor what nests too
    deeply) is a `ProtocolError`, with the library's exception as its cause. Of a key that comes twice, the last counts.
    Integers beyond 64 bits are exact by json, and floats by orjson.

    ``packet`` takes what the library writes: with either, those types, tuples, and dicts with str keys. Beyond that
    they differ: orjson knows dataclasses, dates and UUIDs; it writes NaN as ``null``, which json refuses.

    Args:
        max_frame_bytes: the bound on a line without its ending, at least 1 (else `ConfigError`). Default 64 KiB.

    Source: jsonlines.org, RFC 8259.

    Example:
        >>> from gevpy.protocol.json_lines import JsonLinesProtocol
        >>> JsonLinesProtocol().packet(None, {"a": [1, None]})
        b'{"a":[1,null]}\n'
    """

    def __init__(self, *, max_frame_bytes: int = 65536) -> None:
        """Cut lines of up to ``max_frame_bytes`` bytes."""
        super().__init__(max_frame_bytes=max_frame_bytes)

    def unpacket(self, conn: Any, buffer: RingBuffer) -> tuple[Any, Any] | None:
        """Take one value, if its line has ended; drop empty lines before it."""
        skip_padding(buffer, b"\r\n")
        message = super().unpacket(conn, buffer)
        if message is None:
            return None
        try:
            return None, loads(message[1])
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"no JSON: {error}", actual=len(message[1])) from error

    def packet(self, conn: Any, data: Any) -> bytes:  # noqa: ARG002 - the contract
        """Encode ``data`` and end the line. Raises TypeError, ValueError or RecursionError, as the library does."""
        return dumps(data) + b"\n"
