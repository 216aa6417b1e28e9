"""``python -m fuzz TARGET [OPTION...]``: run one target; options are libFuzzer's, such as ``-max_total_time=600``.

New inputs are kept in build/fuzz/TARGET, or in GEVPY_FUZZ_DIR/TARGET; so are those that broke something, as crash-...,
and ``python -m fuzz TARGET FILE`` tries one again. The exit code is 0 only if nothing broke.

The pure sources are what is fuzzed: atheris sees which of their branches an input takes, and nothing of compiled code.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

os.environ["GEVPY_PURE_PYTHON"] = "1"  # before anything of gevpy is imported

import atheris

HERE = Path(__file__).parent
TARGETS = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
LONGEST_BYTES = 4096
SLOWEST_S = 10
MOST_MIB = 1024


def find_sources() -> None:
    """Put in place what finds the pure sources, without importing gevpy: atheris only sees what is found behind it."""
    spec = spec_from_file_location("gevpy._pure", HERE.parent / "gevpy" / "_pure.py")
    assert spec is not None
    assert spec.loader is not None
    pure = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(pure)
    pure.install()


def main(arguments: list[str]) -> None:
    """Run a target until libFuzzer is told to stop, or something breaks; it ends the process."""
    if not arguments or arguments[0] not in TARGETS:
        sys.exit(f"{__doc__}\nTargets: {', '.join(TARGETS)}")
    name, *options = arguments
    found = Path(os.environ.get("GEVPY_FUZZ_DIR") or HERE.parent / "build" / "fuzz") / name
    found.mkdir(parents=True, exist_ok=True)
    find_sources()
    with atheris.instrument_imports(include=["gevpy"]):
        target = import_module(f"fuzz.{name}")
    if all(option.startswith("-") for option in options):
        options = [*options, str(found), str(HERE / "corpus" / name)]
    limits = [f"-max_len={LONGEST_BYTES}", f"-timeout={SLOWEST_S}", f"-rss_limit_mb={MOST_MIB}"]
    atheris.Setup([name, f"-artifact_prefix={found}/", *limits, *options], target.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
