"""Attacks on the permit: run something else, with something else, twice, elsewhere, later, or under another agent's name."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, InvalidInput, ToolCall
from agentguard.context import lent_permit
from support.guarded import POLICY, call, denied, records


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability="process") as opened:
        yield opened


@pytest.fixture
def ran(guard: Guard) -> list[Any]:
    """What the bodies of the tools saw."""
    return []


@pytest.fixture
def echo(guard: Guard, ran: list[Any]) -> Any:
    @guard.tool
    def echo(x: Any) -> Any:
        ran.append(x)
        return x

    return echo


# --- something else ---------------------------------------------------------------------------------------------------------------------


def test_a_checked_argument_cannot_be_replaced_through_injected(guard: Guard, echo: Any, ran: list[Any]) -> None:
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(call())
        denied("integrity_failure", permit.run, echo, {"x": "smuggled"})
        denied("replay_detected", permit.run, echo)
    assert ran == []
    assert records(guard, "outcome")[-1]["status"] == "not_run"


def test_an_argument_left_to_its_default_cannot_be_filled_in_through_injected(guard: Guard, ran: list[Any]) -> None:
    """A default without a JSON form is no bound argument, but the model could have been asked about it."""
    nobody = object()

    @guard.tool(name="echo")
    def body(x: int, to: Any = nobody) -> None:
        ran.append((x, to))

    with guard.task("triage", initiator="user:alice"):
        denied("integrity_failure", guard.check(call()).run, body, {"to": "mallory"})
        body(1)
    assert ran == [(1, nobody)]


def test_live_arguments_that_say_something_else(guard: Guard, echo: Any, ran: list[Any]) -> None:
    with guard.task("triage", initiator="user:alice"):
        for live in ({"x": 2}, {"x": True}, {"x": "1"}, {"y": 1}):
            denied("integrity_failure", guard.check(call()).run, echo, {}, live)
        with pytest.raises(InvalidInput):
            guard.check(call()).run(echo, {}, {"x": object()})
    assert ran == []


def test_the_permit_of_a_tool_runs_no_other_function(guard: Guard, echo: Any, ran: list[Any]) -> None:
    @guard.tool
    def outer(x: Any) -> None:
        ran.append(("outer", x))

    class Echo:
        def __call__(self, x: Any) -> None:
            ran.append(("object", x))

    body = echo.__wrapped__
    others: list[Any] = [
        outer,
        lambda x: ran.append(x),
        functools.partial(body, x=2),
        functools.wraps(body)(lambda x: ran.append(("wraps", x))),
        Echo(),
        body.__get__(3),
        print,
    ]
    with guard.task("triage", initiator="user:alice"):
        for other in others:
            denied("integrity_failure", guard.check(call()).run, other)
    assert ran == []


def test_wraps_does_not_make_a_stranger_the_tool(guard: Guard, echo: Any, ran: list[Any]) -> None:
    """`functools.wraps` copies our marks: what bears them is not the tool for that."""

    @functools.wraps(echo)
    def stranger(x: Any) -> None:
        ran.append(("stranger", x))

    with guard.task("triage", initiator="user:alice"):
        denied("integrity_failure", guard.check(call()).run, stranger)
    assert ran == []


def test_a_decorator_around_a_guarded_tool_is_not_skipped_when_guarded_again(guard: Guard, echo: Any, ran: list[Any]) -> None:
    @guard.tool(name="outer")
    @functools.wraps(echo)
    def redacting(x: Any) -> Any:
        ran.append("redacting")
        return echo("redacted")

    with guard.task("triage", initiator="user:alice"):
        redacting("secret")
    assert ran == ["redacting", "redacted"]


def test_a_permit_for_an_unregistered_name_does_not_strip_the_guard_off_another_tool(guard: Guard, ran: list[Any]) -> None:
    """`outer` is allowed and not registered here; `wipe` is allowed to nobody."""

    @guard.tool
    def wipe(x: Any) -> None:
        ran.append(x)

    with guard.task("triage", initiator="user:alice"):
        denied("tool_not_in_scope", guard.check(call("outer")).run, wipe)
    assert ran == []


def test_an_opaque_tools_permit_runs_no_other_function(home: Path) -> None:
    policy = "agentguard: 1\nname: o\nagents: {a: {tools: {len: {obj: any}}}}\ntools: {len: {opaque: accepted}}\n"
    ran: list[Any] = []
    with Guard.open(policy, home=home, durability="process") as guard:
        guarded: Any = guard.tool(len)
        with guard.task("a", initiator="user:x"):
            denied("integrity_failure", guard.check(call("len", {"obj": "abc"}, "a")).run, ran.append)
            denied("integrity_failure", guard.check(call("len", {"obj": "abc"}, "a")).run, lambda obj: ran.append(obj))
            assert guarded("abc") == 3
    assert ran == []


# --- twice, elsewhere, later ------------------------------------------------------------------------------------------------------------


def test_a_permit_cannot_be_used_inside_its_own_body(guard: Guard, ran: list[Any]) -> None:
    held: list[Any] = []

    @guard.tool
    def echo(x: Any) -> None:
        ran.append(x)
        denied("replay_detected", held[0].run, echo)

    with guard.task("triage", initiator="user:alice"):
        held.append(guard.check(call()))
        held[0].run(echo)
    assert ran == [1]


def test_a_used_permit_tried_again_is_on_record(guard: Guard, echo: Any) -> None:
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(call())
        permit.run(echo)
        error = denied("replay_detected", permit.run, echo)
    refusal = records(guard, "decision")[-1]
    assert (refusal["verdict"], refusal["code"], refusal["caused_by"]) == ("deny", "replay_detected", permit.execution)
    assert refusal["id"] == error.decision.execution


def test_another_function_tried_is_on_record(guard: Guard, echo: Any) -> None:
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(call())
        denied("integrity_failure", permit.run, print)
    assert [(r["verdict"], r["code"]) for r in records(guard, "decision")] == [("allow", None), ("deny", "integrity_failure")]


def test_a_closed_guards_permit_runs_nothing(guard: Guard, echo: Any, ran: list[Any]) -> None:
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(call())
        guard.close()
        denied("evidence_unavailable", permit.run, echo)
    assert ran == []


def test_a_poisoned_guards_permit_runs_nothing(guard: Guard, echo: Any, ran: list[Any]) -> None:
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(call())
        guard.poison("test")
        denied("evidence_unavailable", permit.run, echo)
    assert ran == []


def test_a_closed_tasks_permit_runs_nothing(guard: Guard, echo: Any, ran: list[Any]) -> None:
    with guard.task("triage", initiator="user:alice") as task:
        permit = guard.check(call())
        with task.delegate("writer") as child:
            inner = guard.check(call(agent="writer"))
    assert child.closed
    for left in (permit, inner):
        denied("artifact_missing", left.run, echo)
    assert ran == []
    assert [r["status"] for r in records(guard, "outcome")] == ["not_run", "not_run"]


def test_a_stream_does_not_begin_in_a_forked_child(guard: Guard, ran: list[Any]) -> None:
    @guard.tool
    def stream(n: int) -> Iterator[int]:
        yield from range(n)

    with guard.task("triage", initiator="user:alice"):
        source: Any = stream(3)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                answer = str(next(source))
            except BaseException as error:
                answer = str(getattr(error, "code", repr(error)))
            os.write(writing, answer.encode())
            guard.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reading, 1000) == b"integrity_failure"
        assert list(source) == [0, 1, 2]


# --- lent permits -----------------------------------------------------------------------------------------------------------------------


def test_a_lent_permit_is_for_this_tool_and_these_arguments(guard: Guard, echo: Any, ran: list[Any]) -> None:
    @guard.tool
    def outer(x: Any) -> None:
        ran.append(("outer", x))

    with guard.task("triage", initiator="user:alice"):
        before = len(records(guard, "decision"))
        with guard.check(call()).lend() as permit:
            outer(1)
            echo(2)
            assert len(records(guard, "decision")) == before + 3  # each was judged itself
            echo(1)
            echo(1)  # the permit is used: judged itself
    assert ran == [("outer", 1), 2, 1, 1]
    assert len(records(guard, "decision")) == before + 4
    denied("replay_detected", permit.run, echo)


def test_a_lent_permit_is_not_for_another_agent_of_the_same_task(guard: Guard, echo: Any, ran: list[Any]) -> None:
    """A delegate's task has the same id. What triage may do, writer may not do under triage's permit."""
    with guard.task("triage", initiator="user:alice") as task, guard.check(call(arguments={"x": 9})).lend(), task.delegate("writer"):
        denied("argument_not_allowed", echo, 9)
    assert ran == []


def test_a_lent_permit_is_not_for_a_call_that_cannot_be_read(guard: Guard, ran: list[Any]) -> None:
    """Such a call has no arguments, and neither has the call that the permit is for."""

    @guard.tool
    def nothing() -> None:
        ran.append("nothing")

    with guard.task("triage", initiator="user:alice"), guard.check(call("nothing", {})).lend():
        denied("malformed_call", nothing, 1)
        denied("malformed_call", nothing, x=b"bytes")
    assert ran == []


def test_a_body_and_what_it_starts_have_no_lent_permit(guard: Guard, ran: list[Any]) -> None:
    @guard.tool
    def outer(x: Any) -> None:
        ran.append(lent_permit.get())
        thread = threading.Thread(target=contextvars.copy_context().run, args=(lambda: ran.append(lent_permit.get()),))
        thread.start()
        thread.join()

    with guard.task("triage", initiator="user:alice"), guard.check(call("outer")).lend():
        outer(1)
    assert ran == [None, None]


def test_a_loan_that_ends_in_another_context_is_over(guard: Guard, echo: Any) -> None:
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(call())
        loan = permit.lend()
        contextvars.copy_context().run(loan.__enter__)
        loan.__exit__(None, None, None)
        denied("replay_detected", permit.run, echo)
    assert records(guard, "outcome")[-1]["status"] == "not_run"


def test_a_permit_is_one_use_for_64_racing_threads(guard: Guard, echo: Any, ran: list[Any]) -> None:
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(call())
        barrier = threading.Barrier(64)

        def work() -> None:
            barrier.wait()
            with contextlib.suppress(Denied):
                permit.run(echo)

        threads = [threading.Thread(target=work) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert ran == [1]


@pytest.mark.parametrize("end", ["close", "poison"])
def test_a_stream_does_not_begin_after_its_task_or_the_log_is_gone(guard: Guard, end: str) -> None:
    """The permit was used in time, but a generator's body starts with its first item only."""
    ran: list[str] = []

    @guard.tool
    def stream(n: int) -> Any:
        ran.append("body")
        yield n

    with guard.task("triage", initiator="user:alice"):
        source = stream(1)
        if end == "poison":
            guard.poison("test")
            with pytest.raises(Denied) as caught:
                next(source)
    if end == "close":
        with pytest.raises(Denied) as caught:
            next(source)
    assert caught.value.code == {"close": "artifact_missing", "poison": "evidence_unavailable"}[end]
    assert ran == []


def test_a_child_forked_behind_pythons_back_runs_nothing(guard: Guard, ran: list[Any]) -> None:
    """Python's own fork hooks do not run there, so the process id is asked for: one permit is not two runs, nor one id two records."""

    def echo(x: Any) -> None:
        ran.append(x)

    guard.tool(echo)
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(ToolCall("triage", "echo", {"x": 1}))
        before = guard._recording.ledger.next_id()[:16]
        child = ctypes.PyDLL(None).fork()  # keeps the interpreter's lock, as an extension may
        if child == 0:
            try:
                permit.run(echo)
            except Denied as denied:
                os._exit(0 if denied.code == "integrity_failure" and guard._recording.ledger.next_id()[:16] != before else 2)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        permit.run(echo)
    assert ran == [1]
