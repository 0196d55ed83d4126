"""`agentguard log erase`: make values that were used in calls unknowable, and leave the evidence."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from agentguard.cli.inputs import DEFAULT_HOME, ByOption, HomeOption, JsonOption, ReasonOption, existing_home, operator
from agentguard.cli.progress import bar
from agentguard.cli.terminal import count, result, say
from agentguard.errors import InvalidInput
from agentguard.spans import parse_span

if TYPE_CHECKING:
    from agentguard.erasure import Erased


def erase(
    task: Annotated[str | None, typer.Option("--task", metavar="ID", help="All calls of this task, those of its delegates too.")] = None,
    execution: Annotated[str | None, typer.Option("--execution", metavar="ID", help="One call.")] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="SPAN", help="Everything that was kept longer ago: 30d, 12h.")
    ] = None,
    by: ByOption = None,
    reason: ReasonOption = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Erase arguments, outputs, reasons and the initiators' words, with the salts of their commitments. It cannot be taken back.

    The log is not touched and every proof about it stays valid; only nobody can tell any more what a commitment stands for, not even by
    guessing. That somebody erased is recorded. Values go by themselves after a while: `keep_values` in the home's settings.json, 90 days
    where nothing is said.

    Example: `agentguard log erase --task ID --reason "asked for by the customer"`
    """
    from agentguard import erasure
    from agentguard.environment import Clock
    from agentguard.home import Home
    from agentguard.ledger import Ledger

    given = [name for name, value in (("--task", task), ("--execution", execution), ("--older-than", older_than)) if value is not None]
    if len(given) != 1:
        raise InvalidInput(f"one of --task, --execution and --older-than is needed, found {' and '.join(given) or 'none'}")
    seconds = parse_span(older_than) if older_than is not None else 0
    who = operator(by)
    with bar("reading the log") as progress, Home(existing_home(home)) as opened:
        ledger = Ledger(opened, Clock())
        found: Erased
        if task is not None:
            found = erasure.erase_task(opened, ledger, task, by=who, reason=reason, progress=lambda done: progress(done, None))
        elif execution is not None:
            found = erasure.erase_execution(opened, ledger, execution, by=who, reason=reason, progress=lambda done: progress(done, None))
        else:
            found = erasure.erase_older(opened, ledger, seconds, time.time_ns(), by=who, reason=reason)
    answer = {"values": found.values, "records": found.records, "requests": found.requests, "by": who, "reason": reason}
    about = f" of {count(found.records, 'record')}" if found.records else ""
    asked = f"; {count(found.requests, 'open request')} for approval withdrawn" if found.requests else ""
    result(as_json, answer, lambda out: say(out, ("erased", "good"), f" {count(found.values, 'value')}{about}, by {who}{asked}"))
