"""Our server beside wsproto and `websockets`: the same streams, and the same messages and close codes (catalogue E18).

Where one of the two says something else than we do, that is in `DIFFERENCES`, with its reason, or the test fails. The
streams are made up from seeds; the seed of one that fails makes it again. `make fuzz` tries new ones as long as it is
told to (``GEVPY_FUZZ_S``, in seconds), and finds differences that are listed but don't occur any more.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.websocket.frame_streams import CLOSE, FIN, RSV1, Stream, cut, make_stream
from tests.websocket.three_parsers import Ours, Seen, seen_by_websockets, seen_by_wsproto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = float(os.environ.get("GEVPY_FUZZ_S", "0"))
STREAMS = 500  # in CI, with and without compression each
PROTOCOL, NO_UTF8, TOO_BIG, INTERNAL, BAD_GATEWAY = 1002, 1007, 1009, 1011, 1014

WSPROTO, WEBSOCKETS, BOTH = ("wsproto",), ("websockets",), ("wsproto", "websockets")
WEBSOCKETS_LARGE = 2044  # bytes of a frame from which on it inflates the end by itself
MAY_SPOIL_DEFLATED = ("no deflate data", "no UTF-8", "continuation of nothing", "frame out of place", "reserved bit 1")


class Difference(NamedTuple):
    """Something that another server does in another way, and may.

    Attributes:
        who: the others who do.
        why: what it does, and why we don't.
        is_it: whether that explains what we and it made of a stream.
    """

    who: tuple[str, ...]
    why: str
    is_it: Callable[[Stream, Seen, Seen], bool]


def has(stream: Stream, *faults: str) -> bool:
    """Tell whether a stream has one of these faults; a flipped bit may have made any."""
    return not stream.faults.isdisjoint({"a flipped bit", *faults})


def is_before(one: Seen, other: Seen) -> bool:
    """Tell whether ``other`` has at least the messages that ``one`` has."""
    return other.messages[: len(one.messages)] == one.messages


def is_interrupted(stream: Stream) -> bool:
    """Tell whether a control frame comes inside a fragmented message that is compressed."""
    is_inside = False
    for frame in stream.frames:
        if frame.opcode >= CLOSE:
            if is_inside:
                return True
        elif frame.first & FIN:
            is_inside = False
        elif frame.first & RSV1:
            is_inside = True
    return False


def closes_with(stream: Stream, code: int) -> bool:
    """Tell whether a close frame has this code."""
    return any(frame.opcode == CLOSE and frame.payload[:2] == code.to_bytes(2, "big") for frame in stream.frames)


#: Reviewed: nothing else may differ.
DIFFERENCES = {
    "longer length": Difference(
        WEBSOCKETS,
        "takes a length that is written with more bytes than it needs; RFC 6455 section 5.2 forbids it, so we end it",
        lambda stream, ours, theirs: (
            has(stream, "length of 2 bytes for a short one", "length of 8 bytes for a short one")
            and ours.code == PROTOCOL
            and is_before(ours, theirs)
        ),
    ),
    "endless length": Difference(
        WEBSOCKETS,
        "without a limit, waits for the 2^63 bytes of a length with its top bit set; we end it by its header",
        lambda stream, ours, theirs: (
            has(stream, "length with its top bit") and ours == Seen(theirs.messages, PROTOCOL) and theirs.code is None
        ),
    ),
    "limit": Difference(
        BOTH,
        "have no limit here, so that they can be compared; ours is 16 MiB, and what declares more is refused",
        lambda stream, ours, theirs: has(stream) and ours.code == TOO_BIG and is_before(ours, theirs),
    ),
    "late header": Difference(
        BOTH,
        "look at parts of a frame's header when the payload is there; we at once, so we end what is cut in between",
        lambda stream, ours, theirs: stream.is_cut and ours == Seen(theirs.messages, PROTOCOL) and theirs.code is None,
    ),
    "late UTF-8": Difference(
        WEBSOCKETS,
        "decodes texts that are whole; we each piece as it comes, so we end it sooner than what comes behind would",
        lambda stream, ours, theirs: ours == Seen(theirs.messages, NO_UTF8) and theirs.code in (None, PROTOCOL),
    ),
    "close inside a message": Difference(
        WEBSOCKETS,
        "finds it wrong to close before a fragmented message is whole; RFC 6455 section 5.4 allows any control frame",
        lambda stream, ours, theirs: theirs == Seen(ours.messages, PROTOCOL) and ours.code not in (None, NO_UTF8),
    ),
    "bad gateway": Difference(
        WSPROTO,
        "doesn't know close code 1014, which IANA has registered since",
        lambda stream, ours, theirs: (
            theirs == Seen(ours.messages, PROTOCOL)
            and (ours.code == BAD_GATEWAY or (ours.code == NO_UTF8 and closes_with(stream, BAD_GATEWAY)))
        ),
    ),
    "code for bad deflate data": Difference(
        WSPROTO,
        "says 1007 to what can't be inflated; we 1002: it is the extension's protocol that was broken, not the text",
        lambda stream, ours, theirs: ours == Seen(theirs.messages, PROTOCOL) and theirs.code == NO_UTF8,
    ),
    "forgotten compression": Difference(
        WSPROTO,
        "forgets at a control frame inside a compressed message that it is compressed, and gives what comes as it is",
        lambda stream, ours, theirs: is_interrupted(stream),
    ),
    "early inflation": Difference(
        WSPROTO,
        "inflates parts of a frame, and may see sooner that it is bad; we inflate frames that are whole",
        lambda stream, ours, theirs: theirs == Seen(ours.messages, NO_UTF8) and ours.code is None,
    ),
    "internal error": Difference(
        WEBSOCKETS,
        "without a limit, trips over what zlib holds back at the end of a large frame, and says 1011",
        lambda stream, ours, theirs: (
            theirs.code == INTERNAL
            and is_before(theirs, ours)
            and any(len(frame.payload) >= WEBSOCKETS_LARGE for frame in stream.frames)
        ),
    ),
    "end inside a block": Difference(
        BOTH,
        "take a compressed message that breaks off, or goes on behind its final block; we hold it to its end",
        lambda stream, ours, theirs: (
            has(stream, *MAY_SPOIL_DEFLATED) and ours.code == PROTOCOL and is_before(ours, theirs)
        ),
    ),
}
OF_COMPRESSION = {
    "code for bad deflate data",
    "forgotten compression",
    "early inflation",
    "internal error",
    "end inside a block",
}


def explain(who: str, stream: Stream, ours: Seen, theirs: Seen) -> str | None:
    """Give the name of the difference, or None where there is none; fail where it isn't known."""
    if ours == theirs:
        return None
    known = [name for name in DIFFERENCES if stream.is_deflated or name not in OF_COMPRESSION]
    for name in known:
        difference = DIFFERENCES[name]
        if who in difference.who and difference.is_it(stream, ours, theirs):
            return name
    frames = "\n".join(f"  {frame}"[:200] for frame in stream.frames)
    pytest.fail(
        f"with {sorted(stream.faults)}{', cut' if stream.is_cut else ''}:\n{frames}\n"
        f"we:   {_shown(ours)}\n{who}: {_shown(theirs)}"
    )


def _shown(seen: Seen) -> str:
    return f"{[(opcode, len(payload), payload[:16]) for opcode, payload in seen.messages]}, code {seen.code}"


def seeds() -> Iterator[int]:
    """Give the seeds for CI, or new ones for as long as we were told."""
    if not SECONDS:
        yield from range(STREAMS)
        return
    end = time.monotonic() + SECONDS
    for seed in count(random.SystemRandom().randrange(1 << 48)):
        if time.monotonic() > end:
            return
        yield seed


@pytest.mark.parametrize("deflated", [False, True], ids=["plain", "deflated"])
@pytest.mark.timeout(SECONDS + 60)
def test_messages_and_close_codes_are_those_of_others(deflated: bool) -> None:
    """E18: of any stream of frames, whole or cut, we make what wsproto and websockets do, or there is a reason."""
    ours = Ours(deflated=deflated)
    explained: Counter[str] = Counter()
    streams = 0
    for seed in seeds():
        chance = random.Random(seed)
        stream = make_stream(chance, deflated=deflated)
        pieces = cut(chance, stream.data)
        try:
            whole = ours([stream.data])
            assert ours(pieces) == whole, "it depends on how the stream is cut"
            explained[explain("wsproto", stream, whole, seen_by_wsproto(pieces, deflated=deflated)) or ""] += 1
            explained[explain("websockets", stream, whole, seen_by_websockets(pieces, deflated=deflated)) or ""] += 1
        except BaseException as error:
            error.add_note(f"the stream of seed {seed}, deflated={deflated}")
            raise
        streams += 1
    assert explained[""] > streams, "most streams are no matter of opinion"
    print(f"{streams} streams: {dict(explained)}")  # noqa: T201 - for who reviews the list
    missing = [name for name in DIFFERENCES if name not in explained and (deflated or name not in OF_COMPRESSION)]
    assert not missing or not SECONDS, f"no such thing was seen any more: {missing}"
