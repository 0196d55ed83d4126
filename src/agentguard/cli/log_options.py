"""Which records a command is about: the options that `log query` and `log export` share."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Final

import typer

from agentguard.decision import Code, Verdict
from agentguard.errors import InvalidInput
from agentguard.reading.queries import Filter
from agentguard.spans import parse_span

_NANOSECOND: Final = 10**9

AgentOption = Annotated[str | None, typer.Option("--agent", metavar="NAME", help="Of this agent.")]
ToolOption = Annotated[str | None, typer.Option("--tool", metavar="NAME", help="Calls of this tool.")]
InitiatorOption = Annotated[str | None, typer.Option("--initiator", metavar="ID", help="On behalf of this person or service.")]
TaskOption = Annotated[str | None, typer.Option("--task", metavar="ID", help="Of this task.")]
ArtifactOption = Annotated[str | None, typer.Option("--artifact", metavar="HASH", help="With this very artifact, by its whole hash.")]
VerdictOption = Annotated[Verdict | None, typer.Option("--verdict", help="Decided so.")]
CodeOption = Annotated[str | None, typer.Option("--code", metavar="CODE", help="Refused with this code, such as tool_not_allowed.")]
TypeOption = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Records of this type: decision, delegation, revocation, …")]
SinceOption = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Not before: 2h, 7d (ago), or 2026-05-04T10:00:00Z.")]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time.")]


def moment(text: str | None, option: str) -> int | None:
    """Nanoseconds since 1970 of a time or of a span that ends now. A time without a zone is UTC. Raises InvalidInput."""
    if text is None:
        return None
    try:
        return time.time_ns() - parse_span(text) * _NANOSECOND
    except InvalidInput:
        pass
    try:
        read = datetime.fromisoformat(text)
        seconds = (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        hint = "a span such as 2h or 7d, or a time such as 2026-05-04T10:00:00Z"
        raise InvalidInput(f"{text!r:.40} is no time", place=option, hint=hint) from None
    return round(seconds * 1_000_000) * 1000


def filter_of(
    *,
    agent: str | None = None,
    tool: str | None = None,
    initiator: str | None = None,
    task: str | None = None,
    artifact: str | None = None,
    verdict: StrEnum | None = None,
    code: str | None = None,
    type: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> Filter:
    """The filter that these options make. Raises InvalidInput."""
    if code is not None and code not in set(Code):
        near = get_close_matches(code, list(Code), 1)
        hint = f"did you mean {near[0]}?" if near else "`agentguard log query --denials` shows those that occur"
        raise InvalidInput(f"there is no code {code!r:.40}", place="--code", hint=hint)
    bounds = {"since": moment(since, "--since"), "until": moment(until, "--until")}
    decided = str(verdict) if verdict is not None else None
    return Filter(agent, tool, initiator, task, artifact, decided, code, type, **bounds)
