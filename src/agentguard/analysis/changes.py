"""One difference between two policies."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    kind      "call", "hours", "delegation", "environment", "budget", "sequence", "approval", "output", "attribute", "forbid", "agent" or
              "unread"
    allowed   True: becomes allowed; False: becomes denied; None: neither by itself
    old, new  what each policy says, in words
    why       why it could not be decided; empty for what is sure
    example   a call, a chain of agents, facts, a name or a time, which the two policies judge differently
    """

    kind: str
    allowed: bool | None
    agent: str = ""
    tool: str = ""
    argument: str = ""
    old: str = ""
    new: str = ""
    why: str = ""
    example: Any = None
    old_place: str = ""
    new_place: str = ""

    @property
    def sure(self) -> bool:
        return not self.why

    def reversed(self) -> Change:
        """The same difference, seen from the other policy."""
        allowed = None if self.allowed is None else not self.allowed
        return replace(self, allowed=allowed, old=self.new, new=self.old, old_place=self.new_place, new_place=self.old_place)

    def summary(self) -> str:
        """Who and what in one line: `triage send_email, argument to: was ..., now ...`."""
        who = " ".join(filter(None, (self.agent, self.tool))) or self.kind
        if self.argument:
            who += f", argument {self.argument}" if self.kind == "call" else f" {self.argument}"
        return f"{who}: {self.why or f'was {self.old}, now {self.new}'}"

    def to_json(self) -> dict[str, Any]:
        """JSON form for the CLI; what is empty is left out."""
        rest = {each.name: getattr(self, each.name) for each in fields(self)[2:]}
        return {"kind": self.kind, "allowed": self.allowed, "sure": self.sure} | {name: item for name, item in rest.items() if item}
