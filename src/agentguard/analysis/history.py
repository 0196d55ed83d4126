"""What went before a call, without a guard: the counters that budgets and sequence rules of a policy read and move."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentguard.admission import SHARED, Charge
from agentguard.canonical import Frozen
from agentguard.decision import Code, Reason
from agentguard.policy.model import Policy
from agentguard.premises import Answer, Usage
from agentguard.state.owned import take


class Counters(dict[str, int]):
    """Counters by key. Those of windows are kept in order too, so that what a window holds is found among however many."""

    __slots__ = ("_ordered",)

    def __init__(self) -> None:
        super().__init__()
        self._ordered: list[str] = []

    def __setitem__(self, key: str, count: int) -> None:
        if "@" in key and key not in self:
            insort(self._ordered, key)
        dict.__setitem__(self, key, count)

    def between(self, first: str, last: str) -> int:
        """The sum of the counters of windows from one key to another."""
        keys = self._ordered
        return sum([self[key] for key in keys[bisect_left(keys, first) : bisect_right(keys, last)]])


@dataclass(slots=True)
class History:
    """The calls of one task on behalf of `initiator`, in their order. Costs that only an outcome tells count as what is set aside.

    shared  the counters that are not the task's own; tasks that are counted together have one
    """

    policy: Policy
    initiator: str = ""
    counters: Counters = field(default_factory=Counters)
    shared: Counters = field(default_factory=Counters)

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
            charges.append(charge)
        if standing.watch is not None:
            charges += standing.watch.charges
        full = take(charges, self, self._prior)
        if full is not None:
            limit, place = next(((each.shown(), each.place) for each in standing.budgets if each.name == full.name), (str(full.limit), ""))
            return Reason(Code.BUDGET_EXHAUSTED, full.name, f"at most {limit}", "not enough left for this call", place)
        if standing.watch is not None:
            for key in (*(standing.watch.earned if ok else ()), *(standing.watch.approved if approved else ())):
                self[key] = self.get(key, 0) + 1
        return None

    # --- every counter, wherever it is counted: what `take` charges ----------------------------------------------------------------

    def _prior(self, first: str, last: str) -> int:
        return (self.shared if first.startswith(SHARED) else self.counters).between(first, last)

    def get(self, key: str, default: int, /) -> int:
        """What a counter stands at."""
        return (self.shared if key.startswith(SHARED) else self.counters).get(key, default)

    def __getitem__(self, key: str, /) -> int:
        return (self.shared if key.startswith(SHARED) else self.counters)[key]

    def __setitem__(self, key: str, count: int, /) -> None:
        (self.shared if key.startswith(SHARED) else self.counters)[key] = count
