"""docs/approvals.md and docs/tasks.md do what they say: their files are written, their sessions go as they stand there, their code runs."""

from __future__ import annotations

import ast
import asyncio
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard
from support.approving import answers
from support.pages import played

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def staged(name: str, directory: Path) -> str:
    """The page, its named blocks written to files."""
    page = (DOCS / f"{name}.md").read_text("utf-8")
    for _, file, text in _BLOCK.findall(page):
        if file:
            (directory / file).write_text(text, "utf-8")
    return page


@pytest.mark.parametrize("name", ["approvals", "tasks"])
def test_a_page_goes_as_it_is_written(name: str, tmp_path: Path) -> None:
    page = staged(name, tmp_path)
    assert played(page, tmp_path) == page, f"if this is meant: python tests/unit/{Path(__file__).name} {name}"


def sync_tool(amount: int, to: str) -> str:
    return f"sent {amount} to {to}"


async def async_tool(amount: int, to: str) -> str:
    return f"sent {amount} to {to}"


@pytest.mark.parametrize(("block", "tool"), [(0, sync_tool), (1, async_tool)])
def test_what_the_page_says_of_waiting(block: int, tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = [text for kind, file, text in _BLOCK.findall(staged("approvals", tmp_path)) if kind == "python" and not file][block]
    with Guard.open(tmp_path / "policy.yaml", home=tmp_path / "home", durability="process") as guard:
        thread = threading.Thread(target=carol, args=(guard,))
        thread.start()
        names = {"guard": guard, "send_money": guard.tool(name="send_money")(tool)}
        made = eval(compile(code, "docs/approvals.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        if made is not None:
            asyncio.run(made)
        thread.join()
    assert capsys.readouterr().out == "sent 500 to bob\n"


def carol(guard: Guard) -> None:
    """Somebody who approves the first request that comes."""
    until = time.monotonic() + 30
    while not (waiting := guard.home.inbox.all()):
        assert time.monotonic() < until
        time.sleep(0.005)
    assert waiting[0].request is not None
    answers(guard.home, waiting[0].request)


if __name__ == "__main__":
    import tempfile

    for page in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as made_here:
            (DOCS / f"{page}.md").write_text(played(staged(page, Path(made_here)), Path(made_here)), "utf-8")
