"""A policy as Cedar policies with their schema, and a call as the request that Cedar is asked (docs/policy-export.md).

    permit (principal == Agent::"triage", action == Action::"call", resource == Tool::"send_email") when { ... };

What Cedar is asked and answers `Allow` to, this library's policy allows, and the other way round, for every rule that is exported. A rule
that Cedar has no words for is left out: Cedar forbids that tool to that agent, and `Export.left_out` says why. Never is Cedar's policy
the wider one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentguard.analysis.cedar_condition import holds
from agentguard.analysis.cedar_facts import ESCAPES, TYPES, expression, facts
from agentguard.analysis.cedar_text import Inexpressible, both, either, has, listed, member, not_, quoted
from agentguard.call import ToolCall
from agentguard.canonical import Frozen, freeze, parse
from agentguard.constraints.tokens import Entry
from agentguard.constraints.values import show
from agentguard.errors import InvalidInput
from agentguard.policy.conditions import Condition
from agentguard.policy.model import Policy, ToolRule

_ARGUMENTS: Final = "context.arguments"
_ENVIRONMENT: Final = "context.environment"
_NAMES: Final = "context.names"
#: The members of a policy's canonical form that are read here.
_TOP: Final = frozenset({"agentguard", "name", "agents", "forbid", "tools", "sequence", "environment"})
_AGENT: Final = frozenset({"tools", "where", "hours", "budgets", "sequence", "approval", "delegates", "unsafe_shadow"})
_FORBID: Final = frozenset({"tool", "agent", "reason", "unsafe_shadow"})
_TOOL: Final = frozenset({"tags", "approval", "output", "rerun", "proof", "opaque", "plain_chains", "unsafe_any_arguments"})


@dataclass(frozen=True, slots=True)
class Exported:
    """What one agent may pass to one tool, as it came out. `place` is "file:line"; `why` is empty where Cedar says the same."""

    agent: str
    tool: str
    place: str
    why: str = ""

    def to_json(self) -> dict[str, str]:
        """JSON form for the CLI; what is empty is left out."""
        found = {"agent": self.agent, "tool": self.tool, "place": self.place, "why": self.why}
        return {name: text for name, text in found.items() if text}


@dataclass(frozen=True, slots=True)
class Export:
    """Cedar policies and their schema (`.cedarschema`).

    rules   every rule of the policy for an agent and a tool
    beside  what the policy says and no Cedar policy does, because the guard enforces it at another stage
    """

    policies: str
    schema: str
    rules: tuple[Exported, ...]
    beside: tuple[str, ...]
    _arguments: frozenset[str]
    _environment: frozenset[str]

    @property
    def exported(self) -> tuple[Exported, ...]:
        """The rules of which Cedar says the same as this library."""
        return tuple(rule for rule in self.rules if not rule.why)

    @property
    def left_out(self) -> tuple[Exported, ...]:
        """The rules that Cedar has no words for: it refuses these tools."""
        return tuple(rule for rule in self.rules if rule.why)

    def request(self, call: ToolCall, environment: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What Cedar is asked about a call with bound arguments, under facts of the place: principal, action, resource and context.

        Only `Allow` permits. Raises InvalidInput for a call that is not well-formed, which is a refusal too.
        """
        if call.defect:
            raise InvalidInput(f"the call is not well-formed: {call.defect}")
        here: Mapping[str, Frozen] = freeze(dict(environment or {}))
        return {
            "principal": {"type": "Agent", "id": call.agent},
            "action": {"type": "Action", "id": "call"},
            "resource": {"type": "Tool", "id": call.tool},
            "context": {
                "names": sorted(call.arguments),
                "arguments": {name: facts(value) for name, value in call.arguments.items() if name in self._arguments},
                "environment": {name: facts(value) for name, value in here.items() if name in self._environment},
            },
        }


def export(policy: Policy) -> Export:
    """The policy as Cedar has it."""
    made, texts = [], []
    environment, everywhere = _environment(policy)
    everywhere = everywhere or _unread(policy)
    for agent, given in policy.agents.items():
        for tool, rule in given.tools.items():
            if rule.forbidden is not None:
                continue
            try:
                if everywhere or (why := _beyond(policy, agent, tool, rule)):
                    raise Inexpressible(everywhere or why)
                texts.append(_permit(agent, tool, rule, environment))
                made.append(Exported(agent, tool, rule.place))
            except Inexpressible as reason:
                texts.append(_forbid(agent, tool, f"{agent} {tool} left out", {"place": rule.place, "left_out": str(reason)}))
                made.append(Exported(agent, tool, rule.place, str(reason)))
    texts += _forbidden(policy)
    rules = [rule for agent in policy.agents.values() for rule in agent.tools.values()]
    asked = {name for rule in rules for names in (rule.arguments, *(condition.names for condition, _ in rule.conditions)) for name in names}
    arguments = asked - ESCAPES
    known = set(policy.environment) - ESCAPES
    return Export("\n".join(texts), _schema(arguments, known), tuple(made), tuple(_beside(policy)), frozenset(arguments), frozenset(known))


# --- policies -------------------------------------------------------------------------------------------------------------------------


def _permit(agent: str, tool: str, rule: ToolRule, environment: list[str]) -> str:
    lines = [f"permit ({_head(agent, tool)})"]
    if environment:
        lines += ["when {", *_lines(environment), "}"]
    asked = [] if rule.map.rest else [f"{listed(rule.arguments)}.containsAll({_NAMES})" if rule.arguments else f"{_NAMES}.isEmpty()"]
    asked += [_argument(name, entry) for name, entry in rule.arguments.items()]
    asked += [_where(condition) for condition, _ in rule.conditions]
    if asked:
        lines += ["when {", *_lines(asked), "}"]
    return _annotated(f"{agent} {tool}", {"place": rule.place}, lines)


def _head(agent: str | None, tool: str) -> str:
    principal = "principal" if agent is None else f"principal == Agent::{quoted(agent)}"
    return f'{principal}, action == Action::"call", resource == Tool::{quoted(tool)}'


def _lines(parts: list[str]) -> list[str]:
    return [f"  {part}{' &&' if index < len(parts) - 1 else ''}" for index, part in enumerate(parts)]


def _annotated(name: str, notes: Mapping[str, str], lines: list[str]) -> str:
    """One policy. What people wrote stands in annotations, which are strings: in a comment, a line end would end the comment."""
    given = {"id": name, **{note: text for note, text in notes.items() if text}}
    return "\n".join([*(f"@{note}({quoted(text)})" for note, text in given.items()), *lines]) + ";\n"


def _argument(name: str, entry: Entry) -> str:
    """An argument is there, and as its rule says; or, if it may be left out, neither there nor named."""
    found = _described(_ARGUMENTS, name, entry)
    if not entry.optional:
        return both((has(_ARGUMENTS, name), found))
    return f"(if {has(_ARGUMENTS, name)} then {found} else {not_(f'{_NAMES}.contains({quoted(name)})')})"


def _where(condition: Condition) -> str:
    if condition.names & ESCAPES:
        raise Inexpressible(f"where: {condition.text}: a name that Cedar's JSON form of a request reads as something else")
    try:
        return either([holds(condition, _ARGUMENTS)])
    except Inexpressible as reason:
        raise Inexpressible(f"where: {condition.text}: {reason}") from None


def _described(record: str, name: str, entry: Entry) -> str:
    if name in ESCAPES:
        raise Inexpressible(f"{show(name)} is a name that Cedar's JSON form of a request reads as something else")
    try:
        return expression(entry.constraint, member(record, name))
    except Inexpressible as reason:
        raise Inexpressible(f"{name}: {reason}") from None


def _environment(policy: Policy) -> tuple[list[str], str]:
    """What every permit asks of the place, or why Cedar cannot ask it."""
    asked = []
    for name, entry in policy.environment.items():
        try:
            found = _described(_ENVIRONMENT, name, entry)
        except Inexpressible as reason:
            return [], f"environment.{reason}"
        there = has(_ENVIRONMENT, name)
        asked.append(f"(if {there} then {found} else true)" if entry.optional else both((there, found)))
    return asked, ""


def _beyond(policy: Policy, agent: str, tool: str, rule: ToolRule) -> str:
    """What is said about calls of this tool that depends on more than one call by itself."""
    standing = policy.standing(agent, tool)
    if standing is None:
        return "nothing is known about its calls"
    if standing.hours:
        return "hours: Cedar is not told what time it is"
    if standing.approvals or (standing.watch is not None and standing.watch.approved):
        return "approval: Cedar asks nobody"
    if standing.watch is not None and standing.watch.checks:
        return f"sequence: {standing.watch.checks[0].rule.words()}: Cedar knows of no earlier calls"
    return ""


def _unread(policy: Policy) -> str:
    """A member of the policy that is not known here. Nothing is exported then: it might take something away."""
    document = parse(policy.canonical)
    for known, written in (
        (_TOP, [document]),
        (_AGENT, document["agents"].values()),
        (_FORBID, document["forbid"]),
        (_TOOL, document["tools"].values()),
    ):
        for members in written:
            for name in sorted(members.keys() - known):
                return f"the policy says something that this export does not read: {name}"
    return ""


def _forbid(agent: str | None, tool: str, name: str, notes: Mapping[str, str]) -> str:
    return _annotated(name, notes, [f"forbid ({_head(agent, tool)})"])


def _forbidden(policy: Policy) -> Iterator[str]:
    """Forbid rules, for the tools and agents that the policy names: Cedar's globs are others, and it knows no further names anyway."""
    tools = sorted({tool for agent in policy.agents.values() for tool in agent.tools} | set(policy.tools))
    for rule in policy.forbid.rules:
        for agent in [None] if rule.agent is None else policy.agents:
            for tool in tools:
                if rule.covers(agent or "", tool):
                    yield _forbid(agent, tool, f"forbid {rule.order} {agent or '*'} {tool}", {"place": rule.place, "reason": rule.reason})


# --- schema ---------------------------------------------------------------------------------------------------------------------------


def _schema(arguments: set[str], environment: set[str]) -> str:
    return f"""\
{TYPES}
entity Agent;
entity Tool;
action "call" appliesTo {{
  principal: Agent,
  resource: Tool,
  context: {{
    names: Set<String>,  // of all arguments that are passed, also of those that no rule knows
    arguments: {{{_members(arguments)}}},
    environment: {{{_members(environment)}}}
  }}
}};
"""


def _members(names: set[str]) -> str:
    return ", ".join(f"{quoted(name)}?: Value" for name in sorted(names))


def _beside(policy: Policy) -> Iterator[str]:
    """What else the policy says, and Cedar does not."""
    for name, agent in policy.agents.items():
        for budget in agent.budgets:
            yield f"{name}: at most {budget.shown()} {budget.name} ({budget.place})"
        for to, delegate in agent.delegates.items():
            yield f"{name}: may delegate to {to} ({delegate.place})"
        if agent.shadow is not None:
            yield f"{name}: refusals are only recorded for a time; Cedar refuses ({agent.shadow.place})"
    for place in dict.fromkeys(rule.place for rule in policy.forbid.rules if rule.until is not None):
        yield f"a forbid rule is only recorded for a time; Cedar refuses ({place})"
    for tool, attributes in policy.tools.items():
        if attributes.proof_required:
            yield f"{tool}: each call needs a proof of possession"
        if attributes.output is not None:
            yield f"{tool}: what becomes of its output"
