"""What a reviewer of a policy should see: rules that can never be met or never matter, delegates that gain, tools that no lock knows.

A policy with all of this loads, and is as safe as it says; it says something else than somebody meant. `agentguard policy check` prints it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from agentguard.analysis.absent import never_holds
from agentguard.analysis.formulas import leaves
from agentguard.analysis.near import closest
from agentguard.analysis.samples import samples
from agentguard.analysis.vacuous import contradiction, idle
from agentguard.constraints.tokens import Entry
from agentguard.constraints.values import shorten, show
from agentguard.constraints.vocabulary import AllOf, Constraint, Range
from agentguard.policy.approval import strictest
from agentguard.policy.budgets import millionths, show_millionths
from agentguard.policy.file import Document, Steps
from agentguard.policy.model import AgentPolicy, Policy, ToolRule
from agentguard.policy.schema import path_text
from agentguard.tools.lock import Lock


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to look at.

    level    a `warning` is most likely a mistake; a `note` may well be meant
    place    "file:line:column", or "file:line" where the column is not known
    path     what it is about, such as `agents.triage.tools.search.limit`
    hint     what may help
    """

    level: Literal["warning", "note"]
    place: str
    path: str
    message: str
    hint: str

    def text(self) -> str:
        """One line."""
        return f"{self.place}: {self.path}: {self.message}" + (f" ({self.hint})" if self.hint else "")

    def to_json(self) -> dict[str, str]:
        """JSON form for the CLI."""
        return {"level": self.level, "place": self.place, "path": self.path, "message": self.message, "hint": self.hint}


def review(policy: Policy, document: Document | None = None, lock: Lock | None = None) -> tuple[Notice, ...]:
    """Everything that is seen, in the order of the policy's agents.

    document  what the policy was read from: it gives the columns
    lock      the tool lock that the guard will have, if it is known
    """
    found: dict[tuple[str, str], Notice] = {}
    columns = _columns(document) if document is not None else {}
    for seen in _Review(policy).all(lock):
        key = seen.path[-1] if type(seen.path[-1]) is str else ""
        place = columns.get((seen.place, key)) or columns.get((seen.place, ""), seen.place)
        notice = Notice(seen.level, place, path_text(seen.path), seen.message, seen.hint)
        found.setdefault((place, seen.message), notice)  # what a group says is seen at each of its agents
    return tuple(found.values())


def _columns(document: Document) -> dict[tuple[str, str], str]:
    """By line and key, the key's line and column; by line and nothing, those of the first member of a list."""
    found: dict[tuple[str, str], str] = {}
    waiting: deque[tuple[Steps, object]] = deque([((), document.value)])
    while waiting:
        path, value = waiting.popleft()
        members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, inner in members:
            step: Steps = (*path, name)
            found.setdefault((document.line(step), name if isinstance(name, str) else ""), document.place(step, key=True))
            waiting.append((step, inner))
    return found


@dataclass(frozen=True, slots=True)
class _Seen:
    """A notice, before its column is known."""

    level: Literal["warning", "note"]
    place: str
    path: Steps
    message: str
    hint: str = ""


@dataclass(slots=True)
class _Review:
    """One look at one policy. `dead` are the agents' tools of which no call can be allowed."""

    policy: Policy
    dead: set[tuple[str, str]] = field(default_factory=set)

    def all(self, lock: Lock | None) -> Iterator[_Seen]:
        for name, entry in self.policy.environment.items():
            yield from self._entry(("environment", name), entry, self.policy.environment_places[name], "nothing is ever allowed")
        for agent, rules in self.policy.agents.items():
            for tool, rule in self._tools(rules):
                yield from self._arguments(agent, tool, rule)
                yield from self._conditions(agent, tool, rule)
            yield from self._budgets(agent, rules)
            yield from self._hours(agent, rules)
            yield from self._approvals(agent, rules)
        yield from self._sequences()
        for agent, rules in self.policy.agents.items():
            yield from self._delegates(agent, rules)
        if lock is not None:
            yield from self._unlocked(lock)

    def _tools(self, rules: AgentPolicy) -> list[tuple[str, ToolRule]]:
        return [(tool, rule) for tool, rule in rules.tools.items() if rule.forbidden is None or rule.forbidden.until is not None]

    # --- constraints ----------------------------------------------------------------------------------------------------------------

    def _arguments(self, agent: str, tool: str, rule: ToolRule) -> Iterator[_Seen]:
        for name, entry in rule.arguments.items():
            path: Steps = ("agents", agent, "tools", tool, name)
            for notice in self._entry(path, entry, rule.places[name], f"no call of {tool} is allowed"):
                yield notice
                if not entry.optional and notice.message.startswith("accepts nothing"):
                    self.dead.add((agent, tool))

    def _entry(self, path: Steps, entry: Entry, place: str, so: str) -> Iterator[_Seen]:
        why = contradiction(entry.constraint)
        if why:
            so = "it can only be left out" if entry.optional else so
            yield _Seen(
                "warning",
                place,
                path,
                f"accepts nothing: {why}; so {so}",
                "several keys of a rule mean AND; write any: [...] for OR",
            )
            return
        for words in idle(entry.constraint):
            yield _Seen("warning", place, path, words, "take it out, or widen what stands beside it")

    def _conditions(self, agent: str, tool: str, rule: ToolRule) -> Iterator[_Seen]:
        for condition, place in rule.conditions:
            for name in sorted(condition.names & rule.arguments.keys()):
                if rule.arguments[name].optional and never_holds(condition.tree, name):
                    message = (
                        f"{name} may be left out, and then {shorten(condition.text, 80)} never holds: it reads an argument that is missing"
                    )
                    hint = f"write `not has({name}) or ...`, or take `optional` away from {name}"
                    yield _Seen("warning", place, ("agents", agent, "where", tool), message, hint)

    # --- what depends on more than the arguments ------------------------------------------------------------------------------------

    def _budgets(self, agent: str, rules: AgentPolicy) -> Iterator[_Seen]:
        for budget in rules.budgets:
            path = ("agents", agent, "budgets")
            if budget.reserve > budget.limit:
                message = f"sets aside {show_millionths(budget.reserve)} for a call, and the limit is {budget.shown()}: no call is admitted"
                yield _Seen("warning", budget.place, path, message, "raise the limit, or lower reserve")
                self.dead |= {(agent, tool) for tool in budget.tools or ()}
            for tool in budget.tools or () if budget.cost is not None else ():
                rule = rules.tools.get(tool)
                entry = rule.arguments.get(str(budget.cost)) if rule is not None else None
                low = _least(entry.constraint) if entry is not None and not entry.optional else 0
                if (millionths(low) or 0) > budget.limit:
                    message = f"a call of {tool} costs at least {show(low)}, and the limit is {budget.shown()}: no call is admitted"
                    yield _Seen("warning", budget.place, path, message, "raise the limit, or lower the range of the argument")
                    self.dead.add((agent, tool))

    def _hours(self, agent: str, rules: AgentPolicy) -> Iterator[_Seen]:
        for rule in rules.hours:
            if rule.hours.opens(0) is None:
                yield _Seen("warning", rule.place, ("agents", agent, "hours"), f"never opens: {rule.hours.describe()}", "")

    def _approvals(self, agent: str, rules: AgentPolicy) -> Iterator[_Seen]:
        for tool, _ in self._tools(rules):
            standing = self.policy.standing(agent, tool)
            asked = strictest(standing.approvals) if standing is not None else None
            if asked is not None and asked.by is not None and len(asked.by) < asked.of:
                who = shorten(", ".join(asked.by), 80) or "nobody"
                message = (
                    f"where all rules for {tool} ask, {asked.of} must approve, and {who} may answer all of them: no such call is approved"
                )
                place = standing.approvals[-1].place if standing is not None else asked.place
                yield _Seen("warning", place, ("agents", agent, "approval"), message, "let the same people answer all rules that ask")

    def _sequences(self) -> Iterator[_Seen]:
        """Tools that wait for a call which never comes: `before` rules in a circle, or of tools that nobody can call."""
        alive = {(name, tool) for name, rules in self.policy.agents.items() for tool, _ in self._tools(rules)} - self.dead
        waits = [rule for rule in self.policy.sequence if rule.kind == "before"]
        waiting = {
            (name, tool): [rule for rule in (*waits, *rules.sequence) if rule.kind == "before" and tool in rule.objects]
            for name, rules in self.policy.agents.items()
            for tool in rules.tools
        }
        came: set[tuple[str, str]] = set()
        while True:
            ready = {
                (name, tool)
                for name, tool in alive - came
                if all(
                    any((other, done) in came for other in self._who(rule.agent) for done in rule.subjects) for rule in waiting[name, tool]
                )
            }
            if not ready:
                break
            came |= ready
        for name, tool in sorted(alive - came):
            self.dead.add((name, tool))
            rule = next(
                rule
                for rule in waiting[name, tool]
                if not any((other, done) in came for other in self._who(rule.agent) for done in rule.subjects)
            )
            message = f"{tool} waits for {shorten(' or '.join(rule.subjects), 80)}, which is never called before: no call of it is allowed"
            yield _Seen("warning", rule.place, ("agents", name, "sequence"), message, "is the order of the two the other way round?")

    def _who(self, agent: str | None) -> list[str]:
        return [*self.policy.agents] if agent is None else [agent]

    # --- delegates and locks --------------------------------------------------------------------------------------------------------

    def _delegates(self, agent: str, rules: AgentPolicy) -> Iterator[_Seen]:
        mine = dict(self._tools(rules))
        for to, delegate in rules.delegates.items() if mine else ():  # who has no tools is there to delegate
            theirs = dict(self._tools(self.policy.agents[to]))
            path = ("agents", agent, "delegates", to)
            more = [tool for tool in theirs if tool not in mine and (to, tool) not in self.dead]
            if more:
                message = f"{to} has {shorten(', '.join(more), 120)}, which {agent} has not: a task of {agent} comes to it by delegation"
                yield _Seen(
                    "note", delegate.place, path, message, "if it is not meant, give task.delegate a scope, or leave the delegate out"
                )
            for tool in theirs.keys() & mine.keys():
                wider = _wider(theirs[tool], mine[tool])
                if wider:
                    message = f"{to} may pass more to {tool} than {agent}: {wider}"
                    yield _Seen("warning", delegate.place, path, message, f"the rule of {to} is at {theirs[tool].place}")

    def _unlocked(self, lock: Lock) -> Iterator[_Seen]:
        for agent, rules in self.policy.agents.items():
            for tool, rule in self._tools(rules):
                if tool not in lock.entries:
                    meant = closest(tool, lock.entries)
                    hint = f"did you mean {meant}?" if meant else "`agentguard tools lock` locks the tools of the application"
                    path = ("agents", agent, "tools", tool)
                    yield _Seen("warning", rule.place, path, "the tool lock does not name this tool: no call of it runs", hint)


def _least(constraint: Constraint) -> int | float:
    """A number that no accepted value is below."""
    parts = constraint.constraints if isinstance(constraint, AllOf) else (constraint,)
    return max([0, *(part.min for part in parts if isinstance(part, Range) and part.min is not None)])


def _wider(theirs: ToolRule, mine: ToolRule) -> str:
    """What a delegate may pass and the delegating agent may not, with an example; empty where none is found."""
    for name, entry in theirs.arguments.items():
        own = mine.arguments.get(name)
        if own is None:
            if not mine.map.rest:
                return f"the argument {name}"
            continue
        for value in samples((*leaves(own.constraint), *leaves(entry.constraint))):
            if entry.constraint.check(value) and not own.constraint.check(value):
                return f"{name}: {show(value)}"
    return "" if mine.map.rest or not theirs.map.rest else "arguments that no rule names"
