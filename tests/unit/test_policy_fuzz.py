"""Nothing but InvalidInput leaves `load`, a loaded policy is a fixpoint of its canonical form, and `judge` is total."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentguard.canonical import Inadmissible, freeze
from agentguard.decision import Reason
from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.model import Policy, parse_scope

SEED = """\
agentguard: 1
name: support
agents:
  triage:
    tools:
      read: {id: {regex: "T-[0-9]{1,8}"}, path: {path: /srv}}
      send: {to: {email: {domains: [example.com]}}, body: {max_length: 40}, n: {any: [{exact: 1}, {range: {min: 5}}], optional: true}}
      run: {"*": any}
    budgets: [{calls: 50, per: task}]
    delegates: {triage: {depth: 1}}
forbid: [{tool: "delete_*", agent: t*, reason: no}]
tools: {run: {unsafe_any_arguments: true, proof: required}}
environment: {stage: {one_of: [prod, 1, null]}}
"""
PIECES = [
    *SEED.split(),
    *(
        "\n",
        "\n  ",
        "\n      ",
        " ",
        ": ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ",",
        '"',
        "'",
        "|",
        ">",
        "#",
        "&a",
        "*a",
        "!!str",
        "<<",
        "---\n",
        "%YAML 1.2\n",
    ),
    *("constraint_type: ", "optional: true", "all: ", "any: ", "not_one_of: ", "glob: ", "url: ", "cidr: ", "type: ", "null", "~", "1e400"),
    *("\ud800", "\u202e", "é", "\x00", "\t", "0x1", "9" * 40, "\\", "?"),
]


def load_or_none(text: str) -> Policy | None:
    try:
        return load(text)
    except InvalidInput as error:
        refused = error
    assert refused.place
    return None


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)).map(lambda text: text + "\n"))
def test_any_text_is_a_policy_or_invalid_input(text: str) -> None:
    load_or_none(text)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    text = SEED
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(st.one_of(st.sampled_from(PIECES), st.text(max_size=3))) + text[end:]
    return text + "\n"


@settings(max_examples=400, deadline=None)
@given(mutated())
def test_a_mutated_policy_loads_to_a_fixpoint_or_is_refused(text: str) -> None:
    policy = load_or_none(text)
    if policy is not None:
        again = load(policy.canonical.decode())
        assert again.canonical == policy.canonical
        assert again.digest == policy.digest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(["a", "b", "t", "x_y", "mcp/t"])
SCALARS = st.sampled_from([0, 1, 2.5, -3, True, False, None, "a", "é", "10", "no", "line\nend", "\\", '"'])
LEAVES = st.one_of(
    st.just("any"),
    SCALARS.map(lambda v: {"exact": v}),
    st.lists(SCALARS, min_size=1, max_size=3).map(lambda v: {"one_of": v}),
    st.lists(SCALARS, max_size=3).map(lambda v: {"not_one_of": v}),
    st.lists(st.lists(SCALARS, max_size=2), max_size=2).map(lambda v: {"subset": v}),
    st.tuples(st.integers(-5, 5), st.integers(6, 9), st.booleans()).map(
        lambda v: {"range": {"min": v[0], "max": v[1], "max_inclusive": v[2]}}
    ),
    st.sampled_from(["/srv", "/", "/a/b"]).map(lambda v: {"path": v}),
    st.sampled_from(["a*", "?", "x/*"]).map(lambda v: {"glob": v}),
    st.integers(0, 9).map(lambda v: {"max_length": v}),
    st.just({"email": {"domains": ["example.com"]}}),
    st.just({"url": {"hosts": ["*.example.com"], "path": "/x"}}),
    st.just({"cidr": "10.0.0.0/8"}),
    st.just({"type": "integer"}),
    st.just({"regex": "[a-c]+", "max_length": 3}),
)
RULES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(lambda v: st.sampled_from([{"any": v}, {"all": v}])), max_leaves=5
)
ARGUMENTS = st.dictionaries(
    NAMES, st.tuples(RULES, st.booleans()).map(lambda v: {**v[0], "optional": True} if v[1] and v[0] != "any" else v[0]), max_size=3
)
POLICIES = st.fixed_dictionaries(
    {
        "agentguard": st.just(1),
        "name": st.sampled_from(["x", "é", "two words"]),
        "agents": st.dictionaries(NAMES, st.fixed_dictionaries({"tools": st.dictionaries(NAMES, ARGUMENTS, max_size=3)}), max_size=3),
        "forbid": st.lists(st.fixed_dictionaries({"tool": st.sampled_from(["a", "x*", "*", "mcp/*", "?"])}), max_size=2),
        "environment": ARGUMENTS,
    }
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(POLICIES, NAMES, NAMES, st.dictionaries(NAMES, JSON, max_size=3))
def test_any_policy_is_a_fixpoint_and_judges_any_call_twice_alike(
    document: dict[str, Any], agent: str, tool: str, arguments: dict[str, Any]
) -> None:
    policy = load(json.dumps(document, ensure_ascii=False))
    again = load(policy.canonical.decode())
    assert again.digest == policy.digest
    for bound in (arguments, frozen(arguments)):
        one, two = policy.judge(agent, tool, bound), again.judge(agent, tool, bound)
        assert code_and_subject(one) == code_and_subject(two)
        assert (policy.judge_environment(bound) is None) == (again.judge_environment(bound) is None)
    if one is None:
        rules = document["agents"][agent]["tools"][tool]
        assert set(arguments) <= set(rules)
        assert policy.default_scope(agent)[tool].check(bound) is None


def frozen(arguments: dict[str, Any]) -> Any:
    try:
        return freeze(arguments)
    except InvalidInput:
        return {name: Inadmissible("1e400") for name in arguments}


def code_and_subject(reason: Reason | None) -> tuple[str, str] | None:
    return None if reason is None else (reason.code, reason.subject)


@settings(max_examples=200, deadline=None)
@given(st.one_of(JSON, st.dictionaries(st.text(max_size=4), st.dictionaries(st.text(max_size=4), JSON | RULES, max_size=3), max_size=3)))
def test_any_scope_parses_or_is_invalid_input(scope: Any) -> None:
    try:
        assert set(parse_scope(scope)) == set(scope)
        return
    except InvalidInput as error:
        refused = error
    assert refused.place is not None
    assert refused.place.startswith("scope")
