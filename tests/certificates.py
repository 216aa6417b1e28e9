"""Certificates of a made-up authority, good and bad ones, and a TLS client that a test drives step by step.

The client works on an ``ssl.MemoryBIO``: so a test can stop in the midst of a handshake, hold back ``close_notify``, or
put two records into one segment.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Self

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import gevpy
from tests.serving import Client

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NAME", "Pem", "Shelf", "TlsClient", "authority", "client_hello", "issued"]

NAME = "gevpy.test"
DAY = timedelta(days=1)


@cache
def authority(name: str) -> trustme.CA:
    """Give an authority; the same one for the same name, because keys are dear to make."""
    return trustme.CA(organization_name=f"gevpy {name}", key_type=trustme.KeyType.ECDSA)


@dataclass(frozen=True)
class Pem:
    """A certificate with its chain, and its private key."""

    cert: bytes
    key: bytes


@cache
def issued(name: str, ca: str = "good", *, expired: bool = False) -> Pem:
    """Give a certificate of an authority for a name."""
    end = datetime.now(UTC) - DAY if expired else None
    made = authority(ca).issue_cert(name, not_after=end, key_type=trustme.KeyType.ECDSA)
    return Pem(b"".join(blob.bytes() for blob in made.cert_chain_pems), made.private_key_pem.bytes())


@cache
def handmade(*, signed_by: str | None, usage: x509.ObjectIdentifier) -> Pem:
    """Give what trustme does not make: a certificate for one usage only, or signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    issuer, signer = subject, key
    if signed_by is not None:
        ca = authority(signed_by)
        issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes()).subject
        loaded = load_pem_private_key(ca.private_key_pem.bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signer = loaded
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
        .sign(signer, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return Pem(cert.public_bytes(Encoding.PEM), secret)


class Shelf:
    """PEM files in a folder.

    Args:
        folder: where they go.
    """

    def __init__(self, folder: Path) -> None:
        """Put the good authority and a server's certificate there."""
        self.folder = folder
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(authority("good").cert_pem.bytes())
        self.cert = folder / "server.pem"
        self.key = folder / "server.key"
        self.put(NAME)

    @property
    def tls(self) -> gevpy.TLS:
        """What a server is told."""
        return gevpy.TLS(cert=self.cert, key=self.key)

    @property
    def mutual(self) -> gevpy.TLS:
        """What a server is told that wants to know its clients."""
        return gevpy.TLS(cert=self.cert, key=self.key, ca=self.ca)

    def put(self, name: str, ca: str = "good") -> None:
        """Have another certificate in the server's files."""
        made = issued(name, ca)
        self.cert.write_bytes(made.cert)
        self.key.write_bytes(made.key)

    def named(self, name: str) -> gevpy.TLS:
        """Give a TLS of its own for a name."""
        made = issued(name)
        path = self.folder / f"{name}.pem"
        path.write_bytes(made.cert + made.key)
        return gevpy.TLS(cert=path)

    def client(self, kind: str | None = None, *, ca: str = "good") -> ssl.SSLContext:
        """Give a client's context: it trusts the authority, and shows a certificate of the kind.

        Args:
            kind: ``"good"``, ``"expired"``, ``"wrong_ca"``, ``"wrong_usage"``, ``"self_signed"``; None for none.
            ca: whom it trusts.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority(ca).configure_trust(context)
        if kind is not None:
            made = {
                "good": lambda: issued(NAME),
                "expired": lambda: issued(NAME, expired=True),
                "wrong_ca": lambda: issued(NAME, "other"),
                "wrong_usage": lambda: handmade(signed_by="good", usage=ExtendedKeyUsageOID.SERVER_AUTH),
                "self_signed": lambda: handmade(signed_by=None, usage=ExtendedKeyUsageOID.CLIENT_AUTH),
            }[kind]()
            path = self.folder / f"client-{kind}.pem"
            path.write_bytes(made.cert + made.key)
            context.load_cert_chain(path)
        return context


def client_hello(context: ssl.SSLContext) -> bytes:
    """Give the first bytes of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=NAME).do_handshake()
    return outgoing.read()


class TlsClient:
    """A TLS peer on a `Client` that does only what it is told.

    Args:
        plain: connected; it stays the caller's.
        context: a client's; or a server's, for a peer that plays this.
        name: the name asked for, or None.
    """

    def __init__(self, plain: Client, context: ssl.SSLContext, name: str | None = NAME) -> None:
        """Begin before the handshake."""
        self.plain = plain
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        is_server = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self.session = context.wrap_bio(
            self._incoming, self._outgoing, server_side=is_server, server_hostname=None if is_server else name
        )

    @classmethod
    async def connect(cls, address: tuple[str, int] | str, context: ssl.SSLContext, name: str | None = NAME) -> Self:
        """Connect and shake hands."""
        client = cls(await Client.connect(address), context, name)
        try:
            await client.handshake()
        except BaseException:
            client.plain.close()
            raise
        return client

    async def __aenter__(self) -> Self:
        """Give itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the socket, without a word."""
        self.plain.close()

    def sealed(self, *pieces: bytes) -> bytes:
        """Give the records of all pieces, to be sent in one."""
        for piece in pieces:
            self.session.write(piece)
        return self._outgoing.read()

    def farewell(self) -> bytes:
        """Give the record of ``close_notify``."""
        with suppress(ssl.SSLWantReadError):
            self.session.unwrap()
        return self._outgoing.read()

    def finished(self) -> bytes:
        """Give what the handshake has still to send."""
        return self._outgoing.read()

    async def take(self) -> bool:
        """Receive some ciphertext; tell whether the stream goes on."""
        data = await self.plain.recv()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return bool(data)

    async def flush(self) -> None:
        """Send what waits."""
        if self._outgoing.pending:
            await self.plain.send(self._outgoing.read())

    async def handshake(self, *, last_flight: bool = True) -> None:
        """Shake hands; without the last flight it stops before sending that."""
        while True:
            try:
                self.session.do_handshake()
            except ssl.SSLWantReadError:
                await self.flush()
                await self.take()
            except ssl.SSLError:
                await self.flush()  # the alert
                raise
            else:
                break
        if last_flight:
            await self.flush()

    async def send(self, data: bytes) -> None:
        """Send everything."""
        self.session.write(data)
        await self.flush()

    async def recv(self, size: int = 65536) -> bytes:
        """Receive what comes next; ``b""`` is a ``close_notify``."""
        while True:
            try:
                return self.session.read(size)
            except ssl.SSLWantReadError:
                await self.flush()
                await self.take()
            except ssl.SSLZeroReturnError:
                return b""

    async def read(self, size: int) -> bytes:
        """Receive exactly so many bytes, fewer only at ``close_notify``."""
        data = bytearray()
        while len(data) < size and (piece := await self.recv(size - len(data))):
            data += piece
        return bytes(data)

    async def read_to_end(self) -> bytes:
        """Receive everything up to ``close_notify``; an end without one raises ``ssl.SSLEOFError``."""
        data = bytearray()
        while piece := await self.recv():
            data += piece
        return bytes(data)
