"""Properties of a policy, as people write them beside it in `<policy>.properties.yaml`.

    - only: {tool: send_money, agents: [billing]}                     nobody else can call it
    - always: {tool: send_email, arguments: {to: {email: {domains: [example.com]}}}}      every allowed call is like this
    - never: {tool: "delete_*"}                                       no allowed call is like this
    - no_wider_than: old.yaml                                         nothing is allowed that the other policy refuses

Names of tools and agents are globs, as in `forbid`; a bare `*` is every one. `arguments` holds rules of the policy
language, and `{not: rule}` for an argument that is there and otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from agentguard.analysis.formulas import Both, Either, Formula, Not
from agentguard.constraints.matchers import Glob
from agentguard.constraints.rules import parse_rule
from agentguard.constraints.tokens import MAX_DEPTH
from agentguard.constraints.values import show
from agentguard.errors import InvalidInput
from agentguard.policy.file import read, read_source

SUFFIX: Final = ".properties.yaml"
_HERE: Final = Path()
_HINT: Final = "for example: - only: {tool: send_money, agents: [billing]}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a property says of one argument."""

    formula: Formula
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Names:
    """Names like a glob, as in `forbid`; but a bare `*` is every name, since a property that leaves some out would prove too little."""

    pattern: str
    _glob: Glob = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_glob", Glob(self.pattern))

    def covers(self, name: str) -> bool:
        """Whether it is one of the names."""
        return self.pattern == "*" or self._glob.check(name)


@dataclass(frozen=True, slots=True)
class Only:
    """No agent but `agents` can call `tool`; with `with_delegates`, none can have it called by an agent it may delegate to either."""

    tool: Names
    agents: tuple[Names, ...]
    with_delegates: bool
    text: str
    place: str

    def concerns(self, agent: str) -> bool:
        """Whether the property speaks of calls by this agent."""
        return not any(names.covers(agent) for names in self.agents)


@dataclass(frozen=True, slots=True)
class Calls:
    """Every (`always`) or no allowed call of `tool` by `agents` has such arguments; with `with_delegates`, by their delegates too."""

    always: bool
    tool: Names
    agents: tuple[Names, ...]
    arguments: Mapping[str, Wanted]
    with_delegates: bool
    text: str
    place: str

    def concerns(self, agent: str) -> bool:
        """Whether the property speaks of calls by this agent."""
        return not self.agents or any(names.covers(agent) for names in self.agents)


@dataclass(frozen=True, slots=True)
class NoWiderThan:
    """Nothing is allowed that the policy in `file` refuses."""

    file: Path
    text: str
    place: str


Property: TypeAlias = Only | Calls | NoWiderThan


def beside(policy: Path) -> Path:
    """Where the properties of a policy stand: `support.properties.yaml` beside `support.yaml`."""
    return policy.with_suffix(SUFFIX)


def load_properties(file: Path) -> tuple[Property, ...]:
    """The properties of a file. Raises InvalidInput that names file, line and column."""
    text, label = read_source(file, "<properties>")
    document = read(text, label)
    if type(document.value) is not list or not document.value:
        raise InvalidInput("expected a list of properties", place=document.place(()), hint=_HINT)
    return tuple(parse_property(item, document.line((index,)), file.parent) for index, item in enumerate(document.value))


def parse_property(item: Any, place: str, folder: Path = _HERE) -> Property:
    """One property, as an item of the file. Raises InvalidInput."""
    if type(item) is not dict or len(item) != 1:
        raise InvalidInput("a property is one of only, always, never, no_wider_than", place=place, hint=_HINT)
    ((kind, body),) = item.items()
    try:
        if kind == "no_wider_than":
            if type(body) is not str or not body:
                raise InvalidInput(f"no_wider_than names the file of a policy, found {show(body)}")
            return NoWiderThan(folder / body, f"no wider than {body}", place)
        if kind not in ("only", "always", "never"):
            raise InvalidInput(f"there is no property {show(kind)}", hint="only, always, never or no_wider_than")
        return _about_calls(kind, body, place)
    except InvalidInput as error:
        raise InvalidInput(error.message, place=f"{place}: {error.place}" if error.place else place, hint=error.hint) from None


def parse_rules(text: str, place: str) -> dict[str, Any]:
    """`TOOL` or `TOOL: {ARGUMENT: RULE}` as the body of a property. Raises InvalidInput."""
    value = read(text, place).value
    if type(value) is str:
        return {"tool": value}
    if type(value) is not dict or len(value) != 1:
        raise InvalidInput("expected one tool and its arguments", place=place, hint="send_email: {to: {email: {domains: [example.com]}}}")
    ((tool, arguments),) = value.items()
    return {"tool": tool, "arguments": arguments}


def _about_calls(kind: str, body: Any, place: str) -> Only | Calls:
    needed = {"only": {"tool", "agents"}, "always": {"tool", "arguments"}, "never": {"tool"}}[kind]
    known = needed | {"with_delegates"} | ({"agents", "arguments"} if kind != "only" else set())
    if type(body) is not dict or not needed <= body.keys() <= known:
        raise InvalidInput(f"{kind} needs {' and '.join(sorted(needed))}, and knows {', '.join(sorted(known))}", hint=_HINT)
    tool, agents, arguments = body["tool"], body.get("agents"), body.get("arguments", {})
    with_delegates = body.get("with_delegates", False)
    if type(tool) is not str or type(with_delegates) is not bool:
        raise InvalidInput("tool is a name or a glob, with_delegates true or false")
    if agents is not None and (type(agents) is not list or not agents or not all(type(name) is str for name in agents)):
        raise InvalidInput("agents is a list of names or globs", hint="to allow none, say never")
    if type(arguments) is not dict or (kind == "always" and not arguments):
        raise InvalidInput("arguments is {argument: rule}")
    names = tuple(Names(name) for name in agents or ())
    who = f" by {', '.join(agents)}" if agents else ""
    reach = ", also through delegates" if with_delegates else ""
    if kind == "only":
        return Only(Names(tool), names, with_delegates, f"only {', '.join(agents or ())} can call {tool}{reach}", place)
    like = f" with {json.dumps(arguments)}" if arguments else ""
    wanted = {name: _wanted(name, rule) for name, rule in arguments.items()}
    return Calls(kind == "always", Names(tool), names, wanted, with_delegates, f"{kind} {tool}{like}{who}{reach}", place)


def _wanted(name: str, rule: Any) -> Wanted:
    if name == "*":
        raise InvalidInput("a property names its arguments, '*' is none")
    optional = False
    if type(rule) is dict and type(rule.get("optional")) is bool:
        optional = rule["optional"]
        rule = {key: value for key, value in rule.items() if key != "optional"}
    try:
        return Wanted(_formula(rule, MAX_DEPTH), optional)
    except InvalidInput as error:
        raise InvalidInput(error.message, place=f"arguments.{name}", hint=error.hint) from None


def _formula(rule: Any, depth: int) -> Formula:
    """A rule of the policy language in which `not` may stand, alone or in `any` and `all`."""
    if depth <= 0:
        raise InvalidInput("the rule is nested too deeply", hint=f"at most {MAX_DEPTH} levels")
    if type(rule) is not dict or not _speaks_of_not(rule):
        entry = parse_rule(rule)
        if entry.optional:
            raise InvalidInput("optional belongs to the whole argument, not to a part of its rule")
        return entry.constraint
    parts: list[Formula] = []
    for key, value in rule.items():
        if key == "not":
            parts.append(Not(_formula(value, depth - 1)))
        elif key in ("any", "all") and type(value) is list and value:
            clauses = tuple(_formula(clause, depth - 1) for clause in value)
            parts.append(Either(clauses) if key == "any" else Both(clauses))
        else:
            parts.append(_formula({key: value}, depth - 1))
    return parts[0] if len(parts) == 1 else Both(tuple(parts))


def _speaks_of_not(rule: Any) -> bool:
    if type(rule) is not dict:
        return False
    return "not" in rule or any(_speaks_of_not(clause) for key in ("any", "all") if type(rule.get(key)) is list for clause in rule[key])
