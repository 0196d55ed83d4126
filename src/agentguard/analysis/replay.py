"""Calls that were made, judged again in their order and at their time: arguments, hours, sequences, approvals and budgets of a policy.

It is what a guard would have said, by what it decides and counts with (`decide_rules`, `take`), as far as a call is known. Assumed is:

* a call has ended before the next one begins; one that was refused then, and runs now, ends well
* a call without a time is made when the one before it was; before any time is known no time passes, hours are not judged, and a rule that
  may be shadowed is enforced
* a call that needs approval has the answer that was given then, whoever gave it; where none is known it asks
* a cost that only the outcome tells is what is set aside for it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agentguard.analysis.history import Counters, History
from agentguard.analysis.trace import Called
from agentguard.call import ToolCall
from agentguard.canonical import Frozen
from agentguard.decide import Answer, Binding, decide_rules
from agentguard.decision import Code, Reason, Verdict
from agentguard.policy import Policy

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
        self._plain: dict[tuple[str, str], bool] = {}

    def judge(self, call: Called) -> Reason | None:
        """None where the call runs, and it is counted then; else why not. `call.arguments` are known."""
        if call.at is not None:
            self._now = call.at
        where = (call.agent, call.tool)
        plain = self._plain.get(where)
        if plain is None:
            plain = self._plain[where] = self._by_arguments_only(*where)
        arguments = call.arguments if call.arguments is not None else {}
        return self._policy.judge(*where, arguments) if plain else self._judge(call, arguments)

    def _by_arguments_only(self, agent: str, tool: str) -> bool:
        """Whether neither time nor what went before decides anything."""
        rules, standing = self._policy.agents.get(agent), self._policy.standing(agent, tool)
        if rules is None or standing is None:
            return True
        rule = rules.tools.get(tool)
        if rule is not None and rule.forbidden is not None and rule.forbidden.until is not None:
            return False
        return rules.shadow is None and not (standing.budgets or standing.hours or standing.watch or standing.approvals)

    def _judge(self, call: Called, arguments: Mapping[str, Frozen]) -> Reason | None:
        presented = ToolCall(call.agent, call.tool, arguments)
        if presented.defect:
            return Reason(Code.MALFORMED_CALL, call.tool, "a well-formed call", presented.defect)
        binding = Binding(presented.arguments)
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
