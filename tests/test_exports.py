"""What gevpy exports, and what importing it costs."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

import gevpy

MODULES = sorted(["gevpy", *(module.name for module in pkgutil.walk_packages(gevpy.__path__, "gevpy."))])
LAZY = ["click", "cobs", "google", "msgpack", "orjson", "prometheus_client", "pytest", "wsproto"]


def in_a_fresh_process(code: str) -> str:
    """Run ``code`` in a new interpreter with warnings as errors; give what it printed."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_exports(name: str) -> None:
    """``__all__`` is there, without doubles, and every name in it exists."""
    module = import_module(name)
    exported = module.__all__
    assert len(exported) == len(set(exported))
    assert [each for each in exported if not hasattr(module, each)] == []


@pytest.mark.parametrize("name", MODULES)
def test_every_module_opens_with_its_concept(name: str) -> None:
    """Each module has a docstring."""
    assert import_module(name).__doc__


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_every_module_imports_first(name: str) -> None:
    """In a fresh process each module can be the first to be imported, without a warning."""
    in_a_fresh_process(f"import {name}")


def test_the_version_is_where_one_looks_for_it() -> None:
    """``gevpy.__version__`` is that of the build."""
    assert gevpy.__version__ == gevpy.build_info().version


def test_importing_gevpy_loads_no_lazy_dependency() -> None:
    """``import gevpy`` leaves alone what is loaded on first use."""
    loaded = in_a_fresh_process(f"import sys, gevpy; print([name for name in {LAZY} if name in sys.modules])")
    assert loaded == "[]"


def test_star_import_gives_the_public_names_and_no_warning() -> None:
    """``from gevpy import *`` gives ``gevpy.__all__``."""
    missing = in_a_fresh_process(
        "import gevpy\nfrom gevpy import *\nprint([n for n in gevpy.__all__ if n not in globals()])"
    )
    assert missing == "[]"


def test_public_names_are_complete() -> None:
    """Every public name that ``gevpy`` holds and that is its own is in ``gevpy.__all__``."""
    own = {
        name
        for name, value in vars(gevpy).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("gevpy.")
    }
    assert own <= set(gevpy.__all__)


def test_public_classes_have_one_home() -> None:
    """What ``gevpy`` exports comes from a module that exports it too."""
    strays = []
    for name in gevpy.__all__:
        home = getattr(getattr(gevpy, name), "__module__", None)
        if home is not None and name not in import_module(home).__all__:
            strays.append(f"{home}.{name}")
    assert strays == []
