"""`agentguard policy test`: do the cases beside a policy come out as they say, and which rules does none of them show?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import FAILED, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.terminal import count, result, say

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.analysis.cases import Answer, Report


def run_cases(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Policies to test.")],
    cases: Annotated[
        Path | None, typer.Option("--cases", metavar="FILE", help="The cases; POLICY.cases.yaml beside the policy by default.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="A rule that no case shows at work is a failure, too.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Run the cases beside a policy: calls, each with the verdict it must get. Rules that no case shows at work are listed.

    A case is `call`, `verdict` (allow, ask, deny) and, if you like, `code`; with `through` it is judged as delegated that way, with
    `environment` as in such a place. Exit 1 if a case comes out otherwise, or, with --strict, if a rule is not shown.

    Example: `agentguard policy test policies/support.yaml --strict`
    """
    from agentguard.analysis.cases import cases_beside, read_cases, run
    from agentguard.errors import InvalidInput
    from agentguard.policy import load

    if cases is not None and len(files) > 1:
        raise InvalidInput("--cases is for one policy", place="policy test")
    reports = {file: run(load(file), read_cases(cases or cases_beside(file))) for file in files}
    result(as_json, [_document(file, report) for file, report in reports.items()], lambda out: _show(out, reports))
    if any(report.wrong or (strict and report.unshown) for report in reports.values()):
        leave(FAILED)


def _document(file: Path, report: Report) -> dict[str, Any]:
    return {
        "policy": str(file),
        "cases": len(report.answers),
        "wrong": [{"place": answer.case.place, "expected": _expected(answer), "found": _found(answer)} for answer in report.wrong],
        "rules": len(report.rules),
        "unshown": [{"place": rule.place, "rule": rule.rule, "wanted": rule.wanted} for rule in report.unshown],
    }


def _expected(answer: Answer) -> str:
    return str(answer.case.verdict) + (f" ({answer.case.code})" if answer.case.code is not None else "")


def _found(answer: Answer) -> str:
    return str(answer.verdict) + (f" ({answer.reason.sentence()})" if answer.reason is not None else "")


def _show(out: Console, reports: dict[Path, Report]) -> None:
    for file, report in reports.items():
        for answer in report.wrong:
            call = answer.case.call
            say(
                out,
                ("wrong ", "bad"),
                f"{answer.case.place}: {call.agent} -> {call.tool}: expected {_expected(answer)}, found {_found(answer)}",
            )
        for rule in report.unshown:
            say(out, ("not shown ", "warn"), f"{rule.place}: {rule.rule} needs {rule.wanted}")
        right, shown = len(report.answers) - len(report.wrong), len(report.rules) - len(report.unshown)
        role = "bad" if report.wrong else "good"
        say(
            out,
            (f"{file}: ", "name"),
            (f"{right} of {count(len(report.answers), 'case')} right", role),
            f", {shown} of {len(report.rules)} rules shown",
        )
