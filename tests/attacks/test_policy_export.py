"""Ways to have Cedar allow what the policy refuses: names that end a literal, patterns that are none, requests that leave things out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentguard.analysis.cedar import Export, export
from agentguard.call import ToolCall
from agentguard.canonical import jcs
from agentguard.errors import InvalidInput
from agentguard.policy import load

cedarpy = pytest.importorskip("cedarpy", reason="cedarpy belongs to the dev extra")

EVERYTHING = "permit(principal,action,resource);"


def made(agents: Any, **more: Any) -> Export:
    document = {"agentguard": 1, "name": "p", "agents": agents, **more}
    found = export(load(jcs(document).decode() + "\n"))
    valid = cedarpy.validate_policies(found.policies, found.schema)
    assert valid.validation_passed, [error.error for error in valid.errors]
    return found


def allows(found: Export, request: dict[str, Any], *, schema: bool = True) -> bool:
    answer = cedarpy.is_authorized(request, found.policies, [], found.schema if schema else None)
    return bool(answer.decision is cedarpy.Decision.Allow)


def asks(found: Export, agent: str, tool: str, arguments: Any) -> bool:
    return allows(found, found.request(ToolCall(agent, tool, arguments)))


@pytest.mark.parametrize(
    "name",
    [
        f'x");{EVERYTHING}//',
        f'x",action,resource);{EVERYTHING}@id("y',
        "x\\",
        '\\"',
        "\\u{22}",
        "x*",
        "?principal",
        "//x",
        "/*x",
        '${"x"}',
    ],
)
def test_a_name_stays_a_name(name: str) -> None:
    found = made({name: {"tools": {name: {name: {"exact": name}}}}, "other": {"tools": {"t": {}}}})
    assert asks(found, name, name, {name: name})
    assert not asks(found, name, name, {name: "x"})
    assert not asks(found, "x", name, {name: name})
    assert not asks(found, "other", name, {name: name})
    assert found.policies.count("\npermit (") + found.policies.startswith("permit") == 2


@pytest.mark.parametrize("text", [f'x"\n{EVERYTHING}', '\\";\n}', "*", "\\*", "x\\", "\u00e9", "\U0001f600", "{}", "%s"])
def test_a_constant_stays_a_constant(text: str) -> None:
    found = made(
        {"a": {"tools": {"t": {"x": {"one_of": [text, 1]}}, "u": {"x": {"contains": [text]}}, "v": {"x": {"not_one_of": [text]}}}}}
    )
    for other in ("", "x", text + "x", text[1:], "anything"):
        assert asks(found, "a", "t", {"x": other}) == (other == text)
        assert asks(found, "a", "u", {"x": [other]}) == (other == text)
        assert asks(found, "a", "v", {"x": other}) == (other != text)
    assert asks(found, "a", "t", {"x": text})
    assert asks(found, "a", "u", {"x": ["x", text]})
    assert not asks(found, "a", "v", {"x": text})


def test_a_star_that_is_a_letter_matches_a_star_only() -> None:
    found = made({"a": {"tools": {"t": {"x": {"path": "/srv/*"}}, "u": {"x": {"regex": r"a\*.*"}}}}})
    assert asks(found, "a", "t", {"x": "/srv/*/b"})
    assert not asks(found, "a", "t", {"x": "/srv/secret/b"})
    assert asks(found, "a", "u", {"x": "a*b"})
    assert not asks(found, "a", "u", {"x": "ab"})


def test_a_line_end_in_a_file_name_or_a_reason_ends_no_comment(tmp_path: Path) -> None:
    file = tmp_path / f"p\n{EVERYTHING}\n.yaml"
    reason = f'no"\\n); {EVERYTHING}'
    agents = "agents: {a: {tools: {t: {}, u: {x: {regex: '[a-z0-9]*'}}}}}"
    file.write_text(f"agentguard: 1\nname: p\n{agents}\nforbid: [{{tool: t, reason: '{reason}'}}]\n")
    found = export(load(file))
    assert cedarpy.validate_policies(found.policies, found.schema).validation_passed
    assert not asks(found, "a", "t", {})
    assert not asks(found, "a", "u", {"x": "a"})
    assert not asks(found, "b", "b", {})


@pytest.mark.parametrize("name", ["__extn", "__entity", "__expr"])
def test_an_argument_that_cedar_reads_as_something_else(name: str) -> None:
    """`{"__extn": {"fn": ..., "arg": ...}}` in a request is no record: a caller could make one out of a whole map of arguments."""
    found = made(
        {"a": {"tools": {"t": {name: "any"}, "u": {"x": {"exact": 1}}, "v": {"*": "any"}}}}, tools={"v": {"unsafe_any_arguments": True}}
    )
    value = {"fn": "decimal", "arg": "1.0"}
    assert [rule.tool for rule in found.left_out] == ["t"]
    assert not asks(found, "a", "t", {name: value})
    assert not asks(found, "a", "u", {"x": 1, name: value})
    assert asks(found, "a", "v", {name: value})
    assert asks(found, "a", "u", {"x": 1})


@pytest.mark.parametrize("schema", [True, False])
def test_a_request_that_leaves_something_out_is_refused(schema: bool) -> None:
    """Whoever builds requests without this library may forget a fact: that never widens."""
    found = made({"a": {"tools": {"t": {"x": {"range": {"min": 1}}, "y": {"max_length": 3, "optional": True}}}}})
    good = found.request(ToolCall("a", "t", {"x": 1, "y": "abc"}))
    assert allows(found, good, schema=schema)
    context = good["context"]
    for broken in (
        {**context, "arguments": {"y": context["arguments"]["y"]}},  # a required argument
        {**context, "arguments": {"x": context["arguments"]["x"]}},  # an optional one, which is named
        {**context, "names": ["x", "y", "z"]},  # one that nobody knows
        {**context, "arguments": {**context["arguments"], "y": {"kind": "string", "text": "abcd"}}},  # how long it is
        {**context, "arguments": {**context["arguments"], "x": {"kind": "integer", "json": "1"}}},  # where it lies
        {"arguments": context["arguments"], "environment": {}},  # which there are
    ):
        assert not allows(found, {**good, "context": broken}, schema=schema)


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ({"email": {"domains": ["example.com"]}}, "eve@evil.test,bob@example.com"),
        ({"email": {"domains": ["*.example.com"]}}, "bob@.example.com"),
        ({"path": "/srv"}, "/srv/../etc/passwd"),
        ({"glob": "/srv/*/x"}, "/srv/a/b/x"),
        ({"glob": "/srv/*/x"}, "/srv/../x"),
        ({"glob": "*"}, ".."),
        ({"url": {"hosts": ["*.example.com"]}}, "https://evil.test/.example.com"),
        ({"url": {"hosts": ["example.com"]}}, "https://example.com@evil.test/"),
        ({"url": {"hosts": ["example.com"]}}, "https://example.com:8443/"),
        ({"cidr": "10.0.0.0/8"}, "::ffff:10.0.0.1"),
        ({"cidr": "::/0"}, "10.0.0.1"),
        ({"regex": r".*\.md"}, "a.sh\n.md"),
        ({"regex": "a[0-9]+"}, "b7"),
        ({"regex": "T-[0-9]{1,8}"}, "T-\u0661"),
        ({"regex": "T-[0-9]{1,8}"}, "X-1"),
        ({"regex": "T-[0-9]+"}, "T-"),
        ({"exact": True}, 1),
        ({"exact": 1}, True),
        ({"exact": "1"}, 1),
        ({"exact": None}, "null"),
        ({"type": "integer"}, 1.0),
        ({"range": {"max": 1}}, 1.00001),
        ({"range": {"max": 0.3}}, 0.30000000000000004),
        ({"range": {"min": 0, "min_inclusive": False}}, 5e-324 * 0),
        ({"range": {"max": 2**53}}, 1e300),
        ({"range": {"min": -(2**53)}}, -1e300),
        ({"subset": ["a"]}, ["a", "b"]),
        ({"subset": []}, [[]]),
        ({"contains": [1]}, ["1"]),
    ],
)
def test_what_a_plain_translation_would_let_through(rule: Any, value: Any) -> None:
    found = made({"a": {"tools": {"t": {"x": rule}}}})
    assert not found.left_out
    assert not asks(found, "a", "t", {"x": value})


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"where": {"t": ["x + y < 3"]}}, "where"),
        ({"hours": [{"days": ["mon"], "from": "08:00", "to": "18:00", "zone": "UTC"}]}, "hours"),
        ({"sequence": [{"tool": "t", "at_most": 1}]}, "sequence"),
        ({"sequence": [{"tool": "u", "before": "t"}]}, "sequence"),
        ({"sequence": [{"tool": "t", "only_after_approval": True}]}, "approval"),
        ({"approval": [{"tool": "t"}]}, "approval"),
        ({"approval": [{"tool": "t", "when": "x == y"}]}, "approval"),
    ],
)
def test_what_cedar_cannot_say_is_left_out(members: Any, word: str) -> None:
    found = made({"a": {"tools": {"t": {"x": "any", "y": "any"}, "u": {}}, **members}})
    assert [(rule.tool, rule.why.split(":")[0]) for rule in found.left_out if rule.tool == "t"] == [("t", word)]
    assert not asks(found, "a", "t", {"x": 1, "y": 2})


def test_a_tool_whose_approval_is_asked_everywhere_is_left_out() -> None:
    found = made({"a": {"tools": {"t": {}}}}, tools={"t": {"approval": {"by": ["user:carol"]}}})
    assert [rule.why for rule in found.left_out] == ["approval: Cedar asks nobody"]
    assert not asks(found, "a", "t", {})


def test_an_environment_that_cedar_cannot_ask_for_leaves_everything_out() -> None:
    found = made({"a": {"tools": {"t": {}}}}, environment={"host": {"regex": "[0-9a-f]{12}"}})
    assert not found.exported
    assert found.left_out[0].why.startswith("environment.host: the regex")


def test_a_call_that_is_none_has_no_request() -> None:
    found = made({"a": {"tools": {"t": {}}}})
    with pytest.raises(InvalidInput, match="not well-formed"):
        found.request(ToolCall("a b", "t", {}))


@pytest.mark.parametrize(
    ("where", "arguments", "holds"),
    [
        ("not (x < 2.5)", {"x": 2.5}, True),
        ("not (x <= 2.5)", {"x": 2.5}, False),
        ("not (x > 2)", {"x": 2}, True),
        ("not (x >= 2)", {"x": 2.0}, False),
        ("not (x < 2)", {"x": "a"}, False),  # an error fails the condition, and what stands around it
        ("not (x < 2)", {}, False),
        ('not starts_with(x, "a")', {"x": 1}, False),
        ('not (x == "a")', {}, False),
        ("not x", {"x": 0}, False),
        ("not x", {"x": False}, True),
        ("has(x) or y == 1", {"y": 1}, True),
        ("x < 2 or y == 1", {"x": "a", "y": 1}, False),
        ("y == 1 or x < 2", {"x": "a", "y": 1}, True),
        ("not (y == 1 and x < 2)", {"x": "a", "y": 2}, True),
        ("not (x < 2 and y == 1)", {"x": "a", "y": 2}, False),
        ("x != y", {"x": 1, "y": 1.0}, False),
        ("x != y", {"x": 1, "y": True}, True),
        ('contains(x, "*")', {"x": "ab"}, False),
    ],
)
def test_a_condition_is_neither_true_nor_false_where_it_meets_an_error(where: str, arguments: Any, holds: bool) -> None:
    optional = {"wildcard": True, "optional": True}
    found = made({"a": {"tools": {"t": {"x": optional, "y": optional}}, "where": {"t": [where]}}})
    assert not found.left_out
    assert asks(found, "a", "t", arguments) == holds
