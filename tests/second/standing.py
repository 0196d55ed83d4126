"""What is judged beside one argument at a time: stages 10 and 12 of the policy and its budgets, after a history of the task.

Written from docs/policy.md and docs/policy-conditions.md. It counts nothing ahead: whatever a rule asks about the past is looked up in the
whole history at each call.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from support.condition_reference import holds, shape

from .constraints import accepts, is_required
from .rules import translated
from .wall_clock import is_open
from .written_out import Document, conditions, forbidden, names, restrictions, rules_of

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MILLION = 1_000_000
ALLOW = ("allow", None)
RECORDED = ("recorded", "tool_not_allowed")  # it runs; that a forbid rule in its shadow would deny it is recorded


@dataclass(frozen=True)
class Call:
    """One call of a task. `time` in seconds. `succeeded` and `approved` tell of an earlier call what came of it."""

    agent: str
    tool: str
    arguments: dict[str, Any]
    time: int
    succeeded: bool = True
    approved: bool = False


def judge(document: Document, history: list[Call], call: Call, answer: bool | None) -> tuple[str, str | None]:
    """(verdict, code) of a call after a history. `answer`: None where nobody has answered, True granted, False denied.

    Calls of the history that their agent's budgets had no room for were never admitted, so they are no part of the past.
    """
    past: list[Call] = []
    for earlier in history:
        if rules_of(document, earlier.agent, earlier.tool) is not None and has_room(document, past, earlier):
            past.append(earlier)
    return _judge(document, past, call, answer)


def _judge(document: Document, past: list[Call], call: Call, answer: bool | None) -> tuple[str, str | None]:
    if call.agent not in document["agents"]:
        return "deny", "agent_unknown"
    rules = rules_of(document, call.agent, call.tool)
    if rules is None or forbidden(document, call.agent, call.tool, call.time):
        return "deny", "tool_not_allowed"
    if not _arguments_fit(rules, call.arguments):
        return "deny", "argument_not_allowed"
    if not all(holds(text, call.arguments) for text in conditions(document, call.agent, call.tool)):
        return "deny", "argument_not_allowed"
    if not _in_hours(document, call):
        return "deny", "tool_not_allowed"
    if any(_breaks(document, rule, calls, call) for rule, calls in _sequences(document, past, call)):
        return "deny", "sequence_violation"
    if _needs_approval(document, past, call) and answer is not True:
        return ("ask", "approval_required") if answer is None else ("deny", "approval_denied")
    if not has_room(document, past, call):
        return "deny", "budget_exhausted"
    return RECORDED if forbidden(document, call.agent, call.tool) else ALLOW


def _arguments_fit(rules: dict[str, Any], arguments: dict[str, Any]) -> bool:
    entries = {name: translated(rule) for name, rule in rules.items()}
    if not all(name in entries and accepts(entries[name], value) for name, value in arguments.items()):
        return False
    return all(name in arguments for name, constraint in entries.items() if is_required(constraint))


def _in_hours(document: Document, call: Call) -> bool:
    about = [window for window in restrictions(document, call.agent, "hours") if call.tool in window.get("tools", [call.tool])]
    return not about or any(is_open(window, call.time) for window in about)


def _sequences(document: Document, past: list[Call], call: Call) -> Iterator[tuple[dict[str, Any], list[Call]]]:
    """Every sequence rule with the calls it is about: at an agent its own, at the top those of all agents."""
    own = [earlier for earlier in past if earlier.agent == call.agent]
    for rule in restrictions(document, call.agent, "sequence"):
        yield rule, own
    for rule in document.get("sequence", []):
        yield rule, past


def _subject(rule: dict[str, Any]) -> dict[str, Any]:
    return {key: rule[key] for key in ("tool", "tag") if key in rule}


def _breaks(document: Document, rule: dict[str, Any], past: list[Call], call: Call) -> bool:
    of_subject = [earlier for earlier in past if names(document, _subject(rule), earlier.tool)]
    if "before" in rule:
        return names(document, rule["before"], call.tool) and not any(earlier.succeeded for earlier in of_subject)
    if not names(document, _subject(rule), call.tool):
        return False
    if "never_after" in rule:
        return any(names(document, rule["never_after"], earlier.tool) for earlier in past)
    if "at_most" in rule:
        return len(of_subject) >= int(rule["at_most"])
    return False


def _needs_approval(document: Document, past: list[Call], call: Call) -> bool:
    if document.get("tools", {}).get(call.tool, {}).get("approval"):
        return True
    for rule in restrictions(document, call.agent, "approval"):
        if names(document, _subject(rule), call.tool) and _asks(rule.get("when"), call.arguments):
            return True
    for rule, calls in _sequences(document, past, call):
        about = "only_after_approval" in rule and names(document, _subject(rule), call.tool)
        if about and not any(earlier.approved and names(document, _subject(rule), earlier.tool) for earlier in calls):
            return True
    return False


def _asks(when: str | None, arguments: dict[str, Any]) -> bool:
    """`when` holds, or cannot be told: with an error neither the condition nor its negation holds."""
    return when is None or holds(when, arguments) or not holds(f"not ({when})", arguments)


def has_room(document: Document, past: list[Call], call: Call) -> bool:
    """Whether all budgets of the caller have room for this call."""
    return all(_fits(document, budget, past, call) for budget in restrictions(document, call.agent, "budgets"))


def _fits(document: Document, budget: dict[str, Any], past: list[Call], call: Call) -> bool:
    """One task of one initiator: whatever `per` says, the calls of this agent are what is counted together."""
    if not names(document, _subject(budget), call.tool):
        return True
    cost = _cost(budget, call)
    if cost is None:
        return False
    counted = [earlier for earlier in past if earlier.agent == call.agent and names(document, _subject(budget), earlier.tool)]
    spent = sum(_cost(budget, earlier) or 0 for earlier in counted if _in_window(budget.get("window"), earlier.time, call.time))
    limit = budget["calls"] if "calls" in budget else Fraction(str(budget["limit"])) * MILLION
    return bool(spent + cost <= limit)


def _cost(budget: dict[str, Any], call: Call) -> int | None:
    """In millionths, rounded up; calls count one. None: what is no number from 0."""
    if "calls" in budget:
        return 1
    cost = budget["cost"]
    if isinstance(cost, dict):
        return math.ceil(Fraction(str(cost["reserve"])) * MILLION)
    kind, value = shape(call.arguments.get(cost))
    return math.ceil(value * MILLION) if kind == "number" and value >= 0 else None


def _in_window(window: dict[str, str] | None, then: int, now: int) -> bool:
    if window is None:
        return True
    ((kind, text),) = window.items()
    length = int(text[:-1]) * UNITS[text[-1]]
    if kind == "fixed":
        return then // length == now // length
    part = Fraction(length, 60)
    return then // part >= now // part - 60
