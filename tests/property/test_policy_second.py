"""Standing rules judged twice: by the product, and by `second.standing`, a plain reading of docs/policy.md. Verdict and code must be equal.

The last part plants holes in the product and wants the comparison to find each.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from typing import Any

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis.errors import HypothesisException

from agentguard.analysis.history import History
from agentguard.canonical import freeze
from agentguard.decision import Code, Reason
from agentguard.errors import InvalidInput
from agentguard.policy import Policy, load
from second.standing import Call, judge
from second.standing_strategies import worlds
from second.written_out import Document

World = tuple[Document, list[Call], Call, bool | None]
#: What a place of a refusal must lie in.
BLOCKS = {
    "agent_unknown": {"agents"},
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
    asked = standing.approval(bound, usage.counters) if reason is None else None
    if reason is None and asked is not None and answer is not True:
        reason = asked.reason(call.tool) if answer is None else Reason(Code.APPROVAL_DENIED, call.tool, asked.words(), "denied", asked.place)
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


def agree(world: World, seen: Counter[str] | None = None) -> None:
    document, history, call, answer = world
    policy = loaded(document)
    if policy is None:
        if seen is not None:
            seen["not loaded"] += 1
        return
    reason = first(policy, history, call, answer)
    assert said(reason) == judge(document, history, call, answer)
    if seen is not None:
        seen[str(said(reason)[1])] += 1
    if reason is not None:
        name, _, line = str(reason.place).rpartition(":")
        assert name == "<policy>"
        assert blocks(json.dumps(document, indent=1) + "\n")[int(line)] & BLOCKS[str(reason.code)], reason


@given(worlds())
def test_both_say_the_same(world: World) -> None:
    agree(world)
