"""The standing rules per agent, compiled for judging (DESIGN §6; stage 10 of §7).

A policy is read once and indexed by agent and tool, so that the cost of a call does not grow with the number of rules. The world is closed:
an agent, a tool or an argument without a rule is refused. `docs/policy.md` is the reference of the language.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from agentguard.canonical import Frozen
from agentguard.constraints.rules import parse_rule
from agentguard.constraints.tokens import NO_ARGUMENTS, ArgumentFailure, Entry, ToolMap
from agentguard.constraints.values import shorten, show
from agentguard.constraints.vocabulary import Wildcard
from agentguard.decision import Code, Reason
from agentguard.errors import InvalidInput
from agentguard.policy.approval import ApprovalRule
from agentguard.policy.budgets import Budget
from agentguard.policy.conditions import Condition
from agentguard.policy.forbid import Forbid, ForbidIndex
from agentguard.policy.sequences import SequenceRule, watch
from agentguard.policy.standing import HoursRule, Shadow, Standing

if TYPE_CHECKING:
    from agentguard.policy.outputs import OutputRule

__all__ = ["AgentPolicy", "Budget", "Delegate", "Forbid", "Policy", "ToolAttributes", "ToolRule", "parse_scope"]

#: Hops of the longest chain (DESIGN §4).
MAX_DEPTH: Final = 16
_MEMO: Final = 4096
_ANY: Final = Entry(Wildcard(), optional=True)
_Check = Callable[[Mapping[str, Frozen]], ArgumentFailure | Reason | None]


@dataclass(frozen=True, slots=True)
class Delegate:
    """Leave to delegate to one agent. `depth` counts the hops below the delegating one: with 1 the delegate cannot delegate further."""

    depth: int
    place: str


@dataclass(frozen=True, slots=True)
class ToolAttributes:
    """What holds for a tool whichever agent calls it.

    proof_required         each call needs a proof of possession, in process too
    rerun_safe             a repeated call id may run again where no outcome is known
    unsafe_any_arguments   artifacts and rules may say `*` for it
    opaque                 it may run although its code cannot be pinned
    plain_chains           a plain AAT chain is enough; without it the agentguard profile is needed
    approval               whose approval each call needs
    output                 what becomes of its outputs before anybody gets them
    """

    proof_required: bool = False
    rerun_safe: bool = False
    unsafe_any_arguments: bool = False
    opaque: bool = False
    plain_chains: bool = False
    tags: frozenset[str] = frozenset()
    approval: ApprovalRule | None = None
    output: OutputRule | None = None


@dataclass(frozen=True, slots=True)
class ToolRule:
    """What one agent may pass to one tool. `arguments` has an entry for each argument, `map` is what is judged.

    place       "file:line" of the tool, `places` those of its arguments
    forbidden   the forbid rule that overrides this one, if there is one
    conditions  what must hold between the arguments, each with its place
    """

    arguments: Mapping[str, Entry]
    map: ToolMap
    place: str
    places: Mapping[str, str]
    forbidden: Forbid | None = None
    conditions: tuple[tuple[Condition, str], ...] = ()

    def judge(self, bound: Mapping[str, Frozen]) -> ArgumentFailure | Reason | None:
        """None where these bound arguments are allowed: each by itself, and all together."""
        failure = self.map.check(bound)
        return failure if failure is not None else next(self.unmet(bound), None)

    def unmet(self, bound: Mapping[str, Frozen]) -> Iterator[Reason]:
        """The conditions between the arguments that do not hold."""
        for condition, place in self.conditions:
            found = condition.failure(bound)
            if found is not None:
                yield Reason(Code.ARGUMENT_NOT_ALLOWED, ", ".join(sorted(condition.names)), condition.text, found, place)


@dataclass(frozen=True, slots=True)
class AgentPolicy:
    """The rules of one agent. `approvals` are by tool."""

    tools: Mapping[str, ToolRule]
    budgets: tuple[Budget, ...]
    delegates: Mapping[str, Delegate]
    place: str
    hours: tuple[HoursRule, ...] = ()
    sequence: tuple[SequenceRule, ...] = ()
    approvals: Mapping[str, tuple[ApprovalRule, ...]] = field(default_factory=dict)
    shadow: Shadow | None = None


_DEFAULT_ATTRIBUTES: Final = ToolAttributes()


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A compiled policy. Make it with `load`.

    digest     "sha256:<hex>" over `canonical`: layout, comments, order of keys and short forms make no difference
    canonical  the JCS bytes of the normalised policy; they are a policy text themselves, with the same digest
    source     how places name the file
    warnings   "file:line: ..." for what loads and has no effect
    """

    name: str
    digest: str
    canonical: bytes = field(repr=False)
    source: str
    agents: Mapping[str, AgentPolicy] = field(repr=False)
    forbid: ForbidIndex = field(repr=False)
    tools: Mapping[str, ToolAttributes] = field(repr=False)
    environment: Mapping[str, Entry] = field(repr=False)
    environment_places: Mapping[str, str] = field(repr=False)
    warnings: tuple[str, ...] = field(repr=False)
    sequence: tuple[SequenceRule, ...] = field(default=(), repr=False)
    _checks: Mapping[str, Mapping[str, _Check]] = field(init=False, repr=False)
    _standing: Mapping[str, dict[str, Standing]] = field(init=False, repr=False)
    _known_tools: frozenset[str] = field(init=False, repr=False)
    _chains: dict[tuple[str, ...], Reason | None] = field(init=False, repr=False)
    _scopes: dict[str, Mapping[str, ToolMap]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        checks = {
            name: {tool: rule.judge if rule.conditions else rule.map.check for tool, rule in agent.tools.items() if rule.forbidden is None}
            for name, agent in self.agents.items()
        }
        object.__setattr__(self, "_checks", checks)
        object.__setattr__(self, "_standing", {name: {} for name in self.agents})  # made when first asked for
        object.__setattr__(self, "_known_tools", frozenset(tool for agent in self.agents.values() for tool in agent.tools))
        object.__setattr__(self, "_chains", {})  # pure results, remembered; bounded by _MEMO and by the number of agents
        object.__setattr__(self, "_scopes", {})

    def _stand(self, name: str, agent: AgentPolicy, tool: str) -> Standing:
        everywhere = self.attributes(tool).approval
        return Standing(
            tuple([budget for budget in agent.budgets if budget.covers(tool)]),
            tuple([rule for rule in agent.hours if rule.tools is None or tool in rule.tools]),
            watch(name, tool, (*self.sequence, *agent.sequence)),
            (*agent.approvals.get(tool, ()), *([everywhere] if everywhere is not None else ())),
            watch(name, tool, self.sequence),
            everywhere,
        )

    # --- stage 10 -------------------------------------------------------------------------------------------------------------------

    def judge(self, agent: str, tool: str, bound: Mapping[str, Frozen], lifted: bool = False) -> Reason | None:
        """None where `agent` may call `tool` with these bound arguments, else why not. Total. `lifted`: whatever forbid rules say."""
        tools = self._checks.get(agent)
        if tools is None:
            return self._agent_unknown(agent)
        check = tools.get(tool)
        if check is None and lifted and (rule := self.agents[agent].tools.get(tool)) is not None:
            check = rule.judge
        if check is None:
            return self._tool_refused(agent, tool, bound)
        failure = check(bound)
        if failure is None or type(failure) is Reason:
            return failure
        return self._argument_refused(agent, tool, failure)  # type: ignore[arg-type]  # the other one of two

    def refusals(self, agent: str, tool: str, bound: Mapping[str, Frozen]) -> Iterator[Reason]:
        """Everything that stands against a call, what `judge` says first. For people: a decision ends at the first reason."""
        rules = self.agents.get(agent)
        rule = rules.tools.get(tool) if rules is not None else None
        if rule is None or rule.forbidden is not None:
            yield self._agent_unknown(agent) if rules is None else self._tool_refused(agent, tool, bound)
        if rule is not None:
            for failure in rule.map.failures(bound):
                yield self._argument_refused(agent, tool, failure)
            yield from rule.unmet(bound)

    def standing(self, agent: str, tool: str) -> Standing | None:
        """What else is said about calls of `agent` to `tool`; None where the policy has no rule for it."""
        tools = self._standing.get(agent)
        if tools is None:
            return None
        found = tools.get(tool)
        if found is None and tool in self.agents[agent].tools:
            found = tools[tool] = self._stand(agent, self.agents[agent], tool)
        return found

    def shadows(self, agent: str, tool: str, now: int) -> bool:
        """Whether what this agent's own rule for a tool refuses is only recorded at `now` (seconds). Never where it has none."""
        rules = self.agents.get(agent)
        shadow = rules.shadow if rules is not None and (tool in self._checks[agent] or self.lifts(agent, tool, now)) else None
        return shadow is not None and now < shadow.until and (shadow.tools is None or tool in shadow.tools)

    def may_shadow(self, agent: str) -> bool:
        """Whether there is a time at which refusals by an agent's own rules are only recorded."""
        rules = self.agents.get(agent)
        return rules is not None and rules.shadow is not None

    def lifts(self, agent: str, tool: str, now: int) -> bool:
        """Whether a tool that `agent` has is forbidden, and all that forbids it is only recorded at `now` (seconds since 1970)."""
        rule = self.agents[agent].tools.get(tool) if agent in self.agents else None
        return rule is not None and rule.forbidden is not None and rule.forbidden.shadowed(now)

    def known(self, agent: str) -> Reason | None:
        """None where the policy has rules for `agent`, else `agent_unknown`."""
        return None if agent in self.agents else self._agent_unknown(agent)

    def _agent_unknown(self, agent: str) -> Reason:
        fix = f"add `{_plain(agent)}: {{tools: {{...}}}}` under agents"
        return Reason(Code.AGENT_UNKNOWN, agent, f"an agent of the policy {self.name}", "no rules for it", self.source, fix)

    def _tool_refused(self, agent: str, tool: str, bound: Mapping[str, Frozen]) -> Reason:
        rule = self.forbid.first(agent, tool)
        if rule is not None and (rule.until is None or tool in self.agents[agent].tools):  # no trial of what it does not have
            found = f"forbidden by {rule.tool}" + (f": {rule.reason}" if rule.reason else "")
            return Reason(Code.TOOL_NOT_ALLOWED, tool, "a tool that no rule forbids", found, rule.place)
        rules = ", ".join(f"{_plain(name)}: any" for name in [*bound][:8])
        fix = f"add `{_plain(tool)}: {{{rules}}}` under agents.{agent}.tools, with rules as narrow as they can be"
        return Reason(
            Code.TOOL_NOT_ALLOWED, tool, f"a tool that the policy gives to {agent}", "no rule for it", self.agents[agent].place, fix
        )

    def _argument_refused(self, agent: str, tool: str, failure: ArgumentFailure) -> Reason:
        rule = self.agents[agent].tools[tool]
        name, where = failure.name, f"agents.{agent}.tools.{tool}"
        entry = rule.arguments.get(name)
        if entry is None:
            required = f"one of the arguments {', '.join(rule.arguments)}" if rule.arguments else "no arguments"
            fix = f"add `{_plain(name)}: any` under {where}, or a narrower rule"
            return Reason(Code.ARGUMENT_NOT_ALLOWED, _plain(name), shorten(required, 120), failure.found, rule.place, fix)
        if failure.found == "nothing":
            fix = f"pass {name}, or add `optional: true` to its rule under {where}"
        else:
            fix = f"widen the rule of {name} under {where}"
        return Reason(Code.ARGUMENT_NOT_ALLOWED, name, failure.required, failure.found, rule.places[name], fix)

    def may_delegate(self, agents: tuple[str, ...]) -> Reason | None:
        """None where each agent of a chain, root first, may have delegated to the next and as deep as the chain goes."""
        try:
            return self._chains[agents]
        except KeyError:
            pass
        reason = self._delegation(agents)
        if len(self._chains) >= _MEMO:
            self._chains.clear()
        self._chains[agents] = reason
        return reason

    def _delegation(self, agents: tuple[str, ...]) -> Reason | None:
        for index, (parent, child) in enumerate(pairwise(agents)):
            hop = f"{parent} -> {child}"
            rules = self.agents.get(parent)
            if rules is None:
                return Reason(Code.DELEGATION_NOT_ALLOWED, hop, f"an agent of the policy {self.name}", "no rules for it", self.source)
            delegate = rules.delegates.get(child)
            if delegate is None:
                names = shorten(", ".join(rules.delegates), 120)
                required = f"a delegate of {parent}: {names}" if names else f"no delegation: {parent} has no delegates"
                fix = f"add `{child}: {{depth: {len(agents) - 1 - index}}}` under agents.{parent}.delegates"
                return Reason(Code.DELEGATION_NOT_ALLOWED, hop, required, child, rules.place, fix)
            hops = len(agents) - 1 - index
            if hops > delegate.depth:
                required = f"at most {delegate.depth} hop{'s' if delegate.depth > 1 else ''} below {parent}"
                fix = f"depth: {hops} in agents.{parent}.delegates.{child}"
                return Reason(Code.DELEGATION_NOT_ALLOWED, hop, required, f"{hops} hops, to {agents[-1]}", delegate.place, fix)
        return None

    # --- other stages ---------------------------------------------------------------------------------------------------------------

    def judge_environment(self, facts: Mapping[str, Frozen]) -> Reason | None:
        """None where the facts of this place are those that the policy asks for (stage 5). A missing fact is a mismatch. Total."""
        for name, entry in self.environment.items():
            if name not in facts:
                if entry.optional:
                    continue
                found, fix = "nothing known", f"Guard.open(..., environment={{{name!r}: ...}})"
            elif entry.constraint.check(facts[name]):
                continue
            else:
                found, fix = show(facts[name]), ""
            return Reason(Code.ENVIRONMENT_MISMATCH, name, entry.constraint.describe(), found, self.environment_places[name], fix)
        return None

    def attributes(self, tool: str) -> ToolAttributes:
        """The attributes of a tool; the strictest where the policy says nothing about it."""
        return self.tools.get(tool, _DEFAULT_ATTRIBUTES)

    def knows_tool(self, tool: str) -> bool:
        """Whether any agent has a rule for `tool`."""
        return tool in self._known_tools

    # --- authority ------------------------------------------------------------------------------------------------------------------

    def reachable(self, agent: str) -> tuple[str, ...]:
        """The agents that a task of `agent` may come to through `delegates`, within the depths allowed; without `agent` itself."""
        left = {agent: MAX_DEPTH}  # by agent, the most hops that may follow it
        queue = [agent]
        while queue:
            parent = queue.pop(0)
            rules = self.agents.get(parent)
            for child, delegate in rules.delegates.items() if rules is not None else ():
                hops = min(left[parent], delegate.depth) - 1
                if hops >= 0 and hops > left.get(child, -1):
                    left[child] = hops
                    queue.append(child)
        return tuple(name for name in left if name != agent)

    def default_scope(self, agent: str) -> Mapping[str, ToolMap]:
        """What `scope=None` grants (DESIGN §12): every tool of `agent` and of the agents reachable from it, each named argument an
        optional wildcard. The policy's own constraints stay in the policy. Empty for an agent that the policy does not know.
        """
        scope = self._scopes.get(agent)
        if scope is None:
            scope = self._default_scope(agent)
            if agent in self.agents:
                self._scopes[agent] = scope
        return scope

    def _default_scope(self, agent: str) -> Mapping[str, ToolMap]:
        named: dict[str, dict[str, Entry]] = {}
        rest: dict[str, bool] = {}
        for name in (agent, *self.reachable(agent)) if agent in self.agents else ():
            for tool, rule in self.agents[name].tools.items():
                named.setdefault(tool, {}).update(dict.fromkeys(rule.arguments, _ANY))
                rest[tool] = rest.get(tool, False) or rule.map.rest
        return MappingProxyType({tool: tool_map(arguments, rest[tool]) for tool, arguments in named.items()})

    def parse_scope(self, scope: Any, place: str = "scope") -> Mapping[str, ToolMap]:
        """As the function of this name, but `*` needs a tool that this policy marks `unsafe_any_arguments`."""
        result = parse_scope(scope, place)
        for tool, arguments in result.items():
            if arguments.rest and not self.attributes(tool).unsafe_any_arguments:
                hint = f"name the arguments, or mark the tool in the policy: tools: {{{tool}: {{unsafe_any_arguments: true}}}}"
                raise InvalidInput("'*' would admit any argument", place=f"{place}.{tool}", hint=hint)
        return result


def _plain(name: str) -> str:
    """A name that came with the call, as a sentence can hold it."""
    return shorten(name, 64) if name.isascii() and name.isprintable() else show(name, 64)


def tool_map(arguments: Mapping[str, Entry], rest: bool = False) -> ToolMap:
    """The map of a tool as policies and scopes mean it: no argument named and no `*` means no arguments (unlike `{}` in a token)."""
    return ToolMap(arguments, rest) if arguments or rest else NO_ARGUMENTS


def parse_scope(scope: Any, place: str = "scope") -> Mapping[str, ToolMap]:
    """A scope, `{tool: {argument: rule}}` with the rules of a policy: `{}` grants nothing, `{tool: {}}` a tool without arguments.

    Raises InvalidInput whose place is such as `scope.send_email.to`.
    """
    result: dict[str, ToolMap] = {}
    for tool, rules in _members(scope, place):
        if not (tool.isascii() and tool.isprintable() and 0 < len(tool) <= 256 and " " not in tool):
            raise InvalidInput(f"{tool!r:.80} is not a tool's name", place=place, hint="1 to 256 printable ASCII characters without spaces")
        where = f"{place}.{tool}"
        entries: dict[str, Entry] = {}
        rest = False
        for name, rule in _members(rules, where):
            if name == "*":
                if rule != "any":
                    raise InvalidInput("'*' can only be `any`", place=f"{where}.*")
                rest = True
            else:
                entries[name] = parse_rule(rule, where=f"{where}.{name}")
        result[tool] = tool_map(entries, rest)
    return MappingProxyType(result)


def _members(value: Any, place: str) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"expected {{name: ...}}, found {type(value).__name__}", place=place)
    for name in value:
        if type(name) is not str or not name.isprintable() or not name:
            raise InvalidInput(f"{name!r:.80} is not a name", place=place)
    return list(value.items())
