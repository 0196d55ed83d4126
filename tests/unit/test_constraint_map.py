"""Argument maps of tools (AAT -02 §3.3), and values as constraints see them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from agentguard import canonical
from agentguard.constraints.tokens import NO_ARGUMENTS, Entry, ToolMap, parse_constraint, parse_entry, parse_tool_map
from agentguard.constraints.values import key, shorten, show, spellings
from agentguard.errors import InvalidInput

URN = "urn:agentguard:constraint:"
WILDCARD = {"constraint_type": "wildcard"}


def core(kind: str, **members: Any) -> dict[str, Any]:
    return {"constraint_type": kind, **members}


def test_an_empty_map_is_the_open_map() -> None:
    opened = parse_tool_map({}, extensions=False)
    assert opened == parse_tool_map({"*": WILDCARD}, extensions=False)
    assert opened.rest
    assert not opened.named
    assert opened.check({"anything": [1]}) is None
    assert opened.to_json() == {"*": WILDCARD}


@pytest.mark.parametrize(
    "star",
    [
        core("exact", value=1),
        {**WILDCARD, "optional": True},
        {**WILDCARD, "optional": False},
        {**WILDCARD, "x": 1},
        {},
        None,
        core("all", constraints=[WILDCARD]),
    ],
)
def test_the_star_is_a_bare_wildcard(star: Any) -> None:
    with pytest.raises(InvalidInput, match=r"argument '\*'"):
        parse_tool_map({"*": star}, extensions=False)


@pytest.mark.parametrize("optional", [1, 0, "true", None, []])
def test_optional_is_a_boolean(optional: Any) -> None:
    with pytest.raises(InvalidInput, match="optional must be true or false"):
        parse_entry({**WILDCARD, "optional": optional}, extensions=False)


@pytest.mark.parametrize("tools", [None, [], "x", 1, {"x": None}, {"\ud800": WILDCARD}])
def test_malformed_maps_are_refused(tools: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_tool_map(tools, extensions=True)


def a_map(**changes: Any) -> ToolMap:
    tools = {"to": core("one_of", values=["bob", "eve"]), "limit": core("range", max=5, optional=True), **changes}
    return parse_tool_map(tools, extensions=True)


def test_the_world_is_closed() -> None:
    tools = a_map()
    assert tools.check({"to": "bob"}) is None
    assert tools.check(MappingProxyType({"to": "bob", "limit": 5})) is None

    missing = tools.check({"limit": 1})
    assert missing is not None
    assert (missing.name, missing.required, missing.found) == ("to", "one of 'bob', 'eve'", "nothing")

    wrong = tools.check({"to": "mallory", "limit": 6})
    assert wrong is not None
    assert (wrong.name, wrong.found) == ("to", "'mallory'")

    optional = tools.check({"to": "bob", "limit": None})
    assert optional is not None
    assert (optional.name, optional.found) == ("limit", "null")

    unnamed = tools.check({"to": "bob", "cc": "eve"})
    assert unnamed is not None
    assert (unnamed.name, unnamed.required) == ("cc", "no argument of this name")


def test_the_star_admits_unnamed_arguments_and_names_none() -> None:
    tools = a_map(**{"*": WILDCARD})
    assert tools.check({"to": "bob", "cc": "eve", "*": [1]}) is None
    failure = tools.check({"to": "bob", "cc": [2**53 + 1]})
    assert failure is not None
    assert (failure.name, failure.required) == ("cc", "any value")
    starred = a_map().check({"to": "bob", "*": 1})
    assert starred is not None
    assert starred.name == "*"


def test_no_arguments_admits_only_the_empty_call() -> None:
    assert NO_ARGUMENTS.check({}) is None
    assert parse_tool_map(NO_ARGUMENTS.to_json(), extensions=False) == NO_ARGUMENTS
    values: list[Any] = [0, None, "", [], 0.0]
    for value in values:
        assert NO_ARGUMENTS.check({"_": value}) is not None
        assert NO_ARGUMENTS.check({"x": value}) is not None


def test_an_empty_closed_map_cannot_be_built() -> None:
    with pytest.raises(InvalidInput, match="would admit every argument"):
        ToolMap({}, rest=False)
    with pytest.raises(InvalidInput, match="names no argument"):
        ToolMap({"*": Entry(parse_constraint(WILDCARD, extensions=False))}, rest=True)


def test_a_map_cannot_be_changed() -> None:
    named = dict(a_map().named)
    tools = ToolMap(named, rest=False)
    named.clear()
    assert tools.check({}) is not None
    with pytest.raises(AttributeError):
        tools.rest = True
    with pytest.raises(AttributeError):
        del tools.named
    with pytest.raises(TypeError):
        tools.named["x"] = named  # type: ignore[index]  # the point of the test
    assert len({tools, a_map()}) == 1


def test_keys_are_equal_where_canonical_bytes_are() -> None:
    values = [
        None,
        True,
        False,
        0,
        -0.0,
        1,
        1.0,
        1.5,
        "1",
        "",
        "true",
        [],
        [1],
        [1.0],
        [True],
        {},
        {"a": 1, "b": 2},
        {"b": 2.0, "a": 1},
        10**23,
        1e23,
    ]
    for left in values:
        for right in values:
            assert (key(left) == key(right)) is (canonical.jcs(left) == canonical.jcs(right)), (left, right)


def test_spellings_denote_the_same_number() -> None:
    assert [type(form) for form in spellings(1)] == [int, float]
    assert spellings(1e23) == (1e23, 10**23)
    assert spellings(0.5) == (0.5,)
    assert spellings(True) == (True,)
    assert all(key(form) == key(1e300) for form in spellings(1e300))


def test_shown_values_are_short() -> None:
    values: list[Any] = ["x" * 500, "é" * 500, "'\"\n" * 100, 10**400, 10**5000, 1.5, None, True, [1] * 9, {"a": 1}, object(), b"x" * 500]
    for value in values:
        assert 0 < len(show(value)) <= 60
    assert len(shorten("x" * 500)) == 80
