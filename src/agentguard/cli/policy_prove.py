"""`agentguard policy prove`: does a property hold for every call that a policy allows?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import DENIED, DONE, FAILED, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.terminal import count, print_json, say
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.analysis.properties import Property
    from agentguard.analysis.prove import Proof

_ROLES = {"proven": "good", "counterexample": "bad", "unknown": "warn"}


def prove(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Policies; policy.yaml has its properties in policy.properties.yaml.")
    ],
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="AGENT", help="No other agent can call --tool. May be repeated.")
    ] = None,
    tool: Annotated[str | None, typer.Option("--tool", "-t", metavar="NAME", help="The tool that --only is about.")] = None,
    always: Annotated[
        list[str] | None, typer.Option("--always", metavar="RULES", help="Every allowed call is like this: `TOOL: {ARGUMENT: RULE}`.")
    ] = None,
    never: Annotated[
        list[str] | None,
        typer.Option("--never", metavar="RULES", help="No allowed call is like this: `TOOL`, or `TOOL: {ARGUMENT: {not: RULE}}`."),
    ] = None,
    agents: Annotated[
        list[str] | None, typer.Option("--agent", "-a", metavar="NAME", help="--always and --never for this agent alone. May be repeated.")
    ] = None,
    with_delegates: Annotated[
        bool, typer.Option("--with-delegates", help="Also for the agents that may be reached through delegates.")
    ] = False,
    no_wider_than: Annotated[
        Path | None, typer.Option("--no-wider-than", metavar="OLD", help="Nothing is allowed that the policy OLD refuses.")
    ] = None,
    properties: Annotated[
        Path | None, typer.Option("--properties", metavar="FILE", help="Properties from this file, not from the one beside the policy.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", metavar="N", min=0.1, help="At most so long for one property.")] = 60.0,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Prove properties for every call that a policy allows, or show a call that breaks one.

    A counterexample is a call that the policy really allows: try it with `agentguard check`. What is neither proven nor refuted within the
    limits is unknown. Without options the properties of policy.yaml are those in policy.properties.yaml. Needs `agentguard[prove]`.

    Exit 0 if all are proven, 2 if one has a counterexample, 1 if one is unknown.

    Example: `agentguard policy prove policy.yaml --only billing --tool send_money`

    Example: `agentguard policy prove policy.yaml --never 'send_email: {to: {not: {email: {domains: [example.com]}}}}'`
    """
    from agentguard.analysis.properties import beside, load_properties
    from agentguard.analysis.search import load_z3
    from agentguard.policy import load

    load_z3()
    given = _given(only, tool, always, never, agents, with_delegates, no_wider_than)
    if properties is not None:
        given += load_properties(properties)
    verdicts: set[str] = set()
    answers: list[dict[str, Any]] = []
    for file in files:
        policy = load(file)
        wanted = given or list(load_properties(beside(file)))
        proofs = _prove(policy, wanted, seconds)
        verdicts |= {str(proof.verdict) for proof in proofs}
        answers.append({"file": str(file), "policy": policy.digest, "proofs": [proof.to_json() for proof in proofs]})
        if not as_json:
            _show(file, proofs)
    if as_json:
        print_json({"proven": verdicts == {"proven"}, "policies": answers})
    leave(DENIED if "counterexample" in verdicts else FAILED if "unknown" in verdicts else DONE)


def _given(
    only: list[str] | None,
    tool: str | None,
    always: list[str] | None,
    never: list[str] | None,
    agents: list[str] | None,
    with_delegates: bool,
    no_wider_than: Path | None,
) -> list[Property]:
    """The properties of the command line. Raises InvalidInput."""
    from agentguard.analysis.properties import parse_property, parse_rules

    if (only is None) != (tool is None):
        raise InvalidInput("--only and --tool belong together", hint="--only billing --tool send_money")
    if agents and not (always or never):
        raise InvalidInput("--agent goes with --always or --never")
    more: dict[str, Any] = {"with_delegates": True} if with_delegates else {}
    found = []
    if only:
        found.append(parse_property({"only": {"tool": tool, "agents": only, **more}}, "--only"))
    for kind, texts in (("always", always), ("never", never)):
        for text in texts or ():
            body = {**parse_rules(text, f"--{kind}"), **more, **({"agents": agents} if agents else {})}
            found.append(parse_property({kind: body}, f"--{kind}"))
    if no_wider_than is not None:
        found.append(parse_property({"no_wider_than": str(no_wider_than)}, "--no-wider-than"))
    return found


def _prove(policy: Any, wanted: list[Property], seconds: float) -> list[Proof]:
    from rich.console import Console
    from rich.progress import track

    from agentguard.analysis.prove import prove
    from agentguard.analysis.search import Search

    console = Console(stderr=True)
    progress = track(wanted, "proving", console=console, transient=True, disable=not console.is_terminal)
    return [prove(policy, each, Search(seconds=seconds)) for each in progress]


def _show(file: Path, proofs: list[Proof]) -> None:
    from agentguard.cli.terminal import console

    out = console()
    say(out, (str(file), "name"), f": {count(len(proofs), 'property').replace('propertys', 'properties')}")
    for proof in proofs:
        _say(out, proof)


def _say(out: Console, proof: Proof) -> None:
    from agentguard.analysis.calls import brief

    verdict = str(proof.verdict)
    say(out, (f"  {verdict}", _ROLES[verdict]), f"  {proof.property.text}", (f"  {proof.property.place}", "dim"))
    if proof.why:
        say(out, f"      {proof.why}")
    if proof.example is not None:
        say(out, f"      {brief(proof.example)}")
    if proof.place:
        say(out, "      allowed at ", (proof.place, "dim"))
    for note in proof.notes:
        say(out, ("      note: ", "warn"), note)
