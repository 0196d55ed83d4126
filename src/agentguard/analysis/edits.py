"""The smallest edit of a policy that lets its rules admit one call, and rules written out as people write them.

An edit is a suggestion: it admits this very value, or what lies between it and what was admitted before, and nothing else. It touches rules
for arguments only; forbid rules, conditions, hours, sequences and approvals are decisions, and stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentguard.analysis.proposals import flow
from agentguard.canonical import Frozen, Json, jcs, parse, thaw
from agentguard.constraints.matchers import PREFIX, Length, TypeIs
from agentguard.constraints.values import ARRAYS, SCALARS, key
from agentguard.constraints.vocabulary import AllOf, AnyOf, Constraint, Contains, Exact, NotOneOf, OneOf, Range, Subset, Wildcard
from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.model import Policy
from agentguard.policy.schema import path_text


@dataclass(frozen=True, slots=True)
class Edit:
    """One line of a policy. `where` is its path, `write` what to write there, `place` the line that is there now."""

    where: str
    write: str
    place: str

    def to_json(self) -> dict[str, str]:
        return {"where": self.where, "write": self.write, "place": self.place}


def smallest(policy: Policy, agent: str, tool: str, bound: Mapping[str, Frozen]) -> tuple[tuple[Edit, ...], Policy] | None:
    """What to write so that the rules admit this call, and the policy with it; None where that is nothing, or cannot be written."""
    document = parse(policy.canonical)
    rules = policy.agents.get(agent)
    rule = rules.tools.get(tool) if rules is not None else None
    edits: list[Edit] = []
    if rules is None:
        written: Json = {"tools": {tool: _exactly_these(bound)}}
        document["agents"][agent] = written
        edits.append(Edit(path_text(("agents", agent)), flow(written), policy.source))
    elif rule is None:
        written = _exactly_these(bound)
        document["agents"][agent]["tools"][tool] = written
        edits.append(Edit(path_text(("agents", agent, "tools", tool)), flow(written), rules.place))
    else:
        for failure in rule.map.failures(bound):
            entry, name = rule.arguments.get(failure.name), failure.name
            if name not in bound and entry is not None:
                written = _optional(write(entry.constraint))
            else:
                written = exactly(bound[name]) if entry is None else widened(entry.constraint, bound[name])
                written = _optional(written) if entry is None or entry.optional else written
            document["agents"][agent]["tools"][tool][name] = written
            edits.append(Edit(path_text(("agents", agent, "tools", tool, name)), flow(written), rule.places.get(name, rule.place)))
    try:
        return (tuple(edits), load(jcs(document).decode())) if edits else None
    except InvalidInput:  # a name or a value that no policy may hold
        return None


def _exactly_these(bound: Mapping[str, Frozen]) -> dict[str, Json]:
    return {name: exactly(value) for name, value in bound.items()}


def _optional(rule: Json) -> dict[str, Json]:
    return {"wildcard": True, "optional": True} if rule == "any" else {**rule, "optional": True}


def exactly(value: Frozen) -> dict[str, Json]:
    """The rule that admits just this value."""
    return {"exact": value} if type(value) in SCALARS else {"one_of": [thaw(value)]}


def widened(constraint: Constraint, value: Frozen) -> Json:
    """The rule, as people write it, that admits what `constraint` admits, this value, and as little else as can be said in its words."""
    if constraint.check(value):
        return write(constraint)
    if isinstance(constraint, Exact | OneOf):
        values = (constraint.value,) if isinstance(constraint, Exact) else constraint.values
        return {"one_of": [thaw(each) for each in (*values, value)]}
    if isinstance(constraint, NotOneOf):
        rest = [thaw(each) for each in constraint.excluded if key(each) != key(value)]
        return {"not_one_of": rest} if rest else "any"
    if isinstance(constraint, AllOf):
        return _every([widened(clause, value) for clause in constraint.constraints])
    if isinstance(constraint, AnyOf):
        return {"any": [*map(write, constraint.constraints), exactly(value)]}
    stretched = _stretched(constraint, value)
    return {"any": [write(constraint), exactly(value)]} if stretched is None else stretched


def _stretched(constraint: Constraint, value: Frozen) -> Json | None:
    """Bounds moved as far as the value lies, where that is what the constraint has."""
    if isinstance(constraint, Range) and type(value) in (int, float):
        beyond = [bound for bound, is_so in (("min", float(value) < constraint.low), ("max", float(value) > constraint.high)) if is_so]
        members = {name: item for name, item in constraint.members().items() if name[:3] not in beyond}
        return {"range": {**members, **dict.fromkeys(beyond, value)}}
    if isinstance(constraint, Length) and type(value) is str:
        bounds = {**constraint.members(), "min" if len(value) < constraint.low else "max": len(value)}
        return {f"{bound}_length": count for bound, count in bounds.items()}
    if isinstance(constraint, Subset) and type(value) in ARRAYS:
        more = {key(item): thaw(item) for item in value if key(item) not in constraint.keys}
        return {"subset": [*map(thaw, constraint.allowed), *more.values()]}
    if isinstance(constraint, Contains) and type(value) in ARRAYS:
        there = {key(item) for item in value}
        return {"contains": [thaw(item) for item in constraint.required if key(item) in there]}
    if isinstance(constraint, TypeIs) and constraint.type == "integer" and type(value) is float:
        return {"type": "number"}
    return None


# --- rules as text --------------------------------------------------------------------------------------------------------------------

_FORMS: Final[dict[str, Callable[[dict[str, Json]], Json]]] = {
    "exact": lambda given: given["value"],
    "one_of": lambda given: given["values"],
    "not_one_of": lambda given: given["excluded"],
    "contains": lambda given: given["required"],
    "subset": lambda given: given["allowed"],
    "path": lambda given: given["root"],
    "glob": lambda given: given["pattern"],
    "regex": lambda given: given["pattern"],
    "cidr": lambda given: given["network"],
    "type": lambda given: given["type"],
}


def write(constraint: Constraint) -> Json:
    """A constraint in the short form of the policy language: `parse_rule` gives it back."""
    if isinstance(constraint, Wildcard):
        return "any"
    if isinstance(constraint, AllOf):
        return _every([write(clause) for clause in constraint.constraints])
    if isinstance(constraint, AnyOf):
        return {"any": [write(clause) for clause in constraint.constraints]}
    name, members = constraint.kind.removeprefix(PREFIX), constraint.members()
    if isinstance(constraint, Length):
        return {f"{bound}_length": count for bound, count in members.items()}
    return {name: _FORMS.get(name, dict)(members)}


def _every(rules: list[Any]) -> Json:
    """All of the rules: as keys of one object where no two have the same."""
    names = [name for rule in rules if type(rule) is dict for name in rule]
    if all(type(rule) is dict for rule in rules) and len(set(names)) == len(names) and "all" not in names:
        return {name: value for rule in rules for name, value in rule.items()}
    return {"all": rules}
