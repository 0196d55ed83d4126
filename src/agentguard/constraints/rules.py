"""The short forms of constraints that policies and scopes are written in (DESIGN §6).

    any                                  {range: {min: 1, max: 50}, optional: true}           {any: [{exact: a}, {max_length: 3}]}

A rule is `any`, or an object whose keys name constraints; several keys mean AND. `optional: true` stands on the outermost object only.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentguard.canonical import Json
from agentguard.constraints.matchers import PREFIX
from agentguard.constraints.tokens import MAX_DEPTH, Constraint, Entry, parse_constraint
from agentguard.constraints.values import ARRAYS, SCALARS, show
from agentguard.constraints.vocabulary import AllOf, AnyOf, Wildcard
from agentguard.errors import InvalidInput

_Form = Callable[[Json], dict[str, Json]]


def _value(kind: str, member: str) -> _Form:
    """The value is the only member of the token form."""
    return lambda value: {"constraint_type": kind, member: value}


def _object(kind: str, example: str) -> _Form:
    """The value holds the members of the token form."""

    def form(value: Json) -> dict[str, Json]:
        if not isinstance(value, Mapping):
            raise InvalidInput(f"{kind.rpartition(':')[2]} needs an object, found {show(value)}", hint=f"write {example}")
        if "constraint_type" in value or "optional" in value:
            raise InvalidInput("constraint_type and optional are not members of a rule's key")
        return {**value, "constraint_type": kind}

    return form


def _path(value: Json) -> dict[str, Json]:
    root = value["root"] if isinstance(value, Mapping) and value.keys() == {"root"} else value
    if type(root) is str and len(root) > 1 and root.endswith("/"):
        root = root[:-1]  # people write directories with a slash at the end; the token form has one spelling
    return {"constraint_type": f"{PREFIX}path", "root": root}


def _wildcard(value: Json) -> dict[str, Json]:
    if value is not True:
        raise InvalidInput(f"wildcard must be true, found {show(value)}", hint="or write any in place of the whole rule")
    return {"constraint_type": "wildcard"}


_FORMS: Final[dict[str, _Form]] = {
    "exact": _value("exact", "value"),
    "range": _object("range", "{range: {min: 1, max: 50}}"),
    "one_of": _value("one_of", "values"),
    "not_one_of": _value("not_one_of", "excluded"),
    "contains": _value("contains", "required"),
    "subset": _value("subset", "allowed"),
    "wildcard": _wildcard,
    "path": _path,
    "url": _object(f"{PREFIX}url", "{url: {hosts: [example.com]}}"),
    "glob": _value(f"{PREFIX}glob", "pattern"),
    "regex": _value(f"{PREFIX}regex", "pattern"),
    "cidr": _value(f"{PREFIX}cidr", "network"),
    "email": _object(f"{PREFIX}email", "{email: {domains: [example.com]}}"),
    "length": _object(f"{PREFIX}length", "{length: {max: 4000}}"),
    "type": _value(f"{PREFIX}type", "type"),
}
#: Two keys that make one `length`.
_LENGTHS: Final = {"min_length": "min", "max_length": "max"}
#: Every key of a rule, for schemas and for the nearest known one in an error.
KEYS: Final = (*_FORMS, *_LENGTHS, "any", "all", "optional")


def parse_rule(node: Any, *, where: str | None = None) -> Entry:
    """The entry that a rule stands for. Raises InvalidInput with `where` as its place."""
    try:
        if isinstance(node, Mapping) and "optional" in node:
            optional = node["optional"]
            if type(optional) is not bool:
                raise InvalidInput(f"optional must be true or false, found {show(optional)}")
            return Entry(_rule({name: value for name, value in node.items() if name != "optional"}, MAX_DEPTH), optional)
        return Entry(_rule(node, MAX_DEPTH))
    except InvalidInput as error:
        raise InvalidInput(error.message, place=where or error.place, hint=error.hint) from None


def _rule(node: Any, depth: int) -> Constraint:
    if type(node) is str and node == "any":
        return Wildcard()
    if not isinstance(node, Mapping):
        hint = f"write {{exact: {show(node)}}}" if type(node) in SCALARS else "write {one_of: [...]}" if type(node) in ARRAYS else None
        raise InvalidInput(f"a rule is `any` or an object such as {{max_length: 80}}, found {show(node)}", hint=hint)
    if not node:
        raise InvalidInput("the rule says nothing", hint="write any, or {wildcard: true, optional: true}")
    if len(node) > 1:
        depth -= 1  # the AND of several keys is one level of its own
    if depth <= 0:
        raise InvalidInput("the rule is nested too deeply", hint=f"at most {MAX_DEPTH} levels")
    clauses: list[Constraint] = []
    for name, value in node.items():
        if name not in _LENGTHS:
            clause = _word(name, value, depth)
            clauses += clause.constraints if isinstance(clause, AllOf) else (clause,)
    bounds = {member: node[name] for name, member in _LENGTHS.items() if name in node}
    if bounds:
        clauses.append(parse_constraint({"constraint_type": f"{PREFIX}length", **bounds}, extensions=True))
    return clauses[0] if len(clauses) == 1 else AllOf(tuple(clauses))


def _word(name: Any, value: Any, depth: int) -> Constraint:
    if name == "any" or name == "all":
        if type(value) not in ARRAYS or not value:
            raise InvalidInput(f"{name} needs a list of rules, found {show(value)}")
        clauses = tuple([_rule(clause, depth - 1) for clause in value])
        return AnyOf(clauses) if name == "any" else AllOf(clauses)
    if name == "optional":
        raise InvalidInput("optional belongs to the whole argument, not to a part of its rule")
    form = _FORMS.get(name) if type(name) is str else None
    if form is None:
        near = next(iter(difflib.get_close_matches(str(name)[:40], KEYS)), None)
        raise InvalidInput(f"a rule has no key {show(name)}", hint=f"did you mean {near}?" if near else f"known: {', '.join(KEYS)}")
    return parse_constraint(form(value), extensions=True)
