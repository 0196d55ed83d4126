"""The compiled policy: what stage 10 says, what a task may come to, and that a policy's digest is its meaning."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import MappingProxyType

import pytest

from agentguard.canonical import Inadmissible, freeze
from agentguard.constraints.tokens import NO_ARGUMENTS
from agentguard.decision import Code, Reason
from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.forbid import Forbid, ForbidIndex
from agentguard.policy.model import Policy, parse_scope

SUPPORT = """\
agentguard: 1
name: support
agents:
  triage:
    tools:
      read_ticket: {id: {regex: "T-[0-9]{1,8}"}}
      send_email: {to: {email: {domains: [example.com]}}, subject: any, body: {max_length: 4000}}
      search: {query: any, limit: {range: {min: 1, max: 50}, optional: true}}
      ping: {}
      delete_draft: {id: any}
    budgets: [{calls: 50, per: task}]
    delegates: {summarizer: {depth: 1}}
  summarizer:
    tools: {read_file: {path: {path: /srv/tickets}}, search: {query: any, lang: {one_of: [en, de]}}}
forbid: [{tool: "delete_*", reason: nothing is deleted}]
tools: {search: {rerun: safe}}
environment: {deployment: {one_of: [prod, staging]}, region: {exact: eu, optional: true}}
"""

MAIL = {"to": "bob@example.com", "subject": "Hi", "body": "..."}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load(SUPPORT)


def refused(reason: Reason | None) -> Reason:
    assert reason is not None
    return reason


# --- judge ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "tool", "arguments"),
    [
        ("triage", "send_email", MAIL),
        ("triage", "search", {"query": "x"}),
        ("triage", "search", {"query": "x", "limit": 50}),
        ("triage", "search", {"query": {"any": ["json"]}, "limit": 1.0}),
        ("triage", "ping", {}),
        ("summarizer", "read_file", {"path": "/srv/tickets/a/b.txt"}),
        ("summarizer", "search", {"query": None, "lang": "de"}),
    ],
)
def test_what_a_rule_admits_is_allowed_frozen_or_plain(policy: Policy, agent: str, tool: str, arguments: dict[str, object]) -> None:
    assert policy.judge(agent, tool, arguments) is None
    assert policy.judge(agent, tool, freeze(arguments)) is None


def test_an_unknown_agent_has_no_rules(policy: Policy) -> None:
    reason = refused(policy.judge("intern", "search", {"query": "x"}))
    assert reason == Reason(
        Code.AGENT_UNKNOWN,
        "intern",
        "an agent of the policy support",
        "no rules for it",
        "<policy>",
        "add `intern: {tools: {...}}` under agents",
    )
    assert policy.known("intern") == reason
    assert policy.known("triage") is None


def test_a_tool_without_a_rule_is_refused_at_the_agents_line(policy: Policy) -> None:
    assert policy.judge("triage", "read_file", {"path": "/srv/tickets/a", "mode": "r"}) == Reason(
        Code.TOOL_NOT_ALLOWED,
        "read_file",
        "a tool that the policy gives to triage",
        "no rule for it",
        "<policy>:4",
        "add `read_file: {path: any, mode: any}` under agents.triage.tools, with rules as narrow as they can be",
    )


@pytest.mark.parametrize("tool", ["delete_draft", "delete_everything"])
def test_forbid_wins_and_names_its_line(policy: Policy, tool: str) -> None:
    assert policy.judge("triage", tool, {"id": 1}) == Reason(
        Code.TOOL_NOT_ALLOWED, tool, "a tool that no rule forbids", "forbidden by delete_*: nothing is deleted", "<policy>:15"
    )


def test_an_argument_outside_its_rule_is_refused_at_its_line(policy: Policy) -> None:
    assert policy.judge("triage", "send_email", {**MAIL, "to": "eve@evil.test"}) == Reason(
        Code.ARGUMENT_NOT_ALLOWED,
        "to",
        "an e-mail address at example.com",
        "'eve@evil.test'",
        "<policy>:7",
        "widen the rule of to under agents.triage.tools.send_email",
    )


def test_an_absent_argument_is_a_violation(policy: Policy) -> None:
    assert policy.judge("triage", "send_email", {"to": "bob@example.com", "subject": "Hi"}) == Reason(
        Code.ARGUMENT_NOT_ALLOWED,
        "body",
        "at most 4000 characters",
        "nothing",
        "<policy>:7",
        "pass body, or add `optional: true` to its rule under agents.triage.tools.send_email",
    )


def test_an_argument_without_a_rule_is_refused(policy: Policy) -> None:
    assert policy.judge("triage", "send_email", {**MAIL, "bcc": "eve@evil.test"}) == Reason(
        Code.ARGUMENT_NOT_ALLOWED,
        "bcc",
        "one of the arguments body, subject, to",
        "'eve@evil.test'",
        "<policy>:7",
        "add `bcc: any` under agents.triage.tools.send_email, or a narrower rule",
    )


@pytest.mark.parametrize("name", ["_", "x", "*", ""])
def test_a_tool_without_arguments_takes_none(policy: Policy, name: str) -> None:
    reason = refused(policy.judge("triage", "ping", {name: 0}))
    assert reason.code is Code.ARGUMENT_NOT_ALLOWED
    assert reason.required == "no arguments"


def test_reasons_stay_short_whatever_the_call_holds(policy: Policy) -> None:
    for arguments in (
        {"id": "T-" + "9" * 100_000},
        {"id": ["deep" * 1000] * 1000},
        {"id": Inadmissible("1e400")},
        {"n\nm" * 10_000: 1, "id": "T-1"},
    ):
        reason = refused(policy.judge("triage", "read_ticket", arguments))
        assert len(reason.found) <= 60
        assert len(reason.subject) <= 64
        assert len(reason.sentence()) < 500
        assert "\n" not in reason.sentence()


def test_any_arguments_need_the_mark_and_still_check_the_named_ones() -> None:
    tools = '{run: {"*": any, n: {range: {max: 5}}}}'
    text = f"agentguard: 1\nname: x\nagents: {{a: {{tools: {tools}}}}}\ntools: {{run: {{unsafe_any_arguments: true}}}}\n"
    policy = load(text)
    assert policy.judge("a", "run", {"n": 1, "other": [1]}) is None
    assert refused(policy.judge("a", "run", {"n": 6})).subject == "n"
    assert refused(policy.judge("a", "run", {"other": 1})).subject == "n"
    assert refused(policy.judge("a", "run", {"n": 1, "other": Inadmissible("1e400")})).subject == "other"
    assert policy.default_scope("a")["run"].rest


# --- environment, attributes, budgets -------------------------------------------------------------


def test_the_environment_must_be_as_the_policy_says(policy: Policy) -> None:
    assert policy.judge_environment({"deployment": "prod", "more": 1}) is None
    assert policy.judge_environment({"deployment": "prod", "region": "eu"}) is None
    assert policy.judge_environment({"deployment": "dev"}) == Reason(
        Code.ENVIRONMENT_MISMATCH, "deployment", "one of 'prod', 'staging'", "'dev'", "<policy>:17"
    )
    missing = refused(policy.judge_environment({}))
    assert (missing.found, missing.fix) == ("nothing known", "Guard.open(..., environment={'deployment': ...})")
    assert refused(policy.judge_environment({"deployment": "prod", "region": "us"})).subject == "region"


def test_attributes_are_the_strictest_unless_the_policy_says_so() -> None:
    text = (
        "agentguard: 1\nname: x\nagents: {a: {tools: {t: {}}}}\n"
        "tools: {t: {rerun: safe, proof: required, opaque: accepted, plain_chains: accepted, unsafe_any_arguments: true}}\n"
    )
    policy = load(text)
    given, default = policy.attributes("t"), policy.attributes("other")
    assert (given.rerun_safe, given.proof_required, given.opaque, given.plain_chains, given.unsafe_any_arguments) == (True,) * 5
    assert not any((default.rerun_safe, default.proof_required, default.opaque, default.plain_chains, default.unsafe_any_arguments))
    assert policy.knows_tool("t")
    assert not policy.knows_tool("other")


def test_a_budget_knows_its_limit_and_its_line(policy: Policy) -> None:
    (budget,) = policy.agents["triage"].budgets
    assert (budget.limit, budget.name, budget.place) == (50, "calls per task", "<policy>:11")
    assert policy.agents["summarizer"].budgets == ()


# --- delegation -----------------------------------------------------------------------------------

FAMILY = """\
agentguard: 1
name: family
agents:
  a: {tools: {t: {x: any}}, delegates: {b: {depth: 3}, e: {}}}
  b: {tools: {t: {y: any}, u: {}}, delegates: {c: {depth: 1}, a: {depth: 1}}}
  c: {tools: {v: {z: any}}, delegates: {d: {depth: 2}}}
  d: {tools: {w: {}}, delegates: {c: {depth: 2}}}
  e: {delegates: {d: {depth: 1}}}
"""


@pytest.mark.parametrize(
    ("chain", "subject", "required", "found", "place"),
    [
        (("a",), None, "", "", ""),
        ((), None, "", "", ""),
        (("a", "b"), None, "", "", ""),
        (("a", "b", "c"), None, "", "", ""),
        (("a", "b", "a"), None, "", "", ""),
        (("a", "b", "c", "d"), "b -> c", "at most 1 hop below b", "2 hops, to d", "<policy>:5"),
        (("a", "e", "d"), "a -> e", "at most 1 hop below a", "2 hops, to d", "<policy>:4"),
        (("a", "c"), "a -> c", "a delegate of a: b, e", "c", "<policy>:4"),
        (("a", "b", "x"), "b -> x", "a delegate of b: a, c", "x", "<policy>:5"),
        (("x", "a"), "x -> a", "an agent of the policy family", "no rules for it", "<policy>"),
        (("c", "d", "c", "d"), "c -> d", "at most 2 hops below c", "3 hops, to d", "<policy>:6"),
        (("a", "a"), "a -> a", "a delegate of a: b, e", "a", "<policy>:4"),
    ],
)
def test_each_hop_is_a_delegate_and_no_chain_is_deeper_than_said(
    chain: tuple[str, ...], subject: str | None, required: str, found: str, place: str
) -> None:
    policy = load(FAMILY)
    for _ in range(2):  # the second answer is remembered
        reason = policy.may_delegate(chain)
        if subject is None:
            assert reason is None
        else:
            assert reason is not None
            assert (reason.code, reason.subject, reason.required) == (Code.DELEGATION_NOT_ALLOWED, subject, required)
            assert (reason.found, reason.place) == (found, place)


def test_what_is_remembered_is_bounded() -> None:
    policy = load(FAMILY)
    for number in range(10_000):
        assert policy.may_delegate(("a", str(number))) is not None
        assert policy.default_scope(str(number)) == {}
    assert len(policy._chains) <= 4096
    assert len(policy._scopes) <= len(policy.agents)


def test_reachable_is_exactly_what_a_chain_may_end_in() -> None:
    policy = load(FAMILY)
    names = tuple(policy.agents)
    for start in names:
        found, level = set(), [(start,)]
        while level:
            level = [(*chain, name) for chain in level for name in names if policy.may_delegate((*chain, name)) is None and len(chain) < 6]
            found |= {chain[-1] for chain in level}
        assert set(policy.reachable(start)) == found - {start}
    assert policy.reachable("nobody") == ()


def test_the_default_scope_names_every_argument_of_every_agent_on_the_way(policy: Policy) -> None:
    scope = policy.default_scope("triage")
    assert set(scope) == {"read_ticket", "send_email", "search", "ping", "delete_draft", "read_file"}
    assert set(scope["search"].named) == {"query", "limit", "lang"}
    assert scope["ping"] == NO_ARGUMENTS
    assert scope["send_email"].to_json() == {name: {"constraint_type": "wildcard", "optional": True} for name in MAIL}
    assert not any(tool.rest for tool in scope.values())
    assert set(policy.default_scope("summarizer")) == {"read_file", "search"}
    assert policy.default_scope("nobody") == {}
    assert policy.default_scope("triage") is scope


def test_a_tool_that_one_agent_calls_without_arguments_takes_the_others_names() -> None:
    policy = load("agentguard: 1\nname: x\nagents: {a: {tools: {t: {}}, delegates: {b: {}}}, b: {tools: {t: {n: any}}}}\n")
    assert set(policy.default_scope("a")["t"].named) == {"n"}


# --- scopes ---------------------------------------------------------------------------------------


def test_a_scope_is_written_like_a_policys_tools(policy: Policy) -> None:
    scope = policy.parse_scope({"search": {"query": {"max_length": 10}, "limit": {"range": {"max": 5}, "optional": True}}, "ping": {}})
    assert scope["search"].check({"query": "x"}) is None
    assert scope["search"].check({"query": "x", "limit": 6}) is not None
    assert scope["ping"] == NO_ARGUMENTS
    assert parse_scope({}) == {}
    assert parse_scope(MappingProxyType({"t": MappingProxyType({"a": "any"})}))["t"].check({"a": 1}) is None


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ({"send_email": {"to": {"emial": 1}}}, "scope.send_email.to: a rule has no key 'emial'"),
        ({"send_email": {"to": "bob"}}, "scope.send_email.to: a rule is `any` or an object"),
        ({"send_email": ["to"]}, "scope.send_email: expected {name: ...}, found list"),
        (["send_email"], "scope: expected {name: ...}, found list"),
        (None, "scope: expected {name: ...}, found NoneType"),
        ({1: {}}, "scope: 1 is not a name"),
        ({"a b": {}}, "scope: 'a b' is not a tool's name"),
        ({"t": {"a\n": "any"}}, "scope.t: 'a\\n' is not a name"),
        ({"t": {"*": {"max_length": 1}}}, "scope.t.*: '*' can only be `any`"),
        ({"t": {"*": "any"}}, "scope.t: '*' would admit any argument (name the arguments, or mark the tool in the policy"),
    ],
)
def test_a_malformed_scope_names_its_place(policy: Policy, scope: object, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        policy.parse_scope(scope)
    assert message in str(caught.value)


def test_the_star_of_a_scope_needs_a_marked_tool() -> None:
    text = "agentguard: 1\nname: x\nagents: {a: {tools: {run: {}}}}\ntools: {run: {unsafe_any_arguments: true}}\n"
    assert load(text).parse_scope({"run": {"*": "any"}})["run"].rest


# --- digest and canonical form --------------------------------------------------------------------


def test_layout_comments_order_and_short_forms_make_no_difference(policy: Policy) -> None:
    other = load(
        """\
# the same policy, otherwise written
name: "support"
environment:
  region: {optional: true, exact: eu}
  deployment: {one_of: [prod, staging]}
tools: {search: {rerun: safe, unsafe_any_arguments: false}, read_file: {}}
forbid:
  - reason: nothing is deleted
    tool: delete_*
agents:
  summarizer:
    tools:
      search: {lang: {one_of: [en, de]}, query: any}
      read_file: {path: {path: {root: /srv/tickets}}}
    budgets: []
  triage:
    delegates: {summarizer: {}}
    budgets:
      - per: task
        calls: 50
    tools:
      ping: {}
      delete_draft: {id: {wildcard: true}}
      search: {limit: {optional: true, range: {max: 50.0, min: 1}}, query: any}
      send_email: {body: {length: {max: 4000}}, subject: any, to: {email: {domains: [example.com]}}}
      read_ticket: {id: {regex: 'T-[0-9]{1,8}'}}
agentguard: 1
"""
    )
    assert other.digest == policy.digest
    assert other.canonical == policy.canonical


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max: 50", "max: 51"),
        ("calls: 50", "calls: 51"),
        ("depth: 1", "depth: 2"),
        ("delete_*", "delete_?"),
        ("nothing is deleted", "never"),
        ("rerun: safe", "proof: required"),
        ("name: support", "name: support2"),
        ("prod, staging", "prod"),
        ("exact: eu, optional: true", "exact: eu"),
        ("ping: {}", "ping: {x: any}"),
    ],
)
def test_every_difference_of_meaning_changes_the_digest(policy: Policy, old: str, new: str) -> None:
    assert old in SUPPORT
    assert load(SUPPORT.replace(old, new)).digest != policy.digest


def test_the_canonical_bytes_are_a_policy_with_the_same_digest(policy: Policy) -> None:
    again = load(policy.canonical.decode())
    assert again.canonical == policy.canonical
    assert again.digest == policy.digest == "sha256:" + hashlib.sha256(policy.canonical).hexdigest()
    for arguments in (MAIL, {**MAIL, "to": "eve@evil.test"}, {}):
        one, two = policy.judge("triage", "send_email", arguments), again.judge("triage", "send_email", arguments)
        assert (one is None) == (two is None)


def test_json_is_a_policy_too(policy: Policy) -> None:
    pretty = json.dumps(json.loads(policy.canonical), indent=2)
    assert load(pretty).digest == policy.digest


def test_a_policy_is_loaded_from_a_file_and_named_as_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(SUPPORT, "utf-8")
    for source in (file, str(file)):
        policy = load(source)
        assert policy.source == str(file)
        assert refused(policy.judge("triage", "delete_draft", {})).place == f"{file}:15"


# --- warnings -------------------------------------------------------------------------------------


def test_what_has_no_effect_is_said() -> None:
    policy = load("""\
agentguard: 1
name: x
agents:
  a: {tools: {t: {}, delete_x: {id: any}}}
forbid:
  - {tool: "delete_*"}
  - {tool: "delete_?"}
  - {tool: nothing_*}
  - {tool: t, agent: "b*"}
tools:
  s: {rerun: safe}
""")
    assert policy.warnings == (
        "<policy>:11: tools.s: no agent has a rule for this tool",
        "<policy>:4: agents.a.tools.delete_x: has no effect, forbidden at <policy>:6",
        "<policy>:7: forbid delete_?: matches no tool that an agent has, or only what an earlier rule forbids",
        "<policy>:8: forbid nothing_*: matches no tool that an agent has, or only what an earlier rule forbids",
        "<policy>:9: forbid t: matches no tool that an agent has, or only what an earlier rule forbids",
    )


def test_a_policy_without_agents_allows_nothing_and_loads() -> None:
    policy = load("agentguard: 1\nname: closed\nagents: {}\n")
    assert refused(policy.judge("a", "t", {})).code is Code.AGENT_UNKNOWN


# --- forbid rules ---------------------------------------------------------------------------------


def test_the_index_of_forbid_rules_finds_what_trying_them_all_finds() -> None:
    globs = ["delete_*", "*_delete", "*x*", "a*b*c", "exact", "?xact", "*", "mcp/*", "*/drop", "de?ete_*", "delete_all", "a*", "*c"]
    agents = [None, "a", "b*", "*", "a?"]
    rules = [Forbid(glob, agent, "", "", order) for order, (glob, agent) in enumerate((g, a) for a in agents for g in globs)]
    tools = ["delete_all", "x_delete", "axb", "abc", "aXbYc", "exact", "Exact", "mcp/drop", "mcp/a/b", "deXete_1", "zzz", "c", "a"]
    for start in range(len(rules)):
        some = rules[start : start + 7]
        index = ForbidIndex(some)
        for agent in ("a", "b", "bc", "a1", "z/z"):
            for tool in tools:
                assert index.first(agent, tool) is next((rule for rule in some if rule.covers(agent, tool)), None)
