"""`agentguard log retain`: remove old calls from the log, and leave every proof about it valid."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from agentguard.cli.inputs import DEFAULT_HOME, ByOption, HomeOption, JsonOption, ReasonOption, existing_home, operator
from agentguard.cli.log_common import log_keys
from agentguard.cli.progress import bar
from agentguard.cli.terminal import count, result, say
from agentguard.spans import parse_span


def retain(
    older_than: Annotated[str, typer.Option("--older-than", metavar="SPAN", help="Segments that took no record since: 400d, 8760h.")],
    by: ByOption = None,
    reason: ReasonOption = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Remove decisions, outcomes and delegations of finished segments whose time is over. It cannot be taken back.

    The leaf hash of each stays, so every root, checkpoint and proof is what it was; `log verify` goes on checking all of it, and says what
    was removed by which record. Who could do what, and who changed that, stays: keys, policies, tools, revocations. A segment stays whole
    while an artifact that it speaks of is in force. The log has to verify first.

    Values behind the commitments go long before, see `log erase`. Give a span that is longer than the longest window of your budgets: if
    the state store is ever lost, it is made anew from the log.

    Example: `agentguard log retain --older-than 400d --reason "our rule of 13 months"`
    """
    from agentguard.environment import Clock
    from agentguard.home import Home
    from agentguard.ledger import Ledger
    from agentguard.retention import retain as run

    seconds = parse_span(older_than)
    who = operator(by)
    with bar("looking for segments whose time is over") as progress, Home(existing_home(home)) as opened:
        kept = run(opened, Ledger(opened, Clock()), log_keys(home, None), seconds, time.time_ns(), by=who, reason=reason, progress=progress)
    answer = {"segments": kept.segments, "records": kept.records, "bytes": kept.bytes, "by": who, "reason": reason}
    words = f" {count(kept.records, 'record')} from {count(kept.segments, 'segment')}, {kept.bytes} bytes less, by {who}"
    result(as_json, answer, lambda out: say(out, ("removed", "good"), words) if kept.segments else say(out, "nothing is that old"))
