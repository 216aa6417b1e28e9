"""The PROXY header's parser: every form, every split, every lie; it raises HandshakeError or nothing."""

from __future__ import annotations

import ipaddress
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevpy import HandshakeError
from gevpy.proxy_header import ProxyHeader

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"
LONGEST_V1 = b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n"


def v2(command: int = 0x21, family: int = 0x11, body: bytes = b"", length: int | None = None) -> bytes:
    """Give a version 2 header."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(body) if length is None else length) + body


def tcp4(source: str = "192.0.2.7", port: int = 40000) -> bytes:
    """Give the addresses of IPv4."""
    return ipaddress.ip_address(source).packed + bytes([198, 51, 100, 1]) + struct.pack("!HH", port, 443)


def tcp6(source: str = "2001:db8::7", port: int = 40000) -> bytes:
    """Give the addresses of IPv6."""
    return ipaddress.ip_address(source).packed + ipaddress.ip_address("::1").packed + struct.pack("!HH", port, 443)


def tlv(kind: int, value: bytes) -> bytes:
    """Give one TLV."""
    return struct.pack("!BH", kind, len(value)) + value


NESTED = b"".join(
    tlv(0x20, b"\x01" + struct.pack("!I", 0) + tlv(0x21, b"TLSv1.3") + tlv(0x20, bytes(40))) for _ in range(30)
)

GOOD: dict[str, tuple[bytes, tuple[str, int] | None]] = {
    "v1 tcp4": (V1, ("192.0.2.7", 40000)),
    "v1 tcp6": (b"PROXY TCP6 2001:db8::7 ::1 1 0\r\n", ("2001:db8::7", 1)),
    "v1 longest": (LONGEST_V1, (":".join(["ffff"] * 8), 65535)),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1 unknown and more": (b"PROXY UNKNOWN ff:: what ever 99999\r\n", None),
    "v1 unknown, as long as may be": (b"PROXY UNKNOWN " + b"x" * (107 - 16) + b"\r\n", None),
    "v2 tcp4": (v2(body=tcp4()), ("192.0.2.7", 40000)),
    "v2 tcp6": (v2(family=0x21, body=tcp6()), ("2001:db8::7", 40000)),
    "v1 mapped": (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 0\r\n", ("192.0.2.7", 1)),
    "v2 mapped": (v2(family=0x21, body=tcp6("::ffff:192.0.2.7")), ("192.0.2.7", 40000)),
    "v2 nested tlv": (v2(body=tcp4() + NESTED), ("192.0.2.7", 40000)),
    "v2 tlv that lies": (v2(body=tcp4() + b"\x03\xff\xff\x00"), ("192.0.2.7", 40000)),
    "v2 most": (v2(body=tcp4() + bytes(4096 - 12)), ("192.0.2.7", 40000)),
    "v2 local": (v2(command=0x20, family=0x00), None),
    "v2 local with addresses": (v2(command=0x20, body=tcp4()), None),
    "v2 local of no known family": (v2(command=0x20, family=0x99, body=b"abc"), None),
    "v2 unspecified": (v2(family=0x00), None),
    "v2 unspecified with bytes": (v2(family=0x00, body=b"abcdef"), None),
    "v2 unix": (v2(family=0x31, body=bytes(216)), None),
}

BAD: dict[str, bytes] = {
    "nothing of it": b"GET / HTTP/1.1\r\n\r\n",
    "TLS at once": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "another word": b"PROXX TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
    "small letters": b"proxy tcp4 192.0.2.7 198.51.100.1 1 2\r\n",
    "LF only": b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
    "CR and something": b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r \n",
    "107 bytes without an end": b"PROXY UNKNOWN " + b"x" * 93,
    "CRLF at 108": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "LF at 108": b"PROXY UNKNOWN " + b"x" * 93 + b"\n",
    "nothing behind": b"PROXY \r\n",
    "two blanks": b"PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n",
    "a blank at the end": b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 \r\n",
    "a tab": b"PROXY TCP4\t192.0.2.7 198.51.100.1 1 2\r\n",
    "too few": b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
    "too many": b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n",
    "UDP": b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
    "UNKNOWNS": b"PROXY UNKNOWNS\r\n",
    "no address": b"PROXY TCP4 192.0.2 198.51.100.1 1 2\r\n",
    "a zero before": b"PROXY TCP4 192.0.02.7 198.51.100.1 1 2\r\n",
    "a name": b"PROXY TCP4 localhost 198.51.100.1 1 2\r\n",
    "v6 as v4": b"PROXY TCP4 ::1 198.51.100.1 1 2\r\n",
    "v4 as v6": b"PROXY TCP6 192.0.2.7 ::1 1 2\r\n",
    "a bad target": b"PROXY TCP4 192.0.2.7 nowhere 1 2\r\n",
    "a network": b"PROXY TCP4 192.0.2.0/24 198.51.100.1 1 2\r\n",
    "a scope": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "an escape in a scope": b"PROXY TCP6 fe80::1%\x1b[31m ::1 1 2\r\n",
    "a scope of the target": b"PROXY TCP6 fe80::1 fe80::2%x 1 2\r\n",
    "port 65536": b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n",
    "port 00": b"PROXY TCP4 192.0.2.7 198.51.100.1 00 2\r\n",
    "port -1": b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 2\r\n",
    "port +1": b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n",
    "port 1_0": b"PROXY TCP4 192.0.2.7 198.51.100.1 1_0 2\r\n",
    "no port": b"PROXY TCP4 192.0.2.7 198.51.100.1  2\r\n",
    "a bad target port": b"PROXY TCP4 192.0.2.7 198.51.100.1 1 x\r\n",
    "port of 60 digits": b"PROXY TCP4 192.0.2.7 198.51.100.1 " + b"9" * 60 + b" 2\r\n",
    "a zero byte": b"PROXY TCP4 192.0.2.7\x00 198.51.100.1 1 2\r\n",
    "digits of another script": "PROXY TCP4 192.0.2.\u0667 198.51.100.1 1 2\r\n".encode(),
    "half a signature": SIGNATURE[:11] + b"\r" + v2(body=tcp4())[12:],
    "version 1": v2(command=0x11, body=tcp4()),
    "version 3": v2(command=0x31, body=tcp4()),
    "command 2": v2(command=0x22, body=tcp4()),
    "UDP over v4": v2(family=0x12, body=tcp4()),
    "UDP over v6": v2(family=0x22, body=tcp6()),
    "unix datagram": v2(family=0x32, body=bytes(216)),
    "family 4": v2(family=0x41, body=bytes(12)),
    "transport 3": v2(family=0x13, body=tcp4()),
    "v4 too short": v2(body=tcp4()[:-1]),
    "v6 too short": v2(family=0x21, body=tcp6()[:-1]),
    "unix too short": v2(family=0x31, body=bytes(215)),
    "length 65535": v2(body=tcp4(), length=65535),
    "length 4097": v2(body=tcp4(), length=4097),
    "LOCAL of 65535": v2(command=0x20, length=65535),
}


def feed_all(pieces: list[bytes]) -> tuple[ProxyHeader, int]:
    """Feed as a stream; give the header and how many bytes were taken."""
    header = ProxyHeader()
    taken = 0
    for piece in pieces:
        if header.done:
            break
        taken += header.feed(piece)
    return header, taken


def splits(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut at each place."""
    ends = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize("name", GOOD)
def test_good_headers_are_taken_to_the_byte(name: str) -> None:
    """F1: whole, with the client's bytes behind; byte by byte; cut in two at every place."""
    wire, source = GOOD[name]
    rest = b"PROXY what the client says\r\n" + SIGNATURE
    ways = [[wire + rest], [wire, rest], [bytes([byte]) for byte in wire + rest]]
    ways += [[wire[:cut], wire[cut:] + rest] for cut in range(len(wire))]
    for pieces in ways if len(wire) < 300 else ways[:60]:
        header, taken = feed_all(pieces)
        assert header.done
        assert taken == len(wire)
        assert header.source == source


@pytest.mark.parametrize("name", BAD)
def test_bad_headers_are_refused(name: str) -> None:
    """F1: whole, byte by byte, or cut anywhere: HandshakeError, though ever more may come."""
    wire = BAD[name] + bytes(5000)
    ways = [[wire], [bytes([byte]) for byte in wire]]
    ways += [[wire[:cut], wire[cut:]] for cut in range(1, 150)]
    for pieces in ways:
        with pytest.raises(HandshakeError):
            feed_all(pieces)


@pytest.mark.parametrize("name", GOOD)
def test_a_part_of_a_header_is_not_done(name: str) -> None:
    """Every beginning of a good header waits for more, and names nobody."""
    wire, _ = GOOD[name]
    for end in range(min(len(wire), 300)):
        header, taken = feed_all([wire[:end]])
        assert not header.done
        assert header.source is None
        assert taken == end


def test_the_size_is_bounded() -> None:
    """A stream that never ends a header is given up after 107 bytes, or after the head of version 2."""
    for start in (b"PROXY ", SIGNATURE + b"\x21\x11\xff\xff"):
        endless = start + b"x" * 200
        most = next(end for end in range(len(endless)) if outcome([endless[:end]]) == "refused")
        assert most <= 107


@given(st.sampled_from(sorted(GOOD)), st.binary(max_size=64), st.lists(st.integers(0, 5000), max_size=8))
def test_any_split_gives_the_same(name: str, rest: bytes, cuts: list[int]) -> None:
    """However a stream is cut, the same header is read, and not a byte too many is taken."""
    wire, source = GOOD[name]
    header, taken = feed_all(splits(wire + rest, cuts))
    assert (header.done, taken, header.source) == (True, len(wire), source)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=120).map(b"PROXY ".__add__),
        st.text("0123456789.:TCPUNKOW abcdef%\r\n", max_size=120).map(lambda text: b"PROXY " + text.encode()),
        st.binary(max_size=300).map(SIGNATURE.__add__),
        st.tuples(st.sampled_from(sorted(GOOD)), st.integers(0, 5000), st.integers(0, 255)).map(
            lambda drawn: flipped(GOOD[drawn[0]][0], drawn[1], drawn[2])
        ),
    ),
    st.lists(st.integers(0, 5000), max_size=6),
)
def test_anything_at_all_raises_nothing_else(data: bytes, cuts: list[int]) -> None:
    """Whole or cut: the same end, and never another error than HandshakeError."""
    assert outcome([data]) == outcome(splits(data, cuts))


def flipped(data: bytes, place: int, byte: int) -> bytes:
    """Put another byte into a header."""
    place %= len(data)
    return data[:place] + bytes([byte]) + data[place + 1 :]


def outcome(pieces: list[bytes]) -> object:
    """Tell what came of a stream."""
    try:
        header, taken = feed_all(pieces)
    except HandshakeError:
        return "refused"
    if header.source is not None:
        ipaddress.ip_address(header.source[0])
        assert 0 <= header.source[1] <= 65535
    return header.done, taken, header.source
