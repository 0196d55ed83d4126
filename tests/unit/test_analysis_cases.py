"""`agentguard policy test`: cases that come out otherwise are found, and so are rules that no case shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentguard.analysis.cases import Report, cases_beside, cases_in, read_cases, run
from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.file import read

POLICY = """
agentguard: 1
name: cases
agents:
  lead:
    tools: {mail: {to: {email: {domains: [example.com]}}, body: any}, drop: {}}
    delegates: {helper: {depth: 1}}
  helper: {tools: {mail: {to: any, body: any}}}
forbid: [{tool: drop}]
environment: {deployment: {one_of: [prod]}}
"""
ALLOWED = "- {call: {agent: lead, tool: mail, arguments: {to: bob@example.com, body: x}}, verdict: allow}\n"
REFUSED = "- {call: {agent: lead, tool: mail, arguments: {to: eve@evil.test, body: x}}, verdict: deny, code: argument_not_allowed}\n"
FORBIDDEN = "- {call: {agent: lead, tool: drop, arguments: {}}, verdict: deny, code: tool_not_allowed}\n"
THROUGH = "- {call: {agent: helper, tool: mail, arguments: {to: x, body: y}}, through: [lead, helper], verdict: allow}\n"
ELSEWHERE = (
    "- {call: {agent: helper, tool: mail, arguments: {to: x, body: y}}, environment: {deployment: dev}, verdict: deny,"
    " code: environment_mismatch}\n"
)


def report(tmp_path: Path, cases: str) -> Report:
    file = tmp_path / "p.yaml"
    file.write_text(POLICY)
    beside = cases_beside(file)
    assert beside.name == "p.cases.yaml"
    beside.write_text(cases)
    return run(load(file), read_cases(beside))


def test_everything_shown(tmp_path: Path) -> None:
    found = report(tmp_path, ALLOWED + REFUSED + FORBIDDEN + THROUGH + ELSEWHERE)
    assert found.wrong == found.unshown == ()
    assert len(found.answers) == 5


@pytest.mark.parametrize(
    ("left_out", "rule"),
    [
        (ALLOWED, "agents.lead.tools.mail"),
        (REFUSED, "agents.lead.tools.mail.to"),
        (FORBIDDEN, "forbid drop"),
        (THROUGH, "agents.lead.delegates.helper"),
        (ELSEWHERE, "environment.deployment"),
    ],
)
def test_a_rule_that_no_case_shows_is_named(tmp_path: Path, left_out: str, rule: str) -> None:
    found = report(tmp_path, (ALLOWED + REFUSED + FORBIDDEN + THROUGH + ELSEWHERE).replace(left_out, ""))
    assert rule in [shown.rule for shown in found.unshown]


def test_a_refusal_for_another_reason_shows_nothing(tmp_path: Path) -> None:
    """The case fails on `body`, so it says nothing about `to`."""
    missing = "- {call: {agent: lead, tool: mail, arguments: {to: bob@example.com}}, verdict: deny}\n"
    assert "agents.lead.tools.mail.to" in [shown.rule for shown in report(tmp_path, ALLOWED + missing).unshown]


@pytest.mark.parametrize(
    ("cases", "expected", "found"),
    [
        (ALLOWED.replace("allow", "deny"), "deny", "allow"),
        (REFUSED.replace("deny, code: argument_not_allowed", "allow"), "allow", "deny"),
        (REFUSED.replace("argument_not_allowed", "tool_not_allowed"), "deny", "deny"),
        (THROUGH.replace("[lead, helper]", "[helper, lead, helper]"), "allow", "deny"),
    ],
)
def test_a_case_that_comes_out_otherwise_is_wrong(tmp_path: Path, cases: str, expected: str, found: str) -> None:
    (answer,) = report(tmp_path, cases).wrong
    assert (answer.case.verdict, answer.verdict) == (expected, found)
    assert answer.case.place.endswith("p.cases.yaml:1")


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ("call: {}\n", "p.cases.yaml:1:1: a file of cases is a list of cases"),
        ("- {verdict: deny}\n", "p.cases.yaml:1:3: the member 'call' is missing"),
        ("- {call: {agent: a, tool: b, arguments: {}}, verdikt: deny}\n", "did you mean verdict?"),
        ("- {call: {agent: a, tool: b}, verdict: deny}\n", "the member 'arguments' is missing"),
        ("- {call: {agent: a, tool: b, arguments: {}}, verdict: denied}\n", "did you mean deny?"),
        ("- {call: {agent: a, tool: b, arguments: {}}, verdict: deny, code: tool_not_alowed}\n", "did you mean tool_not_allowed?"),
        ("- {call: {agent: a, tool: b, arguments: {}}, verdict: allow, code: guard_error}\n", "an allowed call has no code"),
        ("- {call: {agent: a, tool: b, arguments: {}}, verdict: deny, through: [b]}\n", "ends with the caller"),
        ("- {call: {agent: a, tool: b, arguments: {}}, verdict: deny, environment: prod}\n", "environment must be an object of facts"),
    ],
)
def test_what_is_no_case_is_refused(tmp_path: Path, cases: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        report(tmp_path, cases)
    assert message in str(caught.value)


def test_a_call_that_is_none_is_judged_as_one(tmp_path: Path) -> None:
    cases = '- {call: {agent: "le ad", tool: mail, arguments: {}}, verdict: deny, code: malformed_call}\n'
    assert not report(tmp_path, cases).wrong


ORDERED = """
agentguard: 1
name: ordered
agents:
  clerk:
    tools: {balance: {}, pay: {amount: any, to: any}}
    where: {pay: ["amount > 0"]}
    hours: [{days: [mon], zone: UTC, tools: [pay]}]
    budgets: [{cost: amount, tool: pay, limit: 100, per: task}]
    sequence: [{tool: balance, before: pay}]
    approval: [{tool: pay, when: "amount > 50", by: ["user:carol"]}]
"""
HISTORIES = """
- call: {agent: clerk, tool: balance, arguments: {}}
  verdict: allow
- call: {agent: clerk, tool: pay, arguments: {amount: 1, to: b}}
  verdict: deny
  code: sequence_violation
- call: {agent: clerk, tool: pay, arguments: {amount: 1, to: b}}
  after: [{tool: balance, arguments: {}, failed: true}]
  verdict: deny
  code: sequence_violation
- call: {agent: clerk, tool: pay, arguments: {amount: 0, to: b}}
  after: [{tool: balance, arguments: {}}]
  verdict: deny
  code: argument_not_allowed
- call: {agent: clerk, tool: pay, arguments: {amount: 1, to: b}}
  after: [{tool: balance, arguments: {}}]
  at: "2023-11-21T09:00:00Z"
  verdict: deny
  code: tool_not_allowed
- call: {agent: clerk, tool: pay, arguments: {amount: 51, to: b}}
  after: [{tool: balance, arguments: {}}]
  verdict: ask
- call: {agent: clerk, tool: pay, arguments: {amount: 51, to: b}}
  after: [{tool: balance, arguments: {}}]
  approved: false
  verdict: deny
  code: approval_denied
- call: {agent: clerk, tool: pay, arguments: {amount: 51, to: b}}
  after: [{tool: balance, arguments: {}}]
  approved: true
  at: "2023-11-20T09:00:00Z"
  verdict: allow
- call: {agent: clerk, tool: pay, arguments: {amount: 51, to: b}}
  after: [{tool: balance, arguments: {}}, {tool: pay, arguments: {amount: 25, to: b}, times: 2}]
  approved: true
  verdict: deny
  code: budget_exhausted
"""


def test_histories_times_and_approvals_are_judged_and_every_kind_of_rule_is_covered() -> None:
    policy, cases = load(ORDERED), cases_in(read(HISTORIES, "cases"))
    report = run(policy, cases)
    assert [answer.case.place for answer in report.wrong] == []
    unshown = {shown.rule for shown in report.unshown}
    assert unshown == set(), unshown
    kinds = {"where.pay": 3, "hours[0]": 4, "budgets": 8, "sequence": 1, "approval": 5}
    for kind, index in kinds.items():
        fewer = run(policy, tuple(case for case in cases if run(policy, (case,)).answers[0] != report.answers[index]))
        gone = {shown.rule for shown in fewer.unshown}
        if kind not in ("sequence", "approval"):  # two cases show these
            assert any(kind in rule for rule in gone), (kind, gone)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("after: {}", "after must be a list of earlier calls"),
        ("after: [{tool: t}]", "the member 'arguments' is missing"),
        ("after: [{tool: t, arguments: {}, times: 0}]", "times is a number from 1 to 100000"),
        ("approved: 1", "approved must be true or false"),
        ('at: "2026-01-01"', "is no time with its zone"),
    ],
)
def test_mistakes_in_what_went_before(case: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        cases_in(read(f"- call: {{agent: a, tool: t, arguments: {{}}}}\n  verdict: allow\n  {case}\n", "cases"))
