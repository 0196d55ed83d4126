"""Every code of a stage that is built is reached through `guard.check`, and the tool does not run."""

from __future__ import annotations

import contextvars
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import Code, Denied, Guard, ToolCall, Verdict
from agentguard.artifacts.link import Initiator, Uses
from agentguard.artifacts.making import Profile, derive, issue
from agentguard.artifacts.proof import make_proof
from agentguard.constraints.tokens import ToolMap
from agentguard.decision import Stage
from agentguard.enforcement import Enforcement
from agentguard.environment import Clock
from agentguard.keys import LocalKey
from agentguard.policy.model import parse_scope
from agentguard.recording import Recording

POLICY = """
agentguard: 1
name: codes
agents:
  triage:
    tools:
      send_email: {to: {email: {domains: [example.com]}}, body: {max_length: 40}}
      ping: {}
      proven: {x: any}
      again: {x: any}
    budgets: [{calls: 6, per: task}]
    delegates: {writer: {depth: 1}}
  writer:
    tools: {send_email: {to: {email: {domains: [example.com]}}, body: any}}
    delegates: {triage: {depth: 1}}
forbid: [{tool: "delete_*"}]
tools: {proven: {proof: required}, again: {rerun: safe}}
environment: {deployment: {one_of: [prod, staging]}}
"""
EMAIL = {"to": "bob@example.com", "body": "Hi"}


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability="process", environment={"deployment": "staging"}) as opened:
        yield opened


def ascii_id(value: object) -> str:
    return ascii(value)[:20] if isinstance(value, str | bytes) else type(value).__name__


def refused(guard: Guard, call: Any, code: str, **options: Any) -> Denied:
    with pytest.raises(Denied) as caught:
        guard.check(call, **options)
    assert caught.value.decision.code == code, caught.value
    assert caught.value.decision.verdict is Verdict.DENY
    assert not caught.value.decision.allowed
    return caught.value


def call(tool: str = "send_email", arguments: Any = None, agent: str = "triage", **more: Any) -> ToolCall:
    return ToolCall(agent, tool, EMAIL if arguments is None else arguments, **more)


class Forge:
    """Makes tokens as the home's issuer or as anybody else."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.keys = guard.home.keys
        self.now = int(time.time())

    def profile(self, agent: str = "triage", **more: Any) -> Profile:
        values: dict[str, Any] = {"initiator": Initiator("user:alice"), "task": "t1", "policy": self.guard.policy.digest, "nbf": self.now}
        return Profile(agent=agent, **(values | more))

    def root(self, *, profile: Profile | None = None, plain: bool = False, signer: LocalKey | None = None, **more: Any) -> str:
        values: dict[str, Any] = {
            "iss": self.guard.home.issuer.iss,
            "holder": self.keys.holder("triage").public,
            "tools": {"send_email": ToolMap({}, rest=True)} if plain else self.guard.policy.default_scope("triage"),
            "now": self.now,
            "ttl": 600,
            "max_depth": 4,
        }
        chosen = None if plain else profile or self.profile()
        return issue(signer=signer or self.keys.issuer(), profile=chosen, **(values | more))

    def accept(self, *tokens: str, key: LocalKey | None = None) -> Any:
        return self.guard.accept({"aat_chain": list(tokens)}, key or self.keys.holder("triage"))


@pytest.fixture
def forge(guard: Guard) -> Forge:
    return Forge(guard)


# --- stages 0 and 1 ---------------------------------------------------------------------------------------------------------------------

MALFORMED: list[Any] = [
    {"to": float("nan"), "body": "x"},
    {"to": b"bytes", "body": "x"},
    {"to": "\ud800", "body": "x"},
    {"to": 2**60 + 1, "body": "x"},
    {"to": 10**5000, "body": "x"},
    {"to": -(10**400), "body": "x"},
    {1: "x"},
    ["to"],
    None,
]


@pytest.mark.parametrize("arguments", MALFORMED, ids=ascii_id)
def test_malformed_arguments(guard: Guard, arguments: Any) -> None:
    with guard.task("triage", initiator="user:alice"):
        refused(guard, ToolCall("triage", "send_email", arguments), "malformed_call")


@pytest.mark.parametrize(
    "name", ["", "sénd", "send email", "s" * 257, "send\n", None, 3, b"x", "ѕend_email", "\ud800", 10**5000], ids=ascii_id
)
def test_malformed_names(guard: Guard, name: Any) -> None:
    with guard.task("triage", initiator="user:alice"):
        refused(guard, ToolCall("triage", name, EMAIL), "malformed_call")
        refused(guard, ToolCall(name, "send_email", EMAIL), "malformed_call")


@pytest.mark.parametrize("call_id", ["", "x" * 257, "\n", 3, 10**5000, b"x", "\ud800"], ids=ascii_id)
def test_malformed_call_ids(guard: Guard, call_id: Any) -> None:
    with guard.task("triage", initiator="user:alice"):
        refused(guard, call(call_id=call_id), "malformed_call")


def test_a_malformed_call_is_recorded_too(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        size = guard.home.log.size
        refused(guard, ToolCall("\ud800", "send\x00", EMAIL), "malformed_call")
        assert guard.home.log.size == size + 1


def test_what_is_no_tool_call_at_all(guard: Guard) -> None:
    class Liar(ToolCall):
        __slots__ = ()

    with guard.task("triage", initiator="user:alice"):
        refused(guard, {"agent": "triage"}, "malformed_call")
        refused(guard, None, "malformed_call")
        refused(guard, Liar("triage", "send_email", EMAIL), "malformed_call")


def test_a_call_that_its_tool_cannot_take(guard: Guard) -> None:
    ran = []

    @guard.tool
    def send_email(to: str, body: str) -> None:
        ran.append(to)

    with guard.task("triage", initiator="user:alice"):
        refused(guard, call(arguments={"to": "bob@example.com"}), "malformed_call")
        refused(guard, call(arguments={**EMAIL, "bcc": "eve@evil.test"}), "malformed_call")
        with pytest.raises(Denied) as caught:
            send_email("bob@example.com", "Hi", "extra")  # type: ignore[call-arg]  # the point of the test
        assert caught.value.code == "malformed_call"
    assert not ran


def test_no_task_no_call(guard: Guard) -> None:
    error = refused(guard, call(), "artifact_missing")
    assert error.decision.stage is Stage.PRESENCE


def test_a_closed_task_carries_nothing(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice") as task:
        child = task.delegate("writer").start()
    refused(guard, call(), "artifact_missing", task=task)
    refused(guard, call(agent="writer"), "artifact_missing", task=child)


def test_lost_context_denies(guard: Guard) -> None:
    codes: list[Any] = []

    def work() -> None:
        try:
            guard.check(call())
        except Denied as denied:
            codes.append(denied.code)

    with guard.task("triage", initiator="user:alice"):
        bare = threading.Thread(target=work)
        bare.start()
        bare.join()
        carried = threading.Thread(target=contextvars.copy_context().run, args=(work,))
        carried.start()
        carried.join()
    assert codes == [Code.ARTIFACT_MISSING]


# --- stage 2 ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "presentation", ["", "{}", '{"aat_chain": []}', '{"aat_chain": ["x"]}', '{"aat_chain": ["a.b.c"], "aat_chain": []}', "[1]"]
)
def test_rubbish_for_a_chain(guard: Guard, presentation: str) -> None:
    refused(guard, call(), "artifact_malformed", task=guard.accept(presentation))


def test_a_signature_that_does_not_hold(guard: Guard, forge: Forge) -> None:
    header, payload, signature = forge.root().split(".")
    flipped = ("A" if signature[5] != "A" else "B").join((signature[:5], signature[6:]))
    assert refused(guard, call(), "signature_invalid", task=forge.accept(f"{header}.{payload}.{flipped}"))


def test_an_issuer_that_nobody_trusts(guard: Guard, forge: Forge) -> None:
    stranger = LocalKey.generate()
    token = forge.root(signer=stranger, iss=stranger.public.uri)
    error = refused(guard, call(), "issuer_untrusted", task=forge.accept(token))
    assert "3" in error.decision.reasons[0].place


def test_another_agents_artifact(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        refused(guard, call(agent="writer"), "delegation_invalid")


def test_a_link_that_widens(guard: Guard, forge: Forge) -> None:
    from agentguard.artifacts.chain import verify_structure
    from agentguard.artifacts.link import Limits

    root = forge.root(tools=parse_scope({"send_email": {"to": {"exact": "bob@example.com"}, "body": "any"}}))
    narrow = verify_structure((root,), guard.home.trust.anchors, Limits())
    # Derivation refuses to sign what does not narrow, so the link is derived from a wider root of the same holder and re-attached.
    wide = verify_structure((forge.root(),), guard.home.trust.anchors, Limits())
    child = derive(
        wide,
        signer=forge.keys.holder("triage"),
        holder=forge.keys.holder("writer").public,
        tools=wide.leaf.tools,
        now=forge.now,
        profile=Profile(agent="writer"),
    )
    task = forge.accept(narrow.leaf.token, child, key=forge.keys.holder("writer"))
    refused(guard, call(agent="writer"), "delegation_invalid", task=task)


def test_a_holder_that_no_binding_names(guard: Guard, forge: Forge) -> None:
    from agentguard.artifacts.chain import verify_structure
    from agentguard.artifacts.link import Limits

    stranger = LocalKey.generate()
    root = verify_structure((forge.root(),), guard.home.trust.anchors, Limits())
    child = derive(
        root,
        signer=forge.keys.holder("triage"),
        holder=stranger.public,
        tools=guard.policy.default_scope("writer"),
        now=forge.now,
        profile=Profile(agent="writer"),
    )
    refused(guard, call(agent="writer"), "delegation_invalid", task=forge.accept(root.leaf.token, child, key=stranger))


# --- stages 3 to 7 ------------------------------------------------------------------------------------------------------------------------


def test_not_yet_valid(guard: Guard, forge: Forge) -> None:
    token = forge.root(profile=forge.profile(nbf=forge.now + 300))
    refused(guard, call(), "artifact_not_yet_valid", task=forge.accept(token))


def test_expired(guard: Guard, forge: Forge) -> None:
    token = forge.root(now=forge.now - 1000, ttl=600, profile=forge.profile(nbf=forge.now - 1000))
    refused(guard, call(), "artifact_expired", task=forge.accept(token))


def test_a_clock_behind_the_last_checkpoint(guard: Guard, home: Path) -> None:
    guard.close()
    future = time.time_ns() + 3600 * 10**9
    from agentguard.home import Home

    with Home(home, durability="process") as opened:
        opened.log.close()
    from agentguard.keys import KeyRing
    from agentguard.log import Log

    with Log.open(home, KeyRing(home / "keys").log(), durability="process", clock=lambda: future) as log:
        log.append(b'{"type":"test"}')
    for _ in range(2):  # that it was opened once with a bad clock does not make the clock good
        with (
            Guard.open(POLICY, home=home, durability="process", environment={"deployment": "staging"}) as late,
            late.task("triage", initiator="user:alice"),
        ):
            refused(late, call(), "clock_unreliable")
    with Guard.open(POLICY, home=home, durability="process", environment={"deployment": "staging"}) as late:
        with late.task("triage", initiator="user:alice"):
            refused(late, call(), "clock_unreliable")
        from agentguard import control

        control.accept_clock(late.home, late._recording.ledger, by="operator")
    with (
        Guard.open(POLICY, home=home, durability="process", environment={"deployment": "staging"}) as again,
        again.task("triage", initiator="user:alice"),
    ):
        assert again.check(call()).decision.allowed


@pytest.mark.parametrize("kind", ["task", "agent", "initiator", "key", "link", "all"])
def test_stopped(guard: Guard, home: Path, kind: str) -> None:
    with guard.task("triage", initiator="user:alice") as task:
        guard.check(call()).release()
        chain = guard._enforcement.in_force.snapshot.authority.grant(task).chain
        assert chain is not None
        value = {
            "task": task.id,
            "agent": "triage",
            "initiator": "user:alice",
            "key": chain.leaf.holder.thumbprint(),
            "link": chain.leaf.hash,
            "all": "",
        }[kind]
        with Guard.open(POLICY, home=home, durability="process", environment={"deployment": "staging"}) as other:
            other.stop(kind, value, by="operator", reason="test")
        error = refused(guard, call(), "artifact_revoked")
        assert "operator" in str(error)


def test_a_stop_outranks_what_comes_later(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice") as task:
        guard.stop("task", task.id)
        refused(guard, call(arguments={"to": "eve@evil.test", "body": "x"}), "artifact_revoked")


def test_environment_of_the_policy(home: Path) -> None:
    for environment in ({"deployment": "laptop"}, {}, None):
        with (
            Guard.open(POLICY, home=home, durability="process", environment=environment) as guard,
            guard.task("triage", initiator="user:a"),
        ):
            refused(guard, call(), "environment_mismatch")


def test_environment_of_the_artifact(guard: Guard, home: Path) -> None:
    task = guard.task("triage", initiator="user:alice").issue()
    with Guard.open(POLICY, home=home, durability="process", environment={"deployment": "prod"}) as other:
        elsewhere = other.accept(task.presentation(), other.home.keys.holder("triage"))
        error = refused(other, call(), "environment_mismatch", task=elsewhere)
        assert "link 0" in error.decision.reasons[0].place


def test_another_policy(guard: Guard, home: Path) -> None:
    task = guard.task("triage", initiator="user:alice").issue()
    changed = POLICY.replace("max_length: 40", "max_length: 41")
    with Guard.open(changed, home=home, durability="process", environment={"deployment": "staging"}) as other:
        refused(other, call(), "policy_mismatch", task=other.accept(task.presentation(), other.home.keys.holder("triage")))


def test_a_tool_that_was_patched(guard: Guard) -> None:
    ran = []

    @guard.tool
    def send_email(to: str, body: str) -> None:
        ran.append(to)

    def evil(to: str, body: str) -> None:
        ran.append("evil")

    inner: Any = send_email.__wrapped__  # type: ignore[attr-defined]  # set by functools.update_wrapper
    with guard.task("triage", initiator="user:alice"):
        send_email(**EMAIL)
        before = inner.__code__
        inner.__code__ = evil.__code__
        refused(guard, call(), "integrity_failure")
        inner.__code__ = before
        send_email(**EMAIL)
        permit = guard.check(call())
        with pytest.raises(Denied) as caught:
            permit.run(evil)
        assert caught.value.code == "integrity_failure"
    assert ran == ["bob@example.com"] * 2


# --- stages 8 to 10 -----------------------------------------------------------------------------------------------------------------------


def test_scope(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice", scope={"send_email": {"to": {"exact": "bob@example.com"}, "body": "any"}}):
        guard.check(call()).release()
        refused(guard, call("ping", {}), "tool_not_in_scope")
        refused(guard, call(arguments={"to": "ann@example.com", "body": "x"}), "argument_not_in_scope")
        refused(guard, call(arguments={**EMAIL, "bcc": "x"}), "argument_not_in_scope")
        refused(guard, call(arguments={"to": "bob@example.com"}), "argument_not_in_scope")
    with guard.task("triage", initiator="user:alice", scope={}):
        refused(guard, call(), "tool_not_in_scope")
    with guard.task("triage", initiator="user:alice", scope={"ping": {}}):
        guard.check(call("ping", {})).release()
        refused(guard, call("ping", {"x": 1}), "argument_not_in_scope")


def test_a_plain_chain_needs_the_policys_word(guard: Guard, forge: Forge) -> None:
    refused(guard, call(), "tool_not_in_scope", task=forge.accept(forge.root(plain=True)))


def test_any_arguments_need_the_policys_word(guard: Guard, forge: Forge) -> None:
    token = forge.root(tools={"send_email": ToolMap({}, rest=True)})
    refused(guard, call(), "argument_not_in_scope", task=forge.accept(token))


def test_an_artifact_for_somebody_else(guard: Guard, forge: Forge) -> None:
    refused(guard, call(), "audience_mismatch", task=forge.accept(forge.root(aud=("urn:elsewhere",))))
    assert guard.check(call(), task=forge.accept(forge.root(aud=(guard.audience,), profile=forge.profile(task="t2")))).decision.allowed


def proof(forge: Forge, token: str, arguments: Any = EMAIL, **more: Any) -> str:
    from agentguard.artifacts.chain import verify_structure

    leaf = verify_structure((token,), forge.guard.home.trust.anchors).leaf
    values: dict[str, Any] = {"aud": forge.guard.audience} | more
    return make_proof(forge.keys.holder("triage"), leaf, "send_email", arguments, forge.now, **values)


def test_proof(guard: Guard, forge: Forge) -> None:
    token = forge.root()

    def present(made: str | None) -> Any:
        return guard.accept({"aat_chain": [token]} | ({"aat_pop": made} if made else {}))

    refused(guard, call(), "proof_missing", task=present(None))
    refused(guard, call(), "proof_missing", task=guard.accept({"aat_chain": [token]}, LocalKey.generate()))
    refused(guard, call(), "proof_invalid", task=present("x.y.z"))
    refused(guard, call(), "proof_invalid", task=present(proof(forge, token, {**EMAIL, "body": "other"})))
    refused(guard, call(), "proof_invalid", task=present(proof(forge, token, aud=None)))
    refused(guard, call(), "proof_invalid", task=present(proof(forge, token, aud="urn:elsewhere")))
    made = proof(forge, token)
    assert guard.check(call(), task=present(made)).decision.allowed
    refused(guard, call(), "replay_detected", task=present(made))


def test_proof_by_policy(guard: Guard) -> None:
    @guard.tool
    def proven(x: int) -> int:
        return x

    with guard.task("triage", initiator="user:alice"):
        assert proven(3) == 3
        assert proven(3) == 3


def test_an_agent_that_the_policy_does_not_know(guard: Guard, forge: Forge) -> None:
    with pytest.raises(Denied) as caught:
        guard.task("nobody-known", initiator="user:alice").start()
    assert caught.value.code == "agent_unknown"
    token = forge.root(profile=forge.profile("ghost"), holder=forge.keys.holder("ghost").public)
    refused(guard, call(agent="ghost"), "agent_unknown", task=forge.accept(token, key=forge.keys.holder("ghost")))


def test_delegation(guard: Guard, forge: Forge) -> None:
    with guard.task("triage", initiator="user:alice") as task, task.delegate("writer") as writer:
        guard.check(call(agent="writer")).release()
        for target in ("triage", "writer"):
            with pytest.raises(Denied) as caught:
                writer.delegate(target).start()
            assert caught.value.code == "delegation_not_allowed"
        refused(guard, call("ping", {}, "writer"), "tool_not_allowed")
    with guard.task("triage", initiator="user:alice") as task, task.delegate("writer", scope={"ping": {}}):
        refused(guard, call(agent="writer"), "tool_not_in_scope")


def test_a_delegation_made_offline_is_judged_too(guard: Guard, forge: Forge) -> None:
    """triage may delegate to writer, one hop: a second hop derived offline verifies, and is refused."""
    from agentguard.artifacts.chain import verify_structure

    tokens = (forge.root(),)
    for holder, agent in (("triage", "writer"), ("writer", "triage")):
        chain = verify_structure(tokens, guard.home.trust.anchors)
        child = derive(
            chain,
            signer=forge.keys.holder(holder),
            holder=forge.keys.holder(agent).public,
            tools=guard.policy.default_scope("writer"),
            now=forge.now,
            profile=Profile(agent=agent),
        )
        tokens = (*tokens, child)
    refused(guard, call(), "delegation_not_allowed", task=forge.accept(*tokens))


def test_policy(guard: Guard) -> None:
    with guard.task(
        "triage", initiator="user:alice", scope={"delete_all": {}, "unheard_of": {}, "send_email": {"to": "any", "body": "any"}}
    ):
        error = refused(guard, call("delete_all", {}), "tool_not_allowed")
        assert "delete_*" in str(error)
        refused(guard, call("unheard_of", {}), "tool_not_allowed")
        error = refused(guard, call(arguments={"to": "bob@example.com", "body": "x" * 41}), "argument_not_allowed")
        assert "<policy>:7" in error.decision.reasons[0].place


# --- stages 13 and 14 ---------------------------------------------------------------------------------------------------------------------


def test_replay(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(call(call_id="c1"))
        error = refused(guard, call(call_id="c1"), "replay_detected")
        assert permit.execution in str(error)
        guard.check(call(call_id="c2"))
    with guard.task("triage", initiator="user:alice"):
        guard.check(call(call_id="c1"))


def test_a_rerun_safe_tool_runs_again_until_its_outcome_is_known(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        first = guard.check(call("again", {"x": 1}, call_id="c1"))
        second = guard.check(call("again", {"x": 1}, call_id="c1"))
        assert first.decision.reserved
        assert not second.decision.reserved
        second.run(lambda x: x)
        refused(guard, call("again", {"x": 1}, call_id="c1"), "replay_detected")


def test_budget(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice") as task:
        for _ in range(6):
            guard.check(call())
        refused(guard, call(), "budget_exhausted")
        with task.delegate("writer"):
            guard.check(call(agent="writer"))


def test_denied_calls_charge_nothing(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        for _ in range(20):
            refused(guard, call(arguments={"to": "eve@evil.test", "body": "x"}), "argument_not_allowed")
        for _ in range(6):
            guard.check(call())


def test_uses_of_every_link(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice", uses=3) as task:
        with task.delegate("writer", uses=2):
            guard.check(call(agent="writer"))
            guard.check(call(agent="writer"))
            refused(guard, call(agent="writer"), "budget_exhausted")
        guard.check(call())
        refused(guard, call(), "budget_exhausted")


def test_uses_counted_elsewhere(guard: Guard, forge: Forge) -> None:
    token = forge.root(profile=forge.profile(uses=Uses(5, "another-domain")))
    refused(guard, call(), "state_unavailable", task=forge.accept(token))


def test_a_state_store_that_does_not_answer(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        guard.home.state.close()
        refused(guard, call(), "state_unavailable")


def test_three_lost_races(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody stops something else between each decision and its admission."""
    state = guard.home.state
    admit = type(state).admit

    def busy(self: Any, reservation: Any) -> Any:
        self.revoke("task", f"other-{time.time_ns()}", by="test", time_ns=time.time_ns())
        return admit(self, reservation)

    with guard.task("triage", initiator="user:alice"):
        monkeypatch.setattr(type(state), "admit", busy)
        error = refused(guard, call(), "state_unavailable")
        assert "3 lost races" in str(error)


def test_a_log_that_cannot_promise(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        guard.poison("test")
        refused(guard, call(), "evidence_unavailable")
        refused(guard, call(arguments={"to": "eve@evil.test", "body": "x"}), "evidence_unavailable")


class Panic(BaseException):
    """What a native engine's panic looks like."""


@pytest.mark.parametrize("error", [RuntimeError("x"), Panic("x"), RecursionError(), MemoryError()])
@pytest.mark.parametrize(
    "where",
    [(Enforcement, "bind"), (Enforcement, "_admit"), (Enforcement, "_permit"), (Clock, "now"), (Recording, "pend")],
    ids=lambda pair: pair[1],
)
def test_a_crash_in_the_guard_denies(guard: Guard, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str], error: BaseException) -> None:
    def crash(*_: Any, **__: Any) -> Any:
        raise error

    with guard.task("triage", initiator="user:alice"):
        monkeypatch.setattr(*where, crash)
        refused(guard, call(), "guard_error")


def test_the_same_inputs_give_the_same_decision(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        for arguments in (EMAIL, {"to": "eve@evil.test", "body": "x"}):
            answers = {json.dumps(guard.decide(call(arguments=arguments)).to_json()) for _ in range(5)}
            assert len(answers) == 1


def test_a_dry_run_leaves_no_trace(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        size = guard.home.log.size
        for _ in range(20):
            assert guard.decide(call(call_id="same")).allowed
        assert guard.home.log.size == size
        guard.check(call(call_id="same"))


def test_every_code_of_a_built_stage_is_tested_here() -> None:
    source = Path(__file__).read_text("utf-8")
    later = {Code.SEQUENCE_VIOLATION, Code.PROVENANCE_UNTRUSTED, Code.APPROVAL_REQUIRED, Code.APPROVAL_DENIED, Code.REVOCATION_STALE}
    missing = [code for code in Code if f'"{code}"' not in source and code.name not in source and code not in later]
    assert not missing
