"""From an `ask` to the call that runs: requests, answers, waiting, restarts (agentguard.asking, enforcement, guard)."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import ApprovalRequired, Code, Denied, Guard, InvalidInput, ToolCall, Verdict, control
from agentguard import inbox as inbox_module
from agentguard.approvals import Request
from agentguard.environment import NANOSECOND
from agentguard.keys import LocalKey
from support.approving import CALL, answers, asks, opened, policy, runs
from support.guarded import denied, records

SOON = 20.0  # seconds that no test waits for


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with opened(home) as made:
        yield made


def later(guard: Guard, hours: int) -> None:
    """Let the guard's clock say that it is so many hours later."""
    guard._enforcement.clock._base += hours * 3600 * NANOSECOND


def notes(guard: Guard, action: str) -> list[dict[str, Any]]:
    return [record["detail"] for record in records(guard, "approval") if record["detail"]["action"] == action]


# --- asking -----------------------------------------------------------------------------------------------------------------------------


def test_an_ask_becomes_a_request_that_says_what_is_asked_by_whom_and_on_whose_behalf(guard: Guard) -> None:
    plan, send = ToolCall("clerk", "plan", {"x": 1}), ToolCall("helper", "send_money", {"amount": 1, "to": "bob"})
    with guard.task("clerk", initiator="user:alice") as task:
        answers(guard.home, asks(guard, plan))
        helper = task.delegate("helper").issue()
        request = guard.check(plan).run(lambda x: asks(guard, send, task=helper))
        chain = guard._enforcement.in_force.snapshot.authority.grant(helper).chain
    assert chain is not None
    question = request.question
    assert (question.agent, question.tool, question.task, question.leaf) == ("helper", "send_money", task.id, chain.leaf.hash)
    assert question.arguments == {"amount": 1, "to": "bob"}
    assert question.policy == guard.policy.digest
    assert request.agents == ("clerk", "helper")
    assert request.initiator == {"id": "user:alice", "method": "asserted", "evidence": ""}
    assert (request.terms.by, request.terms.of) == (("user:carol", "user:dan"), 2)
    ran = [record["id"] for record in records(guard, "decision") if record["verdict"] == "allow"]
    assert request.caused_by == ran[0]
    (asked,) = [record for record in records(guard, "decision") if record["id"] == request.execution]
    assert (asked["verdict"], asked["code"], asked["stages"]["12"]) == ("ask", "approval_required", "ask")


def test_the_error_names_the_request_and_a_model_hears_what_to_do(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"), pytest.raises(ApprovalRequired) as caught:
        guard.check(CALL)
    error = caught.value
    assert guard.home.inbox.get(error.request).id == error.request
    assert f"agentguard approvals show {error.request}" in str(error)
    assert error.for_model == (
        f"Denied (approval_required). This call needs a human's approval first. Request {error.request} was put: once it is approved, "
        "make exactly this call again. The tool did not run."
    )
    assert error.decision.to_json()["request"] == error.request
    assert pickle.loads(pickle.dumps(error)).request == error.request


def test_the_same_call_joins_the_open_request_and_another_one_does_not(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        assert asks(guard).id == request.id
        assert asks(guard, ToolCall("clerk", "send_money", {"to": "bob", "amount": 500}, "other-id")).id == request.id
        assert asks(guard, ToolCall("clerk", "send_money", {"amount": 501, "to": "bob"})).id != request.id
    with guard.task("clerk", initiator="user:alice"):
        assert asks(guard).id != request.id, "another task"
    assert [detail["request"] for detail in notes(guard, "asked")].count(request.id) == 1


def test_what_needs_no_approval_asks_nobody_and_a_dry_run_puts_no_request(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        assert runs(guard, ToolCall("clerk", "send_money", {"amount": 100, "to": "bob"}))
        assert guard.decide(CALL).verdict is Verdict.ASK
        assert guard.decide(CALL).request == ""
    assert not guard.home.inbox.all()


def test_a_shadowed_rule_asks_nobody(home: Path) -> None:
    with opened(home, policy(shadow='budgets: [{calls: 3 -> unsafe_shadow: {until: "2099-01-01"}\n    budgets: [{calls: 3')) as guard:
        with guard.task("clerk", initiator="user:alice"):
            assert runs(guard)
        assert not guard.home.inbox.all()


# --- approved, denied, expired ------------------------------------------------------------------------------------------------------------


def test_an_approval_is_good_for_one_call(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        settled = answers(guard.home, request)
        assert settled is not None
        assert settled.granted
        assert guard.decide(CALL).allowed
        permit = guard.check(CALL)
        assert f"approval/{request.id}" in permit.decision.reserved
        assert permit.run(lambda **arguments: arguments["amount"]) == 500
        assert asks(guard).id != request.id


def test_the_log_tells_who_was_asked_who_answered_and_which_call_used_it(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        answers(guard.home, request)
        runs(guard)
    (asked,), (answered,), (used,) = notes(guard, "asked"), notes(guard, "answered"), notes(guard, "used")
    assert asked["request"] == answered["request"] == used["request"] == request.id
    assert asked["arguments"] == request.commitment
    assert (answered["verdict"], answered["local"]) == ("approve", True)
    assert (used["by"], used["answers"]) == (["user:carol"], [answered["answer"]])
    (allowed,) = [record for record in records(guard, "decision") if record["verdict"] == "allow"]
    assert (allowed["id"], allowed["reserved"]) == (used["execution"], [[f"approval/{request.id}", 1]])
    assert not list((guard.home.path / "approvals").glob("*-*")), "it served: its arguments are gone"
    salts = {item.salt for item in guard.home.side.get(asked["execution"]) if item.kind == "asked"}
    assert salts == {request.salt}


def test_no_record_of_an_approval_tells_the_arguments(guard: Guard) -> None:
    secret = "tangerine-4711"
    call = ToolCall("clerk", "send_money", {"amount": 500, "to": secret})
    with guard.task("clerk", initiator="user:alice"):
        answers(guard.home, asks(guard, call))
        runs(guard, call)
    assert secret not in json.dumps(records(guard, "approval"))


def test_a_denial_stands_until_the_request_has_expired(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice", ttl="1d"):
        request = asks(guard)
        answers(guard.home, request, "user:dan", "deny")
        assert "denied by user:dan" in str(denied("approval_denied", guard.check, CALL))
        assert denied("approval_denied", guard.check, CALL).for_model.startswith("Denied (approval_denied). A human was asked")
        with pytest.raises(InvalidInput, match="was denied by user:dan, and that stands"):
            answers(guard.home, request, "user:carol")
        later(guard, 1)
        assert asks(guard).id != request.id


def test_an_approver_may_think_better_of_it_before_the_call_runs(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        answers(guard.home, request)
        answers(guard.home, request, verdict="deny")
        denied("approval_denied", guard.check, CALL)


def test_an_approval_that_was_not_used_in_time_is_worth_nothing(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice", ttl="1d"):
        request = asks(guard)
        answers(guard.home, request)
        later(guard, 1)
        assert asks(guard).id != request.id


def test_two_of_two_must_approve(guard: Guard) -> None:
    call = ToolCall("helper", "send_money", {"amount": 1, "to": "bob"})
    with guard.task("clerk", initiator="user:alice") as task, task.delegate("helper"):
        request = asks(guard, call)
        assert answers(guard.home, request, "user:carol") is None
        assert asks(guard, call).id == request.id
        answers(guard.home, request, "user:dan")
        assert runs(guard, call)


def test_the_initiator_may_answer_where_the_rule_accepts_it(guard: Guard) -> None:
    call = ToolCall("clerk", "wipe", {})
    with guard.task("clerk", initiator="user:alice"):
        answers(guard.home, asks(guard, call), "user:alice")
        assert runs(guard, call)


def test_after_one_approval_a_sequence_rule_lets_further_calls_run(home: Path) -> None:
    text = (
        policy()
        .replace("    budgets:", "    sequence: [{tool: plan, only_after_approval: true}]\n    budgets:")
        .replace(", plan], by", "], by")
    )
    with opened(home, text) as guard, guard.task("clerk", initiator="user:alice"):
        call = ToolCall("clerk", "plan", {"x": 1})
        answers(guard.home, asks(guard, call), "user:carol")
        assert runs(guard, call)
        assert runs(guard, call)


# --- what comes after the approval --------------------------------------------------------------------------------------------------------


def test_a_call_that_a_later_stage_refuses_neither_loses_nor_uses_its_approval(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        for x in range(3):
            answers(guard.home, asks(guard, ToolCall("clerk", "plan", {"x": x})))
            runs(guard, ToolCall("clerk", "plan", {"x": x}))
        fourth = ToolCall("clerk", "plan", {"x": 4})
        request = asks(guard, fourth)
        answers(guard.home, request)
        denied("budget_exhausted", guard.check, fourth)
        assert guard.home.inbox.stands(request)
        assert guard.decide(fourth).allowed
    assert len(notes(guard, "used")) == 3


def test_a_permit_that_was_never_used_gives_the_approval_back(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        answers(guard.home, request)
        guard.check(CALL).release()
        assert guard.home.inbox.stands(request)
        assert runs(guard)
        assert not guard.home.inbox.stands(request)


def test_what_could_not_be_recorded_is_not_used_up(home: Path) -> None:
    with opened(home) as guard:
        task = guard.task("clerk", initiator="user:alice").issue()
        presentation = task.presentation()
        request = asks(guard, task=task)
        answers(guard.home, request)
        guard.home.log.poison("the disk is full")
        denied("evidence_unavailable", guard.check, CALL, task=task)
    with opened(home) as guard, guard.accept(presentation, guard.home.keys.holder("clerk")):
        assert guard.home.inbox.stands(request)
        assert runs(guard)


def test_a_revocation_between_approval_and_call_denies(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        answers(guard.home, asks(guard))
        guard.stop("agent", "clerk")
        denied("artifact_revoked", guard.check, CALL)
        control.lift(guard.home, guard._recording.ledger, "agent", "clerk", by="tester")
        assert runs(guard), "the approval was not lost over it"


# --- failing closed -----------------------------------------------------------------------------------------------------------------------


def test_a_request_that_cannot_be_kept_denies(guard: Guard) -> None:
    (guard.home.path / "approvals").write_text("a file stands where the directory should")
    with guard.task("clerk", initiator="user:alice"):
        error = denied("state_unavailable", guard.check, CALL)
    assert error.decision.verdict is Verdict.DENY
    assert type(error) is Denied


def test_an_inbox_that_others_can_read_takes_no_request(guard: Guard) -> None:
    (guard.home.path / "approvals").mkdir(mode=0o755)
    with guard.task("clerk", initiator="user:alice"):
        assert "chmod 700" in str(denied("state_unavailable", guard.check, CALL))


def test_a_call_that_nobody_can_be_asked_about_is_denied(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        error = denied("approval_denied", guard.check, ToolCall("clerk", "send_money", {"amount": 500, "to": "b" * 300_000}))
    assert "nobody is asked about more than" in str(error)
    assert not guard.home.inbox.all()


def test_an_agent_cannot_ask_without_end(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "MAX_OF_TASK", 3)
    calls = [ToolCall("clerk", "send_money", {"amount": 1000 + x, "to": "bob"}) for x in range(4)]
    with guard.task("clerk", initiator="user:alice", ttl="1d"):
        open_ = [asks(guard, call) for call in calls[:3]]
        assert "3 requests of this task wait" in str(denied("state_unavailable", guard.check, calls[3]))
        with guard.task("clerk", initiator="user:alice"):
            asks(guard, calls[3])
        assert asks(guard, calls[0]).id == open_[0].id
        later(guard, 1)
        asks(guard, calls[3])
    assert not any(guard.home.inbox.stands(request) for request in open_), "expired ones make room"


# --- who may answer -----------------------------------------------------------------------------------------------------------------------


def trusting(home: Path, body: dict[str, Any]) -> Guard:
    home.mkdir(exist_ok=True)
    (home / "trust.json").write_text(json.dumps(body))
    return opened(home)


def test_where_the_trust_file_names_approvers_only_their_own_keys_count(home: Path) -> None:
    carol = LocalKey.generate()
    with trusting(home, {"approvers": {"user:carol": carol.public.jwk()}}) as guard, guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        with pytest.raises(InvalidInput, match="nobody who may answer holds this key"):
            answers(guard.home, request)
        with pytest.raises(InvalidInput, match="nobody who may answer holds this key"):
            answers(guard.home, request, "user:dan")
        answers(guard.home, request, "user:carol", key=carol)
        assert runs(guard)


def test_a_trust_file_that_names_nobody_lets_nobody_answer(home: Path) -> None:
    with trusting(home, {"approvers": {}}) as guard, guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        with pytest.raises(InvalidInput, match="nobody who may answer"):
            answers(guard.home, request)


@pytest.mark.parametrize(
    ("approvers", "message"),
    [
        ({"user:carol": "A", "user:dan": "A"}, "approvers.user:dan: the same key as user:carol"),
        ({"user:carol": "AGENT"}, "approvers.user:carol: the same key as remote"),
        ({"user:carol": "ISSUER"}, "approvers.user:carol: the same key as the issuer"),
        ({"user carol": "A"}, "a name is 1 to 256 printable ASCII"),
        ({"user:carol": "NONE"}, "a JWK is an object"),
        ([], "approvers must be an object"),
    ],
)
def test_one_key_is_one_person_and_no_agent_or_issuer(home: Path, approvers: Any, message: str) -> None:
    agent, issuer = LocalKey.generate(), LocalKey.generate()
    jwks = {"A": LocalKey.generate().public.jwk(), "AGENT": agent.public.jwk(), "ISSUER": issuer.public.jwk(), "NONE": None}
    body = {
        "agents": {"remote": agent.public.jwk()},
        "anchors": [{"iss": issuer.public.uri, "jwk": issuer.public.jwk()}],
        "approvers": {name: jwks[key] for name, key in approvers.items()} if isinstance(approvers, dict) else approvers,
    }
    with pytest.raises(InvalidInput, match=message):
        trusting(home, body)


# --- waiting ------------------------------------------------------------------------------------------------------------------------------


def meanwhile(guard: Guard, act: Callable[[Request], Any]) -> threading.Thread:
    """A thread that does something about the first request that comes."""

    def run() -> None:
        until = time.monotonic() + SOON
        while not guard.home.inbox.all():
            assert time.monotonic() < until
            time.sleep(0.005)
        request = guard.home.inbox.all()[0].request
        assert request is not None
        act(request)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_task_that_waits_goes_on_when_somebody_approves(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice", wait="1h"):
        thread = meanwhile(guard, lambda request: answers(guard.home, request))
        assert runs(guard) == [{"amount": 500, "to": "bob"}]
        thread.join()
    assert [record["verdict"] for record in records(guard, "decision")] == ["ask", "allow"]
    assert not list((guard.home.path / "approvals").glob("*-*/bell-*"))


async def test_the_same_for_asyncio_while_the_loop_goes_on(guard: Guard) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.002)

    busy = asyncio.create_task(others())
    async with guard.task("clerk", initiator="user:alice", wait="1h"):
        thread = meanwhile(guard, lambda request: (time.sleep(0.1), answers(guard.home, request)))
        permit = await guard.acheck(CALL)
        assert await permit.arun(lambda **arguments: arguments["to"]) == "bob"
    busy.cancel()
    thread.join()
    assert turns > 5


def test_a_denial_wakes_too(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice", wait="1h"):
        thread = meanwhile(guard, lambda request: answers(guard.home, request, verdict="deny"))
        denied("approval_denied", guard.check, CALL)
        thread.join()


def test_waiting_ends_with_its_time_and_the_request_still_stands(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice", wait="1s") as task:
        task.wait = 0.05  # type: ignore[assignment]  # less than anybody can write
        request = asks(guard)
    assert guard.home.inbox.stands(request)
    assert len(records(guard, "decision")) == 1


async def test_a_wait_can_be_cancelled(guard: Guard) -> None:
    async with guard.task("clerk", initiator="user:alice", wait="1h"):
        check = asyncio.create_task(guard.acheck(CALL))
        while not list((guard.home.path / "approvals").glob("*-*/bell-*")):
            await asyncio.sleep(0.005)
        check.cancel()
        with pytest.raises(asyncio.CancelledError):
            await check
    assert not list((guard.home.path / "approvals").glob("*-*/bell-*"))
    assert [record["verdict"] for record in records(guard, "decision")] == ["ask"]


async def test_a_sync_call_in_a_loop_does_not_hold_the_loop_up(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice", wait="1h"):
        request = asks(guard)
        with pytest.raises(InvalidInput, match="await guard"):
            guard.wait_answer(request.id)


def test_a_stop_during_the_wait_counts_after_it(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice", wait="1h"):
        thread = meanwhile(guard, lambda request: (guard.stop("agent", "clerk"), answers(guard.home, request)))
        denied("artifact_revoked", guard.check, CALL)
        thread.join()


def test_delegates_wait_as_the_task_does(guard: Guard) -> None:
    task = guard.task("clerk", initiator="user:alice", wait="2h")
    assert task.wait == 7200
    assert task.delegate("helper").wait == 7200
    assert guard.task("clerk", initiator="user:alice").wait is None


def test_whoever_joined_asks_anew_when_the_other_one_used_the_approval(guard: Guard) -> None:
    got: list[Any] = []
    with guard.task("clerk", initiator="user:alice", wait="1h") as task:
        threads = [threading.Thread(target=lambda: got.append(runs(guard, task=task))) for _ in range(2)]
        for thread in threads:
            thread.start()
        seen: set[str] = set()
        while len(got) < 2:
            for filed in guard.home.inbox.all():
                if filed.request is not None and filed.request.id not in seen:
                    seen.add(filed.request.id)
                    answers(guard.home, filed.request)
            time.sleep(0.005)
        for thread in threads:
            thread.join()
    assert len(seen) == 2
    assert len(notes(guard, "used")) == 2


def test_one_can_wait_by_the_requests_id(guard: Guard) -> None:
    with guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        thread = meanwhile(guard, lambda one: answers(guard.home, one))
        assert guard.wait_answer(request.id, "1h")
        thread.join()
        assert asyncio.run(guard.await_answer(request.id, "1h"))
        assert runs(guard)
        assert guard.wait_answer(request.id, "1h"), "there is nothing left to wait for"


# --- restarts -----------------------------------------------------------------------------------------------------------------------------

_WORKER = """
import json, os, sys
from agentguard import ApprovalRequired, Guard
home, policy, step = sys.argv[1:4]
guard = Guard.open(policy, home=home, durability="process")

@guard.tool
def send_money(amount: int, to: str) -> str:
    return f"{amount} to {to}"

if step == "ask":
    task = guard.task("clerk", initiator="user:alice").start()
    json.dump(task.presentation(), open(os.path.join(home, "task.json"), "w"))
    try:
        send_money(500, "bob")
    except ApprovalRequired as error:
        print(error.request, flush=True)
    os._exit(9)  # no farewell: a crash
with guard.accept(json.load(open(os.path.join(home, "task.json"))), guard.home.keys.holder("clerk"), wait="1h" if step == "wait" else None):
    print(send_money(500, "bob"), flush=True)
    try:
        send_money(500, "bob") if step == "resume" else None
    except ApprovalRequired as error:
        print(error.request)
"""


def worker(home: Path, step: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(home), policy(), step], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_request_survives_its_process_and_the_next_one_finds_the_answer(home: Path) -> None:
    asked, _ = worker(home, "ask").communicate(timeout=60)
    with opened(home) as guard:
        request = guard.home.inbox.get(asked.strip())
        answers(guard.home, request)
    out, errors = worker(home, "resume").communicate(timeout=60)
    assert out.splitlines()[:1] == ["500 to bob"], errors
    assert out.splitlines()[1] != request.id, "once"


def test_it_does_not_matter_by_which_path_the_policy_is_opened(home: Path, tmp_path: Path) -> None:
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text(policy())
    with Guard.open(tmp_path / "one.yaml", home=home, durability="process") as guard:
        exported = guard.export(task := guard.task("clerk", initiator="user:alice").issue())
        request = asks(guard, task=task)
        assert request.place.endswith("one.yaml:14")
        answers(guard.home, request)
    with Guard.open(tmp_path / "two.yaml", home=home, durability="process") as guard, guard.resume(exported):
        assert runs(guard)


def test_a_call_that_waits_in_another_process_goes_on(home: Path) -> None:
    worker(home, "ask").communicate(timeout=60)
    waiting = worker(home, "wait")
    until = time.monotonic() + 60
    while not list((home / "approvals").glob("*-*/bell-*")):
        assert time.monotonic() < until
        assert waiting.poll() is None, waiting.communicate()
        time.sleep(0.01)
    with opened(home) as guard:
        answers(guard.home, guard.home.inbox.all()[0].request)  # type: ignore[arg-type]  # there is one
    out, errors = waiting.communicate(timeout=60)
    assert out == "500 to bob\n", errors


def test_codes_of_approvals_are_built() -> None:
    from agentguard.decision import NOT_BUILT, Stage

    assert Stage.APPROVAL not in NOT_BUILT
    assert {Code.APPROVAL_REQUIRED, Code.APPROVAL_DENIED} <= set(Code)
