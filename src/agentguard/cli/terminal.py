"""What a command prints: results to standard output, as text or as one JSON document; nothing else goes there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from agentguard.reading.lineage_show import Line

_STYLES: Final = {"good": "green", "bad": "red", "warn": "yellow", "dim": "dim", "name": "bold"}
#: A pipe has no width: tables keep their lines whole, so that `grep` finds what a reader would.
_UNBOUNDED: Final = 4096


def print_json(document: Any) -> None:
    """One JSON document, ASCII only, so that it reads the same in every locale."""
    print(json.dumps(document, indent=2))


def result(as_json: bool, document: Any, show: Callable[[Console], None]) -> None:
    """The result of a command: `document` for programs, or what `show` prints for people."""
    if as_json:
        print_json(document)
    else:
        show(console())


def console() -> Console:
    """Standard output for people."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else _UNBOUNDED)


def table(*columns: str) -> Table:
    """A table without a frame. Long cells fold, they are never cut."""
    from rich.table import Table

    made = Table(box=None, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def count(number: int, what: str) -> str:
    """`1 link`, `2 links`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def print_lines(out: Console, lines: Iterable[Line]) -> None:
    """Lines of (text, role), as `agentguard.reading.lineage_show` makes them."""
    from rich.text import Text

    for line in lines:
        out.print(Text.assemble(*((part, _STYLES.get(role, "")) for part, role in line)), soft_wrap=True)


def say(out: Console, *parts: tuple[str, str] | str) -> None:
    """One line of pieces, each plain or with its role."""
    print_lines(out, [[part if isinstance(part, tuple) else (part, "") for part in parts]])
