"""The real redis-server (C), in memory only, with one thread: what the example of its protocol is measured against.

This process becomes it. It can't say when it is ready, so a child of ours does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time

from bench.system.serving import BACKLOG, HOST, arguments, unsupported

READY_S = 10.0
STEP_S = 0.01


def free_port() -> int:
    """Give a port that was free just now."""
    with socket.create_server((HOST, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def announce_when_ready(port: int, version: str) -> None:
    """Wait until somebody listens, and say so."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port)).close()
        except ConnectionRefusedError:
            time.sleep(STEP_S)
        else:
            print(json.dumps({"port": port, "versions": {"redis-server": version}}), flush=True)
            return


def main() -> None:
    """Become redis-server."""
    options = arguments("redis")
    program = shutil.which("redis-server")
    if program is None:
        unsupported("no redis-server on this machine: it is Debian's package of that name")
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    version = re.search(r"v=(\S+)", said)
    port = options.port or free_port()
    if os.fork() == 0:
        announce_when_ready(port, version[1] if version else "unknown")
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    settings = {"port": port, "bind": HOST, "save": "", "appendonly": "no", "tcp-backlog": BACKLOG}
    given = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    os.execv(program, [program, *given])  # noqa: S606 - no shell between


if __name__ == "__main__":
    main()
