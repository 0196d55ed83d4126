"""Pages of docs/ that are sessions: their `console` blocks, played one after the other in one directory (see transcript.py).

`<!-- % set task … -->` stages something that the reader need not see. `python tests/support/pages.py PAGE…` writes the answers anew.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from support.transcript import Session

_PIECE = re.compile(r"^```console\n(.*?)^```$|^<!-- (%.*?) -->$", re.MULTILINE | re.DOTALL)


def played(page: str, directory: Path) -> str:
    """The page with the answers that are given now."""
    session = Session(directory)

    def play(match: re.Match[str]) -> str:
        if match[2]:
            list(session.play(match[2]))
            return match[0]
        return "```console\n" + "".join(f"{line}\n" for line in session.play(match[1])) + "```"

    return _PIECE.sub(play, page)


def main() -> None:
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as directory:
            page = Path(name)
            page.write_text(played(page.read_text("utf-8"), Path(directory)), "utf-8")


if __name__ == "__main__":
    main()
