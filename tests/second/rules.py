"""The policy language, version 1 (DESIGN section 6): YAML in, constraint maps of the token's vocabulary out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from . import canon
from .constraints import URN, BadConstraint, Constraint, require_well_formed

Entries = dict[str, Constraint]


class BadPolicy(ValueError):
    """A policy that does not parse wholly does not load."""


@dataclass(frozen=True)
class Agent:
    """One agent: its tools with a rule for each argument, and to whom it may pass authority, how far down."""

    tools: dict[str, Entries]
    delegates: dict[str, int]


@dataclass(frozen=True)
class Policy:
    agents: dict[str, Agent]
    forbid: list[str]
    environment: Entries = field(default_factory=dict)
    proof_required: frozenset[str] = frozenset()
    plain_accepted: frozenset[str] = frozenset()
    unsafe_any_arguments: frozenset[str] = frozenset()


class _StrictLoader(yaml.SafeLoader):
    """``SafeLoader`` that refuses duplicate keys."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    names = [loader.construct_object(key, deep=True) for key, _ in node.value]
    if len(names) != len({(type(name), name) for name in names}):
        raise BadPolicy("a key appears twice")
    return {name: loader.construct_object(value, deep=True) for name, (_, value) in zip(names, node.value, strict=True)}


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse_policy(text: str) -> Policy:
    """Raises ``BadPolicy``."""
    try:
        document = yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        raise BadPolicy(str(error)) from error
    known = {"agentguard", "name", "description", "agents", "forbid", "tools", "environment"}
    _require_keys(document, known, "policy")
    if not canon.is_integer(document.get("agentguard")) or document["agentguard"] != 1:
        raise BadPolicy("agentguard: 1 is missing")
    attributes = _attributes(document.get("tools", {}))
    return Policy(
        agents={_name(agent): _agent(body) for agent, body in _items(document.get("agents", {}), "agents")},
        forbid=_forbid(document.get("forbid", [])),
        environment=_entries(document.get("environment", {})),
        proof_required=_marked(attributes, "proof", "required"),
        plain_accepted=_marked(attributes, "plain_chains", "accepted"),
        unsafe_any_arguments=_marked(attributes, "unsafe_any_arguments", True),
    )


def _require_keys(value: Any, known: set[str], where: str) -> None:
    if not isinstance(value, dict):
        raise BadPolicy(f"{where} is not a mapping")
    if not value.keys() <= known:
        raise BadPolicy(f"{where}: unknown {sorted(map(str, value.keys() - known))}")


def _items(value: Any, where: str) -> list[tuple[Any, Any]]:
    if not isinstance(value, dict):
        raise BadPolicy(f"{where} is not a mapping")
    return list(value.items())


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise BadPolicy(f"{value!r} is not a name")
    return value


def _agent(body: Any) -> Agent:
    _require_keys(body, {"tools", "budgets", "delegates", "description"}, "agent")
    tools = {_name(tool): _entries(entries) for tool, entries in _items(body.get("tools", {}), "tools")}
    delegates = {_name(name): _depth(edge) for name, edge in _items(body.get("delegates", {}), "delegates")}
    return Agent(tools, delegates)


def _depth(edge: Any) -> int:
    _require_keys(edge, {"depth"}, "delegates")
    depth = edge.get("depth", 1)
    if not canon.is_integer(depth) or depth < 1:
        raise BadPolicy("depth")
    return int(depth)


def _forbid(entries: Any) -> list[str]:
    if not isinstance(entries, list):
        raise BadPolicy("forbid is not a list")
    for entry in entries:
        _require_keys(entry, {"tool"}, "forbid")
    return [_name(entry.get("tool")) for entry in entries]


def _attributes(value: Any) -> dict[str, dict[str, Any]]:
    known = {"tags", "rerun", "proof", "labels", "approval", "opaque", "plain_chains", "unsafe_any_arguments"}
    for _, attributes in _items(value, "tools"):
        _require_keys(attributes, known, "tools")
    return dict(value)


def _marked(attributes: dict[str, dict[str, Any]], name: str, value: Any) -> frozenset[str]:
    return frozenset(tool for tool, own in attributes.items() if type(own.get(name)) is type(value) and own[name] == value)


def _entries(value: Any) -> Entries:
    return {_name(name): translated(rule) for name, rule in _items(value, "a map of rules")}


def translated(rule: Any) -> Constraint:
    """One rule of the policy as a well-formed constraint. Raises ``BadPolicy``."""
    optional: dict[str, Any] = {}
    if isinstance(rule, dict) and "optional" in rule:
        optional = {"optional": rule["optional"]}
        rule = {name: value for name, value in rule.items() if name != "optional"}
    constraint = {**_rule(rule), **optional}
    try:
        require_well_formed(constraint, extensions=True)
        canon.jcs(constraint)  # YAML knows types that JSON does not
    except (BadConstraint, canon.NotJson) as error:
        raise BadPolicy(str(error)) from error
    return constraint


def _rule(rule: Any) -> Constraint:
    if rule == "any":
        return {"constraint_type": "wildcard"}
    if not isinstance(rule, dict) or not rule:
        raise BadPolicy(f"{rule!r} is not a rule")
    parts = []
    for name, value in rule.items():
        if name not in _SHORTHAND:
            raise BadPolicy(f"{name!r} is no constraint")
        parts.append(_SHORTHAND[name](value))
    return parts[0] if len(parts) == 1 else {"constraint_type": "all", "constraints": parts}


def _one(kind: str, member: str) -> Callable[[Any], Constraint]:
    return lambda value: {"constraint_type": kind, member: value}


def _object(kind: str) -> Callable[[Any], Constraint]:
    def build(value: Any) -> Constraint:
        if not isinstance(value, dict) or {"constraint_type", "optional"} & value.keys():
            raise BadPolicy(f"{kind} takes a mapping")
        return {"constraint_type": kind, **value}

    return build


def _composite(kind: str) -> Callable[[Any], Constraint]:
    def build(value: Any) -> Constraint:
        if not isinstance(value, list):
            raise BadPolicy(f"{kind} takes a list of rules")
        return {"constraint_type": kind, "constraints": [_rule(clause) for clause in value]}

    return build


_SHORTHAND: dict[str, Callable[[Any], Constraint]] = {
    "exact": _one("exact", "value"),
    "range": _object("range"),
    "one_of": _one("one_of", "values"),
    "not_one_of": _one("not_one_of", "excluded"),
    "contains": _one("contains", "required"),
    "subset": _one("subset", "allowed"),
    "all": _composite("all"),
    "any": _composite("any"),
    "path": _one(URN + "path", "root"),
    "url": _object(URN + "url"),
    "glob": _one(URN + "glob", "pattern"),
    "regex": _one(URN + "regex", "pattern"),
    "cidr": _one(URN + "cidr", "network"),
    "email": _object(URN + "email"),
    "length": _object(URN + "length"),
    "max_length": _one(URN + "length", "max"),
    "type": _one(URN + "type", "type"),
}
