"""Every target of fuzz/, for 15 seconds each: what a parser is given may break nothing (catalogue E19).

atheris sees the branches of Python code only, so it is the turn with the pure sources that runs them. `make fuzz` runs
them longer (``GEVPY_FUZZ_S``, in seconds), and keeps in build/fuzz what was found.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

import gevpy
from tests.programs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = int(os.environ.get("GEVPY_FUZZ_S", "0"))
SECONDS_IN_CI = 15
SPARE_S = 120  # to start, and to end the last input
SEED = () if SECONDS else ("-seed=1",)  # what lands is held to the same inputs each time, as far as its seconds go
TARGETS = sorted(path.stem for path in (ROOT / "fuzz").glob("[a-z]*.py"))

pytestmark = [
    pytest.mark.timeout((SECONDS or SECONDS_IN_CI) + SPARE_S),
    pytest.mark.skipif(find_spec("atheris") is None, reason="atheris isn't installed: it is in the extra fuzz"),
    pytest.mark.skipif(gevpy.build_info().compiled, reason="atheris sees only pure sources: GEVPY_PURE_PYTHON=1"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_breaks_anything(target: str, tmp_path: Path) -> None:
    """E19: no bytes make a parser raise what isn't documented, hang, or depend on how they are cut."""
    environment = os.environ | ({} if SECONDS else {"GEVPY_FUZZ_DIR": str(tmp_path)})
    ran = subprocess.run(
        [sys.executable, "-m", "fuzz", target, f"-max_total_time={SECONDS or SECONDS_IN_CI}", *SEED],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "INFO: Instrumenting gevpy." in ran.stderr, "it isn't guided by coverage"
    assert "DONE" in ran.stderr, ran.stderr[-4000:]
    tried = [line.split("\t")[0].lstrip("#") for line in ran.stderr.splitlines() if "DONE" in line]
    assert int(tried[-1]) > len(list((ROOT / "fuzz" / "corpus" / target).iterdir())), "all seeds, and more"


def test_every_target_has_seeds() -> None:
    """A target without seeds would spend its seconds on finding what a frame is."""
    assert {path.name for path in (ROOT / "fuzz" / "corpus").iterdir()} == set(TARGETS)
