"""`agentguard policy diff`: what one policy allows and another does not, by meaning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentguard.cli.exits import DENIED, DONE, FAILED, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.terminal import count, result, say

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.analysis.changes import Change

_TITLES = {True: ("becomes allowed", "bad"), False: ("becomes denied", "good"), None: ("changes", "warn")}


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The policy as it was.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The policy as it will be.")],
    seconds: Annotated[float, typer.Option("--seconds", metavar="N", min=0.1, help="At most so long for one tool of one agent.")] = 60.0,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show what becomes allowed and what becomes denied, by meaning and with example calls that the two policies judge differently.

    Layout, order and other words for the same rules are no difference. Needs `agentguard[prove]`.

    Exit 0 if the policies are proven to allow the same, 2 if there is a difference, 1 if none was found and something could not be decided.

    Example: `agentguard policy diff old.yaml new.yaml`
    """
    from rich.console import Console
    from rich.progress import Progress

    from agentguard.analysis.diff import differences
    from agentguard.analysis.search import Search, load_z3
    from agentguard.policy import load

    load_z3()
    before, after = load(old), load(new)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task("comparing", total=None)
        changes = list(differences(before, after, lambda: Search(seconds=seconds)))
    document = {
        "same": not changes,
        "old": {"file": str(old), "digest": before.digest},
        "new": {"file": str(new), "digest": after.digest},
        "changes": [change.to_json() for change in changes],
    }
    result(as_json, document, lambda out: _show(out, f"{old} -> {new}", changes))
    leave(DENIED if any(change.sure for change in changes) else FAILED if changes else DONE)


def _show(out: Console, title: str, changes: list[Change]) -> None:
    found = [change for change in changes if change.sure]
    unsure = [change for change in changes if not change.sure]
    if not changes:
        say(out, (title, "name"), ": no difference, for all calls")
        return
    say(out, (title, "name"), f": {count(len(found), 'difference')}" + (f", {len(unsure)} unknown" if unsure else ""))
    for change in found:
        _say(out, *_TITLES[change.allowed], change)
    for change in unsure:
        _say(out, "unknown", "warn", change)


def _say(out: Console, title: str, role: str, change: Change) -> None:
    from agentguard.analysis.calls import brief

    say(out, (f"  {title}", role), f"  {change.summary()}")
    places = [f"{word} {place}" for word, place in (("old", change.old_place), ("new", change.new_place)) if place]
    if change.example is not None:
        say(out, f"      for example {brief(change.example)}")
    if places:
        say(out, (f"      {', '.join(places)}", "dim"))
