"""Exported policies say in Cedar what they say here: generated policies, generated calls, both evaluators.

Where a rule is exported the verdicts are equal; where it is left out Cedar refuses; and what Cedar validates is what it is asked.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.analysis.cedar import Export, export
from agentguard.analysis.formulas import leaves as leaves_of
from agentguard.analysis.samples import samples
from agentguard.artifacts.chain import DEFAULT_LIMITS
from agentguard.artifacts.revocation import Revocations
from agentguard.call import ToolCall
from agentguard.canonical import freeze, jcs, thaw
from agentguard.constraints.matchers import Glob, Path, Regex
from agentguard.constraints.vocabulary import Constraint
from agentguard.decide import decide_policy_only
from agentguard.policy import load
from agentguard.policy.model import Policy
from agentguard.premises import Binding, Facts
from support.rules import AGENTS, NAMES, TOOLS, VALUES, Json, entries, rules, words

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


LETTERS = ["".join(letters) for size in range(5) for letters in itertools.product("T19-a", repeat=size)]
CLASSES = words(
    r"T-[0-9]{1,2} T-[0-9]+ T1[0-9]+ T1[0-9]* [0-9]* [0-9]+-[0-9]+ [A-Z]{2}[0-9]* [0-9]1 1[0-9]1 [0-9]1[0-9] [a-z]{1,3}9? [0-9]{2}-[0-9] "
    r"(T|a)-?[0-9]{2,} [A-Z][a-z]* [0-9]+[a-z]+ 1[0-9].* T-[a-z]-a -[0-9]+- [0-9]+[0-9] (?i)t[0-9] \d{2}|a+ [0-9]{0,2}[a-z]{0,2} .[0-9] "
    r"[^0-9]* 9{1,}[0-9]{2} a[a-z]+ [a-z]a A[A-Z]{0,2} [0-9]+a 1a[0-9]+ a[0-9]+-[0-9]+a a1[0-9]*1a v[a-z]+9 [0-9]+1"
)


#: What is left out of these, though it might be said with more effort.
BEYOND = words(r"[A-Z]{2}[0-9]* [0-9]1[0-9] [A-Z][a-z]* [0-9]+[0-9] \d{2}|a+ 9{1,}[0-9]{2}")


@pytest.mark.parametrize("pattern", CLASSES)
def test_a_pattern_of_classes_takes_the_same_texts(pattern: str) -> None:
    """All texts of up to four letters out of five."""
    policy = load(jcs({"agentguard": 1, "name": "p", "agents": {"a": {"tools": {"t": {"x": {"regex": pattern}}}}}}).decode())
    made = export(policy)
    asked = [ToolCall("a", "t", {"x": text}) for text in LETTERS]
    policies, schema = cedarpy.PolicySet.from_str(made.policies), cedarpy.Schema.from_str(made.schema)
    answers = cedarpy.is_authorized_batch([made.request(call) for call in asked], policies, [], schema)
    for call, answer in zip(asked, answers, strict=True):
        said = answer.decision is cedarpy.Decision.Allow
        assert said == (not made.left_out and policy.judge("a", "t", call.arguments) is None), call.arguments["x"]
    assert bool(made.left_out) == (pattern in BEYOND)


TESTS = [
    *("x == y", "x != y", 'x == "a"', "x != 1.0", "true == x", "x == null", "x", "has(x)", "has(y)", "x == 0.3"),
    *('x in ["a", 1, null]', 'y in [true, "a*b", 2.5]', "x < 2.5", "2 <= x", "x > y", "x >= 0.3", "0.12345 < x"),
    *('starts_with(x, "a")', 'ends_with(y, "/b")', 'contains(x, "*")', 'contains(y, "\\\\")', 'contains(x, "")', "len(x) < 3", "x + y < 3"),
]
conditions = st.recursive(
    st.sampled_from(TESTS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' and '.join(parts)})"),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' or '.join(parts)})"),
        inner.map(lambda part: f"not ({part})"),
    ),
    max_leaves=5,
)


@given(st.lists(conditions, min_size=1, max_size=2), st.data())
def test_conditions_hold_for_the_same_arguments(where: list[str], data: st.DataObject) -> None:
    optional = {"wildcard": True, "optional": True}
    agent = {"tools": {"t": {"x": optional, "y": optional}}, "where": {"t": where}}
    policy = load(jcs({"agentguard": 1, "name": "p", "agents": {"a": agent}}).decode())
    made = export(policy)
    assert cedarpy.validate_policies(made.policies, made.schema).validation_passed
    some = st.dictionaries(
        st.sampled_from(["x", "y"]), st.sampled_from(["a", "b/b", "a*b", True, False, None, 1, 2.5, 0.3, 3, ["a"], {}, *VALUES])
    )
    for _ in range(12):
        call = ToolCall("a", "t", data.draw(some))
        assert theirs(made, call, {}, schema=True) == (not made.left_out and ours(policy, call, {})), (where, call.arguments)


def test_every_constraint_is_expressible_but_these() -> None:
    """What is left out is what the page says is left out: nothing falls out silently."""
    said = {}
    for name, rule in {
        "hexadecimal": {"regex": "[0-9a-f]{8}"},
        "letters between": {"regex": "[0-9]x[0-9]"},
        "one character": {"glob": "a?"},
        "five places": {"range": {"min": 0.12345}},
        "beyond a Long": {"range": {"max": 1e23}},
    }.items():
        (rule_out,) = export(
            load(jcs({"agentguard": 1, "name": "p", "agents": {"a": {"tools": {"t": {"x": rule}}}}}).decode() + "\n")
        ).left_out
        said[name] = rule_out.why
    assert said == {
        "hexadecimal": "x: the regex [0-9a-f]{8}: it stands for too many texts, and Cedar has no regular expressions",
        "letters between": "x: the regex [0-9]x[0-9]: a letter or a digit between classes of them, and Cedar has no regular expressions",
        "one character": "x: the glob a?: `like` of Cedar has no sign for one character",
        "five places": "x: the bound 0.12345 is no Long and no decimal of Cedar",
        "beyond a Long": "x: the bound 1E+23 is no Long and no decimal of Cedar",
    }
