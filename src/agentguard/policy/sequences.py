"""Sequence rules: what must have happened before a call, or must not (DESIGN §6; stage 10).

    {tool: check_balance, before: send_money}      send_money needs an earlier check_balance that ended without an error
    {tag: egress, never_after: read_secret}        once read_secret was admitted, nothing with the tag egress
    {tool: send_email, at_most: 3}
    {tool: wipe, only_after_approval: {by: "user:carol"}}      the first call asks; after its approval further calls run

A rule at an agent is about this agent's calls in a task; at the top of a policy it is about the calls of all agents of the task. Each rule
is an automaton that needs to know of the past only how often one set of tools was called: a counter of the task. So a call reads and moves
a few counters, however long the history is. What breaks a rule is counted when it is admitted, and what fulfils one when it has succeeded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from agentguard.admission import Charge, Need
from agentguard.canonical import Json, jcs
from agentguard.constraints.values import shorten
from agentguard.decision import Code, Reason
from agentguard.policy.approval import ApprovalRule

_UNLIMITED: Final = 2**53

Kind = Literal["before", "never_after", "at_most", "only_after_approval"]


@dataclass(frozen=True, slots=True)
class SequenceRule:
    """One rule. `subjects` and `objects` are names of tools, in order; `agent` is None where all agents of a task are meant; `ask` is whose
    approval the first call needs."""

    kind: Kind
    subjects: tuple[str, ...]
    objects: tuple[str, ...]
    limit: int
    agent: str | None
    place: str
    ask: ApprovalRule | None = None

    def counter(self) -> str:
        """The counter that tells what this rule must know. Rules that ask the same share one."""
        what = {"before": "done", "only_after_approval": "approved"}.get(self.kind, "called")
        tools = self.objects if self.kind == "never_after" else self.subjects
        return f"seq/{self.agent or ''}/{what}/{hashlib.sha256(jcs(list(tools))).hexdigest()[:32]}"

    def to_json(self) -> dict[str, Json]:
        """The rule as a policy has it, tags written out."""
        value: Json = self.limit if self.kind == "at_most" else list(self.objects) if self.ask is None else self.ask.to_json()
        return {"tool": list(self.subjects), self.kind: value}

    def words(self) -> str:
        """The rule in words."""
        subjects = shorten(" or ".join(self.subjects), 120)
        if self.kind == "at_most":
            return f"at most {self.limit} of {subjects}"
        if self.kind == "only_after_approval":
            return f"{subjects} only after approval"
        return f"{subjects} {'before' if self.kind == 'before' else 'never after'} {shorten(' or '.join(self.objects), 120)}"


@dataclass(frozen=True, slots=True)
class _Check:
    rule: SequenceRule
    need: Need


@dataclass(frozen=True, slots=True)
class Watch:
    """All that sequence rules have to do with the calls of one agent to one tool.

    reads     counters to ask for before the decision
    needs     what they must be; admission compares them again at the moment that counts
    charges   what an admitted call moves
    earned    what it moves once it has succeeded
    approved  whose approval the first call of a task needs, by the counter that it moves
    """

    checks: tuple[_Check, ...]
    charges: tuple[Charge, ...]
    earned: tuple[str, ...]
    approved: Mapping[str, ApprovalRule]
    reads: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads", (*[check.need.key for check in self.checks], *self.approved))

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple([check.need for check in self.checks])

    def judge(self, tool: str, counters: Mapping[str, int]) -> Reason | None:
        """None where a call fits what went before. A counter that is not given stands at 0."""
        for check in self.checks:
            rule, need = check.rule, check.need
            count = counters.get(need.key, 0)
            if not need.low <= count <= need.high:
                return Reason(Code.SEQUENCE_VIOLATION, tool, rule.words(), _found(rule, count), rule.place)
        return None

    def asks(self, counters: Mapping[str, int]) -> list[ApprovalRule]:
        """The approvals that this task does not have yet."""
        return [ask for key, ask in self.approved.items() if counters.get(key, 0) < 1]


def _found(rule: SequenceRule, count: int) -> str:
    if rule.kind == "at_most":
        return f"{count} before"
    if rule.kind == "before":
        return f"no {shorten(' or '.join(rule.subjects), 120)} that succeeded"
    return f"{count} call{'s' if count != 1 else ''} of {shorten(' or '.join(rule.objects), 120)} before"


def watch(agent: str, tool: str, rules: Iterable[SequenceRule]) -> Watch | None:
    """What the rules have to do with calls of `agent` to `tool`; None where it is nothing."""
    checks: list[_Check] = []
    charged: dict[str, None] = {}
    earned: dict[str, None] = {}
    approved: dict[str, ApprovalRule] = {}
    for rule in rules:
        if rule.agent is not None and rule.agent != agent:
            continue
        key = rule.counter()
        if rule.kind == "before":
            if tool in rule.objects:
                checks.append(_Check(rule, Need(key, 1)))
            if tool in rule.subjects:
                earned[key] = None
        elif rule.kind == "never_after":
            if tool in rule.subjects:
                checks.append(_Check(rule, Need(key, 0, 0)))
            if tool in rule.objects:
                charged[key] = None
        elif tool in rule.subjects and rule.kind == "at_most":
            checks.append(_Check(rule, Need(key, 0, rule.limit - 1)))
            charged[key] = None
        elif tool in rule.subjects and rule.ask is not None:
            approved[key] = rule.ask
    if not (checks or charged or earned or approved):
        return None
    charges = tuple([Charge(key, _UNLIMITED, "a sequence rule") for key in charged])
    return Watch(tuple(checks), charges, tuple(earned), approved)
