"""Rows E1 to E4, E7 to E9 and E12: frames that can't be, lengths that lie, text that is none, closes without an answer.

Each client says its piece to a server in a process of its own, and must be told the code that the catalogue names;
nobody else may notice.
"""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import FaultServer, best_of, open_descriptors, resident_bytes, wait_until
from tests.integration.websocket_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TEXT,
    Closed,
    joined,
    ws_frame,
)
from tests.websocket.heads import opening

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
LIMIT = MIB
LIARS = 10
QUICK_S = 0.05
ROUNDS = 40
CLOSE_S = 0.6
DEFLATE = ("Sec-WebSocket-Extensions", "permessage-deflate")
DEFLATED = {"compression": True}
BROKEN, NO_UTF8, TOO_BIG = 1002, 1007, 1009


def last_word(server: FaultServer, stream: bytes, head: bytes | None = None) -> Closed:
    """Open, send ``stream``, and give how that ended."""
    with joined(server.port) as peer:
        peer.opened(head or opening(), stream)
        return peer.end()


def check_all(server: FaultServer, streams: dict[str, bytes], code: int, head: bytes | None = None) -> None:
    """Check that every stream ends with ``code``, was no message for the handler, and disturbs nobody."""
    with joined(server.port) as good:
        good.opened()
        before = server.report()
        told = {name: last_word(server, stream, head).code for name, stream in streams.items()}
        assert told == dict.fromkeys(streams, code)
        kind = "frame_too_large" if code == TOO_BIG else "protocol_error"
        count = before["closed"].get(kind, 0) + len(streams)
        wait_until(lambda: server.report()["closed"].get(kind) == count, f"all are counted as {kind}")
        assert server.report()["received_messages"] == before["received_messages"], "the handler got none of it"
        assert server.report()["handler_errors"] == before["handler_errors"], "the peer's faults aren't ours"
        assert good.echo(b"good") == b"good"


def deflated(payload: bytes) -> bytes:
    """Give the payload of a compressed frame."""
    stream = zlib.compressobj(wbits=-12)
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


# -- frames that can't be ------------------------------------------------------------------------------


def test_unmasked_frames(fault_server: Callable[..., FaultServer]) -> None:
    """E1: a frame without a mask ends with 1002, whatever it is and however long."""
    kinds = {"text": TEXT, "binary": BINARY, "close": CLOSE, "ping": PING, "pong": PONG}
    streams = {name: ws_frame(opcode, b"", key=b"") for name, opcode in kinds.items()}
    streams |= {f"{name} of five": ws_frame(opcode, b"\x03\xe8abc", key=b"") for name, opcode in kinds.items()}
    streams |= {f"binary of {size}": ws_frame(BINARY, bytes(size), key=b"") for size in (126, 4096, 70_000)}
    streams["continuation"] = ws_frame(TEXT, b"a", fin=False) + ws_frame(CONTINUATION, b"b", key=b"")
    with fault_server("echo", protocol="websocket") as server:
        check_all(server, streams, BROKEN)


def test_frames_that_break_the_rules(fault_server: Callable[..., FaultServer]) -> None:
    """E2: reserved bits and opcodes, control frames too long or in parts, fragments out of order: 1002."""
    begun = ws_frame(TEXT, b"a", fin=False)
    streams = {
        f"bits {bits:#x} of {opcode}": ws_frame(opcode, bits=bits) for bits in (16, 32, 64, 112) for opcode in (1, 9)
    }
    streams |= {f"opcode {opcode}": ws_frame(opcode, b"a") for opcode in (*range(3, 8), *range(11, 16))}
    streams |= {f"opcode {opcode} in parts": ws_frame(opcode, b"a", fin=False) for opcode in (3, CLOSE, PING, PONG)}
    for opcode in (CLOSE, PING, PONG):
        streams[f"{opcode} of 126"] = ws_frame(opcode, b"\x03\xe8" + b"a" * 124)
        streams[f"{opcode} that claims 2^40"] = ws_frame(opcode, size=1 << 40)
        streams[f"{opcode} in parts inside a message"] = begun + ws_frame(opcode, b"a", fin=False)
    streams["continuation of nothing"] = ws_frame(CONTINUATION, b"a")
    streams["continuation of nothing, not the last"] = ws_frame(CONTINUATION, b"a", fin=False)
    streams["continuation behind a pong"] = ws_frame(PONG) + ws_frame(CONTINUATION, b"a")
    streams |= {f"{opcode} inside a message": begun + ws_frame(opcode, b"b") for opcode in (TEXT, BINARY)}
    streams["a part inside a message"] = begun + ws_frame(BINARY, b"b", fin=False)
    with fault_server("echo", protocol="websocket") as server:
        check_all(server, streams, BROKEN)


def test_reserved_bits_where_compression_was_agreed_on(fault_server: Callable[..., FaultServer]) -> None:
    """E7: RSV1 on what is no message's first frame, RSV2 and RSV3, and data that isn't deflated: 1002."""
    begun = ws_frame(BINARY, deflated(b"abc"), fin=False, bits=RSV1)
    streams = {f"RSV1 of {opcode}": ws_frame(opcode, bits=RSV1) for opcode in (CLOSE, PING, PONG)}
    streams |= {f"bits {bits:#x}": ws_frame(BINARY, deflated(b"abc"), bits=bits) for bits in (16, 32, 48, 80, 96, 112)}
    streams["RSV1 of a continuation"] = begun + ws_frame(CONTINUATION, deflated(b"d"), bits=RSV1)
    streams["RSV1 of a plain one's continuation"] = ws_frame(TEXT, b"a", fin=False) + ws_frame(0, b"b", bits=RSV1)
    bad = {
        "garbage": b"\xff" * 20,
        "a stored block that lies": b"\x00\x05\x00\x00\x00abcde",
        "half": deflated(b"a" * 99)[:-3],
    }
    streams |= {name: ws_frame(BINARY, data, bits=RSV1) for name, data in bad.items()}
    streams["garbage in the second part"] = begun + ws_frame(CONTINUATION, b"\xff" * 20)
    with fault_server("echo", protocol="websocket", protocol_args=DEFLATED) as server:
        check_all(server, streams, BROKEN, opening(DEFLATE))
        check_all(server, {"not agreed on": ws_frame(BINARY, deflated(b"abc"), bits=RSV1)}, BROKEN)
        no_text = {"deflated, but no text": ws_frame(TEXT, deflated(b"ab\xc0\xaf"), bits=RSV1)}
        check_all(server, no_text, NO_UTF8, opening(DEFLATE))


# -- lengths -------------------------------------------------------------------------------------------


def test_lying_lengths(fault_server: Callable[..., FaultServer]) -> None:
    """E3: top bit, 2^62, lengths written too long: told at once, from the header alone, and no memory is taken."""
    broken = {
        "top bit": ws_frame(BINARY, size=1 << 63),
        "all bits": ws_frame(BINARY, size=(1 << 64) - 1),
        "5 in two bytes": ws_frame(BINARY, size=5, width=2),
        "125 in eight bytes": ws_frame(BINARY, size=125, width=8),
        "65535 in eight bytes": ws_frame(BINARY, size=65535, width=8),
        "a ping's 5 in two bytes": ws_frame(PING, size=5, width=2),
    }
    large = {f"claims {size}": ws_frame(BINARY, size=size) for size in (LIMIT + 1, 1 << 31, 1 << 32, 1 << 62)}
    large["the second part claims it"] = ws_frame(TEXT, fin=False) + ws_frame(CONTINUATION, size=1 << 62)
    headers = {name: stream[:-4] for name, stream in {**broken, **large}.items()}  # not even the mask has come
    with fault_server("echo", protocol="websocket") as server:
        before = resident_bytes(server.pid)
        for _ in range(LIARS):
            check_all(server, {name: headers[name] for name in broken}, BROKEN)
            check_all(server, {name: headers[name] for name in large}, TOO_BIG)
        assert resident_bytes(server.pid) - before <= MIB
        for stream, code in ((headers["top bit"], BROKEN), (headers[f"claims {1 << 62}"], TOO_BIG)):
            took = best_of(ROUNDS, lambda: answer_s(server, stream, code), QUICK_S)  # noqa: B023 - called at once
            assert took <= QUICK_S, f"{took * 1e3:.1f} ms"
        assert len(server.complaints()) <= 2 * server.most_lines(), server.log()


def answer_s(server: FaultServer, stream: bytes, code: int) -> float:
    """Measure how long a client waits for its close frame."""
    with joined(server.port) as peer:
        peer.opened()
        begun = time.perf_counter()
        peer.send(stream)
        assert peer.end().code == code
        return time.perf_counter() - begun


def in_parts(payload: bytes, count: int, opcode: int = BINARY, bits: int = 0) -> bytes:
    """Write a message in so many fragments, nearly all of the same length."""
    size = len(payload) // count
    pieces = [payload[at * size : (at + 1) * size] for at in range(count - 1)] + [payload[(count - 1) * size :]]
    last = count - 1
    return b"".join(
        ws_frame(CONTINUATION if at else opcode, piece, fin=at == last, bits=0 if at else bits)
        for at, piece in enumerate(pieces)
    )


@pytest.mark.parametrize(("limit", "parts"), [(1000, 100), (LIMIT, 10_000)])
def test_the_limit_of_a_message(fault_server: Callable[..., FaultServer], limit: int, parts: int) -> None:
    """E4: at the limit a message is echoed, in one frame or in 10,000 parts, deflated or not; a byte more is 1009."""
    options = {"compression": True, "max_message_bytes": limit}
    data = (bytes(range(251)) * (limit // 251 + 1))[: limit + 1]
    with fault_server("echo", protocol="websocket", protocol_args=options) as server:
        over = {
            "one frame": ws_frame(BINARY, data),
            "parts": in_parts(data, parts),
            "more": in_parts(data * 2, 2 * parts),
        }
        check_all(server, over, TOO_BIG)
        small = deflated(data)
        over = {"deflated": ws_frame(BINARY, small, bits=RSV1), "deflated, parts": in_parts(small, 10, bits=RSV1)}
        check_all(server, over, TOO_BIG, opening(DEFLATE))
        data = data[:-1]
        small = deflated(data)
        for stream in (ws_frame(BINARY, data), in_parts(data, parts)):
            with joined(server.port) as peer:
                assert peer.opened(then=stream).message() == data
        for stream in (ws_frame(BINARY, small, bits=RSV1), in_parts(small, 10, bits=RSV1)):
            with joined(server.port) as peer:
                assert inflated(peer.opened(opening(DEFLATE), stream).message()) == data


def inflated(payload: bytes) -> bytes:
    """Inflate a message."""
    return zlib.decompressobj(wbits=-15).decompress(payload + b"\x00\x00\xff\xff")


# -- text that is none ---------------------------------------------------------------------------------

NO_TEXT = {
    "a continuation of nothing": b"\x80",
    "overlong in two": b"\xc0\xaf",
    "overlong in three": b"\xe0\x9f\xbf",
    "overlong in four": b"\xf0\x8f\xbf\xbf",
    "a surrogate": b"\xed\xa0\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "ff": b"\xff",
}


def test_text_that_is_none(fault_server: Callable[..., FaultServer]) -> None:
    """E8: whole, in parts, or in a close: 1007; and at its first bad byte, while the rest of the frame hasn't come."""
    streams = {name: ws_frame(TEXT, b"ab" + bad + b"c") for name, bad in NO_TEXT.items()}
    for name, bad in NO_TEXT.items():
        long = ws_frame(TEXT, b"a" * 200 + bad + b"c" * 70_000)
        header = len(ws_frame(TEXT, size=70_200))
        streams[f"{name}, the rest never comes"] = long[: header + 200 + len(bad)]
        streams[f"{name}, byte by byte"] = in_parts(b"ab" + bad + b"c", len(bad) + 3, TEXT)
        streams[f"{name}, in the second part, of which no more comes"] = (
            ws_frame(TEXT, b"a", fin=False) + ws_frame(CONTINUATION, bad + b"c" * 500)[: 8 + len(bad)]
        )
        streams[f"{name}, in a close"] = ws_frame(CLOSE, b"\x03\xe8" + bad)
    for end in (b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3"):
        streams[f"{end!r} at the end"] = ws_frame(TEXT, b"ab" + end)
        streams[f"{end!r} at the end of parts"] = in_parts(b"ab" + end, 3, TEXT)
        streams[f"{end!r} at the end of a close"] = ws_frame(CLOSE, b"\x03\xe8" + end)
    with fault_server("echo", protocol="websocket") as server:
        check_all(server, streams, NO_UTF8)
        text = "aé€😀".encode()
        with joined(server.port) as peer:  # what is cut inside a character is text all the same
            assert peer.opened(then=in_parts(text, len(text), TEXT)).message() == text


# -- closes --------------------------------------------------------------------------------------------


def test_closes_that_can_not_be(fault_server: Callable[..., FaultServer]) -> None:
    """E9: codes that must not be sent, and half a code: 1002; the good ones come back."""
    bad = (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    streams = {str(code): ws_frame(CLOSE, code.to_bytes(2, "big")) for code in bad}
    streams |= {f"{code} with a text": ws_frame(CLOSE, code.to_bytes(2, "big") + b"bye") for code in bad}
    streams["half a code"] = ws_frame(CLOSE, b"\x03")
    streams["inside a message"] = ws_frame(TEXT, b"a", fin=False) + ws_frame(CLOSE, b"\x03")
    with fault_server("echo", protocol="websocket") as server:
        check_all(server, streams, BROKEN)
        server.wait_for(0)  # it counts as the peer's doing that the good one went
        gone = server.report()["closed"].get("peer_closed", 0)
        good = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
        for code in good:
            assert last_word(server, ws_frame(CLOSE, code.to_bytes(2, "big") + b"bye")).code == code
        assert last_word(server, ws_frame(CLOSE)).code == 1005
        count = gone + len(good) + 1
        wait_until(lambda: server.report()["closed"]["peer_closed"] == count, "all are the peer's doing")


@pytest.mark.parametrize("behaviour", ["silent", "messages", "pings", "half"])
def test_a_close_that_is_not_answered(fault_server: Callable[..., FaultServer], behaviour: str) -> None:
    """E12: whatever else a peer sends behind our close frame, it is aborted at the close timeout, and all is freed."""
    going_on = {
        "silent": b"",
        "messages": ws_frame(BINARY, bytes(1000)),
        "pings": ws_frame(PING, b"still here"),
        "half": b"",
    }[behaviour]
    options = {"timeouts": {"close_s": CLOSE_S}}
    with fault_server("reply", protocol="websocket", serve=options) as server:
        server.ask("lag")
        before = open_descriptors(server.pid)
        with joined(server.port) as peer:
            peer.opened().say(BINARY, b"1 close")
            assert peer.message() == b"\x00"
            piece = peer.frame()
            assert piece is not None
            assert (piece.opcode, piece.payload) == (CLOSE, b"\x03\xe8")
            if behaviour == "half":
                peer.send(ws_frame(CLOSE, b"\x03\xe8")[:-1])

            def gone() -> bool:
                peer.send(going_on)
                return bool(server.ask("times"))

            wait_until(gone, "it is given up")
            wait_until(lambda: open_descriptors(server.pid) == before, "the descriptor is free")
            ((lived_s, reason),) = server.ask("times")
            assert reason == "closed_locally"
            assert CLOSE_S <= lived_s <= CLOSE_S + 1.0 + server.slack_s()
            assert peer.rest() == b"", "nothing was said behind the close frame"
