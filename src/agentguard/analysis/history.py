"""What went before a call, without a guard: the counters that budgets and sequence rules of a policy read and move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentguard.admission import Charge
from agentguard.canonical import Frozen
from agentguard.decide import Answer, Usage
from agentguard.decision import Code, Reason
from agentguard.policy import Policy


@dataclass(slots=True)
class History:
    """The calls of one task on behalf of `initiator`, in their order. Costs that only an outcome tells count as what is set aside."""

    policy: Policy
    initiator: str = ""
    counters: dict[str, int] = field(default_factory=dict)

    def usage(self, agent: str, tool: str, answer: Answer | None = None) -> Usage:
        """What a call is judged by."""
        standing = self.policy.standing(agent, tool)
        reads = standing.watch.reads if standing is not None and standing.watch is not None else ()
        return Usage({key: self.counters.get(key, 0) for key in reads}, answer)

    def add(
        self, agent: str, tool: str, bound: Mapping[str, Frozen], now: int, *, ok: bool = True, approved: bool = False
    ) -> Reason | None:
        """Charge a call that is admitted; or why a budget has no room for it, and nothing is charged."""
        standing = self.policy.standing(agent, tool)
        if standing is None:
            return None
        charges: list[Charge] = []
        for budget in standing.budgets:
            charge = budget.charge(agent, self.initiator, bound, now)
            if isinstance(charge, Reason):
                return charge
            if self.counters.get(charge.key, 0) + self._prior(charge) + charge.amount > charge.limit:
                return Reason(
                    Code.BUDGET_EXHAUSTED, charge.name, f"at most {budget.shown()}", "not enough left for this call", budget.place
                )
            charges.append(charge)
        if standing.watch is not None:
            charges += standing.watch.charges
        for charge in charges:
            self._move(charge.key, charge.amount)
        if standing.watch is not None:
            for key in (*(standing.watch.earned if ok else ()), *(standing.watch.approved if approved else ())):
                self._move(key, 1)
        return None

    def _prior(self, charge: Charge) -> int:
        if charge.prior is None:
            return 0
        first, last = charge.prior
        return sum(count for key, count in self.counters.items() if first <= key <= last)

    def _move(self, key: str, amount: int) -> None:
        self.counters[key] = self.counters.get(key, 0) + amount
