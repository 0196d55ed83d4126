"""Forbid rules, indexed, so that neither loading nor a refusal tries every glob on every name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from agentguard.constraints.matchers import Glob

_WILD: Final = re.compile(r"[*?]")


@dataclass(frozen=True, slots=True)
class Forbid:
    """Forbids the tools that the glob `tool` matches, to the agents that `agent` matches (to all where it is None). It always wins.

    order   its place among the forbid rules: of several that match, the first is named
    until   up to this second its refusals are recorded and not enforced; None: it is enforced at any time

    Raises InvalidInput for a malformed glob.
    """

    tool: str
    agent: str | None
    reason: str
    place: str
    order: int = 0
    until: int | None = None
    _tools: Glob = field(init=False, repr=False, compare=False)
    _agents: Glob | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tools", Glob(self.tool))
        object.__setattr__(self, "_agents", None if self.agent is None else Glob(self.agent))

    def covers(self, agent: str, tool: str) -> bool:
        return self._tools.check(tool) and (self._agents is None or self._agents.check(agent))

    def shadowed(self, now: int) -> bool:
        """Whether what it refuses at `now` (seconds) is only recorded."""
        return self.until is not None and now < self.until

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Of several rules about a call, the least one holds: a rule without a shadow, else the one whose shadow ends first."""
        return (self.until is not None, self.until or 0, self.order)


class _Bucket:
    """Rules by a literal text that a tool's name must hold: the whole name, its beginning, or the longest piece between two signs.

    `loose` is for the globs without any letter.
    """

    __slots__ = ("exact", "loose", "pieces", "prefixes")

    def __init__(self, rules: Iterable[Forbid]) -> None:
        self.exact: dict[str, list[Forbid]] = {}
        self.prefixes: dict[int, dict[str, list[Forbid]]] = {}
        self.pieces: dict[int, dict[str, list[Forbid]]] = {}
        self.loose: list[Forbid] = []
        for rule in rules:
            parts = _WILD.split(rule.tool)
            piece = max(parts, key=len)
            if len(parts) == 1:
                self.exact.setdefault(piece, []).append(rule)
            elif parts[0]:
                self.prefixes.setdefault(len(parts[0]), {}).setdefault(parts[0], []).append(rule)
            elif piece:
                self.pieces.setdefault(len(piece), {}).setdefault(piece, []).append(rule)
            else:
                self.loose.append(rule)

    def candidates(self, tool: str) -> Iterator[Forbid]:
        yield from self.exact.get(tool, ())
        for length, group in self.prefixes.items():
            yield from group.get(tool[:length], ())
        for length, group in self.pieces.items():
            for start in range(len(tool) - length + 1):
                yield from group.get(tool[start : start + length], ())
        yield from self.loose


class ForbidIndex:
    """All forbid rules of a policy."""

    __slots__ = ("_named", "_shared", "rules")

    def __init__(self, rules: Iterable[Forbid]) -> None:
        self.rules = tuple(rules)
        named: dict[str, list[Forbid]] = {}
        shared: list[Forbid] = []
        distinct: dict[tuple[str, str | None], Forbid] = {}
        for rule in sorted(self.rules, key=lambda rule: rule.rank):  # of equal ones no shadow takes the place of one without
            distinct.setdefault((rule.tool, rule.agent), rule)
        for rule in distinct.values():
            if rule.agent is None or _WILD.search(rule.agent):
                shared.append(rule)
            else:
                named.setdefault(rule.agent, []).append(rule)
        self._shared = _Bucket(shared)
        self._named = {agent: _Bucket(group) for agent, group in named.items()}

    def first(self, agent: str, tool: str) -> Forbid | None:
        """The rule that forbids `tool` to `agent`, or None. Where it is shadowed, so is every other one that does."""
        found: Forbid | None = None
        own = self._named.get(agent)
        for bucket in (self._shared,) if own is None else (self._shared, own):
            for rule in bucket.candidates(tool):
                if (found is None or rule.rank < found.rank) and rule.covers(agent, tool):
                    found = rule
        return found
