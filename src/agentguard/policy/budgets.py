"""Budgets: how many calls, or how much of a cost, an agent may use up (DESIGN §6, §9).

    {calls: 50, per: task}
    {calls: 5, tool: send_email, per: agent, window: {fixed: 1d}}
    {cost: amount, tool: send_money, limit: 5000, per: initiator, window: {sliding: 24h}}
    {cost: {output: usage.tokens, reserve: 500}, tool: ask_model, limit: 100000, per: agent, window: {fixed: 1d}}

A budget becomes one charge per call, whose cost does not grow with the history. Costs are counted in millionths, rounded up. A sliding
window is counted in sixtieths of its length, and the oldest one counts whole until it has left the window: never more than the limit falls
into any window of that length, and up to a sixtieth of the length a little less may.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any, Final

from agentguard.admission import SHARED, Charge, Meter
from agentguard.canonical import Frozen, Json
from agentguard.constraints.values import show
from agentguard.decision import Code, Reason
from agentguard.spans import show_span

#: The unit in which costs are counted: one millionth.
MILLIONTHS: Final = 1_000_000
_LARGEST: Final = 2**53
_PARTS: Final = 60


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time that a budget counts in: one that begins anew every `seconds` since 1970, or the latest `seconds`, whenever it is."""

    seconds: int
    sliding: bool

    def to_json(self) -> dict[str, Json]:
        return {"sliding" if self.sliding else "fixed": show_span(self.seconds)}


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `limit` calls, or millionths of a cost.

    name     in words; unique among the agent's budgets
    per      what is counted together: the calls of a `task`, of the `agent`, or of the agent on behalf of an `initiator`
    tools    the tools that it counts; None for all
    cost     the argument that says what a call costs
    output   where the outcome says it, and how many millionths are set aside until then
    """

    limit: int
    name: str
    place: str
    per: str = "task"
    tools: tuple[str, ...] | None = None
    cost: str | None = None
    output: tuple[str, ...] | None = None
    reserve: int = 0
    window: Window | None = None

    @property
    def fixed(self) -> bool:
        """Whether every call of a task is charged the same: it costs 1, and no window moves on."""
        return self.cost is None and self.window is None

    def covers(self, tool: str) -> bool:
        return self.tools is None or tool in self.tools

    def shown(self) -> str:
        """The limit as people write it."""
        return str(self.limit) if self.cost is None and self.output is None else show_millionths(self.limit)

    def charge(self, agent: str, initiator: str, bound: Mapping[str, Frozen], now: int) -> Charge | Reason:
        """What one call of `agent` moves, with these bound arguments, at `now` (seconds since 1970)."""
        amount = 1 if self.output is None else self.reserve
        if self.cost is not None:
            counted = millionths(bound.get(self.cost))
            if counted is None:
                found = show(bound[self.cost]) if self.cost in bound else "nothing"
                required = f"a number from 0 in {self.cost}, which {self.name} counts"
                return Reason(Code.BUDGET_EXHAUSTED, self.cost, required, found, self.place)
            amount = counted
        who = agent if self.per != "initiator" else f"{agent}/{hashlib.sha256(initiator.encode()).hexdigest()[:32]}"
        base = f"{'' if self.per == 'task' else SHARED}budget/{who}/{self.name}"
        words = "" if self.cost is None and self.output is None else self.shown()
        if self.window is None:
            return Charge(base if self.per == "task" else f"{base}~0", self.limit, self.name, amount, words=words)
        length = self.window.seconds
        step = -(-length // _PARTS) if self.window.sliding else length
        index, parts = max(now, 0) // step, -(-length // step) if self.window.sliding else 0
        prior = (f"{base}@{max(index - parts, 0):012d}", f"{base}@{index:012d}") if parts else None
        return Charge(f"{base}@{index:012d}~{(index + 1 + parts) * step}", self.limit, self.name, amount, prior, words)

    def meter(self, charge: Charge) -> Meter | None:
        """What the outcome will tell about a charge of this budget."""
        return Meter(charge.key, self.output, self.reserve) if self.output is not None else None


def metered(meter: Meter, output: Any) -> int:
    """By how much the outcome moves what was set aside; 0 where it does not tell the cost. `output` is plain JSON."""
    for step in meter.path:
        if not isinstance(output, Mapping):
            return 0
        output = output.get(step)
    cost = millionths(output)
    return 0 if cost is None else cost - meter.reserve


def millionths(value: object) -> int | None:
    """A cost in millionths, rounded up; None for what is no number from 0 to 2^53 millionths."""
    if type(value) is int:
        return value * MILLIONTHS if 0 <= value <= _LARGEST // MILLIONTHS else None
    if type(value) is not float or not 0 <= value <= _LARGEST / MILLIONTHS:  # excludes nan
        return None
    return ceil(Fraction(repr(value)) * MILLIONTHS)  # at most 2^53, which the bound above is in the digits of a double


def show_millionths(count: int) -> str:
    """`12.5` for 12500000."""
    whole, rest = divmod(count, MILLIONTHS)
    return f"{whole}.{rest:06d}".rstrip("0") if rest else str(whole)
