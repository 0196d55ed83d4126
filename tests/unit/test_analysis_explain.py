"""Explanations: every reason with its place, what was meant, who else may, what would have to change, and what is charged and asked."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.analysis.edits import widened
from agentguard.analysis.explain import Circumstances, Explanation, explain
from agentguard.analysis.near import near
from agentguard.call import ToolCall
from agentguard.canonical import freeze
from agentguard.constraints.rules import parse_rule
from agentguard.policy import load

POLICY = load(
    """agentguard: 1
name: pay
agents:
  triage:
    tools:
      send_email: {to: {email: {domains: [example.com]}}, subject: any, body: {max_length: 10}}
      search: {query: {not_one_of: [root]}, limit: {range: {min: 1, max: 50}, optional: true}}
    delegates: {billing: {depth: 1}}
  billing:
    tools:
      send_email: {to: any, subject: any, body: any}
      send_money: {amount: {range: {min: 1, max: 500}}, from: any, to: any}
      check_balance: {}
    where: {send_money: ["to != from", "amount != 13"]}
    hours: [{days: [mon], from: "08:00", to: "18:00", zone: UTC, tools: [send_money]}]
    sequence: [{tool: check_balance, before: send_money}, {tool: send_money, at_most: 1}]
    approval: [{tool: send_money, when: "amount > 100", by: ["user:carol"]}]
    budgets: [{calls: 5, per: task}, {cost: amount, tool: send_money, limit: 200, per: task}]
    unsafe_shadow: {until: "2027-01-01", tools: [send_money]}
  auditor: {tools: {drop: {}}}
sequence: [{tool: send_email, never_after: drop}]
forbid: [{tool: "dr*", reason: nothing is dropped}, {tool: drop, agent: auditor}]
environment: {deployment: {one_of: [prod]}}
"""
)
MONDAY = 4 * 86_400 + 9 * 3600
MAIL = {"to": "bob@example.com", "subject": "Hi", "body": "x"}
MONEY = {"amount": 50, "from": "a", "to": "b"}


def of(agent: str, tool: str, arguments: Any, **under: Any) -> Explanation:
    if "environment" in under:
        under["environment"] = freeze(under["environment"])
    return explain(POLICY, ToolCall(agent, tool, arguments), Circumstances(**under))


def against(found: Explanation) -> list[tuple[str, str, str]]:
    return [(str(one.reason.code), one.reason.subject, one.reason.place) for one in found.against]


def test_an_allowed_call_names_its_rule_and_what_it_charges() -> None:
    found = of("billing", "send_money", MONEY, now=MONDAY, after=("check_balance",))
    assert found.decision.allowed
    assert found.place == "<policy>:12"
    assert found.against == found.edits == ()
    assert [(said.words, said.place, said.holds) for said in found.said["budgets"]] == [
        ("1 of 5 calls per task", "<policy>:18", True),
        ("50 of 200 amount of send_money per task", "<policy>:18", True),
    ]
    assert [(said.words, said.holds) for said in found.said["sequence"]] == [
        ("check_balance before send_money", True),
        ("at most 1 of send_money", True),
    ]
    (asked,) = found.said["approval"]
    assert (asked.words, asked.holds) == ("approval by user:carol, within 15m, when amount > 100", False)
    assert [said.holds for said in found.said["hours"]] == [True]
    assert [said.place for said in found.said["shadow"]] == ["<policy>:19"]


def test_every_failing_argument_is_told_and_not_only_the_first() -> None:
    found = of("triage", "send_email", {"to": "eve@evil.test", "body": "x" * 20, "subjec": "Hi"})
    assert against(found) == [("argument_not_allowed", name, "<policy>:6") for name in ("body", "subject", "to", "subjec")]
    assert [one.near for one in found.against] == [("x" * 10,), ("x",), ("eve@example.com",), ()]
    assert found.against[3].meant == "subject"
    assert found.edited is not None
    assert found.edited[1].allowed
    assert found.decision.reasons == (found.against[0].reason,)


def test_all_that_stands_against_a_call_in_the_order_of_the_stages() -> None:
    call = {"amount": 700, "from": "a", "to": "a"}
    found = of("billing", "send_money", call, environment={}, through=("auditor", "billing"), now=0)
    assert [code for code, _, _ in against(found)] == [
        "environment_mismatch",
        "delegation_not_allowed",
        "argument_not_allowed",  # the amount
        "argument_not_allowed",  # to != from
        "tool_not_allowed",  # the hours
        "sequence_violation",
        "approval_required",
    ]
    assert found.decision.code == "environment_mismatch"
    assert [said.holds for said in found.said["budgets"]] == [True, False]
    assert [said.words for said in found.said["delegation"]] == ["auditor may not delegate to billing"]


def test_what_came_before_counts() -> None:
    assert against(of("billing", "send_money", MONEY)) == [("sequence_violation", "send_money", "<policy>:16")]
    twice = of("billing", "send_money", MONEY, after=("check_balance", "send_money"))
    assert [one.reason.required for one in twice.against] == ["at most 1 of send_money"]
    assert of("billing", "send_money", MONEY, after=("check_balance",)).decision.allowed


def test_an_ask_says_who() -> None:
    found = of("billing", "send_money", {**MONEY, "amount": 101}, after=("check_balance",))
    assert found.decision.verdict == "ask"
    assert found.against[0].reason.required == "approval by user:carol"
    assert found.edits == ()


def test_a_budget_that_cannot_count_says_so() -> None:
    (calls, cost) = of("billing", "send_money", {**MONEY, "amount": "much"}).said["budgets"]
    assert calls.holds
    assert cost.words.startswith("amount of send_money per task: required a number from 0 in amount")
    assert cost.words.endswith("found 'much'")
    assert cost.holds is False


def test_a_condition_on_one_argument_is_not_taken_for_its_rule() -> None:
    found = of("billing", "send_money", {**MONEY, "amount": 13}, after=("check_balance",))
    assert [(one.reason.required, one.near) for one in found.against] == [("amount != 13", ())]


def test_other_agents_that_may_make_the_very_call() -> None:
    found = of("triage", "send_email", {**MAIL, "to": "eve@evil.test"})
    (other,) = found.others
    assert other.to_json() == {"agent": "billing", "verdict": "allow", "place": "<policy>:11", "reached": True}
    assert [other.agent for other in of("auditor", "send_email", MAIL).others] == ["billing", "triage"]
    assert not any(other.reached for other in of("auditor", "send_email", MAIL).others)
    assert of("triage", "drop", {}).others == ()


@pytest.mark.parametrize(
    ("agent", "tool", "meant"),
    [("triag", "search", "triage"), ("triage", "send_mail", "send_email"), ("nobody", "x", ""), ("triage", "zzz", "")],
)
def test_a_name_that_was_meant(agent: str, tool: str, meant: str) -> None:
    assert of(agent, tool, {}).against[0].meant == meant


def test_forbidden_wins_and_no_edit_helps() -> None:
    found = of("auditor", "drop", {})
    assert [(rule.tool, rule.place) for rule in found.forbidden] == [("dr*", "<policy>:22"), ("drop", "<policy>:22")]
    assert found.edits == ()
    assert found.edited is None
    assert found.against[0].meant == ""


def test_an_agent_or_a_tool_that_has_no_rule_gets_the_narrowest() -> None:
    (edit,) = of("newcomer", "search", {"query": "x", "limit": 1}).edits
    assert (edit.where, edit.write) == ("agents.newcomer", '{tools: {"search": {"query": {exact: "x"}, "limit": {exact: 1}}}}')
    found = of("triage", "archive", {"ids": [1, 2]})
    assert [(edit.where, edit.write) for edit in found.edits] == [("agents.triage.tools.archive", '{"ids": {one_of: [[1, 2]]}}')]
    assert found.edited is not None
    assert found.edited[0].judge("triage", "archive", {"ids": [1, 2, 3]}) is not None


def test_a_call_that_is_none_is_explained_as_that() -> None:
    found = of("tri age", "search", {})
    assert against(found) == [("malformed_call", "search", "")]
    assert found.edited is None
    assert found.others == ()


@pytest.mark.parametrize("arguments", [{"query": "a\u202eb", "limit": 99}, {"qu\u202ery": 1}, {"*": 1}, {"query": "x", "limit": 10**400}])
def test_what_no_policy_may_hold_makes_no_edit(arguments: Any) -> None:
    found = of("triage", "search", arguments)
    assert not found.decision.allowed
    assert found.edited is None or found.edited[0].agents["triage"].tools["search"].map.check(found.call.arguments) is None


def test_nobody_is_told_how_to_get_around_an_exclusion() -> None:
    assert near(parse_rule({"not_one_of": ["root"]}).constraint, "root") == ("x",)


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ({"one_of": ["prod", "staging", "dev"]}, "production", ("prod",)),
        ({"range": {"min": 1, "max": 50}}, 99, (50,)),
        ({"range": {"min": 1, "max": 50, "max_inclusive": False}}, 99, (49,)),
        ({"range": {"min": 1, "max": 50}}, " 7", (7,)),
        ({"type": "integer"}, 7.0, (7,)),
        ({"type": "string"}, 7, ("7",)),
        ({"email": {"domains": ["example.com", "x.org"]}}, "Eve@evil.test", ("Eve@example.com", "Eve@x.org")),
        ({"email": {"domains": ["example.com"]}}, "bob@EXAMPLE.com ", ("bob@example.com",)),
        ({"url": {"hosts": ["*.wikipedia.org"]}}, "http://en.wikipedia.org/x", ("https://en.wikipedia.org/x",)),
        ({"path": "/srv/tickets"}, "/etc/../srv/tickets/7", ("/srv/tickets/7",)),
        ({"regex": "T-[0-9]+"}, "t-7", ("T-7",)),
        ({"max_length": 5}, "hello world", ("hello",)),
        ({"subset": ["a", "b"]}, ["a", "c"], (("a",),)),
        ({"contains": ["reviewed"]}, ["a"], (("a", "reviewed"),)),
        ({"all": [{"path": "/srv"}, {"regex": ".*\\.md"}]}, "/x/a.md", ("/srv/a.md",)),
        ({"any": [{"exact": "latest"}, {"range": {"max": 3}}]}, 9, (3,)),
    ],
)
def test_the_nearest_value_that_passes(rule: Any, value: Any, expected: tuple[Any, ...]) -> None:
    found = near(parse_rule(rule).constraint, freeze(value))
    assert set(expected) <= set(found)
    assert found[0] in expected or type(found[0]) is str


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ({"exact": "a"}, "b", {"one_of": ["a", "b"]}),
        ({"one_of": ["a", 1]}, [2], {"one_of": ["a", 1, [2]]}),
        ({"not_one_of": ["root", "admin"]}, "root", {"not_one_of": ["admin"]}),
        ({"not_one_of": ["root"]}, "root", "any"),
        ({"range": {"min": 1, "max": 5, "max_inclusive": False}}, 5, {"range": {"min": 1, "max": 5}}),
        ({"range": {"min": 1}}, 0.5, {"range": {"min": 0.5}}),
        ({"range": {"min": 1}}, "x", {"any": [{"range": {"min": 1}}, {"exact": "x"}]}),
        ({"min_length": 2, "max_length": 3}, "a", {"min_length": 1, "max_length": 3}),
        ({"subset": ["a"]}, ["b", "a", "b"], {"subset": ["a", "b"]}),
        ({"contains": ["a", "b"]}, ["a"], {"contains": ["a"]}),
        ({"type": "integer"}, 1.0, {"type": "number"}),
        ({"path": "/srv", "max_length": 6}, "/srv/abc", {"path": "/srv", "max_length": 8}),
        ({"any": [{"exact": 1}, {"path": "/srv"}]}, True, {"any": [{"exact": 1}, {"path": "/srv"}, {"exact": True}]}),
    ],
)
def test_the_smallest_rule_that_admits_a_value(rule: Any, value: Any, expected: Any) -> None:
    assert widened(parse_rule(rule).constraint, freeze(value)) == expected
