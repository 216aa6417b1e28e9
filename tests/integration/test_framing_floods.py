"""Row D: lengths that lie, delimiters that never come, and frames by the million."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy.errors import FrameTooLarge
from tests.integration.harness import (
    Crowd,
    FaultServer,
    echo,
    fate,
    frame,
    receive_exactly,
    resident_bytes,
    wait_until,
)
from tests.protocol.splitting import check_linear, drip, flood

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
LIMIT = 65536
COMPILED = gevpy.build_info().compiled
TINY = 1_000_000 if COMPILED else 200_000
# The gate is 2 s for 10^6 frames. The pure build may take 6 times the compiled one's time (design, section 5).
MAX_TINY_US = 2.0 if COMPILED else 6 * 2.0

LIARS = 20
LYING = {  # size of the prefix, and what it says
    4: (LIMIT + 1, 2**31, 2**32 - 1),  # the last two are negative for who reads them signed
    8: (2**63, 2**63 - 1, 2**64 - 1),
}


@pytest.mark.parametrize("size", LYING)
def test_lying_lengths_are_refused_before_allocating(fault_server: Callable[..., FaultServer], size: int) -> None:
    """D: clients that declare what is over the limit are closed at once, counted once each, for no memory."""
    with (
        fault_server("echo", protocol="length", protocol_args={"size": size}) as server,
        Crowd(server.port) as crowd,
    ):
        good = crowd.join()
        honest = (1).to_bytes(size, "big") + b"x"
        assert echo(good, honest) == honest
        before = resident_bytes(server.pid)
        for length in LYING[size] * LIARS:
            liar = crowd.join()
            liar.sendall(length.to_bytes(size, "big"))
            assert fate_of_silence(liar) == "closed"
        assert resident_bytes(server.pid) - before <= MIB
        count = len(LYING[size]) * LIARS
        wait_until(lambda: server.report()["closed"].get("frame_too_large") == count, "all were closed for it")
        assert 1 <= len(server.complaints()) <= server.most_lines(), server.log()
        assert "at byte 0" in server.complaints()[0]
        assert echo(good, honest) == honest


def fate_of_silence(client: Any) -> str:
    """Tell what becomes of a client that sends no more."""
    try:
        return "closed" if client.recv(1) == b"" else "answered"
    except ConnectionError:
        return "reset"


def test_lengths_up_to_the_limit_are_taken(fault_server: Callable[..., FaultServer]) -> None:
    """D: an empty frame and one of exactly the limit are messages like any other."""
    with fault_server("echo", protocol="length") as server, Crowd(server.port) as crowd:
        client = crowd.join()
        for data in (b"", bytes(LIMIT), b""):
            assert echo(client, frame(data)) == frame(data)


def test_a_delimiter_that_never_comes_is_capped(fault_server: Callable[..., FaultServer]) -> None:
    """D: a line without an end is closed at 8 KiB, for no more memory than that."""
    with fault_server("echo", protocol="line") as server, Crowd(server.port) as crowd:
        assert fate(crowd.join(), b"x\n") == "live"
        before = resident_bytes(server.pid)
        for _ in range(20):
            client = crowd.join()
            with suppress(ConnectionError):  # it goes on sending when we have closed
                client.sendall(b"y" * 800_000)
            assert fate_of_silence(client) in ("closed", "reset")
        assert resident_bytes(server.pid) - before <= MIB
        wait_until(lambda: server.report()["closed"].get("frame_too_large") == 20, "all were closed for it")
        assert 1 <= len(server.complaints()) <= server.most_lines(), server.log()


@pytest.mark.parametrize(
    ("protocol", "stream"),
    [("length", b"\0\0\0\1a\0\0\0\0\0\0\0\2bc"), ("line", b"one\r\ntwo\n\nthree\r\n")],
)
def test_one_byte_at_a_time(fault_server: Callable[..., FaultServer], protocol: str, stream: bytes) -> None:
    """D: the same messages come out when every byte is a read of its own."""
    with fault_server("echo", protocol=protocol) as server, Crowd(server.port) as crowd:
        client = crowd.join()
        for number in range(len(stream)):
            client.sendall(stream[number : number + 1])
            wait_until(
                lambda seen=number: server.report()["received_bytes"] > seen,  # type: ignore[misc]
                "the byte is read",
            )
        answer = stream.replace(b"\r\n", b"\n")
        assert receive_exactly(client, len(answer)) == answer


def test_a_thousand_frames_in_one_read(fault_server: Callable[..., FaultServer]) -> None:
    """D: many frames of one read are all answered, in order, more of them than one turn handles included."""
    with fault_server("echo", protocol="length") as server, Crowd(server.port) as crowd:
        for count in (1_000, 1_024, 1_025, 5_000):
            stream = b"".join(frame(b"%05d" % number) for number in range(count))
            assert echo(crowd.join(), stream) == stream


@pytest.mark.parametrize(
    ("protocol", "one"),
    [
        (gevpy.LengthPrefixedProtocol(), frame(b"")),
        (gevpy.LineProtocol(), b"\n"),
        (gevpy.DelimiterProtocol((b"\r\n", b"||")), b"||"),
        (gevpy.FixedLengthProtocol(1), b"x"),
    ],
    ids=["length", "line", "delimiter", "fixed"],
)
def test_a_million_tiny_frames_take_linear_time(protocol: gevpy.Protocol, one: bytes) -> None:
    """D: 10^6 tiny frames in one buffer take under 2 s of CPU (pure: 12 s), and time grows as their number does."""
    check_linear(flood(protocol, one), TINY, most_us=MAX_TINY_US)


def test_a_delimiter_is_not_searched_twice() -> None:
    """D: a long frame that comes byte by byte is scanned once, not again from its start with every byte."""
    check_linear(drip(gevpy.DelimiterProtocol(b"\r\n"), b"y"), LIMIT)


def test_a_limit_names_the_byte() -> None:
    """D: the error of a lying length tells limit, actual and offset, and none of the payload."""
    buffer = gevpy.RingBuffer()
    buffer.write(b"ab" + (2**31).to_bytes(4, "big") + b"secret")
    with pytest.raises(FrameTooLarge) as caught:
        gevpy.LengthPrefixedProtocol(offset=2).decode(None, buffer)
    assert (caught.value.limit, caught.value.actual, caught.value.offset) == (LIMIT, 2**31, 2)
    assert "secret" not in str(caught.value)
