"""Forbid rules: the index finds what trying every rule finds, and a shadow ends when it says (policy/forbid.py)."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import pytest

from agentguard.policy.forbid import Forbid, ForbidIndex

GLOBS = [glob for length in (1, 2, 3) for glob in map("".join, product("ab*?", repeat=length)) if "**" not in glob]
TOOLS = [name for length in (1, 2, 3, 4) for name in map("".join, product("ab", repeat=length))]


@pytest.mark.parametrize("agent", [None, "clerk", "cl*"])
def test_the_index_finds_what_a_rule_forbids_and_nothing_else(agent: str | None) -> None:
    """Every glob of up to three signs on every name of up to four: a name that slips by is a tool that may be called."""
    for glob in GLOBS:
        rule = Forbid(glob, agent, "", "p")
        index = ForbidIndex([rule])
        for tool in TOOLS:
            assert (index.first("clerk", tool) is rule) == rule.covers("clerk", tool), (glob, tool)
            assert (index.first("helper", tool) is rule) == rule.covers("helper", tool), (glob, tool)


def test_all_rules_together_forbid_by_the_first_of_them() -> None:
    rules = [Forbid(glob, None, "", "p", order) for order, glob in enumerate(reversed(GLOBS))]
    index = ForbidIndex(rules)
    for tool in TOOLS:
        assert index.first("clerk", tool) is next(rule for rule in rules if rule.covers("clerk", tool))


@pytest.mark.parametrize(
    ("glob", "near", "far"),
    [
        ("send", ["send"], ["sendmail", "resend", "sen", "s", "post"]),
        ("send*", ["send", "sendmail"], ["resend", "sen", "post", "asend"]),
        ("*send", ["send", "resend", "sends"], ["sen", "end", "post"]),
        ("a*send", ["a", "asend", "apost"], ["send", "bsend", "ba"]),
        ("?send?x", ["asendbx", "send"], ["sen", "x", "post"]),
    ],
)
def test_a_name_is_held_against_the_rules_that_may_fit_and_not_against_each(glob: str, near: list[str], far: list[str]) -> None:
    """With thousands of rules a refusal, and loading, would take as long as all of them."""
    rule = Forbid(glob, None, "", "p")
    held = ForbidIndex([rule])._shared
    assert all(rule in held.candidates(tool) for tool in near)
    assert not any(list(held.candidates(tool)) for tool in far)


class Counted(str):
    """A name that counts how often a part of it is looked up."""

    looked: list[slice]

    def __getitem__(self, part: Any) -> str:
        self.looked.append(part)
        return super().__getitem__(part)


@pytest.mark.parametrize(("name", "looks"), [("abcdefghij", 8 + 6), ("abcde", 3 + 1), ("abcd", 2), ("abc", 1), ("ab", 0), ("", 0)])
def test_a_piece_is_looked_for_where_it_may_stand_and_nowhere_else(name: str, looks: int) -> None:
    """Rules about a piece in the middle of a name are what costs most: once for each place and each length of piece."""
    tool = Counted(name)
    tool.looked = []
    held = ForbidIndex([Forbid("*abc*", None, "", "p"), Forbid("*abcde*", None, "", "p", 1), Forbid("*xyz*", None, "", "p", 2)])._shared
    assert [rule.tool for rule in held.candidates(tool)] == [glob for glob in ("*abc*", "*abcde*") if glob.strip("*") in name]
    assert len(tool.looked) == looks


@pytest.mark.parametrize(("now", "shadowed"), [(98, True), (99, True), (100, False), (101, False), (0, True)])
def test_a_shadow_ends_at_its_second(now: int, shadowed: bool) -> None:
    assert Forbid("send", None, "", "p", until=100).shadowed(now) is shadowed


def test_a_rule_without_a_shadow_is_never_only_recorded() -> None:
    assert not any(Forbid("send", None, "", "p").shadowed(now) for now in (-1, 0, 2**53))


@pytest.mark.parametrize("glob", ["send", "s*", "*nd", "*e*", "*", "????"])
@pytest.mark.parametrize("agents", [(None, None, None), ("clerk", "clerk", "clerk"), ("clerk", None, "c*")])
def test_an_enforced_rule_comes_before_shadowed_ones_and_of_these_the_one_that_ends_first(
    glob: str, agents: tuple[str | None, str | None, str | None]
) -> None:
    """Otherwise a trial of one rule would lift another that forbids the same."""
    for orders in permutations(range(3)):
        late = Forbid("send", agents[0], "late", "p", orders[0], until=200)
        soon = Forbid(glob, agents[1], "soon", "p", orders[1], until=100)
        enforced = Forbid("se*", agents[2], "enforced", "p", orders[2])
        for rules in permutations((late, soon, enforced)):
            found = ForbidIndex(rules).first("clerk", "send")
            assert found is enforced
        for shadows in permutations((late, soon)):
            assert ForbidIndex(shadows).first("clerk", "send") is soon


def test_of_two_with_the_same_words_the_stricter_one_stays() -> None:
    shadow, enforced = Forbid("send", None, "", "p", 0, until=100), Forbid("send", None, "", "p", 1)
    for rules in ((shadow, enforced), (enforced, shadow)):
        assert ForbidIndex(rules).first("clerk", "send") is enforced
    first, second = Forbid("send", None, "", "p", 0), Forbid("send", None, "", "p", 1)
    for rules in ((first, second), (second, first)):
        assert ForbidIndex(rules).first("clerk", "send") is first


def test_a_shadow_that_ended_in_1970_ends_before_the_next() -> None:
    ended, next_ = Forbid("send", None, "", "p", 1, until=0), Forbid("s*", None, "", "p", 0, until=1)
    assert ForbidIndex([ended, next_]).first("clerk", "send") is ended
