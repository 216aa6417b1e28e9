"""Which build is running, whether it is the one asked for, and whether it can be shipped."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import FrozenInstanceError
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import gevpy

ROOT = Path(__file__).parent.parent
PACKAGE = Path(gevpy.__file__).parent
HOT = sorted(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.pxd"))
STATIC = sorted(
    path.relative_to(PACKAGE.parent).as_posix()
    for path in (PACKAGE / "metrics" / "static").rglob("*")
    if path.is_file()
)
PURE_RUN = os.environ.get("GEVPY_PURE_PYTHON") == "1"
QUICKLY = "-O0 -g0"
SERVE_ECHO = """
import asyncio, sys
import gevpy

class Echo(gevpy.Handler):
    def on_message(self, conn, ctx, data):
        return data

async def main():
    async with gevpy.serve(Echo(), port=0) as server:
        print(gevpy.build_info().compiled, server.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)

gevpy.run(main())
"""


def is_extension(name: str) -> bool:
    """Tell whether the module ``name``, as imported here, is compiled."""
    return str(import_module(name).__file__).endswith(tuple(EXTENSION_SUFFIXES))


def python(code: str, *, executable: str | Path = sys.executable, **environment: str) -> str:
    """Run ``code`` in a new interpreter with warnings as errors; give what it printed."""
    done = subprocess.run(
        [executable, "-W", "error", "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def setup_py(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build the extensions of ``tree`` in place, quickly rather than well."""
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=tree,
        env=os.environ | {"CFLAGS": QUICKLY} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


# ---------------------------------------------------------------- what runs


@pytest.mark.parametrize("name", HOT)
def test_hot_module_is_of_the_build_asked_for(name: str, compiled: bool) -> None:
    """``GEVPY_PURE_PYTHON`` and ``GEVPY_BUILD`` are obeyed, and no module differs from the rest."""
    if PURE_RUN or os.environ.get("GEVPY_BUILD") == "pure":
        assert not compiled
    elif os.environ.get("GEVPY_BUILD") == "required":
        assert compiled
    assert is_extension(name) is compiled


def test_the_hot_modules_are_known() -> None:
    """The list above is made from the files, so it must not be empty by mistake."""
    assert "gevpy.ring_buffer" in HOT


def test_build_info_is_one_line(compiled: bool) -> None:
    """``str(build_info())`` says version, core, loop and Python."""
    core = "compiled" if compiled else "pure"
    line = str(gevpy.build_info())
    assert re.fullmatch(rf"gevpy \d+\.\d+\.\d+ \({core}, (uvloop \S+|asyncio), \w+ 3\.\S+\)", line)


def test_build_info_is_frozen() -> None:
    """Facts can't be assigned."""
    with pytest.raises(FrozenInstanceError):
        gevpy.build_info().compiled = True  # type: ignore[misc]


async def test_build_info_names_the_running_loop(loop_kind: str) -> None:
    """Inside a loop the line names that loop."""
    assert gevpy.build_info().loop.split()[0] == loop_kind


def test_pure_python_is_forced_by_the_environment() -> None:
    """``GEVPY_PURE_PYTHON=1`` runs the sources of a compiled tree, in every hot module."""
    printed = python(
        f"from importlib import import_module\nprint({{import_module(name).__file__[-3:] for name in {HOT}}})",
        GEVPY_PURE_PYTHON="1",
    )
    assert printed == "{'.py'}"


def test_pure_python_is_not_forced_by_anything_else(compiled: bool) -> None:
    """Only the value 1 counts."""
    if PURE_RUN:
        pytest.skip("the compiled pass compares")
    printed = python("import gevpy; print(gevpy.build_info().compiled)", GEVPY_PURE_PYTHON="0")
    assert printed == str(compiled)


@pytest.mark.parametrize("pure", ["0", "1"])
def test_cython_is_no_run_time_dependency(pure: str) -> None:
    """Without Cython gevpy imports, compiled and pure."""
    python("import sys\nsys.modules['cython'] = None\nimport gevpy", GEVPY_PURE_PYTHON=pure)


# ---------------------------------------------------------------- how it is built

compiled_pass = pytest.mark.skipif(PURE_RUN, reason="the compiled pass builds")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a copy of what the build reads, with two small hot modules for all of them."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    package = tmp_path / "gevpy"
    package.mkdir()
    shutil.copy(PACKAGE / "build.py", package)
    (package / "__init__.py").touch()
    for name in ("one", "two"):
        (package / f"{name}.py").write_text("class Hot:\n    pass\n")
        (package / f"{name}.pxd").write_text("cdef class Hot:\n    pass\n")
    return tmp_path


def extensions(tree: Path) -> list[str]:
    """Name the modules that are compiled in ``tree``."""
    return sorted(path.name.split(".")[0] for path in (tree / "gevpy").glob("*.so"))


@compiled_pass
@pytest.mark.packaging
@pytest.mark.timeout(240)  # compilers run
class TestBuildModes:
    """``GEVPY_BUILD`` in a small tree of its own."""

    def test_auto_compiles_and_leaves_alone_what_is_unchanged(self, tree: Path) -> None:
        """The second build has nothing to do."""
        assert setup_py(tree, GEVPY_BUILD="auto").returncode == 0
        assert extensions(tree) == ["one", "two"]
        made = {path: path.stat().st_mtime_ns for path in tree.rglob("*.[co]")}
        assert made
        setup_py(tree, GEVPY_BUILD="auto")
        assert {path: path.stat().st_mtime_ns for path in tree.rglob("*.[co]")} == made

    def test_required_fails_without_a_compiler(self, tree: Path) -> None:
        """A C compiler that fails, fails the build."""
        assert setup_py(tree, GEVPY_BUILD="required", CC="/bin/false").returncode != 0

    @pytest.mark.parametrize("suffix", [".py", ".pxd"])
    def test_required_fails_on_a_source_that_cannot_be_translated(self, tree: Path, suffix: str) -> None:
        """So does an error that Cython finds, in either file."""
        (tree / "gevpy" / "two").with_suffix(suffix).write_text("cdef cdef\n")
        assert setup_py(tree, GEVPY_BUILD="required").returncode != 0

    def test_auto_falls_back_loudly_and_wholly(self, tree: Path) -> None:
        """One module that fails makes all of them pure; no extension of an earlier build stays."""
        setup_py(tree, GEVPY_BUILD="required")
        (tree / "gevpy" / "two.py").write_text("class Hot:\n    pass\n\nNEW = 1\n")
        done = setup_py(tree, GEVPY_BUILD="auto", CC="/bin/false")
        assert done.returncode == 0
        assert "could NOT be built" in done.stderr
        assert extensions(tree) == []

    def test_auto_falls_back_without_cython(self, tree: Path) -> None:
        """Cython missing is a failure like any other."""
        (tree / "Cython.py").write_text("raise ImportError\n")
        done = setup_py(tree, GEVPY_BUILD="auto")
        assert (done.returncode, extensions(tree)) == (0, [])
        assert setup_py(tree, GEVPY_BUILD="required").returncode != 0

    def test_pure_removes_what_was_compiled(self, tree: Path) -> None:
        """A pure build is pure in a tree that was compiled before, too."""
        setup_py(tree, GEVPY_BUILD="required")
        assert setup_py(tree, GEVPY_BUILD="pure").returncode == 0
        assert extensions(tree) == []

    def test_an_unknown_mode_is_refused(self, tree: Path) -> None:
        """A misspelt mode must not build something else."""
        done = setup_py(tree, GEVPY_BUILD="require")
        assert done.returncode != 0
        assert "GEVPY_BUILD=require: expected one of auto, required, pure" in done.stderr


# ---------------------------------------------------------------- what is shipped


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from the sdist, as a release would, but quickly compiled."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT],
        env=os.environ | {"GEVPY_BUILD": "required", "CFLAGS": QUICKLY},
        capture_output=True,
        check=True,
    )
    return out


@compiled_pass
@pytest.mark.packaging
@pytest.mark.timeout(240)
class TestPackages:
    """The sdist and the wheel."""

    def test_sdist_holds_what_the_build_and_the_tests_need(self, dist: Path) -> None:
        """Sources, types for Cython, tests, and nothing compiled."""
        with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
            names = [name.partition("/")[2] for name in sdist.getnames()]
        assert {"setup.py", "gevpy/ring_buffer.py", "gevpy/ring_buffer.pxd"} <= set(names)
        assert {"gevpy/py.typed", "tests/conftest.py", "LICENSE", "README.md", *STATIC} <= set(names)
        assert [name for name in names if name.endswith((".so", ".pyc"))] == []
        assert [name for name in names if name.startswith("gevpy/") and name.endswith(".c")] == []

    def test_wheel_holds_every_hot_module_three_times(self, dist: Path) -> None:
        """Extension, source and types, the marker for type checkers, and the files of the live page."""
        with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
            names = wheel.namelist()
        for module in HOT:
            path = module.replace(".", "/")
            kinds = {name.rpartition(".")[2] for name in names if name.startswith(f"{path}.")}
            assert kinds >= {"py", "pxd", "so"}, module
        assert {"gevpy/py.typed", *STATIC} <= set(names)
        assert [name for name in names if not name.startswith("gevpy")] == []

    def test_wheel_serves_echo_in_an_empty_environment(self, dist: Path, tmp_path: Path) -> None:
        """Installed with nothing but its own dependencies, it serves, compiled."""
        venv.create(tmp_path / "venv", with_pip=True)
        installed = tmp_path / "venv" / "bin" / "python"
        subprocess.run([installed, "-m", "pip", "install", "--quiet", next(dist.glob("*.whl"))], check=True)
        with subprocess.Popen(
            [installed, "-W", "error", "-c", SERVE_ECHO],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            is_compiled, port = server.stdout.readline().split()
            with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as client:
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"
            server.stdin.close()
            assert server.wait(timeout=20) == 0
        assert is_compiled == "True"
