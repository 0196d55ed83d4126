"""docs/queries.md and docs/exports.md do what they say: the sessions go as they stand there, the Python runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.pages import played
from support.transcript import Session, inside

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", ["queries", "exports", "evidence"])
def test_a_page_goes_as_it_is_written(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "exports":
        pytest.importorskip("pyarrow", reason="pyarrow is the extra `parquet`")
    page = (DOCS / f"{name}.md").read_text("utf-8")
    assert played(page, tmp_path) == page, f"if this is meant: PYTHONPATH=tests python tests/support/pages.py docs/{name}.md"
    for code in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        with inside(tmp_path):
            exec(compile(code, name, "exec"), {})
        assert "send_email" in capsys.readouterr().out


def test_a_page_that_is_wrong_is_seen(tmp_path: Path) -> None:
    page = "```console\n$ agentguard log query\n[exit 0]\n```\n"
    assert played(page, tmp_path) != page
    assert list(Session(tmp_path).play("$ agentguard log query"))[-1] == "[exit 3]"
