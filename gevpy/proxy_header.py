r"""The PROXY header, versions 1 and 2: who a load balancer connects for. Bytes in, an address out.

    v1    PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n
    v2    12 bytes of signature, version and command, family, length (2 bytes), addresses, TLVs

What follows the header in the stream is the client's, so exactly the header's bytes are taken. Nothing is guessed: one
that is wrong in any way ends the connection. TLVs are skipped unread: nobody needs them, and nesting can't hurt.

Source: HAProxy's proxy-protocol.txt.
"""

from __future__ import annotations

import ipaddress
import struct

from gevpy.errors import HandshakeError

__all__ = ["ProxyHeader"]

Address = tuple[str, int]

V1_START = b"PROXY "
V1_BYTES = 107  # with the line's end
V1_FIELDS = 6
V2_START = b"\r\n\r\n\x00\r\nQUIT\n"
V2_HEAD = struct.Struct("!12sBBH")
V2_BYTES = 4096  # addresses and TLVs; balancers send some hundred at most
LOCAL, PROXY = 0x20, 0x21  # version 2 and the command
UNSPECIFIED, TCP4, TCP6, UNIX = 0x00, 0x11, 0x21, 0x31
SIZES = {UNSPECIFIED: 0, TCP4: 12, TCP6: 36, UNIX: 216}  # of the two addresses
MAX_PORT = 65535


class ProxyHeader:
    r"""One header, as it comes in.

    Attributes:
        done: whether it is whole.
        source: the client's address, once it is; None where the header names none: the balancer connects for itself
            (LOCAL), or doesn't know (UNKNOWN), or was reached over a Unix socket.

    Example:
        >>> header = ProxyHeader()
        >>> header.feed(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\nhello")
        45
        >>> header.source
        ('192.0.2.7', 40000)
    """

    def __init__(self) -> None:
        """Begin with nothing read."""
        self._read = bytearray()
        self.done = False
        self.source: Address | None = None

    def feed(self, data: bytes) -> int:
        """Take what of ``data`` belongs to the header, and tell how many bytes of it do.

        Args:
            data: what comes next in the stream.

        Raises:
            HandshakeError: it is no PROXY header, or a wrong one.
        """
        taken = 0
        while taken < len(data) and not self.done:
            rest = data[taken:]
            piece = rest[: self._share(rest)]
            taken += len(piece)
            self._read += piece
            self._look()
        return taken

    def _share(self, data: bytes) -> int:
        """Tell how much of ``data`` is the header's for sure."""
        read = len(self._read)
        if read < len(V1_START):
            return len(V1_START) - read
        if self._read[0] == V1_START[0]:
            end = data.find(b"\n")
            return min(end + 1 or V1_BYTES, V1_BYTES - read)
        if read < V2_HEAD.size:
            return V2_HEAD.size - read
        return V2_HEAD.size + self._v2_length() - read

    def _look(self) -> None:
        """Judge what is there so far."""
        read = self._read
        if read[:1] == V1_START[:1]:
            if not V1_START.startswith(read[: len(V1_START)]):
                raise HandshakeError("the stream does not begin with a PROXY header")
            if read.endswith(b"\n"):
                self._take_v1()
            elif len(read) >= V1_BYTES:
                raise HandshakeError(f"a PROXY line of more than {V1_BYTES} bytes")
            return
        if not V2_START.startswith(read[: len(V2_START)]):
            raise HandshakeError("the stream does not begin with a PROXY header")
        if len(read) >= V2_HEAD.size and len(read) == V2_HEAD.size + self._v2_length():
            self._take_v2()

    # -- version 1 -------------------------------------------------------------------------------------

    def _take_v1(self) -> None:
        if not self._read.endswith(b"\r\n"):
            raise HandshakeError("a PROXY line that does not end with CR and LF")
        fields = self._read[:-2].decode("ascii", "replace").split(" ")
        if fields[1] != "UNKNOWN":
            self.source = _v1_source(fields)
        self.done = True

    # -- version 2 -------------------------------------------------------------------------------------

    def _v2_length(self) -> int:
        _, command, family, length = V2_HEAD.unpack_from(self._read)
        if command not in (LOCAL, PROXY):
            raise HandshakeError(f"a PROXY header of version and command 0x{command:02x}")
        if length > V2_BYTES:
            raise HandshakeError(f"a PROXY header of {length} bytes, more than {V2_BYTES}")
        if command == PROXY and (family not in SIZES or length < SIZES[family]):
            raise HandshakeError(f"a PROXY header of family 0x{family:02x} with {length} bytes of addresses")
        return int(length)

    def _take_v2(self) -> None:
        _, command, family, _ = V2_HEAD.unpack_from(self._read)
        if command == PROXY and family in (TCP4, TCP6):
            addresses = self._read[V2_HEAD.size : V2_HEAD.size + SIZES[family]]
            half = (len(addresses) - 4) // 2
            port = int.from_bytes(addresses[2 * half : 2 * half + 2], "big")
            self.source = _written(ipaddress.ip_address(bytes(addresses[:half]))), port
        self.done = True


def _v1_source(fields: list[str]) -> Address:
    kinds: dict[str, type[ipaddress.IPv4Address | ipaddress.IPv6Address]]
    kinds = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}
    if len(fields) != V1_FIELDS or fields[1] not in kinds:
        raise HandshakeError("a PROXY line that is neither TCP4, TCP6 nor UNKNOWN, or has other fields than it should")
    _, kind, source, target, source_port, target_port = fields
    if "%" in source or "%" in target:
        raise HandshakeError("a PROXY line with a scope in an address")  # it would be any text at all
    try:
        host = _written(kinds[kind](source))
        kinds[kind](target)
    except ValueError as error:
        raise HandshakeError(f"a PROXY line with no {kind} address: {error}") from error
    _port(target_port)
    return host, _port(source_port)


def _written(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)  # Python's releases write one that is mapped in different ways


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or str(int(text)) != text or int(text) > MAX_PORT:
        raise HandshakeError(f"a PROXY line with port {text[:8]!r}")
    return int(text)
