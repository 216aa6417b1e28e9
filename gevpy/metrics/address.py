"""Where the metrics port listens, and which names for it a request may use."""

from __future__ import annotations

import ipaddress
import re
import socket

from gevpy.errors import BindError, ConfigError

__all__ = ["BACKLOG", "is_loopback", "listen_at", "names_loopback"]

BACKLOG = 16
MAX_PORT = 65535

ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]\0- \x7f]+)\]|(?P<host>[^\[\]:\0- \x7f]+)):(?P<port>[0-9]{1,5})")
HOST_HEADER = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::[0-9]*)?", re.ASCII)


def listen_at(address: str) -> socket.socket:
    """Listen on the first address of ``"host:port"`` or ``"[ipv6]:port"`` that can be had, IPv4 first.

    Raises:
        ConfigError: ``address`` is not of this form.
        BindError: it can't be listened on.

    Example:
        >>> listen_at("127.0.0.1:9091")  # doctest: +SKIP
    """
    host, port = _parsed(address)
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _cannot_bind(address, error) from error
    except UnicodeError as error:  # a name that can't be one, such as a label that is too long
        raise _malformed(address) from error
    failure = OSError("no such address")
    for family, _, _, _, name in sorted(infos, key=lambda info: info[0] != socket.AF_INET):
        try:
            return _listen_on(family, name)
        except OSError as error:
            failure = error
    raise _cannot_bind(address, failure) from failure


def is_loopback(host: str) -> bool:
    """Tell whether ``host`` is an address of this machine's loopback; names are none."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_loopback(header: bytes | None) -> bool:
    """Tell whether a Host header is one that a page elsewhere can't send; HTTP/1.0 probes have none, browsers do."""
    if header is None:
        return True
    match = HOST_HEADER.fullmatch(header.decode("latin-1").strip())
    if match is None:
        return False
    host = match[1] if match[1] is not None else match[2]
    return host.lower() == "localhost" or is_loopback(host)


def _listen_on(family: int, name: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(name)
        sock.listen(BACKLOG)
        sock.settimeout(0)
    except BaseException:
        sock.close()
        raise
    return sock


def _parsed(address: str) -> tuple[str, int]:
    match = ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None or int(match["port"]) > MAX_PORT:
        raise _malformed(address)
    if match["v6"] is None:
        return match["host"], int(match["port"])
    try:
        ipaddress.IPv6Address(match["v6"])
    except ValueError as error:
        raise _malformed(address) from error
    return match["v6"], int(match["port"])


def _malformed(address: object) -> ConfigError:
    return ConfigError(f'metrics must be "host:port", such as "127.0.0.1:9091" or "[::1]:9091", not {address!r}')


def _cannot_bind(address: str, error: OSError) -> BindError:
    return BindError(address, OSError(error.errno, f"{error.strerror or error} (the metrics address)"))
