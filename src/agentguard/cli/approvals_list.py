"""`agentguard approvals list`: what waits for a human."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentguard.cli.approvals_desk import Desk, damaged, needs, on_behalf, span
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.terminal import result, say, table

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.inbox import Filed

_STYLES = {"open": "yellow", "approved": "green", "denied": "red", "expired": "dim"}


def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the requests, the oldest first, and how they stand. What they say exactly, `approvals show ID` tells.

    A request leaves the list when its call has run, or when it has expired. What became of it stands in the log.

    Example: `agentguard approvals list`
    """
    desk = Desk.at(home)
    filed = desk.inbox.all()
    answer: dict[str, Any] = {
        "requests": [desk.to_json(one.request) for one in filed if one.request is not None],
        "damaged": [damaged(one) for one in filed if one.request is None],
    }
    result(as_json, answer, lambda out: _say(out, desk, filed))


def _say(out: Console, desk: Desk, filed: list[Filed]) -> None:
    from rich.text import Text

    from agentguard.reading.lineage_show import printable, when

    rows = table("request", "asked", "ends in", "call", "on behalf of", "needs", "state")
    for one in filed:
        request = one.request
        if request is None:
            continue
        state, left = desk.state(request), request.expires - desk.now
        question, names = request.question, sorted(item.name for item in desk.weighed(request) if not item.why_not)
        rows.add_row(
            request.id,
            when(request.asked * 10**9),
            span(left) if left > 0 else "over",
            printable(f"{question.agent} → {question.tool}"),
            on_behalf(request.initiator)[0],
            needs(request),
            Text(state + (f": {', '.join(names)}" if names else ""), _STYLES[state]),
        )
    if rows.row_count:
        out.print(rows)
    else:
        say(out, ("nothing waits for an answer", "dim"))
    for one in filed:
        if one.request is None:
            say(out, ("no request: ", "bad"), printable(one.place, 400), f": {printable(one.problem, 400)}")
