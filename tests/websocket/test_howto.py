"""The examples of docs/howto/websocket.md, put into files as its reader would, and run by pytest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.programs import ROOT
from tests.testing.test_plugin import run_pytest

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "howto" / "websocket.md"
BLOCK = re.compile(r'^```python title="(\w+\.py)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
INI = "[pytest]\naddopts = -p no:cacheprovider -W error\nasyncio_default_fixture_loop_scope = function\n"


def test_the_examples_run(tmp_path: Path) -> None:
    """Every block of Python is a whole example or belongs to a file, the tests in them pass, the rest is imported."""
    page = PAGE.read_text()
    blocks = BLOCK.findall(page)
    assert len(blocks) + page.count('```python\n--8<-- "') == page.count("```python"), "each block names its file"
    tests = 0
    for name, code in blocks:
        with (tmp_path / name).open("a") as file:
            file.write(code + "\n\n")
        tests += len(re.findall(r"^(?:async )?def test_", code, re.MULTILINE))
    (tmp_path / "test_imports.py").write_text(
        "def test_imports():\n    import client, echo, many\n"
        "    from gevpy.testing import EmbeddedConnection\n"
        "    EmbeddedConnection(many.Elsewhere(), many.protocol)\n"
    )
    (tmp_path / "pytest.ini").write_text(INI)
    done = run_pytest(tmp_path, "-p", "pytest_asyncio.plugin")
    assert f"{tests + 1} passed" in done.stdout, done.stdout + done.stderr
