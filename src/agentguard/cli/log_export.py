"""`agentguard log export`: the log in the forms of other tools."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TextIO

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
from agentguard.cli.terminal import result, say
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from agentguard.exports.calls import Progress
    from agentguard.reading.queries import Filter


class Format(StrEnum):
    """What is written."""

    OCSF = "ocsf"
    PROV = "prov"
    CSV = "csv"
    PARQUET = "parquet"


def export(
    form: Annotated[Format, typer.Option("--format", "-f", help="ocsf (a line for each call), prov (one task), csv or parquet.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to; by default standard output.")] = None,
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
    home: HomeOption = DEFAULT_HOME,
    as_json: Annotated[bool, typer.Option("--json", help="With --output: say what was written as one JSON document.")] = False,
) -> None:
    """Write records for other tools: OCSF 1.8 events (API Activity with `security_control`) for a SIEM, W3C PROV, CSV, Parquet.

    The log is read from end to end; the query index is not asked. Options narrow it. No value is exported, only the commitments that stand
    in the log. In CSV, what a spreadsheet would take for a formula gets an apostrophe in front. Parquet needs `pip install
    'agentguard[parquet]'` and --output.

    Example: `agentguard log export --format ocsf --since 1d > calls.jsonl`
    """
    wanted = filter_of(
        agent=agent, tool=tool, initiator=initiator, task=task, artifact=artifact, verdict=verdict, code=code, type=type_,
        since=since, until=until,
    )  # fmt: skip
    place = existing_home(home)
    _fitting(form, wanted, output, as_json)
    with bar("reading the log") as progress:
        count = _write(form, place, wanted, output, progress)
    if output is not None:
        answer = {"format": form, "output": str(output), "written": count}
        result(as_json, answer, lambda out: say(out, ("written", "good"), f" {count} {_WHAT[form]} to {output}"))


_WHAT: Final = {Format.OCSF: "events", Format.PROV: "nodes and relations", Format.CSV: "rows", Format.PARQUET: "rows"}


def _fitting(form: Format, wanted: Filter, output: Path | None, as_json: bool) -> None:
    """Raises InvalidInput where the options do not go together."""
    from agentguard.reading.queries import Filter

    if form is Format.PROV and (wanted.task is None or wanted != Filter(task=wanted.task)):
        raise InvalidInput("PROV is written for one task, and for all of it", place="--format prov", hint="give --task ID and nothing else")
    if form is Format.OCSF and wanted.type not in (None, "decision"):
        raise InvalidInput("an OCSF event is about a call", place="--type", hint="leave --type out, or export csv or parquet")
    if output is None and (as_json or form is Format.PARQUET):
        what = "what was written can only be told beside it" if as_json else "a Parquet file needs a name"
        raise InvalidInput(what, place="--output", hint="give --output FILE")


def _write(form: Format, home: Path, wanted: Filter, output: Path | None, progress: Progress) -> int:
    """Write the export; how many events, rows, or nodes and relations there are in it."""
    from agentguard.exports import events, provenance, records, write_csv, write_parquet

    if form is Format.PARQUET and output is not None:
        with _placed(output) as temporary:
            return write_parquet(records(home, wanted, progress), temporary)
    with _out(output) as out:
        if form is Format.CSV:
            return write_csv(records(home, wanted, progress), out)
        if form is Format.OCSF:
            return sum(out.write(json.dumps(event) + "\n") > 0 for event in events(home, wanted, progress))
        from agentguard.reading.records import read_lineage

        document = provenance(read_lineage(home, wanted.task), str(wanted.task))
        out.write(json.dumps(document, indent=2) + "\n")
        return sum(len(members) for section, members in document.items() if section != "prefix")


@contextmanager
def _out(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there when it is whole."""
    if output is None:
        yield sys.stdout
        return
    with _placed(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def _placed(output: Path) -> Iterator[Path]:
    """A file beside `output` that takes its place in the end; what was there before stays if anything fails."""
    if output.is_dir():
        raise InvalidInput("is a directory", place=str(output))
    temporary = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
