"""docs/transparency.md does what it says: its session goes as it stands there, its Python runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.pages import played
from support.transcript import inside

PAGE = Path(__file__).resolve().parents[2] / "docs" / "transparency.md"


def test_the_page_goes_as_it_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGE.read_text("utf-8")
    assert played(page, tmp_path) == page, "if this is meant: PYTHONPATH=tests python tests/support/pages.py docs/transparency.md"
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    with inside(tmp_path):
        exec(compile(code, PAGE.name, "exec"), {})
    assert capsys.readouterr().out == "46 records are witnessed\n"
