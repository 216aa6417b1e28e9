"""The key-value server: what it makes of bytes, and that the real Redis clients take it for the real one."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import gevpy
from gevpy.testing import EmbeddedConnection
from tests.programs import DEADLINE_S, ROOT, Program

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REQUIRED = os.environ.get("CI") == "true"
INSTALL_S = 300


def load_example() -> Any:
    """Import the example: it's no part of a package."""
    spec = importlib.util.spec_from_file_location("redis_server", ROOT / "examples" / "redis_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


example = load_example()


def command(*arguments: bytes) -> bytes:
    """Write a command as clients do."""
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments)


# -- the protocol ----------------------------------------------------------------------------------


def test_commands_are_cut_however_their_bytes_come() -> None:
    """Small and large ones, empty ones, lines, strings with line ends in them: the same in any split."""
    commands: list[list[bytes]] = [
        [b"PING"],
        [b"SET", b"key", b"value"],
        [b"GET", b""],
        [b"SET", b"*2\r\n$3\r\nGET\r\n", b"$1\r\n"],
        [b"ECHO", b"x" * 700],
        [b"DEL", *(b"%d" % number for number in range(40))],
    ]
    stream = b"".join(command(*words) for words in commands) + b"*0\r\n\r\n  set  a\tb \r\n"
    commands.append([b"set", b"a", b"b"])
    for size in (1, 2, 3, 7, 64, 700, len(stream)):
        assert commands_of(stream[at : at + size] for at in range(0, len(stream), size)) == commands
    for at in range(1, len(stream)):
        assert commands_of((stream[:at], stream[at:])) == commands


def commands_of(pieces: Iterable[bytes]) -> list[list[bytes]]:
    """Give the commands in a stream that comes in such pieces, however many come together."""
    ring, conn, protocol = gevpy.RingBuffer(), FakeConnection(), example.RespProtocol()
    commands: list[list[bytes]] = []
    for piece in pieces:
        ring.write(piece)
        while ring and (message := protocol.unpacket(conn, ring)):
            commands += message[1]
    assert not ring
    return commands


class CountingRing:
    """A ring buffer that counts the bytes that are taken out of it, whether they stay in or not."""

    def __init__(self) -> None:
        self.ring = gevpy.RingBuffer()
        self.copied = 0

    def __len__(self) -> int:
        """Give what waits."""
        return len(self.ring)

    def __getattr__(self, name: str) -> Any:
        """Do what doesn't copy as it is."""
        return getattr(self.ring, name)

    def peek(self, size: int) -> bytes:
        """Count them."""
        self.copied += size
        return self.ring.peek(size)

    def virtual_read(self, size: int) -> bytes:
        """Count them."""
        self.copied += size
        return self.ring.virtual_read(size)


class FakeConnection:
    """What the protocol needs of one."""

    protocol_state: Any = None


def test_a_command_in_pieces_is_looked_at_once() -> None:
    """What a dribbled command costs doesn't grow with the square of its length."""
    ring, conn, protocol = CountingRing(), FakeConnection(), example.RespProtocol()
    words = [b"MSET", *(b"%04d" % number for number in range(1000)), b"x" * 5000]
    stream = command(*words)
    for position in range(len(stream)):
        assert position == 0 or protocol.unpacket(conn, ring) is None
        ring.write(stream[position : position + 1])
    assert protocol.unpacket(conn, ring) == (None, [words])
    assert not ring
    assert ring.copied < 3 * len(stream)


def test_a_cut_that_fails_costs_no_more_than_its_bound() -> None:
    """Strings with line ends in them can't be cut in one go; each such try looks at 4 KiB, not at all that waits."""
    ring, conn, protocol = CountingRing(), FakeConnection(), example.RespProtocol()
    stream = command(b"GET", b"a\r\nb")
    ring.write(stream * 500)
    for _ in range(500):
        assert protocol.unpacket(conn, ring) == (None, [[b"GET", b"a\r\nb"]])
    assert not ring
    assert ring.copied < 500 * (example.AT_ONCE + 2 * len(stream))


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"*1\r\n$-4\r\nPING\r\n", "invalid bulk length"),
        (b"*1\r\n$1_0\r\n", "invalid bulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*65537\r\n", "invalid multibulk length"),
        (b"*1\r\n$1048576\r\n", "invalid bulk length"),
        (b"*1\r\n+PING\r\n", "expected '$', got b'+'"),
        (b"*1\r\n$4\r\nPINGXX", "expected CRLF behind a string"),
        (b"*" + b"1" * 32, "too big count string"),
        (b"x" * 65536, "too big inline request"),
    ],
)
def test_what_is_no_command_is_refused_behind_the_replies(stream: bytes, why: str) -> None:
    """An error says why, and the connection ends; what was right before it is answered."""
    conn = EmbeddedConnection(example.Store(), example.RespProtocol())
    assert conn.feed(command(b"PING") + stream) == b"+PONG\r\n-ERR Protocol error: %b\r\n" % why.encode()
    assert str(conn.close_reason).startswith("protocol_error")


# -- the commands ----------------------------------------------------------------------------------


@pytest.fixture
def store() -> EmbeddedConnection:
    """Give a connection to an empty store."""
    return EmbeddedConnection(example.Store(), example.RESP2)


NO_PUBLISH = b"PUBLISH is not allowed in transactions"
NO_NUMBER = b"-ERR value is not an integer or out of range"
MOST = b"9223372036854775807"


def wrong_count(name: bytes) -> bytes:
    """Give the reply to a command with too few or too many arguments."""
    return b"-ERR wrong number of arguments for '%b' command" % name


@pytest.mark.parametrize(
    ("lines", "replies"),
    [
        (b"set k v;get k;GeT nope;exists k nope k", b"+OK;$1;v;$-1;:2"),
        (b"set k v nx;set k w nx;get k;set k x xx;get k;set z 1 xx", b"+OK;$-1;$1;v;+OK;$1;x;$-1"),
        (b"set k v ex 100;ttl k;set k v;ttl k;ttl nope", b"+OK;:100;+OK;:-1;:-2"),
        (b"set k v px 100000 nx;ttl k;expire k 50;ttl k;expire nope 5", b"+OK;:100;:1;:50;:0"),
        (b"set k v;expire k 0;get k;dbsize", b"+OK;:1;$-1;:0"),
        (b"set k v ex;set k v ex x;set k v huh", b"%b;%b;-ERR syntax error" % (NO_NUMBER, NO_NUMBER)),
        (b"set k v ex 0;get k", b"-ERR invalid expire time in 'set' command;$-1"),
        (b"incr n;incrby n 41;decr n;get n;incrby n -50", b":1;:42;:41;$2;41;:-9"),
        (b"set n %b;incr n;get n" % MOST, b"+OK;%b;$19;%b" % (NO_NUMBER, MOST)),
        (b"set n 01;incr n;incrby m 1_0", b"+OK;%b;%b" % (NO_NUMBER, NO_NUMBER)),
        (b"append k ab;append k c;get k", b":2;:3;$3;abc"),
        (b"mset a 1 b 2;mget a nope b;del a b nope a;dbsize", b"+OK;*3;$1;1;$-1;$1;2;:2;:0"),
        (b"mset a;mset", b"%b;%b" % (wrong_count(b"mset"), wrong_count(b"mset"))),
        (b"mset ab 1 b 2;keys a*;scan 0 match b count 10", b"+OK;*1;$2;ab;*2;$1;0;*1;$1;b"),
        (b"set k v;flushall;dbsize", b"+OK;+OK;:0"),
        (b"ping;ping hi;echo hi;select 0;select 1", b"+PONG;$2;hi;$2;hi;+OK;-ERR DB index is out of range"),
        (b"nope;get;get a b", b"-ERR unknown command 'nope';%b;%b" % (wrong_count(b"get"), wrong_count(b"get"))),
        (b"command docs;config get save;client setname me", b"*0;*2;$4;save;$0;;+OK"),
        (b"hello 4;hello 2", b"-NOPROTO unsupported protocol version;*4;$6;server;$5;gevpy;$5;proto;:2"),
        (b"ping;quit;ping", b"+PONG;+OK"),
        (b"set k v;type k;type nope", b"+OK;+string;+none"),
        (b"multi;set k v;incr k;get k;exec;get k", b"+OK;+QUEUED;+QUEUED;+QUEUED;*3;+OK;%b;$1;v;$1;v" % NO_NUMBER),
        (b"multi;set k v;discard;get k;exec", b"+OK;+QUEUED;+OK;$-1;-ERR EXEC without MULTI"),
        (
            b"multi;set k v;nope;get;exec;get k",
            b"+OK;+QUEUED;-ERR unknown command 'nope';%b;"
            b"-EXECABORT Transaction discarded because of previous errors.;$-1" % wrong_count(b"get"),
        ),
        (b"multi;multi;publish a b;exec", b"+OK;-ERR MULTI calls can not be nested;+QUEUED;*1;-ERR %b" % NO_PUBLISH),
    ],
)
def test_commands_reply_as_redis_does(store: EmbeddedConnection, lines: bytes, replies: bytes) -> None:
    """Written here with ``;`` for line ends, both ways."""
    answer = store.feed(b"".join(line + b"\r\n" for line in lines.split(b";")))
    assert answer == b"".join(line + b"\r\n" for line in replies.split(b";"))


def test_commands_behind_a_change_of_protocol_are_done(store: EmbeddedConnection) -> None:
    """HELLO 3 and what came along with it: nil looks different from then on."""
    answer = store.feed(command(b"GET", b"k") + command(b"HELLO", b"3") + command(b"GET", b"k") + command(b"PING"))
    assert answer == b"$-1\r\n%2\r\n$6\r\nserver\r\n$5\r\ngevpy\r\n$5\r\nproto\r\n:3\r\n_\r\n+PONG\r\n"


def test_subscribers_get_what_is_published(store: EmbeddedConnection) -> None:
    """In the shape that each one's protocol has for it; and no more after leaving, or unsubscribing."""
    second = store.another()
    publisher = store.another()
    assert store.feed(b"subscribe news\r\n") == b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
    assert store.feed(b"ping\r\n") == b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
    second.feed(b"hello 3\r\nsubscribe other news\r\n")
    assert publisher.feed(b"publish news hi\r\nping\r\n") == b":2\r\n+PONG\r\n"
    assert store.take_sent().endswith(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n")
    assert second.take_sent().endswith(b">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n")
    assert store.feed(b"unsubscribe\r\n") == b"*3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:0\r\n"
    second.feed_eof()
    assert publisher.feed(b"publish news hi\r\n") == b":0\r\n"
    assert publisher.feed(b"publish " + b"x" * 61 + b" hi\r\n") == b"-ERR channel name too long\r\n"


def test_expired_keys_go_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a second they are swept out, asked for or not."""
    handler = example.Store()
    conn = EmbeddedConnection(handler, example.RESP2)
    conn.feed(b"mset a 1 b 2\r\nexpire a 10\r\n")
    now = example.time.monotonic()
    monkeypatch.setattr(example.time, "monotonic", lambda: now + 11)
    assert len(handler.values) == 2
    conn.advance(1.5)
    assert list(handler.values) == [b"b"]


# -- the real clients ------------------------------------------------------------------------------


def tool(name: str) -> str:
    """Give a program of Debian's redis-tools; install it where it is required and we may; skip without."""
    apt = shutil.which("apt-get")
    if REQUIRED and shutil.which(name) is None and apt is not None and os.geteuid() == 0:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for step in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "redis-tools"]):
            subprocess.run([apt, *step], check=True, timeout=INSTALL_S, env=environment)
    found = shutil.which(name)
    if found is None:
        missing = f"{name} is not installed: apt-get install redis-tools"
        if REQUIRED:
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@contextlib.contextmanager
def server() -> Iterator[int]:
    """Run the example; give its port, and see that it stops well."""
    with Program("examples/redis_server.py", "--port", "0") as program:
        yield int(program.expect(r"try: .*-p (\d+)")[1])
        assert program.stop() == 0, program.output
        assert "Traceback" not in program.output


def run_tool(name: str, port: int, *arguments: str, says: str = "") -> str:
    """Run a tool against the server, and give what it prints."""
    done = subprocess.run(
        [tool(name), "-h", "127.0.0.1", "-p", str(port), *arguments],
        input=says,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.timeout(INSTALL_S + 60)
def test_redis_cli_talks_to_it() -> None:
    """One command of its arguments, and several of its input, in either version of the protocol."""
    tool("redis-cli")
    with server() as port:
        assert run_tool("redis-cli", port, "set", "greeting", "hello\nworld") == "OK\n"
        assert run_tool("redis-cli", port, "get", "greeting") == "hello\nworld\n"
        talk = "incr n\nkeys n*\nget nope\nnope\n"
        assert run_tool("redis-cli", port, says=talk) == "1\nn\n\nERR unknown command 'nope'\n\n"
        assert run_tool("redis-cli", port, "-3", "get", "nope") == "\n"
        assert run_tool("redis-cli", port, "--scan", "--pattern", "g*") == "greeting\n"


@pytest.mark.timeout(INSTALL_S + 60)
def test_redis_benchmark_talks_to_it() -> None:
    """Pipelines of 16 on 50 connections, and all the tests it knows of what is served here."""
    tool("redis-benchmark")
    with server() as port:
        printed = run_tool("redis-benchmark", port, "-P", "16", "-n", "5000", "-t", "ping,set,get,incr,mset", "--csv")
        rows = {line.split(",")[0].strip('"') for line in printed.splitlines()[1:]}
        assert rows == {"PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"}
        assert run_tool("redis-cli", port, "exists", "key:__rand_int__") == "1\n"


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_python_client_talks_to_it(protocol: int) -> None:
    """Commands, pipelines, large values, errors and subscriptions, with every setting at its default."""
    redis: Any = pytest.importorskip("redis", reason="the redis package is not installed: pip install redis")
    with server() as port, redis.Redis(port=port, protocol=protocol, socket_timeout=DEADLINE_S) as client:
        assert client.set("a", b"\r\n" * 100_000)
        assert client.get("a") == b"\r\n" * 100_000
        assert client.get("nope") is None
        assert client.set("n", 41, ex=100, nx=True)
        assert client.set("n", 1, nx=True) is None
        assert (client.incr("n"), client.ttl("n") > 90) == (42, True)
        assert client.mget("n", "nope") == [b"42", None]
        assert sorted(client.scan_iter()) == [b"a", b"n"]
        assert client.info()["connected_clients"] >= 1
        with pytest.raises(redis.ResponseError, match="unknown command"):
            client.execute_command("NOPE")
        with client.pipeline() as pipeline:  # a transaction
            assert pipeline.set("t", 1).incr("t").get("t").execute() == [True, 2, b"2"]
        assert client.delete("t") == 1
        assert client.config_get("save") == {"save": ""}
        with client.pipeline(transaction=False) as pipeline:
            for number in range(2000):
                pipeline.set(number, number)
            assert pipeline.execute() == [True] * 2000
        with client.pubsub(ignore_subscribe_messages=False) as subscriber:
            subscriber.subscribe("news")
            assert subscriber.get_message(timeout=DEADLINE_S)["type"] == "subscribe"
            assert client.publish("news", "hi") == 1
            assert subscriber.get_message(timeout=DEADLINE_S)["data"] == b"hi"
            assert client.flushall()
            assert client.dbsize() == 0
