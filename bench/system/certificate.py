"""A certificate of our own for the TLS servers, made once by the openssl program."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

from bench.system.serving import unsupported

__all__ = ["certificate_files", "server_context"]

FOLDER = Path(__file__).parents[1] / ".build"
CERTIFICATE, KEY = FOLDER / "tls.pem", FOLDER / "tls.key"
KIND = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "3650", "-subj", "/CN=localhost")


def certificate_files() -> tuple[Path, Path]:
    """Give the files of a certificate and of its key."""
    if not CERTIFICATE.exists():
        program = shutil.which("openssl")
        if program is None:
            unsupported("no openssl on this machine to make a certificate with")
        FOLDER.mkdir(exist_ok=True)
        made = CERTIFICATE.with_suffix(".new")
        command = [program, "req", "-x509", "-nodes", *KIND, "-keyout", str(KEY), "-out", str(made)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        made.rename(CERTIFICATE)
    return CERTIFICATE, KEY


def server_context() -> ssl.SSLContext:
    """Make the context of a plain asyncio server."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate_files())
    return context
