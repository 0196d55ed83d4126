"""Asking people about a call: what they said, a request where nobody has said anything, and waiting for it (DESIGN §10).

The answer to a call is looked up with everything that the call is judged by, so that each check runs through all stages again: nothing is
decided by the fact that somebody waited.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from agentguard.approvals import Question, Request, Terms, judge, make_request, weigh
from agentguard.artifacts.chain import VerifiedChain
from agentguard.call import ToolCall
from agentguard.canonical import jcs
from agentguard.context import current_execution
from agentguard.decision import Decision
from agentguard.environment import NANOSECOND, Clock
from agentguard.errors import AgentguardError
from agentguard.home import Home
from agentguard.policy.approval import ApprovalRule
from agentguard.policy.model import Policy
from agentguard.premises import Answer, Binding, Grant, Usage


class Heard(NamedTuple):
    """What humans said about a call: the request, what the answers come to, and the signed answers that were counted."""

    request: Request
    answer: Answer
    counted: tuple[str, ...]

    def used(self, execution: str) -> dict[str, Any]:
        """The record that an admitted call stands on this."""
        by = list(self.answer.by)
        return {"action": "used", "answers": list(self.counted), "by": by, "execution": execution, "request": self.request.id}


class Asking:
    """The requests of one guard's calls."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home, self._clock = home, clock

    def heard(self, policy: Policy, call: ToolCall, binding: Binding, grant: Grant, usage: Usage, now: int) -> Heard | None:
        """What came of asking about exactly this call, by `now` (seconds); None if nothing has yet."""
        request = self._home.inbox.find(_question(policy, call, binding, _chain_of(grant)))
        return self._heard(request, _rule(policy, call, binding, usage), now) if request is not None else None

    def ask(
        self, policy: Policy, call: ToolCall, binding: Binding, grant: Grant, usage: Usage, decision: Decision, now: int
    ) -> tuple[Request, bool]:
        """Put a request, or join the one that stands: (the request, whether it is new). What was asked before and led nowhere makes way.

        Raises InvalidInput for a call that nobody can be asked about, StateUnavailable where the request cannot be kept.
        """
        chain, rule, salt = _chain_of(grant), _rule(policy, call, binding, usage), os.urandom(16)
        initiator = chain.initiator
        request = make_request(
            self._home.keys.issuer(),
            _question(policy, call, binding, chain),
            Terms.of_rule(rule),
            agents=grant.agents,
            keys=chain.keys,
            initiator={"id": initiator.id, "method": initiator.method, "evidence": initiator.evidence} if initiator is not None else None,
            execution=decision.execution,
            caused_by=current_execution.get(),
            place=rule.place,
            reason="; ".join(reason.sentence() for reason in decision.reasons),
            now=now,
            salt=salt,
        )
        opened, new = self._home.inbox.open(request, now, lambda found: now < found.expires and found.terms == request.terms)
        if new:  # so that an answer's commitment can be opened for as long as values are kept
            self._home.side.put(decision.execution, "asked", salt, jcs(request.question.arguments))
        return opened, new

    def over(self, identity: str) -> tuple[Request, Callable[[], bool]] | None:
        """For waiting: the request with this id, and whether there is nothing to wait for any more. None if it is gone already."""
        request = next((one.request for one in self._home.inbox.all() if one.request is not None and one.request.id == identity), None)
        if request is None:
            return None
        found = request

        def over() -> bool:
            now = self._clock.now() // NANOSECOND
            try:
                return now >= found.expires or not self._home.inbox.stands(found) or self._heard(found, found.terms, now) is not None
            except AgentguardError:  # the next check says what is wrong
                return True

        return found, over

    def wait(self, identity: str, until: float) -> bool:
        """Wait until the request was answered, used or has expired; False if it was not by `until` (of `time.monotonic`)."""
        found = self.over(identity)
        if found is None:
            return True
        with self._home.inbox.bell(found[0]) as bell:
            return bell.wait(found[1], until)

    async def await_(self, identity: str, until: float) -> bool:
        """The same for asyncio."""
        found = self.over(identity)
        if found is None:
            return True
        with self._home.inbox.bell(found[0]) as bell:
            return await bell.await_(found[1], until)

    def _heard(self, request: Request, rule: ApprovalRule | Terms, now: int) -> Heard | None:
        answers = self._home.inbox.answers(request)
        trust = self._home.approvers() if answers else {}
        answer = judge(request, answers, rule, trust, now)
        if answer is None:
            return None
        counted = [text for key, text in sorted(answers.items()) if not weigh(request, key, text, rule, trust, now).why_not]
        return Heard(request, answer, tuple(counted))


def asked(request: Request) -> dict[str, Any]:
    """The record that a request was put: what it is about by commitment, and who is to answer."""
    question, terms = request.question, request.terms
    return {
        "action": "asked",
        "agent": question.agent,
        "arguments": request.commitment,
        "execution": request.execution,
        "expires": request.expires,
        "needs": {"by": list(terms.by) if terms.by is not None else None, "initiator": terms.initiator, "of": terms.of},
        "place": request.place,
        "request": request.id,
        "task": question.task,
        "tool": question.tool,
    }


def _question(policy: Policy, call: ToolCall, binding: Binding, chain: VerifiedChain) -> Question:
    return Question(chain.task_id, chain.leaf.hash, call.agent, call.tool, binding.bound, binding.followed, policy.digest)


def _rule(policy: Policy, call: ToolCall, binding: Binding, usage: Usage) -> ApprovalRule:
    standing = policy.standing(call.agent, call.tool)
    rule = standing.approval(binding.views, usage.counters) if standing is not None else None
    if rule is None:  # stage 12 has just said that there is one: a fault of ours, which denies
        raise AgentguardError("asked without a rule")
    return rule


def in_event_loop() -> bool:
    """Whether an event loop of asyncio runs in this thread, which nothing may hold up."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _chain_of(grant: Grant) -> VerifiedChain:
    if grant.chain is None:
        raise AgentguardError("asked without a chain")
    return grant.chain
