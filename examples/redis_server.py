"""A key-value server that redis-cli, redis-benchmark and Redis clients take for the real one.

Run it:   python examples/redis_server.py [--port 1833]
Talk:     redis-cli -p 1833 set greeting hello

Commands that come together are cut in one go and are one message; their replies leave in one write. Large or dribbling
ones are taken token by token: no byte is looked at twice. All is in this process's memory: run it with one worker.
"""

from __future__ import annotations

import argparse
import fnmatch
import inspect
import logging
import math
import re
import time
from typing import TYPE_CHECKING, Any, NoReturn

import gevpy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

MAX_COMMAND = 1024 * 1024  # bytes of one command, on the wire
MAX_ARGUMENTS = 64 * 1024
MAX_CHANNEL = 60
MAX_LINE = 64 * 1024
MAX_HEADER = 32  # bytes of "*3\r\n" and the like
AT_ONCE = 4096  # bytes that are cut in one go
END = b"\r\n"

COUNTS = {b"*%d" % count: count for count in range(1, 17)}  # headers of what is small are looked up:
SIZES = [b"$%d" % size for size in range(AT_ONCE + 1)]  # making and reading numbers costs three times as much
BEGINNINGS = [size + END for size in SIZES]
NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
UNITS_PER_S = {b"EX": 1, b"PX": 1000}

Reply = bytes

OK: Reply = b"+OK\r\n"


class CommandError(Exception):
    """A command that can't be done; its text is the reply."""


def bulk(data: bytes) -> Reply:
    """Write a string."""
    size = len(data)
    return (BEGINNINGS[size] if size <= AT_ONCE else b"$%d\r\n" % size) + data + END


def integer(value: int) -> Reply:
    """Write a number."""
    return b":%d\r\n" % value


def error(text: object) -> Reply:
    """Write an error, on one line."""
    return b"-ERR %b\r\n" % str(text).encode()


def array(replies: Iterable[Reply], kind: bytes = b"*") -> Reply:
    """Write a list of what is written already; ``b">"`` makes it a push, which answers nothing."""
    replies = list(replies)
    return b"%b%d\r\n%b" % (kind, len(replies), b"".join(replies))


def strings(*items: bytes) -> Reply:
    """Write a list of strings."""
    return array(map(bulk, items))


# -- the protocol ----------------------------------------------------------------------------------


class Reading:
    """What the protocol knows of one connection's input."""

    __slots__ = ("arguments", "at", "missing", "size")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin another command."""
        self.arguments: list[bytes] = []  # those of a part command,
        self.missing = 0  # how many it still wants,
        self.size: int | None = None  # how long the next one is,
        self.at = 0  # and up to where in the buffer it is known


class RespProtocol(gevpy.Protocol):
    """RESP2. Cuts commands, which are arrays of strings or lines of words; sends replies that are written already."""

    max_frame_bytes = MAX_COMMAND

    def unpacket(self, conn: gevpy.Connection, buffer: gevpy.RingBuffer) -> tuple[None, list[list[bytes]]] | None:
        """Take the next commands."""
        reading: Reading | None = conn.protocol_state
        if reading is None:
            reading = conn.protocol_state = Reading()
        if not reading.at:
            commands: list[list[bytes]] = []
            taken = cut(buffer.peek(min(len(buffer), AT_ONCE)), commands)
            if taken:
                buffer.skip(taken)
                return None, commands
        command = self.assemble(conn, reading, buffer)
        return None if command is None else (None, [command])

    def assemble(self, conn: gevpy.Connection, reading: Reading, buffer: gevpy.RingBuffer) -> list[bytes] | None:
        """Take a command token by token, going on where the last call stopped."""
        while buffer:
            if buffer.peek_uint8() == ord("*"):
                whole = self.assemble_array(conn, reading, buffer)
            else:
                whole = self.assemble_line(conn, reading, buffer)
            if not whole:
                return None
            buffer.skip(reading.at)
            arguments = reading.arguments
            reading.begin()
            if arguments:  # "*0" and an empty line are no command
                return arguments
        return None

    def assemble_line(self, conn: gevpy.Connection, reading: Reading, buffer: gevpy.RingBuffer) -> bool:
        """Take words on a line, as somebody types them; tell whether the line has ended."""
        end = buffer.find(b"\n", reading.at)
        if end < 0:
            reading.at = len(buffer)
        if max(end, reading.at) >= MAX_LINE:
            refuse(conn, "too big inline request")
        if end < 0:
            return False
        reading.arguments = buffer.peek(end).split()
        reading.at = end + 1
        return True

    def assemble_array(self, conn: gevpy.Connection, reading: Reading, buffer: gevpy.RingBuffer) -> bool:
        """Take what is there of an array; tell whether that is all of it."""
        if len(buffer) - buffer.virtual_length != reading.at:  # the look-ahead isn't where we stopped
            buffer.virtual_revert()
            buffer.virtual_read(reading.at)
        if not reading.at:
            count = self.header(conn, reading, buffer, b"*")
            if count is None:
                return False
            if count > MAX_ARGUMENTS:
                refuse(conn, "invalid multibulk length")
            reading.missing = count
        while reading.missing and self.assemble_string(conn, reading, buffer):
            reading.missing -= 1
        return not reading.missing

    def assemble_string(self, conn: gevpy.Connection, reading: Reading, buffer: gevpy.RingBuffer) -> bool:
        """Take one string, if it is all there."""
        if reading.size is None:
            reading.size = self.header(conn, reading, buffer, b"$")
        if reading.size is None:
            return False
        whole = reading.at + reading.size + len(END)
        if whole > MAX_COMMAND:
            refuse(conn, "invalid bulk length")
        if len(buffer) < whole:
            buffer.reserve(whole)
            return False
        reading.arguments.append(buffer.virtual_read(reading.size))
        if buffer.virtual_read(len(END)) != END:
            refuse(conn, "expected CRLF behind a string")
        reading.at, reading.size = whole, None
        return True

    def header(self, conn: gevpy.Connection, reading: Reading, buffer: gevpy.RingBuffer, kind: bytes) -> int | None:
        """Take a count or a size, if it is all there."""
        end = buffer.find(END, reading.at, reading.at + MAX_HEADER)
        if end < 0:
            if buffer.virtual_length >= MAX_HEADER:
                refuse(conn, "too big count string")
            return None
        line = buffer.virtual_read(end - reading.at)
        buffer.virtual_read(len(END))
        if line[:1] != kind:
            refuse(conn, f"expected '{kind.decode()}', got {line[:1]!r}")
        if not line[1:].isdigit():
            refuse(conn, "invalid multibulk length" if kind == b"*" else "invalid bulk length")
        reading.at = end + len(END)
        return int(line[1:])

    def packet(self, conn: gevpy.Connection, data: Reply) -> Reply:
        """Send replies as they are; a push, which comes alone and RESP3 has, as an array."""
        return b"*" + data[1:] if data[:1] == b">" else data


class Resp3Protocol(RespProtocol):
    """RESP3, for clients that ask for it."""

    def packet(self, conn: gevpy.Connection, data: Reply) -> Reply:
        """Send a reply as it is."""
        return data


def cut(data: bytes, commands: list[list[bytes]]) -> int:
    """Add all small whole commands that ``data`` begins with to ``commands``, and give their size."""
    tokens = data.split(END)  # a string that has an END itself fails the comparison of sizes below
    at, last = 0, len(tokens) - 1
    while at < last:
        count = COUNTS.get(tokens[at])
        if count is None:
            break
        end = at + 1 + 2 * count
        if end > last:
            break
        arguments = tokens[at + 2 : end : 2]
        for header, argument in zip(tokens[at + 1 : end : 2], arguments, strict=True):
            if header != SIZES[len(argument)]:
                return len(data) - len(END.join(tokens[at:]))
        commands.append(arguments)
        at = end
    return len(data) - len(END.join(tokens[at:]))


def refuse(conn: gevpy.Connection, text: str) -> NoReturn:
    """Say what is wrong with the peer's bytes, behind the replies to what was right; then the connection ends."""
    conn.send(error(f"Protocol error: {text}"))
    raise gevpy.ProtocolError(text)


# -- the commands ----------------------------------------------------------------------------------


def number(text: bytes) -> int:
    """Read a number, which is written as Redis would write it."""
    if not NUMBER.fullmatch(text):
        raise CommandError("value is not an integer or out of range")
    return in_range(int(text))


def in_range(value: int) -> int:
    """Check that a number fits into 64 bits."""
    if not -(1 << 63) <= value < 1 << 63:
        raise CommandError("value is not an integer or out of range")
    return value


RESP2 = RespProtocol()
RESP3 = Resp3Protocol()
VERSIONS = {b"2": RESP2, b"3": RESP3}


def nil(conn: gevpy.Connection) -> Reply:
    """Write that there is nothing."""
    return b"_\r\n" if conn.protocol is RESP3 else b"$-1\r\n"


def table(conn: gevpy.Connection, *replies: Reply) -> Reply:
    """Write keys and values, in turns: a map, or the list that stands for one."""
    kind, count = (b"%", len(replies) // 2) if conn.protocol is RESP3 else (b"*", len(replies))
    return b"%b%d\r\n%b" % (kind, count, b"".join(replies))


def topic(channel: bytes) -> str:
    """Make a channel's name a topic's, which is short and has no control characters."""
    if len(channel) > MAX_CHANNEL:
        raise CommandError("channel name too long")
    return repr(channel)


class Store(gevpy.Handler):
    """Does commands: a method ``do_name`` for each, whose parameters are the arguments."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.deadlines: dict[bytes, float] = {}  # of those that expire
        self.transactions: dict[gevpy.Connection, list[tuple[Callable[..., Any] | None, list[Any]]]] = {}
        self.endings = (self.do_exec, self.do_discard, self.do_multi)
        self.commands: dict[bytes, tuple[Callable[..., Any], float, float]] = {}
        for name, method in inspect.getmembers(self, inspect.ismethod):
            if name.startswith("do_"):
                kinds = list(inspect.signature(method).parameters.values())
                least = sum(kind.default is kind.empty and kind.kind is not kind.VAR_POSITIONAL for kind in kinds)
                more = any(kind.kind is kind.VAR_POSITIONAL for kind in kinds)
                self.commands[name[3:].upper().encode()] = method, least, math.inf if more else len(kinds)

    def on_start(self, worker: gevpy.Worker) -> None:
        """Drop once a second what has expired and nobody asks for."""
        worker.run_every(1, self.sweep)

    def on_message(self, conn: gevpy.Connection, ctx: object, data: list[list[Any]]) -> Any:
        """Do the commands that came together; large replies don't wait for the others."""
        replies: list[Reply] = []
        for number_done, command in enumerate(data, 1):
            reply = self.do(conn, command)
            if type(reply) is not bytes:
                return self.go_on_later(conn, replies, reply, data[number_done:])
            replies.append(reply)
            if not conn.connected:
                break
            if len(reply) > AT_ONCE:
                conn.send(b"".join(replies))
                replies.clear()
        return b"".join(replies) if len(replies) != 1 else replies[0]

    async def go_on_later(
        self, conn: gevpy.Connection, replies: list[Reply], reply: Awaitable[Reply], left: list[list[Any]]
    ) -> Reply:
        """Do the commands that are left when the reply to one is there."""
        replies.append(await reply)
        rest = self.on_message(conn, None, left)
        replies.append(rest if type(rest) is bytes else await rest)
        return b"".join(replies)

    def do(self, conn: gevpy.Connection, data: list[Any]) -> Any:
        """Do one command; PUBLISH gives its reply later."""
        known = self.commands.get(data[0]) or self.commands.get(data[0].upper())
        if known is None:
            return self.refused(conn, data, is_known=False)
        method, least, most = known
        if not least <= len(data) <= most:
            return self.refused(conn, data, is_known=True)
        if self.transactions and conn in self.transactions and method not in self.endings:
            self.transactions[conn].append((method, data))
            return b"+QUEUED\r\n"
        data[0] = conn  # in its name's place
        try:
            return method(*data)
        except CommandError as failure:
            return error(failure)

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        """Forget its transaction."""
        self.transactions.pop(conn, None)

    def refused(self, conn: gevpy.Connection, data: list[bytes], *, is_known: bool) -> Reply:
        """Say what is wrong with a command; a transaction that it was to be part of will not be done."""
        if conn in self.transactions:
            self.transactions[conn].append((None, data))
        if not is_known:
            return error(f"unknown command {repr(data[0][:64])[1:]}")
        return error(f"wrong number of arguments for {repr(data[0])[1:].lower()} command")

    def sweep(self) -> None:
        """Drop what has expired."""
        for key in list(self.deadlines):
            self.live(key)

    def live(self, key: bytes) -> bool:
        """Tell whether a key has a value, which has not expired."""
        if self.deadlines.get(key, math.inf) <= time.monotonic():
            self.drop(key)
        return key in self.values

    def drop(self, key: bytes) -> None:
        """Forget a key."""
        self.values.pop(key, None)
        self.deadlines.pop(key, None)

    def live_keys(self, pattern: bytes = b"*") -> list[bytes]:
        """Give the keys that match."""
        self.sweep()
        return fnmatch.filter(self.values, pattern)

    # strings

    def do_get(self, conn: gevpy.Connection, key: bytes) -> Reply:
        """Give the value, or nil."""
        if self.deadlines:
            self.live(key)
        value = self.values.get(key)
        return nil(conn) if value is None else bulk(value)

    def do_set(self, conn: gevpy.Connection, key: bytes, value: bytes, *options: bytes) -> Reply:
        """Set a value: EX seconds, PX milliseconds, NX only if there is none, XX only if there is one."""
        if not options:
            self.values[key] = value
            if self.deadlines:
                self.deadlines.pop(key, None)
            return OK
        lifetime_s, only, words = math.inf, b"", iter(options)
        for word in map(bytes.upper, words):
            if word in UNITS_PER_S and lifetime_s == math.inf:
                lifetime_s = number(next(words, b"")) / UNITS_PER_S[word]
            elif word in (b"NX", b"XX") and not only:
                only = word
            else:
                raise CommandError("syntax error")
        if lifetime_s <= 0:
            raise CommandError("invalid expire time in 'set' command")
        if only and self.live(key) == (only == b"NX"):
            return nil(conn)
        self.drop(key)
        self.values[key] = value
        if lifetime_s < math.inf:
            self.deadlines[key] = time.monotonic() + lifetime_s
        return OK

    def do_mget(self, conn: gevpy.Connection, key: bytes, *keys: bytes) -> Reply:
        """Give several values."""
        return array(self.do_get(conn, each) for each in (key, *keys))

    def do_mset(self, conn: gevpy.Connection, *pairs: bytes) -> Reply:
        """Set several values: a key, its value, another key ..."""
        if not pairs or len(pairs) % 2:
            raise CommandError("wrong number of arguments for 'mset' command")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            self.do_set(conn, key, value)
        return OK

    def do_append(self, conn: gevpy.Connection, key: bytes, more: bytes) -> Reply:
        """Put more behind a value, and give its new length."""
        value = self.values[key] + more if self.live(key) else more
        self.values[key] = value
        return integer(len(value))

    def do_incrby(self, conn: gevpy.Connection, key: bytes, amount: bytes) -> Reply:
        """Add to a number, which is 0 where there is none."""
        value = in_range(number(self.values[key] if self.live(key) else b"0") + number(amount))
        self.values[key] = b"%d" % value
        return integer(value)

    def do_incr(self, conn: gevpy.Connection, key: bytes) -> Reply:
        """Add 1."""
        return self.do_incrby(conn, key, b"1")

    def do_decr(self, conn: gevpy.Connection, key: bytes) -> Reply:
        """Take 1."""
        return self.do_incrby(conn, key, b"-1")

    # keys

    def do_del(self, conn: gevpy.Connection, key: bytes, *keys: bytes) -> Reply:
        """Forget keys, and count those that were there."""
        there = set(filter(self.live, (key, *keys)))
        for each in there:
            self.drop(each)
        return integer(len(there))

    def do_exists(self, conn: gevpy.Connection, key: bytes, *keys: bytes) -> Reply:
        """Count the keys that are there."""
        return integer(sum(map(self.live, (key, *keys))))

    def do_expire(self, conn: gevpy.Connection, key: bytes, lifetime_s: bytes) -> Reply:
        """Have a key expire."""
        deadline = time.monotonic() + number(lifetime_s)
        if not self.live(key):
            return integer(0)
        self.deadlines[key] = deadline
        return integer(1)

    def do_ttl(self, conn: gevpy.Connection, key: bytes) -> Reply:
        """Give the seconds until a key expires: -1 for never, -2 where there is no such key."""
        if not self.live(key):
            return integer(-2)
        left_s = self.deadlines.get(key, math.inf) - time.monotonic()
        return integer(-1 if left_s == math.inf else round(left_s))

    def do_type(self, conn: gevpy.Connection, key: bytes) -> Reply:
        """Tell the kind of a key: all are strings."""
        return b"+string\r\n" if self.live(key) else b"+none\r\n"

    def do_keys(self, conn: gevpy.Connection, pattern: bytes) -> Reply:
        """List the keys that match."""
        return strings(*self.live_keys(pattern))

    def do_scan(self, conn: gevpy.Connection, cursor: bytes, *options: bytes) -> Reply:
        """List all that match (MATCH) in one step: the cursor is 0 again."""
        wanted = dict(zip(map(bytes.upper, options[::2]), options[1::2], strict=False))
        return array([bulk(b"0"), strings(*self.live_keys(wanted.get(b"MATCH", b"*")))])

    def do_dbsize(self, conn: gevpy.Connection) -> Reply:
        """Count all keys."""
        self.sweep()
        return integer(len(self.values))

    def do_flushall(self, conn: gevpy.Connection, *options: bytes) -> Reply:
        """Forget everything."""
        self.values.clear()
        self.deadlines.clear()
        return OK

    # topics

    def do_subscribe(self, conn: gevpy.Connection, channel: bytes, *channels: bytes) -> Reply:
        """Get from now on what is published."""
        return b"".join([self.subscribed(conn, b"subscribe", channel) for channel in (channel, *channels)])

    def do_unsubscribe(self, conn: gevpy.Connection, *channels: bytes) -> Reply:
        """Get it no more; of no channel at all, where none is named."""
        leaving = channels or list(conn.context or ())
        return b"".join([self.subscribed(conn, b"unsubscribe", channel) for channel in leaving])

    def subscribed(self, conn: gevpy.Connection, what: bytes, channel: bytes) -> Reply:
        """Change one subscription, and say so."""
        channels: set[bytes] = conn.context or set()
        conn.context = channels
        if what == b"subscribe":
            conn.subscribe(topic(channel))
            channels.add(channel)
        else:
            conn.unsubscribe(topic(channel))
            channels.discard(channel)
        kind = b">" if conn.protocol is RESP3 else b"*"
        return array([bulk(what), bulk(channel), integer(len(channels))], kind)

    def do_publish(self, conn: gevpy.Connection, channel: bytes, message: bytes) -> Awaitable[Reply]:
        """Send to all who subscribe, and count them, which takes a moment."""
        return self.publish(conn, topic(channel), array(map(bulk, (b"message", channel, message)), b">"))

    async def publish(self, conn: gevpy.Connection, to: str, push: Reply) -> Reply:
        """Send a push, and count who gets it."""
        count = await conn.worker.presence(to)
        conn.worker.publish(to, push)
        return integer(count)

    # transactions

    def do_multi(self, conn: gevpy.Connection) -> Reply:
        """Begin to collect commands."""
        if conn in self.transactions:
            raise CommandError("MULTI calls can not be nested")
        self.transactions[conn] = []
        return OK

    def do_discard(self, conn: gevpy.Connection) -> Reply:
        """Forget what was collected."""
        if self.transactions.pop(conn, None) is None:
            raise CommandError("DISCARD without MULTI")
        return OK

    def do_exec(self, conn: gevpy.Connection) -> Reply:
        """Do what was collected, with nobody in between; nothing of it, if one was no command."""
        queue = self.transactions.pop(conn, None)
        if queue is None:
            raise CommandError("EXEC without MULTI")
        if any(method is None for method, _ in queue):
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        return array(self.collected(conn, method, data) for method, data in queue)

    def collected(self, conn: gevpy.Connection, method: Any, data: list[Any]) -> Reply:
        """Do one command of a transaction."""
        if method == self.do_publish:
            return error("PUBLISH is not allowed in transactions")
        try:
            reply: Reply = method(conn, *data[1:])
        except CommandError as failure:
            return error(failure)
        return reply

    # the connection

    def do_ping(self, conn: gevpy.Connection, text: bytes | None = None) -> Reply:
        """Answer."""
        if conn.context and conn.protocol is RESP2:  # its subscribers tell pushes from replies by their shape
            return strings(b"pong", text or b"")
        return b"+PONG\r\n" if text is None else bulk(text)

    def do_echo(self, conn: gevpy.Connection, text: bytes) -> Reply:
        """Answer the same."""
        return bulk(text)

    def do_select(self, conn: gevpy.Connection, database: bytes) -> Reply:
        """Choose the one database."""
        if number(database):
            raise CommandError("DB index is out of range")
        return OK

    def do_hello(self, conn: gevpy.Connection, version: bytes = b"2", *options: bytes) -> Reply:
        """Change to another version of the protocol."""
        if version not in VERSIONS:
            return b"-NOPROTO unsupported protocol version\r\n"
        conn.protocol = VERSIONS[version]
        return table(conn, bulk(b"server"), bulk(b"gevpy"), bulk(b"proto"), integer(int(version)))

    def do_client(self, conn: gevpy.Connection, what: bytes, *options: bytes) -> Reply:
        """Take note of nothing: clients tell their names and versions."""
        return OK

    def do_command(self, conn: gevpy.Connection, *options: bytes) -> Reply:
        """Describe no command: redis-cli can do without."""
        return strings()

    def do_config(self, conn: gevpy.Connection, what: bytes, *names: bytes) -> Reply:
        """Have no settings: redis-benchmark asks for two."""
        return table(conn, *(bulk(text) for name in names for text in (name, b"")))

    def do_info(self, conn: gevpy.Connection, *sections: bytes) -> Reply:
        """Tell a little."""
        return bulk(b"# Clients\r\nconnected_clients:%d\r\n" % conn.worker.connections)

    def do_quit(self, conn: gevpy.Connection) -> Reply:
        """Close, once this reply has left."""
        conn.close()
        return OK


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serves keys and values to Redis clients.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    async with gevpy.serve(Store(), port=parser.parse_args().port, protocol=RESP2, idle_timeout_s=None) as server:
        port = server.addresses[0][1]
        print(f"try:  redis-cli -p {port} set greeting hello    or:  nc 127.0.0.1 {port}, and type: ping", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    gevpy.run(main())
