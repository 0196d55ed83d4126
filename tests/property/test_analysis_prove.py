"""The symbolic analysis against brute force: constraints, patterns, properties and differences, on small domains.

What is called proven must hold for every value of the domain, what is found must be so by the guard's own judgement, and where every
construct is translated exactly nothing may stay unknown.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import re2
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agentguard.canonical import freeze, jcs
from agentguard.constraints.matchers import Regex
from agentguard.constraints.rules import parse_rule
from agentguard.constraints.tokens import narrows, parse_constraint
from agentguard.constraints.vocabulary import Exact, NotOneOf, OneOf
from agentguard.policy import load
from agentguard.policy.model import Policy

pytest.importorskip("z3", reason="z3 belongs to the prove extra")

from agentguard.analysis.diff import differences
from agentguard.analysis.formulas import Both, Found, Not, Nothing, Unknown, holds
from agentguard.analysis.properties import parse_property
from agentguard.analysis.prove import Verdict, prove
from agentguard.analysis.search import find

Json = Any
URN = "urn:agentguard:constraint:"

TEXTS = [
    *("", "a", "b", "ab", "aa", "a/b", "ab/", "1", "T-7", "/srv", "/srv/a", "/srv/a/b", "/srv/ab", "/srv/../etc", "/srv/a/..", "\n", "é"),
    *("bob@example.com", "bob@a.example.com", "bob@b.example.com", "10.0.0.1", "10.0.0.2", "10.1.0.1", "255.1.1.1"),
    *("https://example.com/api", "https://example.com/", "https://a.example.com:8443/api/v1", "http://example.com:443/"),
]
SCALARS = [None, True, False, -1, 0, 1, 2, 1.0, 1.5, 2.0, 3, -0.5, 1e23, 2**53, *TEXTS]
COMPOSITES: list[Json] = [[], ["a"], ["a", "b"], ["b"], ["a", "c"], [1], [1.0, "a"], [[]], {}, {"a": 1}, {"b": 2}]
LABEL = "a" * 63
HOST = f"{LABEL}.{LABEL}.{LABEL}.{'a' * 49}"  # with `.example.com` the longest there may be
#: Texts at the limits that constraints have whatever their members say, on both sides of each.
EDGES = [
    *(
        f"https://{LABEL}.example.com/api",
        f"https://{LABEL}a.example.com/api",
        f"https://{HOST}.example.com/",
        f"https://{HOST}a.example.com/",
    ),
    *(
        f"{'b' * 64}@example.com",
        f"{'b' * 65}@example.com",
        f"b@{HOST[:-4]}.example.com",
        f"{'b' * 64}@{LABEL}.{LABEL}.{LABEL[:49]}.example.com",
    ),
    *(f"b@{LABEL}.example.com", f"b@{LABEL}a.example.com", "b..c@example.com", ".b@example.com", "b@-a.example.com", "b@a..example.com"),
    *("/srv/" + "a" * 4091, "/srv/" + "a" * 4092, f"https://example.com/api/{'a' * 4091}", f"https://example.com/api/{'a' * 4092}"),
    *(
        f"https://example.com/?{'a' * 8171}",
        f"https://example.com/?{'a' * 8172}",
        "https://example.com/api;x",
        "https://example.com/api?;%41",
    ),
    *(
        "https://example.com/%4",
        "https://example.com/%41",
        "https://example.com",
        "https://example.com?a",
        "https://example.com:0443/",
        "/srv/%41",
    ),
    *(
        "/srv/\u202e",
        "/srv/a\\b",
        "/srv/é",
        "/srv/",
        "/srv//",
        "/",
        "//",
        "/srv/.a",
        "/srv/...",
        "\U0010ffff",
        "\U00030001",
        "2001:db8::1",
        "::1",
    ),
    *("2001:0db8::1", "::ffff:10.0.0.1", "10.0.0.01", "T-12345678", "T-123456789", "/SRV/x", "/\u017frv/x"),
]
DOMAIN = [freeze(value) for value in (*SCALARS, *COMPOSITES, *EDGES)]

NETWORKS = ["10.0.0.0/8", "10.0.0.0/24", "10.0.0.1/32", "0.0.0.0/0", "2001:db8::/32", "::/0"]
constants = st.lists(st.sampled_from([*SCALARS, *COMPOSITES]), max_size=3)
some_hosts = st.lists(st.sampled_from(["example.com", "*.example.com", "a.example.com"]), min_size=1, max_size=2)


def _of(kind: str, **members: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({"constraint_type": st.just(kind), **members})


ranges = st.tuples(st.sampled_from([-1, 0, 1, 1.5, 2]), st.sampled_from([0, 0.5, 3]), st.booleans()).map(
    lambda of: {"constraint_type": "range", "min": of[0], "max": of[0] + of[1], "min_inclusive": of[2]}
)
listing = st.one_of(
    _of("exact", value=st.sampled_from(SCALARS)),
    _of("one_of", values=constants.filter(bool)),
    _of("not_one_of", excluded=constants),
)
lengths = st.tuples(st.integers(0, 3), st.integers(0, 3)).map(
    lambda of: {"constraint_type": f"{URN}length", "min": of[0], "max": of[0] + of[1]}
)
urls = _of(
    f"{URN}url",
    hosts=some_hosts,
    schemes=st.lists(st.sampled_from(["https", "http"]), min_size=1, max_size=2),
    path=st.sampled_from(["/", "/api", "/api/v1"]),
    ports=st.lists(st.sampled_from([443, 80, 8443]), max_size=2),
)
leaves = st.one_of(
    _of("exact", value=st.sampled_from(SCALARS)),
    _of("one_of", values=constants.filter(bool)),
    _of("not_one_of", excluded=constants),
    _of("contains", required=constants),
    _of("subset", allowed=constants),
    _of("wildcard"),
    ranges,
    lengths,
    urls,
    _of(f"{URN}path", root=st.sampled_from(["/", "/srv", "/srv/a"])),
    _of(f"{URN}glob", pattern=st.text("ab*?/", min_size=1, max_size=5).filter(lambda text: "**" not in text)),
    _of(f"{URN}regex", pattern=st.sampled_from(["a", "a|b", ".*", "(?s).*", "[ab]*", "T-[0-9]{1,8}", "(?i)/SRV.*"])),
    _of(f"{URN}cidr", network=st.sampled_from(NETWORKS)),
    _of(f"{URN}email", domains=some_hosts),
    _of(f"{URN}type", type=st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])),
)
constraints = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda kind, clauses: {"constraint_type": kind, "constraints": clauses},
        st.sampled_from(["all", "any"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=4,
).map(lambda written: parse_constraint(written, extensions=True))


@settings(max_examples=150, deadline=None)
@given(constraints, constraints, st.booleans())
def test_no_value_is_missed_and_none_is_made_up(child: Any, parent: Any, guess: bool) -> None:
    contrary = Both((child, Not(parent)))
    answer = find(contrary, guess=guess)
    if isinstance(answer, Nothing):
        assert [value for value in DOMAIN if holds(contrary, value)] == []
    elif isinstance(answer, Found):
        assert child.check(answer.value)
        assert not parent.check(answer.value)
        assert not narrows(child, parent), "what narrows has no such value"
    else:
        assert "limits" in answer.why or "IPv6" in answer.why  # everything else here is translated exactly


@settings(max_examples=100, deadline=None)
@given(st.one_of(listing, ranges), listing)
def test_where_narrowing_is_exact_it_agrees_with_z3_both_ways(child: Json, parent: Json) -> None:
    below, above = parse_constraint(child, extensions=True), parse_constraint(parent, extensions=True)
    assert isinstance(above, Exact | OneOf | NotOneOf)
    assert isinstance(find(Both((below, Not(above))), guess=False), Nothing) == narrows(below, above)


@settings(max_examples=150, deadline=None)
@given(leaves, st.sampled_from([*TEXTS, *EDGES]))
def test_each_constraint_says_of_each_text_what_its_formula_says(written: Json, text: str) -> None:
    leaf = parse_constraint(written, extensions=True)
    assert isinstance(find(Both((Exact(text), leaf)), guess=False), Found) == leaf.check(text)
    assert isinstance(find(Both((Exact(text), Not(leaf))), guess=False), Found) != leaf.check(text)


# --- patterns -------------------------------------------------------------------------------------------------------------------------

atoms = st.sampled_from(
    [
        "a",
        "b",
        "k",
        "-",
        ".",
        "é",
        "[ab]",
        "[^a]",
        "[a-k]",
        "[]a]",
        "[[:alpha:]-]",
        r"\d",
        r"\w",
        r"\W",
        r"\pL",
        r"\P{Lu}",
        r"\.",
        r"\x{e9}",
    ]
)
flagged = st.sampled_from(["(?i)", "(?s)", "(?i:", "(", "(?:", "(?P<n>", "(?-i:"])
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map("|".join),
        st.tuples(flagged, inner).map(lambda of: f"({of[0]}{of[1]})" if of[0].endswith(")") else f"{of[0]}{of[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "*?", "{0}"])).map(lambda of: f"(?:{of[0]}){of[1]}"),
        st.tuples(st.sampled_from(["^", r"\A", r"\Qa.b\E", ""]), inner, st.sampled_from(["$", r"\z", ""])).map("".join),
    ),
    max_leaves=6,
)
samples = st.one_of(st.text("abkKé.-A1\n_ſ\u212a\U00030000", max_size=5), st.text(max_size=3))


@settings(max_examples=150, deadline=None)
@given(patterns, st.lists(samples, min_size=1, max_size=8, unique=True))
def test_a_translated_pattern_takes_what_re2_takes(pattern: str, texts: list[str]) -> None:
    try:
        compiled = re2.compile(pattern)
    except re2.error:
        assume(False)
    rule = Regex(pattern)
    for text in texts:
        taken = compiled.fullmatch(text) is not None
        assert rule.check(text) == taken
        answer = find(Both((Exact(text), rule)), guess=False)
        if not isinstance(answer, Unknown):  # ^ and $ inside a pattern are not translated
            assert isinstance(answer, Found) == taken
        else:
            assert not taken or "not translated" in answer.why


# --- policies -------------------------------------------------------------------------------------------------------------------------

VALUES: list[Json] = ["a", "b", "ab", 1, 2, 2.5, True, None, ["a"]]
NAMES = ("x", "y")
#: Every choice of a value, or of none, for each of two arguments.
CALLS = [
    freeze({name: value for name, value in zip(NAMES, chosen, strict=True) if value != "absent"})
    for chosen in itertools.product([*VALUES, "absent"], repeat=2)
]
small_rules = st.sampled_from(
    [
        *(
            "any",
            {"exact": "a"},
            {"one_of": ["a", 1, None]},
            {"not_one_of": ["b", True]},
            {"range": {"min": 1, "max": 2}},
            {"regex": "ab?"},
        ),
        *({"max_length": 1}, {"type": "string"}, {"subset": ["a"]}, {"any": [{"glob": "?"}, {"exact": 2}]}, {"range": {"min": 2}}),
    ]
)


@st.composite
def maps(draw: st.DrawFn, *, optional: bool = True) -> Json:
    rules = draw(st.dictionaries(st.sampled_from(NAMES), small_rules, max_size=2))
    for name, rule in rules.items():
        if optional and type(rule) is dict and draw(st.booleans()):
            rules[name] = {**rule, "optional": True}
    return rules


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    agents = {}
    for name in ("one", "two"):
        tools = draw(st.dictionaries(st.sampled_from(["read", "send"]), maps(), max_size=2))
        for rules in tools.values():
            if draw(st.integers(0, 4)) == 0:
                rules["*"] = "any"
        other = "two" if name == "one" else "one"
        agents[name] = {"tools": tools, "delegates": {other: {"depth": draw(st.integers(1, 3))}} if draw(st.booleans()) else {}}
    forbid = [{"tool": tool} for tool in draw(st.lists(st.sampled_from(["send", "s*", "x*"]), max_size=1))]
    environment = draw(st.dictionaries(st.sampled_from(NAMES), small_rules, max_size=1))
    tools = {name: {"unsafe_any_arguments": True} for name in ("read", "send")}
    document = {"agentguard": 1, "name": "p", "agents": agents, "forbid": forbid, "tools": tools, "environment": environment}
    return load(jcs(document).decode() + "\n")


def allowed(policy: Policy) -> Iterator[tuple[str, str, Mapping[str, Json]]]:
    if not any(policy.judge_environment(facts) is None for facts in CALLS):
        return
    for agent, tool, arguments in itertools.product(("one", "two", "three"), ("read", "send", "other"), CALLS):
        if policy.judge(agent, tool, arguments) is None:
            yield agent, tool, arguments


def matches(arguments: Mapping[str, Json], rules: Json) -> bool:
    for name, rule in rules.items():
        negated = type(rule) is dict and "not" in rule
        entry = parse_rule(rule["not"] if negated else rule)
        if name not in arguments:
            if not entry.optional:
                return False
        elif entry.constraint.check(arguments[name]) == negated:
            return False
    return True


@st.composite
def properties(draw: st.DrawFn) -> Json:
    kind = draw(st.sampled_from(["only", "always", "never"]))
    body: Json = {"tool": draw(st.sampled_from(["send", "read", "*", "other"]))}
    if kind == "only":
        return {kind: {**body, "agents": draw(st.sampled_from([["one"], ["two"], ["t*"], ["three"]]))}}
    rules = {name: ({"not": rule} if draw(st.booleans()) and "optional" not in rule else rule) for name, rule in draw(maps()).items()}
    if kind == "always" and not rules:
        rules = {"x": {"type": "string"}}
    if draw(st.booleans()):
        body["agents"] = ["one"]
    return {kind: {**body, "arguments": rules}}


def breaks(written: Json, agent: str, tool: str, arguments: Mapping[str, Json]) -> bool:
    ((kind, body),) = written.items()
    if body["tool"] not in ("*", tool):
        return False
    if kind == "only":
        return agent not in body["agents"] and not (body["agents"] == ["t*"] and agent.startswith("t"))
    if agent not in body.get("agents", [agent]):
        return False
    return matches(arguments, body["arguments"]) == (kind == "never")


@settings(max_examples=150, deadline=None)
@given(policies(), properties())
def test_properties_of_small_policies_against_brute_force(policy: Policy, written: Json) -> None:
    proof = prove(policy, parse_property(written, "here"))
    broken = [call for call in allowed(policy) if breaks(written, *call)]
    assert proof.verdict is not Verdict.UNKNOWN, proof.why
    if proof.verdict is Verdict.PROVEN:
        assert broken == []
    else:
        call = proof.example
        found = freeze(call["arguments"])
        assert policy.judge(call["agent"], call["tool"], found) is None
        assert policy.judge_environment(freeze(call.get("environment", {}))) is None
        assert breaks(written, call["agent"], call["tool"], found)


@settings(max_examples=100, deadline=None)
@given(policies(), policies())
def test_differences_of_small_policies_against_brute_force(old: Policy, new: Policy) -> None:
    changes = list(differences(old, new))
    assert all(change.sure for change in changes)
    said = {(change.agent, change.tool, change.allowed) for change in changes if change.kind == "call"}
    for agent, tool, arguments in itertools.product(("one", "two"), ("read", "send"), CALLS):
        before, after = (policy.judge(agent, tool, arguments) is None for policy in (old, new))
        assert before == after or (agent, tool, after) in said
    for change in changes:
        if change.kind == "call":
            found = freeze(change.example["arguments"])
            assert (new.judge(change.agent, change.tool, found) is None) is change.allowed
            assert (old.judge(change.agent, change.tool, found) is None) is not change.allowed
        if change.kind == "environment":
            assert (new.judge_environment(freeze(change.example)) is None) is change.allowed
        if change.kind == "delegation":
            assert (new.may_delegate(tuple(change.example)) is None) is change.allowed
    chains = {chain for size in (2, 3, 4, 5) for chain in itertools.product(("one", "two"), repeat=size)}
    for allowed_now in (True, False):
        differ = {c for c in chains if (new.may_delegate(c) is None) is allowed_now and (old.may_delegate(c) is None) is not allowed_now}
        assert bool(differ) == any(change.kind == "delegation" and change.allowed is allowed_now for change in changes)


@settings(max_examples=50, deadline=None)
@given(policies(), policies())
def test_no_wider_than_is_what_the_difference_says(tmp_path_factory: pytest.TempPathFactory, old: Policy, new: Policy) -> None:
    file: Path = tmp_path_factory.mktemp("old") / "old.yaml"
    file.write_bytes(old.canonical + b"\n")
    verdict = prove(new, parse_property({"no_wider_than": str(file)}, "here")).verdict
    gained = [change for change in differences(old, new) if change.allowed]
    assert verdict is (Verdict.COUNTEREXAMPLE if gained else Verdict.PROVEN)
