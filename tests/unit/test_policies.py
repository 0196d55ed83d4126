"""A policy ships with its proof: every policy under policies/ has a cases file, and every case comes out as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentguard.canonical import freeze
from agentguard.decision import Code
from agentguard.policy import load
from agentguard.policy_file import read
from agentguard.vocabulary import Wildcard

POLICIES = Path(__file__).resolve().parents[2] / "policies"
FILES = sorted(path for path in POLICIES.glob("*.yaml") if not path.name.endswith(".cases.yaml"))


def cases_of(path: Path) -> list[dict[str, Any]]:
    file = path.with_suffix(".cases.yaml")
    return read(file.read_text("utf-8"), file.name).value


CASES = [pytest.param(path, case, id=f"{path.stem}-{index}") for path in FILES for index, case in enumerate(cases_of(path))]


@pytest.mark.parametrize(("path", "case"), CASES)
def test_a_case_comes_out_as_it_says(path: Path, case: dict[str, Any]) -> None:
    assert case.keys() <= {"call", "verdict", "code"}
    call = case["call"]
    assert call.keys() == {"agent", "tool", "arguments"}
    reason = load(path).judge(call["agent"], call["tool"], freeze(call["arguments"]))
    assert case["verdict"] == ("allow" if reason is None else "deny")
    assert case.get("code") == (None if reason is None else str(reason.code))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_cases_show_each_tool_allowed_and_each_rule_refusing(path: Path) -> None:
    policy, cases = load(path), cases_of(path)
    allowed, refused = set(), set()
    for case in cases:
        call = case["call"]
        reason = policy.judge(call["agent"], call["tool"], freeze(call["arguments"]))
        if reason is None:
            allowed.add((call["agent"], call["tool"]))
        else:
            refused.add((call["agent"], call["tool"], reason.subject))
    for agent, rules in policy.agents.items():
        for tool, rule in rules.tools.items():
            assert (agent, tool) in allowed
            for name, entry in rule.arguments.items():
                assert isinstance(entry.constraint, Wildcard) or (agent, tool, name) in refused
    assert {case.get("code") for case in cases} >= {Code.AGENT_UNKNOWN, Code.TOOL_NOT_ALLOWED, Code.ARGUMENT_NOT_ALLOWED}


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
