"""Cases beside a policy: calls, the verdict each must get, and which rules they show (`agentguard policy test`).

    - call: {agent: triage, tool: send_email, arguments: {to: eve@evil.test, subject: Hi, body: x}}
      verdict: deny
      code: argument_not_allowed
    - call: {agent: summarizer, tool: read_file, arguments: {path: /srv/tickets/7}}
      through: [triage, summarizer]          # judged as delegated that way, too
      environment: {deployment: staging}     # judged in such a place, too
      verdict: allow
    - call: {agent: clerk, tool: send_money, arguments: {to: bob, amount: 700}}
      after: [{tool: check_balance, arguments: {}}]      # judged after these calls of the task; `agent`, `times` and `failed` may be said
      at: "2026-11-23T09:00:00+01:00"                    # judged at this time, by `hours` too
      approved: true                                     # somebody who may has approved it; false: has denied it
      verdict: allow

A rule that no case shows at work may say anything. Of a tool, some case must be allowed; of a rule about an argument, of a condition, a
forbid rule, an environment rule, of hours, budgets and sequences, some case must be refused by it; of an approval rule, some case must ask
for it; of a delegate, some case must come through it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from agentguard.analysis.history import History
from agentguard.call import ToolCall
from agentguard.canonical import freeze
from agentguard.constraints.vocabulary import Wildcard
from agentguard.decision import Code, Reason, Verdict
from agentguard.errors import InvalidInput
from agentguard.policy.file import Document, read, read_source
from agentguard.policy.model import Policy
from agentguard.policy.sequences import SequenceRule

_MEMBERS: Final = ("after", "approved", "at", "call", "code", "environment", "through", "verdict")
_MOST: Final = 100_000
_EARLIER: Final = ("agent", "arguments", "failed", "times", "tool")
#: Without a time of its own, a case is counted at this one; hours are not judged then.
_SOME_TIME: Final = 1_767_225_600
_CALL: Final = ("agent", "tool", "arguments", "call_id")


@dataclass(frozen=True, slots=True)
class Earlier:
    """Calls of the same task that were admitted before, and whether they ended well."""

    call: ToolCall
    times: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Case:
    """One call and what must come of it. `code` is None where any will do; `place` is "file:line"."""

    call: ToolCall
    verdict: Verdict
    code: Code | None
    through: tuple[str, ...]
    environment: Mapping[str, Any] | None
    place: str
    after: tuple[Earlier, ...] = ()
    at: int | None = None
    approved: bool | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a case. `reason` is None where the call was allowed."""

    case: Case
    reason: Reason | None

    @property
    def verdict(self) -> Verdict:
        if self.reason is None:
            return Verdict.ALLOW
        return Verdict.ASK if self.reason.code is Code.APPROVAL_REQUIRED else Verdict.DENY

    @property
    def right(self) -> bool:
        """Whether it is what the case says."""
        code = self.reason.code if self.reason is not None else None
        return self.verdict is self.case.verdict and self.case.code in (None, code)


@dataclass(frozen=True, slots=True)
class Shown:
    """One rule, what is wanted of the cases, and whether some case does it."""

    place: str
    rule: str
    wanted: str
    shown: bool


@dataclass(frozen=True, slots=True)
class Report:
    """All answers, and all rules with whether they were shown at work."""

    answers: tuple[Answer, ...]
    rules: tuple[Shown, ...]

    @property
    def wrong(self) -> tuple[Answer, ...]:
        return tuple(answer for answer in self.answers if not answer.right)

    @property
    def unshown(self) -> tuple[Shown, ...]:
        return tuple(rule for rule in self.rules if not rule.shown)


def cases_beside(policy: Path) -> Path:
    """Where the cases of a policy lie: `support.yaml` has `support.cases.yaml`."""
    return policy.with_suffix(f".cases{policy.suffix}")


def read_cases(path: Path) -> tuple[Case, ...]:
    """Read a file of cases, strictly. Raises InvalidInput whose place is "file:line:column"."""
    return cases_in(read(*read_source(path, path.name)))


def cases_in(document: Document) -> tuple[Case, ...]:
    """The cases of a document. Raises InvalidInput."""
    if type(document.value) is not list:
        raise InvalidInput("a file of cases is a list of cases", place=document.place(()), hint="- call: {...}\n  verdict: deny")
    return tuple(_case(document, index, item) for index, item in enumerate(document.value))


def _case(document: Document, index: int, item: Any) -> Case:
    members = _object(document, (index,), item, _MEMBERS, ("call", "verdict"))
    call = _object(document, (index, "call"), members["call"], _CALL, ("agent", "tool", "arguments"))
    verdict = _word(document, (index, "verdict"), members["verdict"], [str(one) for one in Verdict])
    code = members.get("code")
    if code is not None:
        code = _word(document, (index, "code"), code, [str(one) for one in Code])
        if verdict == Verdict.ALLOW:
            raise InvalidInput("an allowed call has no code", place=document.place((index, "code"), key=True))
    through = members.get("through", [])
    if type(through) is not list or not all(type(name) is str for name in through) or (through and through[-1] != call["agent"]):
        hint = "list the agents from the one whose task it is to the one that calls"
        raise InvalidInput(
            "through must be a list of agents that ends with the caller", place=document.place((index, "through")), hint=hint
        )
    environment = members.get("environment")
    if environment is not None and type(environment) is not dict:
        raise InvalidInput("environment must be an object of facts", place=document.place((index, "environment")))
    presented = ToolCall(call["agent"], call["tool"], call["arguments"], call.get("call_id"))
    facts = freeze(environment) if environment is not None else None
    after = members.get("after", [])
    if type(after) is not list:
        raise InvalidInput(
            "after must be a list of earlier calls", place=document.place((index, "after")), hint="[{tool: ..., arguments: {}}]"
        )
    approved = members.get("approved")
    if approved is not None and type(approved) is not bool:
        raise InvalidInput("approved must be true or false", place=document.place((index, "approved")))
    return Case(
        presented,
        Verdict(verdict),
        Code(code) if code is not None else None,
        tuple(through),
        facts,
        document.line((index,)),
        tuple(_earlier(document, (index, "after", order), item, call["agent"]) for order, item in enumerate(after)),
        _time(document, (index, "at"), members["at"]) if "at" in members else None,
        approved,
    )


def _earlier(document: Document, path: tuple[str | int, ...], item: Any, agent: str) -> Earlier:
    members = _object(document, path, item, _EARLIER, ("tool", "arguments"))
    times, failed = members.get("times", 1), members.get("failed", False)
    if type(times) is not int or not 0 < times <= _MOST or type(failed) is not bool:
        raise InvalidInput(f"times is a number from 1 to {_MOST}, failed is true or false", place=document.place(path))
    return Earlier(ToolCall(members.get("agent", agent), members["tool"], members["arguments"]), times, failed)


def _time(document: Document, path: tuple[str | int, ...], value: Any) -> int:
    try:
        moment = datetime.fromisoformat(value) if type(value) is str else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidInput(f"{value!r:.40} is no time with its zone", place=document.place(path), hint='write "2026-11-23T09:00:00+01:00"')
    return int(moment.timestamp())


def _object(document: Document, path: tuple[str | int, ...], value: Any, known: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Any]:
    if type(value) is not dict:
        raise InvalidInput(f"expected an object with {', '.join(needed)}", place=document.place(path))
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise InvalidInput(f"there is no member {name!r:.60}", place=document.place((*path, name), key=True), hint=hint)
    for name in needed:
        if name not in value:
            raise InvalidInput(f"the member {name!r} is missing", place=document.place(path))
    return value


def _word(document: Document, path: tuple[str | int, ...], value: Any, known: list[str]) -> str:
    if type(value) is not str or value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise InvalidInput(f"{path[-1]} cannot be {value!r:.60}", place=document.place(path), hint=hint)
    return value


def run(policy: Policy, cases: tuple[Case, ...]) -> Report:
    """Judge every case by the policy alone, and find the rules that no case shows at work."""
    answers = tuple(Answer(case, _judge(policy, case)) for case in cases)
    return Report(answers, tuple(_rules(policy, answers)))


def _judge(policy: Policy, case: Case) -> Reason | None:
    """The stages that a policy can judge, in their order: 0, 5, 10, 12, and its budgets."""
    call = case.call
    if call.defect:
        return Reason(Code.MALFORMED_CALL, call.tool, "a well-formed call", call.defect)
    reason = policy.judge_environment(case.environment) if case.environment is not None else None
    if reason is None and case.through:
        reason = policy.may_delegate(case.through)
    if reason is None:
        reason = policy.judge(call.agent, call.tool, call.arguments)
    return reason if reason is not None else _judge_standing(policy, case)


def _judge_standing(policy: Policy, case: Case) -> Reason | None:
    """What is judged beside the arguments, after what went before."""
    call, now = case.call, _SOME_TIME if case.at is None else case.at
    history = History(policy)
    for earlier in case.after:
        for _ in range(earlier.times):
            history.add(earlier.call.agent, earlier.call.tool, earlier.call.arguments, now, ok=not earlier.failed, approved=True)
    standing = policy.standing(call.agent, call.tool)
    if standing is None:
        return None
    if case.at is None:
        standing = replace(standing, hours=())
    usage = history.usage(call.agent, call.tool)
    reason = standing.judge(call.tool, now, usage.counters)
    if reason is not None:
        return reason
    asked = standing.approval((call.arguments,), usage.counters)
    if asked is not None and not case.approved:
        return (
            asked.reason(call.tool)
            if case.approved is None
            else Reason(Code.APPROVAL_DENIED, call.tool, asked.words(), "denied", asked.place)
        )
    return history.add(call.agent, call.tool, call.arguments, now)


def _sequence(rule: SequenceRule, where: str, refusing: set[str]) -> Shown:
    place = rule.place if rule.ask is None else rule.ask.place
    wanted = "a case that it refuses" if rule.ask is None else "a case that asks for it"
    return Shown(rule.place, f"{where}: {rule.words()}", wanted, place in refusing)


def _rules(policy: Policy, answers: tuple[Answer, ...]) -> Iterator[Shown]:
    allowed = {(answer.case.call.agent, answer.case.call.tool) for answer in answers if answer.reason is None}
    refused = {
        (answer.case.call.agent, answer.case.call.tool, answer.reason.subject)
        for answer in answers
        if answer.reason is not None and answer.reason.code is Code.ARGUMENT_NOT_ALLOWED
    }
    refusing = {answer.reason.place for answer in answers if answer.reason is not None}
    hops = {hop for answer in answers if answer.reason is None for hop in pairwise(answer.case.through)}
    for name in policy.environment:
        place = policy.environment_places[name]
        yield Shown(place, f"environment.{name}", "a case that it refuses", place in refusing)
    for forbidden in policy.forbid.rules:
        yield Shown(forbidden.place, f"forbid {forbidden.tool}", "a case that it refuses", forbidden.place in refusing)
    for sequence in policy.sequence:
        yield _sequence(sequence, "sequence", refusing)
    for tool, attributes in policy.tools.items():
        if attributes.approval is not None:
            yield Shown(
                attributes.approval.place, f"tools.{tool}.approval", "a case that asks for it", attributes.approval.place in refusing
            )
    for agent, rules in policy.agents.items():
        for tool, rule in rules.tools.items():
            if rule.forbidden is not None:
                continue
            yield Shown(rule.place, f"agents.{agent}.tools.{tool}", "a case that is allowed", (agent, tool) in allowed)
            for argument, entry in rule.arguments.items():
                if not isinstance(entry.constraint, Wildcard):
                    where = f"agents.{agent}.tools.{tool}.{argument}"
                    yield Shown(rule.places[argument], where, "a case that it refuses", (agent, tool, argument) in refused)
            for condition, place in rule.conditions:
                yield Shown(place, f"agents.{agent}.where.{tool}: {condition.text}", "a case that it refuses", place in refusing)
        for index, hours in enumerate(rules.hours):
            yield Shown(hours.place, f"agents.{agent}.hours[{index}]", "a case that it refuses", hours.place in refusing)
        for budget in rules.budgets:
            yield Shown(budget.place, f"agents.{agent}.budgets: {budget.name}", "a case that it refuses", budget.place in refusing)
        for sequence in rules.sequence:
            yield _sequence(sequence, f"agents.{agent}.sequence", refusing)
        for ask in {rule.place: rule for rules_of_tool in rules.approvals.values() for rule in rules_of_tool}.values():
            yield Shown(ask.place, f"agents.{agent}.approval", "a case that asks for it", ask.place in refusing)
        for to, delegate in rules.delegates.items():
            yield Shown(delegate.place, f"agents.{agent}.delegates.{to}", "a case that comes through it", (agent, to) in hops)
