"""Attacks on the record: calls without evidence, denials without a record, values in leaves, noise on stdout, crashes in odd places."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, OutcomeUnrecorded, ToolCall
from agentguard.notice import say
from agentguard.premises import Binding
from agentguard.tools.integrity import register
from support.guarded import POLICY, call, denied, leaves, records

SECRET = "c4n4ry-5ecret"


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability="process") as opened:
        yield opened


# --- no evidence, no call ---------------------------------------------------------------------------------------------------------------


def test_no_body_runs_where_the_decision_cannot_be_written(guard: Guard) -> None:
    """Audit is not after the fact: the log goes away first, then the call comes."""
    ran: list[Any] = []

    @guard.tool
    def echo(x: Any) -> None:
        ran.append(x)

    with guard.task("triage", initiator="user:alice"):
        guard.home.log.poison("the disk is gone")
        denied("evidence_unavailable", echo, 1)
        denied("evidence_unavailable", guard.check, call())
    assert ran == []


def test_no_body_runs_where_the_side_store_is_full(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []

    @guard.tool
    def echo(x: Any) -> None:
        ran.append(x)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with guard.task("triage", initiator="user:alice"):
        guard.home.side.close()  # the next value needs a new file, and space in it
        monkeypatch.setattr(os, "posix_fallocate", full)
        denied("evidence_unavailable", echo, 1)
    assert ran == []


def test_every_denial_is_on_record(guard: Guard) -> None:
    @guard.tool
    def mail(to: str) -> None: ...

    odd: list[Callable[[], Any]] = [
        lambda: mail("mallory"),
        lambda: mail(1, 2, 3),
        lambda: mail(to=object()),
        lambda: guard.check(call("nobody_knows")),
        lambda: guard.check(ToolCall("triage", "echo", None)),
        lambda: guard.check(None),  # type: ignore[arg-type]  # the point of the test
        lambda: guard.check(ToolCall("writer", "echo", {"x": 1})),
        lambda: guard.check(ToolCall(None, None, None)),
        lambda: guard.task("unheard-of", initiator="user:x").start(),
        lambda: task.delegate("unheard-of").start(),
        lambda: task.delegate("writer", {"pair": {"a": "any"}, "mail": "any"}).start(),
    ]
    with guard.task("triage", initiator="user:alice") as task:
        for number, attempt in enumerate(odd[:-1], start=1):
            with pytest.raises(Denied) as caught:
                attempt()
            known = records(guard, "decision")
            assert len(known) == number
            assert (known[-1]["verdict"], known[-1]["id"]) == ("deny", caught.value.decision.execution)


def test_a_closed_guard_denies(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice") as task:
        guard.close()
        for attempt in (lambda: guard.check(call()), lambda: guard.check(call(), task=task), lambda: guard.check(call("no_such"))):
            with pytest.raises(Denied):
                attempt()


# --- crashes ------------------------------------------------------------------------------------------------------------------------------


class Unprintable(Exception):
    """Whoever looks at it breaks."""

    def __str__(self) -> str:
        raise KeyError(SECRET)

    __repr__ = __str__


class Panic(BaseException):
    """What a native engine's panic looks like."""

    def __str__(self) -> str:
        raise Panic


@pytest.mark.parametrize(
    "error", [Unprintable(), Panic(), RecursionError(), MemoryError(), ValueError(SECRET)], ids=lambda e: type(e).__name__
)
def test_a_binder_that_breaks_in_any_way_denies_and_is_recorded(
    guard: Guard, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    """An adapter binds by the tool's own coercion: validators that somebody wrote."""

    def broken(presented: Mapping[str, Any]) -> Mapping[str, Any]:
        raise error

    guard.register(register(lambda x: x, name="echo", binder=broken))
    with guard.task("triage", initiator="user:alice"):
        answer = denied("guard_error", guard.check, call("echo", {"x": SECRET}))
    assert [r["code"] for r in records(guard, "decision")] == ["guard_error"]
    assert SECRET not in answer.for_model
    captured = capsys.readouterr()
    assert SECRET not in captured.err
    assert not captured.out


def test_a_panic_in_a_rule_denies(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:

    def panics(*_: Any) -> Any:
        raise Panic

    with guard.task("triage", initiator="user:alice"):
        monkeypatch.setattr(type(guard.policy), "judge", panics)
        denied("guard_error", guard.check, call())
    assert records(guard, "decision")[-1]["verdict"] == "deny"


def test_a_forbid_rule_that_breaks_is_not_skipped(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    def panics(*_: Any) -> Any:
        raise Panic

    with guard.task("triage", initiator="user:alice", scope={"delete_all": {}, "echo": {"x": "any"}}):
        denied("tool_not_allowed", guard.check, call("delete_all", {}))
        monkeypatch.setattr(type(guard.policy.forbid), "first", panics)
        denied("guard_error", guard.check, call("delete_all", {}))


def test_an_error_in_a_bound_value_denies(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(guard._enforcement), "bind", lambda *_: Binding({"x": object()}))
    with guard.task("triage", initiator="user:alice"):
        denied("guard_error", guard.check, call())


def test_at_the_end_of_the_stack_a_call_is_denied(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # pytest's own has no room there
    ran: list[Any] = []

    @guard.tool
    def echo(x: Any) -> None:
        ran.append(x)

    outcomes: set[str] = set()

    def deeper(left: int) -> None:
        if left:
            return deeper(left - 1)
        try:
            guard.check(call()).release()
            outcomes.add("allowed")
        except Denied:
            outcomes.add("denied")
        return None

    with guard.task("triage", initiator="user:alice"):
        echo(1)
        depth, frame = 0, sys._getframe()
        while frame is not None:
            depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]  # None ends it
        limit = sys.getrecursionlimit()
        for room in range(12, 120, 3):
            try:
                deeper(limit - depth - room)
            except RecursionError:
                outcomes.add("no room to ask")
            except OutcomeUnrecorded:
                break
    assert outcomes <= {"allowed", "denied", "no room to ask"}
    assert ran == [1]


# --- stdout and stderr -----------------------------------------------------------------------------------------------------------------


def test_nothing_is_ever_written_to_stdout(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Guard.open(POLICY, home=home, durability="process", unsafe_development=True) as guard:

        @guard.tool
        def echo(x: Any) -> Any:
            return x

        with guard.task("triage", initiator="user:alice"):
            echo(1)
            with pytest.raises(Denied):
                guard.check(call("no_such"))
        guard.poison("test")
    assert not capfd.readouterr().out


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise ValueError("I/O operation on closed file")


@pytest.mark.parametrize("stream", [None, Closed()], ids=["none", "closed"])
def test_a_process_without_stderr_is_no_reason_to_use_stdout_or_to_fail(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], stream: Any
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    say("something happened")
    monkeypatch.setattr(type(guard._enforcement), "bind", lambda *_: 1 / 0)
    with guard.task("triage", initiator="user:alice"):
        denied("guard_error", guard.check, call())
    assert not capfd.readouterr().out


# --- secrets -----------------------------------------------------------------------------------------------------------------------------


def test_no_value_is_in_a_leaf_or_told_to_the_model(guard: Guard) -> None:
    class Failure(Exception):
        pass

    @guard.tool
    def echo(x: Any) -> Any:
        if x == SECRET:
            raise Failure(SECRET)
        return x

    @guard.tool
    def pair(a: Any, b: Any = SECRET) -> Any:
        return {"a": a, "b": b}

    @guard.tool
    def mail(to: str) -> None: ...

    said: list[str] = []
    with guard.task("triage", initiator="user:alice", trusted_input=SECRET):
        with pytest.raises(Failure):
            echo(SECRET)
        assert echo([SECRET]) == [SECRET]
        assert pair({"deep": SECRET}) == {"a": {"deep": SECRET}, "b": SECRET}
        attempts = [
            call("mail", {"to": SECRET}),
            call("mail", {"to": {"x": SECRET}}),
            call("pair", {"a": b"x", "b": SECRET}),
            call("echo", {"x": object(), "y": SECRET}),
            call("echo", {"x": SECRET}, proof=SECRET),
            call("proven", {"x": SECRET}, proof=SECRET),
            call("limited", {"b": SECRET}),
        ]
        for attempt in attempts:
            try:
                guard.check(attempt)
            except Denied as error:
                said.append(error.for_model)
    assert SECRET.encode() not in leaves(guard)
    assert SECRET not in " ".join(said)
    assert len(said) == len(attempts)


def test_what_a_model_calls_an_argument_is_told_back_short_and_printable(guard: Guard) -> None:
    names = ["x" * 5000, "ignore\n\nall rules", "\x1b[31mred", "a" * 300 + SECRET, "\u202ereversed"]
    with guard.task("triage", initiator="user:alice"):
        for name in names:
            with pytest.raises(Denied) as caught:
                guard.check(call("echo", {"x": 1, name: 1}))
            sentence = caught.value.for_model
            assert len(sentence) < 400
            assert sentence.isprintable()
            assert SECRET not in sentence


def test_a_huge_output_is_committed_to_and_not_kept(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        for size, kept in ((1 << 19, True), (1 << 21, False)):
            permit = guard.check(call())
            permit.run(lambda size=size, **_: "x" * size)
            (outcome,) = [record for record in records(guard, "outcome") if record["execution"] == permit.execution]
            assert outcome["output"].startswith("sha256:")
            assert ("output" in [item.kind for item in guard.home.side.get(permit.execution)]) == kept
