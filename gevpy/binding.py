"""From what ``serve`` was told to listening sockets.

Every failure is one `BindError` that names the address, and leaves nothing bound.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gevpy.errors import BindError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gevpy.options import ServeOptions

__all__ = ["ListeningSockets", "WorkerSockets", "bind_all"]

UNIX_MODE = 0o600
PORT_TRIES = 5  # to find one free port on several addresses
SOMAXCONN_FILE = Path("/proc/sys/net/core/somaxconn")

logger = logging.getLogger("gevpy.server")


class ListeningSockets:
    """The sockets a server listens on, and what is to be tidied up after them.

    Attributes:
        sockets: listening, non-blocking.
        path: of the Unix socket that was made, or None.
    """

    def __init__(self, sockets: list[socket.socket], path: Path | None = None, *, owned: bool = True) -> None:
        """Keep ``sockets``; ``owned`` says whether `close` closes them."""
        self.sockets = sockets
        self.path = path
        self._owned = owned
        self._inode = path.stat().st_ino if path is not None else None

    @property
    def addresses(self) -> list[tuple[str, int] | str]:
        """Where peers can connect: ``(host, port)`` for TCP, the path for Unix sockets."""
        return [_address_of(sock) for sock in self.sockets]

    def close(self) -> None:
        """Close the sockets, and unlink the Unix socket if it is still ours."""
        if self._owned:
            for sock in self.sockets:
                sock.close()
        if self.path is not None:
            try:
                if self.path.stat().st_ino == self._inode:
                    self.path.unlink()
            except FileNotFoundError:
                pass
            self.path = None


def _address_of(sock: socket.socket) -> tuple[str, int] | str:
    name = sock.getsockname()
    return (name[0], name[1]) if isinstance(name, tuple) else os.fsdecode(name)


def bind_all(options: ServeOptions) -> ListeningSockets:
    """Make the listening sockets that ``options`` ask for.

    Raises:
        BindError: an address can't be had; the text names it.
        ConfigError: a socket passed in is no stream socket.
    """
    if options.backlog > (somaxconn := _somaxconn()):
        logger.info("backlog %d is cut to %d by net.core.somaxconn", options.backlog, somaxconn)
    if options.sockets is not None:
        return _adopt(options.sockets, options.backlog)
    if options.path is not None:
        path = Path(options.path)
        return ListeningSockets([_bind_unix(path, options.backlog)], path)
    return ListeningSockets(_bind_tcp(options))


def _somaxconn() -> int:
    try:
        return int(SOMAXCONN_FILE.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 1 << 30  # not Linux: the system cuts silently


def _adopt(sockets: Sequence[socket.socket], backlog: int) -> ListeningSockets:
    if not sockets:
        msg = "sockets must not be empty"
        raise ConfigError(msg)
    for sock in sockets:
        if not isinstance(sock, socket.socket) or sock.type != socket.SOCK_STREAM or sock.fileno() < 0:
            msg = f"sockets must be bound stream sockets, not {sock!r}"
            raise ConfigError(msg)
        if sock.family in (socket.AF_INET, socket.AF_INET6) and not sock.getsockname()[1]:
            msg = f"sockets must be bound: {sock!r}"  # listen() would bind it, to any port and every address
            raise ConfigError(msg)
        try:
            sock.listen(backlog)
        except OSError as error:
            raise BindError(repr(_address_of(sock)), error) from error
        sock.settimeout(0)
    return ListeningSockets(list(sockets))


# -- Unix ------------------------------------------------------------------------------------------


def _bind_unix(path: Path, backlog: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        mask = os.umask(0o777 & ~UNIX_MODE)  # made with the right mode, not mended afterwards
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(mask)
        sock.listen(backlog)
        sock.settimeout(0)
    except OSError as error:
        sock.close()
        raise BindError(os.fspath(path), error) from error
    return sock


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; raise for one that answers, and for anything that is no socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "the path exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


# -- TCP -------------------------------------------------------------------------------------------


def _bind_tcp(options: ServeOptions) -> list[socket.socket]:
    """Bind every address of the hosts; with port 0, all to one port that the system chooses."""
    for attempt in range(PORT_TRIES):
        try:
            return _bind_hosts(options)
        except BindError as error:
            if options.port or error.errno != errno.EADDRINUSE or attempt == PORT_TRIES - 1:
                raise
    raise AssertionError("the last attempt returns or raises")  # pragma: no cover


def _bind_hosts(options: ServeOptions) -> list[socket.socket]:
    hosts = options.host
    wildcard = hosts in (None, "", "*")
    names: Iterable[str | None] = [None] if wildcard else [hosts] if isinstance(hosts, str) else list(hosts or ())
    sockets: list[socket.socket] = []
    port = options.port
    failed: BindError | None = None
    try:
        for family, address in _resolve(names, port):
            try:
                sock = _bind_one(family, (address[0], port, *address[2:]), options, wildcard=wildcard)
            except BindError as error:
                if not wildcard or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                failed = error  # a machine without IPv6, or without IPv4: the other family will do
                continue
            sockets.append(sock)
            port = port or sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise failed or ConfigError("host must not be empty")
    return sockets


def _resolve(names: Iterable[str | None], port: int) -> list[tuple[int, tuple[str, ...]]]:
    found: dict[tuple[int, tuple[str, ...]], None] = {}
    for name in names:
        try:
            infos = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except socket.gaierror as error:
            raise BindError(f"{name}:{port}", OSError(error.errno, error.strerror)) from error
        except ValueError as error:  # too long for a label, a NUL byte, ...
            raise BindError(f"{name}:{port}", OSError(errno.EINVAL, "not a host name")) from error
        for family, _, _, _, address in infos:
            if family in (socket.AF_INET, socket.AF_INET6):
                found[family, address] = None  # type: ignore[index]  # both families' addresses are tuples
    return list(found)


def _bind_one(family: int, address: tuple[object, ...], options: ServeOptions, *, wildcard: bool) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise BindError(_written(address), error) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "::" alone serves both families, as in Go; beside 0.0.0.0 it must not
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(wildcard or address[0] != "::"))
        sock.bind(address)
        sock.listen(options.backlog)
        sock.settimeout(0)
    except OSError as error:
        sock.close()
        raise BindError(_written(address), error) from error
    return sock


def _written(address: tuple[object, ...]) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in str(address[0]) else f"{address[0]}:{address[1]}"


# -- for many workers ------------------------------------------------------------------------------


class WorkerSockets:
    """The listening sockets of a server with many workers: of each slot its own, or the same ones for all.

    Attributes:
        listening: what `addresses` are read from, and what an acceptor accepts on.
        grouped: each slot has its own sockets, in SO_REUSEPORT groups, in the order of the slots.
    """

    def __init__(self, options: ServeOptions, *, grouped: bool) -> None:
        """Bind for the first slot.

        Raises:
            BindError: an address can't be had, or is in use already, be it by another gevpy.
            ConfigError: a socket passed in is no stream socket.
        """
        self.grouped = grouped and options.path is None and options.sockets is None and hasattr(socket, "SO_REUSEPORT")
        self._options = options
        self.listening = bind_all(options if not self.grouped else replace(options, reuse_port=False))
        self._slots: list[list[socket.socket]] = [self.listening.sockets]
        if self.grouped:
            self._regroup()

    def _regroup(self) -> None:
        """Bind the probed addresses again, so that others can join: the first bind was alone and proved them free."""
        names = [(sock.family, sock.getsockname(), _is_dual(sock)) for sock in self.listening.sockets]
        self.listening.close()
        self._names = names
        self.listening = ListeningSockets(self._bind_group())
        self._slots = [self.listening.sockets]

    def _bind_group(self) -> list[socket.socket]:
        options = replace(self._options, reuse_port=True)
        sockets: list[socket.socket] = []
        try:
            for family, name, dual in self._names:
                sockets.append(_bind_one(family, name, options, wildcard=not dual))
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets

    def of_slot(self, number: int) -> list[socket.socket]:
        """Give the sockets of a slot, bound now if they aren't yet; slots are numbered without gaps.

        Raises:
            BindError: they can't be had.
        """
        if not self.grouped:
            return self.listening.sockets
        while len(self._slots) <= number:
            self._slots.append(self._bind_group())
        return self._slots[number]

    def close(self) -> None:
        """Close them all."""
        for sockets in self._slots[1:]:
            for sock in sockets:
                sock.close()
        self.listening.close()


def _is_dual(sock: socket.socket) -> bool:
    return sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
