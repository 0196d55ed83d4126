"""Decisions where two reasons meet, and what they name (decide.py)."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.artifacts.chain import Limits, VerifiedChain
from agentguard.artifacts.making import Profile
from agentguard.artifacts.revocation import Revocations
from agentguard.call import ToolCall
from agentguard.canonical import freeze
from agentguard.constraints.tokens import parse_tool_map
from agentguard.decide import decide, decide_policy_only, decide_rules
from agentguard.decision import Code, Decision, Stage
from agentguard.policy import load
from agentguard.premises import Binding, Facts, Grant, Terms
from support.artifacts import NOW, extend, mint, profile, verified

POLICY = load("""
agentguard: 1
name: decided
agents:
  a0:
    tools: {read_file: {path: any}, search: {query: any}, ask: {text: any}}
    hours: [{days: [mon], from: "09:00", to: "09:01", zone: UTC, tools: [ask]}]
    delegates: {a1: {depth: 2}}
  a1: {tools: {read_file: {path: any}}, delegates: {a2: {depth: 1}}}
  a2: {tools: {read_file: {path: any}}}
""")
HERE = "https://guard.example"
READ = {"path": "/data/a"}
MONDAY = 4 * 86400 + 9 * 3600


def chain(*holders: str, **changes: Any) -> VerifiedChain:
    made = verified(mint(holder=holders[0], profile=profile(holders[0], policy=POLICY.digest), **changes))
    for holder in holders[1:]:
        made = verified(*made.tokens, extend(made, holder))
    return made


def judged(
    made: VerifiedChain,
    tool: str = "read_file",
    arguments: Any = None,
    *,
    agent: str | None = None,
    bound: tuple[str | None, ...] | None = None,
    now: int = NOW,
    **facts: Any,
) -> Decision:
    """`bound`: which agent the guard's bindings give each link's key."""
    call = ToolCall(agent or made.agents[-1], tool, READ if arguments is None else arguments)
    grant = Grant(True, made, None, made.agents if bound is None else bound, possessed=True)
    return decide(call, Binding(call.arguments), grant, POLICY, Facts({}, Revocations(), Limits(), **facts), now)


@pytest.mark.parametrize(("tool", "arguments"), [("delete", {}), ("read_file", {"path": "/etc/passwd"}), ("read_file", {})])
@pytest.mark.parametrize("audience", [(HERE,), ("https://other.example",), ()])
def test_the_right_audience_does_not_make_up_for_what_the_artifact_does_not_grant(tool: str, arguments: Any, audience: Any) -> None:
    decision = judged(chain("a0", aud=(HERE,)), tool, arguments, audience=audience)
    assert decision.stage == Stage.SCOPE
    assert decision.code in (Code.TOOL_NOT_IN_SCOPE, Code.ARGUMENT_NOT_IN_SCOPE)


@pytest.mark.parametrize("holders", [("a0", "a1", "a2"), ("a0", "a1")])
def test_who_calls_with_the_artifact_of_another_is_told_whose_it_is(holders: tuple[str, ...]) -> None:
    (reason,) = judged(chain(*holders), agent="a0").reasons
    assert (reason.code, reason.found) == (Code.DELEGATION_INVALID, f"the artifact of {holders[-1]}")
    assert reason.place == f"link {len(holders) - 1}"


@pytest.mark.parametrize(("claimed", "name"), [("a1", "a9"), ("a9", "a1"), ("a1", "a10"), ("a1", "A1")])
def test_a_link_that_claims_another_name_than_its_key_has_is_refused(claimed: str, name: str) -> None:
    made = verified(mint(holder="a0", profile=profile("a0", policy=POLICY.digest)))
    made = verified(*made.tokens, extend(made, "a1", profile=Profile(claimed)))
    made = verified(*made.tokens, extend(made, "a2"))
    (reason,) = judged(made, bound=("a0", name, "a2")).reasons
    assert (reason.code, reason.found, reason.place) == (Code.DELEGATION_INVALID, claimed, "link 1")


@pytest.mark.parametrize("fact", ["region", "zone"])
def test_an_optional_fact_that_nobody_knows_does_not_end_the_list(fact: str) -> None:
    """The chain says: if there is a stage, `prod`; and region `eu`; and zone `a`. Without a stage the other two still hold."""
    rules = {
        "stage": {"constraint_type": "exact", "value": "prod", "optional": True},
        "region": {"constraint_type": "exact", "value": "eu"},
        "zone": {"constraint_type": "exact", "value": "a"},
    }
    env = parse_tool_map(rules, extensions=True).named
    made = verified(mint(holder="a0", profile=profile("a0", policy=POLICY.digest, env=dict(env))))
    here = {"region": "eu", "zone": "a"}
    call = ToolCall("a0", "read_file", READ)

    def at(environment: dict[str, str]) -> Decision:
        facts = Facts(freeze(environment), Revocations(), Limits())
        return decide(call, Binding(call.arguments), Grant(True, made, None, ("a0",), possessed=True), POLICY, facts, NOW)

    assert at(here).allowed
    (reason,) = at(here | {fact: "elsewhere"}).reasons
    assert (reason.code, reason.subject) == (Code.ENVIRONMENT_MISMATCH, fact)


@pytest.mark.parametrize(("given", "shown"), [("call-7", "call-7"), (None, "")])
def test_every_answer_names_the_call_that_it_is_about(given: str | None, shown: str) -> None:
    made, facts = chain("a0"), Facts({}, Revocations(), Limits())
    grant = Grant(True, made, None, made.agents, possessed=True)
    for tool, allowed in (("read_file", True), ("delete", False)):
        call = ToolCall("a0", tool, READ, given)
        binding = Binding(call.arguments)
        for decision in (
            decide(call, binding, grant, POLICY, facts, NOW),
            decide_rules(call, binding, POLICY, NOW),
            decide_policy_only(call, binding, POLICY, facts, NOW),
        ):
            assert (decision.allowed, decision.call_id) == (allowed, shown)


def test_a_bundle_that_ends_before_it_begins_is_never_good() -> None:
    (reason,) = judged(chain("a0"), terms=Terms("bundle 7", NOW + 50, NOW + 1)).reasons
    assert (reason.code, reason.found) == (Code.POLICY_MISMATCH, "it begins in 50 s")


def test_the_time_until_a_bundle_begins_is_a_difference_on_any_day() -> None:
    (reason,) = judged(chain("a0", now=10), now=10, terms=Terms("bundle 7", 100, 200)).reasons
    assert (reason.code, reason.found) == (Code.POLICY_MISMATCH, "it begins in 90 s")


OPEN = load("""
agentguard: 1
name: open
agents: {a0: {tools: {read_file: {path: any}, search: {query: any}}}}
tools: {read_file: {plain_chains: accepted}, search: {unsafe_any_arguments: true}}
""")


def opened(made: VerifiedChain, tool: str, *, possessed: bool = True) -> Decision:
    call = ToolCall("a0", tool, {"path": "/data/a"} if tool == "read_file" else {"query": "x"})
    grant = Grant(True, made, None, ("a0",), possessed=possessed)
    return decide(call, Binding(call.arguments), grant, OPEN, Facts({}, Revocations(), Limits()), NOW)


@pytest.mark.parametrize("possessed", [True, False])
@pytest.mark.parametrize("scope", [{"path": {"constraint_type": "wildcard"}}, {}])
def test_a_plain_chain_needs_a_proof_though_the_guard_holds_the_key(scope: Any, possessed: bool) -> None:
    """The scope, open or not, is no hindrance to a plain chain that the policy accepts; the proof is never spared."""
    decision = opened(verified(mint({"read_file": scope}, plain=True)), "read_file", possessed=possessed)
    assert (decision.code, decision.stage) == (Code.PROOF_MISSING, Stage.PROOF)


def test_a_map_that_admits_anything_will_do_where_the_policy_says_so_and_nowhere_else() -> None:
    made = verified(mint({"search": {}, "read_file": {}}, profile=profile("a0", policy=OPEN.digest)))
    assert opened(made, "search").allowed
    (reason,) = opened(made, "read_file").reasons
    assert (reason.code, reason.subject) == (Code.ARGUMENT_NOT_IN_SCOPE, "*")


def test_a_grant_that_names_fewer_holders_than_there_are_links_is_a_fault_and_no_permission() -> None:
    """The guard makes one name for each link; where a fault leaves one out, the first must not be taken for the leaf's."""
    made = chain("a0", "a1")
    for names in ((), ("a0",), ("a0", "a1", "a0")):
        (reason,) = judged(made, agent="a0", bound=names).reasons
        assert (reason.code, reason.found) == (Code.DELEGATION_INVALID, f"{len(names)} for 2 links")


class TestWithoutATime:
    """`policy test` and `agentguard check` may not know when: then hours are left out, and a shadow lifts nothing."""

    @pytest.mark.parametrize("judge", ["rules", "policy"])
    def test_hours(self, judge: str) -> None:
        call = ToolCall("a0", "ask", {"text": "x"})

        def at(now: int | None) -> Decision:
            if judge == "rules":
                return decide_rules(call, Binding(call.arguments), POLICY, now)
            return decide_policy_only(call, Binding(call.arguments), POLICY, Facts({}, Revocations(), Limits()), now)

        assert at(None).allowed
        assert at(MONDAY).allowed
        for closed in (0, MONDAY - 1, MONDAY + 60):
            assert at(closed).code is Code.TOOL_NOT_ALLOWED

    def test_a_tool_without_hours(self) -> None:
        call = ToolCall("a0", "read_file", READ)
        assert decide_rules(call, Binding(call.arguments), POLICY, None).allowed
        assert decide_rules(ToolCall("a9", "read_file", READ), Binding(READ), POLICY, None).code is Code.AGENT_UNKNOWN
