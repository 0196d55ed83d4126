"""`agentguard observe`: what did agents call?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.policy_simulate import calls_of
from agentguard.cli.terminal import count, result, say, table

if TYPE_CHECKING:
    from rich.console import Console


def observe(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A trace, JSON lines; the home's evidence by default.")] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show what was observed: by agent and tool how many calls ended well, with which arguments and what these have in common.

    A program writes a trace about itself with `agentguard.analysis.observe.observing`: nothing is guarded while it does. The next step is
    `agentguard policy learn --trace FILE`.

    Example: `agentguard observe trace.jsonl`
    """
    from agentguard.analysis.learn import gather
    from agentguard.analysis.proposals import propose

    with calls_of(file, home) as calls:
        seen, left_out = gather(calls)
    tools: list[dict[str, Any]] = [
        {
            "agent": agent,
            "tool": tool,
            "calls": one.calls,
            "arguments": {
                name: {"calls": habit.calls, "types": dict(sorted(habit.kinds.items())), "found": propose(habit, one.calls).found}
                for name, habit in sorted(one.habits.items())
            },
        }
        for (agent, tool), one in sorted(seen.items())
    ]
    document = {"calls": sum(one.calls for one in seen.values()), "left_out": left_out, "tools": tools}
    result(as_json, document, lambda out: _show(out, document))


def _show(out: Console, document: dict[str, Any]) -> None:
    rows = table("agent", "tool", "calls", "argument", "in", "types", "what came")
    for tool in document["tools"]:
        head = (tool["agent"], tool["tool"], str(tool["calls"]))
        for name, entry in tool["arguments"].items():
            rows.add_row(*head, ascii(name)[1:-1], str(entry["calls"]), ", ".join(entry["types"]), entry["found"])
            head = ("", "", "")
        if not tool["arguments"]:
            rows.add_row(*head, "", "", "", "no arguments")
    if document["tools"]:
        out.print(rows)
    parts = [f"{number} {why}" for why, number in document["left_out"].items()]
    say(out, f"{count(document['calls'], 'call')} that ended well", f"; besides {', '.join(parts)}" if parts else "")
