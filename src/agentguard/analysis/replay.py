"""Calls that were made, judged again in their order and at their time: arguments, hours, sequences, approvals and budgets of a policy.

It is what a guard would have said, by what it decides and counts with (`decide_rules`, `take`), as far as a call is known. Assumed is:

* a call has ended before the next one begins; one that was refused then, and runs now, ends well
* a call without a time is made when the one before it was; before any time is known no time passes, hours are not judged, and a rule that
  may be shadowed is enforced
* a call that needs approval has the answer that was given then, whoever gave it; where none is known it asks
* a cost that only the outcome tells is what is set aside for it
"""

from __future__ import annotations

from typing import Final

from agentguard.analysis.history import Counters, History
from agentguard.analysis.trace import Called
from agentguard.call import ToolCall
from agentguard.decide import decide_rules
from agentguard.decision import Reason, Verdict
from agentguard.policy.model import Policy
from agentguard.premises import Answer, Binding

#: Windows are counted from here where no time is known.
SOME_TIME: Final = 1_767_225_600
_ANSWERS: Final = {True: Answer("recorded", granted=True), False: Answer("recorded", granted=False)}


class Replay:
    """A policy and what went before under it. Calls are given to `judge` in their order."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._tasks: dict[str, History] = {}
        self._shared = Counters()
        self._now: int | None = None
        self._judged: dict[tuple[str, str], ToolCall | None] = {}

    def judge(self, call: Called) -> Reason | None:
        """None where the call runs, and it is counted then; else why not. `call.arguments` are known."""
        if call.at is not None:
            self._now = call.at
        where = (call.agent, call.tool)
        try:
            presented = self._judged[where]
        except KeyError:
            presented = self._judged[where] = None if self._by_arguments_only(*where) else ToolCall(*where, {})
        arguments = call.arguments if call.arguments is not None else {}
        if presented is not None:
            return self._judge(call, presented.with_arguments(arguments, ""))
        reason = self._policy.judge(*where, arguments)
        return self._policy.judge(*where, call.followed) if reason is None and call.followed is not None else reason

    def _by_arguments_only(self, agent: str, tool: str) -> bool:
        """Whether neither time nor what went before decides anything."""
        rules, standing = self._policy.agents.get(agent), self._policy.standing(agent, tool)
        if rules is None or standing is None:
            return True
        rule = rules.tools.get(tool)
        if rule is not None and rule.forbidden is not None and rule.forbidden.until is not None:
            return False
        return rules.shadow is None and not (standing.budgets or standing.hours or standing.watch or standing.approvals)

    def _judge(self, call: Called, presented: ToolCall) -> Reason | None:
        binding = Binding(presented.arguments, followed=call.followed)
        history = self._tasks.get(call.task)
        if history is None:
            history = self._tasks[call.task] = History(self._policy, shared=self._shared)
        history.initiator = call.initiator
        usage = history.usage(call.agent, call.tool)
        decision, answer = decide_rules(presented, binding, self._policy, self._now, usage), None
        if decision.verdict is Verdict.ASK and decision.enforced and call.approved is not None:
            answer = _ANSWERS[call.approved]
            usage = history.usage(call.agent, call.tool, answer)
            decision = decide_rules(presented, binding, self._policy, self._now, usage)
        if not decision.runs:
            return decision.reasons[0]
        now = SOME_TIME if self._now is None else self._now
        ok = call.succeeded or not call.ran
        granted = answer is not None and answer.granted
        return history.add(call.agent, call.tool, presented.arguments, now, ok=ok, approved=granted)
