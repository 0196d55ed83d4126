"""`agentguard policy explain`: what an agent may do, or why one call is allowed or denied, and what would have to change."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentguard.cli.exits import DENIED, leave
from agentguard.cli.inputs import DEFAULT_HOME, FactsOption, HomeOption, JsonOption, facts_of
from agentguard.cli.policy_words import agent_words, forbid_words, tool_words
from agentguard.cli.terminal import count, result, say
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.analysis.explain import Circumstances, Explanation, Said
    from agentguard.analysis.prove import Proof
    from agentguard.policy.model import Policy

_ROLES: Final = {"allow": "good", "ask": "warn", "deny": "bad"}
_VERDICTS: Final = {"allow": "allowed", "ask": "asked about", "deny": "refused"}
#: What the policy says beside the arguments, by the words in front of it.
_GROUPS: Final = {
    "conditions": "where ",
    "hours": "only ",
    "sequence": "in sequence: ",
    "approval": "needs ",
    "budgets": "charges ",
    "delegation": "on the way: ",
    "environment": "runs only where ",
    "shadow": "UNSAFE: ",
}


def explain(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy, a YAML file.")],
    agent: Annotated[str | None, typer.Option("--agent", "-a", metavar="NAME", help="The agent in question.")] = None,
    tool: Annotated[str | None, typer.Option("--tool", "-t", metavar="NAME", help="One tool of it; all of them by default.")] = None,
    call: Annotated[
        str | None,
        typer.Option("--call", metavar="FILE", help="One call as JSON {agent, tool, arguments}, as bound; - reads standard input."),
    ] = None,
    through: Annotated[
        str | None, typer.Option("--through", metavar="A,B", help="The agents by which the call came; the caller may be left out.")
    ] = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="TOOL,TOOL", help="Tools that the agent called before in the task, with success.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When the call is made, such as 2026-11-23T10:00+01:00; any hour by default.")
    ] = None,
    environment: FactsOption = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Say whether the edit keeps the properties beside the policy. Needs `agentguard[prove]`.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Explain what an agent may do under a policy, and which line says so; or, with --call, why one call is allowed or denied.

    Of a call it says everything that stands against it, values near the refused ones that would pass, other agents that may make this very
    call, the smallest edit that would admit it, and what else the policy says of such calls. The policy alone is asked: `agentguard check
    --artifact` also asks who may act. The facts of --environment are all that is known of the place; without any, every place is right.

    Exit 2 if the agent, the tool or the call is refused, or somebody has to be asked.

    Example: `agentguard policy explain policy.yaml --agent triage --tool send_email`

    Example: `echo '{"agent": "triage", "tool": "read_ticket", "arguments": {"id": 7}}' | agentguard policy explain policy.yaml --call -`
    """
    from agentguard.policy import load

    if (agent is None) == (call is None) or (call is not None and tool is not None):
        raise InvalidInput("give --agent, or --call for one call", place="policy explain", hint="--agent triage --tool send_email")
    if call is None and (through or after or at or environment or prove):
        raise InvalidInput("--through, --after, --at, --environment and --prove go with --call", place="policy explain")
    policy = load(file)
    if call is not None:
        _explain_call(policy, file, call, through, after, at, environment, prove, as_json)
        return
    answer = _of_agent(policy, str(agent), tool)
    result(as_json, answer, lambda out: _say_agent(out, answer))
    if not answer["possible"]:
        leave(DENIED)


# --- one call -------------------------------------------------------------------------------------------------------------------------


def _explain_call(
    policy: Policy,
    file: Path,
    call: str,
    through: str | None,
    after: str | None,
    at: str | None,
    environment: list[str] | None,
    prove: bool,
    as_json: bool,
) -> None:
    from agentguard.analysis.explain import Circumstances
    from agentguard.analysis.explain import explain as explained
    from agentguard.canonical import freeze
    from agentguard.cli.check import read_call

    asked = read_call(call)
    facts = freeze(dict(facts_of(environment))) if environment is not None else None
    under = Circumstances(_chain(through, asked.agent), facts, _moment(at), _names(after))
    found = explained(policy, asked, under)
    proofs = _proofs(found, file) if prove else []
    document = {**found.to_json(), **({"properties": [proof.to_json() for proof in proofs]} if prove else {})}
    result(as_json, document, lambda out: _say_call(out, found, under, proofs))
    if not found.decision.allowed:
        leave(DENIED)


def _names(given: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(",") if name.strip()) if given else ()


def _chain(given: str | None, caller: str) -> tuple[str, ...]:
    names = _names(given)
    return (*names, caller) if names and names[-1] != caller else names


def _moment(given: str | None) -> int | None:
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidInput(f"{given!r:.60} is no time with its zone", place="--at", hint="2026-11-23T10:00+01:00, or Z at the end for UTC")
    return int(moment.timestamp())


def _proofs(found: Explanation, file: Path) -> list[Proof]:
    """The properties beside the policy, asked of the policy with the edit."""
    from agentguard.analysis.properties import beside, load_properties
    from agentguard.analysis.prove import prove
    from agentguard.analysis.search import load_z3

    properties = load_properties(beside(file))
    load_z3()
    return [prove(found.edited[0], each) for each in properties] if found.edited is not None else []


def _say_call(out: Console, found: Explanation, under: Circumstances, proofs: list[Proof]) -> None:
    from agentguard.analysis.calls import brief
    from agentguard.canonical import thaw

    verdict, call = str(found.decision.verdict), found.call
    who = " -> ".join(under.through) or call.agent
    say(out, (verdict, _ROLES[verdict]), f"  {who or '?'} calls {call.tool or '?'}", (f"  {found.place}" if found.place else "", "dim"))
    for against in found.against:
        reason = against.reason
        asked = (
            f"{reason.subject}: required {reason.required}, found {reason.found}"
            if reason.required
            else f"{reason.subject}: {reason.found}"
        )
        say(out, ("  against  ", "bad"), asked, (f"  {reason.code}  {reason.place}", "dim"))
        if against.meant:
            say(out, f"           did you mean {against.meant}?")
        if against.near:
            say(out, f"           would pass: {', '.join(brief(thaw(value)) for value in against.near)}")
        if reason.fix and not found.edits:
            say(out, f"           to allow it: {reason.fix}")
    if found.decision.allowed:
        for said in found.said["arguments"]:
            _say(out, "", said)
    for name, front in _GROUPS.items():
        for said in found.said[name]:
            _say(out, front, said)
    for forbidden in found.forbidden:
        say(out, ("  forbidden", "bad"), f" by {forbidden.tool}{forbid_words(forbidden)}", (f"  {forbidden.place}", "dim"))
    for other in found.others:
        reached = f"; {call.agent} may have it done by delegation" if other.reached else ""
        say(out, f"  {other.agent} making this very call would be {_VERDICTS[str(other.verdict)]}{reached}", (f"  {other.place}", "dim"))
    _say_edits(out, found, proofs)


def _say(out: Console, front: str, said: Said) -> None:
    mark = {True: ("  yes      ", "good"), False: ("  no       ", "bad"), None: ("           ", "dim")}[said.holds]
    say(out, mark, front, said.words, (f"  {said.place}", "dim"))


def _say_edits(out: Console, found: Explanation, proofs: list[Proof]) -> None:
    for edit in found.edits:
        say(out, ("  edit     ", "warn"), f"{edit.where}: {edit.write}", (f"  {edit.place}", "dim"))
    if found.edited is not None:
        many = "these edits" if len(found.edits) > 1 else "this edit"
        after = found.edited[1]
        why = f" ({after.code})" if after.code is not None else ""
        say(out, f"           with {many} the call would be {_VERDICTS[str(after.verdict)]}{why}")
    for proof in proofs:
        verb, role = {"proven": ("keeps", "good"), "counterexample": ("breaks", "bad"), "unknown": ("may break", "warn")}[
            str(proof.verdict)
        ]
        say(out, "           which ", (verb, role), f" the property {proof.property.text}", (f"  {proof.property.place}", "dim"))


# --- one agent ------------------------------------------------------------------------------------------------------------------------


def _of_agent(policy: Policy, agent: str, tool: str | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"policy": policy.digest, "agent": agent, "possible": False, "reason": "", "tools": {}}
    rules = policy.agents.get(agent)
    reason = policy.known(agent)
    if rules is None or reason is not None:
        return {**answer, "reason": reason.sentence() if reason is not None else ""}
    answer["restrictions"] = [{"what": words, "place": place} for words, place in agent_words(policy, agent)]
    answer["delegates"] = {to: {"hops": delegate.depth, "place": delegate.place} for to, delegate in rules.delegates.items()}
    answer["reachable"] = list(policy.reachable(agent))
    for name in rules.tools if tool is None else (tool,):
        rule = rules.tools.get(name)
        if rule is None or rule.forbidden is not None:
            refused = policy.judge(agent, name, {})
            answer["tools"][name] = {"possible": False, "reason": refused.sentence() if refused is not None else ""}
            continue
        arguments = {
            argument: {"required": not entry.optional, "may_be": entry.constraint.describe(), "place": rule.places[argument]}
            for argument, entry in rule.arguments.items()
        }
        answer["tools"][name] = {"possible": True, "place": rule.place, "arguments": arguments, "notes": tool_words(policy, name)}
    answer["possible"] = any(entry["possible"] for entry in answer["tools"].values())
    return answer


def _say_agent(out: Console, answer: dict[str, Any]) -> None:
    if answer["reason"]:
        say(out, ("no: ", "bad"), answer["reason"])
        return
    agent = answer["agent"]
    for name, entry in answer["tools"].items():
        if not entry["possible"]:
            say(out, ("no: ", "bad"), entry["reason"])
            continue
        say(out, ("yes: ", "good"), f"{agent} may call {name}", (f"  {entry['place']}", "dim"))
        for argument, rule in entry["arguments"].items():
            need = "must be" if rule["required"] else "may be left out, else must be"
            say(out, f"       {argument} {need} {rule['may_be']}", (f"  {rule['place']}", "dim"))
        if not entry["arguments"]:
            say(out, "       without arguments")
        for note in entry["notes"]:
            say(out, f"       {note}")
    for restriction in answer["restrictions"]:
        say(out, restriction["what"], (f"  {restriction['place']}", "dim"))
    for to, delegate in answer["delegates"].items():
        say(out, f"may delegate to {to}, {count(delegate['hops'], 'hop')} deep", (f"  {delegate['place']}", "dim"))
    if not answer["tools"]:
        say(out, f"{agent} has no tools")
