"""Properties of a policy, proven for all calls, or refuted by a call that the policy itself allows.

`prove` answers `PROVEN` only where no call with the contrary exists in a formula that admits at least what the policy allows. A
counterexample counts only when `agentguard.decide` allows it. Everything else is `UNKNOWN`, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from agentguard.analysis.calls import ABSENT, Call, Demand, arguments, environment_map, holding, rules_of, unread
from agentguard.analysis.confirm import allowed
from agentguard.analysis.diff import wider
from agentguard.analysis.formulas import Not, Nothing, Unknown
from agentguard.analysis.properties import Calls, NoWiderThan, Only, Property
from agentguard.analysis.search import Search
from agentguard.canonical import Frozen
from agentguard.policy import load
from agentguard.policy.model import MAX_DEPTH, Policy


class Verdict(StrEnum):
    PROVEN = "proven"
    COUNTEREXAMPLE = "counterexample"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Proof:
    """The answer to one property.

    why      what is unknown, or in what the counterexample differs
    example  the counterexample: a call, or another difference to an older policy
    place    the rule that allows it
    notes    what a reader should know of a proof, such as that no agent has such a tool
    """

    property: Property
    verdict: Verdict
    why: str = ""
    example: Any = None
    place: str = ""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON form for the CLI; what is empty is left out."""
        found = {"why": self.why, "example": self.example, "allowed_at": self.place, "notes": list(self.notes)}
        head = {"property": self.property.text, "place": self.property.place, "verdict": str(self.verdict)}
        return head | {name: item for name, item in found.items() if item}


def prove(policy: Policy, wanted: Property, search: Search | None = None) -> Proof:
    """Whether `wanted` holds for every call that `policy` allows. `search` gives the limits, those of `Search()` by default."""
    search = search or Search()
    if isinstance(wanted, NoWiderThan):
        return _no_wider_than(policy, wanted, search)
    environment = arguments(environment_map(policy.environment), {}, search)
    if isinstance(environment, Nothing):
        note = "nothing is allowed anywhere: no environment is the one that the policy asks for"
        return _known(policy, Proof(wanted, Verdict.PROVEN, notes=(note,)))
    facts: Mapping[str, Frozen] = {} if isinstance(environment, Unknown) else environment
    unknown = ""
    for found in _contrary(policy, wanted, search):
        if isinstance(found, Unknown):
            unknown = unknown or found.why
            continue
        asked = replace(found, environment=facts)
        call = allowed(policy, asked, search)
        if call is not None:
            place = policy.agents[call.agent].tools[call.tool].place
            return Proof(wanted, Verdict.COUNTEREXAMPLE, example=call.to_json(), place=place)
        unknown = unknown or f"no way was found in which the policy allows {asked.agent} {asked.tool}: {asked.to_json()}"[:400]
    if unknown:
        return Proof(wanted, Verdict.UNKNOWN, unknown)
    return _known(policy, Proof(wanted, Verdict.PROVEN, notes=_notes(policy, wanted)))


def _known(policy: Policy, proof: Proof) -> Proof:
    """The proof, unless the policy says something that the analysis does not read."""
    places = unread(policy)
    if not places:
        return proof
    return Proof(proof.property, Verdict.UNKNOWN, f"the analysis does not read all that the policy says: {', '.join(places[:8])}")


def _contrary(policy: Policy, wanted: Only | Calls, search: Search) -> Iterator[Call | Unknown]:
    """Calls that the property says there are none of."""
    callers = _callers(policy) if wanted.with_delegates else {}
    for agent, tool, rule in rules_of(policy):
        if not wanted.tool.covers(tool):
            continue
        start = next((name for name in (agent, *callers.get(agent, ())) if wanted.concerns(name)), None)
        for demands in _demands(wanted) if start is not None else ():
            found = arguments(rule.map, demands, search, holding(rule))
            if isinstance(found, Nothing):
                continue
            chain = chain_to(policy, str(start), agent)
            if isinstance(found, Unknown):
                yield Unknown(f"{agent} {tool}: {found.why}")
            else:
                yield Call(agent, tool, found, chain) if chain else Unknown(f"{start} reaches {agent} by no chain that was found")


def _callers(policy: Policy) -> dict[str, list[str]]:
    """By agent, those that it may be reached from through delegates."""
    callers: dict[str, list[str]] = {}
    for name in policy.agents:
        for reached in policy.reachable(name):
            callers.setdefault(reached, []).append(name)
    return callers


def _demands(wanted: Only | Calls) -> Iterator[dict[str, Demand]]:
    if isinstance(wanted, Only):
        yield {}
        return
    if not wanted.always:
        yield {name: Demand(each.formula, absent=each.optional) for name, each in wanted.arguments.items()}
        return
    for name, each in wanted.arguments.items():
        yield {name: Demand(Not(each.formula))}
        if not each.optional:
            yield {name: ABSENT}


def chain_to(policy: Policy, start: str, end: str) -> tuple[str, ...] | None:
    """A chain of delegations from one agent to another that the policy admits; `end` alone where it is the same."""
    left = {start: MAX_DEPTH}  # as in `Policy.reachable`
    chains: list[tuple[str, ...]] = [(start,)]
    while chains:
        chain = chains.pop(0)
        if chain[-1] == end:
            return chain if policy.may_delegate(chain) is None else None
        for to, delegate in policy.agents[chain[-1]].delegates.items():
            hops = min(left[chain[-1]], delegate.depth) - 1
            if hops >= 0 and hops > left.get(to, -1):
                left[to] = hops
                chains.append((*chain, to))
    return None


def _notes(policy: Policy, wanted: Only | Calls) -> tuple[str, ...]:
    """What makes a proof say less than it seems to."""
    notes = []
    if not any(wanted.tool.covers(tool) for _, tool, _ in rules_of(policy)):
        notes.append(f"no agent may call a tool named {wanted.tool.pattern}")
    for agent in wanted.agents:
        if not any(map(agent.covers, policy.agents)):
            notes.append(f"the policy has no agent {agent.pattern}")
    return tuple(notes)


def _no_wider_than(policy: Policy, wanted: NoWiderThan, search: Search) -> Proof:
    old = load(wanted.file)
    unknown = ""
    for change in wider(old, policy, lambda: search):
        if not change.sure:
            unknown = unknown or change.why
            continue
        return Proof(wanted, Verdict.COUNTEREXAMPLE, change.summary(), change.example, change.new_place)
    places = sorted({*unread(policy), *unread(old)})
    if places and policy.digest != old.digest:
        unknown = unknown or f"the analysis does not read all that the policies say: {', '.join(places[:8])}"
    return Proof(wanted, Verdict.UNKNOWN, unknown) if unknown else Proof(wanted, Verdict.PROVEN)
