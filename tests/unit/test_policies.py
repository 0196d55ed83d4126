"""A policy ships with its proof: every policy under policies/ has a cases file, and every case comes out as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentguard.analysis.cases import cases_beside, read_cases, run
from agentguard.decision import Code
from agentguard.policy import load

POLICIES = Path(__file__).resolve().parents[2] / "policies"
FILES = sorted(path for path in POLICIES.glob("*.yaml") if path.suffixes == [".yaml"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_cases_come_out_as_they_say_and_show_every_rule(path: Path) -> None:
    report = run(load(path), read_cases(cases_beside(path)))
    assert not report.wrong
    assert not report.unshown
    codes = {answer.case.code for answer in report.answers}
    assert codes >= {Code.AGENT_UNKNOWN, Code.TOOL_NOT_ALLOWED, Code.ARGUMENT_NOT_ALLOWED}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_only_warnings_are_standing_forbids(path: Path) -> None:
    assert all(": forbid " in warning for warning in load(path).warnings)


def test_support_is_the_policy_of_the_design() -> None:
    policy = load(POLICIES / "support.yaml")
    assert policy.name == "support"
    assert policy.agents["triage"].delegates["summarizer"].depth == 1
    assert policy.attributes("search").rerun_safe
    assert policy.agents["triage"].budgets[0].limit == 50


def test_a_researcher_cannot_delegate_and_a_writer_cannot_reach_the_web() -> None:
    policy = load(POLICIES / "research.yaml")
    assert policy.may_delegate(("orchestrator", "researcher")) is None
    assert policy.may_delegate(("orchestrator", "researcher", "writer")) is not None
    assert "fetch_page" not in policy.default_scope("writer")
    assert "fetch_page" in policy.default_scope("orchestrator")
