"""The decision: a pure, total function of values (DESIGN §7).

No clock, no I/O, no randomness, no environment variable. The stages stand here in their order, each a function that gives a `Reason` or
None; the first reason ends the decision. Stages 13 and 14 need the world, so the guard does them; `charging.py` says what to charge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import structs

from agentguard.artifacts.chain import DEFAULT_LIMITS, ChainError, VerifiedChain, check_audience, check_scope, check_time
from agentguard.artifacts.proof import verify_proof
from agentguard.artifacts.revocation import Revocations
from agentguard.call import ToolCall
from agentguard.decision import Code, Decision, Reason, Stage, Verdict
from agentguard.policy.approval import ApprovalRule
from agentguard.policy.model import Policy, ToolAttributes
from agentguard.policy.standing import Standing
from agentguard.premises import NO_GRANT, NO_USAGE, Binding, Facts, Grant, Usage

#: Seconds by which the clock of whoever signed a bundle may be ahead of ours.
SKEW: Final = 30
_NO_FACTS: Final = Facts(MappingProxyType({}), Revocations(), DEFAULT_LIMITS)
_AFTER_ALL_SHADOWS: Final = 2**53


class _Case(msgspec.Struct, frozen=True, gc=False):
    """One call with all that it is judged by."""

    call: ToolCall
    binding: Binding
    grant: Grant
    policy: Policy
    facts: Facts
    now: int  # seconds
    chain: VerifiedChain  # None before stage 3, which is reached only with a chain; to touch it there raises, and a fault denies
    attributes: ToolAttributes  # what the policy says about the tool
    standing: Standing | None  # what it says about this agent's calls to it, beside their arguments
    usage: Usage
    lifted: bool = False  # its forbid rule is only recorded at `now`: what is left to say is said by the others


def _case(call: ToolCall, binding: Binding, grant: Grant, policy: Policy, facts: Facts, now: int, usage: Usage = NO_USAGE) -> _Case:
    attributes, standing = policy.attributes(call.tool), policy.standing(call.agent, call.tool)
    return _Case(call, binding, grant, policy, facts, now, grant.chain, attributes, standing, usage)  # type: ignore[arg-type]  # see there


def decide(call: ToolCall, binding: Binding, grant: Grant, policy: Policy, facts: Facts, now: int, usage: Usage = NO_USAGE) -> Decision:
    """Judge one call through stages 0 to 12. `now` is seconds since the epoch. Never raises for any values of these types."""
    case = _case(call, binding, grant, policy, facts, now, usage)
    for stage, judge in _STAGES:
        reason = judge(case)
        if reason is not None:
            return _refused(case, stage, reason)
    return Decision(Verdict.ALLOW, None, Stage.APPROVAL, (), call.agent, call.tool, call.call_id or "", policy.digest)


def decide_rules(call: ToolCall, binding: Binding, policy: Policy, now: int | None, usage: Usage = NO_USAGE) -> Decision:
    """Stages 10 to 12 as `decide` has them, for a call that came through what is before them. Such an answer permits nothing.

    Without `now`, hours are not judged, and what may be shadowed is enforced.
    """
    case = _case(call, binding, NO_GRANT, policy, _NO_FACTS, _AFTER_ALL_SHADOWS if now is None else now, usage)
    if now is None and case.standing is not None and case.standing.hours:
        case = structs.replace(case, standing=replace(case.standing, hours=()))
    for stage, judge in ((Stage.POLICY, _policy), (Stage.APPROVAL, _approval)):
        reason = judge(case)
        if reason is not None:
            return _refused(case, stage, reason)
    return Decision(Verdict.ALLOW, None, Stage.APPROVAL, (), call.agent, call.tool, call.call_id or "", policy.digest)


def standing(call: ToolCall, grant: Grant, policy: Policy, facts: Facts, now: int) -> Decision | None:
    """Whether a grant stands as such (stages 1 to 6): None when it does. For delegating from it."""
    case = _case(call, Binding(call.arguments), grant, policy, facts, now)
    for stage, judge in _STAGES[Stage.PRESENCE : Stage.INTEGRITY]:
        reason = judge(case)
        if reason is not None:
            return refuse(call, policy.digest, stage, reason)
    return None


def decide_policy_only(
    call: ToolCall, binding: Binding, policy: Policy, facts: Facts, now: int | None = None, usage: Usage = NO_USAGE
) -> Decision:
    """Stages 0, 5 (policy) and 10 to 12, for `agentguard check` without an artifact. Such an answer permits nothing.

    Without `now`, hours are not judged.
    """
    case = _case(call, binding, NO_GRANT, policy, facts, 0 if now is None else now, usage)
    if now is None and case.standing is not None and case.standing.hours:
        case = structs.replace(case, standing=replace(case.standing, hours=()))
    stages = ((Stage.CALL, _call), (Stage.ENVIRONMENT, _policy_environment), (Stage.POLICY, _policy), (Stage.APPROVAL, _approval))
    for stage, judge in stages:
        reason = judge(case)
        if reason is not None:
            return refuse(call, policy.digest, stage, reason)
    return Decision(Verdict.ALLOW, None, Stage.APPROVAL, (), call.agent, call.tool, call.call_id or "", policy.digest)


def refuse(call: ToolCall, policy: str, stage: Stage, reason: Reason) -> Decision:
    """A denial with one reason."""
    verdict = Verdict.ASK if reason.code is Code.APPROVAL_REQUIRED else Verdict.DENY
    return Decision(verdict, reason.code, stage, (reason,), call.agent, call.tool, call.call_id or "", policy)


# --- the stages ---------------------------------------------------------------------------------------------------------------------


def _call(case: _Case) -> Reason | None:
    defect = case.call.defect or case.binding.defect
    if not defect:
        return None
    return Reason(Code.MALFORMED_CALL, subject=case.call.tool, required="a well-formed call that the tool can take", found=defect)


def _presence(case: _Case) -> Reason | None:
    if case.grant.present:
        return None
    return Reason(
        Code.ARTIFACT_MISSING,
        subject=case.call.agent,
        required="a task that grants this call",
        found="no task in this context",
        fix="run the call inside `with guard.task(agent, initiator=...)`; threads need contextvars.copy_context()",
    )


def _chain(case: _Case) -> Reason | None:
    grant = case.grant
    if grant.error is not None:
        return grant.error.reason()
    if grant.chain is None:
        return Reason(Code.ARTIFACT_MALFORMED, required="a chain of artifacts", found="none that could be read")
    links = grant.chain.links
    if grant.agents != grant.chain.agents:  # where they are equal, every claim is what the bindings say
        if len(grant.agents) != len(links):  # a fault of ours: no name may be taken for another link's
            found = f"{len(grant.agents)} for {len(links)} links"
            return Reason(Code.DELEGATION_INVALID, case.call.agent, "the name of each link's holder", found)
        for index, (link, name) in enumerate(zip(links, grant.agents, strict=True)):
            claimed = link.profile.agent if link.profile is not None else None
            if name is None:
                found = f"no binding for the key of {claimed or 'its holder'}"
                return Reason(
                    Code.DELEGATION_INVALID, claimed or "", "a trusted binding of the holder's key to an agent", found, f"link {index}"
                )
            if claimed is not None and claimed != name:
                return Reason(Code.DELEGATION_INVALID, claimed, f"the agent that holds the key, {name}", claimed, f"link {index}")
    if grant.agents[-1] != case.call.agent:
        found = f"the artifact of {grant.agents[-1]}"
        return Reason(
            Code.DELEGATION_INVALID, case.call.agent, f"an artifact of the calling agent {case.call.agent}", found, f"link {len(links) - 1}"
        )
    return None


def _time(case: _Case) -> Reason | None:
    if case.facts.clock:
        fix = "check the machine's clock, then `agentguard log accept-clock`"
        return Reason(Code.CLOCK_UNRELIABLE, "clock", "a wall clock at or after the last checkpoint", case.facts.clock, fix=fix)
    error = check_time(case.chain, case.now, case.facts.limits)
    return error.reason() if error is not None else None


def _revocation(case: _Case) -> Reason | None:
    facts = case.facts
    lists = facts.terms.lists if facts.terms is not None else ()
    if not lists and not facts.revocations.active:
        return None
    chain, agents = case.chain, tuple([name or "" for name in case.grant.agents])
    initiator = chain.initiator.id if chain.initiator is not None else None
    hit = facts.revocations.match(links=chain.hashes, keys=chain.keys, agents=agents, task=chain.task_id, initiator=initiator)
    if hit is not None:
        place = f"link {hit.link}" if hit.link is not None else ""
        return Reason(Code.ARTIFACT_REVOKED, str(hit.kind), "an artifact that nobody withdrew", hit.describe(), place)
    reasons = [
        listed.judge(links=chain.hashes, keys=chain.keys, agents=agents, task=chain.task_id, initiator=initiator, now=case.now)
        for listed in lists
    ]
    found = [reason for reason in reasons if reason is not None]
    return min(found, key=lambda reason: reason.code is Code.REVOCATION_STALE) if found else None  # what is known before what is not


def _environment(case: _Case) -> Reason | None:
    for index, name, entry in case.chain.env:
        if name not in case.facts.environment:
            if entry.optional:
                continue
            found = "nothing known"
        elif entry.constraint.check(case.facts.environment[name]):
            continue
        else:
            found = repr(case.facts.environment[name])[:60]
        return Reason(Code.ENVIRONMENT_MISMATCH, name, entry.constraint.describe(), found, f"link {index}")
    return case.policy.judge_environment(case.facts.environment)


def _policy_environment(case: _Case) -> Reason | None:
    return case.policy.judge_environment(case.facts.environment)


def _policy_digest(case: _Case) -> Reason | None:
    terms = case.facts.terms
    if terms is not None and not terms.issued - SKEW <= case.now < terms.expires:
        late = case.now - terms.expires
        found = f"it ended {late} s ago" if late >= 0 else f"it begins in {terms.issued - case.now} s"
        return Reason(
            Code.POLICY_MISMATCH, terms.name, "a bundle that is good now", found, fix="agentguard policy fetch, then guard.reload"
        )
    for wanted in case.chain.policies:
        if wanted != case.policy.digest and (terms is None or wanted not in terms.accepts):
            return Reason(
                Code.POLICY_MISMATCH, "policy", f"the policy {wanted[:23]}…", f"{case.policy.digest[:23]}…", fix="issue a new artifact"
            )
    return None


def _integrity(case: _Case) -> Reason | None:
    if case.binding.integrity:
        fix = "review the change, then `agentguard tools lock`"
        return Reason(Code.INTEGRITY_FAILURE, case.call.tool, "the tool that was pinned", case.binding.integrity, fix=fix)
    if case.binding.opaque and not case.attributes.opaque:
        fix = f"tools: {{{case.call.tool}: {{opaque: accepted}}}}"
        return Reason(Code.INTEGRITY_FAILURE, case.call.tool, "a tool whose code can be pinned", "an opaque callable", fix=fix)
    return None


def _scope(case: _Case) -> Reason | None:
    chain, attributes = case.chain, case.attributes
    if not chain.profile and not attributes.plain_chains:
        fix = f"tools: {{{case.call.tool}: {{plain_chains: accepted}}}}"
        return Reason(Code.TOOL_NOT_IN_SCOPE, case.call.tool, "an artifact of the agentguard profile", "a plain chain", fix=fix)
    error = check_scope(
        chain,
        case.call.tool,
        case.call.arguments,
        case.binding.followed or case.binding.bound,
        any_arguments=not chain.profile or attributes.unsafe_any_arguments,
    )
    if error is None and chain.audiences:
        error = check_audience(chain, case.facts.audience)
    return error.reason() if error is not None else None


def _proof(case: _Case) -> Reason | None:
    if case.call.proof is None:
        if not proof_wanted(case.chain, case.grant, case.attributes):
            return None
        return Reason(Code.PROOF_MISSING, case.call.agent, "a proof that the caller holds the leaf's key", "none")
    facts, away = case.facts, not case.grant.possessed
    try:
        verify_proof(
            case.call.proof,
            case.chain.leaf,
            case.call.tool,
            case.call.arguments,
            case.now,
            limits=facts.limits,
            audience=facts.audience,
            require_aud=away,
        )
    except ChainError as error:
        return error.reason()
    return None


def proof_wanted(chain: VerifiedChain, grant: Grant, attributes: ToolAttributes) -> bool:
    """Whether a call needs a proof of possession: a plain chain always (DESIGN §4), ours across a process boundary or by policy."""
    return not grant.possessed or not chain.profile or attributes.proof_required


def _policy(case: _Case) -> Reason | None:
    if len(case.grant.agents) > 1:
        reason = case.policy.may_delegate(case.grant.agents)  # type: ignore[arg-type]  # stage 2 left no None
        if reason is not None:
            return reason
    reason = case.policy.judge(case.call.agent, case.call.tool, case.binding.bound, case.lifted)
    if reason is None and case.binding.followed is not None:
        reason = case.policy.judge(case.call.agent, case.call.tool, case.binding.followed, case.lifted)
    if reason is None and case.standing is not None:
        reason = case.standing.judge(case.call.tool, case.now, case.usage.counters)
    return reason


def _approval(case: _Case) -> Reason | None:
    rule = case.standing.approval(case.binding.views, case.usage.counters) if case.standing is not None else None
    return None if rule is None else _answered(case, rule)


def _answered(case: _Case, rule: ApprovalRule) -> Reason | None:
    answer = case.usage.answer
    if answer is None:
        return rule.reason(case.call.tool)
    if answer.granted:
        return None
    found = f"denied by {', '.join(answer.by)}"[:200]
    return Reason(Code.APPROVAL_DENIED, case.call.tool, rule.words(), found, rule.place)


#: What a policy may shadow: its own rules about one agent's calls. Who may act for whom is never left to a trial.
_OWN_RULES: Final = frozenset(
    {Code.TOOL_NOT_ALLOWED, Code.ARGUMENT_NOT_ALLOWED, Code.SEQUENCE_VIOLATION, Code.APPROVAL_REQUIRED, Code.APPROVAL_DENIED}
)


def _refused(case: _Case, stage: Stage, reason: Reason) -> Decision:
    """The refusal; not enforced where a shadow covers it and nothing else refuses."""
    refused, held = refuse(case.call, case.policy.digest, stage, reason), None
    if stage == Stage.POLICY and not case.lifted and _forbidden(case, reason):
        held = _beside(structs.replace(case, lifted=True))
    elif _shadowed(case, stage, reason):
        held = _everybodys(case)
    else:
        return refused
    return structs.replace(refused, enforced=False) if held is None or not held.enforced else held


def _forbidden(case: _Case, reason: Reason) -> bool:
    """Whether this is the refusal of a forbid rule that is only recorded at this time."""
    return reason.code is Code.TOOL_NOT_ALLOWED and case.policy.lifts(case.call.agent, case.call.tool, case.now)


def _beside(case: _Case) -> Decision | None:
    """What else refuses a call whose forbid rule is only recorded."""
    for stage, judge in _STAGES[Stage.POLICY :]:
        reason = judge(case)
        if reason is not None:
            return _refused(case, stage, reason)
    return None


def _shadowed(case: _Case, stage: Stage, reason: Reason) -> bool:
    return stage >= Stage.POLICY and reason.code in _OWN_RULES and case.policy.shadows(case.call.agent, case.call.tool, case.now)


def _everybodys(case: _Case) -> Decision | None:
    """The refusal by a rule that is not the agent's own, which no shadow of the agent softens."""
    call, standing = case.call, case.standing
    found = standing.everybodys(call.tool, case.usage.counters) if standing is not None else None
    if isinstance(found, Reason):
        return refuse(call, case.policy.digest, Stage.POLICY, found)
    reason = _answered(case, found) if found is not None else None
    return None if reason is None else refuse(call, case.policy.digest, Stage.APPROVAL, reason)


_STAGES: Final[tuple[tuple[Stage, Callable[[_Case], Reason | None]], ...]] = (
    (Stage.CALL, _call),
    (Stage.PRESENCE, _presence),
    (Stage.CHAIN, _chain),
    (Stage.TIME, _time),
    (Stage.REVOCATION, _revocation),
    (Stage.ENVIRONMENT, _environment),
    (Stage.POLICY_DIGEST, _policy_digest),
    (Stage.INTEGRITY, _integrity),
    (Stage.SCOPE, _scope),
    (Stage.PROOF, _proof),
    (Stage.POLICY, _policy),
    (Stage.APPROVAL, _approval),
)
