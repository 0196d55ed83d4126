"""Conditions for any text and any arguments: one canonical text, total, and as a second evaluator judges them."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentguard.canonical import freeze
from agentguard.errors import InvalidInput
from agentguard.policy.conditions import Condition, parse_condition
from support.condition_reference import holds

NAMES = ["a", "b", "c", "o.x", "o.y.z", 'arg("x-y")', 'arg("o", "x y")', 'arg("len")']
NUMBERS = ["0", "1", "2", "0.1", "0.3", "1.50", "1e2", "1e308", "5e-324", "9007199254740992"]
STRINGS = ['""', '"a"', '"ab"', '"\\u00fc"', '"\\ud83d\\ude00"']

names = st.sampled_from(NAMES)
texts = names | st.sampled_from(STRINGS)
constants = st.sampled_from([*NUMBERS, *STRINGS, "true", "false", "null", "-1"])
sizes = names.map("len({})".format)


def _terms(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from([" + ", "-", " * "]), inner).map("".join),
        inner.map("({})".format),
        inner.map("-{}".format),
    )


def _tests(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join), inner.map("({})".format), inner.map("not {}".format)
    )


terms = st.recursive(names | sizes | st.sampled_from(NUMBERS), _terms, max_leaves=5)
comparisons = st.tuples(terms, st.sampled_from(["<", " <= ", ">", " >=\n", " == ", " != "]), terms).map("".join)
equalities = st.tuples(names, st.sampled_from([" == ", " != "]), names | constants | sizes).map("".join)
lists = st.lists(constants, min_size=1, max_size=4).map(lambda items: f"[{', '.join(items)}]")
memberships = st.tuples(names | sizes | constants, st.sampled_from([" in ", " not in "]), lists | names).map("".join)
functions = st.tuples(st.sampled_from(["starts_with", "ends_with", "contains"]), texts, texts).map("{0[0]}({0[1]}, {0[2]})".format)
simple = st.one_of(comparisons, equalities, memberships, functions, names.map("has({})".format), names)
conditions = st.recursive(simple, _tests, max_leaves=5)

numbers = st.sampled_from(
    [0, 1, 2, -1, 3, 100, 0.1, 0.2, 0.3, 1.5, -0.0, 2.0, 1e23, 10**23, 1e308, 5e-324, 2**53 + 1, 10**400, math.nan, math.inf]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.integers(),
    st.floats(),
    st.sampled_from(["", "a", "ab", "ba", "ü", "😀", "\ud800"]),
    st.text(max_size=3),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y", "z", "x y"]), inner, max_size=3),
    max_leaves=6,
)
objects = st.fixed_dictionaries({}, optional={"x": scalars, "y": values | st.fixed_dictionaries({"z": scalars}), "x y": scalars})
likely = st.fixed_dictionaries(
    {}, optional={"a": values, "b": values, "c": scalars, "o": values | objects, "x-y": scalars, "len": scalars | values}
)
plain_numbers = st.fixed_dictionaries(
    {"a": numbers, "b": st.integers(-9, 9), "c": st.floats(-2, 2), "x-y": numbers, "o": st.just({"x": 0.1, "y": {"z": 3}})}
)


def read(text: str) -> Condition | None:
    """The condition, or None where the text is one that is refused for what it says."""
    try:
        return parse_condition(text)
    except InvalidInput:
        return None


@given(conditions)
def test_the_canonical_text_is_a_fixpoint(text: str) -> None:
    condition = read(text)
    if condition is not None:
        again = parse_condition(condition.text)
        assert again == condition
        assert (again.text, again.names, again.tree) == (condition.text, condition.names, condition.tree)
        assert condition.text.isascii()
        assert condition.text.isprintable()


@given(conditions, likely | plain_numbers)
def test_it_holds_where_the_reference_says_so(text: str, arguments: dict[str, Any]) -> None:
    condition = read(text)
    if condition is not None:
        assert (condition.failure(arguments) is None) == holds(text, arguments)
        assert (condition.failure(arguments) is None) == holds(condition.text, arguments)


@given(comparisons, plain_numbers)
def test_numbers_are_exact(text: str, arguments: dict[str, Any]) -> None:
    condition = read(text)
    if condition is not None:
        assert (condition.failure(arguments) is None) == holds(text, arguments)


@given(conditions, likely)
def test_a_failure_is_a_short_text_and_frozen_arguments_are_judged_alike(text: str, arguments: dict[str, Any]) -> None:
    condition = read(text)
    if condition is None:
        return
    found = condition.failure(arguments)
    assert found is None or 0 < len(found) <= 160
    try:
        frozen = freeze(arguments)
    except InvalidInput:
        return
    assert condition.failure(frozen) == found


@given(st.text(alphabet='ab.,()[]"\\ \n<=!>+-*0123e_andornthslu', max_size=40) | st.text(max_size=20))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    condition = read(text)  # anything but InvalidInput would come through
    assert condition is None or parse_condition(condition.text) == condition


@given(st.text(max_size=30))
def test_any_string_and_any_name_can_be_written(text: str) -> None:
    written = json.dumps(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        assert read(f"a == {written}") is None
        return
    assert parse_condition(f"a == {written}").failure({"a": text}) is None
    assert parse_condition(f"arg({written}) == 1").failure({text: 1}) is None
    assert parse_condition(parse_condition(f"arg({written}, {written}) == 1").text).failure({text: {text: 1}}) is None
