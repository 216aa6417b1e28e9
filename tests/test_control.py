"""The control channel: a fixed schema, bounds on everything, descriptors that don't leak."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevpy import control, control_messages
from gevpy.control import Channel
from gevpy.control_messages import Adopt, Beat, ControlError, Deliver, Drain, Failed, Message, Take
from tests.integration.harness import open_descriptors
from tests.serving import soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VALUES: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=100),
    bool: st.booleans(),
    type(None): st.none(),
}


def messages() -> st.SearchStrategy[Message]:
    """Give messages of every kind."""
    kinds = []
    for kind, fields in control_messages.FIELDS.items():
        values = {name: st.one_of(*(VALUES[one] for one in allowed)) for name, allowed in fields.items()}
        kinds.append(st.builds(control_messages.MESSAGES[kind], **values))
    return st.one_of(kinds)


@given(messages())
def test_a_message_comes_back(message: Message) -> None:
    """decode(encode(m)) == m for every kind."""
    data = control.encode(message)
    header, payload, count = control.HEAD.unpack_from(data)
    assert (payload, count) == (0, 0)
    assert control_messages.message_of(data[control.HEAD.size : control.HEAD.size + header]) == message


@given(st.binary(max_size=200))
def test_garbage_is_a_typed_error(data: bytes) -> None:
    """Whatever comes is a message or a ControlError, never anything else."""
    with suppress(ControlError):
        assert isinstance(control_messages.message_of(data), Message)


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b"[]",
        b'{"kind": "nothing"}',
        b'{"kind": "adopt"}',
        b'{"kind": "adopt", "slot": "1"}',
        b'{"kind": "adopt", "slot": true}',
        b'{"kind": "adopt", "slot": 1, "more": 2}',
        b"[" * 100_000,
    ],
)
def test_what_has_other_fields_is_refused(header: bytes) -> None:
    """Fields that miss, that are too many, or of another type."""
    with pytest.raises(ControlError):
        control_messages.message_of(header)


def test_what_is_too_long_is_not_sent() -> None:
    """A header and a payload have bounds."""
    with pytest.raises(ControlError, match="too long"):
        control.encode(Failed("x" * control.MAX_HEADER_BYTES, ""))
    with pytest.raises(ControlError, match="too long"):
        control.encode(Deliver(None, is_text=False), bytes(control.MAX_PAYLOAD_BYTES + 1))


class End:
    """One end of a channel, and all that came out of it."""

    def __init__(self, sock: socket.socket) -> None:
        self.got: asyncio.Queue[tuple[Message, bytes, list[int]]] = asyncio.Queue()
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.channel = Channel(
            asyncio.get_running_loop(), sock, lambda *message: self.got.put_nowait(message), self.ended.set_result
        )


@pytest.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    """Give both ends of a channel."""
    ours, its = socket.socketpair()
    both = End(ours), End(its)
    yield both
    for end in both:
        end.channel.close()


@pytest.fixture
async def raw() -> AsyncIterator[tuple[socket.socket, End]]:
    """Give a plain socket, and the channel at its other end."""
    ours, its = socket.socketpair()
    end = End(its)
    with ours:
        yield ours, end
    end.channel.close()


async def test_messages_keep_their_order(ends: tuple[End, End]) -> None:
    """Small and large ones, payloads included, in both directions at once."""
    left, right = ends
    for number in range(50):
        assert left.channel.send(Adopt(number), bytes([number]) * (number * 5000))
        assert right.channel.send(Beat(number, 0.5))
    for number in range(50):
        assert await soon(right.got.get()) == (Adopt(number), bytes([number]) * (number * 5000), [])
        assert (await soon(left.got.get()))[0] == Beat(number, 0.5)


async def test_descriptors_come_with_their_message(ends: tuple[End, End]) -> None:
    """Each message brings its own, and the sender keeps its."""
    left, right = ends
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    left.channel.send(Take(), descriptors=files[:1])
    left.channel.send(Adopt(1), bytes(300_000))
    left.channel.send(Adopt(2), descriptors=files[1:])
    counts = []
    for _ in range(3):
        _, _, descriptors = await soon(right.got.get())
        counts.append(len(descriptors))
        for fd in descriptors:
            assert not os.get_inheritable(fd)
            os.close(fd)
    assert counts == [1, 0, 2]
    for fd in files:
        os.close(fd)


async def test_the_other_side_s_end_is_told_once(ends: tuple[End, End]) -> None:
    """None is the reason of a clean end; sending is refused from then on."""
    left, right = ends
    left.channel.send(Drain("stop", None, patient=False))
    left.channel.close()
    assert (await soon(right.got.get()))[0] == Drain("stop", None, patient=False)
    assert await soon(right.ended) is None
    assert not right.channel.send(Take())


@pytest.mark.parametrize(
    "data",
    [
        b"garbage that is no head at all, but long enough",
        struct.pack("!IIH", 1 << 30, 0, 0),
        struct.pack("!IIH", 2, 1 << 30, 0),
        struct.pack("!IIH", 2, 0, 60_000),
        struct.pack("!IIH", 2, 0, 0) + b"{}",
        struct.pack("!IIH", 15, 0, 2) + b'{"kind":"take"}',
    ],
    ids=["garbage", "1 GiB header", "1 GiB payload", "many descriptors", "no kind", "absent descriptors"],
)
async def test_abuse_ends_the_channel(raw: tuple[socket.socket, End], data: bytes) -> None:
    """A14: garbage, a length of 1 GB, descriptors that are not there: an error, and nothing held."""
    sock, end = raw
    sock.sendall(data)
    assert isinstance(await soon(end.ended), ControlError)
    assert end.got.empty()


async def test_unannounced_descriptors_are_closed(raw: tuple[socket.socket, End]) -> None:
    """A14: 250 descriptors that no message announces end the channel, and none stays open."""
    sock, end = raw
    before = open_descriptors(os.getpid())
    socket.send_fds(sock, [control.encode(Adopt(1))], [0] * 250)
    error = await soon(end.ended)
    assert isinstance(error, ControlError)
    assert open_descriptors(os.getpid()) <= before


async def test_a_side_that_does_not_read_is_bounded(raw: tuple[socket.socket, End]) -> None:
    """Messages are refused once so much waits; what was taken arrives when the other side reads."""
    sock, end = raw
    payload = bytes(1 << 20)
    taken = 0
    while end.channel.send(Deliver(None, is_text=False), payload):
        taken += 1
    assert control.MAX_QUEUED_BYTES >> 20 >= taken >= (control.MAX_QUEUED_BYTES >> 20) - 2
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    wanted = taken * len(control.encode(Deliver(None, is_text=False), payload))
    got = 0
    while got < wanted:
        got += len(await soon(loop.sock_recv(sock, 1 << 20)))
    assert end.channel.send(Take())


def test_every_message_is_frozen() -> None:
    """A message is a value."""
    for kind in control_messages.MESSAGES.values():
        assert dataclasses.is_dataclass(kind)
        assert kind.__dataclass_params__.frozen
