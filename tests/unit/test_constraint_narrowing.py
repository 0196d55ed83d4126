"""Subsumption by example: the draft's table pair by pair, our additions, and the key rules of argument maps (AAT -02 §4.5)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from agentguard.constraints.narrowing import is_empty
from agentguard.constraints.rules import parse_rule
from agentguard.constraints.tokens import (
    NO_ARGUMENTS,
    ToolMap,
    map_narrows,
    narrows,
    parse_constraint,
    parse_tool_map,
    plain_narrows,
)

#: One of each type, such that no pair of different types stands in the table by accident of its values.
SAMPLES: dict[str, dict[str, Any]] = {
    "exact": {"constraint_type": "exact", "value": 3},
    "range": {"constraint_type": "range", "min": 3, "max": 3},
    "one_of": {"constraint_type": "one_of", "values": [3]},
    "not_one_of": {"constraint_type": "not_one_of", "excluded": [4]},
    "contains": {"constraint_type": "contains", "required": [3]},
    "subset": {"constraint_type": "subset", "allowed": [3]},
    "wildcard": {"constraint_type": "wildcard"},
    "all": {"constraint_type": "all", "constraints": [{"constraint_type": "exact", "value": 3}]},
    "any": {"constraint_type": "any", "constraints": [{"constraint_type": "exact", "value": 3}]},
}
TABLE = {(kind, kind) for kind in SAMPLES} | {("wildcard", kind) for kind in SAMPLES} | {("range", "exact"), ("one_of", "exact")}


@pytest.mark.parametrize("parent", SAMPLES)
@pytest.mark.parametrize("child", SAMPLES)
def test_every_pair_of_types_is_as_the_table_says(parent: str, child: str) -> None:
    above, below = (parse_constraint(SAMPLES[kind], extensions=False) for kind in (parent, child))
    assert plain_narrows(below, above) is ((parent, child) in TABLE)


def clauses(kind: str, *parts: Any) -> dict[str, Any]:
    return {"constraint_type": kind, "constraints": list(parts)}


def exact(value: Any) -> dict[str, Any]:
    return {"constraint_type": "exact", "value": value}


def ranged(**bounds: Any) -> dict[str, Any]:
    return {"constraint_type": "range", **bounds}


WILDCARD = SAMPLES["wildcard"]
PLAIN: list[tuple[Any, Any, bool]] = [
    # child, parent, verdict
    (exact(1), exact(1.0), True),
    (exact(True), exact(1), False),
    (exact(5), ranged(max=5), True),
    (exact(5), ranged(max=5, max_inclusive=False), False),
    (exact(True), ranged(max=5), False),
    (exact("5"), ranged(max=5), False),
    (exact(1), ranged(min=0, max=0, max_inclusive=False), False),
    (ranged(min=1, max=5), ranged(min=1, max=5), True),
    (ranged(min=1), ranged(min=1, max=5), False),
    (ranged(), ranged(), True),
    (ranged(), ranged(max=1.7976931348623157e308), False),
    (ranged(min=1, min_inclusive=False), ranged(min=1), True),
    (ranged(min=1), ranged(min=1, min_inclusive=False), False),
    (ranged(max=1), ranged(max=1, max_inclusive=False), False),
    (ranged(max=1, max_inclusive=False), ranged(max=1), True),
    (ranged(min=2, max=3), ranged(min=1), True),
    (ranged(min=0, min_inclusive=False), ranged(min=5e-324), False),
    (ranged(min=0, max=0, max_inclusive=False), exact(1), False),
    ({"constraint_type": "one_of", "values": [1.0]}, {"constraint_type": "one_of", "values": [1, 2]}, True),
    ({"constraint_type": "one_of", "values": [True]}, {"constraint_type": "one_of", "values": [1, 2]}, False),
    ({"constraint_type": "not_one_of", "excluded": [1, 2]}, {"constraint_type": "not_one_of", "excluded": [1]}, True),
    ({"constraint_type": "not_one_of", "excluded": [1]}, {"constraint_type": "not_one_of", "excluded": [1, 2]}, False),
    ({"constraint_type": "contains", "required": ["a", "b"]}, {"constraint_type": "contains", "required": ["b"]}, True),
    ({"constraint_type": "contains", "required": []}, {"constraint_type": "contains", "required": ["b"]}, False),
    ({"constraint_type": "subset", "allowed": []}, {"constraint_type": "subset", "allowed": ["b"]}, True),
    ({"constraint_type": "subset", "allowed": ["a"]}, {"constraint_type": "subset", "allowed": ["b"]}, False),
    (clauses("all", exact(5)), clauses("all", WILDCARD, WILDCARD), True),
    (clauses("all", ranged(min=1, max=2), exact("x")), clauses("all", ranged(min=1), ranged(max=2)), True),
    (clauses("all", ranged(min=1)), clauses("all", ranged(min=1), ranged(max=2)), False),
    (clauses("any", exact("pdf")), clauses("any", {"constraint_type": "one_of", "values": ["pdf", "csv"]}, exact("x")), True),
    (clauses("any", exact("pdf"), exact("docx")), clauses("any", exact("pdf"), exact("csv")), False),
    (clauses("any", clauses("all", exact(1))), clauses("any", exact(1)), False),
]


@pytest.mark.parametrize(("child", "parent", "verdict"), PLAIN, ids=lambda part: repr(part)[:60])
def test_conditions_of_the_table(child: Any, parent: Any, verdict: bool) -> None:
    below, above = (parse_constraint(part, extensions=False) for part in (child, parent))
    assert plain_narrows(below, above) is verdict
    assert not verdict or narrows(below, above)


def test_the_table_has_no_extensions() -> None:
    path = parse_rule({"path": "/srv"}).constraint
    assert plain_narrows(path, parse_constraint(WILDCARD, extensions=False))
    assert not plain_narrows(path, path)


OURS: list[tuple[Any, Any, bool]] = [
    # child, parent, verdict; as policy rules
    ({"exact": "/srv/a"}, {"path": "/srv"}, True),
    ({"exact": "/etc"}, {"path": "/srv"}, False),
    ({"one_of": [1, 2]}, {"range": {"min": 1, "max": 5}}, True),
    ({"one_of": [1, 9]}, {"range": {"min": 1, "max": 5}}, False),
    ({"one_of": ["a"]}, {"exact": "a"}, True),
    ({"exact": "a"}, {"any": [{"exact": "a"}, {"exact": "b"}]}, True),
    ({"exact": "a"}, {"not_one_of": ["b"]}, True),
    ({"exact": 1}, {"type": "integer"}, False),  # `exact: 1` accepts 1.0 as well
    ({"exact": 1, "type": "integer"}, {"type": "integer"}, True),
    ({"exact": 1}, {"type": "number"}, True),
    ({"any": [{"exact": 1}, {"exact": 2}]}, {"one_of": [1, 2, 3]}, True),
    ({"range": {"min": 1, "max": 1}}, {"exact": 1}, True),
    ({"range": {"min": 1, "max": 1}, "not_one_of": [1]}, {"exact": "x"}, True),  # nothing is left
    ({"range": {"min": 1, "max": 2}}, {"type": "number"}, True),
    ({"range": {"min": 1, "max": 2}}, {"type": "integer"}, False),
    ({"type": "integer"}, {"type": "number"}, True),
    ({"type": "integer"}, {"range": {}}, True),
    ({"type": "number"}, {"type": "integer"}, False),
    ({"range": {"min": 5}}, {"not_one_of": [1, "a"]}, True),
    ({"range": {"min": 5}}, {"not_one_of": [5.0]}, False),
    ({"range": {"min": 1}, "max_length": 3}, {"range": {"min": 0}}, True),
    ({"range": {"min": 1, "max": 3}}, {"all": [{"range": {"min": 0}}, {"range": {"max": 4}}]}, True),
    ({"all": [{"range": {"min": 1}}, {"range": {"max": 3}}]}, {"range": {"min": 0}}, True),
    ({"range": {"min": 1}}, {"any": [{"range": {"min": 0}}, {"type": "string"}]}, True),
    ("any", {"any": ["any", {"exact": 1}]}, True),
    ("any", {"not_one_of": []}, True),
    ("any", {"type": "string"}, False),
    ({"subset": []}, {"subset": ["a"]}, True),
    ({"subset": ["a"]}, {"type": "array"}, True),
    ({"type": "array"}, {"contains": []}, True),
    ({"contains": ["a"]}, {"subset": ["a"]}, False),
    ({"subset": ["a"]}, {"not_one_of": ["a", {}]}, True),
    ({"path": "/srv/a"}, {"path": "/srv"}, True),
    ({"path": "/srv"}, {"path": "/"}, True),
    ({"path": "/srvx"}, {"path": "/srv"}, False),
    ({"path": "/srv"}, {"type": "string"}, True),
    ({"path": "/srv"}, {"min_length": 0}, True),
    ({"path": "/srv"}, {"max_length": 4096}, False),
    ({"glob": "/srv/*.txt"}, {"glob": "/srv/*"}, True),
    ({"glob": "/srv/a?"}, {"glob": "/srv/??"}, True),
    ({"glob": "/srv/*"}, {"glob": "/srv/?"}, False),
    ({"glob": "a*b*c"}, {"glob": "a*c"}, True),
    ({"glob": "a*c"}, {"glob": "a*b*c"}, False),
    ({"glob": "a/b"}, {"glob": "*"}, False),
    ({"glob": "*?"}, {"glob": "?*"}, False),  # the same texts, but nothing we can show
    ({"glob": "/srv/*"}, {"path": "/srv"}, False),
    ({"regex": "a+"}, {"regex": "a+"}, True),
    ({"regex": "a"}, {"regex": "a+"}, False),
    ({"exact": "aa"}, {"regex": "a+"}, True),
    ({"regex": "a+"}, {"type": "string"}, True),
    ({"cidr": "10.1.0.0/16"}, {"cidr": "10.0.0.0/8"}, True),
    ({"cidr": "10.0.0.0/8"}, {"cidr": "10.1.0.0/16"}, False),
    ({"cidr": "0.0.0.0/0"}, {"cidr": "::/0"}, False),
    ({"email": {"domains": ["a.example.com"]}}, {"email": {"domains": ["*.example.com"]}}, True),
    ({"email": {"domains": ["*.a.example.com"]}}, {"email": {"domains": ["*.example.com"]}}, True),
    ({"email": {"domains": ["example.com"]}}, {"email": {"domains": ["*.example.com"]}}, False),
    ({"email": {"domains": ["badexample.com"]}}, {"email": {"domains": ["*.example.com", "example.com"]}}, False),
    ({"email": {"domains": ["*.example.com"]}}, {"email": {"domains": ["example.com"]}}, False),
    ({"max_length": 3}, {"max_length": 4}, True),
    ({"max_length": 3}, {"min_length": 0}, True),
    ({"max_length": 5}, {"max_length": 4}, False),
    ({"min_length": 1}, {"max_length": 4}, False),
    ({"max_length": 0}, {"exact": ""}, True),
    ({"type": "boolean"}, {"one_of": [True, False]}, True),
    ({"type": "null"}, {"exact": None}, True),
    ({"type": "object"}, {"type": "array"}, False),
]


@pytest.mark.parametrize(("child", "parent", "verdict"), OURS, ids=lambda part: repr(part)[:60])
def test_what_profile_links_may_narrow(child: Any, parent: Any, verdict: bool) -> None:
    assert narrows(parse_rule(child).constraint, parse_rule(parent).constraint) is verdict


BASE = {"hosts": ["*.example.com", "192.0.2.1"], "schemes": ["https", "http"], "path": "/api", "ports": [443, 8443]}
URL_CHANGES: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"hosts": ["a.example.com"]}, True),
    ({"hosts": ["*.b.example.com", "192.0.2.1"]}, True),
    ({"hosts": ["example.com"]}, False),
    ({"hosts": ["192.0.2.2"]}, False),
    ({"schemes": ["https"]}, True),
    ({"schemes": ["https", "wss"]}, False),
    ({"path": "/api/v1"}, True),
    ({"path": "/apiv1"}, False),
    ({"path": None}, False),
    ({"ports": [443]}, True),
    ({"ports": [8443, 9000]}, False),
    ({"ports": None, "schemes": ["https"]}, True),  # 443 is listed above
    ({"ports": None}, False),  # http on 80 is not
]


@pytest.mark.parametrize(("changes", "verdict"), URL_CHANGES, ids=repr)
def test_urls(changes: dict[str, Any], verdict: bool) -> None:
    members = {name: value for name, value in {**BASE, **changes}.items() if value is not None}
    assert narrows(parse_rule({"url": members}).constraint, parse_rule({"url": BASE}).constraint) is verdict


def test_the_schemes_own_port_may_be_spelled_out() -> None:
    own = parse_rule({"url": {"hosts": ["example.com"]}}).constraint
    spelled = parse_rule({"url": {"hosts": ["example.com"], "ports": [443]}}).constraint
    assert narrows(own, spelled)
    assert narrows(spelled, own)


def test_a_chain_of_narrowings_never_widens() -> None:
    chain: list[Any] = [
        "any",
        {"type": "string"},
        {"path": "/srv"},
        {"path": "/srv/a"},
        {"one_of": ["/srv/a/x", "/srv/a/y"]},
        {"exact": "/srv/a/x"},
    ]
    links = [parse_rule(node).constraint for node in chain]
    assert all(narrows(below, above) for above, below in pairwise(links))
    assert not any(narrows(above, below) for above, below in pairwise(links))


# --- argument maps ---


def a_map(**entries: Any) -> ToolMap:
    tokens = {name: {**parse_rule(rule).to_json()} for name, rule in entries.items() if name != "rest"}
    return parse_tool_map({**tokens, **({"*": WILDCARD} if entries.get("rest") else {})}, extensions=True)


OPTIONAL = {"exact": 1, "optional": True}
ANY = {"wildcard": True, "optional": True}
KEY_RULES: list[tuple[ToolMap, ToolMap, str | None]] = [
    # child, parent, step
    (a_map(a={"exact": 1}), a_map(a={"exact": 1}), None),
    (a_map(a={"exact": 1}, b={"exact": 1}), a_map(a={"exact": 1}), "4p2"),
    (a_map(a={"exact": 1}, b={"exact": 1}), a_map(a={"exact": 1}, rest=True), None),
    (a_map(a={"exact": 1}, b=OPTIONAL), a_map(a={"exact": 1}, rest=True), None),
    (a_map(a={"exact": 1}), a_map(a={"exact": 1}, b=OPTIONAL), None),
    (a_map(a={"exact": 1}), a_map(a={"exact": 1}, b={"exact": 1}), "4p2"),
    (a_map(a={"exact": 1}, rest=True), a_map(a={"exact": 1}, b=OPTIONAL, rest=True), "4p2"),
    (a_map(a={"exact": 1}, rest=True), a_map(a={"exact": 1}), "4p2"),
    (a_map(rest=True), a_map(a=ANY, rest=True), "4p2"),
    (a_map(rest=True), a_map(rest=True), None),
    (a_map(a=OPTIONAL), a_map(a={"exact": 1}), "4p3"),
    (a_map(a={"exact": 1}), a_map(a=OPTIONAL), None),
    (a_map(a={"exact": 2}), a_map(a={"exact": 1}), "4p4"),
    (a_map(a="any"), a_map(a={"exact": 1}, rest=True), "4p4"),
]


@pytest.mark.parametrize("profile", [True, False])
@pytest.mark.parametrize(("child", "parent", "step"), KEY_RULES)
def test_key_rules(child: ToolMap, parent: ToolMap, step: str | None, profile: bool) -> None:
    found = map_narrows(child, parent, profile=profile)
    assert (found and found[0]) == step
    assert found is None or found[1]


def test_the_empty_map_is_compared_as_the_open_map() -> None:
    closed, opened = a_map(a=OPTIONAL), parse_tool_map({}, extensions=False)
    assert map_narrows(closed, opened, profile=False) is None
    assert map_narrows(opened, closed, profile=False) == ("4p2", "'a' is left out, but the parent restricts it")


def test_wider_rules_hold_between_profile_links_only() -> None:
    child, parent = a_map(a={"exact": "/srv/x"}), a_map(a={"path": "/srv"})
    assert map_narrows(child, parent, profile=True) is None
    refused = map_narrows(child, parent, profile=False)
    assert refused is not None
    assert refused[0] == "4p4"


def test_no_arguments_narrows_every_map_that_admits_the_empty_call() -> None:
    for parent in (a_map(a=OPTIONAL), a_map(a=ANY, b=ANY), a_map(rest=True), NO_ARGUMENTS):
        assert map_narrows(NO_ARGUMENTS, parent, profile=True) is None
    required = map_narrows(NO_ARGUMENTS, a_map(a={"exact": 1}), profile=True)
    assert required is not None  # the empty call is none of the parent's
    assert required[0] == "4p2"
    plain = map_narrows(NO_ARGUMENTS, a_map(a=OPTIONAL), profile=False)
    assert plain is not None
    assert plain[0] == "4p2"


def test_emptiness_is_seen_through_composites() -> None:
    assert is_empty(NO_ARGUMENTS.named["_"].constraint)
    assert is_empty(parse_rule({"one_of": [1, "a"], "range": {"min": 5}}).constraint)
    assert is_empty(parse_rule({"any": [{"exact": 1, "type": "string"}, {"exact": "a", "type": "null"}]}).constraint)
    assert not is_empty(parse_rule({"exact": 1}).constraint)
    assert not is_empty(parse_rule("any").constraint)
