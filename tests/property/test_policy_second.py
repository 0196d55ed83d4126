"""Standing rules judged twice: by the product, and by `second.standing`, a plain reading of docs/policy.md. Verdict and code must be equal.

The product is asked by two ways: its policy layer by itself, and `decide` with a verified artifact that grants every tool. The last part
plants holes in the product and wants the comparison to find each.
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
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from agentguard import decide
from agentguard.admission import Charge
from agentguard.analysis.history import History
from agentguard.artifacts.chain import Limits
from agentguard.artifacts.revocation import Revocations
from agentguard.call import ToolCall
from agentguard.canonical import freeze
from agentguard.decision import Code, Reason, Stage
from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.approval import ApprovalRule
from agentguard.policy.budgets import Budget
from agentguard.policy.conditions import Condition
from agentguard.policy.forbid import Forbid
from agentguard.policy.hours import Hours
from agentguard.policy.model import Policy, ToolRule
from agentguard.policy.sequences import Watch
from agentguard.policy.standing import Standing
from agentguard.premises import Answer, Binding, Facts, Grant
from second.standing import Call, judge
from second.standing_strategies import RESTRICTING, TOOLS, crowded, trials, worlds
from second.written_out import Document
from support.artifacts import mint, profile, verified

World = tuple[Document, list[Call], Call, bool | None]
Said = tuple[tuple[str, str | None], Reason | None]
EVERYTHING = {tool: {name: {"constraint_type": "wildcard", "optional": True} for name in ("amount", "to", "fee", "more")} for tool in TOOLS}
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


def past_of(policy: Policy, history: list[Call]) -> History:
    past = History(policy)
    for earlier in history:
        past.add(earlier.agent, earlier.tool, freeze(earlier.arguments), earlier.time, ok=earlier.succeeded, approved=earlier.approved)
    return past


def by_decide(policy: Policy, history: list[Call], call: Call, answer: bool | None) -> Said:
    """What `decide` says with an artifact for everything, and then what the budgets do, which admission asks."""
    past, bound = past_of(policy, history), freeze(call.arguments)
    token = mint(EVERYTHING, profile=profile(call.agent, policy=policy.digest), now=call.time)
    grant = Grant(True, verified(token), None, (call.agent,), possessed=True)
    heard = Answer("r-1", answer, ("user:carol",)) if answer is not None else None
    usage, facts = past.usage(call.agent, call.tool, heard), Facts({}, Revocations(), Limits())
    asked = ToolCall(call.agent, call.tool, bound)
    decision = decide.decide(asked, Binding(asked.arguments), grant, policy, facts, call.time, usage)
    full = past.add(call.agent, call.tool, bound, call.time) if decision.runs else None
    if full is not None:
        return said(full), full
    reason = decision.reasons[0] if decision.reasons else None
    assert (reason.code if reason is not None else None) == decision.code
    return (said(reason) if decision.enforced else ("recorded", str(decision.code))), reason


def by_policy(policy: Policy, history: list[Call], call: Call, answer: bool | None) -> Said:
    reason = first(policy, history, call, answer)
    return said(reason), reason


def first(policy: Policy, history: list[Call], call: Call, answer: bool | None) -> Reason | None:
    """The product's answer, its stages in the order of `analysis.cases`; None allows."""
    past = past_of(policy, history)
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


def compare(product: Callable[..., Said], world: World) -> None:
    document, history, call, answer = world
    policy = loaded(document)
    if policy is None:
        return
    words, reason = product(policy, history, call, answer)
    assert words == judge(document, history, call, answer)
    if reason is not None and reason.code is not Code.AGENT_UNKNOWN:  # nothing stands anywhere about an unknown agent
        name, _, line = str(reason.place).rpartition(":")
        assert name == "<policy>"
        assert blocks(json.dumps(document, indent=1) + "\n")[int(line)] & BLOCKS[str(reason.code)], reason


def agree(world: World) -> None:
    compare(by_policy, world)


def decided(world: World) -> None:
    compare(by_decide, world)


@given(worlds())
def test_both_say_the_same(world: World) -> None:
    agree(world)


@given(st.one_of(worlds(), trials()))
def test_decide_says_the_same(world: World) -> None:
    decided(world)


@pytest.mark.parametrize("only", sorted(RESTRICTING))
def test_decide_says_the_same_of_one_kind_of_rules(only: str) -> None:
    settings(max_examples=40)(given(worlds(only))(decided))()


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


SEED = 1
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
        lambda self, first, last: 0,
    ),
    "when is turned round": ("approval", ApprovalRule, "asks", lambda self, bound: not ASKS(self, bound)),
    "nobody is asked": ("approval", Standing, "approval", lambda self, bound, counters: None),
}


def search(drawn: st.SearchStrategy[World], judged: Callable[[World], None]) -> None:
    """The same examples on every run, however this file is changed, until one fails."""
    how = settings(max_examples=2000, database=None, phases=[Phase.generate], report_multiple_bugs=False)
    seed(SEED)(how(given(drawn)(judged)))()


@pytest.mark.parametrize("hole", HOLES)
def test_a_planted_hole_is_found(hole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only, owner, name, planted = HOLES[hole]
    monkeypatch.setattr(owner, name, planted)
    with pytest.raises(AssertionError):
        search(worlds(only) if isinstance(only, str) else only, agree)


STAGES, ANSWERED = decide._STAGES, decide._answered
#: Faults of `decide` itself, and of the forbid rules that it asks about their shadow.
DECIDING: dict[str, tuple[Any, Any, str, Any]] = {
    "no forbid rule is enforced": (trials(), Policy, "lifts", lambda self, agent, tool, now: self.forbid.first(agent, tool) is not None),
    "a shadow never ends": (trials(), Forbid, "shadowed", lambda self, now: self.until is not None),
    "a shadow holds one second too long": (trials(), Forbid, "shadowed", lambda self, now: self.until is not None and now <= self.until),
    "a shadow covers what another rule forbids": (trials(), Forbid, "rank", property(lambda self: self.order)),
    "a shadow covers what anything else refuses": (trials(), decide, "_beside", lambda case: None),
    "no shadow is known": (trials(), Policy, "lifts", lambda self, agent, tool, now: False),
    "stage 10 is left out": ("where", decide, "_STAGES", tuple(each for each in STAGES if each[0] != Stage.POLICY)),
    "stage 12 is left out": ("approval", decide, "_STAGES", tuple(each for each in STAGES if each[0] != Stage.APPROVAL)),
    "a denial is an approval": (
        "approval",
        decide,
        "_answered",
        lambda case, rule: ANSWERED(case, rule) if not case.usage.answer else None,
    ),
    "hours and sequences are left out": ("hours", Standing, "judge", lambda self, tool, now, counters: None),
}


@pytest.mark.parametrize("hole", DECIDING)
def test_a_planted_hole_of_decide_is_found(hole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, owner, name, planted = DECIDING[hole]
    monkeypatch.setattr(owner, name, planted)
    with pytest.raises(AssertionError):
        search(worlds(drawn) if isinstance(drawn, str) else drawn, decided)
