"""Long tasks: renewed artifacts, tasks that another process resumes (agentguard.issuing), and ways around both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentguard import Guard, InvalidInput, ToolCall
from agentguard.artifacts.proof import make_proof
from agentguard.environment import NANOSECOND
from agentguard.state.store import State
from support.approving import CALL, answers, asks, runs
from support.guarded import denied, records
from support.two_homes import two_homes

POLICY = """
agentguard: 1
name: tasks
agents:
  clerk:
    tools: {echo: {x: any}, send_money: {amount: any, to: any}}
    budgets: [{calls: 3, per: task, tool: echo}]
    delegates: {helper: {depth: 1}}
    approval: [{tool: send_money, by: ["user:carol"], expires: 2d}]
  helper:
    tools: {echo: {x: any}}
tools: {echo: {rerun: safe}}
"""
HOUR = 3600


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability="process") as opened:
        yield opened


def echo(x: int, agent: str = "clerk", call_id: str | None = None) -> ToolCall:
    return ToolCall(agent, "echo", {"x": x}, call_id)


def later(guard: Guard, seconds: int) -> None:
    """Let the guard's clock say that it is later."""
    guard._enforcement.clock._base += seconds * NANOSECOND


# --- renew ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passed", [0, 2 * HOUR], ids=["in time", "too late"])
def test_a_task_goes_on_under_a_fresh_artifact(guard: Guard, passed: int) -> None:
    with guard.task("clerk", initiator="user:alice", ttl="1h") as task:
        before = (task.id, task.tokens)
        runs(guard, echo(1))
        later(guard, passed)
        if passed:
            denied("artifact_expired", guard.check, echo(2))
        assert task.renew() is task
        assert task.id == before[0]
        assert task.tokens != before[1]
        assert runs(guard, echo(2))
        later(guard, HOUR - 1)
        assert runs(guard, echo(3)), "as long as the one before"
        later(guard, 2)
        denied("artifact_expired", guard.check, echo(4))


def test_a_renewal_is_recorded_and_decisions_name_the_new_artifact(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice", trusted_input="pay the bills") as task:
        runs(guard, echo(1))
        task.renew("2h")
        runs(guard, echo(2))
    first, second = records(guard, "delegation")
    assert (first["task"], first["tools"], first["parent"]) == (second["task"], second["tools"], None)
    assert second["expires"] - first["expires"] >= HOUR
    assert [record["artifact"] for record in records(guard, "decision")] == [first["artifact"], second["artifact"]]
    assert [record["chain"] for record in records(guard, "decision")] == [first["chain"], second["chain"]]


def test_what_was_counted_stays_counted(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice", ttl="1h") as task:
        for x in range(2):
            runs(guard, echo(x, call_id=f"call-{x}"))
        task.renew()
        denied("replay_detected", guard.check, echo(0, call_id="call-0"))
        runs(guard, echo(3))
        denied("budget_exhausted", guard.check, echo(4))


@pytest.mark.parametrize("shared", [False, True])
def test_it_stays_counted_when_the_first_artifact_is_long_over(guard: Guard, shared: bool) -> None:
    with guard.task("clerk", initiator="user:alice", ttl="1h") as task:
        for x in range(3):
            runs(guard, echo(x, call_id=f"call-{x}"))
        if shared:
            task.presentation()
        task.renew("1d")
        task.presentation()
        later(guard, 12 * HOUR)
        guard.home.state.purge(guard._enforcement.clock.now() // NANOSECOND, rows=10_000)
        denied("budget_exhausted", guard.check, echo(4))
        denied("replay_detected", guard.check, echo(0, call_id="call-0"))


def test_it_stays_counted_when_the_state_is_rebuilt_from_the_log(home: Path) -> None:
    with Guard.open(POLICY, home=home, durability="process") as guard:
        task = guard.task("clerk", initiator="user:alice", ttl="1h").issue()
        for x in range(3):
            runs(guard, echo(x, call_id=f"call-{x}"), task=task)
        task.renew("1d")
        exported = guard.export(task)
    for file in home.glob("state.*"):
        file.unlink()
    with Guard.open(POLICY, home=home, durability="process") as guard:
        later(guard, 12 * HOUR)
        guard.home.state.purge(guard._enforcement.clock.now() // NANOSECOND, rows=10_000)
        with pytest.raises(InvalidInput, match="no guard on this home exported it"):
            guard.resume(exported)  # the new store has another name, and the export was addressed to the old one
        task = guard.accept(exported, guard.home.keys.holder("clerk"))
        task.proof = None
        denied("budget_exhausted", guard.check, echo(4), task=task)


def test_prolonging_one_task_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    from agentguard.state.store import Account, Admitted, Charge, Reservation

    state = State.open(tmp_path / "state.db", durability="process")
    names = ["task", "task2", "tas", "task \x7f", "4:task", "T"]
    for name in names:
        account = Account(name, "clerk", (Charge("budget/x", 1, "x"),), 1_000_000)
        assert type(state.admit(Reservation(f"e-{name}", "0" * 16, account, "c", state.version()))) is Admitted
    state.prolong("task", 3_000_000)
    assert state.purge(2_000_000, rows=10_000) == 2 * (len(names) - 1)
    answer = state.admit(Reservation("again", "0" * 16, Account("task", "clerk", (), 3_000_000), "c", state.version()))
    assert type(answer).__name__ == "Replayed"
    state.close()


def test_a_delegate_is_renewed_after_its_parent(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice", ttl="1h") as task:
        helper = task.delegate("helper").issue()
        later(guard, 2 * HOUR)
        assert denied("artifact_expired", helper.renew).decision.tool == "agentguard.delegate"
        task.renew()
        denied("artifact_expired", guard.check, echo(1, "helper"), task=helper)
        helper.renew()
        assert runs(guard, echo(1, "helper"), task=helper)


def test_what_adapters_derived_is_derived_anew(guard: Guard) -> None:
    from agentguard_adapters.seats import seat

    with guard.task("clerk", initiator="user:alice", ttl="1h") as task:
        _, before = seat(guard, "helper", task)
        later(guard, 2 * HOUR)
        task.renew()
        _, after = seat(guard, "helper", task)
        assert after is not before
        assert runs(guard, echo(1, "helper"), task=after)


def test_a_stop_holds_for_renewals_too(guard: Guard) -> None:
    for kind in ("task", "agent", "initiator", "link"):
        with guard.task("clerk", initiator="user:alice") as task:
            leaf = records(guard, "delegation")[-1]["artifact"]
            value = {"task": task.id, "agent": "clerk", "initiator": "user:alice", "link": leaf}[kind]
            guard.stop(kind, value)
            error = denied("artifact_revoked", task.renew)
            assert error.decision.tool == "agentguard.renew"
            if kind != "task":
                from agentguard import control

                control.lift(guard.home, guard._recording.ledger, kind, value, by="tester")


def test_a_fresh_artifact_is_bound_to_the_policy_in_force(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice") as task:
        guard.reload(POLICY.replace("name: tasks", "name: tasks-2"))
        denied("policy_mismatch", guard.check, echo(1))
        task.renew()
        assert runs(guard, echo(1))
        guard.reload(POLICY.replace("clerk:", "other:").replace("{helper", "{clerk").replace("helper:", "clerk:"))
        task.renew()
        denied("tool_not_allowed", guard.check, CALL)


def test_what_is_not_renewed(guard: Guard, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no artifact yet"):
        guard.task("clerk", initiator="user:alice").renew()
    with guard.task("clerk", initiator="user:alice", uses=3) as limited:
        with pytest.raises(InvalidInput, match="would be counted from 0"):
            limited.renew()
        helper = limited.delegate("helper", uses=1).issue()
        with pytest.raises(InvalidInput, match="would be counted from 0"):
            helper.renew()
    with pytest.raises(InvalidInput, match="the task is closed"):
        limited.renew()
    with two_homes(tmp_path, POLICY) as (here, there), here.task("clerk", initiator="user:alice") as task:
        elsewhere = there.accept(task.presentation(), here.home.keys.holder("clerk"))
        with pytest.raises(InvalidInput, match="only who issued an artifact"):
            elsewhere.renew()


def test_an_approval_is_for_one_artifact_so_a_renewed_task_asks_anew(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice") as task:
        request = asks(guard)
        answers(guard.home, request)
        task.renew()
        assert asks(guard).id != request.id


# --- export and resume --------------------------------------------------------------------------------------------------------------------


def test_an_exported_task_goes_on_elsewhere(home: Path) -> None:
    with Guard.open(POLICY, home=home, durability="process") as guard:
        with guard.task("clerk", initiator="user:alice") as task:
            runs(guard, echo(1, call_id="one"))
            exported = guard.export(task)
        denied("artifact_missing", guard.check, echo(2), task=task)
    with Guard.open(POLICY, home=home, durability="process") as guard, guard.resume(exported) as again:
        assert (again.id, again.agent) == (task.id, "clerk")
        denied("replay_detected", guard.check, echo(2, call_id="one"))
        assert runs(guard, echo(2))
        assert runs(guard, echo(3))
        denied("budget_exhausted", guard.check, echo(4))
        with again.delegate("helper"):
            assert runs(guard, echo(5, "helper"))
        (resumed,) = records(guard, "task")
        assert (resumed["detail"]["action"], resumed["detail"]["task"]) == ("resumed", task.id)
        assert not any(record["observed"] for record in records(guard, "delegation"))


def test_a_resumed_task_can_be_renewed_and_resumed_again(guard: Guard) -> None:
    exported = guard.export(guard.task("clerk", initiator="user:alice", ttl="1h").issue())
    later(guard, 2 * HOUR)
    with guard.resume(exported) as task:
        denied("artifact_expired", guard.check, echo(1))
        task.renew()
        assert runs(guard, echo(1))
    with guard.resume(exported):
        denied("artifact_expired", guard.check, echo(1))


def test_a_resumed_delegate_cannot_be_renewed_into_a_root(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice") as task, task.delegate("helper") as helper:
        exported = guard.export(helper)
    with guard.resume(exported) as again:
        assert runs(guard, echo(1, "helper"))
        with pytest.raises(InvalidInput, match="only who issued an artifact"):
            again.renew()


def test_only_what_was_exported_here_is_resumed(guard: Guard, tmp_path: Path) -> None:
    with guard.task("clerk", initiator="user:alice") as task:
        exported = json.loads(guard.export(task))
        chain = guard._enforcement.in_force.snapshot.authority.grant(task).chain
        assert chain is not None
        assert task.key is not None
        now, aud = guard._enforcement.clock.now() // NANOSECOND, guard.audience
        other = guard.home.keys.holder("helper")
        forged = {
            "no proof": None,
            "for a call": make_proof(task.key, chain.leaf, "echo", {}, now, aud=aud),
            "for somebody else": make_proof(task.key, chain.leaf, "agentguard.resume", {}, now, aud="urn:elsewhere"),
            "for nobody": make_proof(task.key, chain.leaf, "agentguard.resume", {}, now),
            "with arguments": make_proof(task.key, chain.leaf, "agentguard.resume", {"x": 1}, now, aud=aud),
            "from the future": make_proof(task.key, chain.leaf, "agentguard.resume", {}, now + 3600, aud=aud),
            "nonsense": "a.b.c",
        }
        with task.delegate("helper") as helper:
            below = guard._enforcement.in_force.snapshot.authority.grant(helper).chain
            assert below is not None
            forged["of another artifact"] = make_proof(other, below.leaf, "agentguard.resume", {}, now, aud=aud)
        for what, proof in forged.items():
            body = {"aat_chain": exported["aat_chain"]} | ({"aat_pop": proof} if proof is not None else {})
            with pytest.raises(InvalidInput, match="resume: "):
                guard.resume(json.dumps(body))
                pytest.fail(what)
        assert runs(guard, echo(1), task=guard.resume(json.dumps(exported)))
    with two_homes(tmp_path, POLICY) as (here, there), here.task("clerk", initiator="user:alice") as task:
        text = here.export(task)
        with pytest.raises(InvalidInput, match="resume: "):
            there.resume(text)


def test_the_proof_of_an_export_is_no_proof_of_a_call(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice") as task:
        exported = guard.export(task)
    denied("proof_invalid", guard.check, echo(1), task=guard.accept(exported))


def test_a_chain_that_stands_no_more_denies_each_call(guard: Guard) -> None:
    for text in ("{}", "nonsense", '{"aat_chain": ["a.b.c"]}'):
        with guard.resume(text), pytest.raises(Exception, match="artifact_"):
            guard.check(echo(1))
    task = guard.task("clerk", initiator="user:alice").issue()
    exported = guard.export(task)
    guard.stop("task", task.id)
    denied("artifact_revoked", guard.check, echo(1), task=guard.resume(exported))


def test_a_task_without_its_key_is_not_exported(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice") as task:
        bare = guard.accept(task.presentation())
        with pytest.raises(InvalidInput, match="key is not in this process"):
            guard.export(bare)


_WORKER = """
import sys
from agentguard import Guard, ToolCall
with Guard.open(sys.argv[2], home=sys.argv[1], durability="process") as guard, guard.resume(sys.stdin.read()) as task:
    print(guard.check(ToolCall("clerk", "echo", {"x": 7})).run(lambda x: x + 1), task.id)
"""


def test_another_process_takes_it_from_a_queue(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice") as task:
        exported = guard.export(task)
        arguments = [sys.executable, "-c", _WORKER, str(guard.home.path), POLICY]
        done = subprocess.run(arguments, input=exported, capture_output=True, text=True, check=False)
        assert done.stdout.split() == ["8", task.id], done.stderr
        runs(guard, echo(1))
        runs(guard, echo(2))
        denied("budget_exhausted", guard.check, echo(3))
