"""What one policy allows and another does not, by meaning: calls, hours, delegations, environments, limits, attributes, forbid rules.

Every difference in what is judged comes with an example that the two policies themselves judge differently. What could not be decided is
a difference of its own (`sure` is False), so that a list without any is a proof that there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Final

from agentguard.analysis.calls import Call, arguments, environment_map, holding, refusals, rules_of, unread
from agentguard.analysis.changes import Change
from agentguard.analysis.formulas import Both, Either, Not, Nothing, Unknown
from agentguard.analysis.limits import limits, outputs, times
from agentguard.analysis.search import Search
from agentguard.canonical import Frozen, thaw
from agentguard.constraints.matchers import Glob, Regex
from agentguard.constraints.tokens import ToolMap
from agentguard.policy.model import MAX_DEPTH, Forbid, Policy, ToolAttributes, ToolRule

#: The attributes that ask for less where they are set, and those that ask for more.
_LOOSER: Final = ("rerun_safe", "unsafe_any_arguments", "opaque", "plain_chains")
_STRICTER: Final = ("proof_required",)
_NEED: Final = ("needed", "may be left out")
_UNCONFIRMED: Final = "an example could not be confirmed"
_NAME: Final = Regex("[!-~]+")


def differences(old: Policy, new: Policy, search: Callable[[], Search] = Search) -> Iterator[Change]:
    """Every difference between two policies. `search` gives the limits of one agent's tool, or of one other comparison."""
    if old.digest == new.digest:
        return
    yield from wider(old, new, search)
    for change in wider(new, old, search):
        yield change.reversed()
    yield from _forbids(old, new, search())
    for change in _forbids(new, old, search()):
        yield change.reversed()
    for tool in sorted({*old.tools, *new.tools}):
        tags = [", ".join(sorted(policy.attributes(tool).tags)) for policy in (old, new)]
        if tags[0] != tags[1]:
            yield Change("attribute", None, tool=tool, old=f"tagged {tags[0] or 'with nothing'}", new=f"tagged {tags[1] or 'with nothing'}")
    yield from outputs(old, new)
    for name in sorted({*old.agents} ^ {*new.agents}):
        yield Change("agent", None, name, old=_known(name in old.agents), new=_known(name in new.agents))
    if unknown := not_compared(old, new):
        yield unknown


def wider(old: Policy, new: Policy, search: Callable[[], Search] = Search) -> Iterator[Change]:
    """What `new` allows and `old` refuses."""
    yield from _calls(old, new, search)
    yield from _delegations(old, new)
    yield from _environments(old, new, search())
    yield from limits(old, new)
    for tool in sorted({*old.tools, *new.tools}):
        yield from _attributes(tool, old.attributes(tool), new.attributes(tool))


def _known(known: bool) -> str:
    return "known" if known else "not known"


def not_compared(old: Policy, new: Policy) -> Change | None:
    """What the policies say and this analysis does not read."""
    places = sorted({*unread(old), *unread(new)})
    if not places:
        return None
    return Change("unread", None, why=f"not compared, since this analysis does not read it: {', '.join(places[:8])}")


# --- calls ----------------------------------------------------------------------------------------------------------------------------


def _calls(old: Policy, new: Policy, search: Callable[[], Search]) -> Iterator[Change]:
    for agent, tool, rule in rules_of(new):
        before = old.agents[agent].tools.get(tool) if agent in old.agents else None
        found = search()
        if before is not None and before.forbidden is None:
            if before.map != rule.map or holding(before) != holding(rule):
                yield from _arguments(old, new, (agent, tool), (before, rule), found)
            yield from times(old, new, agent, tool)
            continue
        answer = arguments(rule.map, {}, found, holding(rule))
        change = Change("call", True, agent, tool, old="not one of its tools", new="one of its tools", new_place=rule.place)
        if before is not None and before.forbidden is not None:
            change = replace(change, old="forbidden", old_place=before.forbidden.place)
        if not isinstance(answer, Nothing):
            yield _judged(change, answer, old, new)


def _arguments(old: Policy, new: Policy, names: tuple[str, str], rules: tuple[ToolRule, ToolRule], search: Search) -> Iterator[Change]:
    before, after = rules
    for name, demand in refusals(before.map, after.map):
        answer = arguments(after.map, {name: demand}, search, holding(after))
        if isinstance(answer, Nothing):
            continue
        was, now = _NEED if demand.absent else (_words(before.map, name), _words(after.map, name))
        change = Change("call", True, *names, name, was, now)
        places = before.places.get(name, before.place), after.places.get(name, after.place)
        yield _judged(replace(change, old_place=places[0], new_place=places[1]), answer, old, new)
    earlier, present = ([condition for condition, _ in rule.conditions] for rule in rules)
    for condition, place in before.conditions:
        answer = Nothing() if condition in present else arguments(after.map, {}, search, (*holding(after), (condition, False)))
        if not isinstance(answer, Nothing):
            others = "; ".join(each.text for each in present if each not in earlier) or "no such condition"
            change = Change("call", True, *names, "", condition.text, others, old_place=place, new_place=after.place)
            yield _judged(change, answer, old, new)


def _judged(change: Change, answer: Mapping[str, Frozen] | Unknown, old: Policy, new: Policy) -> Change:
    """The change with its example, if the policies themselves judge that as they should."""
    if isinstance(answer, Unknown):
        return replace(change, why=answer.why)
    agent, tool = change.agent, change.tool
    if new.judge(agent, tool, answer) is None and old.judge(agent, tool, answer) is not None:
        return replace(change, example=Call(agent, tool, answer).to_json())
    return replace(change, why=_UNCONFIRMED)


def _words(rules: ToolMap, name: str) -> str:
    entry = rules.named.get(name)
    if entry is None:
        return "any value, or left out" if rules.rest else "not an argument"
    return entry.constraint.describe() + (", or left out" if entry.optional else "")


# --- delegation -----------------------------------------------------------------------------------------------------------------------


def _delegations(old: Policy, new: Policy) -> Iterator[Change]:
    for agent, rules in new.agents.items():
        for to, delegate in rules.delegates.items():
            before = old.agents[agent].delegates.get(to) if agent in old.agents else None
            hops = 1 if before is None else before.depth + 1
            # A chain that only the new rule admits is longer than the old depth, and what begins such a chain is allowed too.
            chain = _chain(new, (agent, to), hops) if hops <= delegate.depth else None
            if chain is not None and new.may_delegate(chain) is None and old.may_delegate(chain) is not None:
                was = "no delegate" if before is None else _depth(before.depth)
                place = "" if before is None else before.place
                hop = f"{agent} -> {to}"
                yield Change("delegation", True, hop, "", "", was, _depth(delegate.depth), "", list(chain), place, delegate.place)


def _depth(depth: int) -> str:
    return f"a delegate, at most {depth} hop{'' if depth == 1 else 's'} deep"


def _chain(policy: Policy, start: tuple[str, str], hops: int) -> tuple[str, ...] | None:
    """A chain of exactly `hops` hops that begins like this and that the policy admits."""

    @cache
    def onward(agent: str, left: int) -> tuple[str, ...] | None:
        if left == 0:
            return (agent,)
        for to, delegate in policy.agents[agent].delegates.items():
            if delegate.depth >= left and (rest := onward(to, left - 1)) is not None:
                return (agent, *rest)
        return None

    rest = onward(start[1], hops - 1) if hops <= MAX_DEPTH else None
    return None if rest is None else (start[0], *rest)


# --- the rest -------------------------------------------------------------------------------------------------------------------------


def _environments(old: Policy, new: Policy, search: Search) -> Iterator[Change]:
    before, after = environment_map(old.environment), environment_map(new.environment)
    if before == after:
        return
    for name, demand in refusals(before, after):
        facts = arguments(after, {name: demand}, search)
        if isinstance(facts, Nothing):
            continue
        places = old.environment_places.get(name, ""), new.environment_places.get(name, "")
        was, now = _NEED if demand.absent else (_words(before, name), _words(after, name))
        change = Change("environment", True, "", "", name, was, now, "", None, *places)
        if isinstance(facts, Unknown):
            yield replace(change, why=facts.why)
        elif new.judge_environment(facts) is None and old.judge_environment(facts) is not None:
            yield replace(change, example=thaw(facts))
        else:
            yield replace(change, why=_UNCONFIRMED)


def _attributes(tool: str, old: ToolAttributes, new: ToolAttributes) -> Iterator[Change]:
    for name in (*_LOOSER, *_STRICTER):
        before, after = getattr(old, name), getattr(new, name)
        if before != after and after is (name in _LOOSER):
            words = name.replace("_", " ")
            yield Change("attribute", True, tool=tool, old=f"{words}: {_switch(before)}", new=f"{words}: {_switch(after)}")


def _switch(value: bool) -> str:
    return "yes" if value else "no"


def _forbids(old: Policy, new: Policy, search: Search) -> Iterator[Change]:
    """Names that `old` forbids and `new` does not, whether or not an agent has such a tool today."""
    for rule in old.forbid.rules:
        agent = Glob(rule.agent or "*")
        same = [other for other in new.forbid.rules if other.agent is None or (rule.agent is not None and Glob(other.agent).covers(agent))]
        answer = search.find(Both((Glob(rule.tool), _NAME, Not(Either(tuple(Glob(other.tool) for other in same))))))
        change = Change("forbid", None, rule.agent or "", rule.tool, old="forbidden", new="not forbidden", old_place=rule.place)
        if isinstance(answer, Nothing):
            continue
        if isinstance(answer, Unknown):
            yield replace(change, why=answer.why)
        elif _forbids_less(rule, str(answer.value), old, new):
            yield replace(change, example=str(answer.value))
        else:
            yield replace(change, why=_UNCONFIRMED)


def _forbids_less(rule: Forbid, tool: str, old: Policy, new: Policy) -> bool:
    agent = (rule.agent or "a").replace("*", "a").replace("?", "a")
    return old.forbid.first(agent, tool) is not None and new.forbid.first(agent, tool) is None
