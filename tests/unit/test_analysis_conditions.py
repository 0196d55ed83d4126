"""Conditions as z3 sees them, one construct at a time: what is found, what is proven impossible, and what has to stay unknown."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.constraints.rules import parse_rule
from agentguard.constraints.tokens import ToolMap
from agentguard.policy.conditions import parse_condition

pytest.importorskip("z3", reason="z3 belongs to the prove extra")

from agentguard.analysis.calls import Demand, arguments
from agentguard.analysis.formulas import Nothing, Unknown
from agentguard.analysis.search import Search

ANY, NUMBER, SMALL = "any", {"range": {"min": 0}}, {"range": {"min": 1, "max": 10}}
SHORT = {"regex": "[ab]"}
TEXT, CHAR, LIST, OBJECT, TRUTH = {"type": "string"}, {"regex": "."}, {"type": "array"}, {"type": "object"}, {"type": "boolean"}


def optional(rule: Any) -> Any:
    return {"optional": True, **({"wildcard": True} if rule == ANY else rule)}


def solve(rules: dict[str, Any], conditions: list[str], demands: dict[str, Any], *, guess: bool, rest: bool = False) -> Any:
    """A condition that begins with `!` shall not hold."""
    admitted = ToolMap({name: parse_rule(rule) for name, rule in rules.items()}, rest)
    wanted = tuple((parse_condition(text.removeprefix("!")), not text.startswith("!")) for text in conditions)
    asked = {name: Demand(parse_rule(rule).constraint) for name, rule in demands.items()}
    answer = arguments(admitted, asked, Search(guess=guess), wanted)
    if not isinstance(answer, Nothing | Unknown):
        assert admitted.check(answer) is None
        assert all((condition.failure(answer) is None) is right for condition, right in wanted)
        assert all(demand.formula.check(answer[name]) for name, demand in asked.items())
    return answer


IMPOSSIBLE: list[tuple[dict[str, Any], list[str], dict[str, Any]]] = [
    # numbers
    ({"a": NUMBER, "q": SMALL}, ["a * q <= 1000"], {"a": {"range": {"min": 1001}}}),
    ({"a": SMALL, "b": SMALL, "c": SMALL, "d": SMALL}, ["a * b * c * d > 10000"], {}),
    ({"net": NUMBER, "rate": NUMBER, "gross": {"range": {"max": 100}}}, ["gross == net + net * rate", "net > 100"], {}),
    ({"a": ANY, "b": ANY}, ["a - b == 1", "a + b == 1", "a != 1"], {}),
    ({"a": ANY}, ["a < 5"], {"a": {"type": "string"}}),
    ({"a": ANY}, ["not (a < 5)"], {"a": {"type": "string"}}),
    ({"a": ANY}, ["-a > 0", "a > 0"], {}),
    ({"a": {"one_of": [0.1]}, "b": {"one_of": [0.2]}}, ["a + b != 0.3"], {}),
    ({"a": {"one_of": [0.1]}}, ["a * 3 > 0.3"], {}),
    ({"a": {"type": "integer"}}, ["2 * a == 1"], {}),
    # errors, and what follows them
    ({"a": optional(NUMBER)}, ["a < 5 or not has(a)"], {"a": {"range": {"min": 6}}}),
    ({"a": ANY, "b": TRUTH}, ["a < 5 or b"], {"a": TEXT}),
    ({"a": ANY, "b": TRUTH}, ["!a < 5 or b or not b"], {"a": NUMBER}),
    ({"a": ANY}, ["a", "not a"], {}),
    ({"a": ANY}, ["!a", "!not a"], {"a": TRUTH}),
    # equality
    ({"a": {"exact": "x"}, "b": {"exact": "x"}}, ["a != b"], {}),
    ({"a": {"exact": True}, "b": {"exact": False}}, ["a == b"], {}),
    ({"a": LIST, "b": OBJECT}, ["a == b"], {}),
    ({"a": {"exact": 1}, "b": {"exact": True}}, ["a == b"], {}),
    ({"a": {"regex": "[0-9]+"}, "b": {"regex": "[a-z]+"}}, ["a == b"], {}),
    ({"a": {"one_of": [["x"]]}, "b": {"one_of": [["x"]]}}, ["a != b"], {}),
    ({"a": ANY, "b": ANY}, ["a == b", "len(a) != len(b)"], {"a": LIST}),
    ({"a": ANY, "b": ANY}, ["a != b", "len(a) + len(b) == 0"], {"a": LIST, "b": LIST}),
    ({"a": {"contains": ["x"]}, "b": ANY}, ["a == b", '"x" not in b'], {}),
    ({"a": ANY}, ['a == ["x"]', 'a != ["x"]'], {}),
    ({"a": ANY}, ['a == ["x"]', "len(a) != 1"], {}),
    ({"a": ANY}, ['a in ["x", 1]', 'a != "x"', "a != 1"], {}),
    # lists
    ({"items": {"subset": ["a", "b"]}, "x": {"exact": "c"}}, ["x in items"], {}),
    ({"items": LIST}, ["len(items) < 1"], {"items": {"contains": ["a"]}}),
    ({"items": {"one_of": [["a"], ["a", "b"]]}}, ["len(items) > 2"], {}),
    ({"items": {"subset": ["a", "b"]}}, ["len(items) > 0", '"a" not in items', '"b" not in items'], {}),
    ({"items": ANY, "x": ANY}, ["x in items"], {"items": TEXT}),
    ({"items": ANY, "x": {"exact": "a"}}, ["x in items", '"a" not in items'], {}),
    ({"items": {"subset": [1, 2]}, "n": ANY}, ["n + 1 in items", "n > 1"], {}),
    ({"n": ANY}, ["n + 1 in [1, 2]", "n > 1"], {}),
    # objects
    ({"o": ANY}, ["o.x > 1", "not has(o.x)"], {}),
    ({"o": ANY}, ["has(o.x.y)", "!has(o.x)"], {}),
    ({"o": ANY}, ["has(o.x)", "has(o.y)", "len(o) < 2"], {}),
    ({"o": ANY}, ["has(o.x) or not has(o.x)"], {"o": TEXT}),
    ({"o": ANY, "n": SMALL}, ["o.total <= n", "o.total > 10"], {}),
    # texts
    ({"to": {"email": {"domains": ["b.com"]}}}, ['ends_with(to, "@a.com")'], {}),
    ({"to": {"email": {"domains": ["b.com"]}}, "d": {"one_of": ["@a.com", "@c.com"]}}, ["ends_with(to, d)"], {}),
    ({"p": {"path": "/srv/a"}}, ['not starts_with(p, "/srv")'], {}),
    ({"p": {"regex": "[a-c]*"}}, ['contains(p, "d")'], {}),
    ({"a": {"max_length": 3}, "b": {"max_length": 3}}, ["len(a) + len(b) > 6"], {}),
    ({"a": TEXT, "b": TEXT}, ["starts_with(a, b)", "len(b) > len(a)"], {}),
    ({"a": TEXT}, ['starts_with("abc", a)', '!contains("abc", a)'], {}),
    ({"a": ANY, "b": ANY}, ["not contains(a, b)"], {"b": NUMBER}),
    # what the map says
    ({"a": NUMBER}, ["b < 5"], {}),
    ({"a": NUMBER}, ["has(b)"], {}),
    ({"a": NUMBER}, ["not has(a)"], {}),
]
POSSIBLE: list[tuple[dict[str, Any], list[str], dict[str, Any]]] = [
    ({"a": NUMBER, "q": SMALL}, ["a * q <= 1000"], {"a": {"range": {"min": 999}}}),
    ({"a": SMALL, "b": SMALL, "c": SMALL, "d": SMALL}, ["a * b * c * d == 10000"], {}),
    ({"a": ANY, "b": ANY}, ["4 * a == 1", "b == a + 0.1"], {}),
    ({"a": ANY, "b": ANY}, ["a - b == 1", "a + b == 2"], {}),
    ({"a": ANY, "b": {"exact": 5}, "c": {"exact": 2}}, ["a == b - c"], {}),
    ({"a": ANY}, ["-a == 3"], {}),
    ({"a": ANY}, ["!a < 5", "!a >= 5"], {}),
    ({"a": ANY}, ["!a", "!not a"], {}),
    ({"a": ANY, "b": TRUTH}, ["!a < 5 or b", "b"], {}),
    ({"a": optional(NUMBER)}, ["not has(a) or a < 5"], {}),
    ({"a": CHAR, "b": CHAR}, ["a != b"], {}),
    ({"a": CHAR, "b": CHAR}, ["not starts_with(a, b)"], {}),
    ({"a": CHAR, "b": CHAR}, ["not ends_with(a, b)", "a != b"], {}),
    ({"a": CHAR, "b": CHAR}, ["a == b"], {}),
    ({"a": SHORT, "b": SHORT}, ["a != b"], {}),  # one class of characters, and more than one character
    ({"a": SHORT, "b": SHORT}, ["not starts_with(a, b)"], {}),
    ({"a": SHORT, "b": SHORT}, ["not contains(a, b)"], {}),
    ({"a": CHAR, "b": CHAR, "c": CHAR}, ["a != b", "b == c"], {}),
    ({"a": TEXT, "b": TEXT}, ["contains(a, b)", "len(b) == 3", "len(a) == 5"], {}),
    ({"a": {"exact": True}, "b": TRUTH}, ["a == b"], {}),
    ({"a": TRUTH, "b": TRUTH}, ["a != b"], {}),
    ({"a": LIST, "b": LIST}, ["a == b"], {}),
    ({"a": LIST, "b": LIST}, ["a != b"], {}),
    ({"a": ANY}, ["a == []"], {}),
    ({"items": {"contains": ["a"]}, "x": {"exact": "c"}}, ["x in items"], {}),
    ({"items": {"contains": ["a"]}, "x": {"exact": "c"}}, ["x not in items"], {}),
    ({"items": {"subset": ["a"]}}, ["len(items) == 3"], {}),
    ({"items": LIST}, ["len(items) == 7"], {}),
    ({"items": {"subset": [1, 2]}, "n": ANY}, ["n + 1 in items", "n > 0"], {}),
    ({"o": ANY}, ["has(o.x)", "len(o) == 3"], {}),
    ({"o": ANY}, ["len(o) == 2"], {"o": OBJECT}),
    ({"o": ANY}, ["len(o) == 2"], {"o": TEXT}),
    ({"o": ANY}, ["o.x.y == 1", "o.z", "not has(o.w)"], {}),
    ({"o": optional(ANY)}, ["not has(o.x)"], {}),
    ({"o": ANY}, ["!has(o.x)"], {"o": TEXT}),
    ({"to": {"email": {"domains": ["*.a.com"]}}, "d": {"regex": "@[a-z.]+"}}, ["ends_with(to, d)"], {}),
    ({"a": TEXT, "d": {"one_of": ["x", "yz"]}}, ["contains(a, d)", 'd != "x"', "len(a) > 4"], {}),
]


@pytest.mark.parametrize(("rules", "conditions", "demands"), IMPOSSIBLE, ids=[" ; ".join(each[1]) for each in IMPOSSIBLE])
def test_impossible(rules: dict[str, Any], conditions: list[str], demands: dict[str, Any]) -> None:
    for guess in (False, True):
        assert isinstance(solve(rules, conditions, demands, guess=guess), Nothing)


@pytest.mark.parametrize(("rules", "conditions", "demands"), POSSIBLE, ids=[" ; ".join(each[1]) for each in POSSIBLE])
def test_possible(rules: dict[str, Any], conditions: list[str], demands: dict[str, Any]) -> None:
    for guess in (False, True):
        assert not isinstance(solve(rules, conditions, demands, guess=guess), Nothing | Unknown)


@pytest.mark.parametrize(
    ("rules", "conditions", "why"),
    [
        ({"a": ANY}, ["a * a == 2"], "arguments a: z3 has a value that the constraints do not confirm"),
        ({"a": ANY}, ["a * 3 == 1"], "arguments a: z3 has a value that the constraints do not confirm"),
        (
            {"o": {"one_of": [{"x": 1}, {"x": 2}]}},
            ["o.x == 3"],
            "arguments o: members of o, which is compared with objects, are not translated",
        ),
        (
            {"a": {"regex": "\\bx"}, "b": CHAR},
            ["a == b", 'a != "x"'],
            "arguments a, b: z3 has a value that the constraints do not confirm, "
            "since not all is translated: the regex \\bx is not translated: the word boundary \\b",
        ),
    ],
)
def test_unknown_says_why(rules: dict[str, Any], conditions: list[str], why: str) -> None:
    assert solve(rules, conditions, {}, guess=False) == Unknown(why)


def test_arguments_without_conditions_are_found_beside_them() -> None:
    found = solve({"a": NUMBER, "b": TEXT, "c": optional(ANY), "d": optional(NUMBER)}, ["a > 1", "not has(d) or d > a"], {}, guess=True)
    assert {*found} == {"a", "b"}
    more = solve({"a": NUMBER}, ["b > a"], {}, guess=True, rest=True)
    assert {*more} == {"a", "b"}


def test_a_question_is_asked_once() -> None:
    search = Search(guess=False)
    admitted, condition = ToolMap({name: parse_rule(NUMBER) for name in "ab"}, rest=False), parse_condition("a < b")
    first = arguments(admitted, {}, search, ((condition, True),))
    assert search.asked == 1
    assert arguments(admitted, {}, search, ((condition, True),)) == first
    assert search.asked == 1
    assert arguments(admitted, {}, search, ((condition, False),)) != first
    assert search.asked == 2


def test_limits_are_unknown() -> None:
    condition = parse_condition("a * a * b == 2 * b * b + 1")
    admitted = ToolMap({name: parse_rule(NUMBER) for name in "ab"}, rest=False)
    for search in (Search(steps=0, guess=False), Search(seconds=0, guess=False)):
        answer = arguments(admitted, {}, search, ((condition, True),))
        assert answer == Unknown("arguments a, b: the limit of this property is used up")
