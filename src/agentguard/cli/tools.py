"""`agentguard tools lock|verify`: pin what each tool is, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import FAILED, leave
from agentguard.cli.inputs import DEFAULT_HOME, ByOption, HomeOption, JsonOption, ReasonOption, operator
from agentguard.cli.terminal import count, result, say, table
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.cli.discovery import Found
    from agentguard.tools.integrity import Lock, Tool

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Pin what each tool is, and compare. Where a lock exists, a tool that is not in it, or differs from it, does not run.\n\n"
    "Example: `agentguard tools lock example.py`",
)

SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MODULE:GUARD",
        help="A module or a .py file that registers tools; after a colon a guard, or a function that makes one.",
    ),
]


@app.command("lock")
def lock(
    sources: SourcesArgument,
    by: ByOption = None,
    reason: ReasonOption = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Import an application, pin every tool that it registers, and write the tool lock.

    The lock pins source, qualified name, defaults, closure, schema and injected arguments of each tool. The change is recorded as evidence.
    Review the file and keep it under version control. Guards read it when they open.

    Example: `agentguard tools lock example.py`
    """
    from agentguard.cli.discovery import discover
    from agentguard.environment import Clock
    from agentguard.home import Home
    from agentguard.ledger import Ledger
    from agentguard.log.layout import replace_file
    from agentguard.tools.integrity import LOCK_FILE, Lock

    found = discover(sources)
    where = _home(home, found)
    made, before = Lock.of(found.tools), Lock.load(where / LOCK_FILE)
    path = where / LOCK_FILE
    with Home(where) as opened:
        detail = {
            "before": before.digest if before is not None else None,
            "lock": made.digest,
            "reason": reason,
            "tools": sorted(found.tools),
        }
        opened.objects.put(made.canonical)
        Ledger(opened, Clock()).note("lock", detail, by=operator(by))
        replace_file(path, made.dump())
    changes = _differences(made, before)
    answer = {
        "file": str(path),
        "lock": made.digest,
        "tools": {name: _pinned(tool) for name, tool in found.tools.items()},
        "changes": changes,
    }
    result(as_json, answer, lambda out: _say_lock(out, answer, before is None))


def _home(home: Path, found: Found) -> Path:
    """The home that was named, or else the one that the application's guards use."""
    homes = set(found.homes)
    if home != DEFAULT_HOME or not homes:
        return home
    if len(homes) > 1:
        raise InvalidInput("the guards use different homes", place=", ".join(map(str, sorted(homes))), hint="choose one with --home")
    return homes.pop()


def _pinned(tool: Tool) -> dict[str, Any]:
    return {"fingerprint": tool.fingerprint, "opaque": tool.opaque, **tool.entry.to_json()}


def _differences(now: Lock, before: Lock | None) -> dict[str, str]:
    """What is different, per tool, in a word; empty where nothing is."""
    old = before.entries if before is not None else {}
    words: dict[str, str] = {}
    for name, entry in now.entries.items():
        if name not in old:
            words[name] = "not in the lock"
        elif member := old[name].differs(entry):
            words[name] = f"{member} differs"
    words.update({name: "no longer there" for name in old if name not in now.entries})
    return dict(sorted(words.items()))


def _say_lock(out: Console, answer: dict[str, Any], first: bool) -> None:
    rows = table("tool", "what", "source", "defaults", "schema", "injected", "change")
    for name, tool in sorted(answer["tools"].items()):
        what = tool["qualified"] + (" (opaque: its code cannot be pinned)" if tool["opaque"] else "")
        short = [_short(tool[member]) for member in ("source", "defaults", "schema")]
        rows.add_row(name, what, *short, ", ".join(tool["injected"]) or "none", "" if first else answer["changes"].get(name, ""))
    out.print(rows)
    for name in answer["changes"].keys() - answer["tools"].keys():
        say(out, ("no longer locked: ", "warn"), name)
    say(out, f"{count(len(answer['tools']), 'tool')} locked in ", (answer["file"], "name"), f", {answer['lock']}")


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


@app.command("verify")
def verify(sources: SourcesArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Import an application and compare its tools with the lock. Exit 1 if one differs, with the member that does. Nothing is written.

    Example: `agentguard tools verify example.py`
    """
    from agentguard.cli.discovery import discover
    from agentguard.tools.integrity import LOCK_FILE, Lock

    found = discover(sources)
    path = _home(home, found) / LOCK_FILE
    locked = Lock.load(path)
    if locked is None:
        raise InvalidInput("there is no tool lock", place=str(path), hint="agentguard tools lock writes one")
    changes = _differences(Lock.of(found.tools), locked)
    names = sorted({*found.tools, *locked.entries})
    answer = {"file": str(path), "lock": locked.digest, "ok": not changes, "tools": {name: changes.get(name, "ok") for name in names}}
    result(as_json, answer, lambda out: _say_verified(out, answer))
    if changes:
        leave(FAILED)


def _say_verified(out: Console, answer: dict[str, Any]) -> None:
    for name, state in answer["tools"].items():
        say(out, (name, "name"), "  ", (state, "good" if state == "ok" else "bad"))
    verdict = (
        ("all tools are the locked ones", "good") if answer["ok"] else ("some tools are not the locked ones: they would not run", "bad")
    )
    say(out, verdict, (f"  {answer['file']}", "dim"))
