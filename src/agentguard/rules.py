"""The short forms of constraints that policies and scopes are written in (DESIGN §6).

    any                                   {range: {min: 1, max: 50}, optional: true}        {any: [{exact: a}, {length: {max: 3}}]}

A rule is `any`, or an object whose keys name constraints; several keys mean AND. `optional: true` stands on the outermost object only.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Final

from agentguard.canonical import Json
from agentguard.constraint import MAX_DEPTH, Constraint, Entry, parse_constraint
from agentguard.errors import InvalidInput
from agentguard.matchers import PREFIX
from agentguard.values import show
from agentguard.vocabulary import AllOf, AnyOf, Wildcard

_Members = dict[str, Json]


def _one(kind: str, member: str) -> Callable[[Json], _Members]:
    return lambda value: {"constraint_type": kind, member: value}


def _object(kind: str, example: str) -> Callable[[Json], _Members]:
    def members(value: Json) -> _Members:
        if not isinstance(value, dict):
            raise InvalidInput(f"{kind.rpartition(':')[2]} needs an object, found {show(value)}", hint=f"write {example}")
        if "constraint_type" in value:
            raise InvalidInput("constraint_type belongs to the token form, not to a rule")
        return {**value, "constraint_type": kind}

    return members


def _one_or_object(kind: str, member: str) -> Callable[[Json], _Members]:
    whole, short = _object(kind, f"{{{member}: ...}}"), _one(kind, member)
    return lambda value: whole(value) if isinstance(value, dict) else short(value)


def _wildcard(value: Json) -> _Members:
    if value is not True:
        raise InvalidInput(f"wildcard must be true, found {show(value)}", hint="or write any in place of the whole rule")
    return {"constraint_type": "wildcard"}


_WORDS: Final[dict[str, Callable[[Json], _Members]]] = {
    "exact": _one("exact", "value"),
    "range": _object("range", "{range: {min: 1, max: 50}}"),
    "one_of": _one("one_of", "values"),
    "not_one_of": _one("not_one_of", "excluded"),
    "contains": _one("contains", "required"),
    "subset": _one("subset", "allowed"),
    "wildcard": _wildcard,
    "path": _one_or_object(f"{PREFIX}path", "root"),
    "url": _object(f"{PREFIX}url", "{url: {hosts: [example.com]}}"),
    "glob": _one_or_object(f"{PREFIX}glob", "pattern"),
    "regex": _one_or_object(f"{PREFIX}regex", "pattern"),
    "cidr": _one_or_object(f"{PREFIX}cidr", "network"),
    "email": _object(f"{PREFIX}email", "{email: {domains: [example.com]}}"),
    "length": _object(f"{PREFIX}length", "{length: {max: 4000}}"),
    "min_length": _one(f"{PREFIX}length", "min"),
    "max_length": _one(f"{PREFIX}length", "max"),
    "type": _one_or_object(f"{PREFIX}type", "type"),
}
#: Every key of a rule, for schemas and for the nearest known one in an error.
KEYS: Final = (*_WORDS, "any", "all", "optional")


def parse_rule(node: Any, *, where: str | None = None) -> Entry:
    """The entry that a rule stands for. Raises InvalidInput with `where` as its place."""
    try:
        if isinstance(node, dict) and "optional" in node:
            optional = node["optional"]
            if type(optional) is not bool:
                raise InvalidInput(f"optional must be true or false, found {show(optional)}")
            rest = {name: value for name, value in node.items() if name != "optional"}
            return Entry(_rule(rest, MAX_DEPTH), optional)
        return Entry(_rule(node, MAX_DEPTH))
    except InvalidInput as error:
        raise InvalidInput(error.message, place=where or error.place, hint=error.hint) from None


def _rule(node: Any, depth: int) -> Constraint:
    if depth <= 0:
        raise InvalidInput("the rule is nested too deeply", hint=f"at most {MAX_DEPTH} levels")
    if type(node) is str and node == "any":
        return Wildcard()
    if not isinstance(node, dict):
        hint = f"write {{exact: {show(node)}}}" if node is None or isinstance(node, (str, int, float)) else "write {one_of: [...]}"
        raise InvalidInput(f"a rule is `any` or an object such as {{max_length: 80}}, found {show(node)}", hint=hint)
    if not node:
        raise InvalidInput("the rule says nothing", hint="write any, or {wildcard: true, optional: true}")
    # An AND of several keys is one level of nesting more than its parts.
    inner = depth - 1 if len(node) > 1 else depth
    clauses = [_word(name, value, inner) for name, value in node.items() if name not in ("min_length", "max_length")]
    bounds = {name[:3]: node[name] for name in ("min_length", "max_length") if name in node}
    if bounds:
        clauses.append(parse_constraint({"constraint_type": f"{PREFIX}length", **bounds}, extensions=True))
    return clauses[0] if len(clauses) == 1 else AllOf(tuple(clauses))


def _word(name: Any, value: Any, depth: int) -> Constraint:
    if name == "any" or name == "all":
        if not isinstance(value, list) or not value:
            raise InvalidInput(f"{name} needs a list of rules, found {show(value)}")
        clauses = tuple(_rule(clause, depth - 1) for clause in value)
        return AnyOf(clauses) if name == "any" else AllOf(clauses)
    if name == "optional":
        raise InvalidInput("optional belongs to the whole argument, not to a part of its rule")
    members = _WORDS.get(name) if type(name) is str else None
    if members is None:
        near = difflib.get_close_matches(str(name)[:40], KEYS, n=1)
        raise InvalidInput(f"a rule has no key {show(name)}", hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(KEYS)}")
    return parse_constraint(members(value), extensions=True)
