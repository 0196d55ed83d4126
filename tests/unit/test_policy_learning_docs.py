"""docs/policy-learning.md, from nothing to enforcement: its files are written and its commands run, in order, with what they print."""

from __future__ import annotations

import re
from pathlib import Path

from support.transcript import Session

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policy-learning.md"
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def played(page: str, directory: Path) -> str:
    """The page with what its commands print now."""
    session = Session(directory)

    def play(block: re.Match[str]) -> str:
        kind, name, text = block.groups()
        if name is not None:
            (directory / name).write_text(text, "utf-8")
            return block[0]
        assert kind == "console"
        commands = "\n".join(line for line in text.splitlines() if line.startswith("$ "))  # what is printed may begin with "#"
        return "\n".join(["```console", *session.play(commands), "```"])

    return _BLOCK.sub(play, page)


def test_the_path_goes_as_the_page_says(tmp_path: Path) -> None:
    page = PAGE.read_text("utf-8")
    assert played(page, tmp_path) == page, f"if this is meant: python {Path(__file__).name}"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        PAGE.write_text(played(PAGE.read_text("utf-8"), Path(made)), "utf-8")
