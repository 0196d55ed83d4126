"""Conditions as z3 sees them against brute force: every combination of a few values for each argument, judged by the second evaluator.

What is called impossible must be so for every combination, and what is found must be right. Where nothing in a question is translated
loosely, nothing may stay unknown.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentguard.canonical import freeze, thaw
from agentguard.constraints.rules import parse_rule
from agentguard.constraints.tokens import ToolMap
from agentguard.errors import InvalidInput
from agentguard.policy.conditions import Condition, parse_condition
from support.condition_reference import holds

pytest.importorskip("z3", reason="z3 belongs to the prove extra")

from agentguard.analysis.calls import Demand, arguments
from agentguard.analysis.formulas import Nothing, Unknown
from agentguard.analysis.search import Search

ABSENT = object()
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, -1, 0.5, 1.5, 2.0, 1e23, "", "a", "b", "ab", "ba", "aa", "ü", "éb"),
    *([], ["a"], ["a", "b"], [1], ["a", "a"], [[]], {}, {"x": 1}, {"x": "a"}, {"x": 0.5, "y": 2}, {"x": {"z": 1}}, {"y": ["a"]}),
]
FEW: list[Any] = [None, True, 0, 1, 2, -1, 0.5, 1.5, "", "a", "ab", "ü", [], ["a"], ["a", "b"], {"x": 1}, {"x": "a", "y": 2}]
RULES: list[Any] = [
    "any",
    {"range": {"min": 0}},
    {"range": {"min": 0, "max": 2}},
    {"range": {"max": 1.5, "max_inclusive": False}},
    {"type": "integer"},
    {"one_of": [0, 1, "a", None]},
    {"one_of": ["a", "ab", "ba"]},
    {"not_one_of": [1, "a", []]},
    {"regex": "[ab]{0,2}"},
    {"regex": "."},
    {"max_length": 1},
    {"type": "boolean"},
    {"type": "array"},
    {"type": "object"},
    {"contains": ["a"]},
    {"subset": ["a", "b"]},
    {"any": [{"exact": True}, {"exact": 2}]},
    {"one_of": [["a"], [1]]},
]
rules = st.tuples(st.sampled_from(RULES), st.booleans()).map(
    lambda of: of[0] if not of[1] else {"optional": True, **(of[0] if of[0] != "any" else {"wildcard": True})}
)
NUMBERS = ["0", "1", "2", "0.5", "1.5", "3"]
names = st.sampled_from(["a", "b", "a.x", "b.y"])
numbers = st.recursive(
    st.one_of(names, names.map("len({})".format), st.sampled_from(NUMBERS)),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" + ", " - ", " * "]), inner).map("".join).map("({})".format), inner.map("-{}".format)
    ),
    max_leaves=3,
)
constants = st.sampled_from([*NUMBERS, '"a"', '"ab"', '""', '"\\u00fc"', "true", "false", "null"])
simple = st.one_of(
    st.tuples(numbers, st.sampled_from([" < ", " <= ", " > ", " >= ", " == ", " != "]), numbers).map("".join),
    st.tuples(names, st.sampled_from([" == ", " != "]), names | constants | st.sampled_from(["[]", '["a"]', '["a", "b"]'])).map("".join),
    st.tuples(names | numbers | constants, st.sampled_from([" in ", " not in "]), names).map("".join),
    st.tuples(names | numbers, st.lists(constants, min_size=1, max_size=3).map(", ".join)).map("{0[0]} in [{0[1]}]".format),
    st.tuples(st.sampled_from(["starts_with", "ends_with", "contains"]), names, names | st.sampled_from(['"a"', '"b"', '""'])).map(
        "{0[0]}({0[1]}, {0[2]})".format
    ),
    names.map("has({})".format),
    names,
)
texts = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join).map("({})".format), inner.map("not ({})".format)
    ),
    max_leaves=3,
)


def read(text: str) -> Condition:
    try:
        return parse_condition(text)
    except InvalidInput:
        assume(False)
        raise


def right(admitted: ToolMap, wanted: list[tuple[Condition, bool]], given: Mapping[str, Any]) -> bool:
    plain = {name: thaw(value) for name, value in given.items()}
    return admitted.check(given) is None and all(holds(condition.text, plain) is so for condition, so in wanted)


def combinations(admitted: ToolMap, values: list[Any]) -> Any:
    frozen = [freeze(value) for value in values]
    for each in itertools.product([ABSENT, *frozen], repeat=2):
        given = {name: value for name, value in zip("ab", each, strict=True) if value is not ABSENT}
        if admitted.check(given) is None:
            yield given


def check(admitted: ToolMap, wanted: list[tuple[Condition, bool]], values: list[Any], *, guess: bool) -> Any:
    answer = arguments(admitted, {}, Search(guess=guess, seconds=20), tuple(wanted))
    if isinstance(answer, Nothing):
        wrong = [given for given in combinations(admitted, values) if right(admitted, wanted, given)]
        assert not wrong
    elif not isinstance(answer, Unknown):
        assert right(admitted, wanted, answer)
    return answer


@given(rules, rules, st.lists(st.tuples(texts, st.booleans()), min_size=1, max_size=2), st.booleans())
def test_what_is_proven_is_so_for_every_combination(first: Any, second: Any, asked: list[tuple[str, bool]], guess: bool) -> None:
    admitted = ToolMap({"a": parse_rule(first), "b": parse_rule(second)}, rest=False)
    check(admitted, [(read(text), so) for text, so in asked], VALUES, guess=guess)


small = st.integers(-3, 3)
linear = st.tuples(small, small, small, st.sampled_from(["<", "<=", ">", ">=", "==", "!="])).filter(lambda of: of[0] or of[1])


@given(st.lists(linear, min_size=1, max_size=3), st.integers(0, 2), st.integers(0, 3))
def test_sums_of_whole_numbers_leave_nothing_unknown(rows: list[Any], low: int, width: int) -> None:
    """Against a search through all of them: both arguments are whole and few."""
    values = list(range(low, low + width + 1))
    admitted = ToolMap({name: parse_rule({"one_of": values}) for name in "ab"}, rest=False)
    wanted = [(parse_condition(f"{a} * a + {b} * b {sign} {c}"), True) for a, b, c, sign in rows]
    answer = check(admitted, wanted, values, guess=False)
    assert not isinstance(answer, Unknown)
    there_is = any(right(admitted, wanted, given) for given in combinations(admitted, values))
    assert isinstance(answer, Nothing) is not there_is


@given(st.lists(st.tuples(simple, st.booleans()), min_size=1, max_size=2))
def test_what_two_values_can_do_is_found(asked: list[tuple[str, bool]]) -> None:
    """Where some combination of a few values is right, the answer is not that there is none; with guesses it is found."""
    admitted = ToolMap({name: parse_rule({"wildcard": True, "optional": True}) for name in "ab"}, rest=False)
    wanted = [(read(text), so) for text, so in asked]
    answer = check(admitted, wanted, FEW, guess=True)
    if any(right(admitted, wanted, given) for given in combinations(admitted, FEW)):
        assert not isinstance(answer, Nothing)


@given(texts)
def test_a_condition_holds_or_does_not(text: str) -> None:
    """Never both for the same arguments, and demands of single arguments count."""
    condition = read(text)
    admitted = ToolMap({name: parse_rule({"wildcard": True, "optional": True}) for name in "ab"}, rest=False)
    assert isinstance(arguments(admitted, {}, Search(), ((condition, True), (condition, False))), Nothing)
    demand = Demand(parse_rule({"one_of": ["a", 1]}).constraint)
    answer = arguments(admitted, {"a": demand}, Search(), ((condition, True),))
    if not isinstance(answer, Nothing | Unknown):
        assert answer["a"] in ("a", 1)
