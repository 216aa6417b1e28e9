"""Compile the hot modules of gevpy: every ``.py`` that has a ``.pxd`` beside it.

One source, two speeds. The ``.py`` is what runs without a compiler and what Cython compiles; the
``.pxd`` adds the C types. An extension module lies beside its source and wins the import, so
nothing has to choose at run time.

``GEVPY_BUILD`` says how hard to try:

``auto`` (default)
    Compile. If that fails at any step, say so loudly on stderr and build without extensions.
``required``
    Compile. Any failure, at any step, fails the build. CI and release wheels use it.
``pure``
    Do not compile.

Whatever the mode, the result is whole: all hot modules are compiled, or none is. No extension of an
earlier build is left behind to shadow a newer source.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODES = ("auto", "required", "pure")

# What hot modules may rely on, and what not: see "Compiled modules" in CONTRIBUTING.md.
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    # Types come from the .pxd alone: "int" in the .py is for readers and for mypy.
    "annotation_typing": False,
    # None where an object was expected is an error of the caller's, not a crash.
    "nonecheck": True,
    # help() shows a constructor's arguments in the compiled build, too.
    "embedsignature": True,
    "embedsignature.format": "python",
}


def build_mode() -> str:
    """Return the value of ``GEVPY_BUILD``, checked."""
    mode = os.environ.get("GEVPY_BUILD") or "auto"
    if mode not in MODES:
        sys.exit(f"GEVPY_BUILD={mode}: expected one of {', '.join(MODES)}")
    return mode


def hot_modules() -> list[Extension]:
    """Return one extension for every ``.pxd``; its source is still the ``.py``."""
    return [
        Extension(
            ".".join(pxd.with_suffix("").parts),
            [pxd.with_suffix(".py").as_posix()],
            depends=[pxd.as_posix()],
        )
        for pxd in sorted(Path("gevpy").rglob("*.pxd"))
    ]


class BuildExt(build_ext):
    """Compiles everything or nothing."""

    def initialize_options(self) -> None:
        """Use all cores unless told otherwise."""
        super().initialize_options()
        self.parallel = os.cpu_count()

    def run(self) -> None:
        """Compile as ``GEVPY_BUILD`` demands."""
        roots = {Path(self.build_lib), Path() if self.inplace else Path(self.build_lib)}
        try:
            self.cythonize()
            super().run()
        except Exception as error:
            if build_mode() == "required":
                raise
            self.fall_back(error)
        for root in roots:
            self.remove_leftovers(root)

    def cythonize(self) -> None:
        """Translate to C, under ``build/``, what has changed since the last time."""
        if not self.extensions:
            return
        from Cython.Build import cythonize  # noqa: PLC0415 - not installed for a pure build
        from Cython.Compiler import Errors  # noqa: PLC0415 - the same

        Errors.LEVEL = 3  # "unreachable code" is what every "if cython.compiled: return" must give
        translated = cythonize(
            self.extensions,
            build_dir="build/cython",
            compiler_directives=DIRECTIVES,
            force=bool(self.force),
        )
        sources = {extension.name: extension.sources for extension in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]

    def build_extensions(self) -> None:
        """Compile for speed and without debug information; ``CFLAGS`` has precedence."""
        if self.compiler.compiler_type != "msvc" and "CFLAGS" not in os.environ:
            for extension in self.extensions:
                extension.extra_compile_args = ["-O3", "-g0", "-Wno-sign-compare"]
        super().build_extensions()

    def fall_back(self, error: Exception) -> None:
        """Turn this build into a pure one, and say so."""
        rule = "*" * 80
        print(
            f"{rule}\n"
            f"gevpy: the compiled core could NOT be built: {type(error).__name__}: {error}\n"
            "gevpy: going on with the pure-Python core, which does the same several times slower.\n"
            "gevpy: most often a C compiler or Python's headers (python3-dev) are missing.\n"
            "gevpy: GEVPY_BUILD=required makes this an error; GEVPY_BUILD=pure asks for it.\n"
            f"{rule}",
            file=sys.stderr,
        )
        self.extensions = self.distribution.ext_modules = []
        wheel = self.distribution.get_command_obj("bdist_wheel", create=False)
        if wheel is not None:
            wheel.root_is_pure = True

    def remove_leftovers(self, root: Path) -> None:
        """Remove what earlier builds left for this interpreter and this one did not make."""
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        made = {root / self.get_ext_filename(extension.name) for extension in self.extensions}
        for path in (root / "gevpy").rglob(f"*{suffix}"):
            if path not in made:
                path.unlink()


os.chdir(Path(__file__).parent)
setup(
    ext_modules=[] if build_mode() == "pure" else hot_modules(),
    cmdclass={"build_ext": BuildExt},
)
