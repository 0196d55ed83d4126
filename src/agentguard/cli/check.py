"""`agentguard check`: would this call be allowed?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentguard.cli.exits import DENIED, leave
from agentguard.cli.inputs import (
    DEFAULT_HOME,
    FactsOption,
    HomeOption,
    JsonOption,
    PolicyOption,
    existing_home,
    facts_of,
    place_of,
    read_bytes,
    read_json,
)
from agentguard.cli.terminal import result, say
from agentguard.errors import Denied, InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.call import ToolCall
    from agentguard.decision import Decision
    from agentguard.policy.model import Policy

#: Stages that a policy alone can judge (DESIGN §12); stage 5 is the policy's half of it.
_POLICY_ONLY: Final[tuple[int, ...]] = (0, 5, 10, 11, 12)
_DRY: Final = tuple(range(13))
_ADMITTED: Final = tuple(range(15))
#: A compact JWS: its header is an object, so it begins as every base64url of `{"` does.
_COMPACT: Final = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_MEMBERS: Final = frozenset({"agent", "tool", "arguments", "call_id"})


def check(
    policy: PolicyOption,
    call: Annotated[
        str, typer.Option("--call", metavar="FILE", help="The call as JSON {agent, tool, arguments, call_id}; - reads standard input.")
    ],
    artifact: Annotated[
        str | None,
        typer.Option("--artifact", "-a", metavar="FILE", help="The presentation that grants it: {aat_chain: [root … leaf], aat_pop}."),
    ] = None,
    proof: Annotated[
        str | None,
        typer.Option("--proof", metavar="PROOF", help="The holder's proof of possession, a compact JWS or the file that holds it."),
    ] = None,
    admit: Annotated[
        bool, typer.Option("--admit", help="Not dry: charge budgets, use the call id up, and record the decision. Needs --artifact.")
    ] = False,
    tools: Annotated[
        list[str] | None,
        typer.Option(
            "--tools", metavar="MODULE", help="Import the application's tools, so that defaults are bound and locks are compared."
        ),
    ] = None,
    environment: FactsOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Judge one call as a guard would: exit 0 if it may run, 2 with the reason if not. Nothing runs.

    Without --artifact only the policy is asked (stages 0, 5 and 10 to 12), which says nothing about who may act. With it all stages up to
    12 are judged; where this home has the leaf's key, possession is known and needs no --proof. --admit goes on to 13 and 14: the call
    then counts as made, and since nobody reports its outcome, the log shows it as unknown.

    Example: `echo '{"agent": "triage", "tool": "read_ticket", "arguments": {"id": "T-1"}}' | agentguard check -p policy.yaml --call -`
    """
    from agentguard.cli.trust import policy_of

    asked = read_call(call)
    if artifact is None and admit:
        raise InvalidInput(
            "--admit needs --artifact: a policy alone grants nothing", place="check", hint="agentguard artifact issue makes one"
        )
    if artifact is None and proof is not None:
        raise InvalidInput("--proof needs --artifact: it proves who holds one", place="check")
    rules = policy_of(home, policy)
    facts = facts_of(environment)
    if artifact is None:
        decision, judged = _by_policy(asked, rules, facts, home, tools), _POLICY_ONLY
    else:
        presentation = read_json(artifact)
        given = _proof(proof) if proof is not None else None
        decision = _by_guard(asked, policy, facts, existing_home(home), presentation, given, tools, admit)
        judged = _ADMITTED if admit else _DRY
    stages = [stage for stage in judged if decision.allowed or stage <= decision.stage]
    document = {**decision.to_json(), "judged": stages, "dry": not admit, "admitted": admit and decision.allowed}
    result(as_json, document, lambda out: _show(out, decision, judged, admit, bool(tools)))
    if not decision.allowed:
        leave(DENIED)


def read_call(name: str) -> ToolCall:
    """One call. The document's form is checked here, its values are stage 0's business. Raises InvalidInput."""
    from agentguard.call import ToolCall

    body, place = read_json(name), place_of(name)
    hint = 'write {"agent": "triage", "tool": "read_ticket", "arguments": {"id": "T-1"}}'
    if type(body) is not dict:
        raise InvalidInput("a call is a JSON object", place=place, hint=hint)
    unknown = sorted(body.keys() - _MEMBERS)
    if unknown:
        raise InvalidInput(f"a call has no member {unknown[0]!r:.60}", place=place, hint="agent, tool, arguments, call_id")
    missing = sorted({"agent", "tool", "arguments"} - body.keys())
    if missing:
        raise InvalidInput(f"the call has no member {missing[0]!r}", place=place, hint=hint)
    return ToolCall(body["agent"], body["tool"], body["arguments"], body.get("call_id"))


def _by_policy(call: ToolCall, policy: Policy, facts: Mapping[str, Any], home: Path, tools: list[str] | None) -> Decision:
    from agentguard.artifacts.chain import DEFAULT_LIMITS
    from agentguard.artifacts.revocation import Revocations
    from agentguard.cli.discovery import find_tools
    from agentguard.decide import decide_policy_only
    from agentguard.environment import measure
    from agentguard.premises import Binding, Facts
    from agentguard.tools.integrity import LOCK_FILE, Lock

    lock = Lock.load(home / LOCK_FILE)
    binding = Binding(call.arguments)
    tool = find_tools(tools).get(call.tool) if tools else None
    if tool is not None and not call.defect:
        try:
            binding = Binding(tool.bind(call.arguments))
        except InvalidInput as error:
            binding = Binding({}, str(error))
    measured = measure(facts, lock=lock.digest if lock is not None else None)
    return decide_policy_only(call, binding, policy, Facts(measured, Revocations(), DEFAULT_LIMITS))


def _by_guard(
    call: ToolCall,
    policy: Path,
    facts: Mapping[str, Any],
    home: Path,
    presentation: Any,
    proof: str | None,
    tools: list[str] | None,
    admit: bool,
) -> Decision:
    from agentguard.artifacts.making import parse_presentation
    from agentguard.cli.discovery import find_tools
    from agentguard.cli.trust import holder_of
    from agentguard.guard import Guard

    tokens, pop = parse_presentation(presentation)  # a file that is no presentation is invalid input, not a denial
    found = find_tools(tools) if tools else {}
    with Guard.open(policy, home=home, environment=dict(facts)) as guard:
        for tool in found.values():
            guard.register(tool)
        key = holder_of(guard.home.keys, tokens)
        task = guard.accept(presentation, key=key)
        proof = pop if proof is None else proof
        if proof is not None:
            call = call.with_proof(proof)
        if not admit:
            return guard.decide(call, task=task)
        try:
            return guard.check(call, task=task).decision
        except Denied as error:
            return error.decision


def _proof(given: str) -> str:
    if _COMPACT.fullmatch(given):
        return given
    try:
        return read_bytes(given, 1 << 17).decode("ascii").strip()
    except UnicodeDecodeError:
        raise InvalidInput("is not a compact JWS", place=place_of(given)) from None


def _show(out: Console, decision: Decision, judged: tuple[int, ...], admit: bool, imported: bool) -> None:
    verdict = decision.verdict.value
    role = {"allow": "good", "ask": "warn", "deny": "bad"}[verdict]
    say(out, (verdict, role), f"  {decision.explain().removeprefix('allowed: ')}")
    if judged == _POLICY_ONLY:
        say(out, ("judged by the policy alone (stages 0, 5, 10 to 12): no artifact was given, so nothing is granted", "dim"))
    elif admit and decision.allowed:
        say(out, (f"admitted and recorded as execution {decision.execution}", "dim"))
    else:
        say(out, (f"stages 0 to {int(decision.stage)} were judged; nothing was admitted", "dim"))
    if decision.code == "integrity_failure" and not imported:
        say(out, ("this command did not import the application: --tools MODULE compares its tools with the lock", "dim"))
