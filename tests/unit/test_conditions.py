"""Conditions: what holds and what fails, in which words, how a text is written, and what each mistake in one is answered."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.conditions import parse_condition

HOLDS: list[tuple[str, dict[str, Any]]] = [
    ("amount * quantity <= 1000", {"amount": 100, "quantity": 10}),
    ("amount * quantity <= 1000", {"amount": 0.5, "quantity": 2}),
    ("0.1 + 0.2 == a", {"a": 0.3}),
    ("a * 3 == 0.3", {"a": 0.1}),
    ("a - b - c == -4", {"a": 1, "b": 2, "c": 3}),
    ("a - (b - c) == 2", {"a": 1, "b": 2, "c": 3}),
    ("a + b * c == 7", {"a": 1, "b": 2, "c": 3}),
    ("(a + b) * c == 9", {"a": 1, "b": 2, "c": 3}),
    ("-a * b == -2", {"a": 1, "b": 2}),
    ("--a == 1", {"a": 1}),
    ("a == 1", {"a": 1.0}),
    ("a == 100000000000000000000000", {"a": 1e23}),
    ("a < 1e308 * 10", {"a": 1e308}),
    ("a * b > 0", {"a": 5e-324, "b": 5e-324}),
    ("a * a * a * a * b * b * b * b == 1", {"a": 1e300, "b": 1e-300}),
    ("to != from", {"to": "DE1", "from": "DE2"}),
    ("a == b", {"a": [1, {"x": None}], "b": (1.0, MappingProxyType({"x": None}))}),
    ("a == b", {"a": {"x": 1, "y": 2}, "b": {"y": 2, "x": 1}}),
    ("a != b", {"a": [1, 2], "b": [2, 1]}),
    ('a == ["x", 1.5, null, true]', {"a": ["x", 1.5, None, True]}),
    ("a == []", {"a": ()}),
    ('currency in ["EUR", "USD"]', {"currency": "USD"}),
    ("a in [1, 2.50]", {"a": 2.5}),
    ("a not in [true]", {"a": 1}),
    ('"x" in items', {"items": ["y", "x"]}),
    ("a in items", {"a": [1], "items": [[1.0]]}),
    ("len(items) <= 3", {"items": ["a", "b", "c"]}),
    ("len(text) == 2", {"text": "😀ü"}),
    ("len(order) == len(order.lines)", {"order": {"lines": [0, 0], "total": 0}}),
    ("order.total <= order.limits.most", {"order": {"total": 5, "limits": {"most": 5.5}}}),
    ('arg("x-y") + arg("order", "a b") == 3', {"x-y": 1, "order": {"a b": 2}}),
    ('arg("len") == len(arg("in"))', {"len": 1, "in": "x"}),
    ("ends_with(to, domain)", {"to": "bob@example.com", "domain": "@example.com"}),
    ('starts_with(path, "/srv/")', {"path": "/srv/a"}),
    ('contains(body, "")', {"body": ""}),
    ("confirmed and not dry_run", {"confirmed": True, "dry_run": False}),
    ("not has(limit) or limit < 5", {}),
    ("not has(limit) or limit < 5", {"limit": 4}),
    ("has(order.discount)", {"order": {"discount": None}}),
    ("not has(order.discount)", {"order": {}}),
    ("not has(order.discount.code)", {}),
    ("a < 1 or b < 1 or c < 1", {"a": 1, "b": 1, "c": 0}),
    ("a < 1 and b < 1 and c < 1", {"a": 0, "b": 0, "c": 0}),
    ("a or b and c", {"a": True, "b": False, "c": False}),
    ("not a or b", {"a": False}),
]
FAILS: list[tuple[str, dict[str, Any], str]] = [
    ("amount * quantity <= 1000", {"amount": 1000, "quantity": 2}, "amount is 1000, quantity is 2"),
    ("amount <= 1000", {}, "amount is missing"),
    ("amount <= 1000", {"amount": "5"}, "amount is '5', not a number"),
    ("amount <= 1000", {"amount": True}, "amount is true, not a number"),
    ("amount <= 1000", {"amount": None}, "amount is null, not a number"),
    ("amount <= 1000", {"amount": 2**53 + 1}, "amount is 9007199254740993, which JSON does not carry exactly"),
    ("amount >= 0", {"amount": float("nan")}, "amount is nan, which JSON does not carry exactly"),
    ("amount >= 0", {"amount": 10**10_000}, "amount is a very large integer, which JSON does not carry exactly"),
    ("a + b > 0", {"a": 1, "b": [1]}, "b is an array of 1, not a number"),
    ("not (a < 5)", {"a": "x"}, "a is 'x', not a number"),
    ("not a", {"a": "x"}, "a is 'x', not true or false"),
    ("a == b", {"a": 1, "b": "1"}, "a is 1, b is '1'"),
    ("a == 1", {"a": True}, "a is true"),
    ("a == true", {"a": 1}, "a is 1"),
    ("a == null", {"a": False}, "a is false"),
    ("a == null", {}, "a is missing"),
    ("a != b", {"a": 1}, "b is missing"),
    ("a != 1", {"a": 2**53 + 1}, "a is 9007199254740993, which JSON does not carry exactly"),
    ("a != b", {"a": "\ud800", "b": ""}, "a is '\\ud800', which JSON does not carry exactly"),
    ('currency in ["EUR"]', {"currency": "eur"}, "currency is 'eur'"),
    ("a in items", {"a": 1, "items": "1"}, "items is '1', not an array"),
    ("a not in items", {"a": 1, "items": [float("inf")]}, "items is an array of 1, which JSON does not carry exactly"),
    ("len(items) <= 3", {"items": [0] * 4}, "items is an array of 4"),
    ("len(items) <= 3", {"items": 3}, "items is 3, not a string, an array or an object"),
    ("ends_with(to, domain)", {"to": "x", "domain": 5}, "domain is 5, not a string"),
    ("contains(text, part)", {"text": ["a"], "part": "a"}, "text is an array of 1, not a string"),
    ("order.total < 5", {"order": 5}, "order is 5, not an object"),
    ("order.total < 5", {"order": {}}, "order.total is missing"),
    ("has(order.total)", {"order": [1]}, "order is an array of 1, not an object"),
    ("has(note)", {}, "note is missing"),
    ("limit < 5 or not has(limit)", {}, "limit is missing"),
    ("a < 1 or b < 1", {"a": 2, "b": "x"}, "b is 'x', not a number"),
    ("a < 1 and b < 1", {"a": 2, "b": "x"}, "a is 2, b is 'x'"),
    ("a < 1 and order.total < 1", {"a": 2, "order": 7}, "a is 2, order is 7, not an object"),
    ('arg("x-y") == 1', {"x-y": "z" * 50}, 'arg("x-y") is \'' + "z" * 38 + "…"),
]
WRITTEN = [
    ("a<1", "a < 1"),
    ("  a\n<\t1 ", "a < 1"),
    ("((a)) < (1)", "a < 1"),
    ("a<1 and b<2 or c<3", "(a < 1 and b < 2) or c < 3"),
    ("a<1 and (b<2 or c<3)", "a < 1 and (b < 2 or c < 3)"),
    ("a and (b and c)", "a and (b and c)"),
    ("not a < 1", "not (a < 1)"),
    ("not not a", "not not a"),
    ("not a in [1]", "a not in [1]"),
    ("not has(a)", "not has(a)"),
    ("a+b*(c-(d-e)) >= -(f+g)", "a + b * (c - (d - e)) >= -(f + g)"),
    ("(a*b)*c > a*(b*c)", "(a * b) * c > a * (b * c)"),
    ("-5 < -a * --b", "-5 < -a * --b"),
    ("a - -1 < -(-1)", "a - -1 < 1"),
    ('a in [1.50,1e2,-0.0,1E21, "\\/\\u0041\\ud83d\\ude00\\u007f"]', 'a in [1.5, 100, 0, 1e+21, "/A\\ud83d\\ude00\\u007f"]'),
    ("order . total == null", "order.total == null"),
    ("order.len == order.not", "order.len == order.not"),
    ('arg("a") < arg("a", "b")', "a < a.b"),
    ('arg("len") < arg("true", "b")', 'arg("len") < arg("true", "b")'),
    ('arg("größe") == "Zürich"', 'arg("gr\\u00f6\\u00dfe") == "Z\\u00fcrich"'),
    ('contains( a,"x" )', 'contains(a, "x")'),
]
ASK = "name an argument"
COMPARE = "compare it: ==, !=, <, <=, >, >=, in"
JSON_NUMBER = "numbers are written as in JSON: 10, 0.5, 1e6"
FUNCTIONS = "there are len, has, arg, starts_with, ends_with, contains"
REFUSED: list[tuple[Any, str]] = [
    ("", 'the condition is empty (for example "amount <= 1000")'),
    (" \n", 'the condition is empty (for example "amount <= 1000")'),
    (5, 'a condition is a text, found int (for example "amount <= 1000")'),
    ("a" * 1001, "the condition has 1001 characters (at most 1000; several conditions all hold together)"),
    (
        " or ".join(["a < 1e21"] * 80),
        "the condition has 1036 characters when written out (at most 1000: a < 1e+21 or a < 1e+21 or a < 1e+21 or a...)",
    ),
    # what stands where it should not
    ("a <", "expected a value, found the end, at column 4"),
    ("a and", "expected a value, found the end, at column 6"),
    ("a b", "expected an operator or the end, found 'b', at column 3"),
    ("a AND b", "expected an operator or the end, found 'AND', at column 3 (write and in small letters)"),
    ("a < 5)", "expected an operator or the end, found ')', at column 6 (it closes nothing)"),
    ("a, b", "expected an operator or the end, found ',', at column 2 (several conditions stand in a list of their own)"),
    ("a[0] == 1", "expected an operator or the end, found '[', at column 2"),
    ("(a < 5", "expected ')', found the end, at column 7"),
    ("a ** 2 < 1", "expected a value, found '*', at column 4"),
    ("in == 1", "expected a value, found 'in', at column 1"),
    ("a not b", "expected 'in', found 'b', at column 7 (not in is one operator)"),
    ("a. < 1", "expected the name of a member, found '<', at column 4"),
    ('arg("a").b < 1', 'expected an operator or the end, found \'.\', at column 9 (a member is written arg("order", "x-y"))'),
    # characters
    ("a = 5", "the character '=' has no meaning here, at column 3 (== compares)"),
    ("a && b", "the character '&' has no meaning here, at column 3 (write and)"),
    ("a || b", "the character '|' has no meaning here, at column 3 (write or)"),
    ("!a", "the character '!' has no meaning here, at column 1 (write not, or !=)"),
    ("a / 2 < 1", "the character '/' has no meaning here, at column 3 (there is no division: multiply the other side)"),
    ("a % 2 == 0", "the character '%' has no meaning here, at column 3 (there is no remainder)"),
    ("a == 'x'", 'the character "\'" has no meaning here, at column 6 (strings stand in "double quotes")'),
    ("a ≤ 1", "the character '\\u2264' has no meaning here, at column 3 (write <=)"),
    ("a; b", "the character ';' has no meaning here, at column 2"),
    # constants
    ('a == "x', 'a string that does not end, at column 6 (a " in a string is written \\")'),
    ('a == "\\q"', 'a string that is not written as in JSON, at column 6 (for example "line\\n", "\\u00fc")'),
    ('a == "\\ud800"', "a string that holds a lone surrogate, which has no UTF-8 form, at column 6"),
    *((f"a < {text}", f"'{text}' is not a number, at column 5 ({JSON_NUMBER})") for text in ("007", "5.", "1_000", "0x10", "5e", "1.2.3")),
    ("a < 9007199254740993", "the number 9007199254740993 cannot be carried exactly by a JSON number, at column 5"),
    # functions
    ("len < 5", 'len is a function, at column 1 (the argument of this name is written arg("len"))'),
    ("lenght(a) < 5", "there is no function lenght, at column 1 (did you mean len?)"),
    ("foo(a)", f"there is no function foo, at column 1 ({FUNCTIONS})"),
    ("len(5) < 5", "expected the name of an argument, found '5', at column 5"),
    ('has("a")', 'has takes the name of an argument, found a string, at column 1 (has(x), or has(arg("x-y")) for what is no identifier)'),
    ("len(a, b) < 5", "expected ')', found ',', at column 6 (len takes one)"),
    ("starts_with(a)", "expected ',', found ')', at column 14 (starts_with takes two: starts_with(text, part))"),
    ("contains(a, b, c)", "expected ')', found ',', at column 14 (contains takes two: contains(text, part))"),
    ("contains(a, len(b))", "expected a name or a string, found 'len', at column 13"),
    (
        "arg(a) < 1",
        'expected a string, found \'a\', at column 5 (arg("x-y") is the argument of that name, arg("order", "x-y") a member of order)',
    ),
    # what says nothing about the call
    ("1 == 1", f"this is the same whatever the call, at column 3 ({ASK})"),
    ("1 in [1]", f"this is the same whatever the call, at column 1 ({ASK})"),
    ('ends_with("a", "b")', f"this is the same whatever the call, at column 1 ({ASK})"),
    ("a == a", "both sides are the same, at column 3"),
    ("contains(a, a)", "both are the same, at column 1"),
    ("a in []", "nothing is in an empty list, at column 6"),
    ('len(a) in ["x"]', "a number is never in this list, at column 1"),
    ('len(a) == "x"', "a number is never a string, at column 8"),
    # kinds
    ("true", f"expected a condition, found a boolean, at column 1 ({COMPARE})"),
    ("a and b + 1", f"expected a condition, found a number, at column 7 ({COMPARE})"),
    ('not "x"', f"expected a condition, found a string, at column 5 ({COMPARE})"),
    ("a < 5 < 7", "one comparison follows another, at column 7 (join them with and: 0 < x and x < 5)"),
    ("a == (b < c)", "== compares values, found a condition, at column 6 (join conditions with and, or, not)"),
    ('a < "x"', "< compares numbers, found a string, at column 5"),
    ("null >= a", ">= compares numbers, found null, at column 1"),
    ('a + "x" < 1', "+ takes numbers, found a string, at column 5"),
    ("a * [1] == b", "* takes numbers, found a list, at column 5"),
    ("-true == a", "- takes numbers, found a boolean, at column 2"),
    ("a in 5", 'expected a list behind in, found a number, at column 6 (for example currency in ["EUR", "USD"])'),
    ('a in "abc"', "expected a list behind in, found a string, at column 6 (contains(text, part) looks into strings)"),
    ("[1] in a", "expected a value before in, found a list, at column 1"),
    ("a in [b]", "a list holds constants only, at column 7"),
    ("a in [1 2]", "expected ',', found '2', at column 9 (a list ends in ])"),
    # bounds
    ("(" * 33 + "a" + ")" * 33, "nested too deeply, at column 34 (at most 32 levels)"),
    (".".join("abcdefghijk" * 3) + " == 1", "a name of 33 steps, at column 1 (at most 32, as deep as arguments are)"),
    ("a * a * a * a * a * a * a * a * a < 5", "a product of more than 8 factors, at column 1"),
    ("(a + b * c * d) * e * f * g * h * a * b < 5", "a product of more than 8 factors, at column 1"),
]


@pytest.mark.parametrize(("text", "arguments"), HOLDS)
def test_holds(text: str, arguments: dict[str, Any]) -> None:
    condition = parse_condition(text)
    assert condition.failure(arguments) is None
    assert parse_condition(f"not ({text})").failure(arguments) is not None


@pytest.mark.parametrize(("text", "arguments", "found"), FAILS)
def test_fails_and_says_what_was_found(text: str, arguments: dict[str, Any], found: str) -> None:
    assert parse_condition(text).failure(arguments) == found


@pytest.mark.parametrize(("text", "written"), WRITTEN)
def test_a_condition_is_written_in_one_way(text: str, written: str) -> None:
    assert parse_condition(text).text == written
    assert parse_condition(written).text == written


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_a_mistake_is_named_with_its_column(text: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_condition(text)
    assert str(caught.value) == message


def test_names_are_the_arguments_that_are_asked_about() -> None:
    text = 'order.total < limit or len(arg("x-y", "z")) > 3 and not has(order.note) and a in b and contains("x", c)'
    assert parse_condition(text).names == {"order", "limit", "x-y", "a", "b", "c"}


def test_conditions_are_equal_when_their_texts_are() -> None:
    one, same, other = parse_condition("a<1"), parse_condition("(a) < 1.0"), parse_condition("a<2")
    assert one == same
    assert hash(one) == hash(same)
    assert one != other


def test_many_conditions_fit_side_by_side() -> None:
    text = " and ".join(f"a{index} <= {index}" for index in range(70))
    condition = parse_condition(text)
    assert condition.text == text
    assert condition.failure({f"a{index}": index for index in range(70)}) is None
    assert condition.failure({f"a{index}": index for index in range(69)} | {"a69": 70}) is not None
    assert len(str(condition.failure({f"a{index}": index + 1 for index in range(70)}))) == 160


def test_equal_texts_are_wrong_at_each_place_and_for_each_tool() -> None:
    tools = {"a": "{pay: {x: any}}", "b": "{pay: {x: any}}", "c": "{pay: {y: any}}"}
    head = "agentguard: 1\nname: p\nagents:\n"

    def wrong(condition: str) -> str:
        agents = "".join(f'  {name}:\n    tools: {rules}\n    where: {{pay: ["{condition}"]}}\n' for name, rules in tools.items())
        with pytest.raises(InvalidInput) as caught:
            load(head + agents)
        return str(caught.value)

    said = wrong("x <")
    assert all(
        f"<policy>:{line}:19: agents.{name}.where.pay[0]: expected a value" in said for name, line in (("a", 6), ("b", 9), ("c", 12))
    )
    assert wrong("x < 5").startswith("<policy>:12:19: agents.c.where.pay[0]: the tool has no argument 'x'")
