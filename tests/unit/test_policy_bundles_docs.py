"""docs/policy-bundles.md: its files are written and its commands run, in order, with what they print."""

from __future__ import annotations

import re
from pathlib import Path

from agentguard.artifacts.revocation_list import _MEMBERS as LIST_MEMBERS
from agentguard.bundle import _MEMBERS as BUNDLE_MEMBERS
from support.transcript import Session

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policy-bundles.md"
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
        commands = "\n".join(line for line in text.splitlines() if line.startswith("$ "))
        return "\n".join(["```console", *session.play(commands), "```"])

    return _BLOCK.sub(play, page)


def test_everything_on_the_page_goes_as_it_says(tmp_path: Path) -> None:
    page = PAGE.read_text("utf-8")
    assert played(page, tmp_path) == page, f"if this is meant: python {Path(__file__).name}"


def test_the_page_names_every_member() -> None:
    bundles, _, lists = PAGE.read_text("utf-8").partition("A list has the type")
    for members, text in ((BUNDLE_MEMBERS, bundles), (LIST_MEMBERS, lists)):
        for member in members:
            assert re.search(rf"^\| .*`{member}`.* \|", text, re.MULTILINE), member


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        PAGE.write_text(played(PAGE.read_text("utf-8"), Path(made)), "utf-8")
