"""What holds for the calls of one agent to one tool beside their arguments: hours, budgets, sequences, approvals, shadow (DESIGN §6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from agentguard.canonical import Frozen
from agentguard.constraints.values import shorten
from agentguard.decision import Code, Reason
from agentguard.policy.approval import ApprovalRule, strictest
from agentguard.policy.budgets import Budget
from agentguard.policy.hours import Hours
from agentguard.policy.sequences import Watch


@dataclass(frozen=True, slots=True)
class HoursRule:
    """When an agent may call `tools`, or whichever it has where that is None. Of several that are about a tool, one must be open."""

    hours: Hours
    tools: tuple[str, ...] | None
    place: str


@dataclass(frozen=True, slots=True)
class Shadow:
    """Until this second, refusals of an agent's own rules are recorded and not enforced: of all its tools, or of some."""

    until: int
    tools: tuple[str, ...] | None
    place: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What the calls of one agent to one tool are judged and charged by, beside the arguments.

    shared, tool_approval  the part of `watch` and `approvals` that is not the agent's own
    """

    budgets: tuple[Budget, ...]
    hours: tuple[HoursRule, ...]
    watch: Watch | None
    approvals: tuple[ApprovalRule, ...]
    shared: Watch | None = None
    tool_approval: ApprovalRule | None = None

    @property
    def fixed(self) -> bool:
        """Whether every call is charged the same, whatever its arguments, the time and what went before."""
        return not self.approvals and (self.watch is None or not self.watch.approved) and all(budget.fixed for budget in self.budgets)

    def judge(self, tool: str, now: int, counters: Mapping[str, int]) -> Reason | None:
        """None where a call at `now` (seconds), after what `counters` tell, is allowed (stage 10)."""
        if self.hours and not any(rule.hours.open(now) for rule in self.hours):
            required = shorten(" or ".join(rule.hours.describe() for rule in self.hours), 200)
            moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
            return Reason(Code.TOOL_NOT_ALLOWED, tool, required, moment, self.hours[0].place)
        return None if self.watch is None else self.watch.judge(tool, counters)

    def approval(self, views: tuple[Mapping[str, Frozen], ...], counters: Mapping[str, int]) -> ApprovalRule | None:
        """Whose approval a call needs (stage 12); None where it needs none.

        `views` are its arguments as they are bound and, where there are symbolic links, as they resolve: what either asks is asked.
        """
        rules = [rule for rule in self.approvals if any(rule.asks(bound) for bound in views)]
        return strictest(rules if self.watch is None else [*rules, *self.watch.asks(counters)])

    def everybodys(self, tool: str, counters: Mapping[str, int]) -> Reason | ApprovalRule | None:
        """What holds whichever agent calls: the sequences of the whole task and the tool's own approval. No agent's shadow softens it."""
        refused = self.shared.judge(tool, counters) if self.shared is not None else None
        if refused is not None:
            return refused
        asks = [] if self.tool_approval is None else [self.tool_approval]
        return strictest(asks if self.shared is None else [*asks, *self.shared.asks(counters)])
