"""Calls that a policy allows and that have a given property: found, shown not to exist, or unknown.

The arguments of a call are judged one by one, so a call with the property exists exactly where each argument by itself has a value. What a
policy says that is not read here (`unread`) makes every "no such call" unknown; a call that was found is confirmed by the guard's own
decision, whatever the policy says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from agentguard.analysis.symbolic import ANYTHING, NOTHING, Both, Formula, Found, Not, Nothing, Search, Unknown
from agentguard.call import ToolCall
from agentguard.canonical import Frozen, parse, thaw
from agentguard.chain import DEFAULT_LIMITS
from agentguard.constraint import Entry, ToolMap
from agentguard.decide import Binding, Facts, decide_policy_only
from agentguard.policy import Policy, ToolRule
from agentguard.revocation import Revocations


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


def arguments(rules: ToolMap, demands: Mapping[str, Demand], search: Search) -> Arguments:
    """The fewest arguments that `rules` admit and that meet the demands."""
    result: dict[str, Frozen] = {}
    unknown: Unknown | None = None
    for name in dict.fromkeys((*demands, *rules.named)):
        entry, demand = rules.named.get(name), demands.get(name, Demand(absent=True))
        if demand.absent and (entry is None or entry.optional):
            continue
        if demand.formula is None or (entry is None and not rules.rest):
            return NOTHING
        answer = search.find(demand.formula if entry is None else Both((entry.constraint, demand.formula)))
        if isinstance(answer, Nothing):
            return NOTHING
        if isinstance(answer, Found):
            result[name] = answer.value
        else:
            unknown = unknown or Unknown(f"argument {name}: {answer.why}")
    return unknown or MappingProxyType(result)


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
    """One call. `chain` are the agents through which it came, the caller last; `environment` are facts under which the policy judges it."""

    agent: str
    tool: str
    arguments: Mapping[str, Frozen]
    chain: tuple[str, ...] = ()
    environment: Mapping[str, Frozen] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As the CLI prints it, and as `agentguard check --call` reads the first three."""
        result = {"agent": self.agent, "tool": self.tool, "arguments": thaw(self.arguments)}
        if len(self.chain) > 1:
            result["chain"] = list(self.chain)
        return {**result, "environment": thaw(self.environment)} if self.environment else result


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


def allows(policy: Policy, call: Call) -> bool:
    """Whether the guard's own decision, by this policy alone, allows the call, and the delegation that it came by."""
    asked = ToolCall(call.agent, call.tool, thaw(call.arguments))
    facts = Facts(MappingProxyType(dict(call.environment)), Revocations(), DEFAULT_LIMITS)
    if len(call.chain) > 1 and policy.may_delegate(call.chain) is not None:
        return False
    return decide_policy_only(asked, Binding(asked.arguments), policy, facts).allowed


# --- what is not read -----------------------------------------------------------------------------------------------------------------

#: Members of the canonical form that this analysis reads, by place; None stands for any name or index, `...` for all that is below.
_READ: Final[tuple[tuple[Any, ...], ...]] = (
    ("agentguard",),
    ("name",),
    ("agents", None, "tools", None, None, ...),
    ("agents", None, "budgets", None, "calls"),
    ("agents", None, "budgets", None, "per"),
    ("agents", None, "delegates", None, "depth"),
    ("forbid", None, "tool"),
    ("forbid", None, "agent"),
    ("forbid", None, "reason"),
    ("tools", None, "tags", None),  # what tags grant and forbid is written out at the agents and under forbid
    ("tools", None, "rerun"),
    ("tools", None, "proof"),
    ("tools", None, "opaque"),
    ("tools", None, "plain_chains"),
    ("tools", None, "unsafe_any_arguments"),
    ("environment", None, ...),
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
