"""Differences between policies: by meaning, with examples that the two policies judge differently."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentguard.canonical import freeze, jcs, parse
from agentguard.policy import load
from agentguard.policy.model import Policy

pytest.importorskip("z3", reason="z3 belongs to the prove extra")

from agentguard.analysis.changes import Change
from agentguard.analysis.diff import differences
from agentguard.analysis.search import Search

BASE = """\
agentguard: 1
name: base
agents:
  triage:
    tools:
      send: {to: {email: {domains: [example.com]}}, body: {max_length: 40}}
      search: {query: any, limit: {range: {min: 1, max: 50}, optional: true}}
    budgets: [{calls: 50, per: task}]
    delegates: {helper: {depth: 1}}
  helper:
    tools: {read: {path: {path: /srv}}}
    delegates: {other: {depth: 1}}
  other: {}
forbid: [{tool: "delete_*"}]
tools: {search: {rerun: safe}}
environment: {region: {one_of: [eu, us]}}
"""


def changes(old: str | Policy, new: str | Policy, **limits: Any) -> list[Change]:
    policies = [load(each) if isinstance(each, str) else each for each in (old, new)]
    return list(differences(policies[0], policies[1], lambda: Search(**limits)))


def change(before: str, after: str) -> list[Change]:
    """The differences that replacing a piece of `BASE` makes."""
    assert before in BASE
    return changes(BASE, BASE.replace(before, after, 1))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("name: base", "name: other  # and a comment"),
        ("{max_length: 40}", "{all: [{max_length: 40}, {any: [{max_length: 41}, {exact: x}]}]}"),
        ("{range: {min: 1, max: 50}, optional: true}", "{all: [{range: {max: 50}}, {range: {min: 1.0}}], optional: true}"),
        ("{email: {domains: [example.com]}}", '{email: {domains: [example.com]}, regex: "[^@]+@example\\\\.com"}'),
        ("{path: {path: /srv}}", "{path: {any: [{path: /srv}, {path: /srv/a, max_length: 10}, {exact: /srv/b}]}}"),
        ('[{tool: "delete_*"}]', '[{tool: "delete_*"}, {tool: delete_user}, {tool: "delete_?", agent: triage}]'),
        ("{one_of: [eu, us]}", "{any: [{exact: us}, {exact: eu}]}"),
        ("delegates: {other: {depth: 1}}", "delegates: {other: {depth: 5}}"),  # nobody can go further than other
    ],
)
def test_another_way_to_say_the_same_is_no_difference(before: str, after: str) -> None:
    assert change(before, after) == []


def test_groups_and_tags_are_the_same_as_what_they_stand_for() -> None:
    whole = """\
agentguard: 1
name: p
agents:
  one: {tools: {read: {path: any}, write: {path: any, text: {max_length: 9}}}}
  two: {tools: {read: {path: any}}}
forbid: [{tool: purge}]
tools: {read: {tags: [r]}, write: {tags: [w]}, purge: {tags: [gone]}}
"""
    grouped = """\
agentguard: 1
name: q
groups:
  readers: {tools: {read: {path: any}}}
agents:
  one: {groups: [readers], tools: {write: {path: any, text: {all: [{max_length: 9}]}}}}
  two: {groups: [readers]}
forbid: [{tag: gone}]
tools: {read: {tags: [r]}, write: {tags: [w]}, purge: {tags: [gone]}}
"""
    assert changes(whole, grouped) == []
    (lost,) = changes(
        grouped,
        grouped.replace("{read: {path: any}}", "{read: {path: {path: /srv}}}").replace(
            "two: {groups: [readers]}", "two: {tools: {read: {path: any}}}"
        ),
    )
    assert (lost.agent, lost.tool, lost.allowed) == ("one", "read", False)


def test_an_argument_that_widens_and_one_that_narrows() -> None:
    gained, lost = changes(BASE, BASE.replace("max: 50}", "max: 60}").replace("max_length: 40", "max_length: 30"))
    assert (gained.agent, gained.tool, gained.argument, gained.allowed) == ("triage", "search", "limit", True)
    assert gained.summary() == (
        "triage search, argument limit: was a number at least 1 and at most 50, or left out, "
        "now a number at least 1 and at most 60, or left out"
    )
    assert gained.example == {"agent": "triage", "tool": "search", "arguments": {"limit": 60, "query": "x"}}
    assert (gained.old_place, gained.new_place) == ("<policy>:7", "<policy>:7")
    assert (lost.agent, lost.tool, lost.argument, lost.allowed) == ("triage", "send", "body", False)
    assert lost.summary().endswith("was at most 40 characters, now at most 30 characters")
    assert 30 < len(lost.example["arguments"]["body"]) <= 40


def test_one_argument_may_widen_and_narrow_at_once() -> None:
    found = change("{min: 1, max: 50}", "{min: 2, max: 51}")
    assert [(each.argument, each.allowed) for each in found] == [("limit", True), ("limit", False)]


def test_an_argument_that_need_not_be_there_any_more() -> None:
    (gained,) = change("body: {max_length: 40}", "body: {max_length: 40, optional: true}")
    assert gained.summary() == "triage send, argument body: was needed, now may be left out"
    assert "body" not in gained.example["arguments"]


def test_a_new_argument_and_any_argument() -> None:
    (gained,) = change("body: {max_length: 40}", "body: {max_length: 40}, cc: {max_length: 3, optional: true}")
    assert (gained.argument, gained.old, gained.new) == ("cc", "not an argument", "at most 3 characters, or left out")
    hole = BASE.replace("{path: {path: /srv}}", '{path: {path: /srv}, "*": any}')
    hole = hole.replace("{search: {rerun: safe}}", "{search: {rerun: safe}, read: {unsafe_any_arguments: true}}")
    call, attribute = changes(BASE, hole)
    assert (call.argument, call.allowed) == ("other0", True)
    assert (attribute.kind, attribute.tool, attribute.allowed) == ("attribute", "read", True)


def test_a_tool_that_is_given_taken_and_forbidden() -> None:
    (given,) = change("tools: {read: {path: {path: /srv}}}", "tools: {read: {path: {path: /srv}}, ping: {}}")
    assert given.summary() == "helper ping: was not one of its tools, now one of its tools"
    taken, forbidden = change('"delete_*"}', '"delete_*"}, {tool: "rea?"}')
    assert (taken.tool, taken.allowed, taken.new, taken.new_place) == ("read", False, "forbidden", "<policy>:14")
    assert (forbidden.kind, forbidden.allowed, forbidden.tool, forbidden.new) == ("forbid", None, "rea?", "forbidden")
    assert not load(BASE).forbid.first("a", forbidden.example)


def test_a_forbid_rule_for_one_agent_forbids_less_than_one_for_all() -> None:
    (less,) = change('{tool: "delete_*"}', '{tool: "delete_*", agent: triage}')
    assert (less.old, less.new) == ("forbidden", "not forbidden")
    assert change('{tool: "delete_*"}', '{tool: "delete_*", agent: "*"}') != [], "an agent's glob stops at a slash"


def test_delegates_count_by_the_chains_that_they_make() -> None:
    (gained,) = change("{helper: {depth: 1}}", "{helper: {depth: 2}}")
    assert (gained.kind, gained.allowed, gained.example) == ("delegation", True, ["triage", "helper", "other"])
    (lost,) = change("delegates: {other: {depth: 1}}", "delegates: {}")
    assert (lost.allowed, lost.example, lost.new) == (False, ["helper", "other"], "no delegate")


def test_a_chain_that_shows_a_difference_takes_the_delegates_that_lead_far_enough() -> None:
    text = BASE.replace("delegates: {other: {depth: 1}}", "delegates: {near: {depth: 1}, other: {depth: 2}}")
    text = text.replace("  other: {}\n", "  other: {delegates: {last: {depth: 1}}}\n  near: {delegates: {last: {depth: 1}}}\n  last: {}\n")
    old, new = text.replace("{helper: {depth: 1}}", "{helper: {depth: 2}}"), text.replace("{helper: {depth: 1}}", "{helper: {depth: 3}}")
    (gained,) = changes(old, new)
    assert gained.example == ["triage", "helper", "other", "last"]


@pytest.mark.parametrize(
    ("before", "after", "allowed", "new"),
    [
        ("calls: 50", "calls: 51", True, "at most 51 calls per task"),
        ("calls: 50", "calls: 49", False, "at most 49 calls per task"),
        ("[{calls: 50, per: task}]", "[]", True, "no limit of calls per task"),
    ],
)
def test_budgets(before: str, after: str, allowed: bool, new: str) -> None:
    (found,) = change(before, after)
    assert (found.kind, found.agent, found.allowed, found.new) == ("budget", "triage", allowed, new)


def test_attributes_and_environment_and_agents() -> None:
    (proof,) = change("rerun: safe", "rerun: safe, proof: required")
    assert (proof.kind, proof.allowed, proof.new) == ("attribute", False, "proof required: yes")
    (tags,) = change("rerun: safe", "rerun: safe, tags: [read]")
    assert (tags.kind, tags.allowed, tags.new) == ("attribute", None, "tagged read")
    (place,) = change("[eu, us]", "[eu]")
    assert (place.kind, place.allowed, place.example) == ("environment", False, {"region": "us"})
    (agent,) = change("  other: {}\n", "  other: {}\n  more: {}\n")
    assert (agent.kind, agent.allowed, agent.agent, agent.new) == ("agent", None, "more", "known")


def test_every_example_is_judged_differently() -> None:
    new = BASE.replace("[example.com]", '["*.example.com"]').replace("/srv", "/srv/a").replace("[eu, us]", "[eu, asia]")
    found = changes(BASE, new)
    old, policy = load(BASE), load(new)
    assert {each.kind for each in found} == {"call", "environment"}
    assert {each.allowed for each in found} == {True, False}
    for each in found:
        if each.kind == "call":
            arguments = freeze(each.example["arguments"])
            judged = [one.judge(each.agent, each.tool, arguments) is None for one in (old, policy)]
        else:
            judged = [one.judge_environment(each.example) is None for one in (old, policy)]
        assert judged == [not each.allowed, each.allowed]


# --- what is not decided --------------------------------------------------------------------------------------------------------------


def test_what_is_not_read_is_a_difference_that_is_not_sure() -> None:
    policy = load(BASE)
    strange = replace(policy, canonical=jcs({**parse(policy.canonical), "sequence": [1]}), digest="sha256:other")
    (unknown,) = changes(policy, strange)
    assert not unknown.sure
    assert "sequence" in unknown.why
    assert changes(strange, replace(strange)) == [], "the same policy is the same, whatever it says"


def test_limits_give_unknown_differences_and_never_none() -> None:
    (unknown, *_) = changes(BASE, BASE.replace("{path: /srv}", '{path: /srv, regex: "/.*"}'), steps=0)
    assert (unknown.agent, unknown.tool, unknown.sure) == ("helper", "read", False)
    assert unknown.to_json()["sure"] is False


def test_an_example_that_cannot_be_confirmed_is_not_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "judge", lambda *rest: None)
    (unknown,) = change("max: 50}", "max: 60}")
    assert unknown.why == "an example could not be confirmed"
