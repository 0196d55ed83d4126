"""The policies that ship, in Cedar: valid, of the same verdict on every case, and what is left out is as documented."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentguard.analysis.cases import cases_beside, read_cases
from agentguard.analysis.cedar import export
from agentguard.analysis.near import example
from agentguard.artifacts.chain import DEFAULT_LIMITS
from agentguard.artifacts.revocation import Revocations
from agentguard.canonical import freeze
from agentguard.decide import decide_policy_only
from agentguard.policy import load
from agentguard.premises import Binding, Facts

cedarpy = pytest.importorskip("cedarpy", reason="cedarpy belongs to the dev extra")

POLICIES = Path(__file__).resolve().parents[2] / "policies"
FILES = sorted(path for path in POLICIES.glob("*.yaml") if path.suffixes == [".yaml"])
#: The rest of what they say Cedar cannot say: patterns, and what depends on more than one call.
WORDS = ("regex", "glob", "where", "hours", "sequence", "approval")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_policy_that_ships_says_the_same_in_cedar(path: Path) -> None:
    policy = load(path)
    made = export(policy)
    valid = cedarpy.validate_policies(made.policies, made.schema)
    assert valid.validation_passed, [error.error for error in valid.errors]
    assert made.exported
    assert all(any(word in rule.why for word in WORDS) for rule in made.left_out)
    left_out = {(rule.agent, rule.tool) for rule in made.left_out}
    right_place = {name: value for name, entry in policy.environment.items() for value in example(entry.constraint)}
    allowed = 0
    for case in read_cases(cases_beside(path)):
        if case.call.defect:
            continue
        environment = freeze(dict(case.environment)) if case.environment is not None else right_place
        answer = cedarpy.is_authorized(made.request(case.call, environment), made.policies, [], made.schema)
        assert not answer.diagnostics.errors
        ours = decide_policy_only(case.call, Binding(case.call.arguments), policy, Facts(environment, Revocations(), DEFAULT_LIMITS))
        expected = ours.allowed and (case.call.agent, case.call.tool) not in left_out
        assert (answer.decision is cedarpy.Decision.Allow) == expected, case.place
        allowed += expected
    assert allowed
