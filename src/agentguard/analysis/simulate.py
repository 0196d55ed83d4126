"""What would another policy have said? Recorded calls judged again, by agent and tool (`agentguard policy simulate`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from agentguard.analysis.replay import Replay
from agentguard.analysis.trace import Called
from agentguard.decision import Reason
from agentguard.policy.model import Policy

#: How many calls of each change are shown.
_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Example:
    """One call whose verdict changes. `reason` is why it would be refused, None where it would be allowed."""

    call: Called
    reason: Reason | None


@dataclass(slots=True)
class Tally:
    """The calls of one agent to one tool.

    denied     allowed then, refused by the new policy
    allowed    refused by the old policy, allowed by the new one
    same       as before
    elsewhere  refused for a reason that no policy changes (replay, artifact, …); such a call counts as not made
    unknown    the arguments are not known any more; such a call counts as not made
    codes      why the newly refused ones are, and how many for each
    """

    denied: int = 0
    allowed: int = 0
    same: int = 0
    elsewhere: int = 0
    unknown: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.denied + self.allowed + self.same + self.elsewhere + self.unknown


@dataclass(frozen=True, slots=True)
class Simulation:
    """By agent and tool, what changes."""

    tallies: dict[tuple[str, str], Tally]

    def changed(self) -> Iterator[tuple[str, str, Tally]]:
        """The agents and tools for which something changes."""
        for (agent, tool), tally in sorted(self.tallies.items()):
            if tally.denied or tally.allowed:
                yield agent, tool, tally

    def total(self, name: str) -> int:
        """The sum of one member over all tallies."""
        return sum(getattr(tally, name) for tally in self.tallies.values())


def simulate(calls: Iterable[Called], policy: Policy, against: Policy | None = None) -> Simulation:
    """Judge calls by `policy`, in their order and at their time, each after those that it lets run (replay.py says what is assumed).

    What came of them then is what was recorded; where nothing was, what `against` says, or that they ran.
    """
    new, old = Replay(policy), Replay(against) if against is not None else None
    tallies: dict[tuple[str, str], Tally] = {}
    for call in calls:
        where = (call.agent, call.tool)
        tally = tallies.get(where)
        if tally is None:
            tally = tallies[where] = Tally()
        if call.arguments is None:
            tally.unknown += 1
            continue
        if call.elsewhere:
            tally.elsewhere += 1
            continue
        before = old is None or old.judge(call) is None
        if call.verdict is not None:
            before = call.ran
        reason = new.judge(call)
        if (reason is None) == before:
            tally.same += 1
            continue
        if reason is None:
            tally.allowed += 1
        else:
            tally.denied += 1
            tally.codes[str(reason.code)] += 1
        if len(tally.examples) < _EXAMPLES:
            tally.examples.append(Example(call, reason))
    return Simulation(tallies)
