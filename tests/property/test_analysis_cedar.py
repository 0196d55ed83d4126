"""Exported policies say in Cedar what they say here: generated policies, generated calls, both evaluators.

Where a rule is exported the verdicts are equal; where it is left out Cedar refuses; and what Cedar validates is what it is asked.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.analysis.cedar import Export, export
from agentguard.analysis.formulas import leaves as leaves_of
from agentguard.analysis.samples import samples
from agentguard.call import ToolCall
from agentguard.canonical import freeze, jcs, thaw
from agentguard.chain import DEFAULT_LIMITS
from agentguard.decide import Binding, Facts, decide_policy_only
from agentguard.matchers import Glob, Path, Regex
from agentguard.policy import Policy, load
from agentguard.revocation import Revocations
from agentguard.vocabulary import Constraint
from support.rules import AGENTS, NAMES, TOOLS, VALUES, Json, entries, rules

cedarpy = pytest.importorskip("cedarpy", reason="cedarpy belongs to the dev extra")


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    agents: Json = {}
    for name in draw(st.lists(st.sampled_from(AGENTS), min_size=1, max_size=2, unique=True)):
        tools = draw(st.dictionaries(st.sampled_from(TOOLS), st.dictionaries(st.sampled_from(NAMES), entries(), max_size=2), max_size=3))
        for arguments in tools.values():
            if draw(st.integers(0, 5)) == 0:
                arguments["*"] = "any"
        agents[name] = {"tools": tools}
    forbid = draw(
        st.lists(
            st.sampled_from([{"tool": "delete*"}, {"tool": "*/delete_*"}, {"tool": "send*", "agent": "t*"}, {"tool": "*"}]), max_size=1
        )
    )
    environment = draw(st.dictionaries(st.sampled_from(["deployment", "has", "__extn"]), entries(), max_size=1))
    tools = {tool: {"unsafe_any_arguments": True} for tool in TOOLS}
    document = {"agentguard": 1, "name": "p", "agents": agents, "forbid": forbid, "tools": tools, "environment": environment}
    return load(jcs(document).decode() + "\n")


@st.composite
def calls(draw: st.DrawFn, policy: Policy) -> tuple[ToolCall, Json]:
    """A call that some rule is about, mostly, with values that the rule names or that lie near it."""
    agent = draw(st.sampled_from([*policy.agents, "nobody"]))
    tools = policy.agents[agent].tools if agent in policy.agents else {}
    tool = draw(st.sampled_from([*tools, *TOOLS[:1]] * 3 + TOOLS))
    named = list(tools[tool].arguments) if tool in tools else []
    arguments = {name: draw(st.sampled_from(VALUES)) for name in named if draw(st.integers(0, 5))}
    if draw(st.integers(0, 4)) == 0:
        arguments[draw(st.sampled_from(NAMES))] = draw(st.sampled_from(VALUES))
    environment = {name: draw(st.sampled_from(VALUES)) for name in policy.environment if draw(st.integers(0, 3))}
    return ToolCall(agent, tool, arguments), environment


def ours(policy: Policy, call: ToolCall, environment: Json) -> bool:
    return decide_policy_only(call, Binding(call.arguments), policy, Facts(freeze(environment), Revocations(), DEFAULT_LIMITS)).allowed


def theirs(made: Export, call: ToolCall, environment: Json, *, schema: bool) -> bool:
    answer = cedarpy.is_authorized(made.request(call, environment), made.policies, [], made.schema if schema else None)
    assert not answer.diagnostics.errors, answer.diagnostics.errors
    assert answer.decision is not cedarpy.Decision.NoDecision
    return bool(answer.decision is cedarpy.Decision.Allow)


@given(st.data())
def test_the_verdicts_are_equal(data: st.DataObject) -> None:
    policy = data.draw(policies())
    made = export(policy)
    valid = cedarpy.validate_policies(made.policies, made.schema)
    assert valid.validation_passed, [error.error for error in valid.errors]
    left_out = {(rule.agent, rule.tool) for rule in made.left_out}
    for _ in range(6):
        call, environment = data.draw(calls(policy))
        for schema in (True, False):
            said = theirs(made, call, environment, schema=schema)
            if (call.agent, call.tool) in left_out:
                assert not said
            else:
                assert said == ours(policy, call, environment)


def near(constraint: Constraint) -> list[Json]:
    """Values at the edges of a constraint, on both sides."""
    found = [thaw(value) for value in samples(leaves_of(constraint))]
    for leaf in leaves_of(constraint):
        pattern = leaf.pattern if isinstance(leaf, Glob | Regex) else ""
        found += [
            pattern.replace("*", run).replace(".", dot) for run in ("", "a", "/", "a/b", ".", "x\ny", "*", "\\") for dot in (".", "", "b")
        ]
        root = leaf.root if isinstance(leaf, Path) else "/srv"
        found += [f"{root}{end}" for end in ("x", "/x", "-old/a", "/./a", "*", "")]
    return [value for index, value in enumerate(found) if value not in found[:index] or type(value) is not str]


@given(rules)
def test_one_rule_accepts_the_same_values(rule: Json) -> None:
    policy = load(jcs({"agentguard": 1, "name": "p", "agents": {"a": {"tools": {"t": {"x": rule}}}}}).decode() + "\n")
    made = export(policy)
    values = [*VALUES, *near(policy.agents["a"].tools["t"].arguments["x"].constraint)]
    asked = [call for call in (ToolCall("a", "t", {"x": value}) for value in values) if not call.defect]
    policies, schema = cedarpy.PolicySet.from_str(made.policies), cedarpy.Schema.from_str(made.schema)
    answers = cedarpy.is_authorized_batch([made.request(call) for call in asked], policies, [], schema)
    for call, answer in zip(asked, answers, strict=True):
        said = answer.decision is cedarpy.Decision.Allow
        assert said == (not made.left_out and ours(policy, call, {})), call.arguments["x"]


def test_every_constraint_is_expressible_but_these() -> None:
    """What is left out is what the page says is left out: nothing falls out silently."""
    said = {}
    for name, rule in {
        "digits": {"regex": "T-[0-9]{1,8}"},
        "one character": {"glob": "a?"},
        "five places": {"range": {"min": 0.12345}},
        "beyond a Long": {"range": {"max": 1e23}},
    }.items():
        (rule_out,) = export(
            load(jcs({"agentguard": 1, "name": "p", "agents": {"a": {"tools": {"t": {"x": rule}}}}}).decode() + "\n")
        ).left_out
        said[name] = rule_out.why
    assert said == {
        "digits": "x: the regex T-[0-9]{1,8}: it stands for too many texts, and Cedar has no regular expressions",
        "one character": "x: the glob a?: `like` of Cedar has no sign for one character",
        "five places": "x: the bound 0.12345 of a range is no Long and no decimal of Cedar",
        "beyond a Long": "x: the bound 1e+23 of a range is no Long and no decimal of Cedar",
    }
