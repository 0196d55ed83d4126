"""`agentguard verify-bundle`: check the evidence of one execution with nothing but the log's key, and judge it again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import FAILED, complain, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption, place_of, read_bytes
from agentguard.cli.log_common import log_keys, witness_keys
from agentguard.cli.terminal import result, say
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.evidence_bundle.check import Report
    from agentguard.log.identity import LogKeys

_MAX_KEY = 4096


def verify_bundle(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `log bundle` made (`-`: standard input).")],
    trust: Annotated[
        str | None,
        typer.Option(
            "--trust",
            metavar="KEY",
            help="The log's verifier key, as `log key` prints it, or a file that holds it; by default that of the home itself.",
        ),
    ] = None,
    witness: Annotated[
        list[str] | None,
        typer.Option("--witness", metavar="VKEY", help="A witness's verifier key, whose cosignature counts. May be repeated."),
    ] = None,
    quorum: Annotated[
        int | None,
        typer.Option("--quorum", metavar="N", help="How many of the witnesses must have cosigned each checkpoint; by default all of them."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Check an evidence bundle offline; with --trust KEY no home is needed: its signature, that each record is in the log, that documents
    and values are those that the records name, that every grant and cause up to the root is there, and what people approved.

    KEY may be any that the log ever had: rotations to the one in force come along, signed by both keys of each.

    Then the decision is run again from the recorded inputs: *reproduced*, *differs*, or *inputs not disclosed*, with the one that is
    missing.

    Exit 0 if all holds; 1 if anything does not, or if the decision differs; 3 for what is no bundle.

    Example: `agentguard verify-bundle call.bundle --trust log.key --witness VKEY --witness VKEY --quorum 1`
    """
    from agentguard.evidence_bundle.check import check_bundle
    from agentguard.evidence_bundle.contents import MAX_BUNDLE
    from agentguard.evidence_bundle.cosignatures import Witnesses

    try:
        witnesses = Witnesses.of(witness_keys(witness), quorum)
    except InvalidInput as error:
        raise InvalidInput(error.message, place=error.place or "--witness", hint=error.hint) from None
    data, keys = read_bytes(file, MAX_BUNDLE), log_keys(home, None) if trust is None else _trusted(trust)
    try:
        report = check_bundle(data, keys, witnesses)
    except InvalidInput as error:
        where = f"{place_of(file)}: {error.place}" if error.place else place_of(file)
        raise InvalidInput(error.message, place=where, hint=error.hint) from None
    result(as_json, _document(report), lambda out: _show(out, report))
    if not report.good:
        complain(f"{place_of(file)}: {_why(report)}")
        leave(FAILED)


def _trusted(given: str) -> LogKeys:
    from agentguard.log.identity import parse_log_key

    text = given
    if "+" not in given or os.path.exists(given):
        text = read_bytes(given, _MAX_KEY).decode("utf-8", "replace").strip()
    try:
        return parse_log_key(text)
    except InvalidInput as error:
        raise InvalidInput(error.message, place="--trust", hint=error.hint or "`agentguard log key` prints it") from None


def _why(report: Report) -> str:
    failed = next((check for check in report.checks if not check.holds), None)
    if failed is not None:
        return f"not genuine: {failed.name}: {failed.words}"
    return f"the records are genuine, and the decision differs: {report.rerun.words if report.rerun else ''}"


def _document(report: Report) -> dict[str, Any]:
    again = report.rerun
    return {
        "genuine": report.genuine,
        "execution": report.execution,
        "checks": [{"name": check.name, "holds": check.holds, "words": check.words} for check in report.checks],
        "decision": report.decision,
        "outcome": report.outcome,
        "rerun": {"status": again.status, "words": again.words} if again is not None else None,
    }


def _show(out: Console, report: Report) -> None:
    from agentguard.reading.lineage_show import printable, when

    for check in report.checks:
        say(
            out,
            ("holds  " if check.holds else "FAILS  ", "good" if check.holds else "bad"),
            f"{check.name:<11}{printable(check.words, 1000)}",
        )
    record, again = report.decision, report.rerun
    if record is None or again is None:
        return
    word = {"reproduced": "good", "differs": "bad"}.get(again.status, "warn")
    say(out, (again.status, word), f": {printable(again.words, 1000)}")
    verdict = f"{record['verdict']} {record['code'] or ''}".rstrip()
    what = f"{printable(record['agent'])} → {printable(record['tool'])}, {when(int(record['time']))}"
    say(out, ("genuine", "good"), f": execution {printable(report.execution)}  {printable(verdict)}  {what}")
