"""`agentguard policy export`: the policy in another language, and what that language cannot say."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import FAILED, complain, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.terminal import count, print_json

if TYPE_CHECKING:
    from agentguard.analysis.cedar import Export


class Format(StrEnum):
    """The languages that there are."""

    CEDAR = "cedar"


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy, a YAML file.")],
    form: Annotated[Format, typer.Option("--format", help="The language to write.")] = Format.CEDAR,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Write FILE.cedar and FILE.cedarschema there; else the policies are printed."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="A rule that is left out is a failure.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write a policy as Cedar policies with their schema. Never does Cedar allow what the policy refuses.

    A rule that Cedar has no words for is left out: Cedar forbids that tool to that agent, and a note says why. Budgets, delegation and
    what else the guard enforces at other stages stay with the guard. docs/policy-export.md says what Cedar must be asked; in Python,
    `agentguard.analysis.cedar.export(policy).request(call)` makes it.

    Example: `agentguard policy export policy.yaml --format cedar --out build`
    """
    from agentguard.analysis.cedar import export as exported
    from agentguard.policy import load

    made = exported(load(file))
    written = _write(made, out, file.stem) if out is not None else []
    if as_json:
        print_json(_document(made, form, written))
    elif out is None:
        print(made.policies, end="")
    else:
        left = f", {len(made.left_out)} left out" if made.left_out else ""
        print(f"{', '.join(written)}: {count(len(made.exported), 'rule')}{left}")
    for rule in made.left_out if not as_json else ():
        complain(f"{rule.place}: {rule.agent} {rule.tool}: {rule.why}", word="left out")
    if strict and made.left_out:
        leave(FAILED)


def _write(made: Export, out: Path, stem: str) -> list[str]:
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, text in ((".cedar", made.policies), (".cedarschema", made.schema)):
        target = out / f"{stem}{suffix}"
        target.write_text(text, "utf-8")
        written.append(str(target))
    return written


def _document(made: Export, form: Format, written: list[str]) -> dict[str, Any]:
    return {
        "format": str(form),
        "files": written,
        "policies": made.policies,
        "schema": made.schema,
        "exported": [rule.to_json() for rule in made.exported],
        "left_out": [rule.to_json() for rule in made.left_out],
        "beside": list(made.beside),
    }
