"""Attacks on authority at the guard: widen by delegation, borrow a chain, replay, roll the clock, forge a link, swap a tool, fork."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, InvalidInput, ToolCall
from agentguard.artifacts.chain import verify_structure
from agentguard.artifacts.link import Initiator
from agentguard.artifacts.making import Profile, derive, issue
from agentguard.artifacts.proof import make_proof
from agentguard.canonical import b64url
from agentguard.environment import Clock
from agentguard.keys import LocalKey
from agentguard.log import iter_records
from support.guarded import POLICY, call, denied, records


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability="process") as opened:
        yield opened


def proof(guard: Guard, task: Any, tool: str, arguments: Any, *, signer: LocalKey | None = None, **more: Any) -> str:
    leaf = verify_structure(task.issue().tokens, guard.home.trust.anchors).leaf
    values: dict[str, Any] = {"aud": guard.audience} | more
    return make_proof(signer or guard.home.keys.holder("triage"), leaf, tool, arguments, int(time.time()), **values)


def resigned(token: str, signer: LocalKey) -> str:
    """A token with another signature over the same header and payload."""
    signed = token.rpartition(".")[0]
    return f"{signed}.{b64url(signer.sign(signed.encode()))}"


# --- delegation --------------------------------------------------------------------------------------------------------------------------


def test_a_delegate_gets_no_tool_and_no_argument_that_the_parent_has_not(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice", scope={"echo": {"x": {"one_of": [1, 2]}}}) as task:
        for scope in (
            {"pair": {"a": "any", "b": "any"}},
            {"echo": {"x": "any"}},
            {"echo": {"x": {"one_of": [1, 2, 3]}}},
            {"echo": {"x": {"one_of": [1]}, "y": "any"}},
            {"echo": {}},
            {"echo": {"x": {"one_of": [1]}}, "nothing": {}},
        ):
            with pytest.raises((Denied, InvalidInput)):
                task.delegate("writer", scope).start()
        with task.delegate("writer", {"echo": {"x": {"one_of": [2]}}}):
            guard.check(call(arguments={"x": 2}, agent="writer")).release()
            denied("argument_not_in_scope", guard.check, call(agent="writer"))


def test_a_delegate_does_not_outlive_or_outspend_the_parent(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice", ttl="1m", uses=2) as task:
        with task.delegate("writer", ttl="7d", uses=1000) as child:
            links = verify_structure(child.tokens or (), guard.home.trust.anchors).links
            assert links[1].exp <= links[0].exp
            guard.check(call(agent="writer"))
            guard.check(call(agent="writer"))
            denied("budget_exhausted", guard.check, call(agent="writer"))
        denied("budget_exhausted", guard.check, call())


@pytest.mark.parametrize("uses", [-1, True, 1.5, "3", 2**60])
def test_uses_that_cannot_be_counted(guard: Guard, uses: Any) -> None:
    with pytest.raises((InvalidInput, Denied)):
        guard.task("triage", initiator="user:alice", uses=uses).start()
    with guard.task("triage", initiator="user:alice") as task, pytest.raises((InvalidInput, Denied)):
        task.delegate("writer", uses=uses).start()


@pytest.mark.parametrize("ttl", ["0s", "-1s", "1y", "", "1e9", 0, -1, True, 1.5, "999999999d", None])
def test_spans_of_time_that_are_none_or_too_long(guard: Guard, ttl: Any) -> None:
    with pytest.raises((InvalidInput, Denied)):
        guard.task("triage", initiator="user:alice", ttl=ttl).start()


def test_whoever_has_not_shown_the_key_delegates_nothing(guard: Guard) -> None:
    """Tokens are no secret. A presentation alone lets nobody call, so it may not mint a delegate that can."""
    owner = guard.task("triage", initiator="user:alice").issue()
    thief = guard.accept(owner.presentation())
    denied("proof_missing", guard.check, call(), task=thief)
    denied("proof_missing", thief.delegate("writer").start)
    other = guard.accept(owner.presentation(), LocalKey.generate())
    denied("proof_missing", other.delegate("writer").start)
    shown = guard.accept(owner.presentation(proof(guard, owner, "echo", {"x": 1})))
    denied("proof_missing", shown.delegate("writer").start)
    with guard.accept(owner.presentation(), guard.home.keys.holder("triage")) as mine, mine.delegate("writer"):
        assert guard.check(call(agent="writer")).decision.allowed


def test_the_holder_of_a_foreign_key_delegates_with_that_key(guard: Guard, tmp_path: Path) -> None:
    """The agent's key is not in this guard's ring, but bound in its trust file."""
    holder = LocalKey.generate()
    guard.close()
    jwk = dict(holder.public.jwk())
    (guard.home.path / "trust.json").write_text(json.dumps({"anchors": [], "agents": {"triage": jwk}}))
    with Guard.open(POLICY, home=guard.home.path, durability="process") as again:
        now = int(time.time())
        token = issue(
            signer=again.home.keys.issuer(),
            iss=again.home.issuer.iss,
            holder=holder.public,
            tools=again.policy.default_scope("triage"),
            now=now,
            ttl=600,
            max_depth=4,
            profile=Profile(agent="triage", initiator=Initiator("user:alice"), task="t1", policy=again.policy.digest, nbf=now),
        )
        with again.accept({"aat_chain": [token]}, holder) as task, task.delegate("writer"):
            assert again.check(call(agent="writer")).decision.allowed


def test_a_forged_or_unknown_link_is_no_delegation(guard: Guard) -> None:
    """A link signed by somebody else, one whose parent is missing, one out of a chain of another task."""
    keys, now = guard.home.keys, int(time.time())
    root = verify_structure(guard.task("triage", initiator="user:alice").issue().tokens or (), guard.home.trust.anchors)
    other = verify_structure(guard.task("triage", initiator="user:bob").issue().tokens or (), guard.home.trust.anchors)
    child = derive(
        root,
        signer=keys.holder("triage"),
        holder=keys.holder("writer").public,
        tools=guard.policy.default_scope("writer"),
        now=now,
        profile=Profile(agent="writer"),
    )
    forged = resigned(child, LocalKey.generate())
    for tokens in (
        [root.leaf.token, forged],
        [child],
        [other.leaf.token, child],
        [child, root.leaf.token],
        [root.leaf.token, child, child],
    ):
        task = guard.accept({"aat_chain": tokens}, keys.holder("writer"))
        with pytest.raises(Denied):
            guard.check(call(agent="writer"), task=task)
    task = guard.accept({"aat_chain": [root.leaf.token, child]}, keys.holder("writer"))
    assert guard.check(call(agent="writer"), task=task).decision.allowed


# --- presentations -----------------------------------------------------------------------------------------------------------------------


def test_a_proof_is_for_one_tool_one_call_one_holder(guard: Guard) -> None:
    owner = guard.task("triage", initiator="user:alice").issue()

    def present(made: str) -> Any:
        return guard.accept(owner.presentation(made))

    other = guard.task("triage", initiator="user:alice").issue()
    denied("proof_invalid", guard.check, call(), task=present(proof(guard, owner, "outer", {"x": 1})))
    denied("proof_invalid", guard.check, call(), task=present(proof(guard, owner, "echo", {"x": 2})))
    denied("proof_invalid", guard.check, call(), task=present(proof(guard, owner, "echo", {})))
    denied("proof_invalid", guard.check, call(), task=present(proof(guard, other, "echo", {"x": 1})))
    made = proof(guard, owner, "echo", {"x": 1})
    for signer in (LocalKey.generate(), guard.home.keys.holder("writer"), guard.home.keys.issuer()):
        denied("proof_invalid", guard.check, call(), task=present(resigned(made, signer)))
    task = present(made)
    guard.check(call(), task=task)
    denied("replay_detected", guard.check, call(), task=task)
    denied("replay_detected", guard.check, call(proof=made), task=present(made))


def test_the_key_of_another_agent_opens_nothing(guard: Guard) -> None:
    owner = guard.task("triage", initiator="user:alice").issue()
    task = guard.accept(owner.presentation(), guard.home.keys.holder("writer"))
    denied("proof_missing", guard.check, call(), task=task)
    denied("delegation_invalid", guard.check, call(agent="writer"), task=task)


@pytest.mark.parametrize(
    "presentation",
    [
        {},
        {"aat_chain": "x"},
        {"aat_chain": [1]},
        {"aat_chain": [None]},
        {"aat_chain": [""] * 1000},
        {"aat_chain": ["a.b.c"], "aat_pop": 1},
        {"aat_chain": ["a.b.c"], "aat_pop": None},
        b"\xff",
        "[" * 100_000,
        '{"aat_chain": ["x"], "aat_chain": ["y"]}',
        "x" * 10_000_000,
        None,
        3,
    ],
    ids=range(13),
)
def test_rubbish_for_a_presentation_opens_a_task_that_can_do_nothing(guard: Guard, presentation: Any) -> None:
    with guard.accept(presentation) as task:
        for agent in ("triage", task.agent):
            denied("artifact_malformed", guard.check, call(agent=agent))
        with pytest.raises(Denied):
            task.delegate("writer").start()
    assert records(guard, "decision")[-1]["verdict"] == "deny"


def test_more_members_in_a_presentation_say_nothing(guard: Guard) -> None:
    owner = guard.task("triage", initiator="user:alice").issue()
    body = {**owner.presentation(), "agent": "admin", "possessed": True, "key": "x", "aat_chain_extra": ["x"]}
    denied("proof_missing", guard.check, call(), task=guard.accept(body))
    denied("proof_missing", guard.check, call(), task=guard.accept(json.dumps(body)))


# --- replay, clock, fork -----------------------------------------------------------------------------------------------------------------


def test_one_call_id_runs_once_whatever_races(guard: Guard) -> None:
    """The nonce is taken in one step: of many threads one is admitted."""
    with guard.task("triage", initiator="user:alice") as task:
        admitted: list[Any] = []
        barrier = threading.Barrier(16)

        def work() -> None:
            barrier.wait()
            with contextlib.suppress(Denied):
                admitted.append(guard.check(call(call_id="c1"), task=task))

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(admitted) == 1
    assert [r["code"] for r in records(guard, "decision") if r["verdict"] == "deny"] == ["replay_detected"] * 15


def test_identical_calls_without_an_id_are_not_replays(guard: Guard) -> None:
    """An honest repeat within seconds is a call of its own, with proofs too."""
    with guard.task("triage", initiator="user:alice"):
        for _ in range(5):
            guard.check(call()).run(lambda x: x)
            guard.check(call("proven")).run(lambda x: x)


def test_a_call_id_is_not_free_again_after_a_restart(guard: Guard, home: Path) -> None:
    owner = guard.task("triage", initiator="user:alice").issue()
    presentation = owner.presentation()
    guard.check(call(call_id="c1"), task=owner)
    guard.close()
    with Guard.open(POLICY, home=home, durability="process") as again:
        task = again.accept(presentation, again.home.keys.holder("triage"))
        denied("replay_detected", again.check, call(call_id="c1"), task=task)


def test_a_clock_that_goes_back_brings_no_artifact_back(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Clock = guard._enforcement.clock
    with guard.task("triage", initiator="user:alice", ttl="60s"):
        permit = guard.check(call())
        monkeypatch.setattr(clock, "_wall", lambda: time.time_ns() + 61 * 10**9)
        denied("artifact_expired", guard.check, call())
        monkeypatch.setattr(clock, "_wall", lambda: time.time_ns() - 3600 * 10**9)
        denied("artifact_expired", guard.check, call())
        denied("artifact_expired", permit.run, lambda x: x)


def test_a_stop_holds_for_everything_below_and_after_a_restart(guard: Guard, home: Path) -> None:
    """The list of what is stopped does not go back when the process ends."""
    with guard.task("triage", initiator="user:alice") as task, task.delegate("writer") as child:
        presentation = child.presentation()
        guard.stop("agent", "triage")
        denied("artifact_revoked", guard.check, call(agent="writer"))
        denied("artifact_revoked", child.delegate("writer").start)
    guard.close()
    with Guard.open(POLICY, home=home, durability="process") as again:
        task = again.accept(presentation, again.home.keys.holder("writer"))
        denied("artifact_revoked", again.check, call(agent="writer"), task=task)


def test_after_a_fork_both_write_logs_of_their_own_and_count_together(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice", uses=10) as task:
        guard.check(call())
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            count = 0
            try:
                while True:
                    guard.check(call(), task=task)
                    count += 1
            except Denied as error:
                os.write(writing, json.dumps([count, str(error.code)]).encode())
            finally:
                guard.close()
                os._exit(0)
        os.waitpid(child, 0)
        count, code = json.loads(os.read(reading, 1000))
        ours = 0
        with pytest.raises(Denied):
            while True:
                guard.check(call())
                ours += 1
    assert len({shard for shard, _, _ in iter_records(guard.home.path)}) == 2
    assert (1 + count + ours, code) in ((10, "budget_exhausted"), (10, "state_unavailable"))


# --- rug pull, lineage -------------------------------------------------------------------------------------------------------------------


def test_a_tool_swapped_under_its_name_is_refused(guard: Guard) -> None:
    ran: list[Any] = []

    @guard.tool
    def echo(x: Any) -> None:
        ran.append(x)

    def swapped(x: Any) -> None:
        ran.append("swapped")

    with pytest.raises(InvalidInput):
        guard.tool(name="echo")(swapped)
    with guard.task("triage", initiator="user:alice"):
        denied("integrity_failure", guard.check(call()).run, swapped)
        echo(1)
    assert ran == [1]


def test_lineage_is_what_happened_not_what_a_call_says(guard: Guard) -> None:
    """No argument, id or context of an attacker's names another cause, agent, task or initiator."""

    @guard.tool
    def echo(x: Any) -> Any:
        return x

    with guard.task("triage", initiator="user:alice") as task, task.delegate("writer") as child:
        denied("delegation_invalid", guard.check, ToolCall("triage", "echo", {"x": 1}))
        denied("delegation_invalid", guard.check, ToolCall("writer", "echo", {"x": 1}), task=task)
        guard.check(ToolCall("writer", "echo", {"x": 1}, call_id=f"{task.id}:1"), task=child)
    decisions = records(guard, "decision")
    assert [(r["agent"], r["task"], r["caused_by"], r["initiator"]["id"]) for r in decisions if r["verdict"] == "allow"] == [
        ("writer", task.id, None, "user:alice")
    ]
    root, link = records(guard, "delegation")
    assert (link["from_agent"], link["agent"], link["parent"]) == ("triage", "writer", root["artifact"])


def test_scope_that_an_artifact_does_not_name_is_not_there(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice", scope={"echo": {"x": {"one_of": [1]}}}):
        guard.check(call()).release()
        for attempt in (call(arguments={"x": 2}), call(arguments={}), call(arguments={"x": 1, "y": 1}), call("outer")):
            with pytest.raises(Denied):
                guard.check(attempt)
