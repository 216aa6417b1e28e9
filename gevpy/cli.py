"""The ``gevpy`` command: serve a handler from the shell.

    gevpy run module:handler     serve until SIGINT or SIGTERM; exit code 0 after the drain
    gevpy --version              version, build, loop and Python

Whatever keeps it from serving (a wrong name, a busy port, a bad option, a module that doesn't import) is one line on
stderr and exit code 2, or 3 where not one of many workers could start. An exception of the application's own
``on_start`` keeps its traceback: its author needs that.

The command is the one place of gevpy that configures logging, sets ``GEVPY_LOOP`` and ends the process; it is built
on the same `gevpy.serve` that programs call.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from gevpy.build import build_info
from gevpy.doctor import doctor_command
from gevpy.errors import BindError, ConfigError, GevError, WorkerError
from gevpy.event_loop import run
from gevpy.hooks import check_handler
from gevpy.options import MAX_PORT, Limits, Timeouts, require_seconds
from gevpy.placement import PLACEMENTS
from gevpy.protocol import FixedLengthProtocol, LengthPrefixedProtocol, LineProtocol, Protocol, RawProtocol
from gevpy.reloading import run_reloading
from gevpy.serving import Serving, serve
from gevpy.systemd import passed_sockets
from gevpy.top import top_command
from gevpy.worker_count import workers_option

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gevpy.placement import PlacementName

__all__ = ["main"]

EXIT_CANNOT = 2
EXIT_NO_WORKER = 3  # not one worker could start
EXIT_INTERRUPTED = 128 + 2  # what a shell reports for a program that SIGINT ended


def _websocket() -> Protocol:
    from gevpy.websocket import WebSocketProtocol  # noqa: PLC0415 - its libraries take 35 ms to load, for it alone

    return WebSocketProtocol()


PROTOCOLS: dict[str, Callable[[], Protocol]] = {
    "raw": RawProtocol,
    "line": LineProtocol,
    "length-prefixed": LengthPrefixedProtocol,
    "websocket": _websocket,
}
FIXED = re.compile(r"fixed:(\d{1,9})")

logger = logging.getLogger("gevpy.cli")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process: the console entry point.

    Args:
        arguments: what stands behind the command's name; default ``sys.argv[1:]``.

    Raises:
        SystemExit: always. 0: it served, or said what it was asked; 2: it can't, and one line on stderr says why;
            3: not one worker could start; 130: interrupted before it served.
    """
    try:
        command.main(arguments, prog_name="gevpy", standalone_mode=False)
    except click.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        _give_up(error.format_message(), error)
    except BindError as error:
        _give_up(f"{error}; {_way_out(error)}", error)
    except WorkerError as error:
        _give_up(str(error), error, EXIT_NO_WORKER)
    except GevError as error:
        _give_up(str(error), error)
    sys.exit(0)


def _give_up(message: str, error: Exception, code: int = EXIT_CANNOT) -> NoReturn:
    logger.debug("gave up because of this", exc_info=error)
    click.echo(f"gevpy: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _way_out(error: BindError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "stop what listens there, or choose another port (0 takes a free one)"
    if error.errno == errno.EACCES:
        return "choose a port above 1023, or run with the right to use this one"
    return "choose an address of this machine"


# -- options ---------------------------------------------------------------------------------------


def _print_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click calls it
    if wanted and not context.resilient_parsing:
        click.echo(str(build_info()))
        context.exit()


def _idle_timeout(_context: click.Context, _option: click.Parameter, text: str) -> float | None:
    if text.lower() == "off":
        return None
    try:
        seconds = float(text)
        require_seconds("--idle-timeout", seconds)
    except ValueError as error:
        message = f'--idle-timeout must be a number of seconds above 0, or "off", not {text!r}'
        raise click.UsageError(message) from error
    return seconds


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show version, build, event loop and Python, and exit.",
)
@click.pass_context
def command(context: click.Context) -> None:
    """A fast, non-blocking TCP and WebSocket server framework for asyncio."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@command.command("run", short_help="Serve a handler until Ctrl-C or SIGTERM.")
@click.argument("target", metavar="MODULE:HANDLER")
@click.option("--host", default="127.0.0.1", show_default=True, help='Address or name to listen on; "" for all.')
@click.option(
    "--port", type=click.IntRange(0, MAX_PORT), default=1388, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "--protocol",
    default="raw",
    show_default=True,
    metavar="NAME",
    help="raw, line, length-prefixed, fixed:N (N bytes each), websocket, or MODULE:PROTOCOL.",
)
@click.option("--loop", type=click.Choice(["uvloop", "asyncio"]), help="Event loop; default: uvloop if it is there.")
@click.option(
    "--idle-timeout",
    default="120",
    show_default=True,
    metavar="SECONDS",
    callback=_idle_timeout,
    help='Close connections on which nothing moved for so long; "off" for never.',
)
@click.option(
    "--metrics", metavar="HOST:PORT", help="Serve a live page, /metrics, /stats.json, /healthz and /readyz there."
)
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    metavar="N",
    help="Connections at once; default: 10000, or what the descriptor limit allows.",
)
@workers_option("Processes that serve")
@click.option(
    "--placement",
    type=click.Choice(PLACEMENTS),
    default="reuseport",
    show_default=True,
    help="Which worker gets a connection.",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long connections may take to end when the server stops.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to log to stderr.",
)
@click.option("--reload", is_flag=True, help="Start again when a Python file here changes; for development.")
def run_command(target: str, loop: str | None, log_level: str, *, reload: bool, **options: Any) -> None:
    """Serve a handler until Ctrl-C or SIGTERM, then end connections gently.

    MODULE:HANDLER names a class with an on_message method, or an object of one. The current directory is importable.

    \b
    With this in echo.py:
        import gevpy
    \b
        class Echo(gevpy.Handler):
            def on_message(self, conn, ctx, data):
                return data
    \b
    this serves it, line by line, on port 1833:
        gevpy run echo:Echo --port 1833 --protocol line
    """  # noqa: D301 - \b is click's mark for "don't rewrap"
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if reload:
        run_reloading([argument for argument in sys.argv[1:] if argument != "--reload"])
        return
    if loop is not None:
        os.environ["GEVPY_LOOP"] = loop
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    run(_wait_for(_serving(target, **options)))


command.add_command(doctor_command)
command.add_command(top_command)


def _serving(  # noqa: PLR0913 - one for each option
    target: str,
    *,
    host: str,
    port: int,
    protocol: str,
    idle_timeout: float | None,
    metrics: str | None,
    max_connections: int | None,
    workers: int | Literal["auto"],
    placement: PlacementName,
    drain_timeout: float,
) -> Serving:
    return serve(
        _handler_named(target),
        host,
        port,
        sockets=passed_sockets() or None,
        protocol=_protocol_named(protocol),
        idle_timeout_s=idle_timeout,
        metrics=metrics,
        limits=Limits(max_connections=max_connections),
        workers=workers,
        placement=placement,
        timeouts=Timeouts(drain_s=drain_timeout),
    )


async def _wait_for(serving: Serving) -> None:
    await serving


# -- names -----------------------------------------------------------------------------------------


def _handler_named(target: str) -> Any:
    found = _import("MODULE:HANDLER", target)
    if isinstance(found, type) and callable(getattr(found, "on_message", None)):
        found = _make(target, found)
    try:
        check_handler(found)
    except ConfigError as error:
        raise click.UsageError(f"{target} is no handler, which is a class or object with on_message()") from error
    return found


def _protocol_named(name: str) -> Protocol:
    if name in PROTOCOLS:
        return PROTOCOLS[name]()
    fixed = FIXED.fullmatch(name)
    if fixed:
        try:
            return FixedLengthProtocol(int(fixed[1]))
        except ConfigError as error:
            raise click.UsageError(f"--protocol {name}: {error}") from error
    if ":" not in name:
        known = ", ".join(PROTOCOLS)
        raise click.UsageError(f"--protocol must be {known}, fixed:N or MODULE:PROTOCOL, not {name!r}")
    found = _import("--protocol", name)
    if isinstance(found, type) and issubclass(found, Protocol):
        found = _make(name, found)
    if not isinstance(found, Protocol):
        raise click.UsageError(f"--protocol {name} is no protocol, which is a gevpy.Protocol class or object")
    return found


def _import(what: str, name: str) -> Any:
    """Find what ``"module:attribute"`` names."""
    module_name, _, path = name.partition(":")
    is_file = module_name.endswith(".py")
    if is_file or not path or not all(part.isidentifier() for part in module_name.split(".")):
        likely = module_name.removesuffix(".py").strip("./").replace("/", ".") or "module"
        raise click.UsageError(
            f"{what} must be a module and a name in it, such as {likely}:{path or 'Echo'}, not {name!r}"
        )
    found = _import_module(module_name)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise click.UsageError(f"{name} can't be found: {_named(found)} has no {attribute!r}{_handlers_in(found)}")
        found = getattr(found, attribute)
    return found


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            message = f"no module {name!r} here or on Python's path; run gevpy in the directory it is in"
            raise click.UsageError(message) from error
        raise _broken(f"importing {name}", error) from error
    except (Exception, SystemExit) as error:
        raise _broken(f"importing {name}", error) from error


def _make(name: str, class_: type) -> Any:
    try:
        return class_()
    except Exception as error:
        raise _broken(f"making {name}()", error) from error


def _broken(what: str, error: BaseException) -> click.ClickException:
    """Say in one line what of the application failed, and where; importlib's own frames tell nothing."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    where = "" if isinstance(error, SyntaxError) else f" ({frames[-1].filename}, line {frames[-1].lineno})"
    return click.ClickException(
        f"{what} failed: {type(error).__name__}: {error}{where}; --log-level debug shows the traceback"
    )


def _named(found: Any) -> str:
    return str(getattr(found, "__name__", None) or type(found).__name__)


def _handlers_in(found: Any) -> str:
    """List what the one who mistyped may have meant."""
    if not isinstance(found, ModuleType):
        return ""
    classes = [value for value in vars(found).values() if isinstance(value, type)]
    names = [one.__name__ for one in classes if one.__module__ == found.__name__ and hasattr(one, "on_message")]
    return f", but {', '.join(names)}" if names else ""
