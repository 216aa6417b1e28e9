"""A transport without a socket: a test feeds it what the peer sends, sees what leaves, and may let the peer stop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MemoryTransport"]

HIGH_BYTES = 64 * 1024  # asyncio's own watermarks


class MemoryTransport(asyncio.Transport):
    """A stream transport whose other end is the test.

    It calls its protocol as asyncio's socket transport does: ``connection_made`` in the loop's next turn, one read a
    turn, ``pause_writing`` and ``resume_writing`` by the watermarks, ``connection_lost`` once. It serves any
    ``asyncio.Protocol`` or ``asyncio.BufferedProtocol``, on any loop; `EmbeddedConnection` is made of it.

    Nothing happens before the loop turns. Loop affinity: the loop's own thread.

    Attributes:
        eof_sent: whether our side of the stream has ended, as a FIN would tell the peer.
        aborted: whether it was torn down by ``abort``, as a reset would tell the peer.

    Args:
        loop: whose turns it takes.
        protocol: who is told.
        extra: what ``get_extra_info`` gives, such as ``{"peername": ("192.0.2.1", 4000)}``.

    Example:
        >>> transport = MemoryTransport(loop, protocol, extra={"peername": ("192.0.2.1", 4000)})
        >>> transport.feed(b"as if it came from the peer")
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BaseProtocol, *, extra: Mapping[str, Any] | None = None
    ) -> None:
        """Connect, in the loop's next turn."""
        super().__init__(dict(extra or {}))
        self._loop = loop
        self._protocol: Any = protocol
        self._input: deque[bytes] = deque()
        self._eof_fed = False
        self._reading = True
        self._reads_next_turn = False
        self._output = bytearray()
        self._sent = bytearray()
        self._stalled = False
        self._write_paused = False
        self._high = HIGH_BYTES
        self._low = HIGH_BYTES // 4
        self._closing = False
        self._ending = False  # connection_lost has come, or comes in the next turn
        self._eof_wanted = False
        self.eof_sent = False
        self.aborted = False
        loop.call_soon(protocol.connection_made, self)

    # -- the peer ----------------------------------------------------------------------------------

    @property
    def sent(self) -> bytes:
        """What has left and was not taken by `take_sent`."""
        return bytes(self._sent)

    def take_sent(self) -> bytes:
        """Give what has left since the last time, and forget it."""
        sent = bytes(self._sent)
        self._sent.clear()
        return sent

    @property
    def unread_bytes(self) -> int:
        """What was fed and not read yet, because reading is paused: in production it waits in the kernel."""
        return sum(map(len, self._input))

    @property
    def lost(self) -> bool:
        """Whether the connection has ended, or does so in the next turn: nothing fed is read any more."""
        return self._ending

    def feed(self, data: bytes) -> None:
        """Let the peer send ``data``: it is one read, unless the protocol has less room.

        Raises:
            ConnectionResetError: the connection has ended.
        """
        if self._ending:
            raise ConnectionResetError("the connection is closed: what the peer sends arrives nowhere")
        if data and not self._closing:
            self._input.append(bytes(data))
            self._read_soon()

    def feed_eof(self) -> None:
        """Let the peer end its side of the stream, behind all that was fed."""
        self._eof_fed = True
        self._read_soon()

    def feed_reset(self) -> None:
        """Let the peer, or the network, tear the connection down."""
        self._lose(ConnectionResetError("the peer reset the connection"))

    def stall(self) -> None:
        """Let the peer stop reading: from now on what is written waits here."""
        self._stalled = True

    def resume(self) -> None:
        """Let the peer read again, as fast as it comes."""
        self._stalled = False
        self.take(len(self._output))

    def take(self, size: int) -> bytes:
        """Let a peer that has stopped reading read once, at most ``size`` bytes of what waits; give them."""
        taken = bytes(self._output[:size])
        del self._output[:size]
        self._sent += taken
        if self._write_paused and len(self._output) <= self._low:
            self._write_paused = False
            self._loop.call_soon(self._tell_resume)
        if not self._output:
            self._loop.call_soon(self._output_left)
        return taken

    def _tell_resume(self) -> None:
        if not self._ending:
            self._protocol.resume_writing()

    def _output_left(self) -> None:
        if self._output or self._ending:
            return
        if self._closing:
            self._lose(None)
        elif self._eof_wanted:
            self.eof_sent = True

    # -- reading -----------------------------------------------------------------------------------

    def is_reading(self) -> bool:
        """Tell whether what is fed is read."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Read nothing more. Idempotent."""
        self._reading = False

    def resume_reading(self) -> None:
        """Read on. Idempotent."""
        self._reading = True
        self._read_soon()

    def _read_soon(self) -> None:
        if not self._reads_next_turn:
            self._reads_next_turn = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._reads_next_turn = False
        if not self.is_reading() or self._ending:
            return
        try:
            if self._input:
                self._read_once()
                self._read_soon()
            elif self._eof_fed:
                self._eof_fed = False
                if not self._protocol.eof_received():
                    self.close()
        except Exception as error:  # noqa: BLE001 - what a socket transport does with its protocol's failure
            self._loop.call_exception_handler(
                {"message": "the protocol failed", "exception": error, "transport": self, "protocol": self._protocol}
            )
            self._lose(error)

    def _read_once(self) -> None:
        piece = self._input.popleft()
        if not isinstance(self._protocol, asyncio.BufferedProtocol):
            self._protocol.data_received(piece)
            return
        room: Any = memoryview(self._protocol.get_buffer(-1))
        size = min(len(room), len(piece))
        if not size:
            raise RuntimeError("get_buffer() gave an empty buffer")
        room[:size] = piece[:size]
        if size < len(piece):
            self._input.appendleft(piece[size:])
        self._protocol.buffer_updated(size)

    # -- writing -----------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Let ``data`` leave, or wait while the peer doesn't read."""
        if self._eof_wanted:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._ending:
            return
        if not self._stalled and not self._output:
            self._sent += data
            return
        self._output += data
        if not self._write_paused and len(self._output) > self._high:
            self._write_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Write all of them, as one."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Say yes."""
        return True

    def write_eof(self) -> None:
        """End our side once what waits has left. Idempotent."""
        self._eof_wanted = True
        self._output_left()

    def get_write_buffer_size(self) -> int:
        """Count what waits for the peer to read."""
        return len(self._output)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Give the watermarks: low, high."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the watermarks; the defaults are asyncio's."""
        if high is None:
            high = HIGH_BYTES if low is None else 4 * low
        self._high = high
        self._low = high // 4 if low is None else low

    # -- ending ------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Tell whether it is closed, or going to be."""
        return self._closing

    def close(self) -> None:
        """Read nothing more, and end once what waits has left. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._input.clear()
        if not self._output:
            self._lose(None)

    def abort(self) -> None:
        """End at once: what waits is lost."""
        if not self._ending:
            self.aborted = True
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if self._ending:
            return
        self._ending = self._closing = True
        self.eof_sent = self.eof_sent or (error is None and not self.aborted)
        self._input.clear()
        self._output.clear()
        self._loop.call_soon(self._protocol.connection_lost, error)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Give the one who is told."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell another from now on."""
        self._protocol = protocol
