"""`agentguard init`: a small working policy and example to start from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.terminal import result, say
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

FILES: Final = ("policy.yaml", "example.py")
_OPEN: Final = 'Guard.open(Path(__file__).with_name("policy.yaml"))'


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write the files.", show_default="here")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write policy.yaml and example.py: two agents, a call that is allowed, some that are denied, a delegation.

    Files that are there are not overwritten: exit 3 names them. With --home the example keeps its home there.

    Example: `agentguard init && python example.py && agentguard lineage`
    """
    taken = [str(directory / name) for name in FILES if (directory / name).exists()]
    if taken and not force:
        raise InvalidInput("there already", place=", ".join(taken), hint="--force overwrites")
    directory.mkdir(parents=True, exist_ok=True)
    starter = resources.files("agentguard.cli") / "starter"
    for name in FILES:
        text = (starter / name).read_text("utf-8")
        if home != DEFAULT_HOME:
            text = text.replace(_OPEN, f"{_OPEN[:-1]}, home={str(home)!r})")
        (directory / name).write_text(text, "utf-8")
    answer = {"written": [str(directory / name) for name in FILES]}
    result(as_json, answer, lambda out: _say(out, directory, answer["written"]))


def _say(out: Console, directory: Path, written: list[str]) -> None:
    for name in written:
        say(out, "written: ", (name, "name"))
    go = "" if directory == Path() else f"cd {directory} && "
    say(out, "next: ", (f"{go}python example.py", "name"), ", then ", ("agentguard lineage", "name"))
