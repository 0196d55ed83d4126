"""What `policy check` tells a reviewer: rules that are never met or never matter, delegates that gain, tools that no lock knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentguard.analysis.absent import never_holds
from agentguard.analysis.review import Notice, review
from agentguard.analysis.vacuous import contradiction, idle
from agentguard.constraints.rules import parse_rule
from agentguard.policy.compile import compile_document
from agentguard.policy.conditions import parse_condition
from agentguard.policy.imports import read_policy
from agentguard.tools.integrity import Lock

POLICIES = Path(__file__).resolve().parents[2] / "policies"
FILES = sorted(path for path in POLICIES.glob("*.yaml") if path.suffixes == [".yaml"])


def reviewed(agents: str, more: str = "", lock: Lock | None = None) -> list[Notice]:
    document = read_policy(f"agentguard: 1\nname: p\nagents:\n{agents}\n{more}\n").document
    return list(review(compile_document(document), document, lock))


def texts(agents: str, more: str = "") -> list[str]:
    return [f"{notice.level} {notice.text()}" for notice in reviewed(agents, more)]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"range": {"min": 5, "max": 5, "max_inclusive": False}}, "there is no number at least 5 and less than 5"),
        ({"all": [{"range": {"min": 5}}, {"range": {"max": 4}}]}, "no number is at least 5 and at most 4"),
        ({"range": {"min": 1.2, "max": 1.8}, "type": "integer"}, "no whole number is at least 1.2 and at most 1.8"),
        ({"one_of": ["prod", "staging"], "max_length": 3}, "'prod', 'staging' would have to be at most 3 characters"),
        ({"exact": "a", "not_one_of": ["a"]}, "'a' would have to be none of 'a'"),
        ({"range": {"min": 1}, "max_length": 3}, "nothing is a number at least 1 and at most 3 characters"),
        ({"type": "string", "subset": ["a"]}, "nothing is a string and an array of 'a'"),
        ({"contains": ["b"], "subset": ["a"]}, "nothing is an array that holds 'b' and an array of 'a'"),
        ({"regex": "T-[0-9]{8}", "max_length": 5}, "no text is text that matches T-[0-9]{8} and at most 5 characters"),
        ({"min_length": 5, "glob": "a?"}, "no text is at least 5 characters and text like a?"),
        ({"regex": "[^\\x00-\\x{10FFFF}]"}, "no text matches [^\\x00-\\x{10FFFF}]"),
        ({"path": "/srv", "regex": "/etc/.*"}, "nothing is a path under /srv and text that matches /etc/.*"),
        ({"all": [{"path": "/srv/a"}, {"path": "/srv/b"}]}, "nothing is a path under /srv/a and a path under /srv/b"),
        ({"path": "/srv", "url": {"hosts": ["a.org"]}}, "nothing is a path under /srv and a URL with scheme https, host a.org"),
        (
            {"all": [{"email": {"domains": ["a.org"]}}, {"email": {"domains": ["*.a.org"]}}]},
            "nothing is an e-mail address at a.org and an e-mail address at *.a.org",
        ),
        ({"all": [{"cidr": "10.0.0.0/8"}, {"cidr": "11.0.0.0/8"}]}, "nothing is an address in 10.0.0.0/8 and an address in 11.0.0.0/8"),
        (
            {"any": [{"range": {"min": 1}}, {"exact": 0}], "type": "string"},
            "nothing is either a number at least 1 or exactly 0 and a string",
        ),
        (
            {"any": [{"path": "/a"}, {"path": "/b"}], "glob": "/c/*"},
            "no alternative can be met: nothing is a path under /a and text like /c/*",
        ),
    ],
)
def test_a_rule_that_accepts_nothing(rule: Any, why: str) -> None:
    assert contradiction(parse_rule(rule).constraint) == why


@pytest.mark.parametrize(
    "rule",
    [
        "any",
        {"path": "/srv", "regex": ".*\\.md"},
        {"path": "/srv", "regex": "(?i)/SRV/.*"},
        {"path": "/", "glob": "/a/*"},
        {"all": [{"path": "/srv"}, {"path": "/srv/a"}]},
        {"all": [{"email": {"domains": ["*.a.org"]}}, {"email": {"domains": ["*.b.a.org"]}}]},
        {"path": "/srv", "email": {"domains": ["a.org"]}},
        {"contains": ["a"], "subset": ["a", "b"]},
        {"range": {"min": 1, "max": 1}, "type": "integer"},
        {"one_of": ["prod", "dev"], "max_length": 3},
        {"regex": "\\bx\\b", "max_length": 1},
        {"any": [{"range": {"min": 1}}, {"exact": "x"}], "type": "string"},
        {"not_one_of": []},
        {"regex": "(a|b){0,3}", "min_length": 3},
        {"subset": []},
    ],
)
def test_a_rule_that_accepts_something(rule: Any) -> None:
    assert contradiction(parse_rule(rule).constraint) == ""


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"one_of": ["a", "b", "a"]}, ["the value 'a' stands twice"]),
        ({"one_of": ["prod", "staging"], "max_length": 4}, ["the value 'staging' never passes: it would have to be at most 4 characters"]),
        ({"any": [{"path": "/srv/a"}, {"path": "/srv"}]}, ["the alternative a path under /srv/a adds nothing to a path under /srv"]),
        ({"any": [{"exact": 1}, {"exact": 1.0}]}, ["the alternative exactly 1.0 adds nothing to exactly 1"]),
        ({"any": [{"exact": "a"}, {"range": {"min": 1}}]}, []),
        ({"one_of": ["a", "b"]}, []),
    ],
)
def test_a_part_that_changes_nothing(rule: Any, words: list[str]) -> None:
    assert list(idle(parse_rule(rule).constraint)) == words


def test_an_argument_that_nothing_satisfies_has_its_line_and_column() -> None:
    rule = "{type: string, range: {min: 1}"
    assert texts(f"  a:\n    tools:\n      t:\n        x: {rule}}}\n        y: {rule}, optional: true}}") == [
        "warning <policy>:7:9: agents.a.tools.t.x: accepts nothing: nothing is a string and a number at least 1; so no call of t is allowed"
        " (several keys of a rule mean AND; write any: [...] for OR)",
        "warning <policy>:8:9: agents.a.tools.t.y: accepts nothing: nothing is a string and a number at least 1; so it can only be left out"
        " (several keys of a rule mean AND; write any: [...] for OR)",
    ]


def test_an_environment_that_is_nowhere() -> None:
    (notice,) = reviewed("  a: {tools: {t: {}}}", "environment: {host: {exact: a, not_one_of: [a]}}")
    assert (notice.place, notice.path) == ("<policy>:5:15", "environment.host")
    assert notice.message.endswith("so nothing is ever allowed")


def test_what_a_group_says_is_told_once() -> None:
    agents = "  a: {groups: [g]}\n  b: {groups: [g]}"
    (notice,) = reviewed(agents, "groups: {g: {tools: {t: {x: {type: string, range: {min: 1}}}}}}")
    assert notice.place == "<policy>:6:26"


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("{cost: amount, tool: pay, limit: 50, per: task}", "a call of pay costs at least 100, and the limit is 50: no call is admitted"),
        (
            "{cost: {output: used, reserve: 60}, tool: pay, limit: 50, per: task}",
            "sets aside 60 for a call, and the limit is 50: no call is admitted",
        ),
    ],
)
def test_a_budget_that_admits_no_call(budget: str, message: str) -> None:
    (notice,) = reviewed(f"  a:\n    tools: {{pay: {{amount: {{range: {{min: 100}}}}}}}}\n    budgets:\n      - {budget}")
    assert (notice.place, notice.path, notice.message) == ("<policy>:7:9", "agents.a.budgets", message)


def test_a_budget_that_admits_calls() -> None:
    assert not reviewed("  a: {tools: {pay: {amount: {range: {min: 50}}}}, budgets: [{cost: amount, tool: pay, limit: 50, per: task}]}")


def test_calls_that_wait_for_each_other() -> None:
    rules = "{tool: e, before: f}, {tool: f, before: e}, {tool: g, before: h}"
    found = reviewed(f"  a: {{tools: {{e: {{}}, f: {{}}, g: {{}}, h: {{}}}}, sequence: [{rules}]}}")
    assert [notice.message for notice in found] == [
        "e waits for f, which is never called before: no call of it is allowed",
        "f waits for e, which is never called before: no call of it is allowed",
    ]


def test_a_call_that_waits_for_one_that_is_never_allowed() -> None:
    tools = "{check: {x: {type: string, range: {min: 1}}}, pay: {}, drop: {}, wipe: {}}"
    agents = f"  a: {{tools: {tools}, sequence: [{{tool: check, before: pay}}, {{tool: drop, before: wipe}}]}}"
    found = [notice.message for notice in reviewed(agents, "forbid: [{tool: drop}]")]
    assert found[1:] == [
        "pay waits for check, which is never called before: no call of it is allowed",
        "wipe waits for drop, which is never called before: no call of it is allowed",
    ]


def test_another_agent_may_do_what_all_wait_for() -> None:
    agents = "  a: {tools: {check: {}}}\n  b: {tools: {pay: {}}}"
    assert not reviewed(agents, "sequence: [{tool: check, before: pay}]")


def test_approvals_that_nobody_can_give() -> None:
    asks = '[{tool: pay, by: ["user:carol"]}, {tool: pay, by: ["user:dan"]}]'
    (notice,) = reviewed(f"  a: {{tools: {{pay: {{}}}}, approval: {asks}}}")
    assert notice.message.endswith("1 must approve, and nobody may answer all of them: no such call is approved")


def test_a_delegate_that_may_pass_more_is_a_warning_and_one_that_has_other_tools_a_note() -> None:
    agents = (
        "  a: {tools: {send: {to: {exact: bob}}}, delegates: {b: {}, c: {}, d: {}}}\n"
        "  b: {tools: {send: {to: any}, pay: {}}}\n"
        "  c: {tools: {send: {to: {exact: bob}, cc: any}}}\n"
        "  d: {tools: {send: {to: {exact: bob}}}}"
    )
    assert texts(agents) == [
        "note <policy>:4:54: agents.a.delegates.b: b has pay, which a has not: a task of a comes to it by delegation"
        " (if it is not meant, give task.delegate a scope, or leave the delegate out)",
        "warning <policy>:4:54: agents.a.delegates.b: b may pass more to send than a: to: 'x' (the rule of b is at <policy>:5)",
        "warning <policy>:4:61: agents.a.delegates.c: c may pass more to send than a: the argument cc (the rule of c is at <policy>:6)",
    ]


def test_who_has_no_tools_is_there_to_delegate() -> None:
    assert not reviewed("  a: {delegates: {b: {}}}\n  b: {tools: {t: {}}}")


def test_a_tool_that_the_lock_does_not_name() -> None:
    entry = {"qualified": "q", "source": "s", "defaults": "d", "closure": "c", "schema": "x", "injected": []}
    lock = Lock.read(json.dumps({"agentguard": 1, "tools": {"send_email": entry}}).encode())
    (notice,) = reviewed("  a:\n    tools:\n      send_mail: {}\n      send_email: {}", lock=lock)
    assert notice.text() == (
        "<policy>:6:7: agents.a.tools.send_mail: the tool lock does not name this tool: no call of it runs (did you mean send_email?)"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_our_own_policies_have_no_warning(path: Path) -> None:
    document = read_policy(path).document
    assert [notice.text() for notice in review(compile_document(document), document) if notice.level == "warning"] == []


@pytest.mark.parametrize(
    ("text", "never"),
    [
        ("a * b <= 10", True),
        ("b <= 10 and a > 1", True),
        ("a == null", True),
        ("not (a < 3)", True),
        ("has(a) and b < 3", True),
        ("a < 3 or not has(a)", True),  # the first part is read first
        ("not has(a) or a * b <= 10", False),
        ("not (has(a) and a * b > 10)", False),
        ("b < 3 or a < 3", False),
        ("not (b < 3 and a < 3)", False),
        ("b < 3", False),
    ],
)
def test_a_condition_that_never_holds_without_an_argument(text: str, never: bool) -> None:
    condition = parse_condition(text)
    assert never_holds(condition.tree, "a") is never
    assert any(condition.failure(bound) is None for bound in ({"b": 2}, {"b": 50})) is not never
    where = json.dumps({"where": {"t": [text]}})[1:-1]
    agents = "  x: {tools: {t: {a: {range: {max: 9}, optional: true}, b: any}}, " + where + "}"
    told = [notice.message for notice in reviewed(agents) if "may be left out" in notice.message]
    assert told == ([f"a may be left out, and then {condition.text} never holds: it reads an argument that is missing"] if never else [])
