"""When a policy asks a human, and who may answer (DESIGN §6, §10; stage 12).

    approval: [{tool: send_money, when: "amount > 100", by: ["user:carol", "user:dan"], of: 2, expires: 1h, initiator: accepted}]

Of several rules that ask about one call all hold: as many answers as the strictest wants, from those whom every rule lets answer, for as
long as the shortest says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from agentguard.canonical import Frozen, Json
from agentguard.constraints.values import shorten
from agentguard.decision import Code, Reason
from agentguard.policy.conditions import Condition
from agentguard.spans import show_span


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """A call needs an approval.

    by         names of those who may answer; None: everyone whom the home trusts as an approver
    of         how many different ones must approve
    expires    seconds that a request waits for its answers, and an answer for its use
    initiator  whether the one on whose behalf the task runs may answer too. The agent never may
    when       only where this holds, or cannot be told; `unless` is its opposite
    """

    by: tuple[str, ...] | None
    of: int
    expires: int
    initiator: bool
    place: str
    when: Condition | None = None
    unless: Condition | None = None

    def asks(self, bound: Mapping[str, Frozen]) -> bool:
        """Whether a call with these arguments needs an approval. Where the condition cannot be told, it does."""
        return self.unless is None or self.unless.failure(bound) is not None

    def to_json(self) -> dict[str, Json]:
        """The rule as a policy has it, without the tools."""
        members: dict[str, Json] = {"of": self.of, "expires": show_span(self.expires)}
        if self.by is not None:
            members["by"] = list(self.by)
        if self.initiator:
            members["initiator"] = "accepted"
        if self.when is not None:
            members["when"] = self.when.text
        return members

    def words(self) -> str:
        """Whose approval is needed, in words."""
        who = "an approver" if self.by is None else shorten(" or ".join(self.by), 120) or "nobody: no one may answer all rules that ask"
        return f"approval by {who}" if self.of == 1 else f"approval by {self.of} of {who}"

    def reason(self, tool: str) -> Reason:
        """That nobody has approved yet."""
        return Reason(Code.APPROVAL_REQUIRED, tool, self.words(), "none", self.place)


def strictest(rules: Iterable[ApprovalRule]) -> ApprovalRule | None:
    """One rule that asks what all of them ask; None where there is none."""
    result: ApprovalRule | None = None
    for rule in rules:
        if result is None:
            result = rule
            continue
        by = rule.by if result.by is None else result.by if rule.by is None else tuple([name for name in result.by if name in rule.by])
        result = replace(
            result,
            by=by,
            of=max(result.of, rule.of),
            expires=min(result.expires, rule.expires),
            initiator=result.initiator and rule.initiator,
        )
    return result
