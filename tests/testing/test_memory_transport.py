"""The memory transport: what asyncio's socket transport does, with the test as its other end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gevpy.testing import ManualLoop, MemoryTransport


class Plain(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.keep_open = False
        self.fails = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.calls.append(data)
        if self.fails:
            raise ZeroDivisionError("of the protocol")

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(("lost", exc))


class Buffered(asyncio.BufferedProtocol):
    """Reads into three bytes of room."""

    def __init__(self, room: int = 3) -> None:
        self.buffer = bytearray(room)
        self.reads: list[bytes] = []
        self.lost: list[Any] = []

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.reads.append(bytes(self.buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


def plain() -> tuple[ManualLoop, Plain, MemoryTransport]:
    """Give a loop, a protocol and its transport, connected."""
    loop, protocol = ManualLoop(), Plain()
    transport = MemoryTransport(loop, protocol, extra={"peername": ("192.0.2.1", 1)})
    loop.settle()
    return loop, protocol, transport


def test_reads_come_one_a_turn_and_in_order() -> None:
    """After connection_made, then the end."""
    loop, protocol, transport = plain()
    transport.feed(b"one")
    transport.feed(b"")
    transport.feed(b"two")
    transport.feed_eof()
    assert protocol.calls == ["made"]
    loop.settle()
    assert protocol.calls == ["made", b"one", b"two", "eof", ("lost", None)]
    assert transport.get_extra_info("peername") == ("192.0.2.1", 1)
    assert transport.get_protocol() is protocol


def test_a_protocol_may_stay_open_after_the_end() -> None:
    """As eof_received says."""
    loop, protocol, transport = plain()
    protocol.keep_open = True
    transport.feed_eof()
    loop.settle()
    assert not transport.is_closing()
    transport.write(b"still")
    transport.write_eof()
    transport.write_eof()
    assert (transport.sent, transport.eof_sent, transport.can_write_eof()) == (b"still", True, True)
    with pytest.raises(RuntimeError, match="after write_eof"):
        transport.write(b"more")


def test_a_buffered_protocol_gets_as_much_as_it_has_room_for() -> None:
    """The rest comes with the next read."""
    loop, protocol = ManualLoop(), Buffered()
    transport = MemoryTransport(loop, protocol)
    transport.feed(b"12345678")
    loop.settle()
    assert protocol.reads == [b"123", b"456", b"78"]


def test_an_empty_buffer_ends_the_connection() -> None:
    """As both real loops do it; the loop's exception handler is told."""
    loop, protocol = ManualLoop(), Buffered(0)
    told: list[Any] = []
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))
    transport = MemoryTransport(loop, protocol)
    transport.feed(b"1")
    loop.settle()
    assert isinstance(told[0], RuntimeError)
    assert protocol.lost == told


def test_a_failing_protocol_ends_the_connection() -> None:
    """And the loop's exception handler is told."""
    loop, protocol, transport = plain()
    told: list[Any] = []
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))
    protocol.fails = True
    transport.feed(b"1")
    loop.settle()
    assert protocol.calls[-1] == ("lost", told[0])
    assert isinstance(told[0], ZeroDivisionError)
    assert not transport.eof_sent


def test_nothing_is_read_while_reading_is_paused() -> None:
    """It waits, and so does the end of the stream."""
    loop, protocol, transport = plain()
    transport.pause_reading()
    transport.feed(b"one")
    transport.feed_eof()
    loop.settle()
    assert protocol.calls == ["made"]
    assert transport.unread_bytes == 3
    assert not transport.is_reading()
    transport.resume_reading()
    loop.settle()
    assert protocol.calls[1:3] == [b"one", "eof"]


def test_the_watermarks_are_asyncios() -> None:
    """A pause above the high one, going on at the low one."""
    loop, protocol, transport = plain()
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    transport.set_write_buffer_limits(low=5)
    assert transport.get_write_buffer_limits() == (5, 20)
    transport.set_write_buffer_limits(10)
    assert transport.get_write_buffer_limits() == (2, 10)
    transport.stall()
    transport.write(b"0123456789")
    assert protocol.calls == ["made"]
    transport.writelines([b"a", b"b"])
    assert protocol.calls == ["made", "pause"]
    assert transport.get_write_buffer_size() == 12
    assert transport.take(9) == b"012345678"
    loop.settle()
    assert "resume" not in protocol.calls
    assert transport.take(1) == b"9"
    loop.settle()
    assert protocol.calls[-1] == "resume"
    transport.resume()
    transport.write(b"c")
    assert transport.take_sent() == b"0123456789abc"
    assert transport.sent == b""


def test_a_close_flushes_and_an_abort_does_not() -> None:
    """FIN and reset, as the peer sees them."""
    loop, protocol, transport = plain()
    transport.stall()
    transport.write(b"last")
    transport.close()
    transport.close()
    transport.feed(b"unheard")
    loop.settle()
    assert protocol.calls == ["made"]
    transport.resume()
    loop.settle()
    assert protocol.calls == ["made", ("lost", None)]
    assert (transport.sent, transport.eof_sent, transport.aborted, transport.lost) == (b"last", True, False, True)
    with pytest.raises(ConnectionResetError):
        transport.feed(b"x")
    transport.write(b"ignored")
    transport.feed_reset()
    transport.abort()

    loop, protocol, transport = plain()
    transport.stall()
    transport.write(b"last")
    transport.abort()
    transport.take(4)
    loop.settle()
    assert protocol.calls == ["made", ("lost", None)]
    assert (transport.sent, transport.eof_sent, transport.aborted) == (b"", False, True)


def test_an_end_of_writing_waits_for_what_is_before_it() -> None:
    """The peer sees the data, then the end."""
    loop, _, transport = plain()
    transport.stall()
    transport.write(b"last")
    transport.write_eof()
    assert not transport.eof_sent
    transport.take(4)
    loop.settle()
    assert transport.eof_sent
    assert not transport.is_closing()


def test_the_peer_may_reset() -> None:
    """connection_lost gets the error."""
    loop, protocol, transport = plain()
    transport.feed_reset()
    loop.settle()
    ((kind, error),) = protocol.calls[1:]
    assert kind == "lost"
    assert isinstance(error, ConnectionResetError)
    assert not transport.eof_sent


def test_another_protocol_can_take_over() -> None:
    """set_protocol, as an upgrade does it."""
    loop, protocol, transport = plain()
    other = Buffered(7)
    transport.set_protocol(other)
    transport.feed(b"for the other")
    loop.settle()
    assert protocol.calls == ["made"]
    assert other.reads == [b"for the", b" other"]


async def test_it_works_on_a_real_loop() -> None:
    """A test on asyncio or uvloop may use it, too, with asyncio's streams for one."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport = MemoryTransport(loop, asyncio.StreamReaderProtocol(reader))
    transport.feed(b"one line\n")
    transport.feed_eof()
    assert await reader.readline() == b"one line\n"
    assert await reader.read() == b""


def test_a_transport_that_is_lost_tells_nothing_more() -> None:
    """No resume_writing after connection_lost."""
    loop, protocol, transport = plain()
    transport.set_write_buffer_limits(0)
    transport.stall()
    transport.write(b"x")
    transport.take(1)
    transport.abort()
    loop.settle()
    assert protocol.calls == ["made", "pause", ("lost", None)]
