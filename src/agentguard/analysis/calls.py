"""Calls that a policy allows and that have a given property: found, shown not to exist, or unknown.

Arguments that no condition joins are looked for one by one, the others together. Hours, sequences, approvals and budgets only take calls
away, so what does not exist without them does not exist. What a policy says that is not read here (`unread`) makes every "no such call"
unknown; a call that was found is confirmed by the guard's own decision (`confirm`), whatever the policy says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from agentguard.analysis.formulas import ANYTHING, NOTHING, Answer, Both, Formula, Found, Not, Nothing, Unknown
from agentguard.analysis.search import Search, load_z3
from agentguard.analysis.together import Slot, Together, Wanted, guesses
from agentguard.canonical import Frozen, parse, thaw
from agentguard.constraints.tokens import Entry, ToolMap
from agentguard.policy.conditions import Condition
from agentguard.policy.model import Policy, ToolRule


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of one argument: a value for which `formula` holds (None: there is no such value), or, with `absent`, none at all."""

    formula: Formula | None = ANYTHING
    absent: bool = False


#: Longer texts are cut where people read them.
_SHOWN: Final = 80
PRESENT: Final = Demand()
ABSENT: Final = Demand(None, absent=True)

#: What `arguments` found: the arguments, that there are none (proven), or neither.
Arguments: TypeAlias = Mapping[str, Frozen] | Nothing | Unknown


def arguments(rules: ToolMap, demands: Mapping[str, Demand], search: Search, wanted: Wanted = ()) -> Arguments:
    """The fewest arguments that `rules` admit, that meet the demands, and for which conditions hold, or do not, as `wanted`."""
    result: dict[str, Frozen] = {}
    unknown: Unknown | None = None
    asked = sorted({name for condition, _ in wanted for name in condition.names})
    slots = {name: _slot(rules, demands, name) for name in dict.fromkeys((*demands, *rules.named, *asked))}
    if any(slot.formula is None and not slot.optional for slot in slots.values()):
        return NOTHING
    for names, about in _apart([name for name, slot in slots.items() if name in asked or not slot.optional], wanted):
        some = {name: slots[name] for name in names}
        answer = _together(some, about, search) if about else search.find(some[names[0]].formula or ANYTHING)
        if isinstance(answer, Nothing):
            return NOTHING
        if isinstance(answer, Found):
            result |= answer.value if about else {names[0]: answer.value}
        else:
            unknown = unknown or Unknown(f"{'arguments' if about else 'argument'} {', '.join(names)}: {answer.why}")
    return unknown or MappingProxyType(result)


def _slot(rules: ToolMap, demands: Mapping[str, Demand], name: str) -> Slot:
    entry, demand = rules.named.get(name), demands.get(name, Demand(absent=True))
    formula = None if entry is None and not rules.rest else demand.formula
    if entry is not None and formula is not None:
        formula = Both((entry.constraint, formula))
    return Slot(formula, demand.absent and (entry is None or entry.optional))


def _apart(names: Iterable[str], wanted: Wanted) -> Iterator[tuple[tuple[str, ...], Wanted]]:
    """Names that conditions join, with these conditions; every other name by itself."""
    groups: list[tuple[set[str], list[tuple[Condition, bool]]]] = [({name}, []) for name in names]
    for condition, right in wanted:
        joined = [group for group in groups if group[0] & condition.names]
        groups = [group for group in groups if not group[0] & condition.names]
        about = [each for group in joined for each in group[1]]
        groups.append((set().union(*(group[0] for group in joined)), [*about, (condition, right)]))
    for group, about in groups:
        yield tuple(sorted(group)), tuple(about)


def _together(slots: Mapping[str, Slot], wanted: Wanted, search: Search) -> Answer:
    name = (tuple(slots.items()), wanted)
    return search.answer(name, guesses(slots, wanted), lambda: Together(load_z3(), slots, wanted))


def holding(rule: ToolRule) -> Wanted:
    """The conditions of a rule, all of which shall hold."""
    return tuple((condition, True) for condition, _ in rule.conditions)


def refusals(rules: ToolMap, other: ToolMap) -> Iterator[tuple[str, Demand]]:
    """The ways in which a call that `other` admits may fail to be one of `rules`: an argument, and what of it is refused."""
    for name, entry in rules.named.items():
        beside = other.named.get(name)
        if beside is None or beside.constraint != entry.constraint:
            yield name, Demand(Not(entry.constraint))
        if not entry.optional:
            yield name, ABSENT
    if not rules.rest:
        for name in other.named:
            if name not in rules.named:
                yield name, PRESENT
        if other.rest:
            yield next(name for name in map("other{}".format, range(10**9)) if name not in rules.named and name not in other.named), PRESENT


# --- what a policy allows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    chain        the agents through which it came, the caller last
    environment  facts under which the policy judges it
    at           when it is made, in seconds, where that counts
    after        calls of the same task that must go before
    approved     it needs an approval, and has it
    """

    agent: str
    tool: str
    arguments: Mapping[str, Frozen]
    chain: tuple[str, ...] = ()
    environment: Mapping[str, Frozen] = field(default_factory=dict)
    at: int | None = None
    after: tuple[Call, ...] = ()
    approved: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the CLI prints it: as `agentguard check --call` reads the first three, and cases the rest."""
        rest = {
            "chain": list(self.chain) if len(self.chain) > 1 else None,
            "environment": thaw(self.environment),
            "at": None if self.at is None else datetime.fromtimestamp(self.at, UTC).isoformat(),
            "after": [call.to_json() for call in self.after],
            "approved": self.approved,
        }
        head = {"agent": self.agent, "tool": self.tool, "arguments": thaw(self.arguments)}
        return head | {name: value for name, value in rest.items() if value}


def brief(value: Any) -> str:
    """JSON for people: a long text is cut, and says how long it is. ASCII, since a counterexample may hold any character."""
    return json.dumps(_cut(value))


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _cut(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_cut(item) for item in value]
    return f"{value[:24]}... ({len(value)} characters)" if isinstance(value, str) and len(value) > _SHOWN else value


def rules_of(policy: Policy) -> Iterator[tuple[str, str, ToolRule]]:
    """(agent, tool, rule) of everything that some call may be allowed by: the rest of the world is refused."""
    for agent, rules in policy.agents.items():
        for tool, rule in rules.tools.items():
            if rule.forbidden is None:
                yield agent, tool, rule


def environment_map(environment: Mapping[str, Entry]) -> ToolMap:
    """The facts a policy asks for, as an argument map: facts that it does not name may have any value."""
    return ToolMap(environment, rest=True)


# --- what is not read -----------------------------------------------------------------------------------------------------------------

_APPROVAL: Final = (("by", None), ("of",), ("expires",), ("initiator",))
_SEQUENCE: Final = (
    *((word, None) for word in ("tool", "before", "never_after")),
    ("at_most",),
    *(("only_after_approval", *path) for path in _APPROVAL),
)
#: Members of the canonical form that this analysis reads, by place; None stands for any name or index, `...` for all that is below.
_READ: Final[tuple[tuple[Any, ...], ...]] = (
    ("agentguard",),
    ("name",),
    ("agents", None, "tools", None, None, ...),
    ("agents", None, "where", None, None),
    ("agents", None, "delegates", None, "depth"),
    ("forbid", None, "tool"),
    ("forbid", None, "agent"),
    ("forbid", None, "reason"),
    ("tools", None, "tags", None),  # what tags grant and forbid is written out at the agents and under forbid
    ("tools", None, "output", ...),  # what becomes of a call that was allowed
    ("tools", None, "rerun"),
    ("tools", None, "proof"),
    ("tools", None, "opaque"),
    ("tools", None, "plain_chains"),
    ("tools", None, "unsafe_any_arguments"),
    ("environment", None, ...),
    # what only takes calls away, and is compared as it is written (hours: by the times that they leave)
    *(("agents", None, "hours", None, *path) for path in (("days", None), ("from",), ("to",), ("zone",), ("tools", None))),
    *(
        ("agents", None, "budgets", None, *path)
        for path in (("calls",), ("cost", None), ("limit",), ("per",), ("tool", None), ("window", None))
    ),
    *((*where, *path) for where in (("sequence", None), ("agents", None, "sequence", None)) for path in _SEQUENCE),
    *(("agents", None, "approval", None, *path) for path in (*_APPROVAL, ("tool", None), ("when",))),
    *(("tools", None, "approval", *path) for path in _APPROVAL),
    ("tools", None, "output", ...),  # it says nothing about calls
)


def unread(policy: Policy) -> tuple[str, ...]:
    """What the policy says and this analysis does not understand: members of its canonical form, as dotted places."""
    document = parse(policy.canonical)
    found = [".".join(map(str, path)) for path in _unread((), document)]
    for agent, tool, rule in rules_of(policy):
        written = document["agents"].get(agent, {}).get("tools", {}).get(tool)
        if written != rule.map.to_json() and (rule.arguments or rule.map.rest or written != {}):
            found.append(f"agents.{agent}.tools.{tool}")
    return tuple(found)


def _unread(path: tuple[Any, ...], value: Any) -> Iterator[tuple[Any, ...]]:
    inner = [pattern for pattern in _READ if _leads(pattern, path)]
    if any(pattern[-1] is ... and len(pattern) == len(path) + 1 for pattern in inner):
        return
    if not inner:
        if value not in (None, False, {}, [], ""):
            yield path
    elif type(value) is dict:
        for name, member in value.items():
            yield from _unread((*path, name), member)
    elif type(value) is list:
        for index, member in enumerate(value):
            yield from _unread((*path, index), member)
    elif not any(len(pattern) == len(path) for pattern in inner):
        yield path


def _leads(pattern: tuple[Any, ...], path: tuple[Any, ...]) -> bool:
    """Whether the pattern goes through this place, or ends there."""
    return len(pattern) >= len(path) and all(want is None or want is ... or want == have for want, have in zip(pattern, path, strict=False))
