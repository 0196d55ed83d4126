"""`agentguard lineage`: who did what on whose behalf, what it stood on and what it caused."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption, existing_home
from agentguard.cli.terminal import console, print_json, print_lines

if TYPE_CHECKING:
    from agentguard.reading.lineage import Lineage
    from agentguard.reading.lineage_nodes import Execution


class Format(StrEnum):
    """How lineage is printed."""

    TEXT = "text"
    JSON = "json"
    MERMAID = "mermaid"


def lineage(
    subject: Annotated[
        str | None, typer.Argument(metavar="TASK|EXECUTION", help="The id of a task or an execution; without it, all tasks.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", "-f", help="text, json, or a mermaid flowchart.")] = Format.TEXT,
    values: Annotated[
        bool, typer.Option("--values", help="With an execution: also its arguments, output and reasons, as far as they are still kept.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Print lineage from the log: all tasks, the tree of one task, or for one execution everything it stood on and everything it caused.

    An initiator that nobody authenticated is shown as ASSERTED, a call whose end nobody recorded as UNKNOWN. Values are not part of the
    log; --values reads them from the erasable side store and compares each with its commitment. Whether the log is genuine, `log verify`
    says.

    Example: `agentguard lineage`, then `agentguard lineage ID --format mermaid`
    """
    from agentguard.reading.lineage_show import lines
    from agentguard.reading.records import read_lineage

    graph = read_lineage(existing_home(home), subject)
    execution = graph.executions.get(subject or "")
    kept = _values(home, execution) if values and execution is not None else None
    if as_json or form is Format.JSON:
        print_json(graph.to_json() if kept is None else {**graph.to_json(), "values": kept})
    elif form is Format.MERMAID:
        print(graph.mermaid())
    else:
        out = console()
        print_lines(out, lines(graph))
        if kept is not None:
            _print_values(graph, kept)


def _values(home: Path, execution: Execution) -> list[dict[str, Any]]:
    """What the side store still keeps of an execution, each value compared with the commitment in the log."""
    from agentguard.evidence import commit
    from agentguard.store import SideStore

    store = SideStore(home / "side")
    outcome = execution.outcome.output if execution.outcome is not None else None
    committed = {**execution.record, "output": outcome}
    return [
        {
            "kind": item.kind,
            "value": item.value.decode("utf-8", "replace"),
            "matches_log": commit(item.salt, item.value) == committed.get(item.kind),
        }
        for item in store.get(execution.id, near_ns=execution.time)
    ]


def _print_values(graph: Lineage, kept: list[dict[str, Any]]) -> None:
    from agentguard.reading.lineage_show import printable

    out = console()
    print_lines(out, [[("Values", "")]])
    for item in kept:
        note = "" if item["matches_log"] else "  DOES NOT MATCH the commitment in the log"
        print_lines(out, [[(f"  {printable(item['kind']):<13}", "dim"), (printable(item["value"], 4096), ""), (note, "bad")]])
    if not kept:
        print_lines(out, [[("  none is kept any more", "dim")]])
