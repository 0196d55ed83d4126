"""docs/cli.md, made from the command line itself. `python tests/support/cli_reference.py` writes it anew; a test compares."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from agentguard.cli import app

FILE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"

_HEAD = """\
# The command line

Made from the command line itself by `tests/support/cli_reference.py`; a test keeps the two together. `tests/cli/*.transcript` are whole
sessions, played by the tests.

- Results go to standard output, everything else to standard error. `--json` prints one JSON document instead of text.
- Exit codes: 0 done or allowed, 1 failure (damage was found, something is not available), 2 denied or ask, 3 invalid input or usage, 130
  interrupted.
- An error is one line: `error: place: message (hint)`.
- Commands that only look make no home and change nothing in one but its query index. A stop is in force even where it cannot be recorded.
"""


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(full name, command) of every command, groups before what is in them."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


def everything() -> list[tuple[str, Any]]:
    """Every command there is."""
    return list(commands(typer.main.get_command(app), "agentguard"))


def _row(parameter: Any) -> str:
    name = ", ".join(f"`{option}`" for option in sorted(parameter.opts, key=len)) if parameter.param_type_name == "option" else ""
    metavar = parameter.metavar or ""
    shown = f"{name} {metavar}".strip() if name else f"`{metavar or parameter.name}`"
    needed = " Required." if parameter.required else ""
    text = " ".join((parameter.help or "").split()).replace("|", "\\|")
    return f"| {shown.replace('|', chr(92) + '|')} | {text}{needed} |"


def reference() -> str:
    """The whole page."""
    parts = [_HEAD]
    for path, command in everything()[1:]:
        text = inspect.cleandoc(command.help or "")
        text = re.sub(r"\[/?bold\]", "**", text)
        parts.append(f"## {path}\n\n{text}\n")
        if hasattr(command, "commands"):
            continue
        rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            parts.append("\n".join(["| | |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(reference(), "utf-8")
