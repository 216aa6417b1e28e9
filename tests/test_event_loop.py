"""The choice of the event loop, and the policy adapter on Pythons with and without policies."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import types
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from gevpy import event_loop
from gevpy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

LAZY = ("EventLoopPolicy", "install")


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what an earlier access has built."""
    for name in LAZY:
        monkeypatch.delitem(vars(event_loop), name, raising=False)


@pytest.fixture(params=["asyncio", "uvloop"])
def forced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force each loop in turn through the environment."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    monkeypatch.setenv("GEVPY_LOOP", request.param)
    return str(request.param)


@pytest.fixture
def without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make uvloop fail to import, whether it is installed or not."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.delenv("GEVPY_LOOP", raising=False)


def _family(loop: asyncio.AbstractEventLoop) -> str:
    """Tell asyncio's loops from uvloop's, and close the loop."""
    loop.close()
    return "asyncio" if isinstance(loop, asyncio.BaseEventLoop) else type(loop).__module__


def test_the_environment_forces_a_loop(forced: str) -> None:
    """GEVPY_LOOP decides which loop is made, and how it is called."""
    assert _family(event_loop.new_event_loop()) == forced
    assert event_loop.loop_name().split()[0] == forced


def test_the_environment_is_read_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing GEVPY_LOOP counts from the next call on."""
    pytest.importorskip("uvloop")
    families = []
    for value in ("asyncio", "uvloop", " ASYNCIO "):
        monkeypatch.setenv("GEVPY_LOOP", value)
        families.append(_family(event_loop.new_event_loop()))
    assert families == ["asyncio", "uvloop", "asyncio"]


@pytest.mark.parametrize("value", [None, ""])
def test_uvloop_is_the_default_where_it_imports(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """Unset and empty mean: uvloop if possible, with its version in the name."""
    uvloop = pytest.importorskip("uvloop")
    if value is None:
        monkeypatch.delenv("GEVPY_LOOP", raising=False)
    else:
        monkeypatch.setenv("GEVPY_LOOP", value)
    assert _family(event_loop.new_event_loop()) == "uvloop"
    assert event_loop.loop_name() == f"uvloop {uvloop.__version__}"


@pytest.mark.usefixtures("without_uvloop")
def test_asyncio_is_the_default_elsewhere() -> None:
    """Without uvloop, asyncio's selector loop serves."""
    loop = event_loop.new_event_loop()
    assert isinstance(loop, asyncio.SelectorEventLoop)
    loop.close()
    assert event_loop.loop_name() == "asyncio"


@pytest.mark.usefixtures("without_uvloop")
def test_forcing_a_missing_uvloop_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what is missing and what to do, and keeps its cause."""
    monkeypatch.setenv("GEVPY_LOOP", "uvloop")
    with pytest.raises(ConfigError, match="pip install uvloop") as caught:
        event_loop.new_event_loop()
    assert isinstance(caught.value.__cause__, ImportError)


def test_an_unknown_loop_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, the value and the choices."""
    monkeypatch.setenv("GEVPY_LOOP", "trio")
    for ask in (event_loop.new_event_loop, event_loop.loop_name):
        with pytest.raises(ConfigError, match=r"GEVPY_LOOP='trio' .* uvloop or asyncio"):
            ask()


# run


def test_run_gives_the_result_on_the_chosen_loop(forced: str) -> None:
    """The coroutine runs on the forced loop, which is closed afterwards."""

    async def main() -> tuple[asyncio.AbstractEventLoop, str]:
        return asyncio.get_running_loop(), event_loop.loop_name()

    loop, name = event_loop.run(main())
    assert loop.is_closed()
    assert name.split()[0] == forced


def test_run_passes_debug_on() -> None:
    """The loop's debug mode is what was asked for."""

    async def debugging() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert event_loop.run(debugging(), debug=True)
    assert not event_loop.run(debugging(), debug=False)


def test_run_raises_what_the_coroutine_raises() -> None:
    """An exception passes through."""

    async def main() -> None:
        await asyncio.sleep(0)
        message = "from main"
        raise LookupError(message)

    with pytest.raises(LookupError, match="from main"):
        event_loop.run(main())


def test_run_with_a_bad_choice_leaves_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coroutine that could not be run is closed, so Python does not complain about it."""
    monkeypatch.setenv("GEVPY_LOOP", "nonsense")
    main = asyncio.sleep(0)
    with pytest.raises(ConfigError):
        event_loop.run(main)
    assert inspect.getcoroutinestate(main) == inspect.CORO_CLOSED


# the running loop's name


def test_the_running_loop_is_named_not_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a program's own loop, the name is that loop's, whatever GEVPY_LOOP says."""

    async def name() -> str:
        return event_loop.loop_name()

    monkeypatch.setenv("GEVPY_LOOP", "nonsense")
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(name()) == "asyncio"


def test_a_loop_of_another_make_has_its_class_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third loop is shown as what it is."""
    monkeypatch.setattr(asyncio, "get_running_loop", types.SimpleNamespace)
    assert event_loop.loop_name() == "types.SimpleNamespace"


# policies


class Base:
    """Stands for asyncio's default policy."""


class FutureAsyncio(types.ModuleType):
    """asyncio as of Python 3.14: the policies are there, and each look at them warns."""

    policy: object = None

    def __getattr__(self, name: str) -> Any:
        """Warn, then give the deprecated names."""
        if name not in ("DefaultEventLoopPolicy", "set_event_loop_policy"):
            raise AttributeError(name)
        warnings.warn(f"asyncio.{name} is deprecated", DeprecationWarning, stacklevel=2)
        return Base if name == "DefaultEventLoopPolicy" else self._set

    def _set(self, policy: object) -> None:
        warnings.warn("set_event_loop_policy is deprecated", DeprecationWarning, stacklevel=2)
        self.policy = policy


@pytest.fixture
def own_policy() -> Iterator[None]:
    """Put the process's policy back to the default afterwards."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(None)


needs_policies = pytest.mark.skipif(sys.version_info >= (3, 16), reason="asyncio has no policies any more")


@needs_policies
@pytest.mark.usefixtures("unbuilt")
def test_the_policy_makes_the_chosen_loop(forced: str) -> None:
    """The policy is an asyncio policy whose new loops are gevpy's; it is built once."""
    policy_class = event_loop.EventLoopPolicy
    assert policy_class is event_loop.EventLoopPolicy
    assert (policy_class.__module__, policy_class.__qualname__) == (
        "gevpy.event_loop",
        "EventLoopPolicy",
    )
    assert _family(policy_class().new_event_loop()) == forced


@needs_policies
@pytest.mark.usefixtures("unbuilt", "own_policy")
def test_install_makes_asyncio_use_the_chosen_loop(forced: str) -> None:
    """After install(), asyncio's own entrance gives gevpy's loop."""
    event_loop.install()
    assert _family(asyncio.new_event_loop()) == forced


@pytest.mark.usefixtures("unbuilt")
def test_deprecated_policies_are_used_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where policies warn on use, as in Python 3.14, neither access nor install() does."""
    future = FutureAsyncio("asyncio")
    monkeypatch.setattr(event_loop, "asyncio", future)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy_class: type = event_loop.EventLoopPolicy
        event_loop.install()
    assert issubclass(policy_class, Base)
    assert isinstance(future.policy, policy_class)


@pytest.mark.usefixtures("unbuilt")
@pytest.mark.parametrize("name", LAZY)
def test_without_policies_access_names_the_other_way(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where asyncio has no policies left, AttributeError says what to use; hasattr is False."""
    monkeypatch.setattr(event_loop, "asyncio", types.ModuleType("asyncio"))
    with pytest.raises(AttributeError, match=rf"{name} .* gevpy\.new_event_loop"):
        getattr(event_loop, name)
    assert not hasattr(event_loop, name)


def test_other_names_are_missing_as_usual() -> None:
    """The lazy names do not hide a misspelling."""
    with pytest.raises(AttributeError, match="has no attribute 'EventLoopPolice'"):
        event_loop.EventLoopPolice  # noqa: B018  # the access is what fails


SCRIPT = """
import sys
import gevpy.event_loop as el
assert not {"EventLoopPolicy", "install"} & set(vars(el)), "built on import"
import asyncio
if sys.version_info < (3, 16):
    el.EventLoopPolicy
    el.install()
    async def name():
        return el.loop_name()
    print(asyncio.run(name()))
else:
    print(el.loop_name())
"""


def test_a_fresh_interpreter_sees_no_warning(forced: str) -> None:
    """Import, first access and install() are silent even where warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[0] == forced


def test_importing_the_module_does_not_import_uvloop() -> None:
    """A program that never runs a loop does not pay for uvloop."""
    script = "import sys, gevpy.event_loop; sys.exit('uvloop' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
