"""TLS: what a server or client is told, and the context in use, which can be read again while it serves.

An ``ssl.SSLContext`` can't cross to worker processes and can't be read again from its files; a `TLS` names the files,
and does both.
"""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gevpy.errors import ConfigError
from gevpy.log_limit import LimitedLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

__all__ = ["TLS", "LiveContext", "client_context", "server_context"]

ALERT = ssl.ALERT_DESCRIPTION_INTERNAL_ERROR

logger = logging.getLogger("gevpy.tls")


@dataclass(frozen=True, slots=True)
class TLS:
    """Certificates, by their files: for ``serve(ssl=...)``, ``connect(ssl=...)`` and ``conn.start_tls``.

    TLS 1.2 is the least; renegotiation and compression are off. The files are read when the server starts, and again
    at ``server.reload_tls()`` and SIGHUP: new handshakes then use what is there, old connections go on, and files that
    can't be used change nothing and are logged. Paths travel to workers, which read the files by themselves.

    Attributes:
        cert: PEM file of our certificate and what links it to its root. A server must have one; a client shows it.
        key: PEM file of its private key, without a password; default: in ``cert``.
        ca: PEM file of whom to trust. On a server it demands a client certificate signed by one of these (mutual TLS);
            on a client it replaces the system's authorities.
        sni: for servers of many names: called with the name that the client asks for, in lower case, or None. It gives
            another `TLS` or ``ssl.SSLContext``, or None for this one. Called in the handshake, so it must be quick.
            Either all names ask for client certificates (``ca``), or none: OpenSSL settles that before it knows the
            name, so that a handshake with a name that differs is refused. With workers it must be importable, like all
            that travels.

    Raises:
        ConfigError: ``key`` without ``cert``, or something that is no path.

    Example:
        >>> tls = TLS(cert="server.pem", key="server.key", ca="clients.pem")
    """

    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    ca: str | os.PathLike[str] | None = None
    sni: Callable[[str | None], TLS | ssl.SSLContext | None] | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without reading."""
        for name in ("cert", "key", "ca"):
            if not isinstance(getattr(self, name), str | os.PathLike | None):
                msg = f"{name} must be the path of a PEM file, not {type(getattr(self, name)).__name__}"
                raise ConfigError(msg)
        if self.key is not None and self.cert is None:
            raise ConfigError("a TLS key without a cert: name the certificate's file, too")
        if self.sni is not None and not callable(self.sni):
            raise ConfigError("sni must be a function: (server_name) -> TLS, SSLContext or None")


Source: TypeAlias = "TLS | ssl.SSLContext"


def server_context(tls: Source, names: Names | None = None) -> ssl.SSLContext:
    """Make the context of a server.

    Args:
        tls: what the server was told.
        names: who chooses by name; default: made anew for ``tls.sni``.

    Raises:
        ConfigError: there is no certificate, a file can't be used, or it is nothing of the kind.
    """
    if isinstance(tls, ssl.SSLContext):
        return tls
    if not isinstance(tls, TLS):
        msg = f"ssl must be a gevpy.TLS(cert=..., key=...) or an ssl.SSLContext, not {type(tls).__name__}"
        raise ConfigError(msg)
    if tls.cert is None:
        raise ConfigError("a TLS server needs a certificate: TLS(cert=..., key=...)")
    context = _loaded(ssl.PROTOCOL_TLS_SERVER, tls)
    if tls.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0  # a session of one name, resumed for another, would skip that one's check
    if tls.sni is not None:
        context.sni_callback = names or Names(tls.sni)
    return context


def client_context(tls: Source) -> ssl.SSLContext:
    """Make the context of a client: the server's certificate and name are checked.

    Raises:
        ConfigError: a file can't be used.
    """
    if isinstance(tls, ssl.SSLContext):
        return tls
    if not isinstance(tls, TLS):
        msg = f"ssl must be a gevpy.TLS(...) or an ssl.SSLContext, not {type(tls).__name__}"
        raise ConfigError(msg)
    context = _loaded(ssl.PROTOCOL_TLS_CLIENT, tls)
    if tls.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _loaded(protocol: ssl._SSLMethod, tls: TLS) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    for path in (tls.cert, tls.key, tls.ca):
        if path is not None:
            _check_readable(path)
    if tls.cert is not None:
        fits = " and its private key (or say key=...)" if tls.key is None else f" that fits the key in {tls.key}"
        try:
            context.load_cert_chain(tls.cert, tls.key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            msg = f"cannot use the TLS files: {tls.cert} must hold a PEM certificate{fits}: {error}"
            raise ConfigError(msg) from error
    if tls.ca is not None:
        try:
            context.load_verify_locations(tls.ca)
        except (OSError, ValueError) as error:
            msg = f"cannot use the TLS files: {tls.ca} must hold PEM certificates of authorities: {error}"
            raise ConfigError(msg) from error
    return context


def _check_readable(path: str | os.PathLike[str]) -> None:
    try:
        with Path(path).open("rb"):
            return
    except OSError as error:
        raise ConfigError(f"cannot use the TLS files: {path}: {error.strerror or error}") from error


def _no_password() -> NoReturn:
    raise ValueError("the key needs a password; store it without one, readable by the server only")


class Names:
    """Chooses the context of a name: what ``sni_callback`` calls.

    Args:
        choose: gives the `TLS` of a name, in lower case.
    """

    def __init__(self, choose: Callable[[str | None], Source | None]) -> None:
        """Begin without a context."""
        self._choose = choose
        self._contexts: dict[TLS, ssl.SSLContext] = {}
        self._log = LimitedLog(logger)

    def __call__(self, sock: Any, name: str | None, own: ssl.SSLContext) -> int | None:
        """Have the handshake go on with the context of the name; refuse it if that fails."""
        try:
            chosen = self._choose(None if name is None else name.lower())
            if chosen is not None:
                sock.context = self._checked(self._context_of(chosen), own)
        except Exception as error:  # noqa: BLE001 - whatever the application raised fails this handshake only
            self._log.log("sni", logging.ERROR, "the sni function failed: the handshake is refused", error)
            return ALERT
        return None

    def reload(self) -> None:
        """Read the files of all names again that were asked for; each that can't be used keeps what it had."""
        for tls in tuple(self._contexts):
            try:
                self._contexts[tls] = server_context(tls)
            except ConfigError as error:
                logger.error("TLS was not reloaded for a name, its old certificate stays: %s", error)  # noqa: TRY400

    @staticmethod
    def _checked(context: ssl.SSLContext, own: ssl.SSLContext) -> ssl.SSLContext:
        if context.verify_mode is not own.verify_mode:  # OpenSSL would go on with that of the server's own
            raise ConfigError("every name must ask for client certificates (ca=...), or none")
        return context

    def _context_of(self, tls: Source) -> ssl.SSLContext:
        if isinstance(tls, ssl.SSLContext):
            return tls
        if tls not in self._contexts:
            self._contexts[tls] = server_context(tls)
        return self._contexts[tls]


class LiveContext:
    """The context that a server's next handshakes use.

    Args:
        tls: what the server was told.

    Attributes:
        context: in use now.

    Raises:
        ConfigError: as for `server_context`.
    """

    def __init__(self, tls: Source) -> None:
        """Read the files."""
        self._tls = tls
        self._names = Names(tls.sni) if isinstance(tls, TLS) and tls.sni is not None else None
        self.context = server_context(tls, self._names)

    def reload(self) -> bool:
        """Read the files again; keep what was there, and log why, if that fails. Tell whether it went well."""
        try:
            self.context = server_context(self._tls, self._names)
        except ConfigError as error:
            logger.error("TLS was not reloaded, the old certificate stays: %s", error)  # noqa: TRY400 - it is told whole
            return False
        if self._names is not None:
            self._names.reload()
        logger.info("TLS was reloaded: new handshakes use the files as they are now")
        return True
