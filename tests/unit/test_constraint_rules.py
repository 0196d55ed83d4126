"""The short forms of constraints in policies and scopes (DESIGN §5, §6)."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.constraints.rules import KEYS, parse_rule
from agentguard.constraints.tokens import MAX_DEPTH, parse_entry
from agentguard.errors import InvalidInput

URN = "urn:agentguard:constraint:"
SHAPES: list[tuple[Any, dict[str, Any]]] = [
    ("any", {"constraint_type": "wildcard"}),
    ({"wildcard": True}, {"constraint_type": "wildcard"}),
    ({"wildcard": True, "optional": True}, {"constraint_type": "wildcard", "optional": True}),
    ({"exact": "any"}, {"constraint_type": "exact", "value": "any"}),
    ({"exact": None}, {"constraint_type": "exact", "value": None}),
    ({"range": {"min": 1, "max": 50}, "optional": True}, {"constraint_type": "range", "min": 1, "max": 50, "optional": True}),
    ({"range": {"max": 1, "max_inclusive": False}}, {"constraint_type": "range", "max": 1, "max_inclusive": False}),
    ({"one_of": ["prod", "staging"]}, {"constraint_type": "one_of", "values": ["prod", "staging"]}),
    ({"not_one_of": ["root"]}, {"constraint_type": "not_one_of", "excluded": ["root"]}),
    ({"contains": ["a"]}, {"constraint_type": "contains", "required": ["a"]}),
    ({"subset": ["a"]}, {"constraint_type": "subset", "allowed": ["a"]}),
    ({"path": "/srv/tickets"}, {"constraint_type": f"{URN}path", "root": "/srv/tickets"}),
    ({"path": "/srv/tickets/"}, {"constraint_type": f"{URN}path", "root": "/srv/tickets"}),
    ({"path": {"root": "/"}}, {"constraint_type": f"{URN}path", "root": "/"}),
    ({"regex": "T-[0-9]{1,8}"}, {"constraint_type": f"{URN}regex", "pattern": "T-[0-9]{1,8}"}),
    ({"glob": "*.txt"}, {"constraint_type": f"{URN}glob", "pattern": "*.txt"}),
    ({"cidr": "10.0.0.0/8"}, {"constraint_type": f"{URN}cidr", "network": "10.0.0.0/8"}),
    ({"email": {"domains": ["example.com"]}}, {"constraint_type": f"{URN}email", "domains": ["example.com"]}),
    ({"url": {"hosts": ["example.com"]}}, {"constraint_type": f"{URN}url", "schemes": ["https"], "hosts": ["example.com"]}),
    (
        {"url": {"schemes": ["http"], "hosts": ["*.example.com"], "path": "/api", "ports": [8080]}},
        {"constraint_type": f"{URN}url", "schemes": ["http"], "hosts": ["*.example.com"], "path": "/api", "ports": [8080]},
    ),
    ({"type": "integer"}, {"constraint_type": f"{URN}type", "type": "integer"}),
    ({"max_length": 4000}, {"constraint_type": f"{URN}length", "max": 4000}),
    ({"min_length": 1, "max_length": 4}, {"constraint_type": f"{URN}length", "min": 1, "max": 4}),
    ({"length": {"min": 1}}, {"constraint_type": f"{URN}length", "min": 1}),
    (
        {"any": [{"exact": "a"}, "any"]},
        {"constraint_type": "any", "constraints": [{"constraint_type": "exact", "value": "a"}, {"constraint_type": "wildcard"}]},
    ),
    ({"all": [{"exact": "a"}]}, {"constraint_type": "exact", "value": "a"}),
    (
        {"regex": "[a-z]*", "max_length": 4, "not_one_of": ["x"], "optional": False},
        {
            "constraint_type": "all",
            "constraints": [
                {"constraint_type": f"{URN}regex", "pattern": "[a-z]*"},
                {"constraint_type": "not_one_of", "excluded": ["x"]},
                {"constraint_type": f"{URN}length", "max": 4},
            ],
        },
    ),
    (
        {"all": [{"range": {"min": 1}}, {"range": {"max": 3}}], "type": "integer"},
        {
            "constraint_type": "all",
            "constraints": [
                {"constraint_type": "range", "min": 1},
                {"constraint_type": "range", "max": 3},
                {"constraint_type": f"{URN}type", "type": "integer"},
            ],
        },
    ),
]


@pytest.mark.parametrize(("rule", "token"), SHAPES, ids=lambda part: repr(part)[:50])
def test_shapes(rule: Any, token: dict[str, Any]) -> None:
    entry = parse_rule(rule, where="policy.yaml:3:5")
    assert entry.to_json() == token
    assert parse_entry(entry.to_json(), extensions=True) == entry


REFUSED: list[tuple[Any, str]] = [
    ("any ", "a rule is"),
    ("wildcard", r"write \{exact: 'wildcard'\}"),
    (5, r"write \{exact: 5\}"),
    (True, r"write \{exact: true\}"),
    (None, r"write \{exact: null\}"),
    (["a"], r"write \{one_of"),
    ({}, "says nothing"),
    ({"optional": True}, "says nothing"),
    ({"optional": 1, "exact": 1}, "optional must be"),
    ({"any": [{"exact": 1, "optional": True}]}, "optional belongs"),
    ({"regexp": "a"}, "did you mean regex?"),
    ({"max_lenght": 4}, "did you mean max_length?"),
    ({"zzz": 4}, "known: exact"),
    ({1: 4}, "no key 1"),
    ({"constraint_type": "wildcard"}, "no key"),
    ({"range": {"constraint_type": "wildcard"}}, "not members"),
    ({"range": {"min": 1, "optional": True}}, "not members"),
    ({"range": {"minimum": 1}}, "no member 'minimum'"),
    ({"range": 5}, "range needs an object"),
    ({"range": {"min": 5, "max": 1}}, "above range.max"),
    ({"email": ["example.com"]}, "email needs an object"),
    ({"email": {"domain": "example.com"}}, "no member 'domain'"),
    ({"one_of": "prod"}, "must be an array"),
    ({"one_of": []}, "is empty"),
    ({"exact": [1]}, "exact.value must be"),
    ({"any": []}, "any needs a list"),
    ({"any": {"exact": 1}}, "any needs a list"),
    ({"all": "any"}, "all needs a list"),
    ({"wildcard": False}, "wildcard must be true"),
    ({"path": "tickets"}, "not a plain absolute path"),
    ({"path": {"root": "/a", "x": 1}}, "must be a string"),
    ({"regex": "("}, "not one that RE2 takes"),
    ({"regex": r"\pL{1,500}"}, "bound the length"),
    ({"max_length": "4"}, "length.max must be"),
    ({"max_length": 4, "min_length": 5}, "above length.max"),
]


@pytest.mark.parametrize(("rule", "message"), REFUSED, ids=lambda part: repr(part)[:50])
def test_refused_rules_say_where_and_what(rule: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        parse_rule(rule, where="policy.yaml:3:5")
    assert caught.value.place == "policy.yaml:3:5"


def _nested(levels: int, innermost: Any) -> Any:
    rule = innermost
    for _ in range(levels - 1):
        rule = {"any": [rule]}
    return rule


def test_rules_are_as_deep_as_a_token_may_be() -> None:
    two = {"exact": "a", "max_length": 1}
    for rule in (_nested(MAX_DEPTH, {"exact": 1}), _nested(MAX_DEPTH - 1, two)):
        entry = parse_rule(rule)
        assert parse_entry(entry.to_json(), extensions=True) == entry
    for rule in (_nested(MAX_DEPTH + 1, {"exact": 1}), _nested(MAX_DEPTH, two), _nested(10_000, "any")):
        with pytest.raises(InvalidInput, match="nested too deeply"):
            parse_rule(rule)


def test_keys_are_listed_for_schemas() -> None:
    assert {"exact", "max_length", "any", "optional"} <= set(KEYS)
