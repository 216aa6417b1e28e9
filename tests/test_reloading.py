"""``gevpy run --reload``: a real program, and real changes of its files."""

from __future__ import annotations

import signal
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from gevpy.cli import main
from tests.programs import DEADLINE_S, Program

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("watchfiles", reason="watchfiles, of the extra gevpy[reload], is not here")

APP = """
import gevpy

class Tell(gevpy.Handler):
    def on_message(self, conn, ctx, data):
        return b"{}"
"""


def served(program: Program) -> bytes:
    """Wait until it serves, and give what it answers."""
    port = int(program.expect(r" on 127\.0\.0\.1:(\d+)")[1])
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as sock:
        sock.sendall(b"?")
        return sock.recv(100)


def test_a_change_starts_it_again(tmp_path: Path) -> None:
    """What was written last is served; a program that can't be imported is no end, the next change mends it."""
    source = tmp_path / "app.py"
    source.write_text(APP.format("one"))
    with Program("-m", "gevpy", "run", "app:Tell", "--port", "0", "--reload", cwd=tmp_path) as program:
        assert served(program) == b"one"
        source.write_text(APP.format("two, and longer"))
        program.expect("app.py changed: starting again")
        assert served(program) == b"two, and longer"
        source.write_text("import gevpy, oops\n")
        program.expect("importing app failed: ModuleNotFoundError: No module named 'oops'")
        source.write_text(APP.format("three"))
        assert served(program) == b"three"
        assert program.stop(signal.SIGINT) == 0
    assert "Traceback" not in program.output


def test_without_watchfiles_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2."""
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(SystemExit) as end:
        main(["run", "app:Tell", "--reload"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "gevpy: --reload needs watchfiles: pip install 'gevpy[reload]'\n"
