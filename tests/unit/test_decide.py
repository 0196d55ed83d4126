"""The decision by itself: each stage with values made for it, and what a refusal says."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.artifacts.chain import Limits, VerifiedChain
from agentguard.artifacts.revocation import Action, Event, Kind, Revocations
from agentguard.artifacts.revocation_list import RevocationList
from agentguard.call import ToolCall
from agentguard.canonical import freeze
from agentguard.constraints.tokens import parse_tool_map
from agentguard.decide import decide, decide_policy_only, standing
from agentguard.decision import Code, Decision, Reason, Stage, Verdict
from agentguard.policy import load
from agentguard.premises import NO_GRANT, Answer, Binding, Facts, Grant, Terms, Usage
from support.artifacts import NOW, chain_of, extend, mint, profile, verified

POLICY = load("""
agentguard: 1
name: decided
agents:
  a0:
    tools: {read_file: {path: any}, search: {query: any}, ask: {text: any}}
    hours: [{days: [mon], from: "09:00", to: "09:01", zone: UTC, tools: [ask]}]
    approval: [{tool: search, by: ["user:carol"]}]
    delegates: {a1: {depth: 2}}
  a1: {tools: {read_file: {path: any}}, delegates: {a2: {depth: 1}}}
  a2: {tools: {read_file: {path: any}}}
  a3: {tools: {read_file: {path: any}}}
tools: {search: {opaque: accepted}}
""")
READ = {"path": "/data/a"}
QUIET = Facts({}, Revocations(), Limits())
OTHER = "sha256:" + "cd" * 32


def chain(*holders: str, **members: Any) -> VerifiedChain:
    first, *rest = holders or ("a0",)
    made = verified(mint(holder=first, profile=profile(first, **{"policy": POLICY.digest, **members})))
    for holder in rest:
        made = verified(*made.tokens, extend(made, holder))
    return made


def judged(
    made: VerifiedChain,
    agents: tuple[str | None, ...] | None = None,
    tool: str = "read_file",
    arguments: Any = None,
    facts: Facts = QUIET,
    binding: Binding | None = None,
    now: int = NOW,
    agent: str | None = None,
    usage: Usage = Usage(),
    possessed: bool = True,
) -> Decision:
    names = made.agents if agents is None else agents
    call = ToolCall(agent or names[-1] or "", tool, READ if arguments is None else arguments)
    return decide(call, binding or Binding(call.arguments), Grant(True, made, None, names, possessed), POLICY, facts, now, usage)


def reason_of(decision: Decision) -> Reason:
    assert not decision.allowed
    return decision.reasons[0]


def revoked(kind: Kind, value: str) -> Revocations:
    return Revocations.fold(1, [Event(Action.REVOKE, kind, value, "operator", "", NOW * 10**9, "e")])


def listed(revocations: Revocations, expires: int = NOW + 100) -> RevocationList:
    return RevocationList("thumbprint-of-a-key", None, 3, NOW, expires, "sha256:00", revocations)


def terms(**members: Any) -> Facts:
    return Facts({}, Revocations(), Limits(), terms=Terms(**({"name": "bundle 7", "issued": NOW, "expires": NOW + 100} | members)))


def test_a_call_that_fits_is_allowed() -> None:
    for holders in (("a0",), ("a0", "a1"), ("a0", "a1", "a2")):
        decision = judged(chain(*holders))
        assert (decision.verdict, decision.code, decision.stage) == (Verdict.ALLOW, None, Stage.APPROVAL)
        assert decision.agent == holders[-1]


def test_nothing_stands_on_no_grant() -> None:
    call = ToolCall("a0", "read_file", READ)
    decision = decide(call, Binding(call.arguments), Grant(), POLICY, QUIET, NOW)
    assert (decision.code, decision.stage) == (Code.ARTIFACT_MISSING, Stage.PRESENCE)
    unread = decide(call, Binding(call.arguments), Grant(present=True), POLICY, QUIET, NOW)
    assert (unread.code, unread.stage) == (Code.ARTIFACT_MALFORMED, Stage.CHAIN)
    unproven = decide(call, Binding(call.arguments), Grant(True, chain(), None, ("a0",)), POLICY, QUIET, NOW)
    assert unproven.code is Code.PROOF_MISSING  # the guard does not hold the key unless it says so
    assert standing(call, NO_GRANT, POLICY, QUIET, NOW) is not None


class TestNames:
    def test_a_holder_in_the_middle_that_no_binding_names(self) -> None:
        reason = reason_of(judged(chain("a0", "a1", "a2"), ("a0", None, "a2")))
        assert (reason.code, reason.place, reason.subject) == (Code.DELEGATION_INVALID, "link 1", "a1")

    def test_a_holder_in_the_middle_that_claims_another_name(self) -> None:
        reason = reason_of(judged(chain("a0", "a3", "a2"), ("a0", "a1", "a2")))
        assert (reason.code, reason.place, reason.found) == (Code.DELEGATION_INVALID, "link 1", "a3")

    def test_a_leaf_of_somebody_else(self) -> None:
        reason = reason_of(judged(chain("a0", "a1"), agent="a0"))
        assert (reason.code, reason.place) == (Code.DELEGATION_INVALID, "link 1")
        assert reason_of(judged(chain("a0"), agent="a1")).place == "link 0"

    def test_a_plain_link_claims_no_name(self) -> None:
        assert judged(chain_of(1, plain=True), ("a0",)).code is Code.TOOL_NOT_IN_SCOPE
        unnamed = reason_of(judged(chain_of(1, plain=True), (None,), agent="a0"))
        assert (unnamed.code, unnamed.found) == (Code.DELEGATION_INVALID, "no binding for the key of its holder")


class TestRevocation:
    @pytest.mark.parametrize(
        ("kind", "value"), [(Kind.AGENT, "a0"), (Kind.AGENT, "a1"), (Kind.TASK, "t-1"), (Kind.INITIATOR, "user:alice")]
    )
    def test_here_or_in_a_list(self, kind: Kind, value: str) -> None:
        made = chain("a0", "a1")
        for facts in (Facts({}, revoked(kind, value), Limits()), terms(lists=(listed(revoked(kind, value)),))):
            reason = reason_of(judged(made, facts=facts))
            assert (reason.code, reason.subject) == (Code.ARTIFACT_REVOKED, str(kind))
        assert judged(made, facts=Facts({}, revoked(Kind.AGENT, "a9"), Limits())).allowed
        assert judged(made, facts=terms(lists=(listed(Revocations()),))).allowed

    def test_it_says_which_link(self) -> None:
        assert reason_of(judged(chain("a0", "a1"), facts=Facts({}, revoked(Kind.AGENT, "a1"), Limits()))).place == "link 1"
        assert reason_of(judged(chain("a0", "a1"), facts=Facts({}, revoked(Kind.TASK, "t-1"), Limits()))).place == ""

    def test_what_is_known_is_said_before_what_is_not(self) -> None:
        stale, hit = listed(Revocations(), NOW), listed(revoked(Kind.AGENT, "a0"))
        assert judged(chain(), facts=terms(lists=(stale,))).code is Code.REVOCATION_STALE
        for lists in ((stale, hit), (hit, stale)):
            assert judged(chain(), facts=terms(lists=lists)).code is Code.ARTIFACT_REVOKED

    def test_an_artifact_without_an_initiator(self) -> None:
        made = chain_of(1, plain=True)
        assert judged(made, ("a0",), facts=Facts({}, revoked(Kind.INITIATOR, "user:alice"), Limits())).code is Code.TOOL_NOT_IN_SCOPE


class TestEnvironment:
    def bound(self, **rules: Any) -> VerifiedChain:
        entries = parse_tool_map(rules, extensions=True, max_depth=32).named
        return chain("a0", "a1", env=dict(entries))

    def test_every_fact_is_asked(self) -> None:
        made = self.bound(
            region={"constraint_type": "exact", "value": "eu"}, stage={"constraint_type": "exact", "value": "prod", "optional": True}
        )
        for environment, subject in (
            ({"region": "eu"}, None),
            ({"region": "eu", "stage": "prod"}, None),
            ({}, "region"),
            ({"region": "us"}, "region"),
            ({"stage": "test", "region": "eu"}, "stage"),
            ({"stage": "prod"}, "region"),
        ):
            decision = judged(made, facts=Facts(freeze(environment), Revocations(), Limits()))
            assert (None if decision.allowed else reason_of(decision).subject) == subject, environment
            assert decision.code in (None, Code.ENVIRONMENT_MISMATCH)

    def test_what_was_found_is_cut(self) -> None:
        made = self.bound(region={"constraint_type": "exact", "value": "eu"})
        reason = reason_of(judged(made, facts=Facts(freeze({"region": "x" * 90}), Revocations(), Limits())))
        assert (reason.found, reason.place) == ("'" + "x" * 59, "link 0")


class TestBundle:
    @pytest.mark.parametrize(
        ("now", "found"),
        [
            (NOW - 31, "it begins in 31 s"),
            (NOW - 30, None),
            (NOW + 99, None),
            (NOW + 100, "it ended 0 s ago"),
            (NOW + 107, "it ended 7 s ago"),
        ],
    )
    def test_it_is_good_from_then_to_then(self, now: int, found: str | None) -> None:
        decision = judged(chain_from(NOW - 60), facts=terms(), now=now)
        assert (None if decision.allowed else reason_of(decision).found) == found
        assert decision.code is (Code.POLICY_MISMATCH if found else None)

    def test_an_artifact_of_another_policy(self) -> None:
        made = chain(policy=OTHER)
        reason = reason_of(judged(made))
        assert (reason.code, reason.required) == (Code.POLICY_MISMATCH, f"the policy {OTHER[:23]}…")
        assert reason.found == f"{POLICY.digest[:23]}…"
        assert judged(made, facts=terms()).code is Code.POLICY_MISMATCH
        assert judged(made, facts=terms(accepts=frozenset({OTHER}))).allowed


def chain_from(issued: int) -> VerifiedChain:
    return verified(mint(profile=profile("a0", policy=POLICY.digest), now=issued))


class TestTool:
    def test_its_code(self) -> None:
        changed = reason_of(judged(chain(), binding=Binding(freeze(READ), integrity="its source differs")))
        assert (changed.code, changed.found) == (Code.INTEGRITY_FAILURE, "its source differs")
        assert judged(chain(), binding=Binding(freeze(READ), opaque=True)).code is Code.INTEGRITY_FAILURE
        query = freeze({"query": "x"})
        asked = judged(chain(), tool="search", arguments={"query": "x"}, binding=Binding(query, opaque=True))
        assert asked.code is Code.APPROVAL_REQUIRED  # the policy accepts that one

    def test_every_view_of_the_arguments(self) -> None:
        followed = Binding(freeze(READ), followed=freeze({"path": "/etc/passwd"}))
        assert judged(chain(), binding=followed).code is Code.ARGUMENT_NOT_IN_SCOPE
        assert followed.views == (followed.bound, followed.followed)
        assert Binding(freeze(READ)).views == (freeze(READ),)


class TestDelegation:
    def test_one_hop_made_offline(self) -> None:
        reason = reason_of(judged(chain("a0", "a3")))
        assert (reason.code, reason.subject) == (Code.DELEGATION_NOT_ALLOWED, "a0 -> a3")

    def test_the_second_hop(self) -> None:
        assert reason_of(judged(chain("a0", "a1", "a3"))).subject == "a1 -> a3"


class TestAudience:
    def test_it_is_asked_where_the_chain_names_one(self) -> None:
        made = verified(mint(profile=profile("a0", policy=POLICY.digest), aud=("https://guard.example",)))
        assert judged(made).code is Code.AUDIENCE_MISMATCH
        assert judged(made, facts=Facts({}, Revocations(), Limits(), ("https://guard.example",))).allowed


class TestApproval:
    def test_what_humans_said(self) -> None:
        def asked(answer: Answer | None) -> Decision:
            return judged(chain(), tool="search", arguments={"query": "x"}, usage=Usage(answer=answer))

        assert asked(None).verdict is Verdict.ASK
        assert asked(Answer("r", True, ("user:carol",))).allowed
        denied = reason_of(asked(Answer("r", False, ("user:carol", "user:dave"))))
        assert (denied.code, denied.found) == (Code.APPROVAL_DENIED, "denied by user:carol, user:dave")
        assert len(reason_of(asked(Answer("r", False, ("u" * 300,)))).found) == 200

    def test_the_evidence_of_it(self) -> None:
        assert Usage().canonical() == b'{"answer":null,"counters":{}}'
        assert Usage({"k": 1}, Answer("r", True, ("u",))).canonical() == (
            b'{"answer":{"by":["u"],"granted":true,"request":"r"},"counters":{"k":1}}'
        )


class TestPolicyOnly:
    def test_hours_are_judged_where_the_time_is_known(self) -> None:
        call = ToolCall("a0", "ask", {"text": "x"})
        assert decide_policy_only(call, Binding(call.arguments), POLICY, QUIET).allowed
        assert decide_policy_only(call, Binding(call.arguments), POLICY, QUIET, NOW).code is Code.TOOL_NOT_ALLOWED
        assert decide_policy_only(call, Binding(call.arguments), POLICY, QUIET, 4 * 86400 + 9 * 3600).allowed
        assert decide_policy_only(call, Binding(call.arguments), POLICY, QUIET, 0).code is Code.TOOL_NOT_ALLOWED
