"""What a policy says about an agent's calls beside their arguments one by one, compiled: conditions, hours, budgets, sequences, approvals.

All of it restricts, so an agent has what is written at it and at all of its groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, Final, TypeVar

from agentguard.constraints.values import shorten, show
from agentguard.errors import InvalidInput
from agentguard.policy.approval import ApprovalRule
from agentguard.policy.budgets import MILLIONTHS, Budget, Window, millionths, show_millionths
from agentguard.policy.conditions import Condition, parse_condition
from agentguard.policy.file import Document, Steps
from agentguard.policy.groups import Groups, Report, Whole
from agentguard.policy.hours import Hours, parse_hours
from agentguard.policy.model import ToolRule
from agentguard.policy.schema import (
    AskModel,
    BudgetModel,
    GroupModel,
    HoursModel,
    SequenceModel,
    ShadowModel,
    TargetModel,
    TrialModel,
    WindowModel,
    suggestion,
)
from agentguard.policy.sequences import Kind, SequenceRule
from agentguard.policy.standing import HoursRule, Shadow
from agentguard.spans import parse_span, show_span

_T = TypeVar("_T")
_MOST: Final = 10**9 * MILLIONTHS
_KINDS: Final[tuple[Kind, ...]] = ("before", "never_after", "at_most", "only_after_approval")


class Restrictions:
    """Reads what restricts the calls of a policy's agents. Problems are reported, and what has one is left out."""

    def __init__(self, document: Document, groups: Groups, report: Report) -> None:
        self._document, self._groups, self._report = document, groups, report
        self._parsed: dict[str, Condition] = {}  # by what was written: the same condition is parsed once

    # --- of one agent -----------------------------------------------------------------------------------------------------------

    def conditions(self, whole: Whole, rules: Mapping[str, ToolRule]) -> dict[str, list[tuple[Condition, str]]]:
        """By tool, the conditions on its arguments and where each is written."""
        found: dict[str, list[tuple[Condition, str]]] = {}
        for given, path, own in _places(whole):
            for tool, texts in given.where.items():
                if self._has(tool, rules, (*path, "where", tool), own, at_key=True):
                    for index, text in enumerate(texts):
                        where = (*path, "where", tool, index)
                        condition = self._condition(text, rules[tool], where)
                        if condition is not None:
                            found.setdefault(tool, []).append((condition, self._document.line(where)))
        return found

    def hours(self, whole: Whole, rules: Mapping[str, ToolRule]) -> Iterator[HoursRule]:
        """When the agent may call what."""
        for given, path, own in _places(whole):
            for index, model in enumerate(given.hours):
                where = (*path, "hours", index)
                tools = self._tools(model.tools, None, where, rules, own, key="tools") if model.tools is not None else None
                hours = self._made(where, partial(_hours, model))
                if hours is not None:
                    yield HoursRule(hours, tools, self._document.line(where))

    def budgets(self, whole: Whole, rules: Mapping[str, ToolRule]) -> tuple[Budget, ...]:
        """What the agent may use up."""
        found: dict[str, Budget] = {}
        for given, path, own in _places(whole):
            for index, model in enumerate(given.budgets):
                where = (*path, "budgets", index)
                named = model.tool is not None or model.tag is not None
                tools = self._tools(model.tool, model.tag, where, rules, own) if named else None
                budget = self._made(where, partial(self._budget, model, tools, where))
                if budget is None:
                    continue
                self._countable(budget, rules, where)
                if budget.name in found:
                    self._report(
                        where, f"a second budget of {budget.name}", f"keep the smaller one, here or at {found[budget.name].place}", False
                    )
                found[budget.name] = budget
        return tuple(found.values())

    def approvals(self, whole: Whole, rules: Mapping[str, ToolRule]) -> Iterator[tuple[tuple[str, ...], ApprovalRule]]:
        """For which tools the agent needs whose approval."""
        for given, path, own in _places(whole):
            for index, model in enumerate(given.approval):
                where = (*path, "approval", index)
                if model.tool is None and model.tag is None:
                    self._report(where, "an approval rule names a tool or a tag", None, False)
                    continue
                tools = tuple([tool for tool in self._tools(model.tool, model.tag, where, rules, own) if tool in rules])
                when = None
                if model.when is not None:
                    checked = [self._condition(model.when, rules[tool], (*where, "when")) for tool in tools]
                    when = checked[0] if checked else None
                rule = self._made(where, partial(self.ask, model, where, when))
                if rule is not None:
                    yield tools, rule

    def sequence(
        self, models: Iterable[SequenceModel], path: Steps, agent: str | None, rules: Mapping[str, Any], own: bool
    ) -> Iterator[SequenceRule]:
        """The sequence rules that stand at one place. `rules` are the tools that may be named there."""
        for index, model in enumerate(models):
            where = (*path, "sequence", index)
            kind = next(kind for kind in _KINDS if getattr(model, kind) is not None)
            value = getattr(model, kind)
            subjects = self._tools(model.tool, model.tag, where, rules, own)
            objects: tuple[str, ...] = ()
            if isinstance(value, TargetModel):
                objects = self._tools(value.tool, value.tag, (*where, kind), rules, own)
            ask = None
            if isinstance(value, AskModel):
                ask = self._made((*where, kind), partial(self.ask, value, where))
            yield SequenceRule(kind, subjects, objects, value if type(value) is int else 0, agent, self._document.line(where), ask)

    def sequences(self, agent: str, whole: Whole, rules: Mapping[str, ToolRule]) -> tuple[SequenceRule, ...]:
        """The sequence rules about the calls of one agent."""
        return tuple([rule for given, path, own in _places(whole) for rule in self.sequence(given.sequence, path, agent, rules, own)])

    def shadow(self, model: ShadowModel | None, path: Steps, rules: Mapping[str, ToolRule]) -> Shadow | None:
        """Until when the agent's rules are recorded and not enforced."""
        if model is None:
            return None
        where = (*path, "unsafe_shadow")
        tools = self._tools(model.tools, None, where, rules, own=True, key="tools") if model.tools is not None else None
        until = self.until(model, path)
        return None if until is None else Shadow(until, tools, self._document.line(where))

    def until(self, model: TrialModel | None, path: Steps) -> int | None:
        """The second at which the shadow of what stands at `path` ends; None where it has none."""
        return None if model is None else self._made((*path, "unsafe_shadow", "until"), lambda: _moment(model.until))

    # --- parts ------------------------------------------------------------------------------------------------------------------

    def ask(self, model: AskModel, path: Steps, when: Condition | None = None) -> ApprovalRule:
        """An approval rule. Raises InvalidInput."""
        by = tuple(sorted(set(model.by))) if model.by is not None else None
        if by is not None and len(by) < model.of:
            raise InvalidInput(f"{model.of} must approve, and only {len(by)} may", hint="name more under by, or lower of")
        return ApprovalRule(
            by=by,
            of=model.of,
            expires=parse_span(model.expires),
            initiator=model.initiator is not None,
            place=self._document.line(path),
            when=when,
            unless=self._read(f"not ({when.text})") if when is not None else None,
        )

    def _budget(self, model: BudgetModel, tools: tuple[str, ...] | None, path: Steps) -> Budget:
        window = _window(model.window) if model.window is not None else None
        cost, output, reserve, limit = None, None, 0, model.calls
        if model.cost is not None:
            cost = model.cost.argument
            limit = _amount(model.limit, "limit")
            if tools is None:
                raise InvalidInput("a cost needs the tool whose calls cost it", hint="add tool: ... or tag: ...")
        if model.cost is not None and model.cost.output is not None:
            output, reserve = tuple(model.cost.output.split(".")), _amount(model.cost.reserve, "reserve")
        what = cost or ".".join(output or ()) or "calls"
        name = f"{what} of {shorten(' or '.join(tools), 120)} per {model.per}" if tools is not None else f"{what} per {model.per}"
        if window is not None:
            name += f" in {show_span(window.seconds)}" + (" (sliding)" if window.sliding else "")
        return Budget(limit or 0, name, self._document.line(path), model.per, tools, cost, output, reserve, window)

    def _countable(self, budget: Budget, rules: Mapping[str, ToolRule], path: Steps) -> None:
        for tool in budget.tools if budget.cost is not None and budget.tools is not None else ():
            rule = rules.get(tool)
            if rule is not None and budget.cost not in rule.arguments:
                hint = suggestion(str(budget.cost), rule.arguments)
                self._report((*path, "cost"), f"the tool {tool!r} has no argument {budget.cost!r} that could be counted", hint, False)

    def _condition(self, text: str, rule: ToolRule, path: Steps) -> Condition | None:
        condition = self._made(path, partial(self._read, text))
        if condition is not None and not rule.map.rest:
            for name in sorted(condition.names - rule.arguments.keys()):
                self._report(path, f"the tool has no argument {name!r}", suggestion(name, rule.arguments), False)
                return None
        return condition

    def _read(self, text: str) -> Condition:
        found = self._parsed.get(text)
        if found is None:
            found = self._parsed[text] = parse_condition(text)
        return found

    def _tools(
        self, names: list[str] | None, tag: str | None, path: Steps, rules: Mapping[str, Any], own: bool, key: str = "tool"
    ) -> tuple[str, ...]:
        """The tools that a rule is about, in order."""
        if tag is not None:
            return tuple(sorted(self._groups.tools_with(tag, (*path, "tag"))))
        for index, name in enumerate(names or ()):
            self._has(name, rules, (*path, key, index), own)
        return tuple(sorted(set(names or ())))

    def _has(self, tool: str, rules: Mapping[str, Any], path: Steps, own: bool, *, at_key: bool = False) -> bool:
        """Whether there is such a tool. A group may say something about tools that not all of its agents have."""
        if tool in rules:
            return True
        if own:
            self._report(path, f"there is no rule for a tool {tool!r} here", suggestion(tool, rules), at_key)
        return False

    def _made(self, path: Steps, make: Callable[[], _T]) -> _T | None:
        try:
            return make()
        except InvalidInput as error:
            self._report(path, error.message, error.hint, False)
            return None


def _places(whole: Whole) -> Iterator[tuple[GroupModel, Steps, bool]]:
    for given, path in whole.places:
        yield given, path, path[0] == "agents"


def _window(model: WindowModel) -> Window:
    sliding = model.sliding is not None
    seconds = parse_span(model.sliding if sliding else model.fixed)
    if sliding and seconds < 60:
        raise InvalidInput("a sliding window is at least 60 s long")
    return Window(seconds, sliding)


def _amount(value: Any, what: str) -> int:
    counted = millionths(value)
    if not counted or counted > _MOST or millionths(float(show_millionths(counted))) != counted or float(show_millionths(counted)) != value:
        raise InvalidInput(f"{what} must be a number above 0 and up to 1000000000, with at most six decimals, found {show(value)}")
    return counted


def _hours(model: HoursModel) -> Hours:
    return parse_hours({name: value for name, value in model.model_dump(by_alias=True, exclude={"tools"}).items() if value is not None})


def _moment(text: str) -> int:
    """The second at which a day begins in UTC, or of a time with its zone."""
    try:
        if len(text) == 10:
            day = date.fromisoformat(text)
            return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
        given = datetime.fromisoformat(text)
        moment = None if given.tzinfo is None else given.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter for a time that is of year 0 or 10000 in UTC
        moment = None
    if moment is None:
        raise InvalidInput(f"{text!r:.40} is no date", hint='write "2026-12-31" (its first moment, UTC), or a time with its zone')
    return int(moment.timestamp())
