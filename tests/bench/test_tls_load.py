"""The TLS client: it counts echoes, reads the server's CPU, and notices every byte that is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil

import pytest

from bench.client import Load, LoadError
from bench.tls_load import run_tls_load

pytestmark = [
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate"),
    pytest.mark.timeout(60),
]

SECONDS = 0.2
SIZE = 20_000


class NoEcho(Exception):
    """It was over before there was one."""


async def run_against(change: bytes | None, seconds: float = SECONDS) -> dict[str, object]:
    """Measure an echo server in this process; with ``change``, each read's first byte is replaced by it."""
    pytest.importorskip("uvloop", reason="the client runs on uvloop")
    from bench.system.certificate import server_context

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # the client aborts when it has seen enough
            while data := await reader.read(65536):
                writer.write(data if change is None else change + data[1:])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context())
    async with server:
        port = server.sockets[0].getsockname()[1]
        load = Load("tls", size=SIZE, connections=3)
        try:
            return await asyncio.to_thread(
                run_tls_load, load, port=port, server_pids=[os.getpid()], seconds=seconds, core=None
            )
        except LoadError as error:
            if "no echo came" in str(error):
                raise NoEcho from error
            raise


async def run_long_enough(change: bytes | None) -> dict[str, object]:
    """Measure for longer and longer, until there was something: a machine may stall for all of a short time."""
    for seconds in (SECONDS, 5 * SECONDS):
        with contextlib.suppress(NoEcho):
            return await run_against(change, seconds)
    return await run_against(change, 25 * SECONDS)


async def test_echoes_are_counted() -> None:
    """With times that a person can believe, and the CPU of the process that served them."""
    answer = await run_long_enough(None)
    assert int(str(answer["count"])) > 1
    assert float(str(answer["seconds"])) > 0.9 * SECONDS  # the loop's clock counts whole milliseconds
    assert 0 < float(str(answer["p50_us"])) <= float(str(answer["p99_us"])) <= float(str(answer["p999_us"]))
    assert int(str(answer["server_cpu_ns"])) > 0
    assert answer["server_cpu_each_ns"] == [answer["server_cpu_ns"]]


async def test_an_echo_that_differs_ends_the_run() -> None:
    """One wrong byte is enough."""
    with pytest.raises(LoadError, match="differs from what was sent"):
        await run_long_enough(b"?")
