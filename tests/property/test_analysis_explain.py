"""Explanations and reviews of generated policies: the verdict is the guard's, what is suggested would pass, an edit only widens."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from agentguard.analysis.edits import widened, write
from agentguard.analysis.explain import Circumstances, explain
from agentguard.analysis.formulas import leaves
from agentguard.analysis.near import example, near
from agentguard.analysis.samples import samples
from agentguard.analysis.vacuous import contradiction
from agentguard.artifacts.chain import DEFAULT_LIMITS
from agentguard.artifacts.revocation import Revocations
from agentguard.call import ToolCall
from agentguard.canonical import freeze, jcs
from agentguard.constraints.rules import parse_rule
from agentguard.constraints.tokens import Constraint
from agentguard.constraints.values import admissible
from agentguard.decide import decide_policy_only
from agentguard.policy import load
from agentguard.policy.model import Policy
from agentguard.premises import Binding, Facts
from support.rules import TOOLS, VALUES, Json, entries, rules

FROZEN = list(map(freeze, VALUES))
NAMES = ["x", "y"]
AGENTS = ["one", "two", "three"]


def rule_of(written: Json) -> Constraint:
    return parse_rule(written).constraint


@given(rules)
def test_a_rule_written_out_is_the_rule(written: Json) -> None:
    constraint = rule_of(written)
    again = rule_of(write(constraint))
    assert [again.check(value) for value in FROZEN] == [constraint.check(value) for value in FROZEN]


@given(rules, st.sampled_from(FROZEN))
def test_what_is_near_is_accepted(written: Json, value: Json) -> None:
    constraint = rule_of(written)
    assert all(map(constraint.check, near(constraint, value)))
    assert all(map(constraint.check, example(constraint)))


@given(rules, st.sampled_from(FROZEN))
def test_a_widened_rule_admits_the_value_and_all_that_was_admitted(written: Json, value: Json) -> None:
    constraint = rule_of(written)
    admitted = [other for other in FROZEN if constraint.check(other)]
    for each in (value, *samples(leaves(constraint))):
        if admissible(each):
            wider = rule_of(widened(constraint, each))
            assert wider.check(each)
            assert all(map(wider.check, admitted))


arguments = st.dictionaries(st.sampled_from(NAMES), entries(), max_size=2)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    agents: Json = {}
    for name in AGENTS[:2]:
        tools = draw(st.dictionaries(st.sampled_from(TOOLS[:3]), arguments, max_size=3))
        agent: Json = {"tools": tools, "delegates": draw(st.sampled_from([{}, {AGENTS[1]: {"depth": 1}}, {AGENTS[0]: {"depth": 2}}]))}
        first = next(iter(tools), None)
        if first is not None:
            restrictions = {
                "sequence": [{"tool": first, "at_most": 1}, {"tool": [*tools][-1], "before": first}],
                "approval": [{"tool": first}],
                "hours": [{"days": ["mon"], "from": "08:00", "to": "18:00", "zone": "UTC"}],
            }
            if len(tools[first]) == 2:
                condition = st.sampled_from(["x == y", "x != y", "x < 5", 'not has(x) or x in [1, "a"]'])
                restrictions["where"] = {first: [draw(condition)]}
            agent |= {kind: rule for kind, rule in restrictions.items() if draw(st.booleans())}
        agents[name] = agent
    forbid = draw(st.lists(st.sampled_from([{"tool": "send*"}, {"tool": "send_all", "agent": "t*"}]), max_size=1))
    environment = draw(st.dictionaries(st.just("deployment"), entries(), max_size=1))
    return load(jcs({"agentguard": 1, "name": "p", "agents": agents, "forbid": forbid, "environment": environment}).decode())


@st.composite
def calls(draw: st.DrawFn) -> ToolCall:
    passed = draw(st.dictionaries(st.sampled_from([*NAMES, "z"]), st.sampled_from(VALUES)))
    return ToolCall(draw(st.sampled_from(AGENTS)), draw(st.sampled_from(TOOLS[:3])), passed)


@given(st.data())
def test_the_explanation_is_of_the_guards_own_verdict(data: st.DataObject) -> None:
    policy, call = data.draw(policies()), data.draw(calls())
    facts = data.draw(st.sampled_from([None, {}, {"deployment": "a"}]))
    under = Circumstances(
        data.draw(st.sampled_from([(), (call.agent,), ("one", call.agent), ("one", "two", call.agent)])),
        None if facts is None else freeze(facts),
        data.draw(st.sampled_from([None, 0, 4 * 86_400 + 9 * 3600])),  # a Thursday, and the Monday after
    )
    found = explain(policy, call, under)
    judged = policy if facts is not None else replace(policy, environment=MappingProxyType({}))
    alone = decide_policy_only(call, Binding(call.arguments), judged, Facts(freeze(facts or {}), Revocations(), DEFAULT_LIMITS), under.now)
    chain = policy.may_delegate(under.through) if len(under.through) > 1 else None
    assert found.decision.allowed == (alone.allowed and chain is None)
    assert found.decision.allowed == (not found.against)
    if found.against:
        assert found.against[0].reason == found.decision.reasons[0]
    if chain is None:
        assert found.decision == alone
    for other in found.others:
        same = decide_policy_only(
            ToolCall(other.agent, call.tool, call.arguments),
            Binding(call.arguments),
            replace(policy, environment=MappingProxyType({})),
            Facts({}, Revocations(), DEFAULT_LIMITS),
            under.now,
        )
        assert same.verdict is other.verdict
    if found.edited is not None:
        edited, after = found.edited
        assert edited.agents[call.agent].tools[call.tool].map.check(call.arguments) is None
        assert after.allowed or after.code is not None


@given(rules)
def test_what_is_said_to_accept_nothing_accepts_nothing(written: Json) -> None:
    constraint = rule_of(written)
    values = [*FROZEN, *samples(leaves(constraint))]
    if contradiction(constraint):
        assert not any(map(constraint.check, values))
