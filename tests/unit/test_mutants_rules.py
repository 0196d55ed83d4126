"""Rules that look almost right (constraints/rules.py): what a typing error must not widen."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.constraints.rules import parse_rule
from agentguard.constraints.tokens import MAX_DEPTH
from agentguard.errors import InvalidInput


@pytest.mark.parametrize("rule", ["", "*", "ANY", "Any", "all", "an", "anything", "exact"])
def test_no_word_but_any_admits_anything(rule: str) -> None:
    with pytest.raises(InvalidInput, match="a rule is `any` or an object"):
        parse_rule(rule)


@pytest.mark.parametrize("value", [1, 1.0, "true", [], {}])
def test_a_wildcard_says_true_and_nothing_like_it(value: Any) -> None:
    with pytest.raises(InvalidInput, match="wildcard must be true"):
        parse_rule({"wildcard": value})


@pytest.mark.parametrize("value", [{}, {"roots": "/srv"}, {"root": "/srv", "more": 1}, None, 3])
def test_a_path_that_names_no_root_is_refused_with_a_place(value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_rule({"path": value}, where="policy.yaml:3:9")
    assert refused.value.place == "policy.yaml:3:9"


def test_one_slash_at_the_end_of_a_path_is_dropped() -> None:
    assert parse_rule({"path": "/srv/"}) == parse_rule({"path": "/srv"})
    assert parse_rule({"path": "//"}) == parse_rule({"path": "/"})
    with pytest.raises(InvalidInput):
        parse_rule({"path": "/srv//"})


def nested(levels: int, rule: Any) -> Any:
    for _ in range(levels):
        rule = {"all": [rule]}
    return rule


@pytest.mark.parametrize("below", [0, 1, 30])
def test_a_level_of_two_keys_does_not_step_over_the_limit(below: int) -> None:
    """Two keys are two levels at once: where they pass the limit, the count stands below zero, and it must still be the end."""
    two: dict[str, Any] = {"max_length": 3, "any": [nested(below, "any")]}
    with pytest.raises(InvalidInput, match="nested too deeply"):
        parse_rule(nested(MAX_DEPTH, two))
