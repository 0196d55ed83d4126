"""Groups and tags, written out: what each agent of a policy has in the end, and where that is written.

    groups: {reader: {tools: {read_note: {id: any}}}}
    tools: {search: {tags: [read], arguments: {query: {max_length: 200}}}}
    agents: {triage: {groups: [reader], tags: [read], tools: {mail: {to: any}}}}

An agent has its own entries; then those of its groups, and of the groups that these name; then every tool that has one of its tags, with
the arguments written at the tool. What is nearer wins, entry by entry: of two groups as near as each other, both may give a tool only if
they give it the same rules. What only restricts (conditions, budgets, sequences, approvals) adds up instead, as do windows of hours.
Nothing of this is left when the policy is compiled: its canonical form has agents and their tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agentguard.policy.file import Steps
from agentguard.policy.schema import AgentModel, DelegateModel, ForbidModel, GroupModel, PolicyModel, Rules, suggestion

#: Reports a problem: (path, message, hint, whether the key is meant).
Report = Callable[[Steps, str, str | None, bool], None]


@dataclass(slots=True)
class Whole:
    """Everything that one agent has: by tool its rules, by agent its delegates, each with the path at which it is written; and `places`,
    the agent and its groups themselves, for what adds up."""

    tools: dict[str, tuple[Rules, Steps]] = field(default_factory=dict)
    delegates: dict[str, tuple[DelegateModel, Steps]] = field(default_factory=dict)
    tags: dict[str, Steps] = field(default_factory=dict)
    places: list[tuple[GroupModel, Steps]] = field(default_factory=list)

    @classmethod
    def of(cls, given: GroupModel, path: Steps) -> Whole:
        """What stands at one place, groups left aside."""
        return cls(
            {tool: (rules, (*path, "tools", tool)) for tool, rules in given.tools.items()},
            {to: (delegate, (*path, "delegates", to)) for to, delegate in given.delegates.items()},
            {tag: (*path, "tags", index) for index, tag in enumerate(given.tags)},
            [(given, path)],
        )

    def add(self, other: Whole) -> None:
        """Take over what is not here yet."""
        self.tools = other.tools | self.tools
        self.delegates = other.delegates | self.delegates
        self.tags = other.tags | self.tags
        self.places += other.places


class Groups:
    """The groups and tags of one policy. `used` is what some agent has named by the time all agents were asked for."""

    def __init__(self, model: PolicyModel, report: Report) -> None:
        self._model, self._report = model, report
        self.used: set[str] = set()
        self._tagged: dict[str, list[str]] = {}
        for tool, attributes in sorted(model.tools.items()):
            for index, tag in enumerate(attributes.tags):
                if tag in attributes.tags[:index]:
                    report(("tools", tool, "tags", index), f"the tag {tag!r} stands twice", None, False)
                self._tagged.setdefault(tag, []).append(tool)

    def tools_with(self, tag: str, path: Steps) -> list[str]:
        """The tools that have a tag; a problem where there are none."""
        tools = self._tagged.get(tag, [])
        if not tools:
            self._report(path, f"no tool has the tag {tag!r}", suggestion(tag, self._tagged), False)
        return tools

    def forbidden(self, rule: ForbidModel, path: Steps) -> Iterator[str]:
        """The globs of tools that a forbid rule stands for."""
        if rule.tool is not None:
            yield rule.tool
            return
        for tool in self.tools_with(rule.tag or "", (*path, "tag")):
            if "*" in tool or "?" in tool:
                self._report((*path, "tag"), f"the tool {tool!r} has a name that would be read as a pattern", "forbid it by name", False)
            yield tool

    def whole(self, name: str, agent: AgentModel) -> Whole:
        """What an agent has, groups and tags written out."""
        found = Whole.of(agent, ("agents", name))
        self._below(found, agent.groups, ("agents", name, "groups"))
        for tag, path in found.tags.items():
            for tool in self.tools_with(tag, path):
                if tool in found.tools:
                    continue
                arguments = self._model.tools[tool].arguments
                if arguments is None:
                    message = f"the tool {tool!r} has the tag {tag!r}, and nothing says what may be passed to it"
                    self._report(path, message, f"write tools.{tool}.arguments, or a rule of this agent's own", False)
                    continue
                found.tools[tool] = (arguments, ("tools", tool, "arguments"))
        return found

    def _below(self, found: Whole, names: list[str], path: Steps) -> None:
        """Add what groups give that is not there yet, level by level, so that what is nearer wins."""
        seen: set[str] = set()
        wanted: list[tuple[str, Steps, tuple[str, ...]]] = [(name, (*path, index), ()) for index, name in enumerate(names)]
        while wanted:
            level = Whole()
            further: list[tuple[str, Steps, tuple[str, ...]]] = []
            for name, where, above in wanted:
                group = self._model.groups.get(name)
                if group is None:
                    self._report(where, f"there is no group {name!r}", suggestion(name, self._model.groups), False)
                elif name in above:
                    self._report(where, f"the group {name!r} contains itself", None, False)
                elif name not in seen:
                    seen.add(name)
                    self._merge(level, group, name, where)
                    further += [(inner, ("groups", name, "groups", at), (*above, name)) for at, inner in enumerate(group.groups)]
            found.add(level)
            wanted = further
        self.used |= seen

    def _merge(self, level: Whole, group: GroupModel, name: str, path: Steps) -> None:
        """Put a group beside the others of its level. They may not contradict each other: nobody could say which of them holds."""
        one = Whole.of(group, ("groups", name))
        for key, where in [
            *[(tool, level.tools[tool][1]) for tool, given in one.tools.items() if level.tools.get(tool, given)[0] != given[0]],
            *[(to, level.delegates[to][1]) for to, given in one.delegates.items() if level.delegates.get(to, given)[0] != given[0]],
        ]:
            message = f"the groups {where[1]!r} and {name!r} say different things about {key!r}"
            self._report(path, message, f"write {key} at the agent itself: that holds, then", False)
        level.add(one)
