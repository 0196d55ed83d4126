"""`agentguard log query`: which calls there were, what an artifact authorised, what came of an execution, which rules refused what."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, existing_home
from agentguard.cli.log_options import (
    AgentOption,
    ArtifactOption,
    CodeOption,
    InitiatorOption,
    SinceOption,
    TaskOption,
    ToolOption,
    TypeOption,
    UntilOption,
    VerdictOption,
    filter_of,
)
from agentguard.cli.progress import bar
from agentguard.cli.terminal import console, count, table
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from agentguard.reading.queries import Found, Refused

_PAGE: Final = 50


def query(
    agent: AgentOption = None,
    tool: ToolOption = None,
    initiator: InitiatorOption = None,
    task: TaskOption = None,
    artifact: ArtifactOption = None,
    verdict: VerdictOption = None,
    code: CodeOption = None,
    type_: TypeOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    authorised_by: Annotated[
        str | None,
        typer.Option("--authorised-by", metavar="HASH", help="Everything that an artifact, and whatever was derived from it, authorised."),
    ] = None,
    downstream_of: Annotated[
        str | None, typer.Option("--downstream-of", metavar="EXECUTION", help="Everything that came of an execution, directly or not.")
    ] = None,
    denials: Annotated[bool, typer.Option("--denials", help="Count what was refused, by rule, agent and tool.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="At most so many records; 0 for all.", show_default=True)] = _PAGE,
    after: Annotated[str | None, typer.Option("--after", metavar="CURSOR", help="Go on behind this record, as the last page says.")] = None,
    oldest: Annotated[bool, typer.Option("--oldest-first", help="As it happened; by default the newest come first.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do not rely on the home's query index: build another one from the log, for this question only.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each record.")] = False,
) -> None:
    """Search the log. Options narrow the search, and all of them must hold; a decision comes with its outcome.

    The query index says where to look. Every record that is shown was read from the log and compared with what the index said of it;
    whether the log is genuine, `log verify` says. --authorised-by and --downstream-of take no other option but --limit, and show the oldest
    first.

    Example: `agentguard log query --agent triage --verdict deny --since 2h`, then `agentguard log query --denials`
    """
    from agentguard.reading.queries import Questions

    wanted = filter_of(
        agent=agent, tool=tool, initiator=initiator, task=task, artifact=artifact, verdict=verdict, code=code, type=type_,
        since=since, until=until,
    )  # fmt: skip
    narrowed = bool(wanted.columns()) or since is not None or until is not None
    _one_question(authorised_by, downstream_of, denials, narrowed, after)
    with (
        bar("reading the log") as progress,
        Questions(existing_home(home), lambda records, done, of: progress(done, of), fresh=fresh) as ask,
    ):
        if denials:
            _show_denials(ask.denials(wanted), as_json)
            return
        if authorised_by is not None or downstream_of is not None:
            found = ask.authorised(authorised_by) if authorised_by is not None else ask.downstream(str(downstream_of))
        else:
            found = ask.find(wanted, after=after, newest=not oldest)
        _show(found, limit, as_json, paged=authorised_by is None and downstream_of is None)


def _one_question(authorised_by: str | None, downstream_of: str | None, denials: bool, narrowed: bool, after: str | None) -> None:
    asked = [
        name for name, given in (("--authorised-by", authorised_by), ("--downstream-of", downstream_of), ("--denials", denials)) if given
    ]
    if len(asked) > 1:
        raise InvalidInput(f"{' and '.join(asked)} are questions of their own", hint="ask them one by one")
    if asked and ((narrowed and not denials) or after is not None):
        raise InvalidInput(f"{asked[0]} cannot be narrowed", place=asked[0], hint="`--json` gives lines that another program can filter")


def _show(found: Iterator[Found], limit: int, as_json: bool, *, paged: bool) -> None:
    page = found if limit == 0 else islice(found, limit)
    last = None
    if as_json:
        for last in page:
            print(json.dumps(last.to_json()))
    else:
        rows = table("time", "verdict", "what", "on behalf of", "task", "execution or id")
        for last in page:
            rows.add_row(*_cells(last))
        if last is not None:
            console().print(rows)
        else:
            print("nothing in the log is like that")
    if limit and last is not None and next(found, None) is not None:
        more = f"there are more: --after {last.cursor}" if paged else "there are more: --limit 0 shows all"
        print(more, file=sys.stderr)


def _cells(found: Found) -> tuple[str, ...]:
    from agentguard.reading.index_rows import time_of
    from agentguard.reading.lineage_show import printable, when

    record = found.record
    who = record.get("initiator")
    behalf = printable(who.get("id")) if isinstance(who, Mapping) else ""
    asserted = " (ASSERTED)" if isinstance(who, Mapping) and who.get("method") == "asserted" else ""
    time = record.get("time")
    return (
        when(time_of(time) if isinstance(time, str) else 0),
        _verdict(found),
        _what(record),
        behalf + asserted,
        printable(record.get("task") or ""),
        printable(record.get("id") or ""),
    )


def _verdict(found: Found) -> str:
    from agentguard.reading.lineage_show import printable

    record, outcome = found.record, found.outcome
    if record.get("type") != "decision":
        return printable(record.get("status") or "")
    verdict = printable(record.get("verdict") or "?")
    if record.get("code"):
        verdict += f" {printable(record['code'])}"
    if record.get("enforced") is False:
        verdict += ", NOT ENFORCED"
    if record.get("verdict") == "allow" or record.get("enforced") is False:
        verdict += f", {printable(outcome.get('status'))}" if outcome is not None else ", outcome UNKNOWN"
    return verdict


def _what(record: Mapping[str, Any]) -> str:
    from agentguard.reading.lineage_show import printable

    kind = record.get("type")
    if kind == "decision":
        return f"{printable(record.get('agent') or '?')} → {printable(record.get('tool') or '?')}"
    if kind == "delegation":
        return f"{printable(record.get('from_agent') or 'the issuer')} ⇒ {printable(record.get('agent') or '?')}"
    if kind == "outcome":
        return f"outcome of {printable(record.get('execution') or '?')}"
    return f"{printable(kind or '?')}, by {printable(record.get('by') or '?')}"


def _show_denials(found: tuple[Refused, ...], as_json: bool) -> None:
    from agentguard.reading.lineage_show import printable, when

    if as_json:
        for item in found:
            print(json.dumps(item.to_json()))
        return
    if not found:
        print("nothing was refused")
        return
    rows = table("refused", "code", "rule", "what", "last", "for example")
    for item in found:
        what = f"{printable(item.agent or '?')} → {printable(item.tool or '?')}"
        rule = "not kept" if item.place is None else printable(item.place.rpartition("/")[2] or "-")
        rows.add_row(str(item.times), printable(item.code), rule, what, when(item.last), printable(item.execution))
    console().print(rows)
    print(f"{count(sum(item.times for item in found), 'refusal')} by {count(len(found), 'rule')}")
