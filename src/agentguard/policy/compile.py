"""From a document to a `Policy`: rules parsed, references resolved, the canonical form and its digest made.

A policy that does not parse wholly does not load: every problem is collected, and any problem refuses the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from agentguard.constraints.rules import parse_rule
from agentguard.constraints.tokens import Entry, parse_entry
from agentguard.errors import InvalidInput
from agentguard.policy.approval import ApprovalRule
from agentguard.policy.canonical import canonical
from agentguard.policy.file import Document, Steps
from agentguard.policy.forbid import Forbid, ForbidIndex
from agentguard.policy.groups import Groups
from agentguard.policy.imports import read_policy
from agentguard.policy.model import AgentPolicy, Delegate, Policy, ToolAttributes, ToolRule, tool_map
from agentguard.policy.restrict import Restrictions
from agentguard.policy.schema import (
    MAX_PROBLEMS,
    AgentModel,
    PolicyModel,
    Problem,
    Rules,
    ToolModel,
    path_text,
    refuse,
    suggestion,
    validate,
)
from agentguard.spans import show_moment

_ANY: Final = parse_rule("any")
_Value = TypeVar("_Value")


def compile_source(source: str | Path) -> Policy:
    """See `agentguard.policy.load`."""
    return compile_document(read_policy(source).document)


def compile_document(document: Document) -> Policy:
    """The policy that a document says, imports merged already."""
    return _Compiler(document, validate(document)).policy()


class _Compiler:
    """One compilation: the document, its validated model, and the problems found so far."""

    def __init__(self, document: Document, model: PolicyModel) -> None:
        self.document = document
        self.model = model
        self.problems: list[Problem] = []
        self.parsed: dict[str, Entry] = {"'any'": _ANY}  # by what was written: the same rule is parsed once

    def policy(self) -> Policy:
        self.groups = Groups(self.model, self.report)
        self.restrictions = Restrictions(self.document, self.groups, self.report)
        forbid = ForbidIndex(self.forbid_rules())
        tools = {name: self.attributes(name, tool) for name, tool in _ordered(self.model.tools)}
        agents = {name: self.agent(name, agent, tools, forbid) for name, agent in _ordered(self.model.agents)}
        environment = {name: self.rule(rule, ("environment", name)) for name, rule in _ordered(self.model.environment)}
        known = {tool for agent in agents.values() for tool in agent.tools}
        sequence = tuple(self.restrictions.sequence(self.model.sequence, (), None, dict.fromkeys(known), own=True))
        if self.problems:
            raise refuse(self.document, self.problems)
        text = canonical(self.model, agents, forbid, tools, environment, sequence)
        return Policy(
            name=self.model.name,
            digest="sha256:" + hashlib.sha256(text).hexdigest(),
            canonical=text,
            source=self.document.label,
            agents=MappingProxyType(agents),
            forbid=forbid,
            tools=MappingProxyType(tools),
            environment=MappingProxyType(environment),
            environment_places=MappingProxyType({name: self.document.line(("environment", name)) for name in environment}),
            sequence=sequence,
            warnings=tuple(_warnings(self.document, agents, forbid, tools, sorted(self.model.groups.keys() - self.groups.used))),
        )

    def problem(self, path: Steps, message: str, hint: str | None = None, *, at_key: bool = False) -> None:
        self.problems.append(Problem(path, message, hint, at_key))
        if len(self.problems) >= MAX_PROBLEMS:
            raise refuse(self.document, self.problems)

    def report(self, path: Steps, message: str, hint: str | None, at_key: bool) -> None:
        self.problem(path, message, hint, at_key=at_key)

    def forbid_rules(self) -> Iterator[Forbid]:
        for order, rule in enumerate(self.model.forbid):
            place = self.document.line(("forbid", order))
            until = self.restrictions.until(rule.unsafe_shadow, ("forbid", order))
            try:
                for tool in self.groups.forbidden(rule, ("forbid", order)):
                    yield Forbid(tool, rule.agent, rule.reason or "", place, order, until)
            except InvalidInput as error:
                self.problem(("forbid", order), error.message, error.hint)

    def agent(self, name: str, agent: AgentModel, tools: Mapping[str, ToolAttributes], forbid: ForbidIndex) -> AgentPolicy:
        path: Steps = ("agents", name)
        whole = self.groups.whole(name, agent)
        rules = {
            tool: self.tool(tool, arguments, where, forbid.first(name, tool), tool in tools and tools[tool].unsafe_any_arguments)
            for tool, (arguments, where) in _ordered(whole.tools)
        }
        for delegate, (_, where) in whole.delegates.items():
            if delegate not in self.model.agents:
                hint = suggestion(delegate, self.model.agents)
                self.problem(where, f"there is no agent {delegate!r}", hint, at_key=True)
        restrict = self.restrictions
        for tool, conditions in restrict.conditions(whole, rules).items():
            rules[tool] = replace(rules[tool], conditions=tuple(conditions))
        approvals: dict[str, tuple[ApprovalRule, ...]] = {}
        for named, rule in restrict.approvals(whole, rules):
            approvals |= {tool: (*approvals.get(tool, ()), rule) for tool in named}
        return AgentPolicy(
            tools=MappingProxyType(rules),
            budgets=restrict.budgets(whole, rules),
            delegates=MappingProxyType(
                {to: Delegate(delegate.depth, self.document.line(where)) for to, (delegate, where) in _ordered(whole.delegates)}
            ),
            place=self.document.line(path),
            hours=tuple(restrict.hours(whole, rules)),
            sequence=restrict.sequences(name, whole, rules),
            approvals=MappingProxyType(approvals),
            shadow=restrict.shadow(agent.unsafe_shadow, path, rules),
        )

    def tool(self, tool: str, rules: Rules, path: Steps, forbidden: Forbid | None, any_arguments: bool) -> ToolRule:
        arguments: dict[str, Entry] = {}
        rest = False
        for name, rule in _ordered(rules):
            if name != "*":
                arguments[name] = self.rule(rule, (*path, name))
                continue
            rest = True
            if rule != "any" and rule != {"constraint_type": "wildcard"}:
                self.problem((*path, "*"), "'*' stands for all arguments without a rule and can only be `any`")
            if not any_arguments:
                hint = f"name the arguments, or say tools: {{{tool}: {{unsafe_any_arguments: true}}}}"
                self.problem((*path, "*"), "'*' admits any argument, which this tool is not marked for", hint, at_key=True)
        return ToolRule(
            arguments=MappingProxyType(arguments),
            map=tool_map(arguments, rest),
            place=self.document.line(path),
            places=MappingProxyType({name: self.document.line((*path, name)) for name in arguments}),
            forbidden=forbidden,
        )

    def attributes(self, name: str, tool: ToolModel) -> ToolAttributes:
        path: Steps = ("tools", name)
        approval = output = None
        try:
            if tool.approval is not None:
                approval = self.restrictions.ask(tool.approval, (*path, "approval"))
        except InvalidInput as error:
            self.problem((*path, "approval"), error.message, error.hint)
        try:
            if tool.output is not None:
                from agentguard.policy.outputs import parse_output  # it needs a JSON Schema library: only where one is used

                output = parse_output(tool.output)
        except InvalidInput as error:
            self.problem((*path, "output"), error.message, error.hint)
        return ToolAttributes(
            proof_required=tool.proof is not None,
            rerun_safe=tool.rerun is not None,
            unsafe_any_arguments=tool.unsafe_any_arguments,
            opaque=tool.opaque is not None,
            plain_chains=tool.plain_chains is not None,
            tags=frozenset(tool.tags),
            approval=approval,
            output=output,
        )

    def rule(self, rule: Any, path: Steps) -> Entry:
        written = repr(rule)
        found = self.parsed.get(written)
        if found is not None:
            return found
        try:
            found = self.parsed[written] = _parse(rule)
            return found
        except InvalidInput as error:
            blamed = _blame(rule, path)
            self.problem(blamed, error.message, error.hint, at_key=blamed != path and type(blamed[-1]) is str)
            return _ANY  # never used: a policy with a problem does not load


def _ordered(members: Mapping[str, _Value]) -> list[tuple[str, _Value]]:
    """Members in an order of their own, so that the first reason of a refusal does not depend on the order of the file."""
    return sorted(members.items())


def _parse(rule: Any) -> Entry:
    """A rule in a short form, or in the form that artifacts carry and `Policy.canonical` prints."""
    if type(rule) is dict and "constraint_type" in rule:
        return parse_entry(rule, extensions=True)
    return parse_rule(rule)


def _blame(rule: Any, path: Steps) -> Steps:
    """The smallest part of a refused rule that is refused by itself."""
    if type(rule) is not dict or "constraint_type" in rule:
        return path
    for key, value in rule.items():
        if key == "optional" or _accepted({key: value}):
            continue
        path = (*path, key)
        if key in ("any", "all") and type(value) is list:
            for index, clause in enumerate(value):
                if not _accepted(clause):
                    return _blame(clause, (*path, index))
        return path
    return path


def _accepted(rule: Any) -> bool:
    try:
        parse_rule(rule)
    except InvalidInput:
        return False
    return True


def _warnings(
    document: Document, agents: Mapping[str, AgentPolicy], forbid: ForbidIndex, tools: Mapping[str, ToolAttributes], unused: list[str]
) -> Iterator[str]:
    for name in unused:
        yield f"{document.line(('groups', name))}: {path_text(('groups', name))}: no agent is in this group"
    used = {tool for agent in agents.values() for tool in agent.tools}
    for name in tools:
        if name not in used:
            yield f"{document.line(('tools', name))}: {path_text(('tools', name))}: no agent has a rule for this tool"
    effective = set()
    for name, agent in agents.items():
        for tool, rule in agent.tools.items():
            if rule.forbidden is not None:
                effective.add(rule.forbidden.order)
                when = "has no effect" if rule.forbidden.until is None else f"has no effect from {show_moment(rule.forbidden.until)} on"
                yield f"{rule.place}: {path_text(('agents', name, 'tools', tool))}: {when}, forbidden at {rule.forbidden.place}"
    yield from _shadows(agents, forbid)
    said = set(effective)
    for forbidden in forbid.rules:
        if forbidden.order not in said:
            said.add(forbidden.order)
            other = "an earlier" if forbidden.until is None else "another"
            yield f"{forbidden.place}: forbid {forbidden.tool}: matches no tool that an agent has, or only what {other} rule forbids"


def _shadows(agents: Mapping[str, AgentPolicy], forbid: ForbidIndex) -> Iterator[str]:
    """What a guard says aloud when it opens: rules that are not enforced. Whether their time is over is for a decision's `now` to tell."""
    for name, agent in agents.items():
        if agent.shadow is not None:
            what = ", ".join(agent.shadow.tools or ["its tools"])
            until = show_moment(agent.shadow.until)
            yield f"{agent.shadow.place}: UNSAFE: until {until} refusals of {what} to {name} are recorded and not enforced"
    told = set()
    for rule in forbid.rules:
        if rule.until is not None and rule.order not in told:
            told.add(rule.order)
            yield f"{rule.place}: UNSAFE: until {show_moment(rule.until)} what only this rule forbids is recorded and not enforced"
