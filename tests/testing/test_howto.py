"""The examples of docs/howto/testing.md, put into files as its reader would, and run by pytest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.programs import ROOT
from tests.testing.test_plugin import run_pytest

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "howto" / "testing.md"
BLOCK = re.compile(r'^```python title="(\w+\.py)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
INI = "[pytest]\naddopts = -p no:cacheprovider -W error\nasyncio_default_fixture_loop_scope = function\n"


def test_the_examples_run(tmp_path: Path) -> None:
    """Every block of Python belongs to a file, and every test in them passes."""
    page = PAGE.read_text()
    blocks = BLOCK.findall(page)
    assert len(blocks) == page.count("```python"), "each block names its file"
    tests = 0
    for name, code in blocks:
        with (tmp_path / name).open("a") as file:
            file.write(code + "\n\n")
        tests += len(re.findall(r"^(?:async )?def test_", code, re.MULTILINE))
    (tmp_path / "pytest.ini").write_text(INI)
    done = run_pytest(tmp_path, "-p", "pytest_asyncio.plugin")
    assert f"{tests} passed" in done.stdout, done.stdout + done.stderr


def test_the_failure_it_shows_is_what_comes() -> None:
    """The text on the page is that of a codec that reads without looking."""
    page = PAGE.read_text()
    shown = re.search(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert shown is not None
    from gevpy.testing import check_protocol
    from tests.testing.faulty_protocols import ReadingAhead

    pascal = type("Pascal", (ReadingAhead,), {})
    try:
        check_protocol(pascal(), [b"one", b"another"])
    except AssertionError as error:
        text = str(error)
    lines = shown[1].removesuffix(" ...\n").splitlines()
    assert text.splitlines()[: len(lines) - 1] == lines[:-1]
    assert text.splitlines()[-1].startswith(lines[-1])
