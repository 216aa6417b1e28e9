"""``gevpy run --reload``: a real program, and real changes of its files."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

import pytest

from gevpy.cli import main
from tests.integration.harness import wait_until
from tests.integration.tree_procs import children_of, is_running
from tests.programs import DEADLINE_S, Program

pytest.importorskip("watchfiles", reason="watchfiles, of the extra gevpy[reload], is not here")

APP = """
import gevpy

class Tell(gevpy.Handler):
    def on_message(self, conn, ctx, data):
        return b"{}"
"""


def write(folder: Path, text: str) -> None:
    """Change the application in one step: half a file is a change, too, for who watches."""
    half = folder / "app.half"
    half.write_text(text, encoding="utf-8")
    half.replace(folder / "app.py")


def watches(pid: int) -> bool:
    """Tell whether a process watches files: until then it hears of no change."""
    return any("inotify wd:" in path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/fdinfo").iterdir())


def served(program: Program) -> bytes:
    """Wait until it serves, and give what it answers."""
    port = int(program.expect(r" on 127\.0\.0\.1:(\d+)")[1])
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as sock:
        sock.sendall(b"?")
        return sock.recv(100)


def test_a_change_starts_it_again(tmp_path: Path) -> None:
    """What was written last is served; a program that can't be imported is no end, the next change mends it."""
    write(tmp_path, APP.format("one"))
    with Program("-m", "gevpy", "run", "app:Tell", "--port", "0", "--reload", cwd=tmp_path) as program:
        assert served(program) == b"one"
        pid = program._process.pid
        wait_until(lambda: watches(pid), "it watches the directory", DEADLINE_S)
        write(tmp_path, APP.format("two, and longer"))
        program.expect("app.py changed: starting again")
        assert served(program) == b"two, and longer"
        write(tmp_path, "import gevpy, oops\n")
        program.expect("importing app failed: ModuleNotFoundError: No module named 'oops'")
        wait_until(lambda: not any(map(is_running, children_of(pid))), "the server has ended", DEADLINE_S)
        write(tmp_path, APP.format("three"))
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
