"""Standing rules judged twice: by the product, and by `second.standing`, a plain reading of docs/policy.md. Verdict and code must be equal.

The last part plants holes in the product and wants the comparison to find each.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import Phase, given, settings

from agentguard.admission import Charge
from agentguard.analysis.history import History
from agentguard.budgets import Budget
from agentguard.canonical import freeze
from agentguard.conditions import Condition
from agentguard.decision import Code, Reason
from agentguard.errors import InvalidInput
from agentguard.hours import Hours
from agentguard.policy import Policy, ToolRule, load
from agentguard.policy_approval import ApprovalRule
from agentguard.sequences import Watch
from agentguard.standing import Standing
from second.standing import Call, judge
from second.standing_strategies import RESTRICTING, crowded, worlds
from second.written_out import Document

World = tuple[Document, list[Call], Call, bool | None]
#: What a place of a refusal must lie in.
BLOCKS = {
    "tool_not_allowed": {"agents", "groups", "forbid", "tools"},
    "argument_not_allowed": {"agents", "groups", "tools"},
    "sequence_violation": {"sequence"},
    "approval_required": {"approval", "sequence"},
    "approval_denied": {"approval", "sequence"},
    "budget_exhausted": {"budgets"},
}


def loaded(document: Document) -> Policy | None:
    try:
        return load(json.dumps(document, indent=1) + "\n")
    except InvalidInput:
        return None


def first(policy: Policy, history: list[Call], call: Call, answer: bool | None) -> Reason | None:
    """The product's answer, its stages in the order of `analysis.cases`; None allows."""
    past = History(policy)
    for earlier in history:
        past.add(earlier.agent, earlier.tool, freeze(earlier.arguments), earlier.time, ok=earlier.succeeded, approved=earlier.approved)
    bound = freeze(call.arguments)
    reason = policy.judge(call.agent, call.tool, bound)
    if reason is not None:
        return reason
    standing = policy.standing(call.agent, call.tool)
    assert standing is not None
    usage = past.usage(call.agent, call.tool)
    reason = standing.judge(call.tool, call.time, usage.counters)
    asked = standing.approval((bound,), usage.counters) if reason is None else None
    if reason is None and asked is not None and answer is not True:
        reason = (
            asked.reason(call.tool) if answer is None else Reason(Code.APPROVAL_DENIED, call.tool, asked.words(), "denied", asked.place)
        )
    return reason if reason is not None else past.add(call.agent, call.tool, bound, call.time)


def said(reason: Reason | None) -> tuple[str, str | None]:
    if reason is None:
        return "allow", None
    return ("ask" if reason.code is Code.APPROVAL_REQUIRED else "deny"), str(reason.code)


@functools.cache
def blocks(text: str) -> dict[int, set[str]]:
    """For each line of a policy's text the keys that it lies under."""
    found: dict[int, set[str]] = {}

    def walk(node: yaml.Node, under: frozenset[str]) -> None:
        found.setdefault(node.start_mark.line + 1, set()).update(under)
        for item in node.value if not isinstance(node, yaml.ScalarNode) else ():
            if isinstance(item, tuple):
                key, value = item
                walk(key, under | {key.value})
                walk(value, under | {key.value})
            else:
                walk(item, under)

    walk(yaml.compose(text), frozenset())
    return found


def agree(world: World) -> None:
    document, history, call, answer = world
    policy = loaded(document)
    if policy is None:
        return
    reason = first(policy, history, call, answer)
    assert said(reason) == judge(document, history, call, answer)
    if reason is not None and reason.code is not Code.AGENT_UNKNOWN:  # nothing stands anywhere about an unknown agent
        name, _, line = str(reason.place).rpartition(":")
        assert name == "<policy>"
        assert blocks(json.dumps(document, indent=1) + "\n")[int(line)] & BLOCKS[str(reason.code)], reason


@given(worlds())
def test_both_say_the_same(world: World) -> None:
    agree(world)


@pytest.mark.parametrize("only", sorted(RESTRICTING))
def test_both_say_the_same_of_one_kind_of_rules(only: str) -> None:
    given(worlds(only))(agree)()


# --- planted holes: each must be found ------------------------------------------------------------------------------------------------


def not_judged(kind: str, when: Callable[[Any, int], bool] = lambda need, count: True) -> Callable[..., Any]:
    """`Watch.judge` that passes over one kind of sequence rules, where `when` says so of what was needed and what was counted."""

    def judge(self: Watch, tool: str, counters: Mapping[str, int]) -> Reason | None:
        spared = lambda check: check.rule.kind == kind and when(check.need, counters.get(check.need.key, 0))  # noqa: E731
        return JUDGE(dataclasses.replace(self, checks=tuple(check for check in self.checks if not spared(check))), tool, counters)

    return judge


def uncharged(self: Budget, agent: str, initiator: str, bound: Any, now: int) -> Any:
    charge = CHARGE(self, agent, initiator, bound, now)
    return charge if isinstance(charge, Reason) or self.cost is None else Charge(charge.key, charge.limit, charge.name, 0)


def clerks(self: History, agent: str, *rest: Any, **how: Any) -> Any:
    return ADD(self, "clerk", *rest, **how)


def forgiving(self: Condition, arguments: Mapping[str, Any]) -> str | None:
    found = FAILURE(self, arguments)
    return None if found is not None and "not a number" in found else found


OPEN, UTC = Hours.open, ZoneInfo("UTC")
JUDGE, CHARGE, ADD, ASKS, FAILURE = Watch.judge, Budget.charge, History.add, ApprovalRule.asks, Condition.failure
AT_MOST = crowded("sequence", {"at_most": 2})
SLIDING = crowded("budgets", {"calls": 2, "per": "task", "window": {"sliding": "60s"}})
HOLES: dict[str, tuple[Any, type, str, Any]] = {
    "at_most allows one more": (
        AT_MOST,
        Watch,
        "judge",
        not_judged("at_most", lambda need, count: count == need.high + 1),
    ),
    "never_after is ignored": ("sequence", Watch, "judge", not_judged("never_after")),
    "before is ignored": ("sequence", Watch, "judge", not_judged("before")),
    "before counts failures": ("sequence", History, "add", lambda self, *rest, **how: ADD(self, *rest, **(how | {"ok": True}))),
    "only_after_approval is ignored": ("sequence", Watch, "asks", lambda self, counters: []),
    "what another agent did is an agent's own": ("sequence", History, "add", clerks),
    "where is ignored": ("where", ToolRule, "unmet", lambda self, bound: iter(())),
    "a condition's error is a yes": ("where", Condition, "failure", forgiving),
    "hours are ignored": ("hours", Hours, "open", lambda self, now: True),
    "hours are those of UTC": ("hours", Hours, "open", lambda self, now: OPEN(dataclasses.replace(self, _rules=UTC), now)),
    "a cost is not counted": ("budgets", Budget, "charge", uncharged),
    "a sliding window is a fixed one": (
        SLIDING,
        History,
        "_prior",
        lambda self, charge: 0,
    ),
    "when is turned round": ("approval", ApprovalRule, "asks", lambda self, bound: not ASKS(self, bound)),
    "nobody is asked": ("approval", Standing, "approval", lambda self, bound, counters: None),
}


@pytest.mark.parametrize("hole", HOLES)
def test_a_planted_hole_is_found(hole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only, owner, name, planted = HOLES[hole]
    monkeypatch.setattr(owner, name, planted)
    search = settings(max_examples=400, derandomize=True, database=None, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        search(given(worlds(only) if isinstance(only, str) else only)(agree))()
