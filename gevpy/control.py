"""The channel between the supervisor and one worker: an unnamed socketpair, messages of a fixed schema, descriptors.

    ┌────────┬─────────┬─────────────┬────────────────┬─────────────┐
    │ header │ payload │ descriptors │ header as JSON │ payload     │
    │ length │ length  │ count       │ {"kind": ...}  │ any bytes   │
    └────────┴─────────┴─────────────┴────────────────┴─────────────┘
      4 bytes  4 bytes   2 bytes

Whatever comes in that is too long, no message (see `gevpy.control_messages`), or brings descriptors that no message
announced ends the channel with a `ControlError`, and the descriptors are closed. Neither side can make the other hold
more than a bounded amount.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from os import close as close_descriptor
from os import dup, set_inheritable
from typing import TYPE_CHECKING

from gevpy.control_messages import ControlError, Message, header_of, message_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Channel", "encode"]

HEAD = struct.Struct("!IIH")
MAX_HEADER_BYTES = 64 * 1024
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
MAX_DESCRIPTORS = 64
MAX_QUEUED_BYTES = 32 * 1024 * 1024  # to a worker that doesn't read: then messages are refused
READ_BYTES = 64 * 1024
READS_PER_WAKE = 16  # then the loop's other work gets its turn


def encode(message: Message, payload: bytes = b"", descriptors: int = 0) -> bytes:
    """Give the bytes of a message.

    Raises:
        ControlError: it is longer than a channel takes.
    """
    header = header_of(message)
    if len(header) > MAX_HEADER_BYTES or len(payload) > MAX_PAYLOAD_BYTES:
        msg = f"a {message.KIND} message of {len(header)} + {len(payload)} bytes is too long for the control channel"
        raise ControlError(msg)
    return HEAD.pack(len(header), len(payload), descriptors) + header + payload


class Channel:
    """One end of a control channel.

    On its loop only.

    Args:
        loop: the loop to read and write on.
        sock: this end; the channel closes it.
        on_message: called as ``on_message(message, payload, descriptors)``; the descriptors are then the callee's.
        on_closed: called once, with the error that ended it, or None for the other side's end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_message: Callable[[Message, bytes, list[int]], None],
        on_closed: Callable[[Exception | None], None],
    ) -> None:
        """Begin to read."""
        sock.settimeout(0)
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._on_message = on_message
        self._on_closed = on_closed
        self._input = bytearray()
        self._received: deque[int] = deque()  # descriptors whose message is not whole yet
        self._output: deque[tuple[memoryview, list[int]]] = deque()
        self._queued = 0
        self._closed = False
        loop.add_reader(self._fd, self._readable)

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._closed

    def send(self, message: Message, payload: bytes = b"", descriptors: Sequence[int] = ()) -> bool:
        """Queue a message; never blocks.

        Args:
            message: what to say.
            payload: bytes that come with it.
            descriptors: they are duplicated, and stay the caller's.

        Returns:
            False if it was refused: the channel has ended, too much waits already, or no descriptor is left to
            duplicate one.

        Raises:
            ControlError: the message is too long.
        """
        data = encode(message, payload, len(descriptors))
        if self._closed or self._queued + len(data) > MAX_QUEUED_BYTES:
            return False
        copies: list[int] = []
        try:
            for fd in descriptors:
                copies.append(dup(fd))  # noqa: PERF401 - those made before an error must be known
        except OSError:
            _close_all(copies)
            return False
        self._output.append((memoryview(data), copies))
        self._queued += len(data)
        if len(self._output) == 1:
            self._write()
            if self._output:
                self._loop.add_writer(self._fd, self._writable)
        return True

    def read_rest(self) -> None:
        """Take what the other side said before it went."""
        if not self._closed:
            self._readable()

    def close(self) -> None:
        """End the channel, and drop what waits. Idempotent; ``on_closed`` is not called for it."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._sock.close()
        _close_all(self._received)
        for _, descriptors in self._output:
            _close_all(descriptors)
        self._output.clear()

    def _end(self, error: Exception | None) -> None:
        if not self._closed:
            self.close()
            self._on_closed(error)

    def _writable(self) -> None:
        self._write()
        if not self._output and not self._closed:
            self._loop.remove_writer(self._fd)

    def _write(self) -> None:
        while self._output:
            data, descriptors = self._output[0]
            try:
                sent = self._send_some(data, descriptors)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._end(error)
                return
            self._queued -= sent
            if sent < len(data):
                self._output[0] = (data[sent:], [])
            else:
                self._output.popleft()

    def _send_some(self, data: memoryview, descriptors: list[int]) -> int:
        if not descriptors:
            return self._sock.send(data)
        sent = socket.send_fds(self._sock, [data], descriptors)
        _close_all(descriptors)
        return sent

    def _readable(self) -> None:
        for _ in range(READS_PER_WAKE):
            try:
                data, descriptors, flags, _ = socket.recv_fds(self._sock, READ_BYTES, MAX_DESCRIPTORS)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._end(error)
                return
            for fd in descriptors:
                set_inheritable(fd, False)  # noqa: FBT003 - its own argument
            self._received.extend(descriptors)
            if flags & socket.MSG_CTRUNC:
                self._end(ControlError("more descriptors at once than a message may bring"))
                return
            if not data:
                self._end(ControlError("the channel ended inside a message") if self._input else None)
                return
            self._input += data
            try:
                self._take_messages()
            except ControlError as error:
                self._end(error)
            if self._closed:
                return

    def _take_messages(self) -> None:
        while len(self._input) >= HEAD.size and not self._closed:
            header_bytes, payload_bytes, count = HEAD.unpack_from(self._input)
            if header_bytes > MAX_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES or count > MAX_DESCRIPTORS:
                msg = f"a control message announces {header_bytes} + {payload_bytes} bytes and {count} descriptors"
                raise ControlError(msg)
            begin = HEAD.size + header_bytes
            end = begin + payload_bytes
            if len(self._input) < end:
                break
            message = message_of(bytes(self._input[HEAD.size : begin]))
            payload = bytes(self._input[begin:end])
            del self._input[:end]
            if count > len(self._received):
                raise ControlError("a control message without the descriptors it announces")
            self._on_message(message, payload, [self._received.popleft() for _ in range(count)])
        if self._received and not self._input:
            raise ControlError("descriptors that no control message announces")


def _close_all(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        close_descriptor(fd)
    if isinstance(descriptors, list | deque):
        descriptors.clear()
