"""Why a policy lets a call run, or does not, and what would have to change (`agentguard policy explain --call`; docs/policy-explain.md).

The verdict is the guard's own, by the policy alone (`decide_policy_only`, and the delegation on the way). The rest is for people: all
that stands against the call and not only the first reason, values near the refused ones, other agents that may make this very call, the
smallest edit of the policy, and what else the policy says about such calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from agentguard.admission import Charge
from agentguard.analysis.edits import Edit, smallest
from agentguard.analysis.near import closest, example, near
from agentguard.artifacts.chain import DEFAULT_LIMITS
from agentguard.artifacts.revocation import Revocations
from agentguard.call import ToolCall
from agentguard.canonical import Frozen, thaw
from agentguard.decide import decide_policy_only, refuse
from agentguard.decision import Code, Decision, Reason, Stage, Verdict
from agentguard.policy.approval import ApprovalRule
from agentguard.policy.budgets import Budget, show_millionths
from agentguard.policy.forbid import Forbid
from agentguard.policy.model import Policy, ToolRule
from agentguard.policy.sequences import SequenceRule
from agentguard.policy.standing import Standing
from agentguard.premises import Binding, Facts, Usage
from agentguard.spans import show_span

_NOTHING: Mapping[str, Frozen] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a call is explained under.

    through      the agents by which it came, the caller last, as delegated that way
    environment  facts of the place, frozen; None: every place is taken to be right
    now          seconds since 1970; None: every hour is taken to be right
    after        tools that the same agent called before in the task, with success
    """

    through: tuple[str, ...] = ()
    environment: Mapping[str, Frozen] | None = None
    now: int | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that stands against a call.

    near   values that would pass in the place of the one that does not, the nearest first
    meant  the name that may have been meant
    """

    reason: Reason
    near: tuple[Frozen, ...] = ()
    meant: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON form for the CLI; what is empty is left out."""
        found = {name: str(text) for name in Reason.__struct_fields__ if (text := getattr(self.reason, name))}
        return {
            **found,
            **({"near": [thaw(value) for value in self.near]} if self.near else {}),
            **({"meant": self.meant} if self.meant else {}),
        }


@dataclass(frozen=True, slots=True)
class Said:
    """Something that the policy says about such calls, in words, and where. `holds` is None where this call does not tell."""

    words: str
    place: str
    holds: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON form for the CLI."""
        return {"words": self.words, "place": self.place, "holds": self.holds}


@dataclass(frozen=True, slots=True)
class Other:
    """Another agent that may make this very call. `reached`: a task of the caller may come to it by delegation."""

    agent: str
    verdict: Verdict
    place: str
    reached: bool

    def to_json(self) -> dict[str, Any]:
        """JSON form for the CLI."""
        return {"agent": self.agent, "verdict": str(self.verdict), "place": self.place, "reached": self.reached}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why, and what else.

    decision   the verdict with its first reason
    against    everything that stands against the call; empty where it is allowed
    place      the rule for this agent and tool, "file:line"; empty where there is none
    said       what the policy says about such calls: by `arguments`, `conditions`, `hours`, `sequence`, `approval`, `budgets`,
               `delegation`, `environment` and `shadow`
    forbidden  every forbid rule that matches
    others     other agents that may make this very call
    edits      what to write so that the rules for arguments admit the call
    edited     the policy with the edits, and what it says of the call; None where there is none
    """

    call: ToolCall
    decision: Decision
    against: tuple[Finding, ...]
    place: str
    said: Mapping[str, tuple[Said, ...]]
    forbidden: tuple[Forbid, ...]
    others: tuple[Other, ...]
    edits: tuple[Edit, ...]
    edited: tuple[Policy, Decision] | None

    def to_json(self) -> dict[str, Any]:
        """One document for programs."""
        code = self.decision.code
        return {
            "policy": self.decision.policy,
            "call": {"agent": self.call.agent, "tool": self.call.tool, "arguments": thaw(self.call.arguments)},
            "verdict": str(self.decision.verdict),
            "code": str(code) if code is not None else None,
            "rule": self.place,
            "against": [found.to_json() for found in self.against],
            **{name: [one.to_json() for one in group] for name, group in self.said.items()},
            "forbidden": [{"tool": rule.tool, "agent": rule.agent, "reason": rule.reason, "place": rule.place} for rule in self.forbidden],
            "others": [other.to_json() for other in self.others],
            "edits": [edit.to_json() for edit in self.edits],
            "edited": str(self.edited[1].verdict) if self.edited is not None else None,
        }


def explain(policy: Policy, call: ToolCall, under: Circumstances | None = None) -> Explanation:
    """Explain one call with bound arguments. Total for every call; one that is not well-formed is explained as that."""
    under = under or Circumstances()
    usage = Usage(counters=_counters(policy, call, under.after))
    decision = _decide(policy, call, under, usage)
    rules = policy.agents.get(call.agent)
    rule = rules.tools.get(call.tool) if rules is not None else None
    hopeless = decision.allowed or call.defect or policy.forbid.first(call.agent, call.tool) is not None
    edit = None if hopeless else smallest(policy, call.agent, call.tool, call.arguments)
    return Explanation(
        call=call,
        decision=decision,
        against=() if decision.allowed else tuple(_against(policy, call, under, usage, decision)),
        place=rule.place if rule is not None else "",
        said=_said(policy, call, rule, under, usage),
        forbidden=tuple(each for each in policy.forbid.rules if each.covers(call.agent, call.tool)),
        others=() if call.defect else tuple(_others(policy, call, under)),
        edits=edit[0] if edit is not None else (),
        edited=(edit[1], _decide(edit[1], call, under, usage)) if edit is not None else None,
    )


def _counters(policy: Policy, call: ToolCall, after: tuple[str, ...]) -> dict[str, int]:
    """What sequence rules know of the past: the tools in `after` were admitted and succeeded."""
    counters: dict[str, int] = {}
    for tool in after:
        standing = policy.standing(call.agent, tool)
        watch = standing.watch if standing is not None else None
        for key in (*(charge.key for charge in watch.charges), *watch.earned, *watch.approved) if watch is not None else ():
            counters[key] = counters.get(key, 0) + 1
    return counters


def _decide(policy: Policy, call: ToolCall, under: Circumstances, usage: Usage) -> Decision:
    """Stages 0, 5, 10 and 12, and the delegation on the way, about which stage 10 asks first."""
    policy = policy if under.environment is not None else _anywhere(policy)
    facts = Facts(under.environment or _NOTHING, Revocations(), DEFAULT_LIMITS)
    decision = decide_policy_only(call, Binding(call.arguments), policy, facts, under.now, usage)
    delegated = policy.may_delegate(under.through) if len(under.through) > 1 else None
    if delegated is not None and (decision.allowed or decision.stage >= Stage.POLICY):
        return refuse(call, policy.digest, Stage.POLICY, delegated)
    return decision


def _anywhere(policy: Policy) -> Policy:
    """The policy as it judges in a place that is right."""
    return replace(policy, environment=MappingProxyType({})) if policy.environment else policy


# --- what stands against it -----------------------------------------------------------------------------------------------------------


def _against(policy: Policy, call: ToolCall, under: Circumstances, usage: Usage, decision: Decision) -> Iterator[Finding]:
    """All of it, in the order in which a decision asks: the first one ends the decision."""
    if call.defect:
        yield from map(Finding, decision.reasons)
        return
    environment = policy.judge_environment(under.environment) if under.environment is not None else None
    delegated = policy.may_delegate(under.through) if len(under.through) > 1 else None
    yield from (Finding(reason) for reason in (environment, delegated) if reason is not None)
    for reason in policy.refusals(call.agent, call.tool, call.arguments):
        yield _with_help(policy, call, reason)
    standing = policy.standing(call.agent, call.tool)
    for part in _parts(standing, under.now) if standing is not None else ():
        broken = part.judge(call.tool, under.now or 0, usage.counters)
        if broken is not None:
            yield Finding(broken)
    asked = standing.approval((call.arguments,), usage.counters) if standing is not None else None
    if asked is not None:
        yield Finding(asked.reason(call.tool))


def _parts(standing: Standing, now: int | None) -> Iterator[Standing]:
    """The hours, and each sequence rule by itself."""
    if now is not None:
        yield replace(standing, watch=None)
    if standing.watch is not None:
        for check in standing.watch.checks:
            yield replace(standing, hours=(), watch=replace(standing.watch, checks=(check,)))


def _with_help(policy: Policy, call: ToolCall, reason: Reason) -> Finding:
    """A refusal by the rules, with what may have been meant instead."""
    if reason.code is Code.AGENT_UNKNOWN:
        return Finding(reason, meant=closest(call.agent, policy.agents))
    rules = policy.agents[call.agent]
    if reason.code is not Code.ARGUMENT_NOT_ALLOWED:
        known = () if call.tool in rules.tools or policy.forbid.first(call.agent, call.tool) is not None else rules.tools
        return Finding(reason, meant=closest(call.tool, known))
    rule, name = rules.tools[call.tool], reason.subject
    entry = rule.arguments.get(name)
    if entry is None:
        return Finding(reason, meant=closest(name, rule.arguments.keys() - call.arguments.keys()) if name in call.arguments else "")
    if reason.required != entry.constraint.describe():  # a condition that asks about this argument alone
        return Finding(reason)
    return Finding(reason, near(entry.constraint, call.arguments[name]) if name in call.arguments else example(entry.constraint))


def _others(policy: Policy, call: ToolCall, under: Circumstances) -> Iterator[Other]:
    reached, anywhere = set(policy.reachable(call.agent)), _anywhere(policy)
    for name, rules in policy.agents.items():
        if name != call.agent and call.tool in rules.tools:
            verdict = _decide(anywhere, ToolCall(name, call.tool, call.arguments), Circumstances(now=under.now), Usage()).verdict
            if verdict is not Verdict.DENY:
                yield Other(name, verdict, rules.tools[call.tool].place, name in reached)


# --- what is said ---------------------------------------------------------------------------------------------------------------------


def _said(policy: Policy, call: ToolCall, rule: ToolRule | None, under: Circumstances, usage: Usage) -> dict[str, tuple[Said, ...]]:
    rules, standing = policy.agents.get(call.agent), policy.standing(call.agent, call.tool)
    shadow = rules.shadow if rules is not None else None
    places = [shadow.place] if shadow is not None and (shadow.tools is None or call.tool in shadow.tools) else []
    if rule is not None and rule.forbidden is not None and rule.forbidden.until is not None:
        places.append(rule.forbidden.place)
    groups: dict[str, Iterator[Said]] = {
        "arguments": _arguments(rule, call.arguments) if rule is not None else iter(()),
        "conditions": iter(
            () if rule is None else [Said(c.text, place, c.failure(call.arguments) is None) for c, place in rule.conditions]
        ),
        "hours": _hours(standing, under.now) if standing is not None else iter(()),
        "sequence": _sequence(policy, call, usage.counters) if standing is not None else iter(()),
        "approval": _approval(standing, call.arguments, usage.counters) if standing is not None else iter(()),
        "budgets": iter([_charged(budget, call, under.now) for budget in standing.budgets] if standing is not None else ()),
        "delegation": _delegation(policy, under.through),
        "environment": _environment(policy, under.environment),
        "shadow": iter([Said("refusals of such calls are recorded for a time, and not enforced", place) for place in places]),
    }
    return {name: tuple(group) for name, group in groups.items()}


def _arguments(rule: ToolRule, bound: Mapping[str, Frozen]) -> Iterator[Said]:
    for name, entry in rule.arguments.items():
        words = f"{name}: {entry.constraint.describe()}" + (", or left out" if entry.optional else "")
        yield Said(words, rule.places[name], entry.constraint.check(bound[name]) if name in bound else entry.optional)
    if rule.map.rest:
        yield Said("any other argument", rule.place, True)
    elif not rule.arguments:
        yield Said("no arguments", rule.place, not bound)


def _hours(standing: Standing, now: int | None) -> Iterator[Said]:
    for rule in standing.hours:
        yield Said(rule.hours.describe(), rule.place, None if now is None else rule.hours.open(now))


def _sequence(policy: Policy, call: ToolCall, counters: Mapping[str, int]) -> Iterator[Said]:
    """Every sequence rule that this call keeps, breaks or moves."""
    standing = policy.standing(call.agent, call.tool)
    kept = {check.rule: check.need for check in standing.watch.checks} if standing is not None and standing.watch is not None else {}
    for rule in (*policy.sequence, *policy.agents[call.agent].sequence):
        if call.tool in (*rule.subjects, *rule.objects):
            need = kept.get(rule)
            holds = None if need is None else need.low <= counters.get(need.key, 0) <= need.high
            yield Said(_whose(rule) + rule.words(), rule.place, holds)


def _whose(rule: SequenceRule) -> str:
    return "of all agents of the task: " if rule.agent is None else ""


def _approval(standing: Standing, bound: Mapping[str, Frozen], counters: Mapping[str, int]) -> Iterator[Said]:
    for rule in standing.approvals:
        when = f", when {rule.when.text}" if rule.when is not None else ""
        yield Said(_asked(rule) + when, rule.place, rule.asks(bound))
    for key, rule in standing.watch.approved.items() if standing.watch is not None else ():
        yield Said(f"{_asked(rule)}, once a task", rule.place, counters.get(key, 0) < 1)


def _asked(rule: ApprovalRule) -> str:
    return f"{rule.words()}, within {show_span(rule.expires)}" + (", the initiator too" if rule.initiator else "")


def _charged(budget: Budget, call: ToolCall, now: int | None) -> Said:
    charge = budget.charge(call.agent, "", call.arguments, now or 0)
    if not isinstance(charge, Charge):
        return Said(f"{budget.name}: required {charge.required}, found {charge.found}", budget.place, False)
    cost = str(charge.amount) if budget.cost is None and budget.output is None else show_millionths(charge.amount)
    until = " (set aside until its outcome tells)" if budget.output is not None else ""
    return Said(f"{cost} of {budget.shown()} {budget.name}{until}", budget.place, charge.amount <= budget.limit)


def _delegation(policy: Policy, through: tuple[str, ...]) -> Iterator[Said]:
    for parent, child in pairwise(through):
        rules = policy.agents.get(parent)
        delegate = rules.delegates.get(child) if rules is not None else None
        if delegate is None:
            yield Said(f"{parent} may not delegate to {child}", rules.place if rules is not None else policy.source, False)
        else:
            yield Said(f"{parent} may delegate to {child}, {delegate.depth} deep", delegate.place, True)


def _environment(policy: Policy, facts: Mapping[str, Frozen] | None) -> Iterator[Said]:
    for name, entry in policy.environment.items():
        words = f"{name} is {entry.constraint.describe()}" + (", or not known" if entry.optional else "")
        holds = None if facts is None else entry.constraint.check(facts[name]) if name in facts else entry.optional
        yield Said(words, policy.environment_places[name], holds)
