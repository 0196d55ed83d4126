"""`agentguard policy simulate`: what would this policy have said to the calls that were made?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import DENIED, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption, existing_home
from agentguard.cli.terminal import count, result, say, table

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.analysis.simulate import Simulation, Tally
    from agentguard.analysis.trace import Called, Progress

TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="A file of JSON lines {agent, tool, arguments}, and what else is known; the home's evidence by default.",
    ),
]


def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new policy.")],
    trace: TraceOption = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="FILE", help="The policy that calls without a verdict were made under.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Judge the calls that were made by another policy, and show what changes, by agent and tool, with examples.

    Calls come from the evidence of a home, or from a file of JSON lines, and are judged in their order and at their time: arguments, hours,
    sequences, approvals and budgets. A line may say verdict, code, at, task, initiator and approved; without at no time passes between
    lines. Calls refused for other reasons than the policy (replay, artifacts) stay refused; calls whose arguments were erased are counted
    as unknown. Exit 2 if a call that ran would be refused.

    Example: `agentguard policy simulate new.yaml --home .agentguard`
    """
    from agentguard.analysis.simulate import simulate as judge
    from agentguard.policy import load

    policy, old = load(file), load(against) if against is not None else None
    with calls_of(trace, home) as calls:
        found = judge(calls, policy, old)
    result(as_json, _document(found), lambda out: _show(out, found))
    if found.total("denied"):
        leave(DENIED)


@contextmanager
def calls_of(trace: Path | None, home: Path) -> Iterator[Iterator[Called]]:
    """The calls to look at, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    from agentguard.analysis.trace import from_home, from_lines

    with Bar(console=Console(stderr=True), transient=True, disable=not Console(stderr=True).is_terminal) as bar:
        task = bar.add_task("reading calls", total=None)

        def progress(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)

        report: Progress = progress
        yield from_lines(trace, report) if trace is not None else from_home(existing_home(home), report)


_MEMBERS = ("total", "same", "denied", "allowed", "elsewhere", "unknown")


def _document(found: Simulation) -> dict[str, Any]:
    from agentguard.canonical import thaw

    return {
        **{name: found.total(name) for name in _MEMBERS},
        "changes": [
            {
                "agent": agent,
                "tool": tool,
                "denied": tally.denied,
                "allowed": tally.allowed,
                "codes": dict(tally.codes),
                "examples": [
                    {
                        "place": example.call.place,
                        "arguments": thaw(example.call.arguments),
                        "reason": example.reason.sentence() if example.reason is not None else None,
                    }
                    for example in tally.examples
                ],
            }
            for agent, tool, tally in found.changed()
        ],
    }


def _codes(tally: Tally) -> str:
    return ", ".join(f"{code} {number}" for code, number in sorted(tally.codes.items()))


def _show(out: Console, found: Simulation) -> None:
    changed = list(found.changed())
    if changed:
        rows = table("agent", "tool", "newly denied", "newly allowed", "of", "why denied")
        for agent, tool, tally in changed:
            rows.add_row(agent, tool, str(tally.denied), str(tally.allowed), str(tally.total), _codes(tally))
        out.print(rows)
        for agent, tool, tally in changed:
            for example in tally.examples:
                word = ("denied  ", "bad") if example.reason is not None else ("allowed ", "warn")
                why = f": {example.reason.sentence()}" if example.reason is not None else ""
                say(out, word, f"{agent} -> {tool}", (f"  {example.call.place}", "dim"), why)
    parts = [f"{found.total('same')} as before"]
    parts += [f"{found.total('elsewhere')} refused for other reasons"] if found.total("elsewhere") else []
    parts += [f"{found.total('unknown')} with arguments that are not known any more"] if found.total("unknown") else []
    verdict = "nothing changes" if not changed else f"{found.total('denied')} newly denied, {found.total('allowed')} newly allowed"
    say(out, (verdict, "good" if not changed else "warn"), f" in {count(found.total('total'), 'call')}: {', '.join(parts)}")
