"""What of two policies only takes calls away, compared: hours by the times that they leave, all else as it is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from agentguard.analysis.changes import Change
from agentguard.analysis.confirm import SOME_TIME
from agentguard.canonical import jcs
from agentguard.constraints.values import shorten
from agentguard.policy.approval import ApprovalRule
from agentguard.policy.budgets import Budget
from agentguard.policy.model import AgentPolicy, Policy
from agentguard.policy.sequences import SequenceRule
from agentguard.policy.standing import HoursRule
from agentguard.spans import show_span

_DAY: Final = 24 * 60
_WEEK: Final = frozenset(range(7 * _DAY))
#: When hours are compared by trying: two weeks by the minute, a year by the quarter of an hour.
_TIMES: Final = (range(SOME_TIME, SOME_TIME + 14 * _DAY * 60, 60), range(SOME_TIME, SOME_TIME + 366 * _DAY * 60, 15 * 60))
_SEVERAL: Final = "hours in several zones were compared at many times of a year, which proves nothing for others"


# --- hours ----------------------------------------------------------------------------------------------------------------------------


def times(old: Policy, new: Policy, agent: str, tool: str) -> Iterator[Change]:
    """When `new` lets an agent call a tool that it has in both policies, and `old` does not."""
    before, after = _hours(old, agent, tool), _hours(new, agent, tool)
    if not before or (after and {rule.hours for rule in after} <= {rule.hours for rule in before}):
        return
    words = [shorten(" or ".join(rule.hours.describe() for rule in rules), 160) or "at any time" for rules in (before, after)]
    place = after[0].place if after else new.agents[agent].tools[tool].place
    change = Change("hours", True, agent, tool, old=words[0], new=words[1], old_place=before[0].place, new_place=place)
    one_zone = len({rule.hours.zone for rule in (*before, *after)}) == 1
    if one_zone and _week(after) <= _week(before):
        return
    for now in (now for tried in _TIMES for now in tried):
        if _open(after, now) and not _open(before, now):
            yield replace(change, example={"at": datetime.fromtimestamp(now, UTC).isoformat()})
            return
    yield replace(change, why=_SEVERAL)


def _hours(policy: Policy, agent: str, tool: str) -> tuple[HoursRule, ...]:
    standing = policy.standing(agent, tool)
    return standing.hours if standing is not None else ()


def _open(rules: tuple[HoursRule, ...], now: int) -> bool:
    return not rules or any(rule.hours.open(now) for rule in rules)


def _week(rules: tuple[HoursRule, ...]) -> frozenset[int]:
    """The minutes of a week, as a clock of their zone shows them, at which one of the windows is open."""
    found: set[int] = set()
    for hours in (rule.hours for rule in rules):
        length = (hours.end - hours.start) % _DAY or _DAY
        for day in hours.days:
            found |= {(day * _DAY + hours.start + minute) % (7 * _DAY) for minute in range(length)}
    return frozenset(found) if rules else _WEEK


# --- what is compared as it is written ------------------------------------------------------------------------------------------------


def limits(old: Policy, new: Policy) -> Iterator[Change]:
    """Budgets, sequences and approvals of `old` for which `new` has nothing as strict."""
    yield from _lost_sequences("", old.sequence, new.sequence)
    for name, rules in new.agents.items():
        before = old.agents.get(name)
        if before is None:
            continue
        yield from _budgets(name, before, rules)
        yield from _lost_sequences(name, before.sequence, rules.sequence)
        for tool, approvals in before.approvals.items():
            if tool in rules.tools:
                yield from _lost_approvals(name, tool, approvals, rules.approvals.get(tool, ()))
    for tool in old.tools:
        asked = [() if rule is None else (rule,) for rule in (old.attributes(tool).approval, new.attributes(tool).approval)]
        yield from _lost_approvals("", tool, *asked)


def outputs(old: Policy, new: Policy) -> Iterator[Change]:
    """What is said about the outputs of tools, where it is not the same."""
    for tool in sorted({*old.tools, *new.tools}):
        rules = [policy.attributes(tool).output for policy in (old, new)]
        written = ["outputs as they are" if rule is None else f"outputs {shorten(jcs(rule.to_json()).decode(), 120)}" for rule in rules]
        if rules[0] != rules[1]:
            yield Change("output", None, tool=tool, old=written[0], new=written[1])


def _lost_sequences(agent: str, old: tuple[SequenceRule, ...], new: tuple[SequenceRule, ...]) -> Iterator[Change]:
    for rule in old:
        if not any(_follows(other, rule) for other in new):
            now = next((other.words() for other in new if (other.kind, other.subjects) == (rule.kind, rule.subjects)), "no such rule")
            yield Change("sequence", True, agent, old=rule.words(), new=now, old_place=rule.place)


def _follows(new: SequenceRule, old: SequenceRule) -> bool:
    """Whether every history that a rule admits is one that an older rule admits."""
    if new.kind != old.kind:
        return False
    of, among = ({*new.subjects}, {*old.subjects}), ({*new.objects}, {*old.objects})
    if new.kind == "before":
        return of[0] <= of[1] and among[0] >= among[1]
    if new.kind == "never_after":
        return of[0] >= of[1] and among[0] >= among[1]
    if new.kind == "at_most":
        return of[0] >= of[1] and new.limit <= old.limit
    return of[0] == of[1] and new.ask is not None and old.ask is not None and _asks(new.ask, old.ask)


def _lost_approvals(agent: str, tool: str, old: Iterable[ApprovalRule], new: tuple[ApprovalRule, ...]) -> Iterator[Change]:
    for rule in old:
        if not any(_asks(other, rule) for other in new):
            now = " and ".join(map(_words, new)) or "no such rule"
            yield Change("approval", True, agent, tool, old=_words(rule), new=now, old_place=rule.place)


def _asks(new: ApprovalRule, old: ApprovalRule) -> bool:
    """Whether a rule asks whenever an older one does, and for as much."""
    return (
        (new.when is None or new.when == old.when)
        and (old.by is None or (new.by is not None and {*new.by} <= {*old.by}))
        and new.of >= old.of
        and new.expires <= old.expires
        and new.initiator <= old.initiator
    )


def _words(rule: ApprovalRule) -> str:
    own = " or the initiator" if rule.initiator else ""
    return f"{rule.words()}{own} within {show_span(rule.expires)}" + (f" when {rule.when.text}" if rule.when is not None else "")


def _budgets(agent: str, old: AgentPolicy, new: AgentPolicy) -> Iterator[Change]:
    after = {budget.name: budget for budget in new.budgets}
    for budget in old.budgets:
        other = after.get(budget.name)
        if other is None or not _as_strict(other, budget):
            was, now = (f"no limit of {budget.name}" if each is None else f"at most {each.shown()} {each.name}" for each in (budget, other))
            place = new.place if other is None else other.place
            yield Change("budget", True, agent, old=was, new=now, old_place=budget.place, new_place=place)


def _as_strict(new: Budget, old: Budget) -> bool:
    """Of two budgets of one name, which says what is counted, and of what in which window."""
    return new.limit <= old.limit and new.reserve >= old.reserve and (new.cost, new.output) == (old.cost, old.output)
