"""`agentguard policy test`: cases that come out otherwise are found, and so are rules that no case shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentguard.analysis.cases import Report, cases_beside, read_cases, run
from agentguard.errors import InvalidInput
from agentguard.policy import load

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
