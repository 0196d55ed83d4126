"""Whether the guard's own decision allows a call that an analysis found: at which time, after what, and with whose approval.

A policy may want hours, earlier calls of the task and approvals. They are all provided here, and every call on the way is decided as the
last one is: what cannot be brought about is not confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from agentguard.analysis.calls import Call, arguments, holding
from agentguard.analysis.history import History
from agentguard.analysis.search import Search
from agentguard.artifacts.chain import DEFAULT_LIMITS
from agentguard.artifacts.revocation import Revocations
from agentguard.call import ToolCall
from agentguard.canonical import Frozen, thaw
from agentguard.decide import decide_policy_only
from agentguard.decision import Verdict
from agentguard.policy.model import Policy
from agentguard.policy.sequences import SequenceRule
from agentguard.policy.standing import Standing
from agentguard.premises import Answer, Binding, Facts, Usage

#: Where time begins for such calls: Monday 2026-01-05 in UTC. A decision needs some time, and an analysis has no clock.
SOME_TIME: Final = 1_767_571_200
_APPROVED: Final = Answer("an approval", granted=True)


def allowed(policy: Policy, call: Call, search: Search) -> Call | None:
    """The call as the policy allows it, with the time, the earlier calls and the approval that it needs; None where it does not.

    The delegation that it came by counts, and the environment that it names.
    """
    if len(call.chain) > 1 and policy.may_delegate(call.chain) is not None:
        return None
    return _Task(policy, call, search).run(call, frozenset())


class _Task:
    """One task, call by call."""

    def __init__(self, policy: Policy, call: Call, search: Search) -> None:
        self.policy, self.search = policy, search
        self.facts = Facts(MappingProxyType(dict(call.environment)), Revocations(), DEFAULT_LIMITS)
        self.agents = _colleagues(policy, call)
        self.history = History(policy)
        self.now = SOME_TIME
        self.done: list[Call] = []

    def run(self, call: Call, above: frozenset[tuple[str, str]]) -> Call | None:
        """The call, made when all it needs has been done. `above` are the calls that wait for it."""
        standing = self.policy.standing(call.agent, call.tool)
        if standing is None or (call.agent, call.tool) in above or not self._prepare(standing, {*above, (call.agent, call.tool)}):
            return None
        now = self._open(standing)
        asked = ToolCall(call.agent, call.tool, thaw(call.arguments))
        answer = None
        usage = self.history.usage(call.agent, call.tool)
        decision = decide_policy_only(asked, Binding(asked.arguments), self.policy, self.facts, now, usage)
        if decision.verdict is Verdict.ASK and _answerable(standing, asked.arguments, usage):
            answer = _APPROVED
            usage = self.history.usage(call.agent, call.tool, answer)
            decision = decide_policy_only(asked, Binding(asked.arguments), self.policy, self.facts, now, usage)
        if now is None or not decision.allowed:
            return None
        if self.history.add(call.agent, call.tool, asked.arguments, now, approved=answer is not None) is not None:
            return None  # a budget has no room for it
        self.now = now
        made = replace(call, at=now if standing.hours else None, after=tuple(self.done), approved=answer is not None)
        self.done.append(replace(made, after=()))
        return made

    def _open(self, standing: Standing) -> int | None:
        """The first time from now on at which it may be made."""
        if not standing.hours:
            return self.now
        opened = [at for rule in standing.hours if (at := rule.hours.opens(self.now)) is not None]
        return min(opened, default=None)

    def _prepare(self, standing: Standing, above: set[tuple[str, str]]) -> bool:
        """Make the calls that must go before."""
        for check in standing.watch.checks if standing.watch is not None else ():
            if self.history.counters.get(check.need.key, 0) < check.need.low and not self._earlier(check.rule, frozenset(above)):
                return False
        return True

    def _earlier(self, rule: SequenceRule, above: frozenset[tuple[str, str]]) -> bool:
        for agent in self.agents if rule.agent is None else (rule.agent,):
            for tool in rule.subjects:
                given = self.policy.agents[agent].tools.get(tool)
                if given is None or given.forbidden is not None:
                    continue
                found = arguments(given.map, {}, self.search, holding(given))
                if isinstance(found, Mapping) and self.run(Call(agent, tool, found), above) is not None:
                    return True
        return False


def _answerable(standing: Standing, bound: Mapping[str, Frozen], usage: Usage) -> bool:
    """Whether there are as many who may approve as are asked for."""
    rule = standing.approval((bound,), usage.counters)
    return rule is not None and (rule.by is None or len(rule.by) >= rule.of)


def _colleagues(policy: Policy, call: Call) -> tuple[str, ...]:
    """The agents that may work in one task with the caller, itself first."""
    found = {call.agent: None}
    for root in policy.agents:
        reached = (root, *policy.reachable(root))
        if call.agent in reached:
            found |= dict.fromkeys(reached)
    return tuple(found)
