"""Sequence rules that must not be taken for one another (policy/sequences.py)."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from agentguard.policy.approval import ApprovalRule
from agentguard.policy.sequences import SequenceRule, Watch, watch

CAROL = ApprovalRule(("user:carol",), 1, 3600, False, "p:1:1")


def rule(kind: Any, subjects: str, objects: str = "", agent: str | None = "clerk", limit: int = 2) -> SequenceRule:
    ask = CAROL if kind == "only_after_approval" else None
    return SequenceRule(kind, tuple(subjects.split()), tuple(objects.split()), limit, agent, f"p:{kind}", ask)


def watched(tool: str, *rules: SequenceRule, agent: str = "clerk") -> Watch:
    found = watch(agent, tool, rules)
    assert found is not None
    return found


def test_rules_that_count_different_things_have_counters_of_their_own() -> None:
    """An approval for one tool, or a check of one account, must not do for another."""
    different = [
        rule("before", "check", "pay"),
        rule("before", "look", "pay"),
        rule("never_after", "mail", "secret"),
        rule("never_after", "mail", "key"),
        rule("at_most", "mail"),
        rule("at_most", "post"),
        rule("at_most", "mail post"),
        rule("only_after_approval", "wipe"),
        rule("only_after_approval", "pay"),
        rule("only_after_approval", "wipe", agent=None),
        rule("only_after_approval", "wipe", agent="helper"),
    ]
    for one, other in combinations(different, 2):
        assert one.counter() != other.counter(), (one, other)


def test_rules_that_count_the_same_share_a_counter() -> None:
    assert rule("before", "check", "pay").counter() == rule("before", "check", "mail").counter()
    assert rule("never_after", "mail", "secret").counter() == rule("never_after", "post", "secret").counter()
    assert rule("at_most", "secret").counter() == rule("never_after", "post", "secret").counter()


@pytest.mark.parametrize("kind", ["before", "never_after", "at_most", "only_after_approval"])
def test_each_kind_does_its_own_and_nothing_else(kind: str) -> None:
    made = rule(kind, "one", "" if kind in ("at_most", "only_after_approval") else "two")
    key = made.counter()

    def shape(tool: str) -> tuple[list[tuple[int, int]], list[str], list[str], list[str]] | None:
        found = watch("clerk", tool, [made])
        if found is None:
            return None
        return [(need.low, need.high) for need in found.needs], [charge.key for charge in found.charges], [*found.earned], [*found.approved]

    expected: dict[str, Any] = {
        "before": (([], [], [key], []), ([(1, 2**53)], [], [], [])),
        "never_after": (([(0, 0)], [], [], []), ([], [key], [], [])),
        "at_most": (([(0, 1)], [key], [], []), None),
        "only_after_approval": (([], [], [], [key]), None),
    }
    assert (shape("one"), shape("two"), shape("three")) == (*expected[kind], None)


def test_a_rule_of_everybody_holds_for_everybody_and_a_rule_of_one_for_one() -> None:
    everybody, own = rule("at_most", "mail", agent=None), rule("at_most", "mail", agent="clerk")
    assert len(watched("mail", everybody, own).checks) == 2
    assert [check.rule for check in watched("mail", everybody, own, agent="helper").checks] == [everybody]
    assert watch("clerkx", "mail", [own]) is watch("a", "mail", [own]) is None


@pytest.mark.parametrize(("count", "words"), [(0, ""), (1, "1 call of b before"), (2, "2 calls of b before"), (-1, "-1 calls of b before")])
def test_the_count_is_said_as_people_say_it_and_a_broken_one_denies(count: int, words: str) -> None:
    never = rule("never_after", "a", "b")
    reason = watched("a", never).judge("a", {never.counter(): count})
    assert (reason is None) == (count == 0)
    assert reason is None or reason.found == words


@pytest.mark.parametrize("count", [-1, 0, 1, 2, 100])
def test_the_first_calls_of_a_task_ask_until_one_approval_was_used(count: int) -> None:
    wipe = rule("only_after_approval", "wipe")
    assert watched("wipe", wipe).asks({wipe.counter(): count}) == ([CAROL] if count < 1 else [])
