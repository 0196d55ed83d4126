"""`agentguard doctor`: what is configured, what is not built, how far governance goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentguard.cli.exits import FAILED, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.terminal import result, say
from agentguard.errors import AgentguardError

if TYPE_CHECKING:
    from rich.console import Console

#: What the command line cannot do yet; stages of the decision say so themselves (agentguard.decision.NOT_BUILT).
NOT_BUILT: Final = ("serve", "gateway")
_FOR_THE_HIGHEST: Final = ("witness of checkpoints", "provenance of values", "approvals")
_RECENT: Final = 1000


def doctor(
    policy: Annotated[
        Path | None, typer.Option("--policy", "-p", metavar="FILE", help="Compare this policy with the one that is in force.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Say what is configured here, what looks wrong, what this version cannot do yet, and what would bring the next level of maturity.

    It looks and changes nothing but the query index. The log is looked at quickly; `agentguard log verify` reads all of it. Exit 1 if
    something is wrong.

    Example: `agentguard doctor --policy policy.yaml`
    """
    from agentguard.cli.examination import examine

    report = examine(home, policy, not_built=NOT_BUILT, for_the_highest=_FOR_THE_HIGHEST, recent=_RECENT)
    result(as_json, report, lambda out: _say(out, report))
    if report["problems"]:
        leave(FAILED)


def _say(out: Console, report: dict[str, Any]) -> None:
    for name in ("home", "policy", "durability", "lock", "trust", "keys", "clock", "log", "initiators", "stopped"):
        section = report[name]
        role = "bad" if section.get("problem") else "warn" if section.get("attention") else ""
        say(out, (f"{name:<12}", "dim"), (section["words"], role))
    for problem in report["problems"]:
        say(out, ("wrong:      ", "bad"), problem)
    for mode in report["unsafe"]:
        say(out, ("unsafe:     ", "warn"), mode)
    for what in (*report["not_built"]["stages"], *report["not_built"]["commands"]):
        say(out, ("not built:  ", "dim"), (what, "dim"))
    maturity = report["maturity"]
    say(out, "maturity    ", (f"level {maturity['level']} of 5, {maturity['name']}", "name"))
    for step in maturity["next"]:
        say(out, (f"  for level {maturity['level'] + 1}: ", "dim"), step)


def attempt(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """One look; where it fails, the failure is what was seen."""
    try:
        return look()
    except AgentguardError as error:
        return {"words": str(error), "problem": str(error)}
    except OSError as error:
        words = f"{error.filename}: {error.strerror}"
        return {"words": words, "problem": words}
