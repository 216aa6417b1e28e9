"""The embedded connection: all that a connection does in production, without a socket and without waiting."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy import CloseKind, Limits, Timeouts, Watermarks
from gevpy.testing import EmbeddedConnection

if TYPE_CHECKING:
    from gevpy import CloseReason, Connection, Worker


class Echo(gevpy.Handler):
    """Echoes, and notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_start(self, worker: Worker) -> None:
        self.calls.append("start")

    def on_connect(self, conn: Connection) -> None:
        self.calls.append("connect")

    def on_message(self, conn: Connection, ctx: Any, data: Any) -> Any:
        return data

    def on_writable(self, conn: Connection) -> None:
        self.calls.append("writable")

    def on_drain(self, conn: Connection) -> None:
        self.calls.append("drain")

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.calls.append(f"close: {reason.kind}")

    def on_stop(self, worker: Worker) -> None:
        self.calls.append("stop")


def handling(**hooks: Any) -> gevpy.Handler:
    """Give an `Echo` with some of its methods replaced by functions that take no ``self``."""
    kind = type("Handling", (Echo,), {name: staticmethod(hook) for name, hook in hooks.items()})
    handler: gevpy.Handler = kind()
    return handler


# -- bytes -----------------------------------------------------------------------------------------


def test_three_lines_test_a_protocol_and_a_handler() -> None:
    """Bytes in, bytes out, in parts or together."""
    conn = EmbeddedConnection(Echo(), gevpy.LineProtocol())
    assert conn.feed(b"he") == b""
    assert conn.feed(b"llo\ntwo\n") == b"hello\ntwo\n"
    assert conn.sent == b"hello\ntwo\n"
    assert conn.received == [(None, b"hello"), (None, b"two")]
    assert conn.take_sent() == b"hello\ntwo\n"
    assert conn.sent == b""


def test_it_is_the_real_connection() -> None:
    """What the handler gets is a `gevpy.Connection` with addresses, a worker and all its methods."""
    conn = EmbeddedConnection(Echo(), peer_addr=("192.0.2.7", 4000))
    assert type(conn.connection) is gevpy.Connection
    assert conn.connection.peer_addr == "192.0.2.7:4000"
    assert conn.connection.local_addr == "127.0.0.1:1388"
    assert conn.worker is conn.connection.worker
    assert conn.worker.connections == 1
    assert "192.0.2.7:4000" in repr(conn)


def test_what_is_called_from_outside_has_left_when_it_is_looked_at() -> None:
    """A send of the test's own, or an event it sets, needs no further step."""
    conn = EmbeddedConnection(Echo(), gevpy.LineProtocol())
    conn.connection.send(b"news")
    conn.worker.broadcast(b"more")
    assert conn.sent == b"news\nmore\n"
    conn.connection.close()
    assert not conn.connected
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.CLOSED_LOCALLY
    assert conn.eof_sent
    assert not conn.aborted


def test_large_messages_and_many_frames() -> None:
    """More than one read's room, and more frames than one turn handles."""
    conn = EmbeddedConnection(Echo(), gevpy.LengthPrefixedProtocol(max_frame_bytes=1 << 20))
    frame = (1 << 20).to_bytes(4, "big") + bytes(1 << 20)
    assert conn.feed(frame) == frame
    small = b"\0\0\0\1x" * 5000
    assert conn.feed(small) == small
    assert len(conn.received) == 5001


def test_lent_views_are_kept_as_bytes() -> None:
    """What ``received`` shows is still right when the view is gone."""

    class Lending(gevpy.LineProtocol):
        def unpacket(self, conn: Any, buffer: Any) -> Any:
            message = super().unpacket(conn, buffer)
            return message and (None, memoryview(message[1]))

    conn = EmbeddedConnection(handling(on_message=lambda conn, ctx, data: None), Lending())
    conn.feed(b"a\nb\n")
    assert conn.received == [(None, b"a"), (None, b"b")]


# -- how connections end ---------------------------------------------------------------------------


def test_the_peers_end_is_answered_first() -> None:
    """What came before the EOF is handled; then it closes."""
    handler = Echo()
    conn = EmbeddedConnection(handler, gevpy.LineProtocol())
    conn.feed(b"one\n")
    assert conn.feed_eof() == b""
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.PEER_CLOSED
    assert handler.calls == ["start", "connect", "close: peer_closed"]


def test_half_close_keeps_our_side_open() -> None:
    """Options reach the connection."""
    conn = EmbeddedConnection(Echo(), half_close=True)
    conn.feed_eof()
    assert conn.connected
    conn.connection.send(b"still")
    conn.connection.shutdown_write()
    assert conn.sent == b"still"
    assert conn.eof_sent


def test_a_truncated_frame_is_the_reasons_error() -> None:
    """The peer went away inside a frame."""
    conn = EmbeddedConnection(Echo(), gevpy.LineProtocol())
    conn.feed(b"par")
    conn.feed_eof()
    assert conn.close_reason is not None
    assert isinstance(conn.close_reason.error, gevpy.TruncatedFrame)


def test_a_reset_of_the_peer() -> None:
    """The network tears it down."""
    conn = EmbeddedConnection(Echo())
    conn.feed_reset()
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.PEER_RESET


def test_an_exception_of_the_handler_is_the_reasons_error(caplog: pytest.LogCaptureFixture) -> None:
    """The connection ends as in production, and the test sees why."""

    def on_message(conn: Connection, ctx: Any, data: Any) -> None:
        raise ZeroDivisionError("no such order")

    conn = EmbeddedConnection(handling(on_message=on_message))
    with caplog.at_level(logging.CRITICAL, "gevpy.connection"):
        conn.feed(b"x")
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.HANDLER_ERROR
    assert isinstance(conn.close_reason.error, ZeroDivisionError)
    with pytest.raises(ConnectionResetError, match="no such order"):
        conn.feed(b"y")


def test_a_bad_frame_ends_it() -> None:
    """The protocol's own error is the reason's."""
    conn = EmbeddedConnection(Echo(), gevpy.LengthPrefixedProtocol(max_frame_bytes=10))
    conn.feed(b"\0\0\0\xff")
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.FRAME_TOO_LARGE
    assert isinstance(conn.close_reason.error, gevpy.FrameTooLarge)


def test_an_abort_is_a_reset() -> None:
    """And told from a close."""
    conn = EmbeddedConnection(Echo())
    conn.connection.abort()
    assert conn.aborted
    assert not conn.eof_sent
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.ABORTED


# -- time ------------------------------------------------------------------------------------------


def test_idle_eviction_by_the_manual_clock() -> None:
    """Never before the timeout, and at most a tick after it; and it takes no time."""
    begun = time.monotonic()
    conn = EmbeddedConnection(Echo(), idle_timeout_s=600)
    conn.advance(300)
    conn.feed(b"still here")
    conn.advance(600)
    assert conn.connected
    conn.advance(0.1)
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.IDLE
    assert conn.loop.time() == pytest.approx(900.1)
    assert time.monotonic() - begun < 30


def test_timers_come_at_their_moments() -> None:
    """``run_after`` and ``run_every`` of the worker follow the clock."""

    def on_start(worker: Worker) -> None:
        worker.run_every(2.0, worker.broadcast, b"tick")

    conn = EmbeddedConnection(handling(on_start=on_start))
    assert conn.advance(1.9) == b""
    assert conn.advance(0.1) == b"tick"
    assert conn.advance(6.0) == b"tickticktick"
    conn.worker.run_after(0.5, conn.connection.send, b"once")
    assert conn.advance(1.0) == b"once"


def test_a_frame_that_takes_too_long() -> None:
    """``frame_s`` counts from the first byte."""
    conn = EmbeddedConnection(Echo(), gevpy.LineProtocol(), timeouts=Timeouts(frame_s=5))
    conn.feed(b"par")
    conn.advance(4.9)
    conn.feed(b"t")
    assert conn.connected
    conn.advance(0.3)
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.FRAME_TIMEOUT


def test_time_that_cannot_pass_is_refused() -> None:
    """Seconds are not negative, and not endless."""
    conn = EmbeddedConnection(Echo())
    for seconds in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="seconds must be 0 or more"):
            conn.advance(seconds)


# -- asynchronous handlers -------------------------------------------------------------------------


def test_async_handlers_answer_in_order() -> None:
    """They sleep by the manual clock, and each reply leaves when its handler ends."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        await asyncio.sleep(1.0)
        return data

    conn = EmbeddedConnection(handling(on_message=on_message), gevpy.LineProtocol())
    assert conn.feed(b"one\ntwo\n") == b""
    assert conn.advance(1.0) == b"one\n"
    assert conn.advance(1.0) == b"two\n"


def test_deadlines_in_a_handler() -> None:
    """``asyncio.timeout`` follows the clock, too."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> bytes:
        try:
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            return b"too late"
        return b"never"

    conn = EmbeddedConnection(handling(on_message=on_message))
    assert conn.feed(b"x") == b""
    assert conn.advance(9.9) == b""
    assert conn.advance(0.1) == b"too late"


def test_a_test_may_hold_a_handler_up() -> None:
    """An event of asyncio's, set by the test."""
    gate = asyncio.Event()

    async def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        await gate.wait()
        return data

    conn = EmbeddedConnection(handling(on_message=on_message))
    assert conn.feed(b"x") == b""
    gate.set()
    assert conn.settle() == b"x"


def test_threads_are_waited_for() -> None:
    """``asyncio.to_thread`` in a handler comes back before the call that caused it returns."""
    here = threading.get_ident()

    async def on_message(conn: Connection, ctx: Any, data: Any) -> bytes:
        return b"same" if await asyncio.to_thread(threading.get_ident) == here else b"other"

    assert EmbeddedConnection(handling(on_message=on_message)).feed(b"x") == b"other"


def test_a_send_from_a_thread() -> None:
    """What another thread sent has left when the test looks."""
    conn = EmbeddedConnection(Echo())
    thread = threading.Thread(target=conn.connection.send, args=(b"from afar",))
    thread.start()
    thread.join()
    assert conn.sent == b"from afar"


def test_an_async_on_connect_holds_messages_back() -> None:
    """What is fed meanwhile waits where the kernel would keep it."""

    async def on_connect(conn: Connection) -> None:
        await asyncio.sleep(3)
        conn.send(b"hello ")

    conn = EmbeddedConnection(handling(on_connect=on_connect))
    assert conn.feed(b"early") == b""
    assert conn.unread == 5
    assert conn.advance(3) == b"hello early"
    assert conn.unread == 0


def test_a_handler_that_never_rests_is_told() -> None:
    """Waiting by ``sleep(0)`` would hang the test: it ends with what to do instead."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        while True:  # noqa: ASYNC110 - the fault
            await asyncio.sleep(0)

    conn = EmbeddedConnection(handling(on_message=on_message))
    with pytest.raises(RuntimeError, match=r"asyncio.sleep\(0\), which lets no time pass"):
        conn.feed(b"x")


# -- slow peers ------------------------------------------------------------------------------------


def test_a_stalled_peer_congests_the_connection() -> None:
    """Above the high watermark nothing more is read; when the peer reads again, all goes on."""
    handler = Echo()
    conn = EmbeddedConnection(handler, watermarks=Watermarks(high_bytes=1000, low_bytes=100))
    conn.stall()
    assert conn.feed(bytes(1500)) == b""
    assert conn.connection.write_buffer_length == 1500
    assert conn.feed(b"later") == b""
    assert conn.unread == 5
    assert conn.take(1000) == bytes(1000)
    assert conn.unread == 5
    assert conn.take(450) == bytes(450)
    assert conn.unread == 5, "the transport tells when it is empty"
    assert conn.resume() == bytes(50) + b"later"
    assert "writable" in handler.calls


def test_a_slow_consumer_is_closed() -> None:
    """The hard limit acts inside send, as in production."""
    conn = EmbeddedConnection(Echo(), limits=Limits(max_write_buffer_bytes=1000))
    conn.stall()
    conn.connection.send(bytes(1001))
    with pytest.raises(gevpy.ConnectionClosed):
        conn.connection.send(b"one too many")
    assert conn.aborted
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.SLOW_CONSUMER


def test_a_write_stall_is_found_by_the_clock() -> None:
    """Output of which nothing leaves; each byte that leaves begins the time anew."""
    conn = EmbeddedConnection(Echo(), timeouts=Timeouts(write_stall_s=10))
    conn.stall()
    conn.connection.send(bytes(100))
    conn.advance(8)
    conn.take(10)
    conn.advance(8)
    assert conn.connected
    conn.advance(4)
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.WRITE_STALL


def test_on_written_comes_when_it_has_left() -> None:
    """Once for each send, not before the peer has taken it."""
    told: list[tuple[Any, Any]] = []
    conn = EmbeddedConnection(Echo())
    conn.stall()
    conn.connection.send(b"abc", on_written=lambda data, error: told.append((data, error)))
    conn.take(2)
    assert told == []
    conn.take(1)
    assert told == [(b"abc", None)]
    conn.connection.send(b"lost", on_written=lambda data, error: told.append((data, error)))
    conn.connection.abort()
    conn.settle()
    assert isinstance(told[1][1], gevpy.ConnectionClosed)


def test_drain_of_a_connection_waits_for_the_peer() -> None:
    """``await conn.drain()`` in a handler."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> bytes:
        conn.send(bytes(200_000))
        await conn.drain()
        return b"done"

    conn = EmbeddedConnection(handling(on_message=on_message))
    conn.stall()
    assert conn.feed(b"x") == b""
    assert conn.take(150_000) == bytes(150_000)
    assert conn.resume() == bytes(50_000) + b"done"


def test_a_close_flushes_for_a_while() -> None:
    """What waits still leaves; a peer that doesn't take it is cut off."""
    conn = EmbeddedConnection(Echo(), timeouts=Timeouts(close_s=10))
    conn.stall()
    conn.connection.send(b"last words")
    conn.connection.close()
    assert not conn.eof_sent
    assert conn.resume() == b"last words"
    assert conn.eof_sent
    other = conn.another()
    other.stall()
    other.connection.send(b"last words")
    other.connection.close()
    other.feed(b"nobody listens")
    other.advance(10.2)
    assert other.aborted
    assert other.sent == b""


# -- several, and the server -----------------------------------------------------------------------


def test_peers_of_one_worker_talk_to_each_other() -> None:
    """A chat: what one says, all others hear."""

    def on_connect(conn: Connection) -> None:
        conn.subscribe("room")

    def on_message(conn: Connection, ctx: Any, data: Any) -> None:
        conn.worker.publish("room", data, exclude=conn)

    ann = EmbeddedConnection(handling(on_connect=on_connect, on_message=on_message), gevpy.LineProtocol())
    bob, eve = ann.another(), ann.another()
    assert ann.feed(b"hello\n") == b""
    assert (bob.sent, eve.sent) == (b"hello\n", b"hello\n")
    assert ann.connection.peer_addr != bob.connection.peer_addr
    assert bob.received == []
    bob.feed_eof()
    assert ann.worker.connections == 2


def test_who_is_one_too_many_is_refused() -> None:
    """The limits on connections hold, and a place that is left can be taken."""
    conn = EmbeddedConnection(Echo(), limits=Limits(max_connections=2))
    second = conn.another()
    with pytest.raises(ConnectionRefusedError, match="max_connections"):
        conn.another()
    second.feed_eof()
    assert conn.another().connected


def test_the_server_goes_away() -> None:
    """``on_drain``, the protocol's goodbye, the end, ``on_stop``: in this order."""

    class Polite(gevpy.LineProtocol):
        def goodbye(self, conn: Any, why: str) -> None:
            conn.send(why.encode())

    handler = Echo()
    conn = EmbeddedConnection(handler, Polite())
    conn.stop()
    assert conn.sent == b"stop\n"
    assert conn.eof_sent
    assert handler.calls == ["start", "connect", "drain", "close: drained", "stop"]


def test_a_stop_waits_for_running_handlers() -> None:
    """Their replies still leave; those that take too long are cut off at the drain's deadline."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        await asyncio.sleep(float(data))
        return data

    conn = EmbeddedConnection(handling(on_message=on_message), timeouts=Timeouts(drain_s=10))
    late = conn.another()
    conn.feed(b"5")
    late.feed(b"50")
    conn.stop()
    assert conn.connected
    assert conn.advance(5) == b"5"
    assert conn.eof_sent
    late.advance(5.1)
    assert late.aborted


def test_a_patient_stop_lets_connections_live() -> None:
    """A reload announces itself and ends them at the deadline only."""
    handler = Echo()
    conn = EmbeddedConnection(handler, timeouts=Timeouts(drain_s=60), idle_timeout_s=None)
    conn.stop("reload")
    conn.advance(5)
    assert "drain" in handler.calls
    assert conn.feed(b"still served") == b"still served"
    conn.advance(56)
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.DRAINED


def test_the_end_of_a_with_block_stops_the_server() -> None:
    """``on_close`` and ``on_stop`` are called, however long that takes by the clock; what was seen stays visible."""
    ended: list[str] = []

    async def on_stop(worker: Worker) -> None:
        await asyncio.sleep(3)
        ended.append("stopped")

    async def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        await asyncio.sleep(20)
        return data

    with EmbeddedConnection(handling(on_stop=on_stop, on_message=on_message)) as conn:
        conn.feed(b"slow")
    assert ended == ["stopped"]
    assert conn.sent == b"slow"
    assert conn.close_reason is not None
    assert conn.close_reason.kind is CloseKind.DRAINED
    conn.__exit__(None, None, None)  # once more changes nothing


def test_on_stops_exception_is_raised() -> None:
    """It leaves the with block."""

    def on_stop(worker: Worker) -> None:
        raise LookupError("no pool to close")

    with pytest.raises(LookupError, match="no pool"), EmbeddedConnection(handling(on_stop=on_stop)) as conn:
        conn.feed(b"x")


def test_on_start_may_take_its_time_and_fail() -> None:
    """It is over before the peer comes; what it raises, the constructor raises."""
    seen: list[float] = []

    async def slow(worker: Worker) -> None:
        await asyncio.sleep(7)
        seen.append(asyncio.get_running_loop().time())

    conn = EmbeddedConnection(handling(on_start=slow))
    assert seen == [pytest.approx(7.0)]
    assert conn.feed(b"x") == b"x"

    async def stuck(worker: Worker) -> None:
        await asyncio.get_running_loop().create_future()

    def failing(worker: Worker) -> None:
        raise LookupError("no database")

    with pytest.raises(TimeoutError, match="120 s"):
        EmbeddedConnection(handling(on_start=stuck))
    with pytest.raises(LookupError, match="no database"):
        EmbeddedConnection(handling(on_start=failing))


# -- what it refuses -------------------------------------------------------------------------------


def test_concurrent_handlers() -> None:
    """``ordering`` holds here, too."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        await asyncio.sleep(float(data))
        return data

    conn = EmbeddedConnection(handling(on_message=on_message), gevpy.LineProtocol(), ordering="concurrent")
    assert conn.feed(b"3\n1\n") == b""
    assert conn.advance(1) == b"1\n"
    assert conn.advance(2) == b"3\n"


async def test_a_running_loop_is_refused() -> None:
    """In an async test it says what to use."""
    with pytest.raises(RuntimeError, match="gevpy_server"):
        EmbeddedConnection(Echo())


def test_what_serve_refuses_is_refused() -> None:
    """The same checks, the same errors."""
    wrong: Any = Echo
    with pytest.raises(gevpy.ConfigError, match="not the class Echo"):
        EmbeddedConnection(wrong)
    with pytest.raises(gevpy.ConfigError, match="idle_timeout_s"):
        EmbeddedConnection(Echo(), idle_timeout_s=-1)


@pytest.mark.parametrize("option", ["ssl", "port", "workers"])
def test_options_about_sockets_are_refused(option: str) -> None:
    """They would change nothing, silently."""
    options: dict[str, Any] = {option: 2}
    with pytest.raises(gevpy.ConfigError, match=f"{option} is about sockets or processes"):
        EmbeddedConnection(Echo(), **options)
    assert option in {field.name for field in dataclasses.fields(gevpy.ServeOptions)}


def test_what_is_left_behind_makes_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    """A test that drops it in the middle of a handler leaves neither warning nor log."""

    async def on_message(conn: Connection, ctx: Any, data: Any) -> Any:
        await asyncio.sleep(1)

    conn = EmbeddedConnection(handling(on_message=on_message))
    conn.feed(b"x")
    del conn
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_a_handler_needs_no_hooks() -> None:
    """Only ``on_message``; and a stop may be asked for twice."""

    class Bare(gevpy.Handler):
        def on_message(self, conn: Connection, ctx: Any, data: Any) -> Any:
            return data

    with EmbeddedConnection(Bare()) as conn:
        assert conn.feed(b"x") == b"x"
        conn.stop("reload")
        assert conn.connected
    assert conn.eof_sent


def test_the_end_of_a_with_block_does_not_wait_for_ever() -> None:
    """A handler, or an on_stop, that never ends is cut off and told."""

    async def on_stop(worker: Worker) -> None:
        await asyncio.get_running_loop().create_future()

    with (
        pytest.raises(TimeoutError, match="had not ended"),
        EmbeddedConnection(handling(on_stop=on_stop), timeouts=Timeouts(drain_s=2)) as conn,
    ):
        conn.feed(b"x")
    assert conn.sent == b"x"
