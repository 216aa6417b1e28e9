"""The ``gevpy`` command: what it serves, and the one line that says why it doesn't."""

from __future__ import annotations

import re
import signal
import socket
import sys
import urllib.request
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

import gevpy
from gevpy.cli import main
from tests.programs import DEADLINE_S, Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOOPS = ["asyncio", *(["uvloop"] if find_spec("uvloop") else [])]

APP = """
import gevpy


class Echo(gevpy.Handler):
    def on_message(self, conn, ctx, data):
        return data

    def on_drain(self, conn):
        conn.send(b"bye")


class NeedsMuch(Echo):
    def __init__(self, much):
        self.much = much


class Backwards(gevpy.Protocol):
    def unpacket(self, conn, buffer):
        return None, buffer.read(len(buffer))[::-1]

    def packet(self, conn, data):
        return data


class Shelf:
    echo = Echo()
    text = "no handler"
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Work in an empty directory with the module ``app``; give a function that writes further modules."""

    def write(name: str, text: str) -> None:
        tmp_path.joinpath(f"{name}.py").write_text(text)

    before = set(sys.modules)
    write("app", APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("GEVPY_LOOP", "")
    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, which can't do it; give the one line that says why."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert captured.out == ""
    assert re.fullmatch(r"gevpy: [^\n]+\n", captured.err)
    return captured.err


def connect(port: int) -> socket.socket:
    """Connect to a port of this machine, with a deadline on everything."""
    return socket.create_connection(("127.0.0.1", port), DEADLINE_S)


# -- serving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("app")
def test_run_serves_until_a_signal_and_drains(tmp_path: Path, loop: str, number: signal.Signals) -> None:
    """It logs where it serves, serves on the loop asked for, and ends with 0 after the drain."""
    with Program("-m", "gevpy", "run", "app:Echo", "--port", "0", "--loop", loop, cwd=tmp_path) as program:
        port = int(program.expect(rf"{loop}\b.* on 127\.0\.0\.1:(\d+)")[1])
        with connect(port) as sock:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
            assert program.stop(number) == 0
            assert sock.recv(100) == b"bye"
            assert sock.recv(100) == b""
    assert "Traceback" not in program.output


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("app")
def test_a_signal_right_after_the_start_up_line_is_heard(tmp_path: Path, loop: str, number: signal.Signals) -> None:
    """Who has seen the start-up line may stop it gracefully: signals are handled by then."""
    for _ in range(3):
        with Program("-m", "gevpy", "run", "app:Echo", "--port", "0", "--loop", loop, cwd=tmp_path) as program:
            program.expect(" on 127.0.0.1:")
            assert program.stop(number) == 0


@pytest.mark.usefixtures("app")
def test_run_passes_its_options_on(tmp_path: Path) -> None:
    """Every option arrives at the server."""
    options = ["--protocol", "line", "--idle-timeout", "off", "--max-connections", "7", "--metrics", "127.0.0.1:0"]
    with Program("-m", "gevpy", "run", "app:Shelf.echo", "--port", "0", *options, cwd=tmp_path) as program:
        started = program.expect(r"serving LineProtocol on 127\.0\.0\.1:(\d+), metrics on (http://\S+/metrics);(.*)")
        assert "idle=off" in started[3]
        assert "max_connections=7 " in started[3]
        with connect(int(started[1])) as sock:
            sock.sendall(b"hello\r\n")
            assert sock.recv(100) == b"hello\n"
            with urllib.request.urlopen(started[2], timeout=DEADLINE_S) as answer:  # noqa: S310 - it begins with http:
                assert "gevpy_connections" in answer.read().decode()
        assert program.stop() == 0


@pytest.mark.parametrize(
    ("name", "sent", "received"),
    [
        ("raw", b"abc", b"abc"),
        ("line", b"abc\r\n", b"abc\n"),
        ("length-prefixed", b"\0\0\0\1x", b"\0\0\0\1x"),
        ("fixed:2", b"abc", b"ab"),
        ("websocket", b"GET / HTTP/1.1\r\nHost: app\r\n\r\n", b"HTTP/1.1 426 Upgrade Required\r\n"),
        ("app:Backwards", b"abc", b"cba"),
        ("app:Backwards()", b"abc", None),
    ],
)
@pytest.mark.usefixtures("app")
def test_run_knows_protocols_by_name(tmp_path: Path, name: str, sent: bytes, received: bytes | None) -> None:
    """The ready-made protocols have names, one's own is MODULE:PROTOCOL."""
    with Program("-m", "gevpy", "run", "app:Echo", "--port", "0", "--protocol", name, cwd=tmp_path) as program:
        if received is None:
            assert program.wait() == 2
            return
        with connect(int(program.expect(r" on 127\.0\.0\.1:(\d+)")[1])) as sock:
            sock.sendall(sent)
            assert sock.recv(len(received)) == received
            assert program.stop() == 0


@pytest.mark.usefixtures("app")
def test_log_level_bounds_what_is_logged(tmp_path: Path) -> None:
    """With ``--log-level debug`` a failure shows its traceback, too; without, it doesn't."""
    tmp_path.joinpath("broken.py").write_text("import nowhere_to_be_found\n")
    command = ["-m", "gevpy", "run", "broken:Echo"]
    with Program(*command, cwd=tmp_path) as program:
        assert program.wait() == 2
    assert program.output.count("\n") == 1
    with Program(*command, "--log-level", "debug", cwd=tmp_path) as program:
        assert program.wait() == 2
    assert "Traceback" in program.output
    assert "gevpy: importing broken failed" in program.output


# -- saying what it is -----------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_version_prints_build_info(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    """``gevpy --version`` is what a bug report needs."""
    monkeypatch.setenv("GEVPY_LOOP", loop)
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"{gevpy.build_info()}\n"


def test_python_m_gevpy_is_the_command() -> None:
    """``python -m gevpy`` and ``gevpy`` are one."""
    with Program("-m", "gevpy", "--version") as program:
        assert program.wait() == 0
    assert program.output == f"{gevpy.build_info()}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["run", "--help"]])
def test_help_is_on_stdout(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """Help, which bare ``gevpy`` gives, too, is no error."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    assert end.value.code == 0
    assert captured.out.startswith("Usage: gevpy")
    assert captured.err == ""


def test_help_of_run_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """``gevpy run --help`` shows a handler, a command for it, and every option."""
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    assert "gevpy run echo:Echo --port 1833 --protocol line" in text
    for option in ("host", "port", "protocol", "loop", "idle-timeout", "metrics", "max-connections", "log-level"):
        assert f"--{option} " in text


def test_click_loads_only_for_the_command() -> None:
    """A program that imports gevpy doesn't pay for the command line."""
    with Program("-c", "import gevpy, sys; print('click' in sys.modules, 'gevpy.cli' in sys.modules)") as program:
        assert program.wait() == 0
    assert program.output == "False False\n"


# -- refusing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nothing_like_it:Echo", "no module 'nothing_like_it'"),
        ("app.inner:Echo", "no module 'app.inner'"),
        ("app", "such as app:Echo"),
        ("app:", "such as app:Echo"),
        (":Echo", "such as module:Echo"),
        ("", "such as module:Echo"),
        ("app.py:Echo", "such as app:Echo"),
        ("./app.py:Echo", "such as app:Echo"),
        (".app:Echo", "such as app:Echo"),
        ("app:Ecko", "app has no 'Ecko', but Echo, NeedsMuch"),
        ("app:Shelf.nothing", "Shelf has no 'nothing'"),
        ("app:Echo..", "Echo has no ''"),
        ("app:Shelf", "app:Shelf is no handler"),
        ("app:Shelf.text", "app:Shelf.text is no handler"),
        ("app:gevpy.Handler", "app:gevpy.Handler is no handler"),
        ("app:NeedsMuch", "making app:NeedsMuch() failed: TypeError"),
    ],
)
@pytest.mark.usefixtures("app")
def test_a_wrong_target_is_one_line(capsys: pytest.CaptureFixture[str], target: str, says: str) -> None:
    """A wrong module, name or object is said in one line, exit code 2."""
    assert says in refusal(capsys, "run", target)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found' ("),
        ("\n\n1 / 0", "ZeroDivisionError: division by zero ("),
        ("def", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("import sys; sys.exit('not like this')", "SystemExit: not like this"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
    ],
)
def test_a_broken_module_is_one_line(
    capsys: pytest.CaptureFixture[str], app: Callable[[str, str], None], text: str, says: str
) -> None:
    """An exception inside the user's module is said in one line, with its place."""
    app("broken", text)
    line = refusal(capsys, "run", "broken:Echo")
    assert line.startswith("gevpy: importing broken failed: ")
    assert says in line
    assert "broken.py" in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--port", "65536"], "'--port': 65536 is not in the range"),
        (["--port", "-1"], "'--port': -1 is not in the range"),
        (["--port", "http"], "'--port': 'http' is not a valid integer"),
        (["--max-connections", "0"], "'--max-connections': 0 is not in the range"),
        (["--loop", "trio"], "'--loop': 'trio' is not one of"),
        (["--log-level", "loud"], "'--log-level': 'loud' is not one of"),
        (["--idle-timeout", "soon"], "--idle-timeout must be a number of seconds above 0, or \"off\", not 'soon'"),
        (["--idle-timeout", "0"], "--idle-timeout must be"),
        (["--idle-timeout", "-5"], "--idle-timeout must be"),
        (["--idle-timeout", "nan"], "--idle-timeout must be"),
        (["--idle-timeout", "inf"], "--idle-timeout must be"),
        (["--protocol", "smoke"], "--protocol must be raw, line, length-prefixed, websocket, fixed:N or"),
        (["--protocol", "fixed:0"], "--protocol fixed:0: length must be"),
        (["--protocol", "fixed:two"], "no module 'fixed'"),
        (["--protocol", "app:Echo"], "--protocol app:Echo is no protocol"),
        (["--protocol", "app:Smoke"], "app has no 'Smoke'"),
        (["--metrics", "9091"], "metrics must be"),
        (["--colour"], "No such option"),
        (["more"], "unexpected extra argument"),
        (["--host", "a" * 300], "cannot listen on aaa"),
        (["--host", "203.0.113.7"], "cannot listen on 203.0.113.7:1388: "),
    ],
)
@pytest.mark.usefixtures("app")
def test_a_bad_option_is_one_line(capsys: pytest.CaptureFixture[str], options: list[str], says: str) -> None:
    """A bad option is said in one line that says what would do, exit code 2."""
    assert says in refusal(capsys, "run", "app:Echo", *options)


@pytest.mark.parametrize("arguments", [["run"], ["walk"], ["--loud"]])
def test_a_bad_command_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """A missing argument or an unknown command is said in one line."""
    refusal(capsys, *arguments)


@pytest.mark.usefixtures("app")
def test_a_busy_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A port that is taken, also the one for metrics, is named, with the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refusal(capsys, "run", "app:Echo", "--port", port)
        assert f"cannot listen on 127.0.0.1:{port}: " in line
        assert "choose another port" in line
        line = refusal(capsys, "run", "app:Echo", "--port", "0", "--metrics", f"127.0.0.1:{port}")
        assert f"cannot listen on 127.0.0.1:{port}: " in line
        assert "metrics" in line


@pytest.mark.usefixtures("app")
def test_an_unknown_loop_in_the_environment_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong ``GEVPY_LOOP`` is refused alike, and ``--loop`` overrules it."""
    monkeypatch.setenv("GEVPY_LOOP", "trio")
    assert "GEVPY_LOOP='trio' is unknown" in refusal(capsys, "run", "app:Echo")
    assert "GEVPY_LOOP='trio' is unknown" in refusal(capsys, "--version")
    assert "cannot listen" in refusal(capsys, "run", "app:Echo", "--loop", "asyncio", "--host", "203.0.113.7")


def test_an_exception_of_on_start_keeps_its_traceback(tmp_path: Path) -> None:
    """What the application raises while it starts is its author's to see; the exit code is 1."""
    tmp_path.joinpath("app.py").write_text(
        "class Bad:\n    def on_message(self, conn, ctx, data): ...\n    def on_start(self, worker): 1 / 0\n"
    )
    with Program("-m", "gevpy", "run", "app:Bad", "--port", "0", cwd=tmp_path) as program:
        assert program.wait() == 1
    assert "ZeroDivisionError" in program.output


def test_ctrl_c_before_it_serves_is_quiet(tmp_path: Path) -> None:
    """An interrupt while the application is imported ends it without a traceback, exit code 130."""
    tmp_path.joinpath("app.py").write_text(
        "import threading\nprint('importing', flush=True)\nthreading.Event().wait()\n"
    )
    with Program("-m", "gevpy", "run", "app:Echo", cwd=tmp_path) as program:
        program.expect("importing")
        assert program.stop(signal.SIGINT) == 130
    assert "Traceback" not in program.output
