"""docs/policy-export.md and docs/policy-explain.md: files are written, commands run, code executed, in order, with what they print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.transcript import Session, inside

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ["policy-export.md", "policy-explain.md"]
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def played(page: str, directory: Path) -> str:
    """The page with what its commands print now."""
    session = Session(directory)
    names: dict[str, object] = {}

    def play(block: re.Match[str]) -> str:
        kind, name, text = block.groups()
        if name is not None:
            (directory / name).write_text(text, "utf-8")
        elif kind == "python":
            with inside(directory):
                exec(compile(text, "docs", "exec"), names)
        else:
            assert kind == "console"
            commands = "\n".join(line for line in text.splitlines() if line.startswith("$ "))  # what is printed may begin with "#"
            return "\n".join(["```console", *session.play(commands), "```"])
        return block[0]

    return _BLOCK.sub(play, page)


@pytest.mark.parametrize("name", PAGES)
def test_what_the_page_shows_is_so(name: str, tmp_path: Path) -> None:
    if name == "policy-export.md":
        pytest.importorskip("cedarpy", reason="cedarpy belongs to the dev extra")
    page = (DOCS / name).read_text("utf-8")
    assert played(page, tmp_path) == page, f"if this is meant: python {Path(__file__).name}"


if __name__ == "__main__":
    import tempfile

    for each in PAGES:
        with tempfile.TemporaryDirectory() as made:
            (DOCS / each).write_text(played((DOCS / each).read_text("utf-8"), Path(made)), "utf-8")
