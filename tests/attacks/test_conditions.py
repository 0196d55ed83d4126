"""Ways around a condition, or into it: each is refused when the policy is read, or fails when the call is judged."""

from __future__ import annotations

import zoneinfo
from datetime import datetime, timedelta
from importlib import resources
from typing import Any

import pytest

from agentguard.errors import InvalidInput
from agentguard.policy.conditions import parse_condition
from agentguard.policy.hours import parse_hours

LIMIT = "amount * quantity <= 1000"


class Int(int):
    """Claims to be smaller than everything."""

    def __le__(self, other: object) -> bool:
        return True

    def __mul__(self, other: object) -> Int:
        return self


class Text(str):
    def endswith(self, *_: Any) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


class Members(dict[str, Any]):
    def __contains__(self, name: object) -> bool:
        return True


@pytest.mark.parametrize(
    "text",
    [
        "amount <= ١٠",  # Arabic digits, which int() reads
        "amount <= １０",  # full-width digits
        "amount <= 1²",
        "аmount <= 10",  # a Cyrillic letter
        "amo\u00adunt <= 10",  # a soft hyphen
        "amount\u00a0<= 10",  # a space that is none
        "amount ＜= 10",
        "amount <= 10 \u202e",
        "amount <= 10 # or true",
        "amount <= 10 -- or true",
        "amount <= 10 /* */",
        "amount <= 10; true",
        "amount <= 10\x00",
        "amount <= 10 or true",
        "amount <= 10 or 1 == 1",
        "amount <= 10 or not false",
        'amount <= 10 or "a" in ["a"]',
        "amount <= 10 or amount == amount",
        "amount <= 1e999999",
        "amount <= 0x7fffffff",
        "amount if amount else amount",
        "(lambda: amount)()",
        '__import__("os")',
        "amount.__class__()",
        "len := amount",
        "exec(amount)",
        "amount <= `10`",
        "amount <= ${limit}",
        "[amount for amount in amounts]",
    ],
)
def test_what_is_not_the_language_does_not_load(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_condition(text)


@pytest.mark.parametrize(
    "arguments",
    [
        {"amount": "1", "quantity": 1},
        {"amount": True, "quantity": True},
        {"amount": [1], "quantity": 1},
        {"amount": "x" * 5, "quantity": 0},  # Python would repeat it, to nothing
        {"amount": float("nan"), "quantity": 1},
        {"amount": float("-inf"), "quantity": 1},
        {"amount": -(10**10_000), "quantity": 1},
        {"amount": -(2**53) - 1, "quantity": 1},
        {"amount": Int(5000), "quantity": 1},
        {"amount": 10 + 0j, "quantity": 1},
        {"amount": None, "quantity": 1},
        {"amount": 1},
        {"Amount": 1, "quantity": 1},
        {"аmount": 1, "quantity": 1},
        {"amount": {"value": 1}, "quantity": 1},
        {"amount": 1e200, "quantity": 1e200},  # a float would be inf, and -1e200 below every limit for the wrong reason
        {"amount": 1000.0000000000001, "quantity": 1},
        {"amount": 1000 / 3 + 1e-10, "quantity": 3},
    ],
)
def test_no_value_slips_under_a_limit(arguments: dict[str, Any]) -> None:
    assert parse_condition(LIMIT).failure(arguments) is not None


@pytest.mark.parametrize(
    "text", ["not (a > 5)", "not (a == b)", "not (a in items)", "not ends_with(a, b)", "not a", "not (a > 5 or a > 6)"]
)
@pytest.mark.parametrize("arguments", [{}, {"a": "\ud800", "b": 1}, {"a": float("nan"), "b": "x", "items": 5}, {"a": {1, 2}, "b": b"x"}])
def test_an_error_is_not_turned_into_a_yes(text: str, arguments: dict[str, Any]) -> None:
    assert parse_condition(text).failure(arguments) is not None


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("a == 1", {"a": True}),
        ("a == true", {"a": 1}),
        ("a == true", {"a": 1.0}),
        ("a in [0, 1]", {"a": True}),
        ("a in [false, true]", {"a": 1}),
        ("a in items", {"a": 1, "items": [True]}),
        ("a == b", {"a": [1], "b": [True]}),
        ("a == b", {"a": "1", "b": 1}),
        ("a == null", {"a": 0}),
        ('a == ""', {"a": None}),
        ("a == b", {"a": "\u00e9", "b": "e\u0301"}),  # they look alike, and are two texts
        ("a == b", {"a": "K", "b": "\u212a"}),  # the sign for Kelvin
        ('ends_with(a, "@example.com")', {"a": Text("eve@evil.test")}),
        ('a == "x"', {"a": Text("eve")}),
        ('has(a.b) and a.b == "x"', {"a": Members()}),
        ("a.__class__ == a.__dict__", {"a": {}}),
        ("len(a) <= 1", {"a": "😀\u200d😀"}),
        ("a * 3 == 0.3", {"a": 0.1 + 1e-17 + 1e-16}),
        ("a == 9007199254740992", {"a": 9007199254740993}),
    ],
)
def test_what_looks_equal_is_not(text: str, arguments: dict[str, Any]) -> None:
    assert parse_condition(text).failure(arguments) is not None


def test_an_argument_does_not_become_a_function() -> None:
    condition = parse_condition("len(text) <= 3")
    assert condition.names == {"text"}
    assert condition.failure({"text": "long text", "len": 1}) is not None
    for name in ("len", "has", "arg", "starts_with", "and", "true", "in", "null"):
        with pytest.raises(InvalidInput):
            parse_condition(f"{name} == 1")
        assert parse_condition(f'arg("{name}") == 1').failure({name: 1}) is None


def test_a_dot_in_a_name_is_not_a_member() -> None:
    assert parse_condition("order.total <= 5").failure({"order.total": 1}) == "order.total is missing"
    assert parse_condition("order.total <= 5").failure({"order.total": 1, "order": {"total": 9}}) is not None
    assert parse_condition('arg("order.total") <= 5').failure({"order.total": 1}) is None


@pytest.mark.parametrize(
    "text",
    ["(" * 999, "not " * 249 + "a", "-" * 990 + "a < 1", "a in " + "[" * 900, "a < " + "(" * 400, "a" + " == a" * 199, "1" * 1000],
)
def test_deep_or_long_texts_end_in_an_error_of_ours(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_condition(text)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (" + ".join(["a * a * a * a * a * a * a * a"] * 30) + " > b", {"a": 1.2345678901234567e-308, "b": 1.7976931348623157e308}),
        (" or ".join(["a * b > 1e300"] * 55), {"a": 10**10_000, "b": 1}),
        (" or ".join(["a in b"] * 90), {"a": "x", "b": ["y"] * 10_000}),
        (" or ".join(["contains(a, b)"] * 55), {"a": "a" * 1_000_000, "b": "a" * 500_000 + "b"}),
        (" or ".join(["a == b"] * 90), {"a": [[]] * 10_000, "b": [[]] * 10_000 + [1]}),
    ],
    ids=["products", "huge integers", "lists", "texts", "arrays"],
)
def test_no_arguments_take_an_evaluation_without_end(text: str, arguments: dict[str, Any]) -> None:
    """It ends while someone is waiting: no repeated squaring, no naive search, no arithmetic on 10,000 digits."""
    assert parse_condition(text).failure(arguments) is not None


@pytest.mark.parametrize(
    "zone", ["../../../etc/passwd", "/etc/localtime", "Europe/Berlin/../Berlin", "europe/berlin", "", "Europe", "Europe/Berlin\n", "zones"]
)
def test_a_zone_is_a_name_of_the_list_and_no_path(zone: str) -> None:
    with pytest.raises(InvalidInput, match="there is no time zone"):
        parse_hours({"zone": zone, "from": "08:00", "to": "18:00"})


def test_the_machine_has_no_say_in_the_rules_of_a_zone(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "Europe").mkdir()
    (tmp_path / "Europe" / "Rome").write_bytes(resources.files("tzdata").joinpath("zoneinfo", "UTC").read_bytes())
    monkeypatch.setenv("PYTHONTZPATH", str(tmp_path))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    zoneinfo.reset_tzpath()
    try:
        assert zoneinfo.ZoneInfo.no_cache("Europe/Rome").utcoffset(datetime(2026, 1, 15)) == timedelta(0)
        hours = parse_hours({"zone": "Europe/Rome", "from": "08:00", "to": "09:00"})
    finally:
        monkeypatch.undo()
        zoneinfo.reset_tzpath()
    assert hours.open(1_768_460_400)  # 2026-01-15 07:00 UTC, 08:00 in Rome
    assert not hours.open(1_768_464_000)
