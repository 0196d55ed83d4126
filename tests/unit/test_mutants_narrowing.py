"""What the comparison of two constraints costs, and what it answers once that is too much (constraints/narrowing.py).

A hostile chain brings large constraints: the meter must count what is really done, and what is cut off must not count as narrower.
"""

from __future__ import annotations

import pytest

from agentguard.constraints import narrowing
from agentguard.constraints.addresses import Url
from agentguard.constraints.matchers import Glob, Length, Path, Regex, TypeIs
from agentguard.constraints.narrowing import is_empty, narrows
from agentguard.constraints.vocabulary import AllOf, AnyOf, Constraint, Contains, Exact, NotOneOf, OneOf, Range, Subset

LETTERS = OneOf(("a", "b", "c"))
WORDS = AllOf((Regex("[a-z]+"), Glob("*"), TypeIs("string")))
TWICE = AllOf((Regex("[a-z]+"), Length(max=9)))
#: child, parent, steps. One for each pair of constraints that is looked at and one for each constraint whose values are asked for, then
#: values times clauses where values are tried one by one, and the length of what is compared as text or as a list.
COSTS: dict[str, tuple[Constraint, Constraint, int]] = {
    "two leaves": (Path("/srv/a"), Path("/srv"), 1 + 2),
    "two leaves under one": (AnyOf((Path("/srv/a"), Path("/srv/b"))), Path("/srv"), 1 + (1 + 1) + 1 + 1 + (1 + 1)),
    "two patterns, by their length": (Glob("abcde"), Glob("a*e"), 1 + 2 + (5 + 3)),
    "two URLs, by their hosts and ports": (
        Url(("a.example.com", "b.example.com", "c.example.com"), ports=(1, 2, 3, 4, 5)),
        Url(("*.example.com",), ports=(1, 2, 3, 4, 5)),
        1 + 2 + (3 + 5) + (1 + 5),
    ),
    "long lists, a step for 16 items": (Subset(tuple(range(245))), Contains(()), 1 + 2 + 15),
    "values under clauses": (LETTERS, AnyOf((Range(), TypeIs("string"), Glob("*"))), 1 + 1 + 3 * (1 + 3)),
    "clauses under excluded values": (WORDS, NotOneOf(("A", "B", "C")), 1 + (1 + 3) + 1 + 3 * (1 + 3)),
    "values that clauses leave": (AllOf((LETTERS, Regex("[a-z]"), Glob("?"))), Glob("*"), 1 + (1 + 3 + 3 * (1 + 3)) + 3),
    "alternatives of values": (AnyOf((Exact("a"), OneOf(("b", "c")))), Glob("*"), 1 + (1 + 2 + 3) + 3),
    "one pair met three times": (AnyOf((TWICE, TWICE, TWICE)), Regex("[a-z]+"), 1 + (1 + 1 + 2) + 1 + 1 + 1),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_comparison_counts_its_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    child, parent, steps = COSTS[name]
    monkeypatch.setattr(narrowing, "MAX_WORK", steps)
    assert narrows(child, parent)
    monkeypatch.setattr(narrowing, "MAX_WORK", steps - 1)
    assert not narrows(child, parent)


def test_the_bound_is_where_it_is_said_to_be() -> None:
    values = OneOf(tuple(f"v{index}" for index in range(122)))
    fits = AnyOf((TypeIs("string"), *[Range(min=index) for index in range(2457)]))
    assert narrows(values, fits)  # 2 + 122 * (1 + 2458) = 300,000 steps
    values = OneOf(tuple(f"v{index}" for index in range(119)))
    too_many = AnyOf((TypeIs("string"), *[Range(min=index) for index in range(2519)]))
    assert not narrows(values, too_many)  # 2 + 119 * (1 + 2520) = 300,001 steps


def test_what_is_too_large_to_compare_narrows_its_equal_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrowing, "MAX_WORK", 0)
    assert narrows(Path("/srv"), Path("/srv"))
    assert not narrows(Path("/srv/a"), Path("/srv"))
    assert not narrows(Path("/srv"), Path("/srv/a"))
    assert not narrows(Exact(1), Range())


def test_what_is_too_large_to_see_through_is_not_taken_for_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = AllOf((LETTERS, Regex("[A-Z]"), Glob("?")))
    monkeypatch.setattr(narrowing, "MAX_WORK", 1 + 3 + 3 * (1 + 3))
    assert is_empty(nothing)
    monkeypatch.setattr(narrowing, "MAX_WORK", 1 + 3 + 3 * (1 + 3) - 1)
    assert not is_empty(nothing)


@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_is_not_one_of_them(value: bool) -> None:
    """A delegate that may say either must not stand under a parent that may say one."""
    assert not narrows(TypeIs("boolean"), Exact(value))
    assert narrows(TypeIs("boolean"), OneOf((True, False)))


@pytest.mark.parametrize("child", [TypeIs("object"), TypeIs("array"), Glob("*"), Regex("[0-9]+"), Contains((1,)), Length(max=3)])
def test_what_is_no_number_stands_under_no_range(child: Constraint) -> None:
    assert not narrows(child, Range())


@pytest.mark.parametrize(
    ("parent", "verdict"), [(Range(), True), (Range(min=5), False), (Range(max=5), False), (Range(min=-5, max=5), False)]
)
def test_any_integer_stands_under_an_open_range_only(parent: Range, verdict: bool) -> None:
    assert narrows(TypeIs("integer"), parent) is verdict


@pytest.mark.parametrize(("parent", "verdict"), [(Length(min=0), True), (Length(min=1), False), (Length(max=80), False)])
def test_a_pattern_stands_under_no_real_length(parent: Length, verdict: bool) -> None:
    assert narrows(Regex("[a-z]*"), parent) is verdict
